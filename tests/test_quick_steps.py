"""What is quick for one token is the same as what is quick for many."""

import keras
import numpy as np
import pytest
from keras import ops

from kerasllm.layers import Dense, MultiHeadSelfAttention, RotaryAttention, quick_steps
from kerasllm.layers.quick_steps import is_quick_step, rows_writer


def written(shapes):
    """A writer of rows that notes its calls, and does as the plain one."""

    def write(cache, start, rows):
        shapes.append(tuple(rows.shape))
        return ops.slice_update(cache, start, rows)

    return write


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_of_one_token(batch, dtype):
    layer = MultiHeadSelfAttention(8, num_heads=2, dtype=dtype)
    random = np.random.default_rng(0)
    x = random.normal(size=(batch, 1, 8)).astype("float32")
    cache = tuple(random.normal(size=(batch, 2, 5, 4)).astype("float32") for _ in range(2))
    bias = np.where(np.arange(5) < 4, 0.0, -1e4).astype("float32")[None, None, None]
    plain, rows = layer(x, attention_bias=bias, cache=cache, position=3), []
    with quick_steps(written(rows)):
        quick = layer(x, attention_bias=bias, cache=cache, position=3)
    assert rows == [(batch, 2, 1, 4)] * 2
    for ours, theirs in zip(keras.tree.flatten(quick), keras.tree.flatten(plain)):
        ours, theirs = (ops.convert_to_numpy(ops.cast(x, "float32")) for x in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_shared_keys_and_several_tokens():
    layer = RotaryAttention(8, num_heads=4, num_kv_heads=2, projection_dim=4)
    random = np.random.default_rng(0)
    rotation = tuple(random.normal(size=(1, 1, 3, 2)).astype("float32") for _ in range(2))
    x = random.normal(size=(1, 3, 8)).astype("float32")
    cache = tuple(random.normal(size=(1, 2, 4, 4)).astype("float32") for _ in range(2))
    for length in (1, 3):
        options = {"rotation": tuple(part[:, :, :length] for part in rotation)}
        options |= {"cache": cache, "position": 1}
        plain, _ = layer(x[:, :length], **options)
        with quick_steps(ops.slice_update):
            quick, _ = layer(x[:, :length], **options)
        np.testing.assert_allclose(quick, plain, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 5), (2, 1, 5), (1, 3, 5), (2, 3, 1, 5)])
def test_dense_of_any_rank(shape):
    layer = Dense(4, activation="gelu")
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    plain = layer(x)
    with quick_steps(ops.slice_update):
        quick = layer(x)
    assert quick.shape == plain.shape
    np.testing.assert_allclose(quick, plain, atol=1e-6)


def test_the_context_ends():
    x = np.zeros((2, 1, 3))
    with quick_steps(print):
        assert is_quick_step(x, axis=1)
        assert not is_quick_step(x, axis=2)
        assert not is_quick_step(x, axis=3)
        assert rows_writer() is print
    assert not is_quick_step(x, axis=1)
    assert rows_writer() is ops.slice_update
