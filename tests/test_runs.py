import json

import keras
import numpy as np
import pytest
import safetensors.numpy
from command import names, write_csv
from tiny_task import rows

from kerasllm import families, runs
from kerasllm.evaluation import ClassificationResult
from kerasllm.export import TARGETS
from kerasllm.models import BertClassifier
from kerasllm.tasks import TASKS
from kerasllm.tokenizers import WordPieceTokenizer
from kerasllm.training import STRATEGIES

QUICK = {"epochs": 1, "batch_size": 16, "max_length": 16, "progress": False}


def tensors(folder):
    return safetensors.numpy.load_file(folder / "model.safetensors")


def test_a_run_is_a_model_with_its_record_and_report(trained):
    run = json.loads((trained.folder / "run.json").read_text(encoding="utf-8"))
    assert run["title"] == "run"
    assert run["rows"] == {"train": 32, "validation": 16, "test": 16}
    assert run["settings"]["model"] == "bert_tiny"
    assert run["settings"]["learning_rate"] == 2e-3
    assert len(run["history"]["val_accuracy"]) == 4
    assert len(run["history"]["learning_rate"]) == 32
    assert run["seconds"] > 0
    result = ClassificationResult.from_dict(run["evaluation"])
    assert result.rows == 16
    assert result.accuracy == max(run["history"]["val_accuracy"]) > 0.7
    page = (trained.folder / "report.html").read_text(encoding="utf-8")
    assert "data:image/svg+xml" in page
    assert f"{result.accuracy:.3f}"[:4] in page
    assert run["examples"] == rows(16, seed=1)[:2]
    assert "What the model looks at" in page and "hangs on" in page
    model = BertClassifier.from_pretrained(trained.folder)
    assert model.labels == ("negative", "positive")
    assert (model.config.max_length, model.config.num_layers) == (16, 2)
    assert model.tokenizer.vocab_size == model.config.vocab_size


def test_text_files_two_parts_and_float16(tmp_path):
    lines = [f"{row['label']} {row['text'].title()}\n" for row in rows(20)]
    (tmp_path / "all.txt").write_text("".join(lines), encoding="utf-8")
    test = write_csv(tmp_path / "test.csv", rows(6, seed=1))
    out = tmp_path / "out"
    run = runs.train(
        "bert_tiny",
        tmp_path / "all.txt",
        out,
        split=(0.8, 0.2),
        test=test,
        dtype="mixed_float16",
        lowercase=False,
        vocab_size=60,
        **QUICK,
    )
    assert run["rows"] == {"train": 16, "validation": 4, "test": 6}
    assert run["evaluation"]["rows"] == 6
    tokenizer = WordPieceTokenizer.from_pretrained(out)
    assert not tokenizer.lowercase
    assert tokenizer.vocab_size <= 60
    assert "F" in "".join(tokenizer.vocab[5:])
    assert {tensor.dtype for tensor in tensors(out).values()} == {np.dtype("float32")}
    assert json.loads((out / "run.json").read_text()) == json.loads(json.dumps(run, default=str))


def test_plain_text_is_streamed(tmp_path):
    texts = [row["text"] for row in rows(40)]
    (tmp_path / "train.txt").write_text("\n\n".join(texts), encoding="utf-8")
    (tmp_path / "dev").mkdir()
    for name, part in (("a", texts[:3]), ("b", texts[3:7])):
        (tmp_path / "dev" / f"{name}.txt").write_text("\n\n".join(part), encoding="utf-8")
    run = runs.train(
        "lstm_small",
        tmp_path / "train.txt",
        tmp_path / "out",
        validation=tmp_path / "dev" / "*.txt",
        task="causal_lm",
        vocab_size=300,
        options={"packed": False, "steps": 3},
        **QUICK,
    )
    assert run["rows"]["train"] is None
    assert len(run["history"]["learning_rate"]) == 3 * len(run["history"]["loss"])
    # The evaluation reads running text, as training does by default: rows in which texts are joined.
    found = runs.evaluate(
        tmp_path / "out", tmp_path / "dev" / "*.txt", max_length=QUICK["max_length"]
    )
    assert found.rows < run["evaluation"]["tokens"] / 8
    np.testing.assert_allclose(run["evaluation"]["perplexity"], found.perplexity, rtol=1e-5)
    # Pairs with scores are no plain text.
    with pytest.raises(ValueError, match="there must be a column `text_pair`"):
        runs.train("bert_tiny", tmp_path / "train.txt", tmp_path / "x", task="similarity", **QUICK)
    assert not (tmp_path / "x").exists()


def test_what_is_trained_stays_if_its_evaluation_fails(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise MemoryError("too many rows")

    monkeypatch.setattr(runs, "evaluate_model", fail)
    train = write_csv(tmp_path / "train.csv", rows(16))
    options = dict(validation=write_csv(tmp_path / "dev.csv", rows(6, seed=1)), **QUICK)
    with pytest.raises(MemoryError):
        runs.train("bert_tiny", train, tmp_path / "out", vocab_size=60, **options)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["evaluation"] is None and len(run["history"]["val_loss"]) == 1
    assert BertClassifier.from_pretrained(tmp_path / "out").labels == ("negative", "positive")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dev.csv", "out", "train.csv"]


def test_a_model_goes_on_with_its_labels_on_pairs(trained, tmp_path):
    pairs = [{**row, "second": other["text"]} for row, other in zip(rows(8), rows(8, seed=2))]
    source = tmp_path / "pairs.jsonl"
    source.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    columns = {"text": "text", "label": "label", "text_pair": "second"}
    run = runs.train(
        trained.folder, source, tmp_path / "out", columns=columns, learning_rate=0.0, **QUICK
    )
    assert run["rows"] == {"train": 8, "validation": 0, "test": 0}
    assert run["evaluation"] is None
    before, after = tensors(trained.folder), tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_model_gets_a_fresh_head_for_other_labels(trained, tmp_path, caplog):
    stars = {"negative": "1", "positive": "5"}
    lines = [f"{stars[row['label']]}\t{row['text']}\tno\n" for row in rows(20)]
    (tmp_path / "stars.tsv").write_text("".join(lines), encoding="utf-8")
    with caplog.at_level("INFO", logger="kerasllm"):
        run = runs.train(
            trained.folder,
            tmp_path / "stars.tsv",
            tmp_path / "out",
            header=("stars", "review", "other"),
            columns={"text": "review", "label": "stars"},
            split=(0.5, 0.25, 0.25),
            learning_rate=0.0,
            **QUICK,
        )
    assert "Fresh weights, to be trained: classifier." in caplog.text
    assert run["rows"] == {"train": 10, "validation": 5, "test": 5}
    assert BertClassifier.from_pretrained(tmp_path / "out").labels == ("1", "5")
    before, after = tensors(trained.folder), tensors(tmp_path / "out")
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_predict_answers_in_order(trained):
    texts = ["the film was lovely", "awful", "the soup was great", "a dull bad room"]
    answers = runs.predict(trained.folder, texts, batch_size=2)
    assert [answer["text"] for answer in answers] == texts
    assert [answer["label"] for answer in answers] == ["positive", "negative"] * 2
    for answer in answers:
        assert answer["score"] == max(answer["scores"].values())
        assert sum(answer["scores"].values()) == pytest.approx(1)


@pytest.mark.parametrize("target", ["saved_model", "tflite"])
def test_evaluate_gives_the_run_s_figures_for_model_and_artefacts(trained, exported, target):
    run = json.loads((trained.folder / "run.json").read_text(encoding="utf-8"))
    for model in (trained.folder, getattr(exported, target)):
        found = runs.evaluate(model, trained.test)
        assert found.to_dict()["confusion"] == run["evaluation"]["confusion"]
        assert found.log_loss == pytest.approx(run["evaluation"]["log_loss"], abs=1e-3)
        assert len(found.worst) == 16


def test_evaluate_writes_a_report(trained, tmp_path):
    runs.evaluate(trained.folder, trained.test, report=tmp_path / "page.html")
    assert names(tmp_path) == ["page.html"]
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "run on test.csv" in page and "What the model looks at" in page


def test_artefacts_and_recurrent_models_have_no_such_pictures(trained, exported, tmp_path):
    runs.evaluate(exported.saved_model, trained.test, report=tmp_path / "page.html")
    runs.train("rnn_small", trained.train, tmp_path / "out", test=trained.test, **QUICK)
    for page in (tmp_path / "page.html", tmp_path / "out" / "report.html"):
        assert "What the model looks at" not in page.read_text(encoding="utf-8")


def test_what_is_no_number_is_null(tmp_path):
    columns = {"text": "text", "score": "score"}
    numbers = [{"text": row["text"], "score": 0.5} for row in rows(8)]
    source = write_csv(tmp_path / "alike.csv", numbers, header=tuple(columns))
    broken = {"callbacks": [keras.callbacks.LambdaCallback(on_epoch_end=_lose)]}
    options = {**QUICK, **broken, "task": "text_regression"}
    run = runs.train("bert_tiny", source, tmp_path / "out", test=source, **options)
    text = (tmp_path / "out" / "run.json").read_text(encoding="utf-8")
    stored = json.loads(text, parse_constant=pytest.fail)
    assert run["history"]["loss"] == stored["history"]["loss"] == [None]
    assert stored["evaluation"]["spearman"] is None
    found = runs.result(stored)
    assert np.isnan(found.spearman) and found.error >= 0
    assert found.notes == ("All numbers are alike, so there is no correlation.",)


def _lose(epoch, logs):
    logs["loss"] = float("inf")


@pytest.mark.parametrize("target", ["saved_model", "tflite"])
def test_artefacts_take_pairs(trained, exported, target, tmp_path):
    pairs = [{**row, "text_pair": other["text"]} for row, other in zip(rows(4), rows(4, seed=2))]
    source = tmp_path / "pairs.jsonl"
    source.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    found, wanted = (
        runs.predict(model, data=source) for model in (getattr(exported, target), trained.folder)
    )
    scores = [
        [list(answer["scores"].values()) for answer in answers] for answers in (found, wanted)
    ]
    np.testing.assert_allclose(*scores, atol=1e-4)
    assert max(abs(a - b) for a, b in zip(*scores[1][:2])) > 1e-3  # else it would say little


def test_exports_are_added_to_the_run(trained, exported):
    run = json.loads((trained.folder / "run.json").read_text(encoding="utf-8"))
    assert [export["target"] for export in run["exports"]] == ["saved_model", "tflite"]
    assert run["exports"][0]["path"] == str(exported.saved_model / "1")
    assert all(export["label_flips"] == 0 for export in run["exports"])
    page = (trained.folder / "report.html").read_text(encoding="utf-8")
    assert str(exported.tflite) in page
    assert "What the model looks at" in page  # the page is written anew, its pictures too


def test_names_are_those_of_the_dicts():
    found = runs.names()
    assert list(found["families"]) == list(families.FAMILIES)
    sizes = [size for family in found["families"].values() for size in family["sizes"]]
    assert sizes == list(families.SIZES)
    assert found["tasks"] == list(TASKS)
    assert found["strategies"] == list(STRATEGIES)
    assert found["targets"] == list(TARGETS)
    assert found["samples"] == ["reviews_en", "reviews_zh"]


def test_unknown_names_list_those_there_are(trained, tmp_path):
    with pytest.raises(ValueError, match="`target` must be one of saved_model, tflite.*'onnx'"):
        runs.export(trained.folder, "onnx", tmp_path / "x")
    with pytest.raises(ValueError, match="`task` must be one of text_classification.*'chess'"):
        runs.train("bert_tiny", trained.train, tmp_path / "x", task="chess")
    assert names(tmp_path) == []
