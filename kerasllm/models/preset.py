"""Presets, the folders of keras-hub (once keras-nlp), into our models and out of them."""

import contextlib
import dataclasses
import json
import logging
import re

import h5py
import keras
import ml_dtypes
import numpy as np

from kerasllm import families
from kerasllm.families.keras_hub import INNER, PRESETS, VARIANTS, config_to_preset
from kerasllm.layers import Dense
from kerasllm.models.preset_tokenizer import read_serialized, save_tokenizer, serialized
from kerasllm.weights import STATE_NAMES, attribute, read_json

logger = logging.getLogger("kerasllm")

WEIGHTS, TASK_WEIGHTS, INDEX = "model.weights.h5", "task.weights.h5", "model.weights.json"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a variable stands in a preset's file.

    Args:
        path: str, of the dataset.
        variable: `keras.Variable`.
        width: int, of an attention head: there, heads have an axis of their own.
        offset: int, rows of our table of positions that theirs does not have.
    """

    path: str
    variable: keras.Variable
    width: int
    offset: int

    @property
    def is_table(self):
        """Whether it is a table of positions."""
        return re.search(r"position_embedding(_\d+)?/vars/0$", self.path) is not None

    @property
    def is_head(self):
        """Whether it is a language model's head, which stands there the other way round."""
        return self.path.endswith("reversible_embedding/vars/1")

    @property
    def shape(self):
        """Shape of the dataset."""
        first, *rest = shape = tuple(self.variable.shape)
        if self.is_head:
            return shape[::-1]
        if self.is_table:
            return (first - self.offset, *rest)
        if re.search(r"/_?(query|key|value)_dense/vars/\d$", self.path):
            return (*shape[:-1], shape[-1] // self.width, self.width)
        # BLOOM's is a plain `Dense`.
        if re.search(r"^(?!.*bloom).*attention_layer/_?output_dense/vars/0$", self.path):
            return (first // self.width, self.width, *rest)
        return shape

    def assign(self, array):
        """Give the variable the dataset's value."""
        if self.is_table:  # no real token uses the rows that they leave out
            array = np.pad(array, ((self.offset, 0), (0, 0)))
        array = array.T if self.is_head else array.reshape(self.variable.shape)
        self.variable.assign(array)

    def value(self):
        """The variable's value, as the dataset has it."""
        value = self.variable.numpy()
        if self.is_table:
            return value[self.offset :]
        return value.T if self.is_head else value.reshape(self.shape)


def _places(model, layers):
    """Everything in a file, by the table of its layers."""
    config, used, places = model.config, {}, []

    def add(path, variables):
        offset = getattr(config, "position_offset", 0)
        for i, variable in enumerate(variables):
            places.append(Place(f"{path}/vars/{i}", variable, config.projection_dim, offset))

    for ours, kind in layers.items():
        kind, _, part = kind.partition("/")
        for layer in _layers(model, ours):
            number = used.get(kind, -1) + 1
            name = f"layers/{kind}_{number}" if number else f"layers/{kind}"
            if part:  # of a layer that is yet to come
                add(f"{name}/{part}", _variables(layer))
                continue
            used[kind] = number
            for inner, theirs in INNER.get(kind, {"": ""}).items():
                variables = _variables(attribute(layer, inner))
                if kind == "reversible_embedding" and not config.tie_embedding:
                    variables.append(_language_head(model))
                add(f"{name}/{theirs}".rstrip("/"), variables)
    return places


def _layers(model, path):
    layer = attribute(model, path)
    if layer is None and path.endswith("pooler"):  # theirs always has one
        layer = Dense(model.config.embed_dim, kernel_initializer=_initializer(model))
        layer.build((None, model.config.embed_dim))
    if layer is None:
        return []
    return list(dict.fromkeys(layer)) if isinstance(layer, list) else [layer]  # ALBERT's is one


def _language_head(model):
    kernel = attribute(model, "logits.kernel")  # theirs always has one
    shape = (model.config.vocab_size, model.config.embed_dim)
    return keras.Variable(_initializer(model), shape=shape) if kernel is None else kernel


def _initializer(model):
    return keras.initializers.TruncatedNormal(getattr(model.config, "initializer_range", 0.02))


def _variables(layer):
    found = [getattr(layer, name, None) for name in STATE_NAMES]
    return [variable for variable in found if isinstance(variable, keras.Variable)]


def _lone_segment(model):
    """The table of the only segment, where their class has none; None elsewhere."""
    if getattr(model.config, "num_segments", 0) != 1:
        return None
    has_one = "num_segments" in PRESETS[model.family].fields
    return None if has_one else model.backbone.embedding.segment_emb.embeddings


def read_task(folder, family, head):
    """Read what a preset says of a head.

    Args:
        folder: `pathlib.Path`.
        family: str.
        head: str, e.g. `"text_classifier"`.

    Returns:
        dict, the config of their model with that head; None where the preset has none.

    Raises:
        ValueError: the file is broken, or the classifier has an activation.
    """
    task, path = PRESETS[family].tasks.get(head), folder / "task.json"
    if task is None or not path.is_file():
        return None
    fields = read_serialized(path)
    names = {task.name, task.name.removeprefix("Text")}  # as it was called before
    if fields.get("class_name") not in {PRESETS[family].name + name for name in names}:
        return None
    activation = fields["config"].get("activation")
    if activation not in (None, "linear"):
        raise ValueError(
            f"`{path}` must have a classifier without activation. Received: {activation!r}."
        )
    return fields["config"]


def head_fields(folder, family, head):
    """What a preset says of a head.

    Args:
        folder: `pathlib.Path`.
        family: str.
        head: str.

    Returns:
        The pair of dicts: what it says of a classifier, in the words of a Hugging Face config; and
        the options of our model that its class fixes.
    """
    fields = read_task(folder, family, head)
    if fields is None:
        return {}, {}
    known = {"num_classes": "num_labels", "dropout": "classifier_dropout"}
    said = {known[name]: value for name, value in fields.items() if name in known}
    return said, PRESETS[family].tasks[head].fixed


def load_preset(model, folder, fresh_head=False):
    """Copy a preset's weights into a model, strictly.

    Args:
        model: a model of the preset's family and config.
        folder: `pathlib.Path`.
        fresh_head: bool, whether to leave out the preset's head.

    Returns:
        list of the head's layers that keep their fresh weights.

    Raises:
        FileNotFoundError: there are no weights.
        ValueError: weights are missing, left over, or of another shape; the message lists all.
    """
    preset = PRESETS[model.family]
    segment = _lone_segment(model)
    if segment is not None:
        segment.assign(np.zeros(segment.shape, "float32"))
    _read(folder, WEIGHTS, _places(model, preset.layers))
    task = preset.tasks.get(model.HEAD)
    if task is None or task.layers:
        if not fresh_head and read_task(folder, model.family, model.HEAD) is not None:
            _read(folder, TASK_WEIGHTS, _places(model, task.layers))
        else:
            layers = families.head(model.family, model.HEAD).layers
            return [name for name in layers if name not in preset.layers]
    return []


def _read(folder, name, places):
    with _datasets(folder, name) as found:
        wanted = {_plain(place.path): place for place in places}
        missing = [place.path for key, place in wanted.items() if key not in found]
        unused = [item.name for key, item in found.items() if key not in wanted]
        wrong = [
            f"{place.path} is {found[key].shape} and must be {place.shape}"
            for key, place in wanted.items()
            if key in found and found[key].shape != place.shape
        ]
        if missing or unused or wrong:
            raise ValueError(
                f"`{folder / name}` does not fit the model. "
                f"Missing in the file: {missing or 'none'}. "
                f"Unused from the file: {unused or 'none'}. Of another shape: {wrong or 'none'}."
            )
        for key, place in wanted.items():
            place.assign(_array(found[key]))


def _plain(path):
    """A path as all versions of Keras have it: some write `_query_dense`, some `query_dense`."""
    parts = (part.lstrip("_") for part in path.split("/"))
    return "/".join(parts).replace("layer_checkpoint_dependencies", "layers")


def _array(dataset):
    array = dataset[()]
    return array.view(ml_dtypes.bfloat16).astype("float32") if array.dtype.kind == "V" else array


@contextlib.contextmanager
def _datasets(folder, name):
    """The datasets of a file, or of the shards that the index names: dict, by plain path."""
    names = [name]
    if name == WEIGHTS and not (folder / name).is_file() and (folder / INDEX).is_file():
        shards = read_json(folder / INDEX)["weight_map"].values()
        names = sorted(
            {shard for item in shards for shard in ([item] if isinstance(item, str) else item)}
        )
    found = {}

    def add(path, item):
        # A dataset can lie in any other file of the disk; those of presets don't.
        inside = isinstance(item, h5py.Dataset) and not item.external and not item.is_virtual
        if inside and not path.startswith("optimizer/"):
            found[_plain(path)] = item

    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(_open(folder / name)).visititems(add)
        yield found


def _open(path):
    if not path.is_file():
        raise FileNotFoundError(f"`{path.parent}` must hold a `{path.name}`.")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(
            f"`{path}` is truncated or damaged ({error}). Fetch or save it again."
        ) from None


def save_preset(model, folder):
    """Write a model as a preset.

    Args:
        model: a model with a head.
        folder: `pathlib.Path` that exists.

    Raises:
        ValueError: keras-hub lacks the family, can't compute what the config says, or the model
            has variables that it has no place for.
    """
    preset = PRESETS.get(model.family)
    fields = config_to_preset(model.family, model.config)
    places, segment = _places(model, preset.layers), _lone_segment(model)
    _check_reached(model, [*places, segment])
    _write(folder / WEIGHTS, places, segment)
    tokenizer = save_tokenizer(model.tokenizer, folder, model.family)
    variant = VARIANTS.get(model.family)
    if variant and tokenizer and tokenizer["class_name"] == f"{variant.name}Tokenizer":
        preset = variant
    module = preset.module
    backbone = serialized(
        f"{module}.{module}_backbone", f"{preset.name}Backbone", fields, model.dtype_policy.name
    )
    _write_json(folder / "config.json", backbone)
    _write_json(folder / "metadata.json", {"keras_version": keras.__version__})
    task = preset.tasks.get(model.HEAD)
    if task is None:
        logger.warning(
            "keras-hub's %s has no %s: the preset is that of the backbone, without %s.",
            *(preset.name, model.HEAD, ", ".join(families.head(model.family, model.HEAD).layers)),
        )
        return
    if task.fixed:
        model.tell_of_head("keras-hub", task.fixed)
    _save_task(model, folder, preset, backbone, tokenizer)


def _save_task(model, folder, preset, backbone, tokenizer):
    task = preset.tasks[model.HEAD]
    fields = {"backbone": backbone, "preprocessor": None}
    if tokenizer is not None:
        fields["preprocessor"] = serialized(
            f"{preset.module}.{preset.module}_{task.module}_preprocessor",
            f"{preset.name}{task.name}Preprocessor",
            {"tokenizer": tokenizer, **_lengths(task, model.config.max_length)},
        )
    if model.HEAD == "text_classifier":
        fields |= {"num_classes": model.num_classes, "dropout": model.rate, "activation": "linear"}
        if any(not label.isdigit() for label in model.labels):
            logger.warning("A preset has no names of classes: %s.", ", ".join(model.labels))
    bias = attribute(model, "logits.bias")
    if not task.layers and bias is not None and np.any(bias.numpy()):
        logger.warning("keras-hub's %s has no bias on its logits: left out.", preset.name)
    name = f"{preset.name}{task.name}"
    task_fields = serialized(f"{preset.module}.{preset.module}_{task.module}", name, fields)
    _write_json(folder / "task.json", task_fields)
    if task.layers:
        _write(folder / TASK_WEIGHTS, _places(model, task.layers))
        with h5py.File(folder / TASK_WEIGHTS, "a") as file:  # no loading without an optimizer
            file["optimizer/vars/0"] = np.int64(0)
            file["optimizer/vars/1"] = np.float32(task.learning_rate)


def _lengths(task, length):
    names = ("encoder_", "decoder_") if task.name == "Seq2SeqLM" else ("",)
    return {f"{name}sequence_length": length for name in names}


def _check_reached(model, places):
    reached = {id(getattr(place, "variable", place)) for place in places}
    lost = [v.path for v in model.backbone.weights if id(v) not in reached]
    if lost:
        raise ValueError(f"A preset has no place for these variables of the model: {lost}.")


def _write(path, places, segment=None):
    with h5py.File(path, "w") as file:
        for place in places:
            value = place.value()
            if place.is_table and segment is not None:  # every token is in that one segment
                value = value + segment.numpy()
            dataset = file.create_dataset(place.path, data=value)
            if place.variable.dtype == "bfloat16":  # as Keras marks them
                dataset.attrs["dtype"] = "bfloat16"


def _write_json(path, fields):
    text = json.dumps(fields, ensure_ascii=False, indent=4) + "\n"
    path.write_text(text, encoding="utf-8")
