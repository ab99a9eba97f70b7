"""Mistral: Jiang et al. 2023, "Mistral 7B"."""

from kerasllm.config import LlamaConfig
from kerasllm.families import llama

MODEL_TYPE = "mistral"
CONFIG = LlamaConfig

# Table 1, and the third version of the checkpoint.
_7B = llama.size(32, 32, 8, 4096, 14336, epsilon=1e-5, max_length=32768)
SIZES = {
    "mistral_7b_v0.1": dict(**_7B, sliding_window=4096),
    "mistral_7b_v0.3": dict(**_7B, sliding_window=0, vocab_size=32768, rope_theta=1e6),
}

FIELDS = {
    **{their: ours for their, ours in llama.FIELDS.items() if not their.endswith("_bias")},
    "num_key_value_heads": ("num_kv_heads", 8),
    "intermediate_size": ("ff_dim", 14336),
    "max_position_embeddings": ("max_length", 131072),
    "sliding_window": ("sliding_window", 4096),
}
SETTINGS = {}
FIXED_FIELDS = {"is_encoder_decoder": False}
IGNORED_FIELDS = set()
IGNORED_TENSORS = llama.IGNORED_TENSORS
PREFIX = llama.PREFIX
BACKBONE = llama.BACKBONE
HEADS = llama.heads("Mistral", span_prefix="model.")
read, write = llama.read, llama.write
