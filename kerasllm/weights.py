"""Weights in and out of safetensors, by a map of names: nothing missing, nothing left over."""

import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import re

import keras
import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

FILE = "model.safetensors"
INDEX = "{}.index.json"  # which shards hold what, of a file that is in several
SHARD_BYTES = 5 * 10**9  # the most in one file, as `transformers` has it

# What safetensors calls the types of weights.
DTYPES = {
    "F64": np.dtype("float64"),
    "F32": np.dtype("float32"),
    "F16": np.dtype("float16"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}

# What a layer's variables are called in a PyTorch state dict.
STATE_NAMES = {
    "kernel": "weight",
    "embeddings": "weight",
    "gamma": "weight",
    "scale": "weight",
    "bias": "bias",
    "beta": "bias",
}

# What a name on the hub stands for. Some repositories hold the weights once more, in one file for
# the authors' own code.
WANTED = (
    *("*.json", "*.txt", "*.model", "*.spm", "*.jinja"),
    *("*.safetensors", "*.weights.h5"),
)
UNWANTED = ("consolidated*", "original/*", "onnx/*")

# Checkpoints that came from TensorFlow 1 keep its names for a LayerNorm.
OLD_NAMES = {".gamma": ".weight", ".beta": ".bias"}


def find_folder(name, revision=None):
    """Return the local folder of a checkpoint, fetching it from the Hugging Face hub if need be.

    Args:
        name: str or path-like: a folder, or a hub name such as `"google-bert/bert-base-uncased"`,
            or a preset of keras-hub: its name, where keras-hub is installed, or an address on
            Kaggle, `"kaggle://keras/bert/keras/bert_tiny_en_uncased"`.
        revision: str or None: branch, tag or commit on the hub.

    Returns:
        `pathlib.Path` of a folder with `config.json`.

    Raises:
        FileNotFoundError: neither a folder with a `config.json` nor a name that the hub gives.
    """
    folder = pathlib.Path(name)
    folder = folder if folder.is_dir() else _fetch(name, revision)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"`{folder}` must hold a `config.json`. Received: {sorted(os.listdir(folder))}."
        )
    return folder


def _fetch(name, revision):
    address = _address_of_preset(str(name))
    if address is not None:
        return _fetch_preset(name, address)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(name)):
        raise FileNotFoundError(
            f"`{name}` is no folder, and no name on the Hugging Face hub either."
        )
    import huggingface_hub

    try:
        return pathlib.Path(
            huggingface_hub.snapshot_download(
                str(name),
                revision=revision,
                allow_patterns=list(WANTED),
                ignore_patterns=list(UNWANTED),
            )
        )
    except Exception as error:  # the hub's client raises many kinds; all mean the same to a user
        raise FileNotFoundError(
            f"`{name}` is no folder here, and the Hugging Face hub did not give it: "
            f"{_reason(error)}. Check the name and the network, or give a local folder."
        ) from error


def _address_of_preset(name):
    """Where keras-hub has a preset; None for a name that is none of its."""
    if name.startswith("kaggle://"):
        return name
    # Names with "_" and without "/" are theirs, not the Hugging Face hub's.
    if "_" not in name or "/" in name or importlib.util.find_spec("keras_hub") is None:
        return None
    import keras_hub

    return keras_hub.models.Backbone.presets.get(name, {}).get("kaggle_handle")


def _fetch_preset(name, address):
    try:
        import kagglehub

        return pathlib.Path(kagglehub.model_download(address.removeprefix("kaggle://")))
    except Exception as error:  # as above
        raise FileNotFoundError(
            f"`{name}` is a preset of keras-hub, and Kaggle did not give it: "
            f"{_reason(error)}. Check the network, and that keras-hub is installed, or give a "
            "local folder."
        ) from error


def _reason(error):
    """The first line of what an error says."""
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


def read_json(path):
    """Read a JSON file that must hold an object.

    Args:
        path: `pathlib.Path`.

    Returns:
        dict.

    Raises:
        ValueError: the file is no JSON object; the message names it.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"`{path}` is not valid JSON: {error}.") from None
    if not isinstance(value, dict):
        raise ValueError(f"`{path}` must hold a JSON object. Received: {type(value).__name__}.")
    return value


@dataclasses.dataclass(frozen=True)
class Stored:
    """How a checkpoint holds a layer; a plain name in a map of names means the defaults.

    Args:
        name: str, the layer's name in the checkpoint.
        transposed: bool, whether a kernel is `(out, in)`, as PyTorch's `Linear` has it, instead of
            `(in, out)`, as GPT-2's `Conv1D` and Keras' `Dense` have it.
        part: int, which one this is of several layers in one tensor, side by side.
        parts: int, of how many.
        heads: int, where the parts take turns head by head (BLOOM); 0 where each is in one piece.
        leading: int, axes of size 1 before the variable's own (BART's bias).
        optional: bool, whether there are models without this layer, and checkpoints without it.
        fallback: str, the layer whose tensors a head takes where a checkpoint lacks its own.
    """

    name: str
    transposed: bool = True
    part: int = 0
    parts: int = 1
    heads: int = 0
    leading: int = 0
    optional: bool = False
    fallback: str = ""

    def shape(self, shape, is_kernel):
        """The shape of the checkpoint's tensor for a variable of shape `shape`."""
        *rows, columns = shape
        shape = (*rows, columns * self.parts)
        return (1,) * self.leading + (shape[::-1] if is_kernel and self.transposed else shape)

    def take(self, array, is_kernel):
        """Cut a variable's value out of the checkpoint's tensor."""
        array = array.reshape(array.shape[self.leading :])
        array = array.T if is_kernel and self.transposed else array
        if self.parts == 1:
            return array
        return self._by_parts(array)[..., self.part, :].reshape(*array.shape[:-1], -1)

    def put(self, whole, value, is_kernel):
        """Write a variable's value into the checkpoint's tensor, the inverse of `take`."""
        whole = whole.reshape(whole.shape[self.leading :])
        whole = whole.T if is_kernel and self.transposed else whole
        view = self._by_parts(whole)[..., self.part, :]
        view[...] = value.reshape(view.shape)

    def _by_parts(self, array):
        """A view of `array` with its last axis cut into (heads,) parts and width."""
        heads = (self.heads,) if self.heads else ()
        return array.reshape(*array.shape[:-1], *heads, self.parts, -1)


class Tensors:
    """The tensors of a file in a folder, or of the shards that its index names.

    Each is read when it is asked for, and from the file itself: `safetensors` would map the whole
    file to memory, which then holds the weights twice.

    Args:
        folder: `pathlib.Path`.
        file: str, the file's name.

    Raises:
        FileNotFoundError: the folder holds no safetensors (pickled weights are never read), or
            lacks a shard.
        ValueError: a file is truncated or damaged.
    """

    def __init__(self, folder, file=FILE):
        index = folder / INDEX.format(file)
        paths = [folder / file]
        if not paths[0].is_file() and index.is_file():
            paths = [folder / name for name in _shard_names(index)]
        self._places = {key: (path, place) for path in paths for key, place in _header(path)}

    def __iter__(self):
        return iter(self._places)

    def keys(self):
        """Names of all tensors, file by file."""
        return self._places.keys()

    def shape(self, name):
        """Shape of a tensor, tuple."""
        return tuple(self._places[name][1]["shape"])

    def __getitem__(self, name):
        path, place = self._places[name]
        if place["dtype"] not in DTYPES:
            raise ValueError(
                f"`{path}` must hold {name} as one of {', '.join(DTYPES)}. "
                f"Received: {place['dtype']}."
            )
        with path.open("rb") as file:
            file.seek(place["start"])
            array = np.fromfile(file, DTYPES[place["dtype"]], int(np.prod(place["shape"])))
        return array.reshape(place["shape"])


def _shard_names(index):
    names = read_json(index).get("weight_map")
    named = isinstance(names, dict) and all(isinstance(name, str) for name in names.values())
    if not (names and named):
        raise ValueError(
            f"`{index}` must have a `weight_map`, from names of tensors to those of files. "
            f"Received: {names!r:.80}. Fetch or save it again."
        )
    return sorted(set(names.values()))


def _header(path):
    """Name, and dtype, shape and first byte, of each tensor in a safetensors file."""
    _check(path)
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    for name, place in header.items():
        yield name, {**place, "start": 8 + size + place["data_offsets"][0]}


def _check(path):
    if not path.is_file():
        raise FileNotFoundError(
            f"`{path.parent}` must hold a `{path.name}`. Received: "
            f"{sorted(os.listdir(path.parent))}. "
            "Pickled weights (`pytorch_model.bin`) are not read, because they can run code."
        )
    try:
        with safetensors.safe_open(path, framework="numpy"):  # which checks the header
            return
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"`{path}` is truncated or damaged ({error}). Fetch or save it again."
        ) from None


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a tensor of a checkpoint, or a part of one, belongs in a model."""

    variable: keras.Variable
    stored: Stored
    is_kernel: bool

    @property
    def shape(self):
        """Shape of the whole tensor in the checkpoint."""
        return self.stored.shape(tuple(self.variable.shape), self.is_kernel)


def as_stored(name):
    """Return what a map of names says of a layer as `Stored`, where a plain name means defaults."""
    return Stored(name) if isinstance(name, str) else name


def state_dict(model, names):
    """Pair the variables of a model with their names in a checkpoint.

    Args:
        model: `keras.Model`.
        names: dict, attribute path on the model, of a layer or a variable: its name in the
            checkpoint, or `Stored`.

    Returns:
        dict: name of a tensor in the checkpoint: list of `Place`, several where they share it.

    Raises:
        ValueError: the model lacks one of the layers, which is not optional.
    """
    places = {}
    for path, stored in names.items():
        stored = as_stored(stored)
        layer = attribute(model, path)
        if layer is None and not stored.optional:
            raise ValueError(
                f"The model has no layer `{path}`, which the checkpoints of its family hold."
            )
        for key, variable, is_kernel in _variables(layer, stored.name):
            places.setdefault(key, []).append(Place(variable, stored, is_kernel))
    return places


def _variables(layer, name):
    if isinstance(layer, keras.Variable):
        yield name, layer, layer.name.endswith("kernel")
        return
    dense = isinstance(layer, keras.layers.Dense)
    for attribute, suffix in STATE_NAMES.items():
        variable = getattr(layer, attribute, None)
        if isinstance(variable, keras.Variable):
            yield f"{name}.{suffix}", variable, dense and attribute == "kernel"


def attribute(model, path):
    """Return what an attribute path names.

    Args:
        model: `keras.Model`.
        path: str, e.g. `"backbone.blocks.0.att.query_dense"`; `""` for the model itself.

    Returns:
        A layer or a variable; None if there is none.
    """
    value = model
    for part in filter(None, path.split(".")):
        if part.isdigit():
            value = value[int(part)] if int(part) < len(value) else None
        else:
            value = getattr(value, part, None)
        if value is None:
            return None
    return value


def load_weights(
    model, folder, names, *, prefix="", other_prefix="", ignored=(), fresh=(), file=FILE
):
    """Copy a checkpoint into a model, strictly: every tensor has its place, every place its tensor.

    Args:
        model: `keras.Model`.
        folder: `pathlib.Path` with a `model.safetensors`, or its shards and their index.
        names: dict, attribute path on the model: name of that layer in the checkpoint, or `Stored`.
        prefix: str, what a checkpoint of the bare backbone leaves out of its names.
        other_prefix: str, what checkpoints of other heads have in its place.
        ignored: regular expressions of tensor names that may be left over.
        fresh: attribute paths of heads that keep their fresh weights if the checkpoint lacks them
            as a whole.
        file: str, the file's name.

    Returns:
        list of the paths in `fresh` that the checkpoint did not have.

    Raises:
        FileNotFoundError: the folder holds no safetensors, or lacks a shard.
        ValueError: tensors are missing, left over, or of another shape; the message lists all.
    """
    places = state_dict(model, names)
    tensors = Tensors(folder, file)
    found = _canonical_names(tensors.keys(), places, prefix, other_prefix)
    absent = _set_aside(places, {path: names[path] for path in fresh}, found)
    _check_names(folder / file, places, found, ignored, (prefix, other_prefix))
    _check_shapes(folder / file, places, found, tensors, [names[path] for path in fresh])
    for name, parts in places.items():
        array = tensors[found[name]]
        for place in parts:
            place.variable.assign(place.stored.take(array, place.is_kernel))
    return absent


def _set_aside(places, heads, found):
    """Take out the places of heads that a checkpoint lacks; return the paths that stay fresh."""
    absent = []
    for path, stored in heads.items():
        stored = as_stored(stored)
        lacking = [key for key in places if _under(key, stored) and not _has(stored, found)]
        for key in lacking:
            at = places.pop(key)
            if stored.fallback:
                places[key.replace(stored.name, stored.fallback, 1)].extend(at)
        if lacking and not stored.fallback:
            absent.append(path)
    return absent


def _canonical_names(keys, places, prefix, other_prefix):
    """Map our spelling of a tensor's name to the file's."""
    found = {}
    for key in keys:
        name = key
        for old, new in OLD_NAMES.items():
            name = name.removesuffix(old) + new if name.endswith(old) else name
        longer = prefix + name.removeprefix(other_prefix)
        name = longer if name not in places and longer in places else name
        # One tensor under two spellings: the second stays under its own, to be called unused.
        found[f"{key} (again)" if name in found else name] = key
    return found


def _under(key, stored):
    name = as_stored(stored).name
    return key == name or key.startswith(name + ".")


def _has(stored, keys):
    return any(_under(key, stored) for key in keys)


def _check_names(path, places, found, ignored, prefixes):
    missing = sorted(places.keys() - found.keys())
    unused = sorted(
        key
        for key in found.keys() - places.keys()
        if not any(
            re.fullmatch(pattern, name)
            for pattern in ignored
            for prefix in prefixes
            for name in (key, key.removeprefix(prefix), prefix + key)
        )
    )
    if missing or unused:
        raise ValueError(
            f"`{path}` does not fit the model. "
            f"Missing in the file: {missing or 'none'}. Unused from the file: {unused or 'none'}."
        )


def _check_shapes(path, places, found, tensors, heads):
    wrong = {}
    for name, (place, *_) in places.items():
        shape = tensors.shape(found[name])
        if shape != place.shape:
            wrong[name] = f"{name} is {shape} and must be {place.shape}"
    if not wrong:
        return
    of_head = all(any(_under(name, head) for head in heads) for name in wrong)
    hint = " Pass `fresh_head=True` to start a new head." if of_head else ""
    raise ValueError(f"`{path}` does not fit the model: {'; '.join(wrong.values())}.{hint}")


def check_reach(model, names):
    """Check that a map of names has a place for every variable, so that none is left as it is.

    Args:
        model: `keras.Model`.
        names: as for `load_weights`.

    Raises:
        ValueError: it has none for some variables; the message lists them.
    """
    places = state_dict(model, names)
    reached = {id(place.variable) for parts in places.values() for place in parts}
    lost = [v.path for v in model.weights if id(v) not in reached]
    if lost:
        raise ValueError(
            f"The map of names does not reach these variables: {lost}. No checkpoint of the "
            "model's family holds them."
        )


def save_weights(model, folder, names, *, shard_bytes=SHARD_BYTES):
    """Write a model's variables as `model.safetensors`, under their names in a checkpoint.

    Args:
        model: `keras.Model`.
        folder: `pathlib.Path` that exists.
        names: as for `load_weights`.
        shard_bytes: int, the most in one file. More than that goes into several, and an index.

    Raises:
        ValueError: the model has variables that `names` does not reach, or `shard_bytes` is no
            number.
    """
    if not isinstance(shard_bytes, int):
        raise ValueError(
            f"`shard_bytes` must be an integer, e.g. 5 * 10**9. Received: {shard_bytes!r}."
        )
    check_reach(model, names)
    places = state_dict(model, names)
    shards = _shards(places, shard_bytes)
    for name, keys in shards.items():
        _write(folder / name, {key: places[key] for key in keys})
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(map(_bytes, places.values()))},
            "weight_map": {key: name for name, keys in shards.items() for key in keys},
        }
        text = json.dumps(index, indent=2) + "\n"
        (folder / INDEX.format(FILE)).write_text(text, encoding="utf-8")


def save_part(model, path, names):
    """Write some of a model's variables as one file.

    Args:
        model: `keras.Model`.
        path: `pathlib.Path` of the file.
        names: as for `load_weights`. What shares a tensor with others that are not named has zeros
            in their place.
    """
    _write(path, state_dict(model, names))


def _write(path, places):
    tensors = {key: _assembled(parts) for key, parts in places.items()}
    # `transformers` wants to be told that the layout is PyTorch's.
    safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})


def _assembled(parts):
    """The checkpoint's tensor from all variables that share it."""
    first = parts[0]
    whole = np.zeros(first.shape, first.variable.dtype)
    for place in parts:
        place.stored.put(whole, place.variable.numpy(), place.is_kernel)
    return whole


def _bytes(parts):
    return math.prod(parts[0].shape) * np.dtype(parts[0].variable.dtype).itemsize


def _shards(places, most):
    """Deal tensors out to files: dict, file name: names of tensors."""
    deals, room = [[]], most
    for key, parts in places.items():
        size = _bytes(parts)
        if deals[-1] and size > room:
            deals.append([])
            room = most
        deals[-1].append(key)
        room -= size
    if len(deals) == 1:
        return {FILE: deals[0]}
    count = len(deals)
    return {f"model-{i + 1:05}-of-{count:05}.safetensors": keys for i, keys in enumerate(deals)}
