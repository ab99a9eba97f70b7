"""Where a token stands, without a table of weights: sinusoids, and attention biased by distance."""

import math

import numpy as np
from keras import ops


def sinusoids(max_length, embed_dim):
    """Make the fixed position vectors of the original Transformer.

    The sines fill the first half of a vector and the cosines the second, as in the authors' code
    (the paper's formula interleaves them, which is the same up to the order of the columns).

    Args:
        max_length: int, number of positions.
        embed_dim: int, width.

    Returns:
        NumPy float32 `(max_length, embed_dim)`.

    Example:
        >>> sinusoids(2, 4).round(2).tolist()
        [[0.0, 0.0, 1.0, 1.0], [0.8399999737739563, 0.009999999776482582, 0.5400000214576721, 1.0]]

    References:
        Vaswani et al. 2017, "Attention Is All You Need", section 3.5.
    """
    column = np.arange(embed_dim) // 2 * 2
    angles = np.arange(max_length)[:, None] / 10000.0 ** (column / embed_dim)
    waves = [np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])]
    return np.concatenate(waves, axis=1).astype("float32")


def alibi_slopes(num_heads):
    """Say how fast each head's attention falls with distance.

    Args:
        num_heads: int.

    Returns:
        NumPy float32 `(num_heads,)`: a geometric series; where `num_heads` is no power of two, the
        series of the next lower one, and then every other member of the next higher one's.

    Example:
        >>> alibi_slopes(4).tolist()
        [0.25, 0.0625, 0.015625, 0.00390625]

    References:
        Press et al. 2021, "Train Short, Test Long", section 3 and its code.
    """
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = _geometric(power) + _geometric(2 * power)[0::2]
    return np.array(slopes[:num_heads], "float32")


def _geometric(count):
    return [2.0 ** (-8.0 * (i + 1) / count) for i in range(count)]


def alibi_bias(key_positions, num_heads):
    """Make the additive attention bias that grows toward later keys, differently in each head.

    Softmax only sees differences, so the bias needs no query: for a causal model, growing toward
    the query is falling with distance from it.

    Args:
        key_positions: int `(batch, key)`, or `(1, key)`.
        num_heads: int.

    Returns:
        float32 `(batch, heads, 1, key)`.

    References:
        Press et al. 2021, "Train Short, Test Long", section 3.
    """
    slopes = ops.convert_to_tensor(alibi_slopes(num_heads).reshape(1, num_heads, 1, 1))
    positions = ops.cast(key_positions, "float32")
    return slopes * ops.expand_dims(ops.expand_dims(positions, 1), 1)


def real_positions(padding_mask):
    """Number the real tokens of each row from 0, wherever the padding is.

    Args:
        padding_mask: int `(batch, length)`, 1 = real token.

    Returns:
        int32 `(batch, length)`; -1 for padding.
    """
    mask = ops.cast(padding_mask, "int32")
    return ops.cumsum(mask, axis=1) * mask - 1
