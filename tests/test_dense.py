import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasllm.layers import Dense


def filled(cls, shape, **options):
    layer = cls(6, **options)
    layer.build(shape)
    generator = np.random.default_rng(0)
    for weight in layer.weights:
        weight.assign(generator.normal(size=weight.shape))
    return layer


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (2, 3, 5, 4), (0, 3, 4)])
@pytest.mark.parametrize("options", [{}, {"use_bias": False}, {"activation": "tanh"}])
def test_it_computes_what_keras_dense_does(shape, options):
    x = np.random.default_rng(1).normal(size=shape).astype("float32")
    ours, theirs = (filled(cls, shape, **options)(x) for cls in (Dense, keras.layers.Dense))
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "mixed_float16"])
def test_half_precision(dtype):
    x = np.random.default_rng(1).normal(size=(2, 3, 4)).astype("float32")
    layer = filled(Dense, x.shape, dtype=dtype)
    assert keras.backend.standardize_dtype(layer(x).dtype) == layer.compute_dtype
    exact = np.array(filled(Dense, x.shape)(x))
    np.testing.assert_allclose(
        np.array(keras.ops.cast(layer(x), "float32")), exact, rtol=0, atol=0.05
    )


def test_the_bias_follows_the_product_at_once():
    # Else TensorFlow does not fuse them, on tensors of three axes and of unknown size.
    layer = filled(Dense, (None, None, 4))
    spec = tf.TensorSpec((None, None, 4), "float32")
    graph = tf.function(layer.call).get_concrete_function(spec).graph
    (bias,) = [op for op in graph.get_operations() if op.type == "BiasAdd"]
    assert bias.inputs[0].op.type == "MatMul"


def test_it_comes_back_from_its_config():
    layer = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(Dense(6, activation="tanh", name="some"))
    )
    assert type(layer) is Dense
    assert (layer.units, layer.name) == (6, "some")
