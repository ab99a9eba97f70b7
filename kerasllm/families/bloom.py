"""BLOOM: BigScience 2022, "BLOOM: A 176B-Parameter Open-Access Multilingual Language Model"."""

from kerasllm.families.head import Head
from kerasllm.weights import Stored

MODEL_TYPE = "bloom"

# Table 3.
_WIDTHS = {
    "560m": (24, 16, 1024), "1.1b": (24, 16, 1536), "1.7b": (24, 16, 2048), "3b": (30, 32, 2560),
    "7.1b": (30, 32, 4096), "176b": (70, 112, 14336),
}  # fmt: skip
SIZES = {
    f"bloom_{name}": dict(
        num_layers=layers, num_heads=heads, embed_dim=width, ff_dim=4 * width, vocab_size=250880
    )
    for name, (layers, heads, width) in _WIDTHS.items()
}

FIELDS = {
    "vocab_size": ("vocab_size", 250880),
    "n_layer": ("num_layers", 2),
    "n_head": ("num_heads", 8),
    "hidden_size": ("embed_dim", 64),
    "seq_length": ("max_length", 2048),
    "hidden_dropout": ("rate", 0.0),
    "attention_dropout": ("attention_rate", 0.0),
    "layer_norm_epsilon": ("epsilon", 1e-5),
    "initializer_range": ("initializer_range", 0.02),
    "pad_token_id": ("pad_id", None),
    "tie_word_embeddings": ("tie_embedding", True),
}
# As in the published checkpoints.
ALIASES = {
    "n_embed": "hidden_size",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
SETTINGS = dict(
    num_segments=0, causal=True, positions="alibi", norm_first=True, activation="gelu_tanh"
)
FIXED_FIELDS = {
    "apply_residual_connection_post_layernorm": False,
    "slow_but_exact": False,
    "is_encoder_decoder": False,
}
IGNORED_FIELDS = {
    "pretraining_tp", "attention_softmax_in_fp32", "bias_dropout_fusion", "masked_softmax_fusion",
    "n_inner", "offset_alibi", "skip_bias_add", "skip_bias_add_qkv", "unk_token_id",
}  # fmt: skip
IGNORED_TENSORS = (r"lm_head\.weight",)
PREFIX = "transformer."


def _fused(part):
    """One of query, key and value, which take turns head by head in one tensor."""
    name = "transformer.h.{i}.self_attention.query_key_value"
    return Stored(name, part=part, parts=3, heads=-1)


BACKBONE = {
    "embedding.token_emb": "transformer.word_embeddings",
    "embedding.layernorm": "transformer.word_embeddings_layernorm",
    "blocks.{i}.layernorm1": "transformer.h.{i}.input_layernorm",
    "blocks.{i}.att.query_dense": _fused(0),
    "blocks.{i}.att.key_dense": _fused(1),
    "blocks.{i}.att.value_dense": _fused(2),
    "blocks.{i}.att.combine_heads": "transformer.h.{i}.self_attention.dense",
    "blocks.{i}.layernorm2": "transformer.h.{i}.post_attention_layernorm",
    "blocks.{i}.ffn.layers.0": "transformer.h.{i}.mlp.dense_h_to_4h",
    "blocks.{i}.ffn.layers.1": "transformer.h.{i}.mlp.dense_4h_to_h",
    "final_norm": "transformer.ln_f",
}
HEADS = {
    "causal_lm": Head("BloomForCausalLM", {"logits": "lm_head"}),
    "text_classifier": Head(
        "BloomForSequenceClassification",
        {"classifier": "score"},
        {"token": "last", "use_bias": False},
    ),
    "token_classifier": Head("BloomForTokenClassification", {"classifier": "classifier"}),
    "span_labeler": Head("BloomForQuestionAnswering", {"span": "qa_outputs"}),
}


def read(fields):
    """The inner width is always four times the outer one."""
    return {**fields, "ff_dim": 4 * fields["embed_dim"]}
