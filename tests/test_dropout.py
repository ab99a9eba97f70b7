"""Dropout: how much it drops, how it scales, and when."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras_file import round_trip
from numpy_reference import float32

from kerasllm.layers import Dropout


def ones(*shape):
    return np.ones(shape, "float32")


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.9, 1 / 3])
def test_share_of_dropped_values(rate):
    count = 400_000
    output = np.array(Dropout(rate, seed=1)(ones(count // 400, 400), training=True))
    dropped = (output == 0).mean()
    assert abs(dropped - rate) < 3 * np.sqrt(rate * (1 - rate) / count)
    # What is kept is scaled, so that the expectation stays.
    kept = output[output != 0]
    np.testing.assert_allclose(kept, 1 / (1 - rate), rtol=1e-4)
    sigma = np.sqrt(rate / (1 - rate) / count)
    assert abs(output.mean() - 1) < 3 * sigma


def test_neighbours_are_independent():
    # Two values share one random number, one half of its bits each.
    dropped = np.array(Dropout(0.3, seed=2)(ones(1000, 200), training=True)) == 0
    for one, other in (
        (dropped[:, 0::2], dropped[:, 1::2]),
        (dropped[:, 1:-1:2], dropped[:, 2::2]),
        (dropped[:-1], dropped[1:]),
    ):
        both, count = (one & other).mean(), one.size
        assert abs(both - 0.09) < 3 * np.sqrt(0.09 * 0.91 / count)


def test_every_place_is_dropped_alike():
    rows, rate = 20_000, 0.2
    dropped = np.array(Dropout(rate, seed=3)(ones(rows, 7), training=True)) == 0
    assert np.abs(dropped.mean(0) - rate).max() < 4 * np.sqrt(rate * (1 - rate) / rows)


def test_nothing_is_dropped_at_inference():
    layer, x = Dropout(0.9), np.random.default_rng(0).normal(size=(3, 5)).astype("float32")
    np.testing.assert_array_equal(layer(x), x)
    np.testing.assert_array_equal(layer(x, training=False), x)


@pytest.mark.parametrize("rate", [0, 0.0, 1e-9])
def test_rate_of_nothing(rate):
    x = ones(2, 3)
    np.testing.assert_array_equal(Dropout(rate)(x, training=True), x)


def test_rate_of_everything():
    np.testing.assert_array_equal(Dropout(1.0)(ones(2, 3), training=True), 0 * ones(2, 3))


@pytest.mark.parametrize("shape", [(1000,), (40, 25), (10, 20, 5), (4, 5, 6, 7), (500, 1), (3, 0)])
def test_any_shape(shape):
    output = np.array(Dropout(0.5, seed=4)(ones(*shape), training=True))
    assert output.shape == shape
    assert set(np.unique(output)) <= {0.0, 2.0}
    if output.size > 100:
        assert 0.3 < (output == 0).mean() < 0.7


def test_seed():
    x = ones(20, 31)
    first, second, other = Dropout(0.5, seed=5), Dropout(0.5, seed=5), Dropout(0.5, seed=6)
    draws = [np.array(first(x, training=True)) for _ in range(3)]
    for draw in draws:
        np.testing.assert_array_equal(second(x, training=True), draw)
    assert (draws[0] != draws[1]).any()
    assert (draws[1] != draws[2]).any()
    assert (np.array(other(x, training=True)) != draws[0]).any()


def test_global_seed():
    draws = []
    for _ in range(2):
        keras.utils.set_random_seed(7)
        draws.append(np.array(Dropout(0.5)(ones(20, 31), training=True)))
    np.testing.assert_array_equal(*draws)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_low_precision(dtype):
    layer = Dropout(0.25, seed=8, dtype=f"mixed_{dtype}")
    output = layer(ones(50, 33), training=True)
    assert keras.backend.standardize_dtype(output.dtype) == dtype
    output = float32(output)
    assert 0.15 < (output == 0).mean() < 0.35
    np.testing.assert_allclose(output[output != 0], 4 / 3, rtol=0.01)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_in_a_graph_of_unknown_sizes(jit_compile):
    layer = Dropout(0.5, seed=9)

    @tf.function(input_signature=[tf.TensorSpec((None, None, None))], jit_compile=jit_compile)
    def graph(x):
        return layer(x, training=True)

    for shape in ((4, 5, 7), (2, 3, 8)):
        output = np.array(graph(ones(*shape)))
        assert output.shape == shape
        assert set(np.unique(output)) == {0.0, 2.0}
    # The state of the generator goes on from call to call in a graph as well.
    assert (np.array(graph(ones(4, 5, 7))) != np.array(graph(ones(4, 5, 7)))).any()


def test_gradient_passes_where_values_pass():
    layer, x = Dropout(0.5, seed=10), tf.ones((4, 9))
    with tf.GradientTape() as tape:
        tape.watch(x)
        output = layer(x, training=True)
    np.testing.assert_array_equal(tape.gradient(output, x), output)


def test_noise_shape_is_keras_own():
    output = np.array(Dropout(0.5, noise_shape=(None, 1), seed=11)(ones(40, 6), training=True))
    assert (output == output[:, :1]).all()
    assert len(np.unique(output)) == 2


def test_keras_file(tmp_path):
    inputs = keras.Input((7,))
    model = keras.Model(inputs, Dropout(0.25, seed=12)(inputs))
    again = round_trip(model, tmp_path)
    assert isinstance(again.layers[1], Dropout)
    assert again.layers[1].get_config() == model.layers[1].get_config()
    x = ones(30, 7)
    np.testing.assert_array_equal(again(x), x)
    np.testing.assert_array_equal(again(x, training=True), model(x, training=True))
