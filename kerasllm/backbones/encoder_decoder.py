"""Two stacks of `TransformerBlock`s: a decoder that attends to what an encoder has read."""

import dataclasses

import keras
from keras import ops

from kerasllm.backbones.backbone import Backbone, token_inputs
from kerasllm.backbones.transformer import Transformer
from kerasllm.config import TransformerConfig


@keras.saving.register_keras_serializable(package="kerasllm")
class EncoderDecoder(Backbone):
    """The original Transformer: an encoder and a causal decoder, with one token table.

    Args:
        config: `TransformerConfig` with `num_decoder_layers`.
        initializer: Keras initializer of tables and kernels, e.g. `"zeros"` where weights follow;
            None for a normal distribution with the config's `initializer_range`.
        dtype: str or `keras.DTypePolicy`, e.g. `"mixed_float16"`; None for Keras' global one.

    Call arguments:
        inputs: dict of int32: `token_ids` and `padding_mask`, `(batch, length)`, of the encoder;
            `decoder_token_ids` and `decoder_padding_mask`, `(batch, decoder_length)`.
        cache: None, or what `make_cache` gave or an earlier call returned. Then only `padding_mask`
            and `decoder_token_ids` are needed, and `decoder_padding_mask`, if given, is over the
            whole cache; see `Transformer`.
        position: scalar int32: index of the first of `decoder_token_ids` in the cache.

    Returns:
        float `(batch, decoder_length, embed_dim)`: the decoder's hidden states; with a `cache`, the
        pair of that and the new cache.

    Raises:
        ValueError: the config has no decoder.

    Example:
        >>> config = TransformerConfig(100, num_layers=2, num_decoder_layers=1, num_heads=2,
        ...     embed_dim=8, ff_dim=16, num_segments=0)
        >>> ids = np.array([[5, 7, 9]])
        >>> inputs = {"token_ids": ids, "padding_mask": ids > 0,
        ...     "decoder_token_ids": ids[:, :2], "decoder_padding_mask": ids[:, :2] > 0}
        >>> tuple(EncoderDecoder(config)(inputs).shape)
        (1, 2, 8)

    References:
        Vaswani et al. 2017, "Attention Is All You Need", figure 1.
    """

    CONFIG = TransformerConfig
    STACK = Transformer

    def __init__(self, config, initializer=None, dtype=None, **kwargs):
        if not isinstance(config, self.CONFIG) or not config.num_decoder_layers:
            raise ValueError(
                f"`config` must be a `{self.CONFIG.__name__}` with `num_decoder_layers`. "
                f"Received: {config!r}."
            )
        # Layers
        with keras.name_scope("encoder"):
            self.encoder = self.STACK(
                dataclasses.replace(config, num_decoder_layers=0),
                initializer=initializer,
                dtype=dtype,
                name="encoder",
            )
        with keras.name_scope("decoder"):
            self.decoder = self.STACK(
                dataclasses.replace(
                    config, num_layers=config.num_decoder_layers, num_decoder_layers=0, causal=True
                ),
                cross_attention=True,
                token_emb=self.encoder.embedding.token_emb,
                initializer=initializer,
                dtype=dtype,
                name="decoder",
            )

        # Graph
        inputs = encoder_decoder_inputs(config)
        self._connect(config, inputs, self.encoder.dtype_policy, **kwargs)

    @property
    def embedding(self):
        """The encoder's embedding, whose token table all share."""
        return self.encoder.embedding

    @property
    def blocks(self):
        """All blocks, from the encoder's first to the decoder's last."""
        return [*self.encoder.blocks, *self.decoder.blocks]

    def encode(self, inputs):
        """Read a text.

        Args:
            inputs: dict of int32 `(batch, length)`: `token_ids`, `padding_mask`.

        Returns:
            float `(batch, length, embed_dim)`: the context that the decoder attends to.
        """
        return self.encoder({name: inputs[name] for name in ("token_ids", "padding_mask")})

    def _forward(self, inputs, cache=None, position=0):
        step = {
            "token_ids": inputs["decoder_token_ids"],
            "context_mask": inputs["padding_mask"],
        }
        if "decoder_padding_mask" in inputs:
            step["padding_mask"] = inputs["decoder_padding_mask"]
        if cache is None:
            return self.decoder({**step, "context": self.encode(inputs)}), ()
        return self.decoder(step, cache=cache, position=position)

    def make_cache(self, batch_size, max_length=None, context=None):
        """Make a cache for the decoder, which holds what it will ask of the context.

        Args:
            batch_size: int, or scalar int tensor.
            max_length: int or None: the most tokens it shall hold; None for the model's most.
            context: float `(batch, length, embed_dim)`, from `encode`; needed.

        Returns:
            tuple with, for each block of the decoder, keys and values of its own tokens, zeros
            `(batch, heads, max_length, projection_dim)`, and keys and values of the context.

        Raises:
            ValueError: `max_length` is more than the model's, or the `context` is missing.
        """
        return self.decoder.make_cache(batch_size, max_length, context)


def encoder_decoder_inputs(config):
    """The symbolic inputs of an encoder–decoder, which every model on top shares.

    Args:
        config: any backbone's config.

    Returns:
        dict of `keras.KerasTensor`, int32 `(batch, length)`.
    """
    inputs = token_inputs(config)
    names = [f"decoder_{name}" for name in inputs]
    decoder = {name: keras.Input((None,), dtype="int32", name=name) for name in names}
    return {**inputs, **decoder}


def shifted_right(inputs, first):
    """The decoder's inputs where it reads the encoder's text again.

    Args:
        inputs: dict of int32 `(batch, length)`: `token_ids`, `padding_mask`, of the encoder.
        first: int, the token before the text; the last one falls out.

    Returns:
        dict of int32 `(batch, length)`: `decoder_token_ids`, `decoder_padding_mask`.

    Example:
        >>> ids = np.array([[5, 7, 9]])
        >>> inputs = shifted_right({"token_ids": ids, "padding_mask": ids > 5}, 2)
        >>> [np.array(inputs[name]).tolist() for name in sorted(inputs)]
        [[[1, 0, 1]], [[2, 5, 7]]]

    References:
        Lewis et al. 2019, "BART", section 3 and figure 3 (a).
    """
    return {
        "decoder_token_ids": _behind(first, inputs["token_ids"]),
        "decoder_padding_mask": _behind(1, inputs["padding_mask"]),
    }


def _behind(first, x):
    x = ops.cast(x, "int32")
    return ops.concatenate([ops.full_like(x[:, :1], first), x[:, :-1]], axis=1)  # (batch, length)
