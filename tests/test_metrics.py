"""`kerasllm.evaluation.metrics`, against numbers worked out by hand and against scikit-learn."""

import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import sklearn.metrics

from kerasllm.data import Row
from kerasllm.evaluation.metrics import Bin, Scores, evaluate_classes, worst_examples

LABELS = ("bad", "fair", "good")
# Predicted: bad, fair, fair, good, good, bad.
TARGETS = np.array([0, 0, 1, 2, 2, 2])
SCORES = np.array(
    [
        [0.8, 0.1, 0.1],
        [0.3, 0.6, 0.1],
        [0.1, 0.9, 0.0],
        [0.0, 0.0, 1.0],
        [0.2, 0.3, 0.5],
        [0.75, 0.15, 0.1],
    ]
)


def random_scores(rows, classes, seed=0):
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, classes, rows)
    logits = generator.normal(size=(rows, classes))
    logits[np.arange(rows), targets] += 1.5
    scores = np.exp(logits)
    return targets, scores / scores.sum(axis=1, keepdims=True)


def test_figures_worked_out_by_hand():
    result = evaluate_classes(TARGETS, SCORES, LABELS)
    assert result.rows == 6
    assert result.labels == LABELS
    assert result.accuracy == pytest.approx(4 / 6)
    assert result.confusion == ((1, 1, 0), (0, 1, 0), (1, 0, 2))
    bad, fair, good = result.classes
    assert bad == Scores("bad", precision=0.5, recall=0.5, f1=0.5, support=2, predicted=2)
    assert (fair.precision, fair.recall, fair.support, fair.predicted) == (0.5, 1.0, 1, 2)
    assert fair.f1 == pytest.approx(2 / 3)
    assert good.precision == 1.0
    assert good.recall == pytest.approx(2 / 3)
    assert good.f1 == pytest.approx(0.8)
    assert result.macro.f1 == pytest.approx((0.5 + 2 / 3 + 0.8) / 3)
    assert result.weighted.f1 == pytest.approx((2 * 0.5 + 1 * 2 / 3 + 3 * 0.8) / 6)
    assert result.macro.support == result.weighted.support == 6
    true = (0.8, 0.3, 0.9, 1.0, 0.5, 0.1)
    assert result.log_loss == pytest.approx(-sum(map(math.log, true)) / 6)
    assert result.notes == ()


def test_confidence_worked_out_by_hand():
    result = evaluate_classes(
        [0, 0, 1, 1], [[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0, 1]], ["a", "b"]
    )
    assert [(b.low, b.high, b.rows, b.accuracy) for b in result.bins] == [
        (0.6, 0.7, 1, 0.0),
        (0.7, 0.8, 1, 1.0),
        (0.9, 1.0, 2, 1.0),
    ]
    assert result.bins[-1].confidence == pytest.approx(0.95)
    # |0 - 0.6|, |1 - 0.7| and twice |1 - 0.95|, each by its rows.
    assert result.calibration_error == pytest.approx((0.6 + 0.3 + 2 * 0.05) / 4)


@pytest.mark.parametrize("classes", [2, 3, 77])
def test_figures_equal_scikit_learns(classes):
    targets, scores = random_scores(500, classes)
    labels = [f"label {i}" for i in range(classes)]
    result = evaluate_classes(targets, scores.astype(np.float32), labels)
    predicted = scores.argmax(axis=1)
    reference = sklearn.metrics.classification_report(
        targets,
        predicted,
        labels=range(classes),
        target_names=labels,
        output_dict=True,
        zero_division=0,
    )
    for ours, name in [
        *zip(result.classes, labels),
        (result.macro, "macro avg"),
        (result.weighted, "weighted avg"),
    ]:
        theirs = reference[name]
        assert ours.precision == pytest.approx(theirs["precision"])
        assert ours.recall == pytest.approx(theirs["recall"])
        assert ours.f1 == pytest.approx(theirs["f1-score"])
        assert ours.support == theirs["support"]
    assert result.accuracy == pytest.approx(sklearn.metrics.accuracy_score(targets, predicted))
    loss = sklearn.metrics.log_loss(targets, scores, labels=range(classes))
    assert result.log_loss == pytest.approx(loss, rel=1e-5)
    matrix = sklearn.metrics.confusion_matrix(targets, predicted, labels=range(classes))
    assert np.array_equal(result.confusion, matrix)


def test_class_without_rows_counts_as_zero_and_is_told():
    result = evaluate_classes([0, 1], [[0.9, 0.1, 0.0], [0.0, 0.4, 0.6]], LABELS)
    assert result.classes[2] == Scores("good", 0.0, 0.0, 0.0, support=0, predicted=1)
    assert result.classes[1] == Scores("fair", 0.0, 0.0, 0.0, support=1, predicted=0)
    assert result.macro.f1 == pytest.approx(1 / 3)
    assert result.weighted.f1 == pytest.approx(1 / 2)
    absent, unseen = result.notes
    assert absent.startswith("No row is of 'good': ")
    assert unseen.startswith("No row was predicted as 'fair': ")
    assert absent in str(result) and unseen in str(result)


def test_many_absent_classes_make_a_short_note():
    labels = [f"c{i}" for i in range(77)]
    scores = np.zeros((1, 77))
    scores[0, 0] = 1
    (note,) = evaluate_classes([0], scores, labels).notes
    assert "'c1', " in note and "'c10', 66 more:" in note and "c11" not in note


def test_perfect():
    result = evaluate_classes([0, 1, 2], np.eye(3), LABELS)
    assert result.accuracy == result.macro.f1 == result.weighted.precision == 1.0
    assert result.log_loss == result.calibration_error == 0.0
    assert result.confusions() == []


def test_one_class():
    result = evaluate_classes([0, 0], [[1.0], [1.0]], ["only"])
    assert result.confusion == ((2,),)
    assert result.accuracy == result.macro.f1 == 1.0
    assert result.bins == (Bin(0.9, 1.0, rows=2, confidence=1.0, accuracy=1.0),)


def test_of_equal_scores_the_first_is_predicted():
    result = evaluate_classes([1, 0], [[0.5, 0.5], [0.5, 0.5]], ["a", "b"])
    assert result.confusion == ((1, 0), (1, 0))


def test_score_of_zero_for_the_true_label_stays_finite():
    result = evaluate_classes([1], np.array([[1.0, 0.0]], np.float32), ["a", "b"])
    assert result.log_loss == pytest.approx(-math.log(np.finfo(np.float64).eps))


def test_confusions_are_sorted_and_leave_out_what_is_right():
    targets = [0, 0, 1, 1, 1, 2]
    scores = np.eye(3)[[1, 0, 2, 2, 1, 0]]
    result = evaluate_classes(targets, scores, LABELS)
    expected = [("fair", "good", 2), ("bad", "fair", 1), ("good", "bad", 1)]
    assert result.confusions() == expected
    assert result.confusions(1) == expected[:1]
    assert result.confusion[0][0] == 1  # the diagonal is still there


def test_dict_is_what_json_gives_back():
    result = evaluate_classes(TARGETS, SCORES, LABELS)
    values = result.to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["classes"][2]["support"] == 3
    assert values["confusion"] == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]
    assert set(values) == {field.name for field in dataclasses.fields(result)} | {"notes"}


def test_result_is_frozen():
    result = evaluate_classes(TARGETS, SCORES, LABELS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.accuracy = 1.0


def test_table_is_aligned_with_chinese_labels_too():
    lines = str(evaluate_classes([0, 1], np.eye(2), ["好评", "negative"])).splitlines()
    assert lines[0].startswith("2 rows, 2 classes: accuracy 1.0000, log loss 0.0000")
    good, bad = lines[3:5]
    # A Chinese character is one character in Python and two columns wide.
    assert len(good) == len(bad) - 2
    assert bad.split() == ["negative", "1.0000", "1.0000", "1.0000", "1"]


@pytest.mark.parametrize(
    ("targets", "scores", "labels", "message"),
    [
        ([0], [[0.5, 0.5, 0.0]], ["a", "b"], r"`scores` must have the shape .* \(1, 2\).*\(1, 3\)"),
        ([0, 1], [[0.5, 0.5]], ["a", "b"], r"`scores` must have the shape"),
        ([0], [0.5], ["a", "b"], r"`scores` must have the shape"),
        ([0, 1], [[1, 0], [np.nan, 1]], ["a", "b"], r"`scores` must be prob.*nan.* in row 1"),
        ([0], [[np.inf, -np.inf]], ["a", "b"], r"`scores` must be probabilities"),
        ([0], [[2.0, -1.0]], ["a", "b"], r"`scores` must be prob.*at least 0.*softmax"),
        ([0], [[0.9, 0.2]], ["a", "b"], r"`scores` must be prob.*sum 1\.1 in row 0"),
        ([0.0], [[0.5, 0.5]], ["a", "b"], r"`targets` must be class ids.*float64"),
        ([[0]], [[0.5, 0.5]], ["a", "b"], r"`targets` must be class ids.*shape \(1, 1\)"),
        ([], np.zeros((0, 2)), ["a", "b"], r"`targets` must be class ids.*at least one"),
        ([2], [[0.5, 0.5]], ["a", "b"], r"`targets` must be from 0 to 1.*Received: 2 in row 0"),
        ([-1], [[0.5, 0.5]], ["a", "b"], r"`targets` must be from 0 to 1.*Received: -1"),
        ([0], [[0.5, 0.5]], ["a", "a"], r"`labels` must be distinct"),
        ([0], [[0.5, 0.5]], [], r"`labels` must be distinct names, at least one"),
        ([0], [[0.5, 0.5]], "ab", r"`labels` must be a sequence of names"),
    ],
)
def test_arguments_that_do_not_fit_are_told(targets, scores, labels, message):
    with pytest.raises(ValueError, match=message):
        evaluate_classes(targets, scores, labels)


def test_scores_in_half_precision_are_probabilities():
    targets, scores = random_scores(200, 77)
    result = evaluate_classes(targets, scores.astype(np.float16), [str(i) for i in range(77)])
    assert result.rows == 200


def test_worst_examples():
    rows = [Row({"text": f"text {i}"}, where=f"test.csv:{i + 2}") for i in range(6)]
    worst = worst_examples(rows, TARGETS, SCORES, LABELS, count=3)
    assert [example["where"] for example in worst] == ["test.csv:7", "test.csv:3", "test.csv:6"]
    assert worst[0] == {
        "where": "test.csv:7",
        "text": "text 5",
        "label": "good",
        "predicted": "bad",
        "score": 0.1,
        "loss": pytest.approx(-math.log(0.1)),
    }
    assert json.loads(json.dumps(worst))[1]["predicted"] == "fair"


def test_worst_examples_of_equal_loss_keep_their_order_and_all_are_given():
    rows = [{"text": letter} for letter in "abc"]
    worst = worst_examples(rows, [0, 0, 0], [[0.5, 0.5]] * 3, ["x", "y"])
    assert [example["text"] for example in worst] == ["a", "b", "c"]
    assert [example["where"] for example in worst] == ["rows[0]", "rows[1]", "rows[2]"]


def test_worst_examples_needs_a_row_a_target():
    with pytest.raises(ValueError, match=r"`rows` must be as many .* Received: 1 rows, 6 targets"):
        worst_examples([{"text": "a"}], TARGETS, SCORES, LABELS)


def test_evaluation_does_not_import_tensorflow():
    code = "import sys, kerasllm.evaluation; print({'tensorflow', 'keras'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
