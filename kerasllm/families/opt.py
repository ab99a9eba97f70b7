"""OPT: Zhang et al. 2022, "OPT: Open Pre-trained Transformer Language Models"."""

from kerasllm.families.head import Head
from kerasllm.weights import Stored

MODEL_TYPE = "opt"

# Table 1. The odd one is 350m: post-norm, with token vectors of half the width.
_WIDTHS = {
    "125m": (12, 12, 768), "1.3b": (24, 32, 2048), "2.7b": (32, 32, 2560), "6.7b": (32, 32, 4096),
    "13b": (40, 40, 5120), "30b": (48, 56, 7168), "66b": (64, 72, 9216),
}  # fmt: skip
SIZES = {
    f"opt_{name}": dict(num_layers=layers, num_heads=heads, embed_dim=width, ff_dim=4 * width)
    for name, (layers, heads, width) in _WIDTHS.items()
}
SIZES["opt_350m"] = dict(
    num_layers=24, num_heads=16, embed_dim=1024, ff_dim=4096, norm_first=False, embedding_dim=512
)

FIELDS = {
    "vocab_size": ("vocab_size", 50272),
    "num_hidden_layers": ("num_layers", 12),
    "num_attention_heads": ("num_heads", 12),
    "hidden_size": ("embed_dim", 768),
    "ffn_dim": ("ff_dim", 3072),
    "max_position_embeddings": ("max_length", 2048),
    "word_embed_proj_dim": ("embedding_dim", None),
    "do_layer_norm_before": ("norm_first", True),
    "dropout": ("rate", 0.1),
    "attention_dropout": ("attention_rate", 0.0),
    "activation_function": ("activation", "relu"),
    "init_std": ("initializer_range", 0.02),
    "pad_token_id": ("pad_id", 1),
    "tie_word_embeddings": ("tie_embedding", True),
}
SETTINGS = dict(
    num_segments=0, causal=True, positions="counted", position_offset=2, embedding_norm=False,
    embedding_bias=False, epsilon=1e-5,
)  # fmt: skip
FIXED_FIELDS = {
    "enable_bias": True,
    "layer_norm_elementwise_affine": True,
    "_remove_final_layer_norm": False,
    "is_encoder_decoder": False,
}
IGNORED_FIELDS = {"layerdrop", "activation_dropout"}
IGNORED_TENSORS = (r"lm_head\.weight",)
PREFIX = "model."

_BLOCK = "model.decoder.layers.{i}."
BACKBONE = {
    "embedding.token_emb": "model.decoder.embed_tokens",
    "embedding.pos_emb": "model.decoder.embed_positions",
    "embedding.projection": Stored("model.decoder.project_in", optional=True),
    "blocks.{i}.att.query_dense": _BLOCK + "self_attn.q_proj",
    "blocks.{i}.att.key_dense": _BLOCK + "self_attn.k_proj",
    "blocks.{i}.att.value_dense": _BLOCK + "self_attn.v_proj",
    "blocks.{i}.att.combine_heads": _BLOCK + "self_attn.out_proj",
    "blocks.{i}.layernorm1": _BLOCK + "self_attn_layer_norm",
    "blocks.{i}.ffn.layers.0": _BLOCK + "fc1",
    "blocks.{i}.ffn.layers.1": _BLOCK + "fc2",
    "blocks.{i}.layernorm2": _BLOCK + "final_layer_norm",
    "final_norm": Stored("model.decoder.final_layer_norm", optional=True),
}
_PROJECTION = {"projection": Stored("model.decoder.project_out", optional=True)}
HEADS = {
    "causal_lm": Head("OPTForCausalLM", {**_PROJECTION, "logits": "lm_head"}),
    "text_classifier": Head(
        "OPTForSequenceClassification",
        {**_PROJECTION, "classifier": "score"},
        {"token": "last", "use_bias": False, "narrowed": True},
    ),
    "span_labeler": Head(
        "OPTForQuestionAnswering", {**_PROJECTION, "span": "qa_outputs"}, {"narrowed": True}
    ),
}


def read(fields):
    """Token vectors are projected only where their width is another."""
    width = fields["embedding_dim"] or fields["embed_dim"]
    return {**fields, "embedding_dim": 0 if width == fields["embed_dim"] else width}


def write(fields):
    """The inverse of `read`."""
    return {**fields, "embedding_dim": fields["embedding_dim"] or fields["embed_dim"]}
