"""GPT-2: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"."""

from kerasllm.families.head import Head
from kerasllm.weights import Stored

MODEL_TYPE = "gpt2"

# Table 2; distilled: Sanh et al. 2019, "DistilBERT".
SIZES = {
    "gpt2_distil": dict(num_layers=6, num_heads=12, embed_dim=768, ff_dim=3072),
    "gpt2_small": dict(num_layers=12, num_heads=12, embed_dim=768, ff_dim=3072),
    "gpt2_medium": dict(num_layers=24, num_heads=16, embed_dim=1024, ff_dim=4096),
    "gpt2_large": dict(num_layers=36, num_heads=20, embed_dim=1280, ff_dim=5120),
    "gpt2_xl": dict(num_layers=48, num_heads=25, embed_dim=1600, ff_dim=6400),
}

FIELDS = {
    "vocab_size": ("vocab_size", 50257),
    "n_layer": ("num_layers", 12),
    "n_head": ("num_heads", 12),
    "n_embd": ("embed_dim", 768),
    "n_inner": ("ff_dim", None),
    "n_positions": ("max_length", 1024),
    "resid_pdrop": ("rate", 0.1),
    "attn_pdrop": ("attention_rate", 0.1),
    "activation_function": ("activation", "gelu_new"),
    "layer_norm_epsilon": ("epsilon", 1e-5),
    "initializer_range": ("initializer_range", 0.02),
    "pad_token_id": ("pad_id", None),
    "tie_word_embeddings": ("tie_embedding", True),
}
SETTINGS = dict(
    num_segments=0, norm_first=True, causal=True, positions="counted", embedding_norm=False
)
FIXED_FIELDS = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
    "is_encoder_decoder": False,
}
IGNORED_FIELDS = {
    "n_ctx", "embd_pdrop", "summary_type", "summary_use_proj", "summary_activation",
    "summary_first_dropout", "summary_proj_to_labels", "n_special", "predict_special_tokens",
}  # fmt: skip
# The masks that old checkpoints hold, and the head, which is the token table again.
IGNORED_TENSORS = (r"h\.\d+\.attn\.(masked_)?bias", r"lm_head\.weight")
PREFIX = "transformer."


def _conv1d(name, **part):
    return Stored(f"transformer.{name}", transposed=False, **part)


BACKBONE = {
    "embedding.token_emb": "transformer.wte",
    "embedding.pos_emb": "transformer.wpe",
    "blocks.{i}.layernorm1": "transformer.h.{i}.ln_1",
    "blocks.{i}.att.query_dense": _conv1d("h.{i}.attn.c_attn", part=0, parts=3),
    "blocks.{i}.att.key_dense": _conv1d("h.{i}.attn.c_attn", part=1, parts=3),
    "blocks.{i}.att.value_dense": _conv1d("h.{i}.attn.c_attn", part=2, parts=3),
    "blocks.{i}.att.combine_heads": _conv1d("h.{i}.attn.c_proj"),
    "blocks.{i}.layernorm2": "transformer.h.{i}.ln_2",
    "blocks.{i}.ffn.layers.0": _conv1d("h.{i}.mlp.c_fc"),
    "blocks.{i}.ffn.layers.1": _conv1d("h.{i}.mlp.c_proj"),
    "final_norm": "transformer.ln_f",
}
HEADS = {
    "causal_lm": Head("GPT2LMHeadModel", {"logits": "lm_head"}),
    "text_classifier": Head(
        "GPT2ForSequenceClassification",
        {"classifier": "score"},
        {"token": "last", "use_bias": False},
    ),
    "token_classifier": Head("GPT2ForTokenClassification", {"classifier": "classifier"}),
    "span_labeler": Head("GPT2ForQuestionAnswering", {"span": "qa_outputs"}),
}


def read(fields):
    """The inner width is four times the outer one if a config has none."""
    return {**fields, "ff_dim": fields["ff_dim"] or 4 * fields["embed_dim"]}
