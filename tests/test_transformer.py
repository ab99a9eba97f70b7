"""The backbone against NumPy, and as a Keras model."""

import keras
import numpy as np
import numpy_reference as reference
import pytest
from keras_file import round_trip
from numpy_reference import float32

from kerasllm.backbones import T5, EncoderDecoder, Llama, Recurrent, Transformer
from kerasllm.config import TransformerConfig

TOLERANCE = 1e-5
SIZES = dict(num_layers=2, num_heads=3, embed_dim=15, ff_dim=22, max_length=12)


def made(dtype=None, **changes):
    config = TransformerConfig(40, **{**SIZES, **changes})
    return reference.randomise(Transformer(config, dtype=dtype))


def batch(num_segments=2, seed=0):
    """Rows padded at the right, at the left and not at all."""
    rng = np.random.default_rng(seed)
    mask = np.ones((4, 7), "int32")
    mask[1, 5:] = 0
    mask[2, 1:] = 0
    mask[3, :3] = 0
    inputs = {"token_ids": rng.integers(1, 40, mask.shape, dtype="int32"), "padding_mask": mask}
    if num_segments:
        inputs["segment_ids"] = rng.integers(0, num_segments, mask.shape, dtype="int32")
    return inputs


@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(num_segments=0, activation="relu", epsilon=1e-5),
        dict(num_segments=5, num_layers=1, activation="gelu_tanh", epsilon=0.05),
        dict(num_heads=5, num_layers=3, activation="silu", rate=0.5, attention_rate=0.5),
        dict(num_heads=1, activation="tanh"),
    ],
    ids=str,
)
def test_equals_numpy(changes):
    model = made(**changes)
    inputs = batch(model.config.num_segments)
    expected = reference.transformer(model, **inputs)
    np.testing.assert_allclose(model(inputs), expected, atol=TOLERANCE)
    np.testing.assert_allclose(model.predict(inputs, verbose=0), expected, atol=TOLERANCE)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "changes", [dict(), dict(norm_first=True), dict(positions="alibi")], ids=str
)
def test_rows_alone(changes, training):
    model, inputs = made(rate=0.0, attention_rate=0.0, **changes), batch()
    rows = np.array([[0, 3], [1, 0], [0, 0], [6, 5]], "int32")
    expected = np.take_along_axis(np.array(model(inputs)), rows[..., np.newaxis], axis=1)
    np.testing.assert_allclose(model(inputs, training=training, rows=rows), expected, atol=1e-6)
    first = model(inputs, training=training, rows=slice(0, 1))
    np.testing.assert_allclose(first, np.array(model(inputs))[:, :1], atol=1e-6)


def test_padding_is_not_seen():
    model, inputs = made(), batch()
    real = inputs["padding_mask"] == 1
    other = batch(seed=5)
    changed = {
        name: np.where(real, inputs[name], other[name]) for name in ("token_ids", "segment_ids")
    }
    assert (changed["token_ids"] != inputs["token_ids"]).any()
    changed["padding_mask"] = inputs["padding_mask"]
    np.testing.assert_array_equal(np.array(model(inputs))[real], np.array(model(changed))[real])


def test_the_length_of_a_batch_changes_nothing():
    model, inputs = made(), batch()
    padded = {name: np.pad(value, ((0, 0), (0, 5))) for name, value in inputs.items()}
    real = inputs["padding_mask"] == 1
    np.testing.assert_allclose(
        np.array(model(padded))[:, :7][real], np.array(model(inputs))[real], atol=TOLERANCE
    )


@pytest.mark.parametrize("num_segments", [0, 2])
def test_inputs_of_the_graph(num_segments):
    model = made(num_segments=num_segments)
    names = ["token_ids", "padding_mask"] + ["segment_ids"] * bool(num_segments)
    assert set(model.input) == set(names)
    for name, tensor in model.input.items():
        assert (tensor.name, tensor.dtype, tensor.shape) == (name, "int32", (None, None))
    assert model.output.shape == (None, None, 15)


def test_names_of_sublayers_are_their_attributes():
    model = made()
    assert model.get_layer("embedding") is model.embedding
    for index, block in enumerate(model.blocks):
        assert model.get_layer(f"block_{index}") is block
    paths = [weight.path for weight in model.weights]
    assert len(set(paths)) == len(paths) == 5 + 2 * 16
    assert "block_1/att/query_dense/kernel" in {path.removeprefix("transformer/") for path in paths}


def test_config_must_be_a_config():
    with pytest.raises(TypeError, match="`config` must be a `TransformerConfig`. Received: dict"):
        Transformer(dict(vocab_size=40))


def test_too_long_a_text():
    inputs = {name: np.ones((1, 13), "int32") for name in batch()}
    with pytest.raises(ValueError, match="at most `max_length`=12 tokens long.*length=13"):
        made()(inputs)


@pytest.mark.parametrize(
    ("policy", "dtype", "tolerance"),
    [("mixed_float16", "float16", 0.05), ("mixed_bfloat16", "bfloat16", 0.5)],
)
def test_mixed_precision(policy, dtype, tolerance):
    exact, mixed, inputs = made(), made(dtype=policy), batch()
    output = mixed(inputs)
    assert keras.backend.standardize_dtype(output.dtype) == dtype
    assert {weight.dtype for weight in mixed.weights} == {"float32"}
    assert np.isfinite(float32(output)).all()
    real = inputs["padding_mask"] == 1
    np.testing.assert_allclose(float32(output)[real], np.array(exact(inputs))[real], atol=tolerance)


def test_the_global_policy_is_the_default():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = made()
        assert model.dtype_policy.name == "mixed_bfloat16"
        assert model.blocks[1].att.query_dense.compute_dtype == "bfloat16"
        assert made(dtype="float32").blocks[1].att.query_dense.compute_dtype == "float32"
    finally:
        keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_keras_file(tmp_path, policy):
    model = made(dtype=policy, epsilon=1e-3, activation="gelu_tanh", num_segments=3, pad_id=4)
    again = round_trip(model, tmp_path)
    assert type(again) is type(model)
    assert again.config == model.config
    assert again.dtype_policy.name == policy
    inputs = batch(3)
    np.testing.assert_array_equal(float32(again(inputs)), float32(model(inputs)))


def test_dropout_while_training_only():
    model, inputs = made(rate=0.5, attention_rate=0.5), batch()
    np.testing.assert_array_equal(model(inputs), model(inputs, training=False))
    first, second = (np.array(model(inputs, training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 0.1
    never = made(rate=0.0, attention_rate=0.0)
    np.testing.assert_array_equal(never(inputs), never(inputs, training=True))


def test_fresh_weights():
    keras.utils.set_random_seed(1)
    config = TransformerConfig(
        500, num_layers=2, num_heads=4, embed_dim=64, ff_dim=128, initializer_range=0.1
    )
    for weight in Transformer(config).trainable_weights:
        array = weight.numpy()
        if weight.name == "gamma":
            assert (array == 1).all()
        elif array.ndim == 1:
            assert (array == 0).all()
        elif array.size > 500:
            # A normal distribution cut at two sigmas has 0.88 of its deviation.
            assert abs(array.std() - 0.088) < 0.005, weight.path
            assert np.abs(array).max() <= 0.2


HEADS = dict(num_heads=2, embed_dim=8, ff_dim=16)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="its own kind of graph")
@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        (Transformer, dict(num_layers=1, positions="alibi", causal=True, **HEADS)),
        (Llama, dict(num_layers=1, num_kv_heads=1, qk_norm=True, **HEADS)),
        (T5, dict(num_layers=1, num_decoder_layers=1, projection_dim=3, **HEADS)),
        (EncoderDecoder, dict(num_layers=1, num_decoder_layers=1, num_segments=0, **HEADS)),
        (Recurrent, dict(cell="lstm", bidirectional=True, embed_dim=4, units=4)),
    ],
)
def test_a_batch_without_rows(kind, sizes):
    """A replica gets one at the end of an epoch."""
    import tensorflow as tf

    model = kind(kind.CONFIG(40, **sizes))
    specs = {name: tf.TensorSpec((None, None), "int32") for name in model.input}
    graph = tf.function(lambda inputs: model(inputs, training=True), input_signature=[specs])
    for rows in (0, 2):
        assert graph({name: tf.ones((rows, 5), "int32") for name in specs}).shape == (rows, 5, 8)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="others must compile")
def test_no_compilation_for_each_length():
    model = made()
    model.compile("sgd", "mse")
    assert model.jit_compile is False
    # Where there is no GPU, Keras comes to that by itself; with one, it asks this.
    assert model.supports_jit is False
