"""The mathematics: attention, the Transformer block, embeddings."""

from kerasllm.layers.attention import MultiHeadSelfAttention, causal_bias, padding_bias
from kerasllm.layers.dropout import Dropout
from kerasllm.layers.embedding import TokenAndPositionEmbedding
from kerasllm.layers.transformer_block import TransformerBlock

__all__ = [
    "Dropout",
    "MultiHeadSelfAttention",
    "TokenAndPositionEmbedding",
    "TransformerBlock",
    "causal_bias",
    "padding_bias",
]
