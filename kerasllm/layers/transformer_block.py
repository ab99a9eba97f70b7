"""One block of a Transformer, as the tutorials write it."""

import math

import keras
from keras import ops

from kerasllm.layers.attention import MultiHeadSelfAttention
from kerasllm.layers.dense import Dense
from kerasllm.layers.dropout import Dropout


@keras.saving.register_keras_serializable(package="kerasllm")
def gelu(x):
    """GELU, exactly.

    Written out, because Keras' own goes through `erfc`, which takes twice as long on a CPU.

    Args:
        x: float, any shape.

    Returns:
        float, shape of `x`.

    References:
        Hendrycks and Gimpel 2016, "Gaussian Error Linear Units", section 2.
    """
    return 0.5 * x * (1.0 + ops.erf(x * math.sqrt(0.5)))


@keras.saving.register_keras_serializable(package="kerasllm")
def gelu_tanh(x):
    """The tanh approximation of GELU.

    Args:
        x: float, any shape.

    Returns:
        float, shape of `x`.

    References:
        Hendrycks and Gimpel 2016, "Gaussian Error Linear Units", section 2.
    """
    return ops.gelu(x, approximate=True)


def activation_function(name):
    """Return the activation that `TransformerConfig.activation` names.

    Args:
        name: str, one of `kerasllm.config.ACTIVATIONS`, or any name that Keras knows.

    Returns:
        A function from tensor to tensor of the same shape.
    """
    return {"gelu": gelu, "gelu_tanh": gelu_tanh}.get(name) or keras.activations.get(name)


def rows_at(x, positions):
    """Take rows of each sequence by their positions.

    Args:
        x: `(batch, length, width)`.
        positions: int `(batch, taken)`, a slice, the same for all sequences, or None for all rows.

    Returns:
        `(batch, taken, width)`.

    Example:
        >>> np.array(rows_at(np.arange(6).reshape(1, 3, 2), np.array([[2, 0]]))).tolist()
        [[[4, 5], [0, 1]]]
    """
    if positions is None:
        return x
    if isinstance(positions, slice):
        return x[:, positions, :]
    batch, length = ops.shape(x)[0], ops.shape(x)[1]
    first = ops.expand_dims(ops.arange(batch, dtype="int32") * length, 1)
    # Whole rows at once: `take_along_axis` would gather number by number.
    flat = ops.reshape(x, (-1, x.shape[-1]))
    return ops.take(flat, first + ops.cast(positions, "int32"), axis=0)


@keras.saving.register_keras_serializable(package="kerasllm")
class TransformerBlock(keras.layers.Layer):
    """Attention and feed-forward network, each with dropout, residual sum and LayerNorm.

    `TransformerBlock(embed_dim, num_heads, ff_dim, rate)` called with one tensor is exactly the
    tutorials' post-norm block; everything else comes as an option.

    Args:
        embed_dim: int, width of input and output; divisible by `num_heads`.
        num_heads: int, attention heads.
        ff_dim: int, inner width of `ffn`.
        rate: float in [0, 1), dropout on the output of both sublayers.
        attention_rate: float in [0, 1), dropout on the attention weights.
        activation: str, of the first `Dense` of `ffn`.
        norm_first: bool, LayerNorm before each sublayer (pre-norm) instead of after the sum.
        epsilon: float, added to the variance in LayerNorm.
        cross_attention: bool, adds a sublayer `cross_att` that attends to `context`.
        kernel_initializer: Keras initializer of every kernel.

    Call arguments:
        inputs: float `(batch, length, embed_dim)`.
        attention_bias: float, broadcast to `(batch, heads, length, length)`, or None.
        context: float `(batch, context_length, embed_dim)`; needed if `cross_attention`.
        context_bias: float, broadcast to `(batch, heads, length, context_length)`, or None.
        cache: pair of float `(batch, heads, max_length, projection_dim)`, the keys and values of
            the tokens before `position`, or None. With `cross_attention` two more follow, those of
            the context, and `context` itself is not needed.
        position: scalar int32 or None: index of the first token of `inputs` in the cache.
        rows: which rows are wanted, as for `rows_at`, None for all. The others are only attended
            to, which saves most of the work. `attention_bias` is then the same for all.
        training: bool, whether dropout is on.

    Returns:
        float `(batch, length, embed_dim)`, or `(batch, taken, embed_dim)` with `rows`; with a
        `cache`, the pair of that and the cache.

    Raises:
        ValueError: `embed_dim` is not divisible by `num_heads`, or `context` does not go with
            `cross_attention`.

    Example:
        >>> layer = TransformerBlock(32, num_heads=4, ff_dim=64)
        >>> tuple(layer(np.ones((2, 5, 32), "float32")).shape)
        (2, 5, 32)

    References:
        Vaswani et al. 2017, "Attention Is All You Need", section 3.1; pre-norm: Xiong et al. 2020,
        "On Layer Normalization in the Transformer Architecture", section 3.
    """

    USE_BIAS = True  # of the layers of `ffn`

    def __init__(
        self,
        embed_dim,
        num_heads,
        ff_dim,
        rate=0.1,
        *,
        attention_rate=0.0,
        activation="relu",
        norm_first=False,
        epsilon=1e-6,
        cross_attention=False,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.ff_dim = ff_dim
        self.rate = rate
        self.attention_rate = attention_rate
        self.activation = activation
        self.norm_first = norm_first
        self.epsilon = epsilon
        self.cross_attention = cross_attention
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.att = self._attention("att")
        self.ffn = self._feed_forward("ffn")
        self.layernorm1 = self._layernorm("layernorm1")
        self.layernorm2 = self._layernorm("layernorm2")
        self.dropout1 = self._dropout("dropout1")
        self.dropout2 = self._dropout("dropout2")
        if cross_attention:
            self.cross_att = self._attention("cross_att")
            self.cross_layernorm = self._layernorm("cross_layernorm")
            self.cross_dropout = self._dropout("cross_dropout")

    def _initializer(self):
        return self.kernel_initializer.clone()

    def _attention(self, name):
        return MultiHeadSelfAttention(
            self.embed_dim,
            self.num_heads,
            rate=self.attention_rate,
            kernel_initializer=self._initializer(),
            dtype=self.dtype_policy,
            name=name,
        )

    def _feed_forward(self, name):
        return keras.Sequential(
            [
                self._dense(self.ff_dim, "expand", activation_function(self.activation)),
                self._dense(self.embed_dim, "project"),
            ],
            name=name,
        )

    def _dense(self, width, name, activation=None):
        return Dense(
            width,
            activation=activation,
            use_bias=self.USE_BIAS,
            kernel_initializer=self._initializer(),
            dtype=self.dtype_policy,
            name=name,
        )

    def _layernorm(self, name):
        return keras.layers.LayerNormalization(
            epsilon=self.epsilon, dtype=self.dtype_policy, name=name
        )

    def _dropout(self, name):
        return Dropout(self.rate, dtype=self.dtype_policy, name=name)

    def build(self, inputs_shape, context_shape=None):
        self.att.build(inputs_shape)
        self.ffn.build(inputs_shape)
        self.layernorm1.build(inputs_shape)
        self.layernorm2.build(inputs_shape)
        if self.cross_attention:
            self.cross_att.build(inputs_shape, context_shape or inputs_shape)
            self.cross_layernorm.build(inputs_shape)

    def call(
        self,
        inputs,
        attention_bias=None,
        context=None,
        context_bias=None,
        cache=None,
        position=None,
        rows=None,
        training=None,
    ):
        self._check_context(context, cache)
        own, of_context = (None, None) if cache is None else (cache[:2], cache[2:])

        def attend(x):
            nonlocal own
            x = self.att(
                rows_at(x, rows),
                None if rows is None else x,
                attention_bias=attention_bias,
                cache=own,
                position=position,
                training=training,
            )
            x, own = (x, None) if cache is None else x
            return self.dropout1(x, training=training)

        def attend_to_context(x):
            x = self.cross_att(
                x, context, attention_bias=context_bias, cache=of_context, training=training
            )
            x = x if cache is None else x[0]  # what is known of the context stays as it is
            return self.cross_dropout(x, training=training)

        def transform(x):
            return self.dropout2(self.ffn(x), training=training)

        x = self._residual(inputs, attend, self.layernorm1, rows)
        if self.cross_attention:
            x = self._residual(x, attend_to_context, self.cross_layernorm)
        x = self._residual(x, transform, self.layernorm2)
        return x if cache is None else (x, (*own, *of_context))

    def _check_context(self, context, cache):
        if cache is None and (context is not None) != self.cross_attention:
            raise ValueError(
                "`context` must be given exactly when the block has `cross_attention`. Received: "
                f"cross_attention={self.cross_attention}, context of type {type(context).__name__}."
            )
        if cache is not None and len(cache) != (4 if self.cross_attention else 2):
            raise ValueError(
                "`cache` must hold keys and values, and those of the context exactly when the "
                f"block has `cross_attention`. Received: cross_attention={self.cross_attention}, "
                f"{len(cache)} tensors."
            )

    def _residual(self, x, sublayer, layernorm, rows=None):
        if self.norm_first:
            return rows_at(x, rows) + sublayer(layernorm(x))
        return layernorm(rows_at(x, rows) + sublayer(x))

    def compute_output_shape(self, inputs_shape, context_shape=None):
        return inputs_shape

    def get_config(self):
        return {
            **super().get_config(),
            "embed_dim": self.embed_dim,
            "num_heads": self.num_heads,
            "ff_dim": self.ff_dim,
            "rate": self.rate,
            "attention_rate": self.attention_rate,
            "activation": self.activation,
            "norm_first": self.norm_first,
            "epsilon": self.epsilon,
            "cross_attention": self.cross_attention,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
