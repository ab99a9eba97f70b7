"""The block of LLaMA and its kin: rotary positions, grouped queries, RMSNorm, a gated FFN."""

import keras

from kerasllm.layers.attention import (
    dot_product_attention,
    join_heads,
    separate_heads,
    write_cache,
)
from kerasllm.layers.dense import Dense, shape_of
from kerasllm.layers.dropout import Dropout
from kerasllm.layers.position import rotate
from kerasllm.layers.transformer_block import activation_function


@keras.saving.register_keras_serializable(package="kerasllm")
class RotaryAttention(keras.layers.Layer):
    """Attention of a sequence to itself, where queries and keys are rotated by their positions.

    Args:
        embed_dim: int, width of input and output.
        num_heads: int, heads of the queries.
        num_kv_heads: int, heads of keys and values; divides `num_heads`.
        projection_dim: int, width of a head; even.
        rate: float in [0, 1), dropout on the attention weights.
        qkv_bias: bool, whether the projections to queries, keys and values have a bias.
        output_bias: bool, whether the projection back has one.
        qk_norm: bool, RMSNorm over each query and each key before they are rotated.
        epsilon: float, added to the mean square in it.
        kernel_initializer: Keras initializer of the four kernels.

    Call arguments:
        inputs: float `(batch, length, embed_dim)`.
        attention_bias: float, broadcast to `(batch, heads, length, key)`, or None.
        rotation: pair of float `(batch, 1, length, projection_dim / 2)`, from `RotaryPositions`.
        cache: pair of float `(batch, kv_heads, key, projection_dim)`, or None: keys (rotated) and
            values to attend to, once those of `inputs` are written into it.
        position: scalar int32 or None: index of the first token of `inputs` in the cache.
        training: bool, whether dropout is on.

    Returns:
        float `(batch, length, embed_dim)`; with a `cache`, the pair of that and the cache.

    Raises:
        ValueError: `num_heads` is not divisible by `num_kv_heads`, or `projection_dim` is odd.

    Example:
        >>> layer = RotaryAttention(32, num_heads=4, num_kv_heads=2, projection_dim=8)
        >>> rotation = np.ones((1, 1, 5, 4), "float32"), np.zeros((1, 1, 5, 4), "float32")
        >>> tuple(layer(np.ones((2, 5, 32), "float32"), rotation=rotation).shape)
        (2, 5, 32)

    References:
        Su et al. 2021, "RoFormer", equation 16; grouped queries: Ainslie et al. 2023, "GQA",
        section 2.2; norms of queries and keys: Henry et al. 2020, "Query-Key Normalization for
        Transformers".
    """

    def __init__(
        self,
        embed_dim,
        num_heads,
        num_kv_heads,
        projection_dim,
        *,
        rate=0.0,
        qkv_bias=False,
        output_bias=False,
        qk_norm=False,
        epsilon=1e-6,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if num_heads % num_kv_heads:
            raise ValueError(
                "`num_heads` must be divisible by `num_kv_heads`. "
                f"Received: num_heads={num_heads}, num_kv_heads={num_kv_heads}."
            )
        if projection_dim % 2:
            raise ValueError(
                f"`projection_dim` must be even, to rotate in pairs. Received: {projection_dim}."
            )
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.projection_dim = projection_dim
        self.rate = rate
        self.qkv_bias = qkv_bias
        self.output_bias = output_bias
        self.qk_norm = qk_norm
        self.epsilon = epsilon
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.query_dense = self._dense("query_dense", num_heads * projection_dim, qkv_bias)
        self.key_dense = self._dense("key_dense", num_kv_heads * projection_dim, qkv_bias)
        self.value_dense = self._dense("value_dense", num_kv_heads * projection_dim, qkv_bias)
        self.combine_heads = self._dense("combine_heads", embed_dim, output_bias)
        if qk_norm:
            self.query_norm = self._norm("query_norm")
            self.key_norm = self._norm("key_norm")
        self.dropout = Dropout(rate, dtype=self.dtype_policy, name="dropout")

    def _dense(self, name, width, use_bias):
        return Dense(
            width,
            use_bias=use_bias,
            kernel_initializer=self.kernel_initializer.clone(),
            dtype=self.dtype_policy,
            name=name,
        )

    def _norm(self, name):
        return keras.layers.RMSNormalization(
            epsilon=self.epsilon, dtype=self.dtype_policy, name=name
        )

    def build(self, inputs_shape):
        for dense in (self.query_dense, self.key_dense, self.value_dense):
            dense.build(inputs_shape)
        self.combine_heads.build((*inputs_shape[:-1], self.num_heads * self.projection_dim))
        if self.qk_norm:
            self.query_norm.build((None, None, None, self.projection_dim))
            self.key_norm.build((None, None, None, self.projection_dim))

    def call(
        self,
        inputs,
        attention_bias=None,
        rotation=None,
        cache=None,
        position=None,
        training=None,
    ):
        batch_size = shape_of(inputs)[0]
        query, key, value = (
            separate_heads(dense(inputs), batch_size, self.projection_dim)
            for dense in (self.query_dense, self.key_dense, self.value_dense)
        )
        if self.qk_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        query, key = rotate(query, rotation), rotate(key, rotation)
        if cache is not None:
            cache = write_cache(cache, (key, value), position)
            key, value = cache
        output, _ = dot_product_attention(
            query, key, value, attention_bias, lambda x: self.dropout(x, training=training)
        )
        output = self.combine_heads(join_heads(output, batch_size))  # (batch, length, embed_dim)
        return output if cache is None else (output, cache)

    def compute_output_shape(self, inputs_shape):
        return inputs_shape

    def get_config(self):
        return {
            **super().get_config(),
            "embed_dim": self.embed_dim,
            "num_heads": self.num_heads,
            "num_kv_heads": self.num_kv_heads,
            "projection_dim": self.projection_dim,
            "rate": self.rate,
            "qkv_bias": self.qkv_bias,
            "output_bias": self.output_bias,
            "qk_norm": self.qk_norm,
            "epsilon": self.epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


@keras.saving.register_keras_serializable(package="kerasllm")
class GatedFeedForward(keras.layers.Layer):
    """A feed-forward network whose inner values are let through by a gate.

    Args:
        embed_dim: int, width of input and output.
        ff_dim: int, inner width.
        activation: str, of the gate; `"silu"` makes it SwiGLU.
        rate: float in [0, 1), dropout on the inner values.
        use_bias: bool, whether the three projections have a bias.
        kernel_initializer: Keras initializer of their kernels.

    Call arguments:
        inputs: float `(batch, length, embed_dim)`.
        training: bool, whether dropout is on.

    Returns:
        float `(batch, length, embed_dim)`.

    Example:
        >>> tuple(GatedFeedForward(32, 64)(np.ones((2, 5, 32), "float32")).shape)
        (2, 5, 32)

    References:
        Shazeer 2020, "GLU Variants Improve Transformer", equation 6.
    """

    def __init__(
        self,
        embed_dim,
        ff_dim,
        activation="silu",
        *,
        rate=0.0,
        use_bias=False,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.embed_dim = embed_dim
        self.ff_dim = ff_dim
        self.activation = activation
        self.rate = rate
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.gate = self._dense("gate", ff_dim, activation_function(activation))
        self.expand = self._dense("expand", ff_dim)
        self.project = self._dense("project", embed_dim)
        self.dropout = Dropout(rate, dtype=self.dtype_policy, name="dropout")

    def build(self, inputs_shape):
        self.gate.build(inputs_shape)
        self.expand.build(inputs_shape)
        self.project.build((*inputs_shape[:-1], self.ff_dim))

    def _dense(self, name, width, activation=None):
        return Dense(
            width,
            activation=activation,
            use_bias=self.use_bias,
            kernel_initializer=self.kernel_initializer.clone(),
            dtype=self.dtype_policy,
            name=name,
        )

    def call(self, inputs, training=None):
        inner = self.gate(inputs) * self.expand(inputs)  # (batch, length, ff_dim)
        return self.project(self.dropout(inner, training=training))

    def compute_output_shape(self, inputs_shape):
        return inputs_shape

    def get_config(self):
        return {
            **super().get_config(),
            "embed_dim": self.embed_dim,
            "ff_dim": self.ff_dim,
            "activation": self.activation,
            "rate": self.rate,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


@keras.saving.register_keras_serializable(package="kerasllm")
class LlamaBlock(keras.layers.Layer):
    """Rotary attention and a gated feed-forward network, each behind RMSNorm, with residual sums.

    Args:
        embed_dim: int, width of input and output.
        num_heads: int, heads of the queries.
        num_kv_heads: int, heads of keys and values; divides `num_heads`.
        projection_dim: int, width of a head; even.
        ff_dim: int, inner width of `ffn`.
        attention_rate: float in [0, 1), dropout on the attention weights.
        activation: str, of the gate of `ffn`.
        epsilon: float, added to the mean square in RMSNorm.
        qkv_bias: bool, whether the projections to queries, keys and values have a bias.
        output_bias: bool, whether attention's projection back has one.
        ffn_bias: bool, whether the projections of `ffn` have one.
        qk_norm: bool, RMSNorm over each query and each key.
        kernel_initializer: Keras initializer of every kernel.

    Call arguments:
        inputs: float `(batch, length, embed_dim)`.
        attention_bias: float, broadcast to `(batch, heads, length, key)`, or None.
        rotation: pair of float `(batch, 1, length, projection_dim / 2)`, from `RotaryPositions`.
        cache: pair of float `(batch, kv_heads, max_length, projection_dim)`, or None: the keys
            (rotated) and values of the tokens before `position`.
        position: scalar int32 or None: index of the first token of `inputs` in the cache.
        training: bool, whether dropout is on.

    Returns:
        float `(batch, length, embed_dim)`; with a `cache`, the pair of that and the cache.

    Raises:
        ValueError: as for `RotaryAttention`.

    Example:
        >>> layer = LlamaBlock(32, num_heads=4, num_kv_heads=2, projection_dim=8, ff_dim=64)
        >>> rotation = np.ones((1, 1, 5, 4), "float32"), np.zeros((1, 1, 5, 4), "float32")
        >>> tuple(layer(np.ones((2, 5, 32), "float32"), rotation=rotation).shape)
        (2, 5, 32)

    References:
        Touvron et al. 2023, "LLaMA", section 2.2, and "Llama 2", section 2.2; RMSNorm: Zhang and
        Sennrich 2019, "Root Mean Square Layer Normalization", equation 4.
    """

    def __init__(
        self,
        embed_dim,
        num_heads,
        num_kv_heads,
        projection_dim,
        ff_dim,
        *,
        attention_rate=0.0,
        activation="silu",
        epsilon=1e-6,
        qkv_bias=False,
        output_bias=False,
        ffn_bias=False,
        qk_norm=False,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.embed_dim = embed_dim
        self.ff_dim = ff_dim
        self.activation = activation
        self.epsilon = epsilon
        self.ffn_bias = ffn_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.att = RotaryAttention(
            embed_dim,
            num_heads,
            num_kv_heads,
            projection_dim,
            rate=attention_rate,
            qkv_bias=qkv_bias,
            output_bias=output_bias,
            qk_norm=qk_norm,
            epsilon=epsilon,
            kernel_initializer=self.kernel_initializer.clone(),
            dtype=self.dtype_policy,
            name="att",
        )
        self.ffn = GatedFeedForward(
            embed_dim,
            ff_dim,
            activation,
            use_bias=ffn_bias,
            kernel_initializer=self.kernel_initializer.clone(),
            dtype=self.dtype_policy,
            name="ffn",
        )
        self.norm1 = self._norm("norm1")
        self.norm2 = self._norm("norm2")

    def _norm(self, name):
        return keras.layers.RMSNormalization(
            epsilon=self.epsilon, dtype=self.dtype_policy, name=name
        )

    def build(self, inputs_shape):
        for layer in (self.att, self.ffn, self.norm1, self.norm2):
            layer.build(inputs_shape)

    def call(
        self,
        inputs,
        attention_bias=None,
        rotation=None,
        cache=None,
        position=None,
        training=None,
    ):
        x = self.att(
            self.norm1(inputs),
            attention_bias=attention_bias,
            rotation=rotation,
            cache=cache,
            position=position,
            training=training,
        )
        x, cache = (x, None) if cache is None else x
        x = inputs + x
        x = x + self.ffn(self.norm2(x))
        return x if cache is None else (x, cache)

    def compute_output_shape(self, inputs_shape):
        return inputs_shape

    def get_config(self):
        return {
            **super().get_config(),
            "embed_dim": self.embed_dim,
            "num_heads": self.att.num_heads,
            "num_kv_heads": self.att.num_kv_heads,
            "projection_dim": self.att.projection_dim,
            "ff_dim": self.ff_dim,
            "attention_rate": self.att.rate,
            "activation": self.activation,
            "epsilon": self.epsilon,
            "qkv_bias": self.att.qkv_bias,
            "output_bias": self.att.output_bias,
            "ffn_bias": self.ffn_bias,
            "qk_norm": self.att.qk_norm,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
