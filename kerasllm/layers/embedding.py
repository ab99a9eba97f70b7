"""Token ids to vectors: what a token is, where it stands, and which segment it belongs to."""

import keras
from keras import ops

from kerasllm.layers.dense import Dense
from kerasllm.layers.dropout import Dropout
from kerasllm.layers.position import real_positions, sinusoids

POSITIONS = ("learned", "counted", "sinusoidal", None)


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
        positions: str or None: `"learned"`, a table by index; `"counted"`, the same by the count of
            real tokens so far; `"sinusoidal"`, fixed waves; None for none.
        position_offset: int, rows at the top of the position table that no real token uses.
        embedding_dim: int, width of the tables, projected to `embed_dim`; 0 for `embed_dim` itself.
        embedding_bias: bool, whether that projection has a bias.
        scale: bool, multiply token vectors by the square root of `embed_dim`.
        token_emb: `keras.layers.Embedding` or None: a token table to share.

    Call arguments:
        token_ids: int32 `(batch, length)`, length <= `max_length`.
        segment_ids: int32 `(batch, length)`, or None for all 0.
        padding_mask: int32 `(batch, length)`, or of a cache's length, 1 = real token; for positions
            that are counted. None for all 1.
        position: scalar int32, index of the first token.
        training: bool, whether dropout is on.

    Returns:
        float `(batch, length, embed_dim)`.

    Raises:
        ValueError: `token_ids` is longer than `max_length` (when the length is known),
            `segment_ids` were given to a layer without segments, or `positions` is no known kind.

    Example:
        >>> layer = TokenAndPositionEmbedding(16, 100, 32)
        >>> tuple(layer(np.array([[5, 7, 9]])).shape)
        (1, 3, 32)

    References:
        Devlin et al. 2018, "BERT", figure 2; sinusoids and scale: Vaswani et al. 2017, "Attention
        Is All You Need", sections 3.4 and 3.5; projection: Lan et al. 2019, "ALBERT", section 3.1.
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
        positions="learned",
        position_offset=0,
        embedding_dim=0,
        embedding_bias=True,
        scale=False,
        token_emb=None,
        **kwargs,
    ):
        if positions not in POSITIONS:
            raise ValueError(f"`positions` must be one of {POSITIONS}. Received: {positions!r}.")
        # Without autocast: float inputs are ids too, and float16 can't tell 2049 from 2048.
        super().__init__(autocast=False, **kwargs)
        self.max_length = max_length
        self.vocab_size = vocab_size
        self.embed_dim = embed_dim
        self.num_segments = num_segments
        self.epsilon = epsilon
        self.rate = rate
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.positions = positions
        self.position_offset = position_offset
        self.embedding_dim = embedding_dim
        self.embedding_bias = embedding_bias
        self.scale = scale
        # A norm is computed at the width of the tables, so all of them are summed before they are
        # projected (ALBERT, ELECTRA). Without one, only the token vectors are projected (OPT).
        self.projects_sum = bool(embedding_dim) and epsilon is not None
        token_width = embedding_dim or embed_dim
        width = token_width if self.projects_sum else embed_dim
        self.token_emb = token_emb or self._table(vocab_size, token_width, "token_emb")
        if positions in ("learned", "counted"):
            self.pos_emb = self._table(max_length + position_offset, width, "pos_emb")
        elif positions == "sinusoidal":
            self.waves = sinusoids(max_length, embed_dim)  # NumPy's, so that it is no weight
        if num_segments:
            self.segment_emb = self._table(num_segments, width, "segment_emb")
        if embedding_dim:
            self.projection = Dense(
                embed_dim,
                use_bias=embedding_bias,
                kernel_initializer=self.embeddings_initializer.clone(),
                dtype=self.dtype_policy,
                name="projection",
            )
        if epsilon is not None:
            self.layernorm = keras.layers.LayerNormalization(
                epsilon=epsilon, dtype=self.dtype_policy, name="layernorm"
            )
        self.dropout = Dropout(rate, dtype=self.dtype_policy, name="dropout")

    def _table(self, rows, width, name):
        return keras.layers.Embedding(
            rows,
            width,
            embeddings_initializer=self.embeddings_initializer.clone(),
            dtype=self.dtype_policy,
            name=name,
        )

    def build(self, token_ids_shape, segment_ids_shape=None, padding_mask_shape=None):
        width = self.embed_dim
        if self.embedding_dim:
            self.projection.build((*token_ids_shape, self.embedding_dim))
            width = self.embedding_dim if self.projects_sum else width
        self.token_emb.build(token_ids_shape)
        if self.positions in ("learned", "counted"):
            self.pos_emb.build((token_ids_shape[-1],))
        if self.num_segments:
            self.segment_emb.build(token_ids_shape)
        if self.epsilon is not None:
            self.layernorm.build((*token_ids_shape, width))

    def call(self, token_ids, segment_ids=None, padding_mask=None, position=0, training=None):
        length = token_ids.shape[-1]
        if length is not None and length > self.max_length:
            raise ValueError(
                f"`token_ids` must be at most `max_length`={self.max_length} tokens long. "
                f"Received: length={length}. Truncate the text, or build a longer model."
            )
        x = self.token_emb(token_ids)  # (batch, length, embed_dim or embedding_dim)
        if self.scale:
            x = x * self.embed_dim**0.5
        if self.embedding_dim and not self.projects_sum:
            x = self.projection(x)
        x = x + self._position_vectors(token_ids, padding_mask, position)
        if self.num_segments:
            segment_ids = ops.zeros_like(token_ids) if segment_ids is None else segment_ids
            x = x + self.segment_emb(segment_ids)
        elif segment_ids is not None:
            raise ValueError("`segment_ids` must not be given to an embedding without segments.")
        if self.epsilon is not None:
            x = self.layernorm(x)
        x = self.dropout(x, training=training)
        return self.projection(x) if self.projects_sum else x  # (batch, length, embed_dim)

    def _position_vectors(self, token_ids, padding_mask, position):
        if self.positions is None:
            return 0.0
        index = position + ops.arange(ops.shape(token_ids)[-1], dtype="int32")  # (length,)
        if self.positions == "sinusoidal":
            return ops.take(ops.cast(self.waves, self.compute_dtype), index, axis=0)
        if self.positions == "counted" and padding_mask is not None:
            index = ops.take(real_positions(padding_mask), index, axis=1)  # (batch, length)
        # Padding counts -1, and gets whichever row that is: nobody attends to it.
        return self.pos_emb(ops.maximum(index + self.position_offset, 0))

    def compute_output_shape(
        self, token_ids_shape, segment_ids_shape=None, padding_mask_shape=None
    ):
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
            "positions": self.positions,
            "position_offset": self.position_offset,
            "embedding_dim": self.embedding_dim,
            "embedding_bias": self.embedding_bias,
            "scale": self.scale,
        }


@keras.saving.register_keras_serializable(package="kerasllm")
class TokenLogits(keras.layers.Layer):
    """Hidden states to a score for each token of the vocabulary.

    Args:
        token_emb: `keras.layers.Embedding`, whose table is the kernel; or int, the size of the
            vocabulary, for a kernel of its own.
        use_bias: bool, whether each token has a bias.
        kernel_initializer: Keras initializer of a kernel of its own.

    Call arguments:
        inputs: float `(batch, length, width)`, with the table's width.

    Returns:
        float32 `(batch, length, vocab_size)`: logits.

    Raises:
        ValueError: the inputs have another width than the table.

    Example:
        >>> table = keras.layers.Embedding(100, 8)
        >>> _ = table(np.array([[1]]))
        >>> tuple(TokenLogits(table)(np.ones((2, 3, 8), "float32")).shape)
        (2, 3, 100)

    References:
        Press and Wolf 2016, "Using the Output Embedding to Improve Language Models", section 3.
    """

    def __init__(self, token_emb, use_bias=False, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.tied = not isinstance(token_emb, int)
        self.token_emb = token_emb if self.tied else None
        self.vocab_size = token_emb.input_dim if self.tied else token_emb
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, inputs_shape):
        width = self.token_emb.output_dim if self.tied else inputs_shape[-1]
        if width != inputs_shape[-1]:
            raise ValueError(
                f"`inputs` must have the table's width, {width}. Received: {inputs_shape}."
            )
        if not self.tied:
            self.kernel = self.add_weight(
                (self.vocab_size, inputs_shape[-1]), self.kernel_initializer, name="kernel"
            )
        if self.use_bias:
            self.bias = self.add_weight((self.vocab_size,), "zeros", name="bias")

    def call(self, inputs):
        kernel = self.token_emb.embeddings if self.tied else self.kernel  # (vocab_size, width)
        logits = ops.matmul(inputs, ops.transpose(ops.cast(kernel, inputs.dtype)))
        logits = ops.cast(logits, "float32")
        return logits + ops.cast(self.bias, "float32") if self.use_bias else logits

    def compute_output_shape(self, inputs_shape):
        return (*inputs_shape[:-1], self.vocab_size)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype="float32")
