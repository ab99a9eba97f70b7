"""The embedding against NumPy and against the tutorial's own code."""

import keras
import numpy as np
import numpy_reference as reference
import pytest
import tensorflow as tf
import tutorial
from keras_file import round_trip
from numpy_reference import float32

from kerasllm.layers import TokenAndPositionEmbedding

TOLERANCE = 1e-5
IDS = np.array([[5, 0, 19, 3], [7, 7, 1, 0]])
SEGMENTS = np.array([[0, 0, 1, 2], [2, 1, 0, 0]])


def made(max_length=6, vocab_size=20, embed_dim=9, **options):
    layer = TokenAndPositionEmbedding(max_length, vocab_size, embed_dim, **options)
    layer.build((None, None))
    return reference.randomise(layer)


@pytest.mark.parametrize("epsilon", [None, 1e-12, 0.1])
def test_equals_numpy(epsilon):
    layer = made(epsilon=epsilon)
    np.testing.assert_allclose(
        layer(IDS), reference.embedding(layer, IDS, epsilon=epsilon), atol=TOLERANCE
    )


@pytest.mark.parametrize("epsilon", [None, 1e-5])
def test_segments_equal_numpy(epsilon):
    layer = made(num_segments=3, epsilon=epsilon, rate=0.3)
    expected = reference.embedding(layer, IDS, SEGMENTS, epsilon)
    np.testing.assert_allclose(layer(IDS, SEGMENTS), expected, atol=TOLERANCE)
    # No segments are the first segment.
    expected = reference.embedding(layer, IDS, 0 * SEGMENTS, epsilon)
    np.testing.assert_allclose(layer(IDS), expected, atol=TOLERANCE)


def test_equals_the_tutorial():
    theirs = tutorial.TokenAndPositionEmbedding(6, 20, 9)
    theirs(IDS)
    reference.randomise(theirs)
    ours = made()
    ours.token_emb.set_weights(theirs.token_emb.get_weights())
    ours.pos_emb.set_weights(theirs.pos_emb.get_weights())
    np.testing.assert_array_equal(ours(IDS), theirs(IDS))
    assert not [
        layer for layer in ours.variables if "segment" in layer.path or "norm" in layer.path
    ]


def test_any_integers_and_floats_are_ids():
    layer = made()
    for dtype in ("int64", "uint8", "float32"):
        np.testing.assert_array_equal(layer(IDS.astype(dtype)), layer(IDS))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_large_ids_stay_exact_in_mixed_precision(policy):
    # As a float16, 2049 is 2048 and 70000 is infinite; `Input` without a dtype gives float32.
    layer = made(vocab_size=70001, dtype=policy)
    ids = np.array([[2048, 2049, 4097, 69999, 70000]])
    inputs = keras.Input((5,))
    model = keras.Model(inputs, layer(inputs))
    as_float, as_int = (
        np.array(keras.ops.cast(out, "float32")) for out in (model(ids), layer(ids))
    )
    np.testing.assert_array_equal(as_float, as_int)
    np.testing.assert_allclose(as_int, reference.embedding(layer, ids), atol=0.03)


@pytest.mark.parametrize(
    ("policy", "dtype", "tolerance"),
    [("mixed_float16", "float16", 0.01), ("mixed_bfloat16", "bfloat16", 0.1)],
)
def test_mixed_precision(policy, dtype, tolerance):
    options = dict(num_segments=3, epsilon=1e-12)
    exact, mixed = made(**options), made(**options, dtype=policy)
    output = mixed(IDS, SEGMENTS)
    assert keras.backend.standardize_dtype(output.dtype) == dtype
    assert {weight.dtype for weight in mixed.weights} == {"float32"}
    output = float32(output)
    np.testing.assert_allclose(output, exact(IDS, SEGMENTS), atol=tolerance)


def test_gradients_reach_every_weight():
    layer = made(num_segments=3, epsilon=1e-5)
    with tf.GradientTape() as tape:
        output = layer(IDS, SEGMENTS)
        loss = tf.reduce_sum(output * np.random.default_rng(1).normal(size=output.shape))
    weights = [weight.value for weight in layer.trainable_weights]
    gradients = [np.array(tf.convert_to_tensor(g)) for g in tape.gradient(loss, weights)]
    assert len(gradients) == 5
    for gradient in gradients:
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 1e-3
    # A token that isn't there gets none.
    used = np.abs(gradients[0]).sum(-1) > 0
    assert set(np.flatnonzero(used)) == set(IDS.ravel())


@pytest.mark.parametrize(
    "options",
    [dict(), dict(num_segments=3, epsilon=1e-12, rate=0.1), dict(dtype="mixed_bfloat16")],
    ids=["tutorial", "bert", "bfloat16"],
)
def test_keras_file(tmp_path, options):
    layer = TokenAndPositionEmbedding(6, 20, 9, embeddings_initializer="glorot_normal", **options)
    count = 2 if options.get("num_segments") else 1
    inputs = [keras.Input((None,), dtype="int32") for _ in range(count)]
    model = keras.Model(inputs, layer(*inputs))
    reference.randomise(model)
    again = round_trip(model, tmp_path)
    batch = [IDS, SEGMENTS][:count]
    np.testing.assert_array_equal(float32(again(batch)), float32(model(batch)))
    (copy,) = (part for part in again.layers if isinstance(part, TokenAndPositionEmbedding))
    assert copy.get_config() == layer.get_config()


def test_too_long_a_text():
    layer = made()
    assert layer(np.zeros((2, 6), "int32")).shape == (2, 6, 9)
    with pytest.raises(ValueError, match="`token_ids` must be at most `max_length`=6.*length=7"):
        layer(np.zeros((2, 7), "int32"))


def test_segments_need_a_table():
    with pytest.raises(ValueError, match="`segment_ids` must not be given"):
        made()(IDS, SEGMENTS)


def test_in_a_graph_of_unknown_sizes():
    layer = made(num_segments=3, epsilon=1e-5)
    spec = tf.TensorSpec((None, None), "int32")
    graph = tf.function(lambda ids, segments: layer(ids, segments), input_signature=[spec, spec])
    for length in (1, 4):
        ids, segments = IDS[:, :length].astype("int32"), SEGMENTS[:, :length].astype("int32")
        np.testing.assert_allclose(graph(ids, segments), layer(ids, segments), atol=TOLERANCE)


def test_dropout_while_training_only():
    layer = made(rate=0.5)
    np.testing.assert_array_equal(layer(IDS), layer(IDS, training=False))
    dropped = np.array(layer(IDS, training=True)) == 0
    assert 0.2 < dropped.mean() < 0.8
