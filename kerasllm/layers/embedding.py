"""Token ids to vectors: what a token is, where it stands, and which segment it belongs to."""

import keras
from keras import ops

from kerasllm.layers.dropout import Dropout


@keras.saving.register_keras_serializable(package="kerasllm")
class TokenAndPositionEmbedding(keras.layers.Layer):
    """The sum of a token, a position and, if asked for, a segment embedding.

    `TokenAndPositionEmbedding(max_length, vocab_size, embed_dim)` called with token ids is exactly
    the layer of the tutorials; `num_segments`, `epsilon` and `rate` make it BERT's.

    Args:
        max_length: int, number of positions.
        vocab_size: int, number of token ids.
        embed_dim: int, width of the output.
        num_segments: int, number of segments; 0 for no segment embedding.
        epsilon: float or None: LayerNorm over the sum with this epsilon; None for no LayerNorm.
        rate: float in [0, 1), dropout on the output.
        embeddings_initializer: Keras initializer of every table.

    Call arguments:
        token_ids: int32 `(batch, length)`, length <= `max_length`.
        segment_ids: int32 `(batch, length)`, or None for all 0.
        training: bool, whether dropout is on.

    Returns:
        float `(batch, length, embed_dim)`.

    Raises:
        ValueError: `token_ids` is longer than `max_length` (when the length is known), or
            `segment_ids` were given to a layer without segments.

    Example:
        >>> layer = TokenAndPositionEmbedding(16, 100, 32)
        >>> tuple(layer(np.array([[5, 7, 9]])).shape)
        (1, 3, 32)

    References:
        Devlin et al. 2018, "BERT", figure 2.
    """

    def __init__(
        self,
        max_length,
        vocab_size,
        embed_dim,
        *,
        num_segments=0,
        epsilon=None,
        rate=0.0,
        embeddings_initializer="uniform",
        **kwargs,
    ):
        # Without autocast: float inputs are ids too, and float16 can't tell 2049 from 2048.
        super().__init__(autocast=False, **kwargs)
        self.max_length = max_length
        self.vocab_size = vocab_size
        self.embed_dim = embed_dim
        self.num_segments = num_segments
        self.epsilon = epsilon
        self.rate = rate
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.token_emb = self._table(vocab_size, "token_emb")
        self.pos_emb = self._table(max_length, "pos_emb")
        if num_segments:
            self.segment_emb = self._table(num_segments, "segment_emb")
        if epsilon is not None:
            self.layernorm = keras.layers.LayerNormalization(
                epsilon=epsilon, dtype=self.dtype_policy, name="layernorm"
            )
        self.dropout = Dropout(rate, dtype=self.dtype_policy, name="dropout")

    def _table(self, rows, name):
        return keras.layers.Embedding(
            rows,
            self.embed_dim,
            embeddings_initializer=self.embeddings_initializer.clone(),
            dtype=self.dtype_policy,
            name=name,
        )

    def build(self, token_ids_shape, segment_ids_shape=None):
        self.token_emb.build(token_ids_shape)
        self.pos_emb.build((token_ids_shape[-1],))
        if self.num_segments:
            self.segment_emb.build(token_ids_shape)
        if self.epsilon is not None:
            self.layernorm.build((*token_ids_shape, self.embed_dim))

    def call(self, token_ids, segment_ids=None, training=None):
        length = token_ids.shape[-1]
        if length is not None and length > self.max_length:
            raise ValueError(
                f"`token_ids` must be at most `max_length`={self.max_length} tokens long. "
                f"Received: length={length}. Truncate the text, or build a longer model."
            )
        x = self.token_emb(token_ids)  # (batch, length, embed_dim)
        x = x + self.pos_emb(ops.arange(ops.shape(token_ids)[-1], dtype="int32"))
        if self.num_segments:
            segment_ids = ops.zeros_like(token_ids) if segment_ids is None else segment_ids
            x = x + self.segment_emb(segment_ids)
        elif segment_ids is not None:
            raise ValueError("`segment_ids` must not be given to an embedding without segments.")
        if self.epsilon is not None:
            x = self.layernorm(x)
        return self.dropout(x, training=training)

    def compute_output_shape(self, token_ids_shape, segment_ids_shape=None):
        return (*token_ids_shape, self.embed_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "max_length": self.max_length,
            "vocab_size": self.vocab_size,
            "embed_dim": self.embed_dim,
            "num_segments": self.num_segments,
            "epsilon": self.epsilon,
            "rate": self.rate,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
        }
