"""LLaMA: Touvron et al. 2023, "Llama 2"; Grattafiori et al. 2024, "The Llama 3 Herd of Models".

SmolLM2 (Allal et al. 2025) and TinyLlama (Zhang et al. 2024) are of the same family.
"""

from kerasllm.config import LlamaConfig, RopeScaling
from kerasllm.families.head import Head

MODEL_TYPE = "llama"
CONFIG = LlamaConfig

_LLAMA2 = dict(max_length=4096, epsilon=1e-5)
_LLAMA3 = dict(vocab_size=128256, max_length=8192, epsilon=1e-5, rope_theta=5e5)
_LLAMA32 = {
    **_LLAMA3,
    "max_length": 131072,
    "tie_embedding": True,
    "rope_scaling": RopeScaling("llama3", 32.0, 8192, slow=1.0, fast=4.0),
}
_SMOLLM2 = dict(vocab_size=49152, max_length=8192, epsilon=1e-5, tie_embedding=True)


def size(num_layers, num_heads, num_kv_heads, embed_dim, ff_dim, **others):
    """Name the numbers by which the sizes of LLaMA's kin differ.

    Args:
        num_layers: int.
        num_heads: int.
        num_kv_heads: int.
        embed_dim: int.
        ff_dim: int.
        **others: more fields of `LlamaConfig`.

    Returns:
        dict, a value of `SIZES`.
    """
    return dict(
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        embed_dim=embed_dim,
        ff_dim=ff_dim,
        **others,
    )


# As in the published checkpoints.
SIZES = {
    "llama_tiny": size(2, 4, 2, 128, 344),
    "llama2_7b": size(32, 32, 32, 4096, 11008, **_LLAMA2),
    "llama2_13b": size(40, 40, 40, 5120, 13824, **_LLAMA2),
    "llama2_70b": size(80, 64, 8, 8192, 28672, **_LLAMA2),
    "llama3_8b": size(32, 32, 8, 4096, 14336, **_LLAMA3),
    "llama3_70b": size(80, 64, 8, 8192, 28672, **_LLAMA3),
    "llama3.2_1b": size(16, 32, 8, 2048, 8192, **_LLAMA32),
    "llama3.2_3b": size(28, 24, 8, 3072, 8192, **_LLAMA32),
    "smollm2_135m": size(30, 9, 3, 576, 1536, rope_theta=1e5, **_SMOLLM2),
    "smollm2_360m": size(32, 15, 5, 960, 2560, rope_theta=1e5, **_SMOLLM2),
    "smollm2_1.7b": size(24, 32, 32, 2048, 8192, rope_theta=1.3e5, **_SMOLLM2),
    "tinyllama_1.1b": size(22, 32, 4, 2048, 5632, epsilon=1e-5),
}

FIELDS = {
    "vocab_size": ("vocab_size", 32000),
    "num_hidden_layers": ("num_layers", 32),
    "num_attention_heads": ("num_heads", 32),
    "num_key_value_heads": ("num_kv_heads", None),
    "head_dim": ("projection_dim", None),
    "hidden_size": ("embed_dim", 4096),
    "intermediate_size": ("ff_dim", 11008),
    "max_position_embeddings": ("max_length", 2048),
    "attention_dropout": ("attention_rate", 0.0),
    "hidden_act": ("activation", "silu"),
    "rms_norm_eps": ("epsilon", 1e-6),
    "initializer_range": ("initializer_range", 0.02),
    "pad_token_id": ("pad_id", None),
    "tie_word_embeddings": ("tie_embedding", False),
    "attention_bias": ("qkv_bias", False),
    "mlp_bias": ("ffn_bias", False),
    # `transformers` 5 has all in `rope_parameters`; before that it had the other two.
    "rope_parameters": ("rope_parameters", None),
    "rope_theta": ("rope_theta", None),
    "rope_scaling": ("rope_scaling", None),
}
SETTINGS = {}
FIXED_FIELDS = {"rope_interleaved": False, "is_encoder_decoder": False}
IGNORED_FIELDS = {"pretraining_tp", "is_llama_config", "transformers.js_config"}
# Frequencies that old checkpoints hold, and the head where it is the token table.
IGNORED_TENSORS = (
    r"(model\.)?layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
    r"lm_head\.weight",
)
PREFIX = "model."

_BLOCK = "model.layers.{i}."
BACKBONE = {
    "embedding.token_emb": "model.embed_tokens",
    "blocks.{i}.norm1": _BLOCK + "input_layernorm",
    "blocks.{i}.att.query_dense": _BLOCK + "self_attn.q_proj",
    "blocks.{i}.att.key_dense": _BLOCK + "self_attn.k_proj",
    "blocks.{i}.att.value_dense": _BLOCK + "self_attn.v_proj",
    "blocks.{i}.att.combine_heads": _BLOCK + "self_attn.o_proj",
    "blocks.{i}.norm2": _BLOCK + "post_attention_layernorm",
    "blocks.{i}.ffn.gate": _BLOCK + "mlp.gate_proj",
    "blocks.{i}.ffn.expand": _BLOCK + "mlp.up_proj",
    "blocks.{i}.ffn.project": _BLOCK + "mlp.down_proj",
    "final_norm": "model.norm",
}


def heads(name, span_prefix="transformer."):
    """Say what a family of LLaMA's kind calls its heads.

    Args:
        name: str, how the names of its classes begin.
        span_prefix: str, how a span labeler's checkpoints begin the names of the backbone.

    Returns:
        dict, as `HEADS`.
    """
    return {
        "causal_lm": Head(f"{name}ForCausalLM", {"logits": "lm_head"}),
        "text_classifier": Head(
            f"{name}ForSequenceClassification",
            {"classifier": "score"},
            {"token": "last", "use_bias": False},
        ),
        "token_classifier": Head(f"{name}ForTokenClassification", {"classifier": "score"}),
        "span_labeler": Head(
            f"{name}ForQuestionAnswering", {"span": "qa_outputs"}, prefix=span_prefix
        ),
    }


HEADS = heads("Llama")

# For each kind of scaling, the words of a config: ours.
_SCALINGS = {
    "default": {},
    "linear": {"factor": "factor"},
    "dynamic": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "original_max_position_embeddings": "original_max_length",
        "low_freq_factor": "slow",
        "high_freq_factor": "fast",
    },
    "yarn": {
        "factor": "factor",
        "original_max_position_embeddings": "original_max_length",
        "beta_slow": "slow",
        "beta_fast": "fast",
        "attention_factor": "attention_factor",
    },
    "longrope": {
        "factor": "factor",
        "original_max_position_embeddings": "original_max_length",
        "attention_factor": "attention_factor",
        "short_factor": "short_factors",
        "long_factor": "long_factors",
    },
}
# The values of other words at which they change nothing.
_NEUTRAL = {"partial_rotary_factor": 1.0, "truncate": True}


def read(fields):
    """Rotary positions from either of their forms, and 0 for what their configs leave open."""
    rope = {**(fields["rope_parameters"] or {}), **(fields["rope_scaling"] or {})}
    theta = rope.pop("rope_theta", None) or fields["rope_theta"] or 10000.0
    max_length = fields["max_length"]
    scaling = _read_scaling(rope, max_length)
    if scaling and scaling.kind == "dynamic":  # their config has the original length
        max_length = int(max_length * scaling.factor)
    return {
        "output_bias": fields.get("qkv_bias", False),
        **{name: value for name, value in fields.items() if name != "rope_parameters"},
        "num_kv_heads": fields["num_kv_heads"] or 0,
        "projection_dim": fields["projection_dim"] or 0,
        "sliding_window": fields.get("sliding_window") or 0,
        "max_length": max_length,
        "rope_theta": theta,
        "rope_scaling": scaling,
    }


def _read_scaling(rope, max_length):
    rope = {word: value for word, value in rope.items() if value is not None}
    old, kind = rope.pop("type", "default"), rope.pop("rope_type", None)
    kind = kind or old
    if kind not in _SCALINGS:
        raise ValueError(f"`rope_type` must be one of {', '.join(_SCALINGS)}. Received: {kind!r}.")
    words = _SCALINGS[kind]
    unknown = {
        word: value
        for word, value in rope.items()
        if word not in words and value != _NEUTRAL.get(word)
    }
    if unknown:
        raise ValueError(
            f"Rotary positions of the kind {kind} have settings that are not known: {unknown}. "
            "Remove them if they don't change what the model computes."
        )
    if kind == "default":
        return None
    ours = {our: rope[word] for word, our in words.items() if word in rope}
    if kind != "linear":
        ours.setdefault("original_max_length", max_length)
    if kind == "longrope":
        ours.setdefault("factor", max_length / ours["original_max_length"])
    if "factor" not in ours:
        raise ValueError(
            f"Rotary positions of the kind {kind} must have a `factor`. Received: {rope}."
        )
    return RopeScaling(kind, **ours)


def write(fields):
    """The inverse of `read`, in both forms."""
    scaling = fields["rope_scaling"] or {"kind": "default"}
    rope = {"rope_type": scaling["kind"]}
    for word, our in _SCALINGS[scaling["kind"]].items():
        if scaling[our]:
            rope[word] = list(scaling[our]) if our.endswith("factors") else scaling[our]
    dynamic = scaling["kind"] == "dynamic"
    return {
        **fields,
        "sliding_window": fields["sliding_window"] or None,
        "max_length": scaling["original_max_length"] if dynamic else fields["max_length"],
        "rope_parameters": {"rope_theta": fields["rope_theta"], **rope},
        "rope_scaling": rope if fields["rope_scaling"] else None,
    }
