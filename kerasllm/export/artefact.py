"""Run an exported artefact on text, to see and to measure what a user of it will get."""

import json
import pathlib
import re
import tempfile
import zipfile

import numpy as np

from kerasllm.data.sentences import close_up, joined, sentences
from kerasllm.evaluation.entities import OUTSIDE
from kerasllm.export.scorer import chunks
from kerasllm.models.generative import check_options
from kerasllm.quiet import quiet
from kerasllm.tasks import chat, contrastive, name_of, task_named
from kerasllm.tasks.extractive_summarization import chosen
from kerasllm.tasks.question_answering import Answer
from kerasllm.tasks.token_classification import TaggedWord, words_of
from kerasllm.tokenizers import load_tokenizer
from kerasllm.tokenizers.texts import to_str
from kerasllm.weights import read_json

LABELS_FILE, TASK_FILE = "labels.txt", "task.json"
NEW_TOKENS = 128  # that the tasks which write texts let them have


def describe(model):
    """Return what an artefact must know of its model's task.

    Args:
        model: a model of `kerasllm.models`.

    Returns:
        str, the content of `TASK_FILE`: the `task`'s name, and whether the tokenizer has to
        `split_cjk`, and can't tell where there were spaces then.
    """
    split_cjk = bool(getattr(model.tokenizer, "split_cjk", False))
    return json.dumps({"task": name_of(model), "split_cjk": split_cjk}) + "\n"


def load_artefact(path):
    """Load an artefact of `to_saved_model` or `to_tflite`.

    Args:
        path: str or path-like: a .tflite file, a SavedModel, or a folder of its versions, of which
            the newest is taken.

    Returns:
        `SavedModelArtefact`, `GeneratorArtefact` where it writes texts, `TFLiteArtefact`, or None
        where `path` is none of them. Its `task` is a name in `kerasllm.tasks.TASKS`; its
        `predict(rows)` gives what the `predict` of that task gives.

    Raises:
        ValueError: the file was not written by `to_tflite`, or of a model with other outputs; or
            the SavedModel is damaged, or of a task that is not known here.
    """
    path = pathlib.Path(path)
    if path.is_file() and path.suffix == ".tflite":
        return TFLiteArtefact(path)
    versions = [entry for entry in path.glob("[0-9]*") if entry.name.isdecimal()]
    for folder in (path, *sorted(versions, key=lambda entry: -int(entry.name))):
        if (folder / "saved_model.pb").is_file():
            task, _, _ = _facts(folder / "assets.extra")
            writes = task is None or hasattr(task_named(task).MODEL, "generate")
            return (GeneratorArtefact if writes else SavedModelArtefact)(folder)
    return None


def _facts(folder):
    """Of an artefact's extra files: the task or None, labels, and whether Chinese is split."""
    found, labels = {}, ()
    if (folder / LABELS_FILE).is_file():
        lines = (folder / LABELS_FILE).read_text(encoding="utf-8")
        labels = tuple(lines.removesuffix("\n").split("\n"))
    if (folder / TASK_FILE).is_file():
        found = read_json(folder / TASK_FILE)
    return found.get("task"), labels, found.get("split_cjk", False)


class SavedModelArtefact:
    """A SavedModel of `to_saved_model`.

    Args:
        folder: path of the version.

    Attributes:
        task: str, a name in `kerasllm.tasks.TASKS`.
        labels: tuple of str, maybe none.
    """

    def __init__(self, folder):
        self._tf, self._loaded = _loaded(folder)
        self.task, self.labels, self._split_cjk = _facts(pathlib.Path(folder) / "assets.extra")

    def predict(self, rows):
        """Answer rows.

        Args:
            rows: list of rows as the task's `predict` takes them; where that is a text, of str too.

        Returns:
            What the task's `predict` gives.

        Raises:
            TypeError: a text is no str.
            ValueError: there are no rows, or they have other columns.
        """
        return READERS[self.task](self.ask, _checked_rows(rows))

    def ask(self, signature, **texts):
        """Ask one signature.

        Args:
            signature: str, its name.
            **texts: its inputs, each a list of str, or of lists of str of any length.

        Returns:
            list of dicts, name: output, one for each text.

        Raises:
            TypeError: a text is no str.
            ValueError: the graph refuses the texts.
        """
        found = []
        for rows in chunks(range(len(next(iter(texts.values()))))):
            inputs = {
                name: self._strings(_padded([values[i] for i in rows]))
                for name, values in texts.items()
            }
            found += self._rows_of(signature, inputs)
        return found

    def _strings(self, texts):
        return self._tf.constant(_utf8(texts), "string")

    def _rows_of(self, signature, inputs):
        """Outputs of a signature, a dict by name for each row."""
        try:
            outputs = self._loaded.signatures[signature](**inputs)
        except self._tf.errors.InvalidArgumentError as error:
            raise ValueError(_refusal(error.message)) from None
        columns = [_plain(output.numpy().tolist()) for output in outputs.values()]
        return [dict(zip(outputs, row)) for row in zip(*columns)]


def _refusal(message):
    """What an assertion in a graph says, without the place where it stands."""
    said = re.search(r"assertion failed: \[(.*?)\]\s*\[\[\{\{node", message, re.DOTALL)
    return said[1].replace("] [", " ") if said else message


def _checked_rows(rows):
    rows = [{"text": row} if isinstance(row, str) else row for row in rows]
    if not rows:
        raise ValueError("`rows` must hold at least one row. Received: none.")
    pairs = sum("text_pair" in row for row in rows)
    if 0 < pairs < len(rows):
        raise ValueError(
            f"`rows` must have `text_pair` in all or in none. Received: {pairs} of {len(rows)}."
        )
    return rows


def _padded(values):
    most = max((len(value) for value in values if isinstance(value, list)), default=0)
    return [v + [""] * (most - len(v)) if isinstance(v, list) else v for v in values]


def _utf8(texts):
    """Texts, or lists of them, as TensorFlow takes them."""
    if isinstance(texts, list):
        return [_utf8(text) for text in texts]
    return texts if isinstance(texts, bytes) else to_str(texts)


def _plain(value):
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value


# -------------------------------------------------------------------- outputs, as of the tasks


def _classes(ask, rows):
    return np.array([row["scores"] for row in _of_texts(ask, rows)], "float32")


def _numbers(ask, rows):
    return np.array([row["score"] for row in _of_texts(ask, rows)], "float32")


def _of_texts(ask, rows):
    names = [name for name in ("text", "text_pair") if name in rows[0]]
    signature = "serving_default" if len(names) == 1 else "pairs"
    return ask(signature, **{name: [row[name] for row in rows] for name in names})


def _vectors(ask, rows):
    texts = contrastive.texts(rows)
    vectors = [row["vector"] for row in ask("serving_default", text=texts)]
    return np.array(vectors, "float32").reshape(len(rows), -1, len(vectors[0]))


def _found_answers(ask, rows):
    names = ("question", "context")
    found = ask("serving_default", **{name: [row[name] for row in rows] for name in names})
    return [
        Answer(row["context"][a["start"] : a["end"]], *(a[name] for name in Answer._fields[1:]))
        for row, a in zip(rows, found)
    ]


def _tagged_words(ask, rows):
    if any("tokens" in row for row in rows):
        return _of_words(ask, [words_of(row) for row in rows])
    names = ("words", "tags", "scores", "starts", "ends")
    return [
        [TaggedWord(*word) for word in zip(*(found[name][: found["word_count"]] for name in names))]
        for found in ask("serving_default", text=[row["text"] for row in rows])
    ]


def _of_words(ask, rows):
    """Tags of the words of `words_of`; one of nothing but white space is no word to a model."""
    solid = [[i for i, (word, _, _) in enumerate(row) if word.strip()] for row in rows]
    asked = [[row[i][0] for i in places] for row, places in zip(rows, solid)]
    tagged = []
    for row, places, found in zip(rows, solid, ask("tag_words", words=asked)):
        tags = dict(zip(places, zip(found["tags"], found["scores"])))
        words = [(word, *tags.get(i, (OUTSIDE, 0.0)), *at) for i, (word, *at) in enumerate(row)]
        tagged.append([TaggedWord(*word) for word in words])
    return tagged


def _summaries(ask, rows):
    parts = [sentences(row["source"]) for row in rows]
    found = ask("score_sentences", sentences=parts)
    return [chosen(list(zip(each, row["scores"]))) for each, row in zip(parts, found)]


READERS = {
    "text_classification": _classes,
    "multi_label": _classes,
    "text_regression": _numbers,
    "token_classification": _tagged_words,
    "question_answering": _found_answers,
    "contrastive": _vectors,
    "similarity": _vectors,
    "extractive_summarization": _summaries,
}


class GeneratorArtefact(SavedModelArtefact):
    """A SavedModel of `to_saved_model` that writes texts.

    Args:
        folder: path of the version.

    Attributes:
        task: str, a name in `kerasllm.tasks.TASKS`.
        options: dict, what `generate` may be told, and what it does by default.
        chats: bool, whether it has a chat template.

    Raises:
        ValueError: the SavedModel takes no texts.
    """

    def __init__(self, folder):
        super().__init__(folder)
        signatures = self._loaded.signatures
        found = signatures.get("serving_default")
        inputs = {} if found is None else found.structured_input_signature[1]
        if "prompt" not in inputs:
            raise ValueError(
                "`path` must be a SavedModel that `to_saved_model` wrote of a model with a "
                f"tokenizer. Received: {folder}, whose inputs are {', '.join(inputs) or 'none'}."
            )
        self.chats = "chat" in signatures
        self._dtypes = {name: spec.dtype for name, spec in inputs.items()}
        self.options = _defaults(folder)

    def predict(self, rows):
        """Write the answers to rows.

        Args:
            rows: list of rows as the task's `predict` takes them.

        Returns:
            list of str.

        Raises:
            ValueError: what the task predicts is no text.
        """
        rows = _checked_rows(rows)
        if self.task == "chat":
            return [self.chat(_asked(row), max_new_tokens=NEW_TOKENS).strip() for row in rows]
        if self.task not in ("translation", "summarization"):
            raise ValueError(
                "`model` must answer rows by texts. Received: an artefact of the task "
                f"{self.task}, which only writes on from prompts (`kerasllm generate` does that)."
            )
        texts = [joined(row["source"]) for row in rows]
        written = [
            text
            for part in chunks(texts)
            for text in self.generate(part, max_new_tokens=NEW_TOKENS)
        ]
        return [*map(close_up, written)] if self._split_cjk else written

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
            TypeError: a prompt is no str, or an option is no number.
            ValueError: the artefact has no such option, or it is out of its range.
        """
        single = isinstance(prompts, (str, bytes))
        prompt = [prompts] if single else list(prompts)
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
            TypeError: of `generate`.
            ValueError: of `generate`, or there is no chat template, or it refuses the messages.
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
        check_options(options)
        inputs = {name: self._strings(value) for name, value in texts.items()}
        for name, value in {**self.options, **options}.items():
            inputs[name] = self._tf.constant(np.ravel(value), self._dtypes[name])
        return self._rows_of(signature, inputs)


def _asked(row):
    """The messages of a row up to the one that is asked for."""
    messages = chat.messages_of(row)
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def _loaded(folder):
    """TensorFlow, and the SavedModel, which must outlive its signatures."""
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  (registers the tokenizer's operations)

    try:
        return tf, tf.saved_model.load(str(folder))
    except (OSError, ValueError, LookupError, tf.errors.OpError) as error:
        raise ValueError(
            f"`{folder}` must be a whole SavedModel. Received: one that TensorFlow can't load "
            f"({error}). Copy or export it again."
        ) from None


def _defaults(folder):
    """What a SavedModel's main signature says of inputs that may be left out."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    content = (pathlib.Path(folder) / "saved_model.pb").read_bytes()
    saved = saved_model_pb2.SavedModel.FromString(content)
    defaults = saved.meta_graphs[0].signature_def["serving_default"].defaults
    return {name: tf.make_ndarray(value).item() for name, value in defaults.items()}


class TFLiteArtefact:
    """A .tflite file of `to_tflite`, with the tokenizer and labels that it carries.

    Args:
        file: path of the file.

    Attributes:
        task: str, a name in `kerasllm.tasks.TASKS`.
        labels: tuple of str.

    Raises:
        ValueError: the file holds no tokenizer and labels.
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
            self.task, self.labels, _ = _facts(pathlib.Path(folder))
            if not self.labels:
                raise ValueError(
                    f"`{file}` must be of a text classifier. Received: one of a language model "
                    "(`export/generation` in the repository has the loop that writes with it)."
                )
            self._tokenizer = load_tokenizer(folder)
        with quiet():
            interpreter = Interpreter(str(file))
            interpreter.allocate_tensors()
        self._signature = interpreter.get_signature_runner("serving_default")
        details = self._signature.get_input_details()
        self._names = tuple(details)
        self._length = int(details["token_ids"]["shape"][1])

    def predict(self, rows):
        """Answer rows; see `SavedModelArtefact.predict`."""
        rows = _checked_rows(rows)
        columns = [[row[name] for row in rows] for name in ("text", "text_pair") if name in rows[0]]
        ids = self._tokenizer(*columns, max_length=self._length, pad_to=self._length)
        ids.setdefault("segment_ids", np.zeros_like(ids["token_ids"]))
        scores = np.concatenate(
            [
                self._signature(**{name: ids[name][i : i + 1] for name in self._names})["scores"]
                for i in range(len(rows))
            ]
        )
        return scores[:, 0] if self.task == "text_regression" else scores
