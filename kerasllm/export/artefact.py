"""Run an exported artefact on text, to see and to measure what a user of it will get."""

import pathlib
import tempfile
import zipfile

import numpy as np

from kerasllm.export.scorer import chunks
from kerasllm.quiet import quiet
from kerasllm.tokenizers import load_tokenizer


def load_artefact(path):
    """Load an artefact of `to_saved_model` or `to_tflite`.

    Args:
        path: str or path-like: a .tflite file, a SavedModel, or a folder of its versions, of which
            the newest is taken.

    Returns:
        `SavedModelArtefact`, `TFLiteArtefact`, or None where `path` is neither.

    Raises:
        ValueError: the file was not written by `to_tflite`.
    """
    path = pathlib.Path(path)
    if path.is_file() and path.suffix == ".tflite":
        return TFLiteArtefact(path)
    versions = [entry for entry in path.glob("[0-9]*") if entry.name.isdecimal()]
    for folder in (path, *sorted(versions, key=lambda entry: -int(entry.name))):
        if (folder / "saved_model.pb").is_file():
            return SavedModelArtefact(folder)
    return None


class SavedModelArtefact:
    """A SavedModel of `to_saved_model`.

    Args:
        folder: path of the version.

    Attributes:
        labels: tuple of str.
    """

    def __init__(self, folder):
        import tensorflow as tf
        import tensorflow_text  # noqa: F401  (registers the tokenizer's operations)

        self._tf = tf
        self._loaded = tf.saved_model.load(str(folder))  # it must outlive its signatures
        lines = (pathlib.Path(folder) / "assets.extra" / "labels.txt").read_text(encoding="utf-8")
        self.labels = tuple(lines.removesuffix("\n").split("\n"))

    def predict(self, texts):
        """Give each text its class probabilities, float32 `(texts, num_classes)`."""
        signature = self._loaded.signatures["serving_default"]
        rows = [signature(text=self._tf.constant(chunk))["scores"] for chunk in chunks(texts)]
        return np.concatenate(rows)


class TFLiteArtefact:
    """A .tflite file of `to_tflite`, with the vocabulary and labels that it carries.

    Args:
        file: path of the file.

    Attributes:
        labels: tuple of str.
    """

    def __init__(self, file):
        from ai_edge_litert.interpreter import Interpreter

        with tempfile.TemporaryDirectory() as folder:
            try:
                zipfile.ZipFile(file).extractall(folder)
            except zipfile.BadZipFile:
                raise ValueError(
                    f"`{file}` must hold a vocabulary and labels, and holds none. Export the model "
                    "with `to_tflite`."
                ) from None
            lines = (pathlib.Path(folder) / "labels.txt").read_text(encoding="utf-8")
            self._tokenizer = load_tokenizer(folder)
        self.labels = tuple(lines.removesuffix("\n").split("\n"))
        with quiet():
            interpreter = Interpreter(str(file))
            interpreter.allocate_tensors()
        self._signature = interpreter.get_signature_runner("serving_default")
        details = self._signature.get_input_details()
        self._names = tuple(details)
        self._length = int(details["token_ids"]["shape"][1])

    def predict(self, texts):
        """Give each text its class probabilities, float32 `(texts, num_classes)`."""
        ids = self._tokenizer(texts, max_length=self._length, pad_to=self._length)
        ids.setdefault("segment_ids", np.zeros_like(ids["token_ids"]))
        rows = [
            self._signature(**{name: ids[name][i : i + 1] for name in self._names})["scores"]
            for i in range(len(texts))
        ]
        return np.concatenate(rows)
