"""The two stacks of `T5Block`s behind T5 and its kin."""

import keras

from kerasllm.backbones.encoder_decoder import EncoderDecoder
from kerasllm.backbones.transformer import Transformer
from kerasllm.config import T5Config
from kerasllm.layers import (
    Dropout,
    RelativeAttentionBias,
    T5Block,
    TokenAndPositionEmbedding,
)


@keras.saving.register_keras_serializable(package="kerasllm")
class T5Stack(Transformer):
    """Token ids to hidden states, through a token table, `num_layers` blocks and a last norm.

    Args:
        config: `T5Config`.
        **options: of `Transformer`.

    Call arguments:
        As of `Transformer`.

    Returns:
        float `(batch, length, embed_dim)`: the hidden states after the last norm; with a `cache`,
        the pair of that and the new cache.

    Raises:
        TypeError: `config` is no `T5Config`.

    Example:
        >>> config = T5Config(100, num_layers=2, num_heads=3, embed_dim=16, ff_dim=32)
        >>> ids = np.array([[5, 7, 9]])
        >>> tuple(T5Stack(config)({"token_ids": ids, "padding_mask": ids > 0}).shape)
        (1, 3, 16)

    References:
        Raffel et al. 2019, "Exploring the Limits of Transfer Learning", section 2.1.
    """

    CONFIG = T5Config

    def _add_layers(self, config, cross_attention, token_emb, initializer, dtype):
        factor = config.initializer_factor
        tables = initializer or keras.initializers.RandomNormal(stddev=factor)
        biases = initializer or keras.initializers.RandomNormal(stddev=config.initializer_range)
        kernels = initializer or keras.initializers.VarianceScaling(
            factor**2, "fan_in", "untruncated_normal"
        )
        self.embedding = TokenAndPositionEmbedding(
            config.max_length,
            config.vocab_size,
            config.embed_dim,
            rate=config.rate,
            embeddings_initializer=tables,
            positions=None,
            token_emb=token_emb,
            dtype=dtype,
            name="embedding",
        )
        self.attention_bias = RelativeAttentionBias(
            config.num_heads,
            config.num_buckets,
            config.max_distance,
            config.causal,
            embeddings_initializer=biases,
            dtype=dtype,
            name="attention_bias",
        )
        self.blocks = [
            T5Block(
                config.embed_dim,
                config.num_heads,
                config.projection_dim,
                config.ff_dim,
                config.rate,
                gated=config.gated,
                activation=config.activation,
                epsilon=config.epsilon,
                cross_attention=cross_attention,
                kernel_initializer=kernels,
                dtype=dtype,
                name=f"block_{i}",
            )
            for i in range(config.num_layers)
        ]
        self.final_norm = keras.layers.RMSNormalization(
            epsilon=config.epsilon, dtype=dtype, name="final_norm"
        )
        self.dropout = Dropout(config.rate, dtype=dtype, name="dropout")

    def _finish(self, x):
        return self.dropout(self.final_norm(x))


@keras.saving.register_keras_serializable(package="kerasllm")
class T5(EncoderDecoder):
    """An encoder and a causal decoder of `T5Block`s, with one token table.

    Args:
        config: `T5Config` with `num_decoder_layers`.
        initializer: Keras initializer of tables and kernels, e.g. `"zeros"` where weights follow;
            None for the authors' normal distributions, each of its own width.
        dtype: str or `keras.DTypePolicy`, e.g. `"bfloat16"`; None for Keras' global one. Published
            checkpoints overflow float16.

    Call arguments:
        As of `EncoderDecoder`.

    Returns:
        float `(batch, decoder_length, embed_dim)`: the decoder's hidden states; with a `cache`, the
        pair of that and the new cache.

    Raises:
        ValueError: the config has no decoder.

    Example:
        >>> config = T5Config(100, num_layers=2, num_decoder_layers=1, num_heads=3, embed_dim=16,
        ...     ff_dim=32)
        >>> ids = np.array([[5, 7, 9]])
        >>> inputs = {"token_ids": ids, "padding_mask": ids > 0,
        ...     "decoder_token_ids": ids[:, :2], "decoder_padding_mask": ids[:, :2] > 0}
        >>> tuple(T5(config)(inputs).shape)
        (1, 2, 16)

    References:
        Raffel et al. 2019, "Exploring the Limits of Transfer Learning", section 2.1.
    """

    CONFIG = T5Config
    STACK = T5Stack
