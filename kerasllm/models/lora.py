"""Fine-tuning by low-rank adapters: added, trained, saved apart, merged; in PEFT's format."""

import collections
import dataclasses
import json
import math
import pathlib
import re

import keras

from kerasllm import families, weights
from kerasllm.atomic import whole
from kerasllm.config import check_int, check_number
from kerasllm.layers import Dense, TokenLogits
from kerasllm.layers.lora import adapt

CONFIG_FILE = "adapter_config.json"
FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."  # of all names in that file

# The two that adapt best for their size: section 7.1 of the paper.
TARGETS = ("query_dense", "value_dense")

# What PEFT calls the work of a head. It then saves a layer `classifier` or `score` by itself.
TASK_TYPES = {
    "text_classifier": "SEQ_CLS",
    "token_classifier": "TOKEN_CLS",
    "span_labeler": "QUESTION_ANS",
    "causal_lm": "CAUSAL_LM",
    "seq2seq_lm": "SEQ_2_SEQ_LM",
}

# Fields of PEFT's config: those that must have one value, and those that say nothing about what an
# adapter computes beyond what its tensors say.
FIXED_FIELDS = {"peft_type": ("LORA",), "bias": ("none",)}
KNOWN_FIELDS = {
    "r", "lora_alpha", "alpha_pattern", "rank_pattern", "use_rslora", "lora_dropout",
    "target_modules", "exclude_modules", "modules_to_save", "fan_in_fan_out", "init_lora_weights",
    "layers_to_transform", "layers_pattern", "task_type", "inference_mode", "auto_mapping",
    "base_model_name_or_path", "revision", "peft_version", "megatron_core", "loftq_config",
    "qalora_group_size", "ensure_weight_tying",
}  # fmt: skip
# These change the base model's own weights, so that an adapter fits no other.
CHANGING_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclasses.dataclass(frozen=True)
class Lora:
    """Which adapters a model has; its attribute `lora`.

    Args:
        layers: dict, attribute path of a `Dense`: pair of rank and alpha.
        rate: float, dropout on what goes into the adapters.
        head: tuple of attribute paths of the other layers that are trained.
    """

    layers: dict
    rate: float = 0.0
    head: tuple = ()


def add_lora(model, rank=8, *, alpha=None, rate=0.0, targets=TARGETS, head=True):
    """Put low-rank adapters beside kernels of a model, and freeze everything else.

    The model is changed in place, and answers as before until it is trained: by `fit`, or by
    `compile` (after this call) and `model.fit`. Under a strategy, call it in the strategy's scope.
    A `.keras` file keeps the adapters, `save_lora` writes them alone, `merge_lora` makes one model
    of it all.

    Args:
        model: a model of `kerasllm.models`.
        rank: int, numbers between the way down and the way up.
        alpha: float or None: what an adapter adds is multiplied by `alpha / rank`; None for `rank`.
        rate: float in [0, 1), dropout on what goes into the adapters.
        targets: sequence of str, `Dense` layers: their attributes, such as `"query_dense"` or
            `"ffn.layers.0"`, or whole paths, such as `"backbone.blocks.0.att.query_dense"`.
        head: bool, whether the layers on the backbone that have no adapter are trained too (never a
            language model's scores, which are as large as the token table).

    Returns:
        None.

    Raises:
        ValueError: an argument is out of its range, no layer has such a name (the message lists
            those there are), or the model has adapters already.

    Example:
        >>> model = BertClassifier(2, "bert_tiny")
        >>> add_lora(model, rank=4, head=False)
        >>> sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
        4096

    References:
        Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".
    """
    alpha = rank if alpha is None else alpha
    check_int("rank", rank, least=1)
    check_number("alpha", alpha, lambda x: 0 < x < math.inf, "above 0")
    check_number("rate", rate, lambda x: 0 <= x < 1, "from 0 to below 1")
    known = _dense_layers(model)
    found = {
        target: [path for path in known if f".{path}".endswith(f".{target}")]
        for target in ([targets] if isinstance(targets, str) else targets)
    }
    unknown = [repr(target) for target, paths in found.items() if not paths]
    if unknown or not found:
        names = sorted({re.sub(r".*\.\d+\.(?=\D)", "", path) for path in known})
        raise ValueError(
            f"`targets` must name `Dense` layers of the model: {', '.join(names) or 'none'}. "
            f"Received: {', '.join(unknown) or 'no names'}."
        )
    layers = {path: (rank, alpha) for paths in found.values() for path in paths}
    others = (path for path in _head_layers(model) if path not in layers)
    put_lora(model, Lora(layers, rate, tuple(others) if head else ()))


def _names(model):
    family, head = getattr(model, "family", None), getattr(model, "HEAD", None)
    if family not in families.FAMILIES or head not in families.FAMILIES[family].HEADS:
        raise ValueError(
            "`model` must be one of a family and with one of its heads. Received: a "
            f"{type(model).__name__} (of a `ReplacedTokenDetection`, give the `detector`)."
        )
    return families.name_map(family, head, model.config)


def _dense_layers(model):
    """Paths of the `Dense` layers, in order."""
    return [path for path in _names(model) if isinstance(weights.attribute(model, path), Dense)]


def _head_layers(model):
    """Paths of the layers on the backbone, without a language model's scores."""
    for path in _names(model):
        layer = weights.attribute(model, path)
        if (
            not path.startswith("backbone.")
            and isinstance(layer, keras.layers.Layer)
            and not isinstance(layer, TokenLogits)
        ):
            yield path


def put_lora(model, lora):
    """Make a model have the adapters that `lora` says, and freeze everything else.

    Args:
        model: a model of `kerasllm.models`.
        lora: `Lora`.

    Raises:
        ValueError: the model has adapters already.
    """
    if model.lora is not None:
        raise ValueError(
            "`model` must have no adapters yet. Received: one with "
            f"{len(model.lora.layers)} (`merge_lora` makes a model without)."
        )
    for weight in model.trainable_weights:
        weight.trainable = False
    names, downs = _names(model), {}
    for path, (rank, alpha) in lora.layers.items():
        # Layers that a checkpoint holds as one (GPT-2's query, key and value) share the way down,
        # as they do in PEFT, where all of them together have one adapter.
        name = weights.as_stored(names[path]).name
        layer = weights.attribute(model, path)
        adapter = adapt(layer, rank, alpha, lora.rate, downs.get(name))
        downs[name] = adapter.down
    for path in lora.head:
        for weight in weights.attribute(model, path).weights:
            weight.trainable = True
    sizes = {path: tuple(size) for path, size in lora.layers.items()}  # JSON makes lists of them
    model.lora = Lora(sizes, lora.rate, tuple(lora.head))
    # What Keras has traced knows nothing of them.
    model.train_function = model.test_function = model.predict_function = None


def merge_lora(model):
    """Make a model without adapters that answers as this one does.

    Args:
        model: a model with adapters. It is not changed.

    Returns:
        A model of the same class, all of it trainable, ready for `save_pretrained` and exports.

    Raises:
        ValueError: the model has no adapters.

    Example:
        >>> model = BertClassifier(2, "bert_tiny")
        >>> add_lora(model)
        >>> merge_lora(model).lora is None
        True
    """
    _check_adapted(model)
    config = model.get_config()
    del config["lora"]
    merged = type(model).from_config(config)
    merged.tokenizer = model.tokenizer
    layers = {path: weights.attribute(model, path) for path in model.lora.layers}
    adapters = {id(weight) for layer in layers.values() for weight in layer.lora.weights}
    kept = [weight for weight in model.weights if id(weight) not in adapters]
    for new, old in zip(merged.weights, kept, strict=True):
        new.assign(old)
    for path, layer in layers.items():
        weights.attribute(merged, path).kernel.assign(layer.merged_kernel())
    return merged


def _check_adapted(model):
    if model.lora is None:
        raise ValueError("`model` must have adapters. Received: one without (see `add_lora`).")


def save_lora(model, folder, *, base_model=None):
    """Write a model's adapters, and the head trained with them, in PEFT's format.

    Args:
        model: a model with adapters.
        folder: str or path-like. Files of the same names are replaced, others stay.
        base_model: str or None: hub name or path of the checkpoint that the adapters belong to,
            for PEFT to find it.

    Returns:
        None.

    Raises:
        OSError: the folder can't be written.
        ValueError: the model has no adapters.

    Example:
        >>> model = BertClassifier(2, "bert_tiny")
        >>> add_lora(model)
        >>> save_lora(model, "my_adapters", base_model="google/bert_uncased_L-2_H-128_A-2")
    """
    _check_adapted(model)
    fields = {
        "peft_type": "LORA",
        "task_type": TASK_TYPES.get(model.HEAD),
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "bias": "none",
        "lora_dropout": model.lora.rate,
        **_sizes(model),
        **_modules(model),
    }
    with whole(folder) as aside:
        aside.mkdir()
        text = json.dumps(fields, ensure_ascii=False, indent=2) + "\n"
        (aside / CONFIG_FILE).write_text(text, encoding="utf-8")
        weights.save_part(model, aside / FILE, _adapter_names(model))


def _sizes(model):
    """The most frequent rank and alpha, and those of layers that have others."""
    names = _names(model)
    sizes = {weights.as_stored(names[path]).name: size for path, size in model.lora.layers.items()}
    (rank, alpha), _ = collections.Counter(map(tuple, sizes.values())).most_common(1)[0]
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: size[0] for name, size in sizes.items() if size[0] != rank},
        "alpha_pattern": {name: size[1] for name, size in sizes.items() if size[1] != alpha},
    }


def _modules(model):
    """In Hugging Face's words, which layers are adapted, how they are stored, and which saved."""
    stored = {path: weights.as_stored(name) for path, name in _names(model).items()}
    adapted = {stored[path].name for path in model.lora.layers}
    others = {at.name for at in stored.values()} - adapted
    # PEFT saves a `classifier` as a whole, even if it has layers of its own (RoBERTa).
    saved = [
        re.sub(r"^classifier\..*", "classifier", stored[path].name) for path in model.lora.head
    ]
    return {
        "target_modules": sorted({_short(name, others) for name in adapted}),
        "modules_to_save": sorted(set(saved)) or None,
        "fan_in_fan_out": not all(stored[path].transposed for path in model.lora.layers),
    }


def _short(name, others):
    """The shortest end of a name that none of the others has."""
    parts = name.split(".")
    ends = (".".join(parts[-count:]) for count in range(1, len(parts)))
    alone = (end for end in ends if not any(f".{other}".endswith(f".{end}") for other in others))
    return next(alone, name)


def _adapter_names(model):
    """What the trained layers are called in PEFT's file: a map as of `families.name_map`."""
    stored = {path: weights.as_stored(name) for path, name in _names(model).items()}
    names = {}
    for path in model.lora.layers:
        name = PREFIX + stored[path].name
        names[f"{path}.lora.down"] = weights.Stored(f"{name}.lora_A")
        # Both are stored as `Linear` has them, even beside GPT-2's `Conv1D`.
        names[f"{path}.lora.up"] = dataclasses.replace(
            stored[path], name=f"{name}.lora_B", transposed=True, optional=False
        )
    for path in model.lora.head:
        names[path] = dataclasses.replace(stored[path], name=PREFIX + stored[path].name)
    return names


def load_lora(model, folder):
    """Read adapters, in PEFT's format, into a model; they can then be trained on, or merged.

    Args:
        model: the model that they were trained on, without adapters. It is changed in place, as by
            `add_lora`.
        folder: str or path-like, with `adapter_config.json` and `adapter_model.safetensors`.

    Returns:
        None.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the config asks for other mathematics, or the adapters don't fit the model; the
            message says which.

    Example:
        >>> model = BertClassifier.from_pretrained("my_model")  # doctest: +SKIP
        >>> load_lora(model, "my_adapters")  # doctest: +SKIP
    """
    folder = pathlib.Path(folder)
    if not (folder / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"`{folder}` must hold an `{CONFIG_FILE}`, as PEFT writes it.")
    fields = weights.read_json(folder / CONFIG_FILE)
    _check_fields(fields)
    tensors = weights.Tensors(folder, FILE)
    layers = _layers_in(tensors, model, fields)
    names = {path: weights.as_stored(name).name for path, name in _names(model).items()}
    head = [path for path in _head_layers(model) if f"{PREFIX}{names[path]}.weight" in tensors]
    own = tuple(f"{PREFIX}{names[path]}." for path in head)
    plain = filter(lambda key: ".lora_" not in key, sorted(tensors.keys()))
    others = [key for key in plain if not key.startswith(own)]
    if others:
        raise ValueError(
            f"`{FILE}` must hold adapters, and nothing else but the model's head. Received: "
            f"{others}."
        )
    put_lora(model, Lora(layers, fields.get("lora_dropout") or 0.0, tuple(head)))
    weights.load_weights(model, folder, _adapter_names(model), file=FILE)


def _check_fields(fields):
    wrong = {
        name: fields[name]
        for name, values in FIXED_FIELDS.items()
        if fields.get(name, values[0]) not in values
    }
    known = {*FIXED_FIELDS, *KNOWN_FIELDS}
    wrong.update({name: value for name, value in fields.items() if value and name not in known})
    if str(fields.get("init_lora_weights")).startswith(CHANGING_BASES):
        wrong["init_lora_weights"] = fields["init_lora_weights"]
    if wrong:
        raise ValueError(
            f"`{CONFIG_FILE}` must be of plain LoRA. Received settings that are not: {wrong}."
        )


def _layers_in(tensors, model, fields):
    """The adapters in PEFT's file, as `Lora.layers`."""
    places, names = collections.defaultdict(list), _names(model)
    for path in _dense_layers(model):
        places[weights.as_stored(names[path]).name].append(path)
    found = re.compile(re.escape(PREFIX) + r"(.*)\.lora_\w*A(\.weight)?")
    layers, unknown = {}, []
    for match in filter(None, map(found.fullmatch, tensors.keys())):
        key, name = match[0], match[1]
        if name in places:
            rank = _checked_rank(tensors, key, [weights.attribute(model, p) for p in places[name]])
            layers.update(dict.fromkeys(places[name], (rank, _alpha(fields, name, rank))))
        else:
            unknown.append(name)
    if unknown or not layers:
        raise ValueError(
            f"`{FILE}` must hold adapters of the model's own `Dense` layers. Received adapters of: "
            f"{unknown or 'none'}. The model has: {', '.join(places)}."
        )
    return layers


def _checked_rank(tensors, key, parts):
    """The rank of an adapter of `Dense` layers, before any of them gets one."""
    keys = (key, re.sub(r"\.lora_(\w*)A", r".lora_\1B", key))
    found = [tuple(tensors.shape(name)) if name in tensors else None for name in keys]
    rank, units = found[0][0], sum(part.kernel.shape[1] for part in parts)
    fitting = [(rank, parts[0].kernel.shape[0]), (units, rank)]
    if found != fitting:
        raise ValueError(
            f"`{FILE}` must hold {' and '.join(keys)} of the shapes {fitting}. Received: {found}."
        )
    return rank


def _alpha(fields, name, rank):
    patterns = fields.get("alpha_pattern") or {}
    fitting = (value for key, value in patterns.items() if re.fullmatch(rf"(.*\.)?({key})", name))
    alpha = next(fitting, fields.get("lora_alpha", 8))
    return alpha * math.sqrt(rank) if fields.get("use_rslora") else alpha
