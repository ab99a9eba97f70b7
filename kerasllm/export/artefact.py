"""Run an exported artefact on text, to see and to measure what a user of it will get."""

import pathlib
import tempfile
import zipfile

import numpy as np

from kerasllm.export.scorer import chunks
from kerasllm.quiet import quiet
from kerasllm.tokenizers import load_tokenizer

LABELS_FILE = "assets.extra/labels.txt"


def load_artefact(path):
    """Load an artefact of `to_saved_model` or `to_tflite`.

    Args:
        path: str or path-like: a .tflite file, a SavedModel, or a folder of its versions, of which
            the newest is taken.

    Returns:
        `SavedModelArtefact`, `GeneratorArtefact` where it writes texts, `TFLiteArtefact`, or None
        where `path` is none of them.

    Raises:
        ValueError: the file was not written by `to_tflite`.
    """
    path = pathlib.Path(path)
    if path.is_file() and path.suffix == ".tflite":
        return TFLiteArtefact(path)
    versions = [entry for entry in path.glob("[0-9]*") if entry.name.isdecimal()]
    for folder in (path, *sorted(versions, key=lambda entry: -int(entry.name))):
        if (folder / "saved_model.pb").is_file():
            classifies = (folder / LABELS_FILE).is_file()
            return SavedModelArtefact(folder) if classifies else GeneratorArtefact(folder)
    return None


class SavedModelArtefact:
    """A SavedModel of `to_saved_model`.

    Args:
        folder: path of the version.

    Attributes:
        labels: tuple of str.
    """

    def __init__(self, folder):
        self._tf, self._loaded = _loaded(folder)
        lines = (pathlib.Path(folder) / LABELS_FILE).read_text(encoding="utf-8")
        self.labels = tuple(lines.removesuffix("\n").split("\n"))

    def predict(self, texts):
        """Give each text its class probabilities, float32 `(texts, num_classes)`."""
        signature = self._loaded.signatures["serving_default"]
        rows = [signature(text=self._tf.constant(chunk))["scores"] for chunk in chunks(texts)]
        return np.concatenate(rows)


class GeneratorArtefact:
    """A SavedModel of `to_saved_model` that writes texts.

    Args:
        folder: path of the version.

    Attributes:
        options: dict, what `generate` may be told, and what it does by default.
        chats: bool, whether it has a chat template.

    Raises:
        ValueError: the SavedModel takes no texts.
    """

    def __init__(self, folder):
        self._tf, self._loaded = _loaded(folder)
        signatures = self._loaded.signatures
        inputs = signatures["serving_default"].structured_input_signature[1]
        if "prompt" not in inputs:
            raise ValueError(
                "`path` must be a SavedModel that `to_saved_model` wrote of a model with a "
                f"tokenizer. Received: {folder}, whose inputs are {', '.join(inputs)}."
            )
        self.chats = "chat" in signatures
        self._dtypes = {name: spec.dtype for name, spec in inputs.items()}
        self.options = _defaults(folder)

    def generate(self, prompts, *, details=False, **options):
        """Write on from prompts, or the answers to texts.

        Args:
            prompts: str, or list of str.
            details: bool, whether to return dicts with `text`, `token_count`,
                `prompt_token_count` and `finish_reason`.
            **options: those of `options`, each a number, or a list with one for each prompt.

        Returns:
            list of what is new, str; for a prompt that is a str, its one item.

        Raises:
            ValueError: the artefact has no such option.
        """
        single = isinstance(prompts, str)
        prompt = [prompts] if single else prompts
        texts = self._answer("serving_default", {"prompt": prompt}, options)
        texts = texts if details else [text["text"] for text in texts]
        return texts[0] if single else texts

    def chat(self, messages, *, details=False, **options):
        """Answer a conversation.

        Args:
            messages: list of dict with `role` and `content`, the last one the user's.
            details, **options: of `generate`, numbers.

        Returns:
            str, or a dict with `details`.

        Raises:
            ValueError: the artefact has no such option, or no chat template.
        """
        if not self.chats:
            raise ValueError(
                "`chat` must be asked of a chat model. Received: one without template."
            )
        inputs = {
            "roles": [message["role"] for message in messages],
            "contents": [message["content"] for message in messages],
        }
        (text,) = self._answer("chat", inputs, options)
        return text if details else text["text"]

    def _answer(self, signature, texts, options):
        unknown = options.keys() - self.options.keys()
        if unknown:
            raise ValueError(
                f"`options` must be among {', '.join(sorted(self.options))}. Received: "
                f"{', '.join(sorted(unknown))}."
            )
        inputs = {name: self._tf.constant(value, "string") for name, value in texts.items()}
        for name, value in {**self.options, **options}.items():
            inputs[name] = self._tf.constant(np.ravel(value), self._dtypes[name])
        outputs = self._loaded.signatures[signature](**inputs)
        found = {name: output.numpy().tolist() for name, output in outputs.items()}
        rows = [dict(zip(found, row)) for row in zip(*found.values())]
        return [
            {name: v.decode() if isinstance(v, bytes) else v for name, v in row.items()}
            for row in rows
        ]


def _loaded(folder):
    """TensorFlow, and the SavedModel, which must outlive its signatures."""
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  (registers the tokenizer's operations)

    return tf, tf.saved_model.load(str(folder))


def _defaults(folder):
    """What a SavedModel's main signature says of inputs that may be left out."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    content = (pathlib.Path(folder) / "saved_model.pb").read_bytes()
    saved = saved_model_pb2.SavedModel.FromString(content)
    defaults = saved.meta_graphs[0].signature_def["serving_default"].defaults
    return {name: tf.make_ndarray(value).item() for name, value in defaults.items()}


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
