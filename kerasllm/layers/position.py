"""Where a token stands, without a table of weights: sinusoids, biases by distance, rotations."""

import math

import keras
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


def distance_buckets(num_buckets, max_distance, causal=False):
    """Sort distances into buckets: the near ones one by one, the far ones ever more coarsely.

    Args:
        num_buckets: int, how many there are.
        max_distance: int, tokens from which on all distances share the last bucket.
        causal: bool, whether all buckets are for keys before the query; else half of them are for
            those after it.

    Returns:
        NumPy int32 `(2 * max_distance + 1,)`: the bucket of each distance from the query to the
        key, from `-max_distance` to `max_distance`.

    Example:
        >>> distance_buckets(8, 6).tolist()
        [3, 3, 3, 2, 2, 1, 0, 5, 6, 6, 7, 7, 7]

    References:
        Raffel et al. 2019, "Exploring the Limits of Transfer Learning", section 2.1, and its code.
    """
    distance = np.arange(-max_distance, max_distance + 1)
    after = distance > 0
    if not causal:
        num_buckets //= 2
    far = np.where(after & causal, 0, np.abs(distance))
    exact = num_buckets // 2
    # In float32 from the start, as the models were trained: at a limit, every bit is a bucket.
    growth = np.log(np.maximum(far, 1).astype("float32") / np.float32(exact))
    growth = growth / np.float32(math.log(max_distance / exact)) * np.float32(num_buckets - exact)
    coarse = np.minimum(exact + growth.astype("int32"), num_buckets - 1)
    bucket = np.where(far < exact, far, coarse)
    return (bucket if causal else bucket + after * num_buckets).astype("int32")


def real_positions(padding_mask):
    """Number the real tokens of each row from 0, wherever the padding is.

    Args:
        padding_mask: int `(batch, length)`, 1 = real token.

    Returns:
        int32 `(batch, length)`; -1 for padding.
    """
    mask = ops.cast(padding_mask, "int32")
    return ops.cumsum(mask, axis=1) * mask - 1


def rotate(x, rotation):
    """Turn queries or keys by the angles of their positions.

    The first half of a vector holds the pairs' first coordinates and the second half the others,
    as in published checkpoints (the paper interleaves them, which is the same up to the order).

    Args:
        x: float `(batch, heads, length, projection_dim)`.
        rotation: pair of float `(batch, 1, length, projection_dim / 2)`, from `RotaryPositions`.

    Returns:
        float, shape of `x`.

    References:
        Su et al. 2021, "RoFormer", section 3.2.2 and equation 34.
    """
    cosine, sine = rotation
    first, second = ops.split(x, 2, axis=-1)
    return ops.concatenate(
        [first * cosine - second * sine, second * cosine + first * sine], axis=-1
    )


@keras.saving.register_keras_serializable(package="kerasllm")
class RotaryPositions(keras.layers.Layer):
    """The rotation by which each token's queries and keys say where it stands.

    Args:
        projection_dim: int, width of a head; even.
        theta: float, base of the wave lengths.
        scaling: dict or None, the fields of `kerasllm.config.RopeScaling`.

    Call arguments:
        padding_mask: int32 `(batch, key)`, 1 = real token. Positions are counted over the real
            ones, so that padding at the left changes nothing.
        length: int, or scalar int32 tensor: number of queries; None for as many as keys.
        position: int, or scalar int32 tensor: index of the first query among the keys.

    Returns:
        The pair of float32 `(batch, 1, length, projection_dim / 2)`: cosines and sines, for
        `rotate`.

    Example:
        >>> cosine, sine = RotaryPositions(8)(np.array([[0, 1, 1]]))
        >>> np.array(cosine[0, 0, 1]).tolist(), tuple(sine.shape)
        ([1.0, 1.0, 1.0, 1.0], (1, 1, 3, 4))

    References:
        Su et al. 2021, "RoFormer", section 3.2; of the scaling, see `RopeScaling`.
    """

    def __init__(self, projection_dim, theta=10000.0, scaling=None, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.projection_dim = projection_dim
        self.theta = theta
        self.scaling = scaling

    def call(self, padding_mask, length=None, position=0):
        positions = real_positions(padding_mask)  # (batch, key)
        if length is not None:
            index = position + ops.arange(length, dtype="int32")
            positions = ops.take(positions, index, axis=1)  # (batch, length)
        positions = ops.cast(positions, "float32")
        frequencies, scale = self._frequencies(ops.max(positions) + 1.0)
        angles = ops.expand_dims(positions, -1) * ops.cast(frequencies, "float32")
        angles = ops.expand_dims(angles, 1)  # (batch, heads=1, length, projection_dim / 2)
        return ops.cos(angles) * scale, ops.sin(angles) * scale

    def _frequencies(self, length):
        """How far each pair turns from one position to the next, and the scale of attention."""
        # In float32 from the start, as the models were trained: far away, every bit is an angle.
        pairs = np.arange(0, self.projection_dim, 2, dtype="float32") / self.projection_dim
        frequencies = 1.0 / np.power(np.float32(self.theta), pairs)
        if self.scaling is None:
            return frequencies, 1.0
        stretched = SCALINGS[self.scaling["kind"]]
        frequencies = stretched(frequencies, length, theta=self.theta, **self.scaling)
        return frequencies, attention_scale(**self.scaling)

    def get_config(self):
        return {
            **super().get_config(),
            "projection_dim": self.projection_dim,
            "theta": self.theta,
            "scaling": self.scaling,
        }


def _linear(frequencies, length, *, factor, **_):
    return frequencies / factor


def _dynamic(frequencies, length, *, factor, original_max_length, **_):
    """The base grows with the longest text of the batch, once that is beyond the original."""
    longer = ops.maximum(length / original_max_length, 1.0)
    growth = factor * longer - (factor - 1.0)
    pairs = np.arange(len(frequencies)) / max(len(frequencies) - 1, 1)
    return ops.cast(frequencies, "float32") * ops.power(growth, ops.cast(-pairs, "float32"))


def _llama3(frequencies, length, *, factor, original_max_length, slow, fast, **_):
    turns = original_max_length * frequencies / (2 * math.pi)
    kept = np.clip((turns - slow) / (fast - slow), 0, 1)
    return frequencies * (kept + (1 - kept) / factor)


def _yarn(frequencies, length, *, theta, factor, original_max_length, slow, fast, **_):
    count = len(frequencies)

    def pair_with(turns):
        return count * math.log(original_max_length / (turns * 2 * math.pi)) / math.log(theta)

    first = max(math.floor(pair_with(fast)), 0)
    last = min(math.ceil(pair_with(slow)), 2 * count - 1)
    width = last - first or 0.001
    kept = 1 - np.clip((np.arange(count) - first) / width, 0, 1)
    return frequencies * (kept + (1 - kept) / factor)


def _longrope(frequencies, length, *, original_max_length, short_factors, long_factors, **_):
    factors = ops.where(
        length > original_max_length,
        ops.convert_to_tensor(long_factors, "float32"),
        ops.convert_to_tensor(short_factors, "float32"),
    )
    return ops.cast(frequencies, "float32") / factors


# How frequencies change so that positions reach further; the names are those of `RopeScaling.kind`.
SCALINGS = {
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}


def attention_scale(kind, factor, original_max_length=0, attention_factor=0.0, **_):
    """Say by how much rotated queries and keys grow, which sharpens attention over longer texts.

    Args:
        kind: str, a name in `SCALINGS`.
        factor: float, how many times longer texts become.
        original_max_length: int, the longest before.
        attention_factor: float, the answer; 0 for what the method's paper has.

    Returns:
        float.

    References:
        Peng et al. 2023, "YaRN", equation 22; Ding et al. 2024, "LongRoPE", and its code.
    """
    if attention_factor:
        return attention_factor
    if kind == "yarn":
        return 0.1 * math.log(factor) + 1.0
    if kind == "longrope":
        return math.sqrt(1.0 + math.log(factor) / math.log(original_max_length))
    return 1.0
