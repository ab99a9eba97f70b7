"""Backbones: token ids to hidden states."""

from kerasllm.backbones.encoder_decoder import EncoderDecoder
from kerasllm.backbones.transformer import Transformer

__all__ = ["EncoderDecoder", "Transformer", "backbone_of"]


def backbone_of(config, **options):
    """Make the backbone that a config describes, with fresh weights.

    Args:
        config: `TransformerConfig`.
        **options: of the backbone, e.g. `dtype`.

    Returns:
        The backbone.

    Raises:
        TypeError: `config` is no config of a backbone.
    """
    if getattr(config, "num_decoder_layers", 0):
        return EncoderDecoder(config, **options)
    return Transformer(config, **options)
