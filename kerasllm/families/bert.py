"""BERT: Devlin et al. 2018, "BERT: Pre-training of Deep Bidirectional Transformers"."""

from kerasllm.families.head import Head

MODEL_TYPE = "bert"

# Rows of table 1 in Turc et al. 2019, "Well-Read Students Learn Better", and MiniLM's (Wang et al.
# 2020, section 4); the large ones are BERT's own, section 3.
SIZES = {
    "bert_tiny": dict(num_layers=2, num_heads=2, embed_dim=128, ff_dim=512),
    "bert_mini": dict(num_layers=4, num_heads=4, embed_dim=256, ff_dim=1024),
    "bert_small": dict(num_layers=4, num_heads=8, embed_dim=512, ff_dim=2048),
    "bert_medium": dict(num_layers=8, num_heads=8, embed_dim=512, ff_dim=2048),
    "bert_minilm": dict(num_layers=6, num_heads=12, embed_dim=384, ff_dim=1536),
    "bert_base": dict(num_layers=12, num_heads=12, embed_dim=768, ff_dim=3072),
    "bert_large": dict(num_layers=24, num_heads=16, embed_dim=1024, ff_dim=4096),
}

# Hugging Face's field: ours, and the value that `transformers` assumes where a config has none.
FIELDS = {
    "vocab_size": ("vocab_size", 30522),
    "num_hidden_layers": ("num_layers", 12),
    "num_attention_heads": ("num_heads", 12),
    "hidden_size": ("embed_dim", 768),
    "intermediate_size": ("ff_dim", 3072),
    "max_position_embeddings": ("max_length", 512),
    "type_vocab_size": ("num_segments", 2),
    "hidden_dropout_prob": ("rate", 0.1),
    "attention_probs_dropout_prob": ("attention_rate", 0.1),
    "hidden_act": ("activation", "gelu"),
    "layer_norm_eps": ("epsilon", 1e-12),
    "initializer_range": ("initializer_range", 0.02),
    "pad_token_id": ("pad_id", 0),
    "tie_word_embeddings": ("tie_embedding", True),
}

SETTINGS = {}

# Fields that would change the mathematics, and the only value that this family computes.
FIXED_FIELDS = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "chunk_size_feed_forward": 0,
    "pruned_heads": {},
}
IGNORED_FIELDS = {
    "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers",
    "pooler_size_per_head", "pooler_type",
}  # fmt: skip

# Buffers; and the decoder, which is the token table again.
IGNORED_TENSORS = (
    r"embeddings\.(position_ids|token_type_ids)",
    r"cls\.predictions\.decoder\.(weight|bias)",
)

PREFIX = "bert."

# Our layer: theirs. `{i}` runs over the blocks.
BACKBONE = {
    "embedding.token_emb": "bert.embeddings.word_embeddings",
    "embedding.pos_emb": "bert.embeddings.position_embeddings",
    "embedding.segment_emb": "bert.embeddings.token_type_embeddings",
    "embedding.layernorm": "bert.embeddings.LayerNorm",
    "blocks.{i}.att.query_dense": "bert.encoder.layer.{i}.attention.self.query",
    "blocks.{i}.att.key_dense": "bert.encoder.layer.{i}.attention.self.key",
    "blocks.{i}.att.value_dense": "bert.encoder.layer.{i}.attention.self.value",
    "blocks.{i}.att.combine_heads": "bert.encoder.layer.{i}.attention.output.dense",
    "blocks.{i}.layernorm1": "bert.encoder.layer.{i}.attention.output.LayerNorm",
    "blocks.{i}.ffn.layers.0": "bert.encoder.layer.{i}.intermediate.dense",
    "blocks.{i}.ffn.layers.1": "bert.encoder.layer.{i}.output.dense",
    "blocks.{i}.layernorm2": "bert.encoder.layer.{i}.output.LayerNorm",
}

HEADS = {
    "text_classifier": Head(
        "BertForSequenceClassification",
        {"pooler": "bert.pooler.dense", "classifier": "classifier"},
        {"activation": "tanh"},
    ),
    "masked_lm": Head(
        "BertForMaskedLM",
        {
            "transform": "cls.predictions.transform.dense",
            "layernorm": "cls.predictions.transform.LayerNorm",
            "logits.bias": "cls.predictions.bias",
        },
    ),
    "token_classifier": Head("BertForTokenClassification", {"classifier": "classifier"}),
    "span_labeler": Head("BertForQuestionAnswering", {"span": "qa_outputs"}),
    "pair_masked_lm": Head(
        "BertForPreTraining",
        {
            "transform": "cls.predictions.transform.dense",
            "layernorm": "cls.predictions.transform.LayerNorm",
            "logits.bias": "cls.predictions.bias",
            "pooler": "bert.pooler.dense",
            "pair": "cls.seq_relationship",
        },
    ),
    "sentence_encoder": Head("BertModel", {}, prefix=""),
}
