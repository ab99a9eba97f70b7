"""Backbones: token ids to hidden states."""

from kerasllm.backbones.transformer import Transformer

__all__ = ["Transformer"]
