"""The one stack of `TransformerBlock`s behind every Transformer of the zoo."""

import keras

from kerasllm.config import TransformerConfig
from kerasllm.layers import TokenAndPositionEmbedding, TransformerBlock, padding_bias


@keras.saving.register_keras_serializable(package="kerasllm")
class Transformer(keras.Model):
    """Token ids to hidden states, through an embedding and `num_layers` blocks.

    Args:
        config: `TransformerConfig`.
        dtype: str or `keras.DTypePolicy`, e.g. `"mixed_float16"`; None for Keras' global one.

    Call arguments:
        inputs: dict of int32 `(batch, length)`: `token_ids`, `padding_mask` (1 = real) and, where
            the config has segments, `segment_ids`.

    Returns:
        float `(batch, length, embed_dim)`: the hidden states after the last block.

    Raises:
        TypeError: `config` is no `TransformerConfig`.

    Example:
        >>> config = TransformerConfig(100, num_layers=2, num_heads=2, embed_dim=8, ff_dim=16)
        >>> ids = np.array([[5, 7, 9]])
        >>> inputs = {"token_ids": ids, "padding_mask": ids > 0, "segment_ids": 0 * ids}
        >>> tuple(Transformer(config)(inputs).shape)
        (1, 3, 8)
    """

    def __init__(self, config, dtype=None, **kwargs):
        if not isinstance(config, TransformerConfig):
            raise TypeError(
                f"`config` must be a `TransformerConfig`. Received: {type(config).__name__}."
            )
        dtype = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        initializer = keras.initializers.TruncatedNormal(stddev=config.initializer_range)

        # Layers
        self.embedding = TokenAndPositionEmbedding(
            config.max_length,
            config.vocab_size,
            config.embed_dim,
            num_segments=config.num_segments,
            epsilon=config.epsilon,
            rate=config.rate,
            embeddings_initializer=initializer,
            dtype=dtype,
            name="embedding",
        )
        self.blocks = [
            TransformerBlock(
                config.embed_dim,
                config.num_heads,
                config.ff_dim,
                config.rate,
                attention_rate=config.attention_rate,
                activation=config.activation,
                epsilon=config.epsilon,
                kernel_initializer=initializer,
                dtype=dtype,
                name=f"block_{i}",
            )
            for i in range(config.num_layers)
        ]

        # Graph
        inputs = token_inputs(config)
        hidden_states = self.embedding(inputs["token_ids"], inputs.get("segment_ids"))
        attention_bias = padding_bias(inputs["padding_mask"])
        for block in self.blocks:
            hidden_states = block(hidden_states, attention_bias=attention_bias)
        super().__init__(inputs=inputs, outputs=hidden_states, **kwargs)
        self.dtype_policy = dtype  # as a constructor argument, functional models lose it

        # Config
        self.config = config
        # On TensorFlow, `jit_compile="auto"` would compile anew for each length of a batch; other
        # backends are slow without compiling.
        self.supports_jit = keras.backend.backend() != "tensorflow"

    def get_config(self):
        return {
            "config": self.config.to_dict(),
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config, config=TransformerConfig(**config["config"]))
        return cls(**config)


def token_inputs(config):
    """The symbolic inputs of a Transformer, which every model on top shares.

    Args:
        config: `TransformerConfig`.

    Returns:
        dict of `keras.KerasTensor`, int32 `(batch, length)`: `token_ids`, `padding_mask` and, where
        the config has segments, `segment_ids`.
    """
    names = ["token_ids", "padding_mask"] + ["segment_ids"] * bool(config.num_segments)
    return {name: keras.Input((None,), dtype="int32", name=name) for name in names}
