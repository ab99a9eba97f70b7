"""The stack of `LlamaBlock`s behind LLaMA, Mistral and Qwen."""

import keras
from keras import ops

from kerasllm.backbones.transformer import token_inputs
from kerasllm.config import LlamaConfig
from kerasllm.layers import (
    AttentionBias,
    LlamaBlock,
    RotaryPositions,
    TokenAndPositionEmbedding,
)


@keras.saving.register_keras_serializable(package="kerasllm")
class Llama(keras.Model):
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

    def __init__(self, config, initializer=None, dtype=None, **kwargs):
        if not isinstance(config, LlamaConfig):
            raise TypeError(f"`config` must be a `LlamaConfig`. Received: {type(config).__name__}.")
        dtype = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
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
        self.config = config
        inputs = token_inputs(config)
        super().__init__(inputs=inputs, outputs=self._forward(inputs)[0], **kwargs)
        self.dtype_policy = dtype  # as a constructor argument, functional models lose it
        self.input_spec = None  # a step with a cache has other inputs than the graph

        # On TensorFlow, `jit_compile="auto"` would compile anew for each length of a batch; other
        # backends are slow without compiling.
        self.supports_jit = keras.backend.backend() != "tensorflow"

    def call(self, inputs, training=None, mask=None, cache=None, position=None):
        if cache is None:
            return super().call(inputs, training=training, mask=mask)
        return self._forward(inputs, cache, position)

    def _forward(self, inputs, cache=None, position=0):
        """Both ways through the layers: the graph, and one step with a cache."""
        token_ids, padding_mask = inputs["token_ids"], inputs.get("padding_mask")
        length = None
        if cache is not None:
            length = ops.shape(token_ids)[1]
            if padding_mask is None:
                padding_mask = ops.ones((1, cache[0][0].shape[2]), dtype="int32")
        x = self.embedding(token_ids)
        where = {"length": length, "position": position}
        rotation = self.rotary(padding_mask, **where)
        biases = {bias.window: bias(padding_mask, **where) for bias in self.attention_biases}
        caches = []
        for i, (block, window) in enumerate(zip(self.blocks, self.config.windows)):
            options = {"attention_bias": biases[window], "rotation": rotation}
            if cache is None:
                x = block(x, **options)
            else:
                x, new = block(x, **options, cache=cache[i], position=position)
                caches.append(new)
        return self.final_norm(x), tuple(caches)

    def make_cache(self, batch_size, max_length=None):
        """Make an empty cache of keys and values, for `call`.

        Args:
            batch_size: int, or scalar int tensor.
            max_length: int or None: the most tokens it shall hold; None for the model's most.

        Returns:
            tuple with, for each block, the pair of keys and values, zeros `(batch, kv_heads,
            max_length, projection_dim)`.

        Raises:
            ValueError: `max_length` is more than the model's.

        Example:
            >>> config = LlamaConfig(100, num_layers=2, num_heads=4, num_kv_heads=2, embed_dim=16,
            ...     ff_dim=32)
            >>> cache = Llama(config).make_cache(1, max_length=5)
            >>> len(cache), tuple(cache[0][0].shape)
            (2, (1, 2, 5, 4))
        """
        config = self.config
        max_length = config.max_length if max_length is None else max_length
        if max_length > config.max_length:
            raise ValueError(
                f"`max_length` must be at most {config.max_length}, the positions that the model "
                f"knows. Received: {max_length}."
            )
        shape = (batch_size, config.num_kv_heads, max_length, config.projection_dim)
        dtype = self.blocks[0].compute_dtype
        return tuple(
            (ops.zeros(shape, dtype=dtype), ops.zeros(shape, dtype=dtype)) for _ in self.blocks
        )

    def get_config(self):
        return {
            "config": self.config.to_dict(),
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**dict(config, config=LlamaConfig(**config["config"])))
