"""The mathematics: attention, the Transformer block, embeddings."""

from kerasllm.layers.attention import (
    AttentionBias,
    MultiHeadSelfAttention,
    causal_bias,
    is_recorded,
    padding_bias,
    recorded_attention,
)
from kerasllm.layers.dense import Dense
from kerasllm.layers.dropout import Dropout
from kerasllm.layers.embedding import TokenAndPositionEmbedding, TokenLogits
from kerasllm.layers.llama_block import GatedFeedForward, LlamaBlock, RotaryAttention
from kerasllm.layers.position import RotaryPositions, alibi_bias, sinusoids
from kerasllm.layers.quick_steps import quick_steps
from kerasllm.layers.recurrent_block import RecurrentBlock, RecurrentCell
from kerasllm.layers.t5_block import RelativeAttentionBias, T5Attention, T5Block
from kerasllm.layers.transformer_block import TransformerBlock, activation_function, rows_at

__all__ = [
    "AttentionBias",
    "Dense",
    "Dropout",
    "GatedFeedForward",
    "LlamaBlock",
    "MultiHeadSelfAttention",
    "RecurrentBlock",
    "RecurrentCell",
    "RelativeAttentionBias",
    "RotaryAttention",
    "RotaryPositions",
    "T5Attention",
    "T5Block",
    "TokenAndPositionEmbedding",
    "TokenLogits",
    "TransformerBlock",
    "activation_function",
    "alibi_bias",
    "causal_bias",
    "is_recorded",
    "padding_bias",
    "quick_steps",
    "recorded_attention",
    "rows_at",
    "sinusoids",
]
