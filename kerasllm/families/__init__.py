"""Families: for each, how its Hugging Face config reads and what its weights are called.

A family is a module with these names: `MODEL_TYPE`, Hugging Face's name of it; `SIZES`, fields of
the config by size; `FIELDS`, their field: ours and its default; `SETTINGS`, our fields that are the
same in the whole family; `FIXED_FIELDS`, their fields that must have one value; `IGNORED_FIELDS`,
those that say nothing about what we compute; `IGNORED_TENSORS`, patterns of what a checkpoint may
hold beyond our models; `PREFIX`, what a checkpoint of the bare backbone leaves out; `BACKBONE` and
`HEADS`, names of layers. Optional are `CONFIG`, the class of our config if it is not
`TransformerConfig`; `ALIASES`, other names of fields: the name in `FIELDS`; and two functions:
`read(fields)`, from their fields to ours once the table is done with them, and `write(fields)`, the
way back.
"""

import dataclasses
import functools
import json
import pathlib
import re

from kerasllm.config import TransformerConfig
from kerasllm.families import (
    albert,
    bart,
    bert,
    bloom,
    distilbert,
    electra,
    generation_config,
    gpt2,
    gru,
    llama,
    lstm,
    mistral,
    mt5,
    opt,
    qwen2,
    qwen3,
    rnn,
    roberta,
    t5,
    transformer,
    xlm_roberta,
)
from kerasllm.weights import as_stored

FAMILIES = {
    "bert": bert,
    "roberta": roberta,
    "xlm_roberta": xlm_roberta,
    "distilbert": distilbert,
    "electra": electra,
    "albert": albert,
    "gpt2": gpt2,
    "opt": opt,
    "bloom": bloom,
    "llama": llama,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "transformer": transformer,
    "bart": bart,
    "t5": t5,
    "mt5": mt5,
    "rnn": rnn,
    "lstm": lstm,
    "gru": gru,
}

SIZES = {
    name: (family, size)
    for family, module in FAMILIES.items()
    for name, size in module.SIZES.items()
}

ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}

# Fields of any Hugging Face config that say nothing about a backbone's mathematics.
IGNORED_FIELDS = {
    "architectures", "model_type", "transformers_version", "torch_dtype", "dtype", "name_or_path",
    "_name_or_path", "_commit_hash", "_attn_implementation_autoset", "use_cache", "id2label",
    "label2id", "num_labels", "problem_type", "classifier_dropout", "gradient_checkpointing",
    "output_past", "output_attentions", "output_hidden_states", "return_dict", "directionality",
    "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "mask_token_id",
    "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id", "finetuning_task",
    "task_specific_params", "prefix", "torchscript", "tokenizer_class", "_num_labels",
    "use_bfloat16", "xla_device", *generation_config.FIELDS,
}  # fmt: skip


def size_config(name, **changes):
    """Return the config of a size by name.

    Args:
        name: str, e.g. `"bert_tiny"`; `SIZES` lists them.
        **changes: fields of the config to set differently, e.g. `vocab_size=5000`.

    Returns:
        The config of the family's backbone.

    Raises:
        ValueError: no such size; the message lists those there are.

    Example:
        >>> size_config("bert_tiny", vocab_size=5000).embed_dim
        128
    """
    family = family_of(name)
    size = FAMILIES[family].SIZES[name]
    defaults = dict(FAMILIES[family].FIELDS.values())
    assumed = _read(FAMILIES[family], {**defaults, "pad_id": defaults["pad_id"] or 0})
    return config_class(family)(**{**assumed, **size, **changes})


def family_of(size):
    """Return the family of a size by its name.

    Args:
        size: str, e.g. `"bert_tiny"`; `SIZES` lists them.

    Returns:
        str, a name in `FAMILIES`.

    Raises:
        ValueError: no such size; the message lists those there are.
    """
    if size not in SIZES:
        raise ValueError(f"`name` must be one of {', '.join(SIZES)}. Received: {size!r}.")
    return SIZES[size][0]


def config_class(family):
    """Return the class of a family's configs.

    Args:
        family: str, a name in `FAMILIES`.

    Returns:
        A class of `kerasllm.config`.
    """
    return getattr(FAMILIES[family], "CONFIG", TransformerConfig)


def summary(family):
    """Say what there is of a family.

    Args:
        family: str, a name in `FAMILIES`.

    Returns:
        dict: `title`, with the paper; `heads` and `sizes`, lists of names; `parity`, list of two
        str: how far its outputs were from the reference, read and written, as
        benchmarks/parity.py measured.
    """
    module = FAMILIES[family]
    read, written = _measured_parity().get(family, (None, None))
    return {
        "title": " ".join(module.__doc__.split("\n\n")[0].split()),
        "heads": list(module.HEADS),
        "parity": [f"read {read}", f"written {written}"] if read else [],
        "sizes": list(module.SIZES),
    }


@functools.cache
def _measured_parity():
    return json.loads((pathlib.Path(__file__).parent / "parity.json").read_text())


def head(family, name):
    """Return what a family says of one of its heads.

    Args:
        family: str, a name in `FAMILIES`.
        name: str, e.g. `"text_classifier"`.

    Returns:
        `Head`.

    Raises:
        ValueError: no such family, or it has no such head; the message lists those that do.
    """
    if family not in FAMILIES:
        raise ValueError(f"`family` must be one of {', '.join(FAMILIES)}. Received: {family!r}.")
    if name not in FAMILIES[family].HEADS:
        able = ", ".join(other for other, module in FAMILIES.items() if name in module.HEADS)
        raise ValueError(
            f"The family {family} must have a {name} for this model. It has "
            f"{', '.join(FAMILIES[family].HEADS)}. Families with a {name}: {able}."
        )
    return FAMILIES[family].HEADS[name]


def head_config(config, head):
    """Say what the backbone below a head is.

    Args:
        config: config of a backbone of the family.
        head: `Head`.

    Returns:
        The config; where the encoder is the whole backbone, without a decoder.
    """
    return dataclasses.replace(config, num_decoder_layers=0) if head.encoder else config


def head_of(fields):
    """Return the name of the head that a Hugging Face config speaks of.

    Args:
        fields: dict, the parsed `config.json`.

    Returns:
        str, a key of `HEADS`, or None where it names no architecture that we know.
    """
    named = fields.get("architectures") or ()
    for module in _of_type(fields).values():
        for name, head in module.HEADS.items():
            if head.architecture in named:
                return name
    return None


def _of_type(fields):
    """The families whose `MODEL_TYPE` a Hugging Face config has, by name in `FAMILIES`."""
    model_type = fields.get("model_type")
    return {n: module for n, module in FAMILIES.items() if model_type == module.MODEL_TYPE}


def config_from_hf(fields):
    """Read a Hugging Face `config.json`.

    Args:
        fields: dict, the parsed file.

    Returns:
        The pair (family name, config of its backbone).

    Raises:
        ValueError: an unknown family or activation, or a field that asks for mathematics which the
            family doesn't compute; the message names it.
    """
    found = _of_type(fields)
    if not found:
        known = ", ".join(module.MODEL_TYPE for module in FAMILIES.values())
        raise ValueError(
            f"`model_type` must be one of {known}. Received: {fields.get('model_type')!r}. "
            "The folder holds a model of another family."
        )
    name, module = next(iter(found.items()))
    aliases = getattr(module, "ALIASES", {})
    fields = {**fields, **{aliases[name]: fields[name] for name in fields.keys() & aliases.keys()}}
    _check_fields(name, module, fields)
    ours = {our: fields.get(their, default) for their, (our, default) in module.FIELDS.items()}
    if ours["pad_id"] is None:  # a decoder without: behind the mask, any token will do
        end = fields.get("eos_token_id") or 0
        ours["pad_id"] = end[0] if isinstance(end, list) else end
    return name, config_class(name)(**_read(module, ours))


def _read(module, ours):
    """From values of a family's `FIELDS` to fields of a config."""
    if "activation" in ours:
        if ours["activation"] not in [*ACTIVATIONS]:  # it may be a list or an object
            raise ValueError(
                f"`{_activation_field(module)}` must be one of {', '.join(ACTIVATIONS)}. "
                f"Received: {ours['activation']!r}."
            )
        ours = {**ours, "activation": ACTIVATIONS[ours["activation"]]}
    ours = {**ours, **module.SETTINGS}
    return module.read(ours) if hasattr(module, "read") else ours


def _activation_field(module):
    return next(their for their, (our, _) in module.FIELDS.items() if our == "activation")


def _check_fields(name, family, fields):
    for field, value in family.FIXED_FIELDS.items():
        if fields.get(field, value) != value:
            raise ValueError(
                f"`{field}` must be {value!r} for the family {name}. Received: {fields[field]!r}."
            )
    known = {*family.FIELDS, *family.FIXED_FIELDS, *family.IGNORED_FIELDS, *IGNORED_FIELDS}
    known |= getattr(family, "ALIASES", {}).keys()
    # A field that is off, none or empty asks for nothing.
    unknown = {field: value for field, value in fields.items() if field not in known and value}
    if unknown:
        raise ValueError(
            f"The config has fields that the family {name} does not know: {unknown}. Remove them "
            "if they don't change what the model computes."
        )


def config_to_hf(name, config):
    """Write a config in Hugging Face's words; the inverse of `config_from_hf`.

    Args:
        name: str, the family.
        config: the config of its backbone.

    Returns:
        dict, ready for `config.json`.

    Raises:
        ValueError: the config has settings that the family's checkpoints can't express.
    """
    module = FAMILIES[name]
    ours = config.to_dict()
    spelling = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    if "activation" in ours:
        ours["activation"] = spelling[ours["activation"]]
    written = module.write(ours) if hasattr(module, "write") else ours
    fields = {their: written[our] for their, (our, _) in module.FIELDS.items()}
    _check_written(name, config, fields)
    return {"model_type": module.MODEL_TYPE, **fields}


def _check_written(name, config, fields):
    """Check that a config comes back from its own words, so that no setting is lost."""
    again = config_from_hf({"model_type": FAMILIES[name].MODEL_TYPE, **fields})[1].to_dict()
    lost = {field: value for field, value in config.to_dict().items() if again[field] != value}
    if lost:
        raise ValueError(
            f"A checkpoint of the family {name} can't say these settings: {lost}. "
            "Save the model as a .keras file."
        )


def name_map(name, head, config):
    """Say what a model's layers are called in a Hugging Face checkpoint.

    Args:
        name: str, the family.
        head: str or None, a name in the family's `HEADS`; None for the backbone alone.
        config: config of the backbone.

    Returns:
        dict: attribute path on the model, e.g. `"backbone.blocks.0.att.query_dense"`: their name,
        or `weights.Stored`.
    """
    module = FAMILIES[name]
    paths = dict(module.HEADS[head].layers) if head else {}
    encoder = head is not None and module.HEADS[head].encoder
    for ours, theirs in module.BACKBONE.items():
        if encoder and ours.startswith("decoder."):
            continue
        path = ours.removeprefix("encoder.") if encoder else ours
        for i in range(_count(ours, config)):
            paths["backbone." + path.format(i=i)] = _numbered(theirs, i, config)
    own = prefix(name, head)
    if own == module.PREFIX:
        return paths
    return {
        ours: _renamed(theirs, lambda name: own + name.removeprefix(module.PREFIX))
        if ours.startswith("backbone.")
        else theirs
        for ours, theirs in paths.items()
    }


def prefix(name, head):
    """Say how a checkpoint begins the names of the backbone's layers.

    Args:
        name: str, the family.
        head: str or None, a name in the family's `HEADS`; None for the backbone alone.

    Returns:
        str.
    """
    module = FAMILIES[name]
    own = module.HEADS[head].prefix if head else None
    return module.PREFIX if own is None else own


def _count(path, config):
    """Over how many blocks a name runs."""
    if "{i}" not in path:
        return 1
    if path.startswith("decoder."):
        return config.num_decoder_layers
    return 1 if getattr(config, "share_blocks", False) else config.num_layers


def _numbered(theirs, i, config):
    theirs = _renamed(theirs, lambda name: name.format(i=i))
    if as_stored(theirs).heads:
        return dataclasses.replace(theirs, heads=config.num_heads)
    return theirs


def _renamed(theirs, rename):
    """A name or `Stored` of a layer, under the name that a function makes of its own."""
    if isinstance(theirs, str):
        return rename(theirs)
    return dataclasses.replace(theirs, name=rename(theirs.name))


def ignored_tensors(name, head):
    """Say what a checkpoint may hold that a model has no place for.

    Args:
        name: str, the family.
        head: str or None, the model's own head, a name in the family's `HEADS`.

    Returns:
        tuple of regular expressions: the family's own list, and all of its other heads; for an
        encoder, the decoder too.
    """
    module = FAMILIES[name]
    decoder = (r"decoder\..*",) if head and module.HEADS[head].encoder else ()
    named = {
        other: {as_stored(stored).name for stored in module.HEADS[other].layers.values()}
        for other in module.HEADS
    }
    others = set().union(*named.values()) - named.get(head, set())
    heads = (re.escape(other) + r"(\..*)?" for other in sorted(others))
    return (*module.IGNORED_TENSORS, *decoder, *heads)
