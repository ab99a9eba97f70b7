"""T5: Raffel et al. 2019, "Exploring the Limits of Transfer Learning".

Version 1.1, of which Flan-T5 (Chung et al. 2022, "Scaling Instruction-Finetuned Language Models")
is a fine-tuning, has a gate in the feed-forward network and a head of its own.
"""

from kerasllm.config import T5Config
from kerasllm.families.head import Head
from kerasllm.weights import Stored

MODEL_TYPE = "t5"
CONFIG = T5Config


def size(num_layers, embed_dim, num_heads, projection_dim, ff_dim, **others):
    """Name the numbers by which the sizes of T5's kin differ.

    Args:
        num_layers: int, of the encoder and of the decoder.
        embed_dim: int.
        num_heads: int.
        projection_dim: int.
        ff_dim: int.
        **others: more fields of `T5Config`.

    Returns:
        dict, a value of `SIZES`.
    """
    return dict(
        num_layers=num_layers,
        num_decoder_layers=num_layers,
        embed_dim=embed_dim,
        num_heads=num_heads,
        projection_dim=projection_dim,
        ff_dim=ff_dim,
        **others,
    )


def sizes_of_1_1(prefix, **others):
    """Name the sizes that version 1.1 and mT5 have in common.

    Args:
        prefix: str, how the names begin.
        **others: fields of `T5Config` that are the same in all.

    Returns:
        dict, as `SIZES`.
    """
    widths = {
        "small": (8, 512, 6, 64, 1024), "base": (12, 768, 12, 64, 2048),
        "large": (24, 1024, 16, 64, 2816), "xl": (24, 2048, 32, 64, 5120),
        "xxl": (24, 4096, 64, 64, 10240),
    }  # fmt: skip
    return {f"{prefix}_{name}": size(*numbers, **others) for name, numbers in widths.items()}


# Section 3.7; tiny: Tay et al. 2021, "Scale Efficiently", table 2; 1.1 as its checkpoints are.
SIZES = {
    "t5_tiny": size(4, 256, 4, 64, 1024),
    "t5_small": size(6, 512, 8, 64, 2048),
    "t5_base": size(12, 768, 12, 64, 3072),
    "t5_large": size(24, 1024, 16, 64, 4096),
    "t5_3b": size(24, 1024, 32, 128, 16384),
    "t5_11b": size(24, 1024, 128, 128, 65536),
    **sizes_of_1_1("t5_v1.1", activation="gelu_tanh", gated=True, tie_embedding=False),
}

FIELDS = {
    "vocab_size": ("vocab_size", 32128),
    "num_layers": ("num_layers", 6),
    "num_decoder_layers": ("num_decoder_layers", None),
    "num_heads": ("num_heads", 8),
    "d_kv": ("projection_dim", 64),
    "d_model": ("embed_dim", 512),
    "d_ff": ("ff_dim", 2048),
    "n_positions": ("max_length", 512),
    "dropout_rate": ("rate", 0.1),
    "feed_forward_proj": ("feed_forward", "relu"),
    # Two that say the same once more.
    "dense_act_fn": ("dense_act_fn", None),
    "is_gated_act": ("is_gated_act", None),
    "layer_norm_epsilon": ("epsilon", 1e-6),
    "initializer_factor": ("initializer_factor", 1.0),
    "pad_token_id": ("pad_id", 0),
    "relative_attention_num_buckets": ("num_buckets", 32),
    "relative_attention_max_distance": ("max_distance", 128),
    # `transformers` 5 writes that all are tied, and whether the output is scaled: in 1.0 alone.
    "tie_word_embeddings": ("tie_embedding", True),
    "scale_decoder_outputs": ("scale_decoder_outputs", None),
}
SETTINGS = {}
FIXED_FIELDS = {"is_decoder": False}
IGNORED_FIELDS = {"is_encoder_decoder"}  # false where a head has the encoder alone
# The token table under its other names, a table that the first version of the code had, and the
# head where it is the token table.
IGNORED_TENSORS = (
    r"(encoder|decoder)\.embed_tokens\.weight",
    r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
    r"lm_head\.weight",
)
PREFIX = ""


def _side(name):
    """Names of one of the two stacks."""
    block, last = f"{name}.block.{{i}}.layer.", 2 if name == "decoder" else 1
    ffn = f"{block}{last}.DenseReluDense."
    names = {
        "attention_bias.table": f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias",
        "blocks.{i}.layernorm1": block + "0.layer_norm",
        **_attention("att", block + "0.SelfAttention"),
        "blocks.{i}.layernorm2": f"{block}{last}.layer_norm",
        "blocks.{i}.ffn.layers.0": Stored(ffn + "wi", optional=True),
        "blocks.{i}.ffn.layers.2": Stored(ffn + "wo", optional=True),
        "blocks.{i}.ffn.gate": Stored(ffn + "wi_0", optional=True),
        "blocks.{i}.ffn.expand": Stored(ffn + "wi_1", optional=True),
        "blocks.{i}.ffn.project": Stored(ffn + "wo", optional=True),
        "final_norm": f"{name}.final_layer_norm",
    }
    if name == "decoder":
        names["blocks.{i}.cross_layernorm"] = block + "1.layer_norm"
        names |= _attention("cross_att", block + "1.EncDecAttention")
    return {f"{name}.{ours}": theirs for ours, theirs in names.items()}


def _attention(ours, theirs):
    return {
        f"blocks.{{i}}.{ours}.query_dense": theirs + ".q",
        f"blocks.{{i}}.{ours}.key_dense": theirs + ".k",
        f"blocks.{{i}}.{ours}.value_dense": theirs + ".v",
        f"blocks.{{i}}.{ours}.combine_heads": theirs + ".o",
    }


BACKBONE = {"encoder.embedding.token_emb": "shared", **_side("encoder"), **_side("decoder")}


def heads(name):
    """Say what a family of T5's kind calls its heads.

    Args:
        name: str, how the names of its classes begin.

    Returns:
        dict, as `HEADS`.
    """
    logits = Stored("lm_head", fallback="shared")
    reread = {"reread": {"eos": 1, "decoder_start": 0}}  # as in the published checkpoints
    return {
        "seq2seq_lm": Head(
            f"{name}ForConditionalGeneration",
            {"logits": logits},
            {"use_bias": False, "scale_output": True},
        ),
        "text_classifier": Head(
            f"{name}ForSequenceClassification",
            {"pooler": "classification_head.dense", "classifier": "classification_head.out_proj"},
            {"token": "end", "activation": "tanh", "dropout_first": True, **reread},
            prefix="transformer.",
        ),
        "token_classifier": Head(
            f"{name}ForTokenClassification",
            {"classifier": "classifier"},
            prefix="transformer.",
            encoder=True,
        ),
        "span_labeler": Head(f"{name}ForQuestionAnswering", {"span": "qa_outputs"}, reread),
    }


HEADS = heads("T5")

# For each `feed_forward_proj`: the activation, in their words too, and whether it is a gate's.
_FEED_FORWARDS = {
    **{name: (name, False) for name in ("relu", "gelu", "gelu_new", "silu", "tanh")},
    **{f"gated-{name}": (name, True) for name in ("relu", "silu", "tanh")},
    "gated-gelu": ("gelu_new", True),
}


def read(fields):
    """A decoder as deep as the encoder by default, and activation and gate from one word."""
    fields = dict(fields)
    activation, gated = _read_feed_forward(fields)
    tied, scaled = fields["tie_embedding"], fields.pop("scale_decoder_outputs", None)
    if scaled and not tied:
        raise ValueError(
            "`scale_decoder_outputs` must be False where `tie_word_embeddings` is. Received: True."
        )
    if fields["num_decoder_layers"] is None:
        fields["num_decoder_layers"] = fields["num_layers"]
    return {
        **fields,
        "activation": {"gelu_new": "gelu_tanh"}.get(activation, activation),
        "gated": gated,
        "tie_embedding": tied if scaled is None else scaled,
    }


def _read_feed_forward(fields):
    said = fields.pop("feed_forward")
    if said not in _FEED_FORWARDS:
        raise ValueError(
            f"`feed_forward_proj` must be one of {', '.join(_FEED_FORWARDS)}. Received: {said!r}."
        )
    for name, meant in zip(("dense_act_fn", "is_gated_act"), _FEED_FORWARDS[said]):
        again = fields.pop(name)
        if again not in (None, meant):
            raise ValueError(
                f"`{name}` must be {meant!r} where `feed_forward_proj` is {said!r}. "
                f"Received: {again!r}."
            )
    return _FEED_FORWARDS[said]


def write(fields):
    """The inverse of `read`."""
    wanted = fields["activation"], fields["gated"]
    found = [said for said, meant in _FEED_FORWARDS.items() if meant == wanted]
    said = found[0] if found else "gated-gelu"  # the exact form has no name, and the caller says so
    activation, gated = _FEED_FORWARDS[said]
    return {
        **fields,
        "feed_forward": said,
        "dense_act_fn": activation,
        "is_gated_act": gated,
        "scale_decoder_outputs": fields["tie_embedding"],
    }
