"""Multi-head scaled dot-product attention, as the tutorials write it."""

import contextlib
import contextvars

import keras
from keras import ops

from kerasllm.layers.dense import Dense, shape_of
from kerasllm.layers.dropout import Dropout
from kerasllm.layers.position import alibi_bias, real_positions
from kerasllm.layers.quick_steps import is_quick_step, rows_writer

# Added to the score of a key that must not be seen. Finite and mild: it underflows to a weight of
# exactly 0 in softmax, fits float16, and keeps full-integer quantisation possible (-1e9 does not).
MASKED = -1e4


def padding_bias(padding_mask):
    """Turn a padding mask into an additive attention bias.

    Args:
        padding_mask: `(batch, length)`, 1 = real token, 0 = padding.

    Returns:
        float32 `(batch, 1, 1, length)`: 0 for real keys, `MASKED` for padding.

    Example:
        >>> tuple(padding_bias(np.array([[1, 1, 0]])).shape)
        (1, 1, 1, 3)
    """
    bias = (1.0 - ops.cast(padding_mask, "float32")) * MASKED
    return ops.expand_dims(ops.expand_dims(bias, 1), 1)  # (batch, heads=1, query=1, key)


def causal_bias(length, position=0, num_keys=None, window=0):
    """Make the additive attention bias that hides later tokens from earlier ones.

    Args:
        length: int, or scalar int tensor: number of tokens that look, the queries.
        position: int, or scalar int tensor: index of the first of them among the keys.
        num_keys: int, or scalar int tensor: number of keys; None for `length`.
        window: int, how many tokens one sees, itself and those just before it; 0 for all.

    Returns:
        float32 `(1, 1, length, num_keys)`: 0 where query - window < key <= query, `MASKED`
        elsewhere.

    Example:
        >>> (np.array(causal_bias(2, position=1, num_keys=4))[0, 0] == 0).astype(int).tolist()
        [[1, 1, 0, 0], [1, 1, 1, 0]]

    References:
        Vaswani et al. 2017, "Attention Is All You Need", section 3.2.3; windows: Child et al. 2019,
        "Generating Long Sequences with Sparse Transformers", section 4.
    """
    query = position + ops.arange(length, dtype="int32")
    key = ops.arange(length if num_keys is None else num_keys, dtype="int32")
    ahead = ops.expand_dims(key, 0) - ops.expand_dims(query, 1)  # (query, key)
    hidden = ahead > 0
    if window:
        hidden = ops.logical_or(hidden, ahead <= -window)
    bias = ops.cast(hidden, "float32") * MASKED
    return ops.expand_dims(ops.expand_dims(bias, 0), 0)  # (batch=1, heads=1, query, key)


def write_cache(cache, new, position):
    """Write keys and values into a cache, contiguously.

    Args:
        cache: pair of float `(batch, heads, max_length, projection_dim)`.
        new: pair of float `(batch, heads, length, projection_dim)`.
        position: scalar int32, the row of the first new token. The caller sees to it that
            `position + length <= max_length`: past the end, older rows would be overwritten.

    Returns:
        The pair with the new rows in it.
    """
    start, write = (0, 0, position, 0), rows_writer()
    return tuple(write(old, start, ops.cast(rows, old.dtype)) for old, rows in zip(cache, new))


_recorded = contextvars.ContextVar("recorded", default=None)


@contextlib.contextmanager
def recorded_attention():
    """Keep the weights of all attention that is computed in the meantime, outside of graphs.

    Yields:
        list, to which each layer's weights `(batch, heads, query, key)` are added as it computes.

    Example:
        >>> layer = MultiHeadSelfAttention(8, num_heads=2)
        >>> with recorded_attention() as found:
        ...     _ = layer(np.ones((1, 3, 8), "float32"))
        >>> tuple(found[0].shape)
        (1, 2, 3, 3)
    """
    found = []
    token = _recorded.set(found)
    try:
        yield found
    finally:
        _recorded.reset(token)


def is_recorded():
    """Whether the weights of attention are kept, of all queries."""
    return _recorded.get() is not None


def dot_product_attention(query, key, value, attention_bias=None, dropout=None, scale=None):
    """Weigh `value` by the softmax of the scaled products of `query` and `key`.

    Args:
        query: float `(batch, heads, query, projection_dim)`.
        key: float `(batch, kv_heads, key, projection_dim)`, where `kv_heads` divides `heads`.
        value: float `(batch, kv_heads, key, projection_dim)`.
        attention_bias: float, broadcast to `(batch, heads, query, key)`, or None.
        dropout: function over the weights, or None.
        scale: float, of the products; None for `projection_dim**-0.5`.

    Returns:
        The pair `(output, weights)`: float `(batch, heads, query, projection_dim)` and
        `(batch, heads, query, key)`.

    References:
        Vaswani et al. 2017, "Attention Is All You Need", equation 1; fewer heads for keys and
        values: Ainslie et al. 2023, "GQA", section 2.2.
    """
    # Scaling the query instead of the scores is the same product on a smaller tensor.
    query = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    quick = _is_quick(query, key)
    scores = _scores(query, key, quick)  # (batch, heads, query, key)
    if attention_bias is not None:
        scores = scores + ops.cast(attention_bias, scores.dtype)
    weights = _softmax(scores) if quick else ops.softmax(scores, axis=-1)
    if (found := _recorded.get()) is not None:
        found.append(weights)
    dropped = weights if dropout is None else dropout(weights)
    return _weighted(value, dropped, quick), weights


def _is_quick(query, key):
    """Whether sums, which all threads share, are quicker than products of matrices.

    They are for one row. They aren't exact enough in half precision.
    """
    one_row = query.shape[0] == 1
    in_full = keras.backend.standardize_dtype(query.dtype) == "float32"
    return one_row and in_full and query.shape[1] == key.shape[1] and is_quick_step(query, axis=2)


def _scores(query, key, quick):
    if quick:
        return ops.expand_dims(ops.sum(query * key, axis=-1), 2)
    # Neighbouring heads share a key: as more queries of one head, they need no copies of it.
    together = _in_heads(query, key.shape[1])
    return _in_heads(ops.matmul(together, ops.transpose(key, (0, 1, 3, 2))), query.shape[1])


def _softmax(x):
    """The same as `ops.softmax`, in single operations, which fewer values make quicker."""
    x = ops.exp(x - ops.max(x, axis=-1, keepdims=True))
    return x / ops.sum(x, axis=-1, keepdims=True)


def _weighted(value, weights, quick):
    if quick:
        return ops.sum(ops.transpose(weights, (0, 1, 3, 2)) * value, axis=2, keepdims=True)
    return _in_heads(ops.matmul(_in_heads(weights, value.shape[1]), value), weights.shape[1])


def _in_heads(x, heads):
    """Join or part neighbouring heads: `(batch, heads, rows, width)` of as many `heads`."""
    if x.shape[1] == heads:
        return x
    batch_size, before, rows, width = shape_of(x)
    if not (isinstance(rows, int) and rows < 0):
        rows = before * rows // heads
    return ops.reshape(x, (batch_size, heads, rows, width))


def separate_heads(x, batch_size, projection_dim):
    """Split the last axis into heads.

    Args:
        x: float `(batch, length, heads * projection_dim)`.
        batch_size: int or scalar tensor.
        projection_dim: int, width of a head.

    Returns:
        float `(batch, heads, length, projection_dim)`.
    """
    shape = (batch_size, shape_of(x)[1], x.shape[-1] // projection_dim, projection_dim)
    return ops.transpose(ops.reshape(x, shape), (0, 2, 1, 3))


def join_heads(x, batch_size):
    """Put heads side by side again, the inverse of `separate_heads`.

    Args:
        x: float `(batch, heads, length, projection_dim)`.
        batch_size: int or scalar tensor.

    Returns:
        float `(batch, length, heads * projection_dim)`.
    """
    shape = (batch_size, shape_of(x)[2], x.shape[1] * x.shape[3])
    return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), shape)


@keras.saving.register_keras_serializable(package="kerasllm")
class AttentionBias(keras.layers.Layer):
    """All that says, beside the tokens themselves, who attends to whom in a stack of blocks.

    Args:
        num_heads: int, attention heads.
        causal: bool, whether a token sees only itself and those before it.
        alibi: bool, whether attention falls with distance.
        window: int, how many tokens one sees if `causal`, itself and those just before it; 0 for
            all.

    Call arguments:
        padding_mask: int32 `(batch, key)`, 1 = real token.
        length: int, or scalar int32 tensor: number of queries; None for as many as keys.
        position: int, or scalar int32 tensor: index of the first query among the keys.

    Returns:
        float32, broadcasts to `(batch, heads, query, key)`: what to add to the scores.

    Example:
        >>> tuple(AttentionBias(2, causal=True)(np.array([[1, 1, 0]])).shape)
        (1, 1, 3, 3)

    References:
        See `causal_bias` and `alibi_bias`.
    """

    def __init__(self, num_heads, causal=False, alibi=False, window=0, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.causal = causal
        self.alibi = alibi
        self.window = window

    def call(self, padding_mask, length=None, position=0):
        num_keys = ops.shape(padding_mask)[1]
        bias = padding_bias(padding_mask)
        if self.causal:
            length = num_keys if length is None else length
            bias = bias + causal_bias(length, position, num_keys, self.window)
        if self.alibi:
            bias = bias + alibi_bias(real_positions(padding_mask), self.num_heads)
        return bias

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "causal": self.causal,
            "alibi": self.alibi,
            "window": self.window,
        }


@keras.saving.register_keras_serializable(package="kerasllm")
class MultiHeadSelfAttention(keras.layers.Layer):
    """Attention of a sequence to itself, or to a `context`, in several heads.

    `MultiHeadSelfAttention(embed_dim, num_heads)` called with one tensor is exactly the layer of
    the tutorials; everything else comes as an option.

    Args:
        embed_dim: int, width of input and output; divisible by `num_heads`.
        num_heads: int, number of heads.
        rate: float in [0, 1), dropout on the attention weights.
        projection_dim: int or None, width of a head; None for `embed_dim / num_heads`.
        kernel_initializer: Keras initializer of the four kernels.

    Call arguments:
        inputs: float `(batch, query, embed_dim)`.
        context: float `(batch, key, embed_dim)` or None: what is attended to; None = `inputs`.
        attention_bias: float, broadcast to `(batch, heads, query, key)`, added to the scores
            (see `padding_bias`, `causal_bias`), or None.
        cache: pair of float `(batch, heads, key, projection_dim)`, or None: keys and values to
            attend to. Those of `inputs` are written into it first, if `position` is given.
        position: scalar int32 or None: index of the first token of `inputs` in the cache.
        training: bool, whether dropout is on.

    Returns:
        float `(batch, query, embed_dim)`; with a `cache`, the pair of that and the cache.

    Raises:
        ValueError: `embed_dim` is not divisible by `num_heads`, and no `projection_dim` given.

    Example:
        >>> layer = MultiHeadSelfAttention(32, num_heads=4)
        >>> tuple(layer(np.ones((2, 5, 32), "float32")).shape)
        (2, 5, 32)

    References:
        Vaswani et al. 2017, "Attention Is All You Need", section 3.2, equation 1.
    """

    USE_BIAS = True  # of the four projections
    SCALE = None  # of the scores; None for `projection_dim**-0.5`

    def __init__(
        self,
        embed_dim,
        num_heads=8,
        *,
        rate=0.0,
        projection_dim=None,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if projection_dim is None and embed_dim % num_heads != 0:
            raise ValueError(
                "`embed_dim` must be divisible by `num_heads`. "
                f"Received: embed_dim={embed_dim}, num_heads={num_heads}."
            )
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.projection_dim = projection_dim or embed_dim // num_heads
        self.inner_dim = num_heads * self.projection_dim
        self.rate = rate
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.query_dense = self._dense(self.inner_dim, "query_dense")
        self.key_dense = self._dense(self.inner_dim, "key_dense")
        self.value_dense = self._dense(self.inner_dim, "value_dense")
        self.combine_heads = self._dense(embed_dim, "combine_heads")
        self.dropout = Dropout(rate, dtype=self.dtype_policy, name="dropout")

    def _dense(self, width, name):
        return Dense(
            width,
            use_bias=self.USE_BIAS,
            kernel_initializer=self.kernel_initializer.clone(),
            dtype=self.dtype_policy,
            name=name,
        )

    def build(self, inputs_shape, context_shape=None):
        key_shape = context_shape or inputs_shape
        self.query_dense.build(inputs_shape)
        self.key_dense.build(key_shape)
        self.value_dense.build(key_shape)
        self.combine_heads.build((*inputs_shape[:-1], self.inner_dim))

    def attention(self, query, key, value, attention_bias=None, training=None):
        """Weigh `value` by the softmax of the scaled products of `query` and `key`.

        Args:
            query: float `(batch, heads, query, projection_dim)`.
            key: float `(batch, heads, key, projection_dim)`.
            value: float `(batch, heads, key, projection_dim)`.
            attention_bias: float, broadcast to `(batch, heads, query, key)`, or None.
            training: bool, whether dropout is on.

        Returns:
            The pair `(output, weights)`: float `(batch, heads, query, projection_dim)` and
            `(batch, heads, query, key)`.
        """
        return dot_product_attention(
            query,
            key,
            value,
            attention_bias,
            lambda x: self.dropout(x, training=training),
            self.SCALE,
        )

    def separate_heads(self, x, batch_size):
        """Split the last axis into heads.

        Args:
            x: float `(batch, length, heads * projection_dim)`.
            batch_size: int or scalar tensor.

        Returns:
            float `(batch, heads, length, projection_dim)`.
        """
        return separate_heads(x, batch_size, self.projection_dim)

    def keys_and_values(self, context):
        """Make what `context` can be attended by, as it stands in a cache.

        Args:
            context: float `(batch, key, embed_dim)`.

        Returns:
            The pair `(key, value)`, both float `(batch, heads, key, projection_dim)`.
        """
        batch_size = shape_of(context)[0]
        key = self.separate_heads(self.key_dense(context), batch_size)
        value = self.separate_heads(self.value_dense(context), batch_size)
        return key, value

    def call(
        self,
        inputs,
        context=None,
        attention_bias=None,
        cache=None,
        position=None,
        training=None,
    ):
        batch_size = shape_of(inputs)[0]
        query = self.separate_heads(self.query_dense(inputs), batch_size)
        if cache is None:
            key, value = self.keys_and_values(inputs if context is None else context)
        elif position is None:
            key, value = cache
        else:
            cache = write_cache(cache, self.keys_and_values(inputs), position)
            key, value = cache
        output, _ = self.attention(query, key, value, attention_bias, training)
        output = self.combine_heads(join_heads(output, batch_size))  # (batch, query, embed_dim)
        return output if cache is None else (output, cache)

    def compute_output_shape(self, inputs_shape, context_shape=None):
        return inputs_shape

    def get_config(self):
        return {
            **super().get_config(),
            "embed_dim": self.embed_dim,
            "num_heads": self.num_heads,
            "rate": self.rate,
            "projection_dim": self.projection_dim,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
