"""ELECTRA: Clark et al. 2020, "Pre-training Text Encoders as Discriminators"."""

from kerasllm.families import bert
from kerasllm.families.head import Head
from kerasllm.weights import Stored

MODEL_TYPE = "electra"

# Appendix A, table 6. A generator has a fraction of its discriminator's width, and all its layers.
_SMALL = dict(num_layers=12, ff_dim=1024, embed_dim=256, embedding_dim=128)
SIZES = {
    "electra_small": dict(num_heads=4, **_SMALL),
    "electra_base": dict(num_layers=12, num_heads=12, embed_dim=768, ff_dim=3072, embedding_dim=0),
    "electra_large": dict(
        num_layers=24, num_heads=16, embed_dim=1024, ff_dim=4096, embedding_dim=0
    ),
    "electra_small_generator": dict(num_heads=4, **_SMALL),
    "electra_base_generator": dict(
        num_layers=12, num_heads=4, embed_dim=256, ff_dim=1024, embedding_dim=768
    ),
    "electra_large_generator": dict(
        num_layers=24, num_heads=4, embed_dim=256, ff_dim=1024, embedding_dim=1024
    ),
}
FIELDS = {
    **bert.FIELDS,
    "hidden_size": ("embed_dim", 256),
    "intermediate_size": ("ff_dim", 1024),
    "num_attention_heads": ("num_heads", 4),
    "embedding_size": ("embedding_dim", 128),
}
SETTINGS = {}
FIXED_FIELDS = bert.FIXED_FIELDS
IGNORED_FIELDS = {
    "summary_activation", "summary_last_dropout", "summary_type", "summary_use_proj",
}  # fmt: skip
IGNORED_TENSORS = (
    r"embeddings\.(position_ids|token_type_ids)",
    r"generator_lm_head\.weight",
)
PREFIX = "electra."
BACKBONE = {
    **{ours: theirs.replace("bert.", PREFIX, 1) for ours, theirs in bert.BACKBONE.items()},
    "embedding.projection": Stored("electra.embeddings_project", optional=True),
}
HEADS = {
    "text_classifier": Head(
        "ElectraForSequenceClassification",
        {"pooler": "classifier.dense", "classifier": "classifier.out_proj"},
        {"activation": "gelu", "dropout_first": True},
    ),
    "masked_lm": Head(
        "ElectraForMaskedLM",
        {
            "transform": "generator_predictions.dense",
            "layernorm": "generator_predictions.LayerNorm",
            "logits": "generator_lm_head",
        },
        {"activation": "gelu"},
    ),
    "token_detector": Head(
        "ElectraForPreTraining",
        {
            "transform": "discriminator_predictions.dense",
            "classifier": "discriminator_predictions.dense_prediction",
        },
    ),
    "token_classifier": Head("ElectraForTokenClassification", {"classifier": "classifier"}),
    "span_labeler": Head("ElectraForQuestionAnswering", {"span": "qa_outputs"}),
    "sentence_encoder": Head("ElectraModel", {}, prefix=""),
}


def read(fields):
    """Token vectors are projected only where their width is another."""
    same = fields["embedding_dim"] == fields["embed_dim"]
    return {**fields, "embedding_dim": 0 if same else fields["embedding_dim"]}


def write(fields):
    """The inverse of `read`."""
    return {**fields, "embedding_dim": fields["embedding_dim"] or fields["embed_dim"]}
