"""The block of T5: no biases, RMSNorm, and positions as a bias on attention."""

import keras
from keras import ops

from kerasllm.layers.attention import AttentionBias, MultiHeadSelfAttention
from kerasllm.layers.llama_block import GatedFeedForward
from kerasllm.layers.position import distance_buckets
from kerasllm.layers.transformer_block import TransformerBlock, activation_function


@keras.saving.register_keras_serializable(package="kerasllm")
class RelativeAttentionBias(AttentionBias):
    """All that says, beside the tokens themselves, who attends to whom: how far they are apart too.

    Args:
        num_heads: int, attention heads.
        num_buckets: int, distances that are told apart.
        max_distance: int, tokens from which on all distances are alike.
        causal: bool, whether a token sees only itself and those before it.
        embeddings_initializer: Keras initializer of the biases.

    Call arguments:
        padding_mask: int32 `(batch, key)`, 1 = real token.
        length: int, or scalar int32 tensor: number of queries; None for as many as keys.
        position: int, or scalar int32 tensor: index of the first query among the keys.

    Returns:
        float32 `(batch, heads, query, key)`: what to add to the scores.

    Example:
        >>> layer = RelativeAttentionBias(2, num_buckets=8, max_distance=16)
        >>> tuple(layer(np.array([[1, 1, 0]])).shape)
        (1, 2, 3, 3)

    References:
        Raffel et al. 2019, "Exploring the Limits of Transfer Learning", section 2.1.
    """

    def __init__(
        self,
        num_heads,
        num_buckets=32,
        max_distance=128,
        causal=False,
        embeddings_initializer="uniform",
        **kwargs,
    ):
        super().__init__(num_heads, causal, **kwargs)
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.table = keras.layers.Embedding(
            num_buckets,
            num_heads,
            embeddings_initializer=self.embeddings_initializer,
            dtype=self.dtype_policy,
            name="table",
        )

    def build(self, padding_mask_shape=None):
        self.table.build()

    def call(self, padding_mask, length=None, position=0):
        num_keys = ops.shape(padding_mask)[1]
        query = position + ops.arange(num_keys if length is None else length, dtype="int32")
        key = ops.arange(num_keys, dtype="int32")
        distance = ops.expand_dims(key, 0) - ops.expand_dims(query, 1)  # (query, key)
        row = ops.clip(distance, -self.max_distance, self.max_distance) + self.max_distance
        buckets = distance_buckets(self.num_buckets, self.max_distance, self.causal)
        biases = ops.cast(self.table(buckets), "float32")  # (distance, heads)
        relative = ops.transpose(ops.take(biases, row, axis=0), (2, 0, 1))  # (heads, query, key)
        return super().call(padding_mask, length, position) + ops.expand_dims(relative, 0)

    def get_config(self):
        config = super().get_config()
        for name in ("alibi", "window"):
            del config[name]
        return {
            **config,
            "num_buckets": self.num_buckets,
            "max_distance": self.max_distance,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
        }


@keras.saving.register_keras_serializable(package="kerasllm")
class T5Attention(MultiHeadSelfAttention):
    """Attention without biases, whose scores are not scaled: fresh queries are small instead.

    Args:
        As of `MultiHeadSelfAttention`.

    Call arguments:
        As of `MultiHeadSelfAttention`.

    Returns:
        float `(batch, query, embed_dim)`; with a `cache`, the pair of that and the cache.

    Example:
        >>> layer = T5Attention(32, num_heads=3, projection_dim=8)
        >>> tuple(layer(np.ones((2, 5, 32), "float32")).shape)
        (2, 5, 32)

    References:
        Raffel et al. 2019, "Exploring the Limits of Transfer Learning", section 2.1; that there is
        no scale, and what fresh queries are, stands in its code alone (Mesh TensorFlow).
    """

    USE_BIAS = False
    SCALE = 1.0

    def _dense(self, width, name):
        dense = super()._dense(width, name)
        initializer = dense.kernel_initializer
        if name == "query_dense" and isinstance(initializer, keras.initializers.VarianceScaling):
            initializer.scale /= self.projection_dim  # a variance, where scores have a square root
        return dense


@keras.saving.register_keras_serializable(package="kerasllm")
class T5Block(TransformerBlock):
    """A pre-norm block with RMSNorm and without biases, whose `ffn` may have a gate.

    Args:
        embed_dim: int, width of input and output.
        num_heads: int, attention heads.
        projection_dim: int, width of a head.
        ff_dim: int, inner width of `ffn`.
        rate: float in [0, 1), dropout on attention weights, on the inner values of `ffn` and on the
            output of each sublayer.
        gated: bool, whether `ffn` is a `GatedFeedForward`.
        activation: str, of `ffn` or its gate.
        epsilon: float, added to the mean square in RMSNorm.
        cross_attention: bool, whether there is a sublayer between that attends to a `context`.
        kernel_initializer: Keras initializer of every kernel.

    Call arguments:
        As of `TransformerBlock`.

    Returns:
        float `(batch, length, embed_dim)`; with a `cache`, the pair of that and the cache.

    Raises:
        ValueError: as for `TransformerBlock`.

    Example:
        >>> layer = T5Block(32, num_heads=3, projection_dim=8, ff_dim=64, gated=True)
        >>> tuple(layer(np.ones((2, 5, 32), "float32")).shape)
        (2, 5, 32)

    References:
        Raffel et al. 2019, "Exploring the Limits of Transfer Learning", section 2.1; gates: Shazeer
        2020, "GLU Variants Improve Transformer", equation 6.
    """

    USE_BIAS = False

    def __init__(
        self, embed_dim, num_heads, projection_dim, ff_dim, rate=0.1, *, gated=False, **kwargs
    ):
        # First of all, because `TransformerBlock` makes its layers by these too.
        self.projection_dim = projection_dim
        self.gated = gated
        super().__init__(
            embed_dim, num_heads, ff_dim, rate, attention_rate=rate, norm_first=True, **kwargs
        )

    def _attention(self, name):
        return T5Attention(
            self.embed_dim,
            self.num_heads,
            rate=self.rate,
            projection_dim=self.projection_dim,
            kernel_initializer=self._initializer(),
            dtype=self.dtype_policy,
            name=name,
        )

    def _feed_forward(self, name):
        if self.gated:
            return GatedFeedForward(
                self.embed_dim,
                self.ff_dim,
                self.activation,
                rate=self.rate,
                kernel_initializer=self._initializer(),
                dtype=self.dtype_policy,
                name=name,
            )
        return keras.Sequential(
            [
                self._dense(self.ff_dim, "expand", activation_function(self.activation)),
                self._dropout("dropout"),
                self._dense(self.embed_dim, "project"),
            ],
            name=name,
        )

    def _layernorm(self, name):
        return keras.layers.RMSNormalization(
            epsilon=self.epsilon, dtype=self.dtype_policy, name=name
        )

    def get_config(self):
        config = super().get_config()
        for name in ("attention_rate", "norm_first"):
            del config[name]
        return {**config, "projection_dim": self.projection_dim, "gated": self.gated}
