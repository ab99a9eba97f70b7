"""What keras-hub (once keras-nlp) calls our families: its classes, their fields and their layers.

Its folders, the presets, hold a `model.weights.h5`, which numbers the layers of each class in the
order of the model (`dense`, `dense_1`, …), and the variables of each layer. So a family needs
little here: its layers in that order, and what a class of theirs fixes where our config says it.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

from kerasllm.families import FAMILIES, config_class, electra

logger = logging.getLogger("kerasllm")

# Their field: ours.
_SIZES = {
    "num_layers": "num_layers",
    "num_heads": "num_heads",
    "hidden_dim": "embed_dim",
    "intermediate_dim": "ff_dim",
    "dropout": "rate",
}
_FIELDS = {"vocabulary_size": "vocab_size", **_SIZES, "max_sequence_length": "max_length"}
_WITH_SEGMENTS = {**_FIELDS, "num_segments": "num_segments"}
_WIDTH = {"embedding_dim": "embedding_dim"}
_LLAMA_FIELDS = {
    "vocabulary_size": "vocab_size",
    "num_layers": "num_layers",
    "num_query_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "hidden_dim": "embed_dim",
    "intermediate_dim": "ff_dim",
    "dropout": "attention_rate",
    "layer_norm_epsilon": "epsilon",
    "rope_max_wavelength": "rope_theta",
}
_TIED = {"tie_word_embeddings": "tie_embedding"}
_HEAD_WIDTH = {"head_dim": "projection_dim"}

# Our fields that say nothing about what a trained model computes from a preset.
UNSAID = {
    *("rate", "attention_rate", "initializer_range", "initializer_factor"),
    *("pad_id", "position_offset", "max_length"),
}


def _attention(theirs):
    names = {"query_dense": "query", "key_dense": "key", "value_dense": "value"}
    names["combine_heads"] = "output"
    return {f"att.{ours}": theirs.format(name) for ours, name in names.items()}


def _cross(attention):
    return {f"cross_{ours}": theirs.replace("self", "cross") for ours, theirs in attention.items()}


# Within a layer of theirs, by its class: our layer, and their attribute.
_ATTENTION = _attention("_self_attention_layer/{}_dense")
_OWN_ATTENTION = _attention("_self_attention_layer/_{}_dense")
_T5_ATTENTION = _attention("self_attention/{}_projector")
_BLOCK = {
    **_ATTENTION,
    "layernorm1": "_self_attention_layer_norm",
    "ffn.layers.0": "_feedforward_intermediate_dense",
    "ffn.layers.1": "_feedforward_output_dense",
    "layernorm2": "_feedforward_layer_norm",
}
_LLAMAS = ("llama", "mistral", "qwen", "qwen3")
_LLAMA_BLOCK = {
    **_OWN_ATTENTION,
    "att.query_norm": "_self_attention_layer/_query_dense_layer_norm",
    "att.key_norm": "_self_attention_layer/_key_dense_layer_norm",
    "norm1": "_self_attention_layernorm",
    "ffn.expand": "_feedforward_intermediate_dense",
    "ffn.gate": "_feedforward_gate_dense",
    "ffn.project": "_feedforward_output_dense",
    "norm2": "_feedforward_layernorm",
}
INNER = {
    "token_and_position_embedding": {
        "token_emb": "token_embedding",
        "pos_emb": "position_embedding",
    },
    "transformer_encoder": _BLOCK,
    "transformer_decoder": {
        **_BLOCK,
        **_cross(_ATTENTION),
        "cross_layernorm": "_cross_attention_layer_norm",
    },
    "bloom_decoder": {
        **_OWN_ATTENTION,
        "layernorm1": "_pre_attention_layernorm",
        "ffn.layers.0": "_mlp_intermediate_dense",
        "ffn.layers.1": "_mlp_output_dense",
        "layernorm2": "_post_attention_layernorm",
    },
    **{f"{name}_transformer_decoder": _LLAMA_BLOCK for name in _LLAMAS},
    "t5_transformer_layer": {
        **_T5_ATTENTION,
        **_cross(_T5_ATTENTION),
        "layernorm1": "self_attention_layer_norm",
        "cross_layernorm": "cross_attention_layer_norm",
        "layernorm2": "layer_norm",
        "ffn.layers.0": "input_projector",
        "ffn.layers.2": "output_projector",
        "ffn.gate": "input_projector",  # the one with the activation, which they call no gate
        "ffn.expand": "gate_projector",
        "ffn.project": "output_projector",
    },
    "masked_lm_head": {
        "transform": "_intermediate_dense",
        "layernorm": "_intermediate_layer_norm",
        "logits": "",
    },
}


class Task(NamedTuple):
    """What keras-hub calls a model with a head.

    Args:
        name: str, the end of the class's name.
        module: str, the end of its module's name.
        layers: dict, as `Preset.layers`, of the head's own file.
        fixed: dict, the `activation` and `epsilon` of a head that has them.
        learning_rate: float, that of the optimizer it is made with.
    """

    name: str
    module: str
    layers: dict = {}
    fixed: dict = {}
    learning_rate: float = 5e-5


class Preset(NamedTuple):
    """What keras-hub calls a family.

    Args:
        name: str, what its classes begin with, e.g. `"Bert"` of `BertBackbone`.
        module: str, its package.
        fields: dict, their field: ours.
        fixed: dict, fields of our config that their class fixes.
        layers: dict, our layer, or list of them: their class, in the order of the file; where ours
            is a part of the next layer of theirs, with the path to it.
        tasks: dict, our head: `Task`.
        others: dict, more fields of theirs, and the only value that we compute.
        read: function from our fields, as the preset has them, to those of our config.
        write: function, the way back.
    """

    name: str
    module: str
    fields: dict
    fixed: dict
    layers: dict
    tasks: dict = {}
    others: dict = {}
    read: Callable = dict
    write: Callable = dict


_ENCODER = {
    "backbone.embedding.token_emb": "reversible_embedding",
    "backbone.embedding.pos_emb": "position_embedding",
    "backbone.embedding.segment_emb": "embedding",
    "backbone.embedding.layernorm": "layer_normalization",
    "backbone.embedding.projection": "dense",
    "backbone.blocks": "transformer_encoder",
}
_ENCODER_IN_ONE = {
    "backbone.embedding": "token_and_position_embedding",
    "backbone.embedding.layernorm": "layer_normalization",
    "backbone.blocks": "transformer_encoder",
}
_DECODER = {
    "backbone.blocks": "transformer_decoder",
    "backbone.final_norm": "layer_normalization",
}
_ENCODER_DECODER = {
    "backbone.encoder.embedding.token_emb": "reversible_embedding",
    "backbone.encoder.embedding.pos_emb": "position_embedding",
    "backbone.encoder.embedding.layernorm": "layer_normalization",
    "backbone.encoder.blocks": "transformer_encoder",
    "backbone.decoder.embedding.pos_emb": "position_embedding",
    "backbone.decoder.embedding.layernorm": "layer_normalization",
    "backbone.decoder.blocks": "transformer_decoder",
}
_T5 = {
    "backbone.encoder.embedding.token_emb": "reversible_embedding",
    "backbone.encoder.attention_bias.table": "t5_transformer_layer/self_attention",
    "backbone.encoder.blocks": "t5_transformer_layer",
    "backbone.encoder.final_norm": "t5_layer_norm",
    "backbone.decoder.attention_bias.table": "t5_transformer_layer/self_attention",
    "backbone.decoder.blocks": "t5_transformer_layer",
    "backbone.decoder.final_norm": "t5_layer_norm",
}
# The pooler of their backbone is that of our classifier, or (ELECTRA) nobody's.
_POOLER = {"pooler": "dense"}
_NO_POOLER = {"backbone.pooler": "dense"}

_CAUSAL_LM = {"causal_lm": Task("CausalLM", "causal_lm")}
_SEQ2SEQ_LM = {"seq2seq_lm": Task("Seq2SeqLM", "seq_2_seq_lm")}


def _tasks(activation="gelu", learning_rate=5e-5, **pooler):
    layers, fixed = {**pooler, "classifier": "dense"}, {"activation": activation, "epsilon": 1e-5}
    return {
        "text_classifier": Task("TextClassifier", "text_classifier", layers, {}, learning_rate),
        "masked_lm": Task("MaskedLM", "masked_lm", {"": "masked_lm_head"}, fixed),
    }


def _as_deep(fields):
    """Their decoder has as many blocks as their encoder."""
    return {**fields, "num_decoder_layers": fields["num_layers"]}


def _read_t5(fields):
    """An activation of their own by its name, and heads of a width that needn't be said."""
    fields = _as_deep(fields)
    fields.pop("attention_rate", None)  # there is one rate
    if fields.get("activation") == _APPROXIMATE_GELU:
        fields["activation"] = "gelu_tanh"
    width = fields.get("projection_dim") or fields["embed_dim"] // fields["num_heads"]
    return {**fields, "projection_dim": width}


def _write_t5(fields):
    """The inverse of `_read_t5`."""
    said = fields["activation"]
    return {**fields, "activation": _APPROXIMATE_GELU if said == "gelu_tanh" else said}


_APPROXIMATE_GELU = {
    **{"module": "builtins", "class_name": "function", "registered_name": "function"},
    "config": "keras_hub>gelu_approximate",
}


def _read_rope(fields):
    """Rotary positions as they stand in a preset, with one of two scalings or none."""
    fields = dict(fields)
    linear, llama3, length, slow, fast = (fields.pop(name, None) for name in _ROPE)
    if llama3:
        fields["rope_scaling"] = dict(
            kind="llama3", factor=llama3, original_max_length=length, slow=slow, fast=fast
        )
    elif linear not in (None, 1):
        fields["rope_scaling"] = dict(kind="linear", factor=linear)
    size = fields.pop("window_size", 0)
    window = size if fields.pop("uses_window", False) else fields.get("sliding_window")
    width = fields.get("projection_dim")
    return {**fields, "sliding_window": window or 0, "projection_dim": width or 0}


def _write_rope(fields):
    """The inverse of `_read_rope`."""
    scaling = fields["rope_scaling"] or {"kind": None}
    values = dict.fromkeys(_ROPE)
    values["linear"] = scaling["factor"] if scaling["kind"] == "linear" else 1.0
    if scaling["kind"] == "llama3":
        values = dict(zip(_ROPE, (1.0, *(scaling[name] for name in _LLAMA3))))
    window = fields["sliding_window"]
    values |= {"uses_window": window > 0, "window_size": window or 32768}
    return {**fields, **values, "sliding_window": window or None}


_LLAMA3 = ("factor", "original_max_length", "slow", "fast")
_ROPE = ("linear", *_LLAMA3)
_SCALED = {"rope_scaling_factor": "linear"}
_SCALED_AS_LLAMA3 = {
    "rope_frequency_adjustment_factor": "factor",
    "rope_pretraining_sequence_length": "original_max_length",
    "rope_low_freq_factor": "slow",
    "rope_high_freq_factor": "fast",
}


def _llama(name, fields, norm="layer_norm", others=()):
    module = name.lower()
    layers = {
        "backbone.embedding.token_emb": "reversible_embedding",
        "backbone.blocks": f"{module}_transformer_decoder",
        "backbone.final_norm": f"{module}_{norm}",
    }
    fields = {**_LLAMA_FIELDS, **fields}
    return Preset(
        name, module, fields, {}, layers, _CAUSAL_LM, dict(others), _read_rope, _write_rope
    )  # fmt: skip


_TANH = dict(activation="gelu_tanh")
_ROBERTA = dict(num_segments=1, epsilon=1e-5, position_offset=2)

PRESETS = {
    "bert": Preset("Bert", "bert", _WITH_SEGMENTS, _TANH, {**_ENCODER, **_POOLER}, _tasks()),
    "roberta": Preset("Roberta", "roberta", _FIELDS, _ROBERTA, _ENCODER_IN_ONE, _tasks(**_POOLER)),
    "xlm_roberta": Preset(
        "XLMRoberta", "xlm_roberta", _FIELDS, _ROBERTA, _ENCODER_IN_ONE, _tasks(**_POOLER)
    ),
    "distilbert": Preset(
        "DistilBert", "distil_bert", _FIELDS, {}, _ENCODER_IN_ONE, _tasks(**_POOLER)
    ),
    "electra": Preset(
        "Electra", "electra",
        {"vocab_size": "vocab_size", **_SIZES, **_WIDTH,
         "max_sequence_length": "max_length", "num_segments": "num_segments"},
        _TANH, {**_ENCODER, **_NO_POOLER}, read=electra.read, write=electra.write,
    ),
    "albert": Preset(
        "Albert", "albert", {**_WITH_SEGMENTS, **_WIDTH}, _TANH, {**_ENCODER, **_POOLER},
        _tasks("gelu_tanh", 1e-5), {"num_groups": 1, "num_inner_repetitions": 1},
    ),
    "gpt2": Preset(
        "GPT2", "gpt2", _FIELDS, {**_TANH, "epsilon": 1e-5}, {**_ENCODER, **_DECODER}, _CAUSAL_LM
    ),
    "opt": Preset(
        "OPT", "opt", _FIELDS, dict(activation="relu", norm_first=True),
        {**_ENCODER_IN_ONE, **_DECODER}, _CAUSAL_LM,
    ),
    "bloom": Preset(
        "Bloom", "bloom",
        {"vocabulary_size": "vocab_size", **_SIZES, "layer_norm_epsilon": "epsilon"}, {},
        {**_ENCODER, **_DECODER, "backbone.blocks": "bloom_decoder"}, _CAUSAL_LM,
    ),
    "bart": Preset("Bart", "bart", _FIELDS, {}, _ENCODER_DECODER, _SEQ2SEQ_LM, read=_as_deep),
    "t5": Preset(
        "T5", "t5",
        {"vocabulary_size": "vocab_size", **_SIZES, "key_value_dim": "projection_dim",
         "activation": "activation", "use_gated_activation": "gated",
         "layer_norm_epsilon": "epsilon", "tie_embedding_weights": "tie_embedding"},
        {}, _T5, _SEQ2SEQ_LM, read=_read_t5, write=_write_t5,
    ),
    # Their class has a factor for all positions too, and doesn't apply it.
    "llama": _llama(
        "Llama", {**_SCALED_AS_LLAMA3, **_TIED}, others={"rope_position_scaling_factor": 1.0}
    ),
    "mistral": _llama(
        "Mistral",
        {**_SCALED, **_HEAD_WIDTH, "sliding_window": "sliding_window"},
        "layer_normalization",
    ),
    "qwen2": _llama(
        "Qwen",
        {**_SCALED, **_TIED, "use_sliding_window_attention": "uses_window",
         "sliding_window_size": "window_size"},
    ),
    "qwen3": _llama(
        "Qwen3",
        {**_SCALED, **_TIED, **_HEAD_WIDTH, "sliding_window_size": "sliding_window"},
    ),
}  # fmt: skip
# Classes of their own there, which differ in the tokenizer alone.
VARIANTS = {"llama": PRESETS["llama"]._replace(name="Llama3", module="llama3")}


def is_preset(fields):
    """Whether a `config.json` is that of a preset.

    Args:
        fields: dict, the parsed file.

    Returns:
        bool.
    """
    return "registered_name" in fields and isinstance(fields.get("config"), dict)


def config_from_preset(fields):
    """Read a preset's `config.json`.

    Args:
        fields: dict, the parsed file.

    Returns:
        The pair (family name, config of its backbone).

    Raises:
        ValueError: a class that we have no family for, quantised weights, or a field that asks for
            mathematics which the family doesn't compute; the message names it.
    """
    family, theirs = _family(fields.get("class_name")), fields["config"]
    preset, policy = PRESETS[family], theirs.get("dtype")
    if isinstance(policy, dict) and policy.get("class_name") != "DTypePolicy":
        raise ValueError(
            f"The preset's weights must not be quantised. Received: {policy.get('class_name')}."
        )
    known = {"name", "trainable", "dtype", *preset.fields}
    unknown = {
        field: value
        for field, value in theirs.items()
        if field not in known and value and value != preset.others.get(field)
    }
    if unknown:
        raise ValueError(
            f"The preset has fields that the family {family} does not know: {unknown}. Remove them "
            "if they don't change what the model computes."
        )
    ours = {our: theirs[field] for field, our in preset.fields.items() if field in theirs}
    return family, _config(family, ours)


def _family(class_name):
    known = [*PRESETS.items(), *VARIANTS.items()]
    classes = {f"{preset.name}Backbone": family for family, preset in known}
    if class_name not in classes:
        raise ValueError(
            f"The preset's class must be one of {', '.join(classes)}. Received: {class_name}."
        )
    return classes[class_name]


def _config(family, ours):
    """Our config, from what a preset says of it."""
    module, preset = FAMILIES[family], PRESETS[family]
    assumed = dict(module.FIELDS.values())
    if "rate" in ours:  # they have one rate for both
        ours = {**ours, "attention_rate": ours["rate"]}
    fields = {
        "pad_id": assumed["pad_id"] or 0,
        "max_length": assumed["max_length"],
        **module.SETTINGS,
        **preset.fixed,
        **preset.read(ours),
    }
    return config_class(family)(**fields)


def config_to_preset(family, config):
    """Write a config in keras-hub's words; the inverse of `config_from_preset`.

    Args:
        family: str, a name in `FAMILIES`.
        config: the config of its backbone.

    Returns:
        dict, the fields of their backbone's config.

    Raises:
        ValueError: keras-hub doesn't have the family, or its class can't compute what the config
            says. That it has the other kind of GELU is only logged.
    """
    if family not in PRESETS:
        raise ValueError(
            f"The family must be one that keras-hub has too: {', '.join(PRESETS)}. "
            f"Received: {family}."
        )
    preset, said = PRESETS[family], config.to_dict()
    written = preset.write(said)
    again = _config(family, {our: written[our] for our in preset.fields.values()}).to_dict()
    unsaid = UNSAID if said.get("sliding_window") else {*UNSAID, "full_layers"}
    lost = {name: said[name] for name in said.keys() - unsaid if again[name] != said[name]}
    if {lost.get("activation"), again["activation"]} == {"gelu", "gelu_tanh"}:
        logger.warning(
            "keras-hub's %sBackbone computes `%s` where this model has `%s`: there, its hidden "
            "states will differ by some thousandths.",
            *(preset.name, again["activation"], lost.pop("activation")),
        )
    if lost:
        raise ValueError(
            f"keras-hub's {preset.name}Backbone can't compute these settings: {lost}. "
            "Save the model as a .keras file."
        )
    return {**{field: written[our] for field, our in preset.fields.items()}, **preset.others}
