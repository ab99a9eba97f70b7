"""Qwen2: Yang et al. 2024, "Qwen2 Technical Report" and "Qwen2.5 Technical Report"."""

from kerasllm.config import LlamaConfig
from kerasllm.families import llama

MODEL_TYPE = "qwen2"
CONFIG = LlamaConfig

# As in the published checkpoints of Qwen2.5.
_ALL = dict(max_length=32768, rope_theta=1e6)
_TIED = dict(tie_embedding=True, **_ALL)
SIZES = {
    "qwen2.5_0.5b": llama.size(24, 14, 2, 896, 4864, full_layers=24, **_TIED),
    "qwen2.5_1.5b": llama.size(28, 12, 2, 1536, 8960, full_layers=28, **_TIED),
    "qwen2.5_3b": llama.size(36, 16, 2, 2048, 11008, full_layers=36, **_TIED),
    "qwen2.5_7b": llama.size(28, 28, 4, 3584, 18944, full_layers=28, vocab_size=152064, **_ALL),
}

FIELDS = {
    **{their: ours for their, ours in llama.FIELDS.items() if not their.endswith("_bias")},
    "vocab_size": ("vocab_size", 151936),
    "intermediate_size": ("ff_dim", 22016),
    "max_position_embeddings": ("max_length", 32768),
    "use_sliding_window": ("use_sliding_window", False),
    "sliding_window": ("sliding_window", 4096),
    "max_window_layers": ("full_layers", 28),
    "layer_types": ("layer_types", None),
}
SETTINGS = dict(qkv_bias=True, output_bias=False)
FIXED_FIELDS = {"use_mrope": False, "is_encoder_decoder": False}
IGNORED_FIELDS = set()
IGNORED_TENSORS = llama.IGNORED_TENSORS
PREFIX = llama.PREFIX
BACKBONE = llama.BACKBONE
HEADS = llama.heads("Qwen2")


def read(fields):
    """A sliding window only if it is used, and then from a certain layer on."""
    fields = dict(fields)
    use_sliding_window, layer_types = fields.pop("use_sliding_window"), fields.pop("layer_types")
    if not use_sliding_window:
        fields["sliding_window"] = 0
    fields["full_layers"] = fields["full_layers"] or 0
    if layer_types is not None and layer_types != _layer_types(fields):
        raise ValueError(
            "`layer_types` must be full attention in the first `max_window_layers` layers, and a "
            f"sliding window, if it is used, in the others. Received: {layer_types}."
        )
    return llama.read(fields)


def write(fields):
    """The inverse of `read`."""
    return {
        **llama.write(fields),
        "use_sliding_window": bool(fields["sliding_window"]),
        "layer_types": _layer_types(fields),
    }


def _layer_types(fields):
    full = fields["full_layers"] if fields["sliding_window"] else fields["num_layers"]
    return [
        "full_attention" if i < full else "sliding_attention" for i in range(fields["num_layers"])
    ]
