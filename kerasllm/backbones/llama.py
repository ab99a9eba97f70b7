"""The stack of `LlamaBlock`s behind LLaMA, Mistral and Qwen."""

import keras

from kerasllm.backbones.backbone import Backbone, token_inputs
from kerasllm.config import LlamaConfig
from kerasllm.layers import (
    AttentionBias,
    LlamaBlock,
    RotaryPositions,
    TokenAndPositionEmbedding,
)


@keras.saving.register_keras_serializable(package="kerasllm")
class Llama(Backbone):
    """Token ids to hidden states, through a token table, `num_layers` blocks and a last norm.

    Args:
        config: `LlamaConfig`.
        initializer: Keras initializer of tables and kernels, e.g. `"zeros"` where weights follow;
            None for a normal distribution with the config's `initializer_range`.
        dtype: str or `keras.DTypePolicy`, e.g. `"bfloat16"`; None for Keras' global one.

    Call arguments:
        inputs: dict of int32 `(batch, length)`: `token_ids`, `padding_mask` (1 = real).
        cache: None, or what `make_cache` gave or an earlier call returned. Then `token_ids` are the
            tokens from `position` on, and `padding_mask` is `(batch, max_length)`, over the whole
            cache: 1 for every real token so far and now (None for all), whatever comes later.
        position: scalar int32: index of the first of `token_ids` in the cache.

    Returns:
        float `(batch, length, embed_dim)`: the hidden states after the last norm; with a `cache`,
        the pair of that and the new cache.

    Raises:
        TypeError: `config` is no `LlamaConfig`.

    Example:
        >>> config = LlamaConfig(100, num_layers=2, num_heads=4, num_kv_heads=2, embed_dim=16,
        ...     ff_dim=32)
        >>> ids = np.array([[5, 7, 9]])
        >>> tuple(Llama(config)({"token_ids": ids, "padding_mask": ids > 0}).shape)
        (1, 3, 16)

    References:
        Touvron et al. 2023, "Llama 2", section 2.2; see also `LlamaConfig`.
    """

    CONFIG = LlamaConfig

    def __init__(self, config, initializer=None, dtype=None, **kwargs):
        dtype = self._start(config, dtype)
        initializer = keras.initializers.get(
            initializer or keras.initializers.TruncatedNormal(stddev=config.initializer_range)
        )

        # Layers
        self.embedding = TokenAndPositionEmbedding(
            config.max_length,
            config.vocab_size,
            config.embed_dim,
            embeddings_initializer=initializer,
            positions=None,
            dtype=dtype,
            name="embedding",
        )
        self.rotary = RotaryPositions(
            config.projection_dim,
            config.rope_theta,
            config.to_dict()["rope_scaling"],
            name="rotary",
        )
        self.attention_biases = [
            AttentionBias(
                config.num_heads, causal=True, window=window, name=f"attention_bias_{window}"
            )
            for window in sorted(set(config.windows))
        ]
        self.blocks = [
            LlamaBlock(
                config.embed_dim,
                config.num_heads,
                config.num_kv_heads,
                config.projection_dim,
                config.ff_dim,
                attention_rate=config.attention_rate,
                activation=config.activation,
                epsilon=config.epsilon,
                qkv_bias=config.qkv_bias,
                output_bias=config.output_bias,
                ffn_bias=config.ffn_bias,
                qk_norm=config.qk_norm,
                kernel_initializer=initializer,
                dtype=dtype,
                name=f"block_{i}",
            )
            for i in range(config.num_layers)
        ]
        self.final_norm = keras.layers.RMSNormalization(
            epsilon=config.epsilon, dtype=dtype, name="final_norm"
        )

        # Graph
        self._connect(config, token_inputs(config), dtype, **kwargs)

    def _forward(self, inputs, cache=None, position=0):
        padding_mask, length = self._keys(inputs, cache)
        where = {"length": length, "position": position}
        rotation = self.rotary(padding_mask, **where)
        biases = {bias.window: bias(padding_mask, **where) for bias in self.attention_biases}
        options = [
            {"attention_bias": biases[window], "rotation": rotation}
            for window in self.config.windows
        ]
        x = self.embedding(inputs["token_ids"])
        x, cache = self._through_blocks(x, options, cache, position)
        return self.final_norm(x), cache

    def make_cache(self, batch_size, max_length=None, padding=0):
        """Make an empty cache of keys and values, for `call`.

        Args:
            batch_size: int, or scalar int tensor.
            max_length: int or None: the most tokens it shall hold; None for the model's most.
            padding: int, how many rows it shall have beyond `max_length`, for padding at the left.

        Returns:
            tuple with, for each block, the pair of keys and values, zeros `(batch, kv_heads,
            padding + max_length, projection_dim)`.

        Raises:
            ValueError: `max_length` is more than the model's.

        Example:
            >>> config = LlamaConfig(100, num_layers=2, num_heads=4, num_kv_heads=2, embed_dim=16,
            ...     ff_dim=32)
            >>> cache = Llama(config).make_cache(1, max_length=5)
            >>> len(cache), tuple(cache[0][0].shape)
            (2, (1, 2, 5, 4))
        """
        return self._empty_cache(batch_size, max_length, self.config.num_kv_heads, padding)
