"""Qwen3: Yang et al. 2025, "Qwen3 Technical Report"."""

from kerasllm.config import LlamaConfig
from kerasllm.families import llama, qwen2

MODEL_TYPE = "qwen3"
CONFIG = LlamaConfig

# Table 1.
_ALL = dict(max_length=40960, rope_theta=1e6)
_TIED = dict(tie_embedding=True, **_ALL)
SIZES = {
    "qwen3_0.6b": llama.size(28, 16, 8, 1024, 3072, full_layers=28, **_TIED),
    "qwen3_1.7b": llama.size(28, 16, 8, 2048, 6144, full_layers=28, **_TIED),
    "qwen3_4b": llama.size(36, 32, 8, 2560, 9728, full_layers=36, **_TIED),
    "qwen3_8b": llama.size(36, 32, 8, 4096, 12288, full_layers=36, **_ALL),
}

FIELDS = {
    **qwen2.FIELDS,
    "head_dim": ("projection_dim", 128),
    "attention_bias": ("qkv_bias", False),
}
SETTINGS = dict(qk_norm=True)
FIXED_FIELDS = qwen2.FIXED_FIELDS
IGNORED_FIELDS = set()
IGNORED_TENSORS = llama.IGNORED_TENSORS
PREFIX = llama.PREFIX
BACKBONE = {
    **llama.BACKBONE,
    "blocks.{i}.att.query_norm": "model.layers.{i}.self_attn.q_norm",
    "blocks.{i}.att.key_norm": "model.layers.{i}.self_attn.k_norm",
}
HEADS = llama.heads("Qwen3")
read, write = qwen2.read, qwen2.write
