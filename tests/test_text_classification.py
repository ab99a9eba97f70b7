import types

import keras
import numpy as np
import pytest
from tiny_classifier import LABELS, keras_scores, tiny_classifier

from kerasllm.data.rows import Row
from kerasllm.tasks import text_classification

# Of very different lengths, in no order.
TEXTS = ["dull " * 20, "", "Not bad!", "A warm, funny film; " * 3, "好", "great 👍🏽 phone", "bad"]


@pytest.fixture(scope="module")
def model():
    return tiny_classifier()


def rows(texts, label="bad"):
    return [{"text": text, "label": label} for text in texts]


def test_encode_gives_ids_and_class_ids(model):
    examples = [
        {"text": "Not bad!", "label": "好"},
        {"text": "dull", "label": "bad"},
        {"text": "", "label": 1},
    ]
    inputs, targets = text_classification.encode(model, examples)
    wanted = model.tokenizer([row["text"] for row in examples], max_length=64)
    assert inputs.keys() == wanted.keys() == {"token_ids", "padding_mask", "segment_ids"}
    for name in wanted:
        np.testing.assert_array_equal(inputs[name], wanted[name])
        assert inputs[name].dtype == np.int32
    np.testing.assert_array_equal(targets, [2, 0, 1])
    assert not inputs["segment_ids"].any()


def test_encode_takes_pairs(model):
    pair = {"text": "Not bad!", "text_pair": "dull", "label": "bad"}
    inputs, _ = text_classification.encode(model, [pair])
    first, second = (model.tokenizer.encode(text) for text in ("Not bad!", "dull"))
    cls, sep = model.tokenizer.cls_id, model.tokenizer.sep_id
    assert inputs["token_ids"].tolist() == [[cls, *first, sep, *second, sep]]
    segments = [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert inputs["segment_ids"].tolist() == [segments]


def test_encode_cuts_texts(model):
    for max_length, longest in ((5, 5), (None, 64)):
        inputs, _ = text_classification.encode(model, rows(["dull " * 100]), max_length)
        assert inputs["token_ids"].shape == (1, longest)


@pytest.mark.parametrize(
    ("examples", "max_length", "message"),
    [
        ([], None, "`rows` must hold at least one row"),
        (rows(["a"]), 65, "`max_length` must be at most 64.*Received: 65"),
        (rows(["a"]), 1, "`max_length`"),
        (rows(["a"]), 0, "`max_length`"),
        (
            [Row({"text": "a", "text_pair": "b"}, "x.csv:2"), Row({"text": "a"}, "x.csv:3")],
            None,
            "x.csv:3: `text_pair` must be in all rows or in none",
        ),
        ([{"text": "a"}, {"text": "a", "text_pair": "b"}], None, r"rows\[0\]: `text_pair`"),
        ([Row({"text": "a"}), Row({"text": "a", "text_pair": "b"})], None, r"rows\[0\]: `text_"),
    ],
)
def test_bad_rows_and_lengths(model, examples, max_length, message):
    with pytest.raises(ValueError, match=message):
        text_classification.features(model, examples, max_length)


def test_unknown_labels_are_located(model):
    with pytest.raises(ValueError, match=r"rows\[1\]: `label` must be one of .*'awful'"):
        text_classification.encode(model, [*rows(["a"]), *rows(["b"], "awful")])


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_predict_keeps_the_order_of_the_rows(model, batch_size):
    scores = text_classification.predict(model, rows(TEXTS), batch_size=batch_size)
    assert scores.shape == (len(TEXTS), 3)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, keras_scores(model, TEXTS, 64), atol=1e-5)
    assert np.ptp(scores, axis=0).max() > 0.1  # so that another order would show


def test_predict_needs_no_labels_and_cuts_texts(model):
    scores = text_classification.predict(model, [{"text": text} for text in TEXTS], max_length=4)
    np.testing.assert_allclose(scores, keras_scores(model, TEXTS, 4), atol=1e-5)


def test_predict_takes_pairs(model):
    pairs = [{"text": text, "text_pair": pair} for text, pair in zip(TEXTS, reversed(TEXTS))]
    scores = text_classification.predict(model, pairs)
    for row, pair in zip(scores, pairs, strict=True):
        ids = model.tokenizer([pair["text"]], [pair["text_pair"]], max_length=64)
        wanted = keras.ops.softmax(model(ids)).numpy()[0]
        np.testing.assert_allclose(row, wanted, atol=1e-5)


def test_answers_in_words():
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.25, 0.25]], np.float32)
    named = types.SimpleNamespace(labels=LABELS)
    first, second = text_classification.answers(named, [{}, {}], scores)
    assert first["label"] == "très bon"
    assert first["score"] == pytest.approx(0.7)
    assert first["scores"] == pytest.approx({"bad": 0.1, "très bon": 0.7, "好": 0.2})
    assert (second["label"], second["score"]) == ("bad", 0.5)
    assert type(first["score"]) is float
