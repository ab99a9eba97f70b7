import subprocess
import sys

import numpy as np
import pytest
from tiny_classifier import LABELS, keras_scores, tiny_classifier

from kerasllm import evaluate
from kerasllm.evaluation import ClassificationResult, evaluate_scores

TEXTS = ["dull " * 20, "Not bad!", "A warm, funny film; " * 3, "great phone", "bad", "cold soup"]
TRUE = [0, 1, 2, 0, 1, 2]


@pytest.fixture(scope="module")
def model():
    return tiny_classifier()


def rows():
    return [{"text": text, "label": LABELS[i]} for text, i in zip(TEXTS, TRUE, strict=True)]


def test_equals_a_computation_by_hand(model):
    scores = keras_scores(model, TEXTS, 64)
    predicted = scores.argmax(axis=1)
    true = np.array(TRUE)
    result = evaluate(model, rows(), batch_size=4)
    assert isinstance(result, ClassificationResult)
    assert (result.rows, result.labels) == (6, LABELS)
    assert result.accuracy == pytest.approx(np.mean(predicted == true))
    assert result.log_loss == pytest.approx(-np.log(scores[range(6), true]).mean(), abs=1e-4)
    for i, figures in enumerate(result.classes):
        hits = np.sum((predicted == i) & (true == i))
        precision, recall = hits / max(np.sum(predicted == i), 1), hits / np.sum(true == i)
        assert figures.precision == pytest.approx(precision)
        assert figures.recall == pytest.approx(recall)
        assert figures.f1 == pytest.approx(2 * hits / (np.sum(predicted == i) + np.sum(true == i)))
        for j in range(3):
            assert result.confusion[i][j] == np.sum((true == i) & (predicted == j))


def test_worst_examples_come_first(model):
    scores = keras_scores(model, TEXTS, 64)[range(6), TRUE]
    found = evaluate(model, rows()).worst
    assert [example["text"] for example in found] == [TEXTS[i] for i in np.argsort(scores)]
    assert found[0]["score"] == pytest.approx(scores.min(), abs=1e-5)


def test_texts_are_cut(model):
    by_hand = evaluate_scores(rows(), keras_scores(model, TEXTS, 4), LABELS)
    found = evaluate(model, rows(), max_length=4)
    assert found.confusion == by_hand.confusion
    assert found.log_loss == pytest.approx(by_hand.log_loss, abs=1e-4)
    assert found.log_loss != pytest.approx(evaluate(model, rows()).log_loss, abs=1e-3)


def test_unknown_labels_are_located(model):
    with pytest.raises(ValueError, match=r"rows\[6\]: `label` must be one of.*'awful'"):
        evaluate(model, [*rows(), {"text": "a", "label": "awful"}])


def test_figures_alone_need_no_tensorflow():
    code = """if True:
        import sys
        from kerasllm.evaluation import evaluate_scores
        found = evaluate_scores([{"text": "a", "label": "x"}], [[0.9, 0.1]], ("x", "y"))
        assert found.accuracy == 1
        assert "tensorflow" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True)
