import json

import numpy as np
import pytest
import sklearn.metrics
from tiny_task import classifier, rows

from kerasllm import TextClassifier, fit, to_tflite
from kerasllm.evaluation.multi_label import MultiLabelResult, evaluate_label_sets
from kerasllm.evaluation.numbers import NumbersResult, evaluate_numbers
from kerasllm.export import load_artefact
from kerasllm.tasks import evaluate, multi_label, task_of, text_regression

OPTIONS = dict(epochs=8, batch_size=8, learning_rate=3e-3, progress=False)


def labelled(count, seed=0):
    """Rows with their sentiment, and whether they speak of soup."""
    return [
        {"text": row["text"], "labels": [row["label"]] + ["soup"] * ("soup" in row["text"])}
        for row in rows(count, seed)
    ]


def fresh(labels):
    source = classifier(rate=0.0)
    return TextClassifier(
        len(labels), source.config, family="bert", labels=labels, tokenizer=source.tokenizer
    )


def test_multi_label_learns_and_is_remembered(tmp_path):
    train = labelled(64)
    model = fresh(**multi_label.head(train))
    fit(model, train, task="multi_label", **OPTIONS)
    found = evaluate(model, train)
    assert found.micro.f1 > 0.9
    assert MultiLabelResult.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert "micro F1" in str(found)
    scores = multi_label.predict(model, train[:3])
    logits = model(model.tokenizer([row["text"] for row in train[:3]], max_length=16)).numpy()
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), atol=1e-4)
    answers = multi_label.answers(model, train[:3], scores)
    assert answers[0]["labels"] == [
        name for name, score in answers[0]["scores"].items() if score > 0.5
    ]
    model.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert fields["problem_type"] == "multi_label_classification"
    del fields["finetuning_task"]  # as `transformers` writes it
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert task_of(TextClassifier.from_pretrained(tmp_path)) is multi_label


def test_figures_are_those_of_scikit_learn():
    generator = np.random.default_rng(0)
    targets, scores = generator.integers(0, 2, (50, 4)), generator.random((50, 4))
    found = evaluate_label_sets([{"text": "x"}] * 50, targets, scores, "abcd")
    given = scores > 0.5
    assert found.micro.f1 == sklearn.metrics.f1_score(targets, given, average="micro")
    assert found.macro.f1 == sklearn.metrics.f1_score(targets, given, average="macro")
    assert found.exact == sklearn.metrics.accuracy_score(targets, given)
    by_label = sklearn.metrics.f1_score(targets, given, average=None)
    assert [scores.f1 for scores in found.classes] == by_label.tolist()
    assert len(found.worst) == 20
    assert found.worst[0]["loss"] == max(row["loss"] for row in found.worst)


def test_labels_of_a_table_and_wrong_ones():
    assert multi_label.head([{"labels": "b| a"}, {"labels": ""}])["labels"] == ("a", "b")
    with pytest.raises(ValueError, match=r"rows\[1\]: `labels` must be some of a, b.*'c'"):
        multi_label.targets_of([{"labels": ["a"]}, {"labels": ["c"]}], ("a", "b"))
    for wrong in (5, {"a": 1}):
        with pytest.raises(ValueError, match="A row: `labels` must be a list"):
            multi_label.head([{"labels": wrong}])
    with pytest.raises(ValueError, match="`rows` must have labels. Received: 2 rows"):
        multi_label.head([{"labels": []}, {"labels": ""}])


def test_regression_learns_and_keeps_its_task(tmp_path):
    train = [{"text": r["text"], "score": 5 * (r["label"] == "positive")} for r in rows(64)]
    model = fresh(**text_regression.head(train))
    fit(model, train, task="text_regression", **{**OPTIONS, "epochs": 16})
    found = evaluate(model, train)
    assert found.spearman > 0.8 and found.error < 1.5
    assert NumbersResult.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert len(found.pictures()[0].figure.axes) == 1
    outputs = text_regression.predict(model, train[:2])
    assert text_regression.answers(model, train[:2], outputs)[1] == {"score": float(outputs[1])}
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["problem_type"] == "regression"
    assert task_of(TextClassifier.from_pretrained(tmp_path)) is text_regression


def test_numbers_that_are_all_alike_and_wrong_ones():
    found = evaluate_numbers([{"text": "a"}, {"text": "b"}], [1.0, 2.0], [1.0, 1.0])
    assert np.isnan(found.spearman) and found.notes
    with pytest.raises(ValueError, match=r"rows\[0\]: `score` must be a number.*'high'"):
        text_regression.numbers_of([{"score": "high"}])
    with pytest.raises(ValueError, match="`outputs` must be one for each"):
        evaluate_numbers([{"text": "a"}], [1.0], [1.0])


@pytest.mark.parametrize("task", [multi_label, text_regression])
def test_artefacts_give_what_the_task_gives(tmp_path, task):
    model = fresh(("a", "b") if task is multi_label else ("score",))
    model.task = task.__name__.rpartition(".")[2]
    texts = ["the film was lovely", "awful soup"]
    report = to_tflite(model, tmp_path / "model.tflite", texts=texts, max_length=16)
    assert report.largest_difference < 1e-5
    artefact = load_artefact(tmp_path / "model.tflite")
    assert artefact.task == model.task
    given, wanted = artefact.predict(texts), task.predict(model, [{"text": t} for t in texts])
    assert given.shape == wanted.shape
    np.testing.assert_allclose(given, wanted, atol=1e-5)
