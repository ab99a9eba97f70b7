"""Weights in and out of safetensors, by a map of names: nothing missing, nothing left over."""

import contextlib
import json
import os
import pathlib
import re

import keras
import numpy as np
import safetensors
import safetensors.numpy

FILE = "model.safetensors"

# What each layer's variables are called in a PyTorch state dict, and whether they are transposed.
STATE_NAMES = {
    keras.layers.Dense: {"kernel": ("weight", True), "bias": ("bias", False)},
    keras.layers.Embedding: {"embeddings": ("weight", False)},
    keras.layers.LayerNormalization: {"gamma": ("weight", False), "beta": ("bias", False)},
}

# Checkpoints that came from TensorFlow 1 keep its names for a LayerNorm.
OLD_NAMES = {".gamma": ".weight", ".beta": ".bias"}


def find_folder(name, revision=None):
    """Return the local folder of a checkpoint, fetching it from the Hugging Face hub if need be.

    Args:
        name: str or path-like: a folder, or a hub name such as `"google-bert/bert-base-uncased"`.
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
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(name)):
        raise FileNotFoundError(
            f"`{name}` is no folder, and no name on the Hugging Face hub either."
        )
    import huggingface_hub

    try:
        return pathlib.Path(
            huggingface_hub.snapshot_download(
                str(name), revision=revision, allow_patterns=["*.json", "*.txt", "*.safetensors"]
            )
        )
    except Exception as error:  # the hub's client raises many kinds; all mean the same to a user
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise FileNotFoundError(
            f"`{name}` is no folder here, and the Hugging Face hub did not give it: "
            f"{reason} Check the name and the network, or give a local folder."
        ) from error


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


@contextlib.contextmanager
def open_tensors(folder):
    """Open a folder's `model.safetensors`.

    Args:
        folder: `pathlib.Path`.

    Yields:
        The open `safetensors` file, with `keys()` and `get_tensor(name)`.

    Raises:
        FileNotFoundError: the folder holds no safetensors (pickled weights are never read).
        ValueError: the file is truncated or damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"`{folder}` must hold a `{FILE}`. Received: {sorted(os.listdir(folder))}. "
            "Pickled weights (`pytorch_model.bin`) are not read, because they can run code."
        )
    try:
        file = safetensors.safe_open(path, framework="numpy")
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"`{path}` is truncated or damaged ({error}). Fetch or save it again."
        ) from None
    with file:
        yield file


def state_dict(model, names):
    """Pair the variables of a model with their names in a checkpoint.

    Args:
        model: `keras.Model`.
        names: dict, attribute path on the model: name of that layer in the checkpoint.

    Returns:
        dict: name of a tensor in the checkpoint: (`keras.Variable`, whether it is transposed).

    Raises:
        ValueError: the model lacks one of the layers.
    """
    pairs = {}
    for path, name in names.items():
        try:
            layer = _attribute(model, path)
        except AttributeError:
            raise ValueError(
                f"The model has no layer `{path}`, which the checkpoints of its family hold."
            ) from None
        for attribute, (suffix, transposed) in STATE_NAMES[type(layer)].items():
            pairs[f"{name}.{suffix}"] = getattr(layer, attribute), transposed
    return pairs


def _attribute(model, path):
    value = model
    for part in path.split("."):
        value = value[int(part)] if part.isdigit() else getattr(value, part)
    return value


def load_weights(model, folder, names, *, prefix="", ignored=(), fresh=()):
    """Copy a checkpoint into a model, strictly: every tensor has its place, every place its tensor.

    Args:
        model: `keras.Model`.
        folder: `pathlib.Path` with a `model.safetensors`.
        names: dict, attribute path on the model: name of that layer in the checkpoint.
        prefix: str, what a checkpoint of the bare backbone leaves out of its names.
        ignored: regular expressions of tensor names that may be left over.
        fresh: attribute paths of heads that keep their fresh weights if the checkpoint lacks them
            as a whole.

    Returns:
        list of the paths in `fresh` that the checkpoint did not have.

    Raises:
        ValueError: tensors are missing, left over, or of another shape; the message lists all.
    """
    places = state_dict(model, names)
    with open_tensors(folder) as file:
        found = _canonical_names(file.keys(), places, prefix)
        absent = [path for path in fresh if not _any_under(names[path], found)]
        for path in absent:
            places = {key: at for key, at in places.items() if not _under(key, names[path])}
        _check_names(folder, places, found, ignored, prefix)
        _check_shapes(folder, places, found, file)
        for name, (variable, transposed) in places.items():
            value = file.get_tensor(found[name])
            variable.assign(value.T if transposed else value)
    return absent


def _canonical_names(keys, places, prefix):
    """Map our spelling of a tensor's name to the file's."""
    found = {}
    for key in keys:
        name = key
        for old, new in OLD_NAMES.items():
            name = name.removesuffix(old) + new if name.endswith(old) else name
        name = prefix + name if name not in places and prefix + name in places else name
        # One tensor under two spellings: the second stays under its own, to be called unused.
        found[f"{key} (again)" if name in found else name] = key
    return found


def _under(key, name):
    return key.startswith(name + ".")


def _any_under(name, keys):
    return any(_under(key, name) for key in keys)


def _check_names(folder, places, found, ignored, prefix):
    missing = sorted(places.keys() - found.keys())
    unused = sorted(
        key
        for key in found.keys() - places.keys()
        if not any(re.fullmatch(pattern, key.removeprefix(prefix)) for pattern in ignored)
    )
    if missing or unused:
        raise ValueError(
            f"`{folder / FILE}` does not fit the model. "
            f"Missing in the file: {missing or 'none'}. Unused from the file: {unused or 'none'}."
        )


def _check_shapes(folder, places, found, file):
    wrong = []
    for name, (variable, transposed) in places.items():
        shape = tuple(file.get_slice(found[name]).get_shape())
        expected = tuple(reversed(variable.shape)) if transposed else tuple(variable.shape)
        if shape != expected:
            wrong.append(f"{name} is {shape} and must be {expected}")
    if wrong:
        raise ValueError(f"`{folder / FILE}` does not fit the model: {'; '.join(wrong)}.")


def save_weights(model, folder, names):
    """Write a model's variables as `model.safetensors`, under their names in a checkpoint.

    Args:
        model: `keras.Model`.
        folder: `pathlib.Path` that exists.
        names: dict, attribute path on the model: name of that layer in the checkpoint.

    Raises:
        ValueError: the model has variables that `names` does not reach.
    """
    pairs = state_dict(model, names)
    reached = {variable.path for variable, _ in pairs.values()}
    lost = [v.path for v in model.weights if v.path not in reached]
    if lost:
        raise ValueError(f"The map of names does not reach these variables: {lost}.")
    tensors = {}
    for name, (variable, transposed) in pairs.items():
        array = variable.numpy()
        tensors[name] = np.ascontiguousarray(array.T if transposed else array)
    # `transformers` wants to be told that the layout is PyTorch's.
    safetensors.numpy.save_file(tensors, folder / FILE, metadata={"format": "pt"})
