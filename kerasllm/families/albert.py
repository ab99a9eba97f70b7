"""ALBERT: Lan et al. 2019, "ALBERT: A Lite BERT for Self-supervised Learning"."""

from kerasllm.families import bert
from kerasllm.families.head import Head

MODEL_TYPE = "albert"

# Table 1, second version of the weights (no dropout).
_ALL = dict(embedding_dim=128, rate=0.0, attention_rate=0.0)
SIZES = {
    "albert_base": dict(num_layers=12, num_heads=12, embed_dim=768, ff_dim=3072, **_ALL),
    "albert_large": dict(num_layers=24, num_heads=16, embed_dim=1024, ff_dim=4096, **_ALL),
    "albert_xlarge": dict(num_layers=24, num_heads=16, embed_dim=2048, ff_dim=8192, **_ALL),
    "albert_xxlarge": dict(num_layers=12, num_heads=64, embed_dim=4096, ff_dim=16384, **_ALL),
}
FIELDS = {
    **bert.FIELDS,
    "vocab_size": ("vocab_size", 30000),
    "hidden_size": ("embed_dim", 4096),
    "intermediate_size": ("ff_dim", 16384),
    "num_attention_heads": ("num_heads", 64),
    "embedding_size": ("embedding_dim", 128),
    "hidden_act": ("activation", "gelu_new"),
    "hidden_dropout_prob": ("rate", 0.0),
    "attention_probs_dropout_prob": ("attention_rate", 0.0),
}
SETTINGS = dict(share_blocks=True)
FIXED_FIELDS = {
    **bert.FIXED_FIELDS, "num_hidden_groups": 1, "inner_group_num": 1, "down_scale_factor": 1,
    "gap_size": 0, "num_memory_blocks": 0, "net_structure_type": 0,
}  # fmt: skip
# `classifier_dropout_prob` is the classifier's dropout, under a name of its own.
IGNORED_FIELDS = {"classifier_dropout_prob", "layers_to_keep"}
IGNORED_TENSORS = (
    r"embeddings\.position_ids",
    r"predictions\.decoder\.(weight|bias)",
)
PREFIX = "albert."

_BLOCK = "albert.encoder.albert_layer_groups.0.albert_layers.0."
BACKBONE = {
    "embedding.token_emb": "albert.embeddings.word_embeddings",
    "embedding.pos_emb": "albert.embeddings.position_embeddings",
    "embedding.segment_emb": "albert.embeddings.token_type_embeddings",
    "embedding.layernorm": "albert.embeddings.LayerNorm",
    "embedding.projection": "albert.encoder.embedding_hidden_mapping_in",
    "blocks.{i}.att.query_dense": _BLOCK + "attention.query",
    "blocks.{i}.att.key_dense": _BLOCK + "attention.key",
    "blocks.{i}.att.value_dense": _BLOCK + "attention.value",
    "blocks.{i}.att.combine_heads": _BLOCK + "attention.dense",
    "blocks.{i}.layernorm1": _BLOCK + "attention.LayerNorm",
    "blocks.{i}.ffn.layers.0": _BLOCK + "ffn",
    "blocks.{i}.ffn.layers.1": _BLOCK + "ffn_output",
    "blocks.{i}.layernorm2": _BLOCK + "full_layer_layer_norm",
}
HEADS = {
    "text_classifier": Head(
        "AlbertForSequenceClassification",
        {"pooler": "albert.pooler", "classifier": "classifier"},
        {"activation": "tanh"},
    ),
    "masked_lm": Head(
        "AlbertForMaskedLM",
        {
            "transform": "predictions.dense",
            "layernorm": "predictions.LayerNorm",
            "logits.bias": "predictions.bias",
        },
    ),
    "token_classifier": Head("AlbertForTokenClassification", {"classifier": "classifier"}),
    "span_labeler": Head("AlbertForQuestionAnswering", {"span": "qa_outputs"}),
    "pair_masked_lm": Head(
        "AlbertForPreTraining",
        {
            "transform": "predictions.dense",
            "layernorm": "predictions.LayerNorm",
            "logits.bias": "predictions.bias",
            "pooler": "albert.pooler",
            "pair": "sop_classifier.classifier",
        },
    ),
    "sentence_encoder": Head("AlbertModel", {}, prefix=""),
}
