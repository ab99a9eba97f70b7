"""Families: for each, how its Hugging Face config reads and what its weights are called."""

from kerasllm.config import TransformerConfig
from kerasllm.families import bert

FAMILIES = {"bert": bert}

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
    "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers",
    "pooler_size_per_head", "pooler_type", "bos_token_id", "eos_token_id", "sep_token_id",
    "cls_token_id", "mask_token_id", "finetuning_task", "tie_word_embeddings",
    "is_encoder_decoder", "task_specific_params",
}  # fmt: skip


def size_config(name, **changes):
    """Return the config of a size by name.

    Args:
        name: str, e.g. `"bert_tiny"`; `SIZES` lists them.
        **changes: fields of `TransformerConfig` to set differently, e.g. `vocab_size=5000`.

    Returns:
        `TransformerConfig`.

    Raises:
        ValueError: no such size; the message lists those there are.

    Example:
        >>> size_config("bert_tiny", vocab_size=5000).embed_dim
        128
    """
    if name not in SIZES:
        raise ValueError(f"`name` must be one of {', '.join(SIZES)}. Received: {name!r}.")
    family, size = SIZES[name]
    assumed = dict(FAMILIES[family].FIELDS.values())
    return TransformerConfig(**{**assumed, **size, **changes})


def config_from_hf(fields):
    """Read a Hugging Face `config.json`.

    Args:
        fields: dict, the parsed file.

    Returns:
        The pair (family name, `TransformerConfig`).

    Raises:
        ValueError: an unknown family or activation, or a field that asks for mathematics which the
            family doesn't compute; the message names it.
    """
    name = fields.get("model_type")
    if name not in FAMILIES:
        raise ValueError(
            f"`model_type` must be one of {', '.join(FAMILIES)}. Received: {name!r}. "
            "The folder holds a model of another family."
        )
    family = FAMILIES[name]
    _check_fields(name, family, fields)
    ours = {our: fields.get(their, default) for their, (our, default) in family.FIELDS.items()}
    if ours["activation"] not in ACTIVATIONS:
        raise ValueError(
            f"`hidden_act` must be one of {', '.join(ACTIVATIONS)}. "
            f"Received: {ours['activation']!r}."
        )
    ours["activation"] = ACTIVATIONS[ours["activation"]]
    return name, TransformerConfig(**ours)


def _check_fields(name, family, fields):
    for field, value in family.FIXED_FIELDS.items():
        if fields.get(field, value) != value:
            raise ValueError(
                f"`{field}` must be {value!r} for the family {name}. Received: {fields[field]!r}."
            )
    known = {*family.FIELDS, *family.FIXED_FIELDS, *IGNORED_FIELDS}
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
        config: `TransformerConfig`.

    Returns:
        dict, ready for `config.json`.
    """
    family = FAMILIES[name]
    fields = {their: getattr(config, our) for their, (our, _) in family.FIELDS.items()}
    spelling = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    fields["hidden_act"] = spelling[config.activation]
    return {"model_type": name, **fields}


def name_map(name, head, config):
    """Say what a model's layers are called in a Hugging Face checkpoint.

    Args:
        name: str, the family.
        head: dict, our layer's attribute on the model: their name, e.g. `bert.CLASSIFIER`.
        config: `TransformerConfig`.

    Returns:
        dict: attribute path on the model, e.g. `"bert.blocks.0.att.query_dense"`: their name.
    """
    family = FAMILIES[name]
    paths = dict(head)
    for ours, theirs in family.BACKBONE.items():
        for i in range(config.num_layers if "{i}" in ours else 1):
            paths[f"{name}." + ours.format(i=i)] = theirs.format(i=i)
    return paths
