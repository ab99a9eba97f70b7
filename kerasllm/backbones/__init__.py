"""Backbones: token ids to hidden states."""

from kerasllm.backbones.encoder_decoder import EncoderDecoder
from kerasllm.backbones.llama import Llama
from kerasllm.backbones.recurrent import Recurrent
from kerasllm.backbones.t5 import T5, T5Stack
from kerasllm.backbones.transformer import Transformer
from kerasllm.config import LlamaConfig, RecurrentConfig, T5Config

__all__ = ["EncoderDecoder", "Llama", "Recurrent", "T5", "T5Stack", "Transformer", "backbone_of"]


def backbone_of(config, **options):
    """Make the backbone that a config describes, with fresh weights.

    Args:
        config: a config of `kerasllm.config`.
        **options: of the backbone, e.g. `dtype`.

    Returns:
        The backbone.

    Raises:
        TypeError: `config` is no config of a backbone.
    """
    if isinstance(config, RecurrentConfig):
        return Recurrent(config, **options)
    if isinstance(config, LlamaConfig):
        return Llama(config, **options)
    if isinstance(config, T5Config):
        return (T5 if config.num_decoder_layers else T5Stack)(config, **options)
    if getattr(config, "num_decoder_layers", 0):
        return EncoderDecoder(config, **options)
    return Transformer(config, **options)
