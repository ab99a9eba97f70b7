"""Attention against NumPy and against the tutorial's own code."""

import keras
import numpy as np
import numpy_reference as reference
import pytest
import tensorflow as tf
import tutorial
from keras_file import round_trip
from numpy_reference import float32

from kerasllm.layers import MultiHeadSelfAttention, causal_bias, padding_bias

TOLERANCE = 1e-5


def values(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def made(embed_dim, num_heads, **options):
    layer = MultiHeadSelfAttention(embed_dim, num_heads, **options)
    layer.build((None, None, embed_dim))
    return reference.randomise(layer)


@pytest.mark.parametrize(("embed_dim", "num_heads"), [(8, 1), (15, 3), (10, 5), (7, 7), (32, 8)])
def test_equals_numpy(embed_dim, num_heads):
    layer = made(embed_dim, num_heads)
    x = values(3, 6, embed_dim)
    np.testing.assert_allclose(layer(x), reference.attention(layer, x, num_heads), atol=TOLERANCE)


@pytest.mark.parametrize("shape", [(1, 1, 1, 4), (2, 1, 1, 4), (1, 1, 6, 4), (2, 3, 6, 4)], ids=str)
def test_context_and_bias_equal_numpy(shape):
    layer = made(9, 3)
    x, context, bias = values(2, 6, 9), values(2, 4, 9, seed=2), values(*shape, seed=3)
    np.testing.assert_allclose(
        layer(x, context=context, attention_bias=bias),
        reference.attention(layer, x, 3, context, bias),
        atol=TOLERANCE,
    )


def test_equals_the_tutorial():
    theirs = tutorial.MultiHeadSelfAttention(24, num_heads=3)
    x = values(2, 5, 24)
    theirs(x)
    reference.randomise(theirs)
    ours = made(24, 3)
    ours.set_weights(theirs.get_weights())
    np.testing.assert_allclose(ours(x), theirs(x), atol=TOLERANCE)
    # The parts that readers call by themselves.
    query, key, value = (values(2, 3, 5, 8, seed=seed) for seed in (4, 5, 6))
    for one, other in zip(ours.attention(query, key, value), theirs.attention(query, key, value)):
        np.testing.assert_allclose(one, other, atol=TOLERANCE)
    np.testing.assert_array_equal(ours.separate_heads(x, 2), theirs.separate_heads(x, 2))


def test_the_tutorials_names():
    layer = MultiHeadSelfAttention(16)
    assert layer.num_heads == 8
    assert layer.projection_dim == 2
    for name in ("query_dense", "key_dense", "value_dense", "combine_heads"):
        assert getattr(layer, name).units == 16
        assert getattr(layer, name).name == name


def test_embed_dim_must_be_divisible():
    with pytest.raises(
        ValueError, match="`embed_dim` must be divisible.*embed_dim=10, num_heads=3"
    ):
        MultiHeadSelfAttention(10, 3)


def test_fresh_kernels_differ():
    layer = MultiHeadSelfAttention(8, 2, kernel_initializer=keras.initializers.RandomNormal())
    layer.build((None, None, 8))
    kernels = [np.array(weight) for weight in layer.get_weights() if weight.ndim == 2]
    assert len({kernel.tobytes() for kernel in kernels}) == 4


@pytest.mark.parametrize("with_context", [False, True])
def test_gradients_reach_every_weight(with_context):
    layer = made(9, 3)
    context = values(2, 4, 9, seed=2) if with_context else None
    bias = padding_bias(np.array([[1, 1, 1, 0], [1, 1, 1, 1]])) if with_context else None
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(values(2, 6, 9), context, bias) * values(2, 6, 9, seed=7))
    gradients = tape.gradient(loss, [weight.value for weight in layer.trainable_weights])
    for weight, gradient in zip(layer.trainable_weights, gradients):
        assert np.isfinite(gradient).all(), weight.path
        largest = np.abs(gradient).max()
        if weight is layer.key_dense.bias:
            # It moves all scores of a query alike, and softmax doesn't see that.
            assert largest < 1e-4
        else:
            assert largest > 1e-3, weight.path


@pytest.mark.parametrize(
    ("policy", "dtype", "tolerance"),
    [("mixed_float16", "float16", 0.01), ("mixed_bfloat16", "bfloat16", 0.1)],
)
def test_mixed_precision(policy, dtype, tolerance):
    exact, mixed = made(15, 3), made(15, 3, dtype=policy)
    x = values(2, 6, 15)
    mask = np.array([[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]])
    # The sum of both biases is still within float16.
    bias = padding_bias(mask) + causal_bias(6)
    output = mixed(x, attention_bias=bias)
    assert keras.backend.standardize_dtype(output.dtype) == dtype
    assert {weight.dtype for weight in mixed.weights} == {"float32"}
    output = float32(output)
    expected = np.array(exact(x, attention_bias=bias))
    # A padded query may see nothing at all, and is not looked at.
    real = mask.astype(bool)
    assert np.isfinite(output).all()
    np.testing.assert_allclose(output[real], expected[real], atol=tolerance)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_keras_file(tmp_path, policy):
    inputs, context = keras.Input((None, 15)), keras.Input((None, 15))
    bias = keras.Input((1, 1, None))
    layer = MultiHeadSelfAttention(
        15,
        5,
        rate=0.25,
        kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.5),
        dtype=policy,
    )
    model = keras.Model([inputs, context, bias], layer(inputs, context, attention_bias=bias))
    reference.randomise(model)
    again = round_trip(model, tmp_path)
    batch = [values(2, 3, 15), values(2, 4, 15, seed=2), values(2, 1, 1, 4, seed=3)]
    np.testing.assert_array_equal(float32(again(batch)), float32(model(batch)))
    (copy,) = (part for part in again.layers if isinstance(part, MultiHeadSelfAttention))
    assert copy.get_config() == layer.get_config()
    assert copy.rate == 0.25


def test_dropout_on_weights_while_training_only():
    layer = made(8, 2, rate=0.5)
    x = values(2, 6, 8)
    np.testing.assert_array_equal(layer(x), layer(x, training=False))
    np.testing.assert_allclose(layer(x), reference.attention(layer, x, 2), atol=TOLERANCE)
    first, second = np.array(layer(x, training=True)), np.array(layer(x, training=True))
    assert np.abs(first - second).max() > 1e-3


def test_biases():
    mask = np.array([[1, 1, 0], [0, 1, 1]])
    expected = np.array([[0, 0, -1e4], [-1e4, 0, 0]], "float32")[:, None, None]
    for dtype in ("int32", "bool", "float32"):
        np.testing.assert_array_equal(padding_bias(mask.astype(dtype)), expected)
    expected = np.where(np.tri(4, dtype=bool), 0, -1e4)[None, None]
    np.testing.assert_array_equal(causal_bias(4), expected)
    assert keras.backend.standardize_dtype(causal_bias(4).dtype) == "float32"


def test_padding_is_not_seen():
    layer = made(9, 3)
    x, mask = values(2, 6, 9), np.array([[1, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1]])
    bias = padding_bias(mask)
    other = np.where(mask[..., None], x, 100 * values(2, 6, 9, seed=8))
    real = mask.astype(bool)
    before, after = (np.array(layer(part, attention_bias=bias)) for part in (x, other))
    np.testing.assert_array_equal(before[real], after[real])
    # What remains is attention to the real tokens alone.
    for row in range(2):
        alone = reference.attention(layer, x[row : row + 1, real[row]], 3)[0]
        np.testing.assert_allclose(before[row, real[row]], alone, atol=TOLERANCE)


def test_later_tokens_are_not_seen():
    layer = made(9, 3)
    x = values(1, 6, 9)
    changed = x.copy()
    changed[:, 4:] = 50
    before, after = (np.array(layer(part, attention_bias=causal_bias(6))) for part in (x, changed))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert np.abs(before[:, 4:] - after[:, 4:]).max() > 0.1


@pytest.mark.parametrize("jit_compile", [False, True])
def test_in_a_graph_of_unknown_sizes(jit_compile):
    layer = made(15, 3)

    @tf.function(
        input_signature=[tf.TensorSpec((None, None, 15)), tf.TensorSpec((None, None))],
        jit_compile=jit_compile,
    )
    def graph(x, mask):
        length = tf.shape(x)[1]
        return layer(x, attention_bias=padding_bias(mask) + causal_bias(length))

    for batch, length in ((1, 2), (3, 5)):
        x, mask = values(batch, length, 15), np.ones((batch, length), "float32")
        expected = layer(x, attention_bias=padding_bias(mask) + causal_bias(length))
        np.testing.assert_allclose(graph(x, mask), expected, atol=TOLERANCE)
