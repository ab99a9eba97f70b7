"""The one stack of `TransformerBlock`s behind every Transformer of the zoo."""

import keras

from kerasllm.backbones.backbone import Backbone, token_inputs
from kerasllm.config import TransformerConfig
from kerasllm.layers import (
    AttentionBias,
    TokenAndPositionEmbedding,
    TransformerBlock,
    is_recorded,
    padding_bias,
    rows_at,
)


@keras.saving.register_keras_serializable(package="kerasllm")
class Transformer(Backbone):
    """Token ids to hidden states, through an embedding and `num_layers` blocks.

    Args:
        config: `TransformerConfig`.
        cross_attention: bool, whether every block also attends to a `context`.
        token_emb: `keras.layers.Embedding` or None: a token table to share.
        initializer: Keras initializer of tables and kernels, e.g. `"zeros"` where weights follow;
            None for a normal distribution with the config's `initializer_range`.
        dtype: str or `keras.DTypePolicy`, e.g. `"mixed_float16"`; None for Keras' global one.

    Call arguments:
        inputs: dict of int32 `(batch, length)`: `token_ids`, `padding_mask` (1 = real) and, where
            the config has segments, `segment_ids`. With `cross_attention` also `context`, float
            `(batch, context_length, embed_dim)`, and its `context_mask`.
        cache: None, or what `make_cache` gave or an earlier call returned. Then `token_ids` are the
            tokens from `position` on, and `padding_mask` is `(batch, max_length)`, over the whole
            cache: 1 for every real token so far and now (None for all), whatever comes later.
        position: scalar int32: index of the first of `token_ids` in the cache.
        rows: int32 `(batch, taken)`, or a slice: positions whose hidden states are wanted; None for
            all. Not together with a cache.

    Returns:
        float `(batch, length, embed_dim)`, or `(batch, taken, embed_dim)`: the hidden states after
        the last block; with a `cache`, the pair of that and the new cache.

    Raises:
        TypeError: `config` is no `TransformerConfig`.

    Example:
        >>> config = TransformerConfig(100, num_layers=2, num_heads=2, embed_dim=8, ff_dim=16)
        >>> ids = np.array([[5, 7, 9]])
        >>> inputs = {"token_ids": ids, "padding_mask": ids > 0, "segment_ids": 0 * ids}
        >>> tuple(Transformer(config)(inputs).shape)
        (1, 3, 8)
    """

    CONFIG = TransformerConfig

    def __init__(
        self, config, cross_attention=False, token_emb=None, initializer=None, dtype=None, **kwargs
    ):
        dtype = self._start(config, dtype)

        # Layers
        self.cross_attention = cross_attention
        self._add_layers(config, cross_attention, token_emb, initializer, dtype)

        # Graph
        inputs = token_inputs(config)
        if cross_attention:
            inputs["context"] = keras.Input((None, config.embed_dim), name="context")
            inputs["context_mask"] = keras.Input((None,), dtype="int32", name="context_mask")
        self._connect(config, inputs, dtype, **kwargs)

    def _add_layers(self, config, cross_attention, token_emb, initializer, dtype):
        initializer = keras.initializers.get(
            initializer or keras.initializers.TruncatedNormal(stddev=config.initializer_range)
        )
        self.embedding = TokenAndPositionEmbedding(
            config.max_length,
            config.vocab_size,
            config.embed_dim,
            num_segments=config.num_segments,
            epsilon=config.epsilon if config.embedding_norm else None,
            rate=config.rate,
            embeddings_initializer=initializer,
            positions=None if config.positions == "alibi" else config.positions,
            position_offset=config.position_offset,
            embedding_dim=config.embedding_dim,
            embedding_bias=config.embedding_bias,
            scale=config.scale_embedding,
            token_emb=token_emb,
            dtype=dtype,
            name="embedding",
        )
        self.attention_bias = AttentionBias(
            config.num_heads, config.causal, config.positions == "alibi", name="attention_bias"
        )
        self.blocks = [
            TransformerBlock(
                config.embed_dim,
                config.num_heads,
                config.ff_dim,
                config.rate,
                attention_rate=config.attention_rate,
                activation=config.activation,
                norm_first=config.norm_first,
                epsilon=config.epsilon,
                cross_attention=cross_attention,
                kernel_initializer=initializer,
                dtype=dtype,
                name=f"block_{i}",
            )
            for i in range(1 if config.share_blocks else config.num_layers)
        ]
        if config.share_blocks:
            self.blocks = self.blocks * config.num_layers
        self.final_norm = None
        if config.norm_first:
            self.final_norm = keras.layers.LayerNormalization(
                epsilon=config.epsilon, dtype=dtype, name="final_norm"
            )

    def call(self, inputs, training=None, mask=None, cache=None, position=0, rows=None):
        if rows is None:
            return super().call(inputs, training, mask, cache=cache, position=position)
        return self._forward(inputs, rows=rows)[0]

    def _forward(self, inputs, cache=None, position=0, rows=None):
        padding_mask, length = self._keys(inputs, cache)
        counted = padding_mask if self.embedding.positions == "counted" else None
        x = self.embedding(
            inputs["token_ids"], inputs.get("segment_ids"), counted, position=position
        )
        options = {
            "attention_bias": self.attention_bias(padding_mask, length=length, position=position)
        }
        if self.cross_attention:
            options["context_bias"] = padding_bias(inputs["context_mask"])
            options["context"] = inputs.get("context")
        options = [options] * len(self.blocks)
        # Of the other rows, the last block needs keys and values alone.
        alike = options[-1]["attention_bias"].shape[2] == 1
        early = rows is not None and alike and not is_recorded()
        if early:
            options[-1] = {**options[-1], "rows": rows}
        x, cache = self._through_blocks(x, options, cache, position)
        return self._finish(x if early else rows_at(x, rows)), cache

    def _finish(self, x):
        return x if self.final_norm is None else self.final_norm(x)

    def compute_output_spec(self, inputs, training=None, mask=None, rows=None):
        states = super().compute_output_spec(inputs, training, mask)
        return keras.KerasTensor(rows_at(states, rows).shape, dtype=states.dtype)

    def make_cache(self, batch_size, max_length=None, context=None, padding=0):
        """Make an empty cache of keys and values, for `call`.

        Args:
            batch_size: int, or scalar int tensor.
            max_length: int or None: the most tokens it shall hold; None for the model's most.
            context: float `(batch, context_length, embed_dim)`; needed with `cross_attention`,
                whose keys and values are computed here, once.
            padding: int, how many rows it shall have beyond `max_length`, for padding at the left.

        Returns:
            tuple with, for each block, the pair of keys and values, zeros `(batch, heads,
            padding + max_length, projection_dim)`, and with `cross_attention` those of the context.

        Raises:
            ValueError: `max_length` is more than the model's, or the `context` is missing.

        Example:
            >>> config = TransformerConfig(100, num_layers=2, num_heads=2, embed_dim=8, ff_dim=16)
            >>> cache = Transformer(config).make_cache(1, max_length=5)
            >>> len(cache), tuple(cache[0][0].shape)
            (2, (1, 2, 5, 4))
        """
        empty = self._empty_cache(batch_size, max_length, self.config.num_heads, padding)
        if not self.cross_attention:
            return empty
        if context is None:
            raise ValueError(
                "`context` must be what the encoder has read (see `encode`). Received: None."
            )
        return tuple(
            (*own, *block.cross_att.keys_and_values(context))
            for own, block in zip(empty, self.blocks)
        )

    def get_config(self):
        return {**super().get_config(), "cross_attention": self.cross_attention}
