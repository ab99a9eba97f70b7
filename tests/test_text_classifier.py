"""BertClassifier: its inputs, its errors, and life as a Keras model."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras_file import round_trip
from numpy_reference import float32, randomise

from kerasllm.backbones import Transformer
from kerasllm.config import TransformerConfig
from kerasllm.layers import Dropout
from kerasllm.models import BertClassifier
from kerasllm.tokenizers import WordPieceTokenizer

TOLERANCE = 1e-5
CONFIG = TransformerConfig(
    40, num_layers=1, num_heads=3, embed_dim=15, ff_dim=22, max_length=12, epsilon=1e-5
)
IDS = np.array([[2, 7, 9, 11, 3], [2, 39, 3, 0, 0], [0, 0, 2, 5, 3]], "int32")
MASK = (IDS != 0).astype("int32")
SEGMENTS = np.array([[0, 0, 0, 1, 1], [0, 1, 1, 0, 0], [0, 0, 0, 0, 1]], "int32")


def made(num_classes=3, config=CONFIG, **options):
    return randomise(BertClassifier(num_classes, config, **options))


@pytest.fixture(scope="module")
def model():
    return made()


@pytest.fixture(scope="module")
def expected(model):
    inputs = {"token_ids": IDS, "padding_mask": MASK, "segment_ids": SEGMENTS}
    hidden_states = np.array(model.bert(inputs), "float64")
    kernel, bias = model.pooler.get_weights()
    pooled = np.tanh(hidden_states[:, 0] @ kernel + bias)
    kernel, bias = model.classifier.get_weights()
    return pooled @ kernel + bias


def test_the_tutorials_parts(model):
    assert isinstance(model.bert, Transformer)
    assert isinstance(model.dropout, Dropout)
    assert model.dropout.rate == 0.1
    assert model.classifier.units == model.num_classes == 3
    assert model.config is CONFIG
    assert [
        layer.name for layer in (model.bert, model.pooler, model.dropout, model.classifier)
    ] == [
        "backbone",
        "pooler",
        "dropout",
        "classifier",
    ]


def test_inputs_of_the_graph(model):
    assert set(model.input) == {"token_ids", "padding_mask", "segment_ids"}
    for name, tensor in model.input.items():
        assert (tensor.name, tensor.dtype, tensor.shape) == (name, "int32", (None, None))
    assert (model.output.shape, model.output.dtype) == ((None, 3), "float32")


@pytest.mark.parametrize(
    "inputs",
    [
        (IDS, MASK, SEGMENTS),
        [IDS, MASK, SEGMENTS],
        {"token_ids": IDS, "padding_mask": MASK, "segment_ids": SEGMENTS},
        {"segment_ids": SEGMENTS, "token_ids": IDS, "padding_mask": MASK},
        {"input_ids": IDS, "attention_mask": MASK, "token_type_ids": SEGMENTS},
        {"input_ids": IDS, "padding_mask": MASK, "token_type_ids": SEGMENTS},
        tuple(array.astype("int64") for array in (IDS, MASK, SEGMENTS)),
        (IDS.astype("float32"), MASK.astype(bool), SEGMENTS.astype("uint8")),
        tuple(tf.constant(array, tf.int64) for array in (IDS, MASK, SEGMENTS)),
        {
            "token_ids": IDS.tolist(),
            "padding_mask": MASK.tolist(),
            "segment_ids": SEGMENTS.tolist(),
        },
    ],
    ids=["tuple", "list", "dict", "order", "names", "mixed", "int64", "dtypes", "tf", "python"],
)
def test_forms_of_inputs(model, expected, inputs):
    np.testing.assert_allclose(model(inputs), expected, atol=TOLERANCE)
    if not isinstance(inputs, dict) or not isinstance(inputs.get("token_ids"), list):
        np.testing.assert_allclose(model.predict(inputs, verbose=0), expected, atol=TOLERANCE)


def test_what_inputs_default_to(model):
    ones, zeros = np.ones_like(IDS), np.zeros_like(IDS)
    np.testing.assert_array_equal(model((IDS, MASK)), model((IDS, MASK, zeros)))
    np.testing.assert_array_equal(
        model({"input_ids": IDS, "attention_mask": MASK}), model((IDS, MASK))
    )
    np.testing.assert_array_equal(model(IDS), model((IDS, ones, zeros)))
    np.testing.assert_array_equal(model({"token_ids": IDS}), model(IDS))


def test_a_part_of_another_graph(model):
    ids = keras.Input((None,), dtype="int64", name="ids")
    probabilities = keras.layers.Softmax()(model((ids, keras.ops.cast(ids != 0, "int32"))))
    whole = keras.Model(ids, probabilities)
    np.testing.assert_allclose(whole(IDS), keras.ops.softmax(model((IDS, MASK))), atol=TOLERANCE)


def test_padding_is_not_seen(model):
    other = np.where(MASK == 1, IDS, 17)
    np.testing.assert_array_equal(model((IDS[:2], MASK[:2])), model((other[:2], MASK[:2])))
    np.testing.assert_allclose(
        model((IDS[1:2, :3], MASK[1:2, :3])), model((IDS[1:2], MASK[1:2])), atol=TOLERANCE
    )


def test_without_segments():
    config = TransformerConfig(
        40, num_layers=1, num_heads=3, embed_dim=15, ff_dim=4, num_segments=0
    )
    model = made(2, config)
    assert set(model.input) == {"token_ids", "padding_mask"}
    np.testing.assert_array_equal(model((IDS, MASK)), model((IDS, MASK, SEGMENTS)))
    assert model.predict((IDS, MASK), verbose=0).shape == (3, 2)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"padding_mask": MASK}, r"`inputs` must have `token_ids`.*Received: \['padding_mask'\]"),
        ({"token_ids": IDS, "labels": IDS}, r"may have.*Received: \['labels', 'token_ids'\]"),
        ((), "`inputs` must have `token_ids`"),
        ((IDS, MASK, SEGMENTS, IDS), "`inputs` must be at most .*Received: 4 values"),
        (IDS[0], r"same shape \(batch, length\).*'token_ids': \(5,\)"),
        (IDS[None], r"same shape \(batch, length\)"),
        (IDS.tolist(), r"same shape \(batch, length\)"),
        ((IDS, MASK[:, :4]), r"same shape \(batch, length\).*\(3, 5\).*\(3, 4\)"),
        ((IDS, MASK[:1]), r"same shape \(batch, length\)"),
        (np.array([["good"]]), "must be token ids, not text"),
        (np.array([["good"]], object), "must be token ids, not text"),
        (tf.constant([["good"]]), "must be token ids, not text"),
        (["good", "bad"], "must be token ids, not text"),
        ("good", "must be token ids, not text"),
        (np.ones((1, 13), "int32"), "at most `max_length`=12 tokens long.*length=13"),
    ],
)
def test_wrong_inputs(model, inputs, message):
    with pytest.raises(ValueError, match=message):
        model(inputs)


@pytest.mark.parametrize(
    ("num_classes", "labels", "message"),
    [
        (3, ("a", "b"), "`labels` must be 3 distinct names"),
        (2, ("a", "a"), "`labels` must be 2 distinct names"),
        (2, "ab", "`labels` must be a sequence of names. Received: 'ab'"),
        (0, None, "`num_classes` must be an integer of at least 1. Received: 0"),
        ("2", None, "`num_classes` must be an integer of at least 1. Received: '2'"),
        (None, ("a", "b"), "`num_classes` must be an integer of at least 1. Received: None"),
    ],
)
def test_wrong_labels(num_classes, labels, message):
    with pytest.raises(ValueError, match=message):
        BertClassifier(num_classes, CONFIG, labels=labels)


def test_a_tokenizer_of_more_tokens_is_logged(caplog):
    letters = [chr(ord("a") + i) for i in range(26)]
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{x}" for x in letters)]
    for fitting in (entries[: CONFIG.vocab_size], entries):
        assert caplog.text == ""
        BertClassifier(2, CONFIG, tokenizer=WordPieceTokenizer(fitting))
    assert f"has {len(entries)} tokens, and the model knows the first 40 of them" in caplog.text


def test_labels():
    assert made(3).labels == ("0", "1", "2")
    assert made(2, labels=["no", "sí"]).labels == ("no", "sí")


def test_sizes_by_name():
    model = BertClassifier(2, "bert_tiny")
    assert (model.config.embed_dim, model.config.num_layers) == (128, 2)
    with pytest.raises(
        ValueError, match="`name` must be one of bert_tiny, .*Received: 'bert_huge'"
    ):
        BertClassifier(2, "bert_huge")
    with pytest.raises(TypeError, match="of, a `TransformerConfig` for .*bert. Received: int"):
        BertClassifier(2, 768)


def test_a_backbone_of_ones_own(model, expected):
    other = BertClassifier(3, model.bert)
    assert other.bert is model.bert
    other.pooler.set_weights(model.pooler.get_weights())
    other.classifier.set_weights(model.classifier.get_weights())
    np.testing.assert_allclose(other((IDS, MASK, SEGMENTS)), expected, atol=TOLERANCE)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy, model):
    mixed = made(dtype=policy)
    assert mixed.pooler.compute_dtype == policy.removeprefix("mixed_")
    logits = mixed((IDS, MASK, SEGMENTS))
    assert logits.dtype == tf.float32
    tolerance = 0.05 if policy == "mixed_float16" else 0.5
    np.testing.assert_allclose(logits, model((IDS, MASK, SEGMENTS)), atol=tolerance)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_keras_file(tmp_path, policy):
    model = made(rate=0.3, labels=("a", "b", "好"), dtype=policy)
    again = round_trip(model, tmp_path)
    assert type(again) is type(model)
    assert again.config == model.config
    assert (again.labels, again.rate) == (model.labels, 0.3)
    assert again.bert.dtype_policy.name == policy
    inputs = (IDS, MASK, SEGMENTS)
    np.testing.assert_array_equal(float32(again(inputs)), float32(model(inputs)))


def data(rows=16):
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 40, (rows, 6), dtype="int32")
    mask = np.ones_like(ids)
    mask[::2, 4:] = 0
    return ids, mask, (ids[:, 0] > 20).astype("int32")


@pytest.mark.parametrize("form", ["tuple", "dict", "their_dict", "tf_data"])
def test_fit(form):
    keras.utils.set_random_seed(1)
    ids, mask, labels = data()
    inputs = {
        "tuple": (ids, mask),
        "dict": {"token_ids": ids, "padding_mask": mask},
        "their_dict": {"input_ids": ids, "attention_mask": mask.astype(bool)},
        "tf_data": {"token_ids": ids, "padding_mask": mask},
    }[form]
    model = BertClassifier(2, CONFIG)
    model.compile(
        "adam",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    if form == "tf_data":
        rows = tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(8)
        history = model.fit(rows, validation_data=rows, shuffle=False, verbose=0).history
        evaluated = model.evaluate(rows, verbose=0, return_dict=True)
    else:
        history = model.fit(
            inputs, labels, batch_size=8, validation_data=(inputs, labels), verbose=0
        ).history
        evaluated = model.evaluate(inputs, labels, batch_size=8, verbose=0, return_dict=True)
    assert np.isfinite([*history["loss"], *history["val_loss"]]).all()
    assert evaluated["loss"] == pytest.approx(history["val_loss"][0], rel=1e-5)


def test_sgd_learns_a_few_rows_by_heart():
    keras.utils.set_random_seed(2)
    ids, mask, labels = data(6)
    config = TransformerConfig(
        40, num_layers=1, num_heads=3, embed_dim=15, ff_dim=22, rate=0.0, attention_rate=0.0
    )
    model = BertClassifier(2, config, rate=0.0)
    model.compile(
        keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    losses = [float(model.train_on_batch((ids, mask), labels)) for _ in range(300)]
    assert losses[1] < losses[0]
    assert losses[-1] < 0.2 * losses[0]
    assert (model.predict_on_batch((ids, mask)).argmax(-1) == labels).all()


def test_gradients_reach_every_weight(model):
    with tf.GradientTape() as tape:
        logits = model((IDS, MASK, SEGMENTS), training=False)
        loss = tf.reduce_sum(logits * np.random.default_rng(3).normal(size=(3, 3)))
    gradients = tape.gradient(loss, [weight.value for weight in model.trainable_weights])
    for weight, gradient in zip(model.trainable_weights, gradients):
        gradient = np.array(tf.convert_to_tensor(gradient))
        assert np.isfinite(gradient).all(), weight.path
        # A bias of the keys moves all scores of a query alike, and softmax doesn't see that.
        unseen = weight is model.bert.blocks[0].att.key_dense.bias
        assert unseen or np.abs(gradient).max() > 1e-4, weight.path


def test_dropout_before_the_classifier():
    config = TransformerConfig(
        40, num_layers=1, num_heads=3, embed_dim=15, ff_dim=22, rate=0.0, attention_rate=0.0
    )
    model = made(3, config, rate=0.5)
    first, second = (np.array(model((IDS, MASK), training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_array_equal(model((IDS, MASK)), model((IDS, MASK), training=False))
