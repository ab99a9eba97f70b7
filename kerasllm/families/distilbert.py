"""DistilBERT: Sanh et al. 2019, "DistilBERT, a distilled version of BERT"."""

from kerasllm.families.head import Head

MODEL_TYPE = "distilbert"

# Section 3: BERT's base with half the layers, no segments and no pooler.
SIZES = {"distilbert_base": dict(num_layers=6, num_heads=12, embed_dim=768, ff_dim=3072)}

FIELDS = {
    "vocab_size": ("vocab_size", 30522),
    "n_layers": ("num_layers", 6),
    "n_heads": ("num_heads", 12),
    "dim": ("embed_dim", 768),
    "hidden_dim": ("ff_dim", 3072),
    "max_position_embeddings": ("max_length", 512),
    "dropout": ("rate", 0.1),
    "attention_dropout": ("attention_rate", 0.1),
    "activation": ("activation", "gelu"),
    "initializer_range": ("initializer_range", 0.02),
    "pad_token_id": ("pad_id", 0),
    "tie_word_embeddings": ("tie_embedding", True),
}
SETTINGS = dict(num_segments=0, epsilon=1e-12)
# As sinusoids, a checkpoint holds them in the table of positions all the same.
FIXED_FIELDS = {"is_encoder_decoder": False}
IGNORED_FIELDS = {"sinusoidal_pos_embds", "tie_weights_", "qa_dropout", "seq_classif_dropout"}
IGNORED_TENSORS = (r"embeddings\.position_ids", r"vocab_projector\.weight")
PREFIX = "distilbert."

BACKBONE = {
    "embedding.token_emb": "distilbert.embeddings.word_embeddings",
    "embedding.pos_emb": "distilbert.embeddings.position_embeddings",
    "embedding.layernorm": "distilbert.embeddings.LayerNorm",
    "blocks.{i}.att.query_dense": "distilbert.transformer.layer.{i}.attention.q_lin",
    "blocks.{i}.att.key_dense": "distilbert.transformer.layer.{i}.attention.k_lin",
    "blocks.{i}.att.value_dense": "distilbert.transformer.layer.{i}.attention.v_lin",
    "blocks.{i}.att.combine_heads": "distilbert.transformer.layer.{i}.attention.out_lin",
    "blocks.{i}.layernorm1": "distilbert.transformer.layer.{i}.sa_layer_norm",
    "blocks.{i}.ffn.layers.0": "distilbert.transformer.layer.{i}.ffn.lin1",
    "blocks.{i}.ffn.layers.1": "distilbert.transformer.layer.{i}.ffn.lin2",
    "blocks.{i}.layernorm2": "distilbert.transformer.layer.{i}.output_layer_norm",
}
HEADS = {
    "text_classifier": Head(
        "DistilBertForSequenceClassification",
        {"pooler": "pre_classifier", "classifier": "classifier"},
        {"activation": "relu"},
    ),
    "masked_lm": Head(
        "DistilBertForMaskedLM",
        {
            "transform": "vocab_transform",
            "layernorm": "vocab_layer_norm",
            "logits": "vocab_projector",
        },
    ),
    "token_classifier": Head("DistilBertForTokenClassification", {"classifier": "classifier"}),
    "span_labeler": Head("DistilBertForQuestionAnswering", {"span": "qa_outputs"}),
    "sentence_encoder": Head("DistilBertModel", {}, prefix=""),
}
