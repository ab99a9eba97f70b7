"""The block against NumPy and against the tutorial's own code."""

import inspect

import keras
import numpy as np
import numpy_reference as reference
import pytest
import tensorflow as tf
import tutorial
from keras_file import round_trip
from numpy_reference import float32

from kerasllm.config import ACTIVATIONS
from kerasllm.layers import (
    MultiHeadSelfAttention,
    TokenAndPositionEmbedding,
    TransformerBlock,
    causal_bias,
    padding_bias,
)

TOLERANCE = 1e-5


def values(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def made(embed_dim=15, num_heads=3, ff_dim=22, **options):
    layer = TransformerBlock(embed_dim, num_heads, ff_dim, **options)
    layer.build((None, None, embed_dim))
    return reference.randomise(layer)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize(
    ("activation", "epsilon"),
    [("relu", 1e-6), ("gelu", 1e-12), ("gelu_tanh", 1e-5), ("silu", 0.1), ("tanh", 1e-3)],
)
def test_options_equal_numpy(norm_first, activation, epsilon):
    assert activation in ACTIVATIONS
    options = dict(norm_first=norm_first, activation=activation, epsilon=epsilon)
    layer = made(**options)
    x, bias = values(3, 6, 15), values(3, 1, 6, 6, seed=2)
    np.testing.assert_allclose(
        layer(x, attention_bias=bias),
        reference.block(layer, x, 3, bias=bias, **options),
        atol=TOLERANCE,
    )


def test_every_activation_of_the_config_is_compared():
    (mark,) = (mark for mark in test_options_equal_numpy.pytestmark if "activation" in mark.args[0])
    assert {activation for activation, _ in mark.args[1]} == set(ACTIVATIONS)


@pytest.mark.parametrize("norm_first", [False, True])
def test_cross_attention_equals_numpy(norm_first):
    layer = made(norm_first=norm_first, cross_attention=True)
    x, context = values(2, 5, 15), values(2, 7, 15, seed=2)
    mask = np.array([[1, 1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0, 0]])
    output = layer(
        x, attention_bias=causal_bias(5), context=context, context_bias=padding_bias(mask)
    )
    expected = reference.block(
        layer,
        x,
        3,
        norm_first=norm_first,
        bias=np.where(np.tri(5), 0, -np.inf)[None, None],
        context=context,
        context_bias=reference.masked(mask),
    )
    np.testing.assert_allclose(output, expected, atol=TOLERANCE)


@pytest.mark.parametrize(("embed_dim", "num_heads"), [(6, 1), (25, 5), (7, 7)])
def test_odd_heads_equal_numpy(embed_dim, num_heads):
    layer = made(embed_dim, num_heads, ff_dim=3)
    x = values(2, 4, embed_dim)
    np.testing.assert_allclose(layer(x), reference.block(layer, x, num_heads), atol=TOLERANCE)


def test_context_goes_with_cross_attention():
    x = values(1, 3, 15)
    with pytest.raises(ValueError, match="`context` must be given exactly when"):
        made(cross_attention=True)(x)
    with pytest.raises(ValueError, match="`context` must be given exactly when"):
        made()(x, context=x)


def test_equals_the_tutorial():
    theirs = tutorial.TransformerBlock(24, 3, 17)
    x = values(2, 5, 24)
    theirs(x, training=False)
    reference.randomise(theirs)
    ours = TransformerBlock(24, 3, 17)
    ours.build((None, None, 24))
    ours.att.set_weights(theirs.att.get_weights())
    ours.ffn.set_weights(theirs.ffn.get_weights())
    ours.layernorm1.set_weights(theirs.layernorm1.get_weights())
    ours.layernorm2.set_weights(theirs.layernorm2.get_weights())
    np.testing.assert_allclose(ours(x), theirs(x, training=False), atol=TOLERANCE)
    assert [tuple(weight.shape) for weight in ours.weights] == [
        tuple(weight.shape) for weight in theirs.weights
    ]


def test_the_tutorials_names():
    layer = TransformerBlock(12, 3, 20)
    assert isinstance(layer.att, MultiHeadSelfAttention)
    assert isinstance(layer.ffn, keras.Sequential)
    first, second = layer.ffn.layers
    assert (first.units, first.activation) == (20, keras.activations.relu)
    assert (second.units, second.activation) == (12, keras.activations.linear)
    assert layer.layernorm1.epsilon == layer.layernorm2.epsilon == 1e-6
    assert layer.dropout1.rate == layer.dropout2.rate == 0.1
    assert layer.att.dropout.rate == 0
    assert not layer.norm_first


def test_embed_dim_must_be_divisible():
    with pytest.raises(ValueError, match="`embed_dim` must be divisible"):
        TransformerBlock(10, 4, 8)


def test_constructor_stays_within_its_budget():
    own = [
        name
        for name, parameter in inspect.signature(TransformerBlock.__init__).parameters.items()
        if name != "self" and parameter.kind is not parameter.VAR_KEYWORD
    ]
    assert own[:4] == ["embed_dim", "num_heads", "ff_dim", "rate"]
    assert len(own) <= 10


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("cross_attention", [False, True])
def test_gradients_reach_every_weight(norm_first, cross_attention):
    layer = made(norm_first=norm_first, cross_attention=cross_attention, activation="gelu")
    context = values(2, 4, 15, seed=2) if cross_attention else None
    with tf.GradientTape() as tape:
        output = layer(values(2, 6, 15), causal_bias(6), context)
        loss = tf.reduce_sum(output * values(2, 6, 15, seed=7))
    gradients = tape.gradient(loss, [weight.value for weight in layer.trainable_weights])
    # A bias of the keys moves all scores of a query alike, and softmax doesn't see that.
    unseen = {layer.att.key_dense.bias.path}
    if cross_attention:
        unseen.add(layer.cross_att.key_dense.bias.path)
    assert len(gradients) == (26 if cross_attention else 16)
    for weight, gradient in zip(layer.trainable_weights, gradients):
        assert np.isfinite(gradient).all(), weight.path
        assert weight.path in unseen or np.abs(gradient).max() > 1e-3, weight.path


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize(
    ("policy", "dtype", "tolerance"),
    [("mixed_float16", "float16", 0.03), ("mixed_bfloat16", "bfloat16", 0.2)],
)
def test_mixed_precision(policy, dtype, tolerance, norm_first):
    options = dict(norm_first=norm_first, activation="gelu", epsilon=1e-12)
    exact, mixed = made(**options), made(**options, dtype=policy)
    x = values(2, 6, 15)
    bias = padding_bias(np.array([[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]]))
    with tf.GradientTape() as tape:
        output = mixed(x, attention_bias=bias)
        loss = tf.reduce_sum(tf.cast(output, "float32") ** 2)
    assert keras.backend.standardize_dtype(output.dtype) == dtype
    assert {weight.dtype for weight in mixed.weights} == {"float32"}
    output = float32(output)
    np.testing.assert_allclose(output, exact(x, attention_bias=bias), atol=tolerance)
    for gradient in tape.gradient(loss, [weight.value for weight in mixed.trainable_weights]):
        assert gradient.dtype == tf.float32
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(activation="gelu", epsilon=1e-12, attention_rate=0.2, rate=0.3),
        dict(activation="gelu_tanh", norm_first=True, dtype="mixed_bfloat16"),
        dict(cross_attention=True, kernel_initializer=keras.initializers.RandomNormal(stddev=0.3)),
    ],
    ids=["tutorial", "bert", "gpt", "decoder"],
)
def test_keras_file(tmp_path, options):
    layer = TransformerBlock(15, 3, 22, **options)
    inputs, context = keras.Input((None, 15)), keras.Input((None, 15))
    if options.get("cross_attention"):
        model = keras.Model([inputs, context], layer(inputs, context=context))
        batch = [values(2, 3, 15), values(2, 4, 15, seed=2)]
    else:
        model = keras.Model(inputs, layer(inputs))
        batch = values(2, 3, 15)
    reference.randomise(model)
    again = round_trip(model, tmp_path)
    np.testing.assert_array_equal(float32(again(batch)), float32(model(batch)))
    (copy,) = (part for part in again.layers if isinstance(part, TransformerBlock))
    assert copy.get_config() == layer.get_config()


def test_padding_is_not_seen():
    layer = made()
    x, mask = values(2, 6, 15), np.array([[1, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1]])
    other = np.where(mask[..., None], x, 100 * values(2, 6, 15, seed=8))
    before, after = (
        np.array(layer(part, attention_bias=padding_bias(mask))) for part in (x, other)
    )
    np.testing.assert_array_equal(before[mask == 1], after[mask == 1])


def test_dropout_while_training_only():
    layer = made(rate=0.5)
    x = values(2, 6, 15)
    np.testing.assert_array_equal(layer(x), layer(x, training=False))
    first, second = np.array(layer(x, training=True)), np.array(layer(x, training=True))
    assert np.abs(first - second).max() > 0.1
    never = made(rate=0.0)
    np.testing.assert_array_equal(never(x), never(x, training=True))


def test_the_tutorials_model_on_our_layers():
    keras.utils.set_random_seed(3)
    model = tutorial.build_model(TokenAndPositionEmbedding, TransformerBlock, 12, 50)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    rng = np.random.default_rng(0)
    x_train, y_train = rng.integers(0, 50, (32, 12)), rng.integers(0, 2, 32)
    history = model.fit(
        x_train, y_train, batch_size=16, epochs=1, validation_data=(x_train, y_train), verbose=0
    )
    assert np.isfinite([*history.history["loss"], *history.history["val_loss"]]).all()
    assert model.predict(x_train, verbose=0).shape == (32, 2)


def test_the_tutorials_model_gives_the_tutorials_outputs():
    def their_block(*sizes):
        # Keras 3 no longer fills in a `training` that has no default.
        layer = tutorial.TransformerBlock(*sizes)
        return lambda x: layer(x, training=False)

    theirs = tutorial.build_model(tutorial.TokenAndPositionEmbedding, their_block, 12, 50)
    reference.randomise(theirs)
    ours = tutorial.build_model(TokenAndPositionEmbedding, TransformerBlock, 12, 50)
    ours.set_weights(theirs.get_weights())
    ids = np.random.default_rng(0).integers(0, 50, (8, 12))
    np.testing.assert_allclose(ours(ids), theirs(ids), atol=TOLERANCE)
