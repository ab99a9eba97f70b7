"""BART: Lewis et al. 2019, "BART: Denoising Sequence-to-Sequence Pre-training"."""

from kerasllm.families.head import Head
from kerasllm.weights import Stored

MODEL_TYPE = "bart"

# Section 2; distilled: Shleifer and Rush 2020, "Pre-trained Summarization Distillation".
_LARGE = dict(num_layers=12, num_heads=16, embed_dim=1024, ff_dim=4096)
SIZES = {
    "bart_base": dict(num_layers=6, num_decoder_layers=6, num_heads=12, embed_dim=768, ff_dim=3072),
    "bart_distil": dict(num_decoder_layers=6, **_LARGE),
    "bart_large": dict(num_decoder_layers=12, **_LARGE),
}

FIELDS = {
    "vocab_size": ("vocab_size", 50265),
    "encoder_layers": ("num_layers", 12),
    "decoder_layers": ("num_decoder_layers", 12),
    "encoder_attention_heads": ("num_heads", 16),
    "decoder_attention_heads": ("num_decoder_heads", 16),
    "d_model": ("embed_dim", 1024),
    "encoder_ffn_dim": ("ff_dim", 4096),
    "decoder_ffn_dim": ("decoder_ff_dim", 4096),
    "max_position_embeddings": ("max_length", 1024),
    "dropout": ("rate", 0.1),
    "attention_dropout": ("attention_rate", 0.0),
    "activation_function": ("activation", "gelu"),
    "init_std": ("initializer_range", 0.02),
    "scale_embedding": ("scale_embedding", False),
    "pad_token_id": ("pad_id", 1),
}
SETTINGS = dict(num_segments=0, position_offset=2, epsilon=1e-5)
FIXED_FIELDS = {
    "is_encoder_decoder": True,
    "add_final_layer_norm": False,
    "add_bias_logits": False,
    "normalize_before": False,
    "normalize_embedding": True,
    "static_position_embeddings": False,
    "extra_pos_embeddings": 2,
    "tie_word_embeddings": True,  # where it is not, each stack has a table of its own too
}
IGNORED_FIELDS = {
    "encoder_layerdrop", "decoder_layerdrop", "activation_dropout", "classif_dropout",
    "classifier_dropout", "num_hidden_layers", "is_decoder", "save_step",
}  # fmt: skip
# The token table under its other names, and the head, which is the token table again.
IGNORED_TENSORS = (
    r"(encoder|decoder)\.embed_tokens\.weight",
    r"lm_head\.weight",
)
PREFIX = "model."


def side(name, prefix=PREFIX):
    """Names of one of the two stacks.

    Args:
        name: str, `"encoder"` or `"decoder"`.
        prefix: str, of the names in a checkpoint.

    Returns:
        dict, our layer: theirs.
    """
    theirs, block = f"{prefix}{name}.", f"{prefix}{name}.layers.{{i}}."
    names = {
        "embedding.pos_emb": theirs + "embed_positions",
        "embedding.layernorm": theirs + "layernorm_embedding",
        **_attention("att", block + "self_attn"),
        "blocks.{i}.layernorm1": block + "self_attn_layer_norm",
        "blocks.{i}.ffn.layers.0": block + "fc1",
        "blocks.{i}.ffn.layers.1": block + "fc2",
        "blocks.{i}.layernorm2": block + "final_layer_norm",
    }
    if name == "decoder":
        names |= _attention("cross_att", block + "encoder_attn")
        names["blocks.{i}.cross_layernorm"] = block + "encoder_attn_layer_norm"
    return {f"{name}.{ours}": stored for ours, stored in names.items()}


def _attention(ours, theirs):
    return {
        f"blocks.{{i}}.{ours}.query_dense": theirs + ".q_proj",
        f"blocks.{{i}}.{ours}.key_dense": theirs + ".k_proj",
        f"blocks.{{i}}.{ours}.value_dense": theirs + ".v_proj",
        f"blocks.{{i}}.{ours}.combine_heads": theirs + ".out_proj",
    }


BACKBONE = {
    "encoder.embedding.token_emb": "model.shared",
    **side("encoder"),
    **side("decoder"),
}
# As in the published checkpoints.
_REREAD = {"reread": {"eos": 2, "decoder_start": 2}}
HEADS = {
    "seq2seq_lm": Head(
        "BartForConditionalGeneration",
        {"logits.bias": Stored("final_logits_bias", leading=1)},
    ),
    "text_classifier": Head(
        "BartForSequenceClassification",
        {"pooler": "classification_head.dense", "classifier": "classification_head.out_proj"},
        {"token": "end", "activation": "tanh", "dropout_first": True, **_REREAD},
    ),
    "span_labeler": Head("BartForQuestionAnswering", {"span": "qa_outputs"}, _REREAD),
}


def read(fields):
    """Both stacks must be of one width; only their depths may differ."""
    for name, twin in (("num_decoder_heads", "num_heads"), ("decoder_ff_dim", "ff_dim")):
        if fields[name] != fields[twin]:
            raise ValueError(
                "The decoder must have the encoder's heads and inner width. Received: "
                f"{twin}={fields[twin]}, and {fields[name]} in the decoder."
            )
    return {name: fields[name] for name in fields.keys() - {"num_decoder_heads", "decoder_ff_dim"}}


def write(fields):
    """The inverse of `read`."""
    return {
        **fields, "num_decoder_heads": fields["num_heads"], "decoder_ff_dim": fields["ff_dim"]
    }  # fmt: skip
