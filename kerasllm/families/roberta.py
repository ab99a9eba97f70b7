"""RoBERTa: Liu et al. 2019, "RoBERTa: A Robustly Optimized BERT Pretraining Approach"."""

from kerasllm.families import bert
from kerasllm.families.head import Head

MODEL_TYPE = "roberta"

# Section 3.1; distilled: Sanh et al. 2019, "DistilBERT".
_ALL = dict(max_length=512, num_segments=1, epsilon=1e-5)
SIZES = {
    "roberta_distil": dict(num_layers=6, num_heads=12, embed_dim=768, ff_dim=3072, **_ALL),
    "roberta_base": dict(num_layers=12, num_heads=12, embed_dim=768, ff_dim=3072, **_ALL),
    "roberta_large": dict(num_layers=24, num_heads=16, embed_dim=1024, ff_dim=4096, **_ALL),
}

FIELDS = {
    **bert.FIELDS,
    "vocab_size": ("vocab_size", 50265),
    "pad_token_id": ("pad_id", 1),
}
# Positions are counted, and begin after that of the padding token.
SETTINGS = dict(positions="counted")
FIXED_FIELDS = bert.FIXED_FIELDS
IGNORED_FIELDS = set()
IGNORED_TENSORS = (
    r"embeddings\.(position_ids|token_type_ids)",
    r"pooler\.dense\.(weight|bias)",
    r"lm_head\.decoder\.(weight|bias)",
)
PREFIX = "roberta."
BACKBONE = {ours: theirs.replace("bert.", PREFIX, 1) for ours, theirs in bert.BACKBONE.items()}
HEADS = {
    "text_classifier": Head(
        "RobertaForSequenceClassification",
        {"pooler": "classifier.dense", "classifier": "classifier.out_proj"},
        {"activation": "tanh", "dropout_first": True},
    ),
    "masked_lm": Head(
        "RobertaForMaskedLM",
        {
            "transform": "lm_head.dense",
            "layernorm": "lm_head.layer_norm",
            "logits.bias": "lm_head.bias",
        },
        {"activation": "gelu"},
    ),
    "token_classifier": Head("RobertaForTokenClassification", {"classifier": "classifier"}),
    "span_labeler": Head("RobertaForQuestionAnswering", {"span": "qa_outputs"}),
    "sentence_encoder": Head("RobertaModel", {}, prefix=""),
}


def read(fields):
    """The position table has rows that no real token uses, up to that of the padding token."""
    offset = fields["pad_id"] + 1
    return {**fields, "position_offset": offset, "max_length": fields["max_length"] - offset}


def write(fields):
    """The inverse of `read`."""
    return {**fields, "max_length": fields["max_length"] + fields["position_offset"]}
