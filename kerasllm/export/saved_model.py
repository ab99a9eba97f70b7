"""Export to a SavedModel that takes strings, for TensorFlow Serving and whatever else loads one."""

import os
import pathlib
import sys

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from kerasllm.atomic import whole
from kerasllm.export import verify
from kerasllm.export.artefact import LABELS_FILE, TASK_FILE, describe
from kerasllm.export.scorer import Scorer
from kerasllm.export.sentence_vectors import SentenceVectors
from kerasllm.export.span_finder import SpanFinder
from kerasllm.export.tagger import SentencePicker, Tagger
from kerasllm.export.tensors import TensorModel
from kerasllm.export.text_generator import GENERATORS

# The scripts that try an export, and where they do.
PROCESSES = {
    "run_saved_model.py": "TensorFlow in a fresh process without kerasllm",
    "run_c_api.py": "TensorFlow's C API, the loader of TensorFlow Serving",
}
# What is exported of a model that takes texts, by its head; of one that writes them: `GENERATORS`.
TEXT_MODELS = {
    "text_classifier": Scorer,
    "token_classifier": Tagger,
    "span_labeler": SpanFinder,
    "sentence_encoder": SentenceVectors,
}


def to_saved_model(
    model, folder, *, version=None, texts=None, inputs=None, tolerance=1e-5, max_length=None
):
    """Write a model that takes texts as `folder/<version>/`, verified.

    What the SavedModel takes and gives belongs to the model's task; `(batch,)` is the shape of all
    that is not said to be of another. `serving_default` takes string `text` and gives:

    - text classification: float32 `scores` `(batch, num_classes)`, probabilities, and string
      `label`. `classify` is TensorFlow Serving's Classify over `tf.Example`s with a bytes feature
      `text`: it gives `classes` and `scores`, both `(batch, num_classes)`.
    - multi-label: `scores`, and string `labels` `(batch, most)`, padded with empty ones: those that
      are likelier than not. `classify` as well.
    - text regression: float32 `score`. `regress` is TensorFlow Serving's Regress: it gives
      `outputs`.
    - Of these three, `pairs` takes `text` and `text_pair`, and `token_ids` the model's own int32
      inputs `(batch, length)`, and both give the same.
    - token classification (also named `tag`): `(batch, words)`, padded: strings `words` and `tags`,
      float32 `scores`, the probability of the tag, and int32 `starts` and `ends`, in characters of
      the text; and int32 `word_count`. `tag_words` takes `words`, string `(batch, words)`, padded
      with empty ones, and gives `tags` and `scores`.
    - extractive summarization (also `summarize`): string `summary`, the likeliest sentence; and
      `(batch, sentences)`, padded: string `sentences` and float32 `scores`, the probability that
      each is taken. `score_sentences` takes `sentences` like these and gives `scores`.
    - question answering (also `answer`): takes `question` and `context`, and gives string `answer`,
      a piece of the context, empty where it is likelier that there is none; int32 `start` and
      `end`, where the best piece stands in characters of the context; and float32 `score` and
      `no_answer`, their probabilities.
    - sentence vectors (also `encode`): float32 `vector` `(batch, embed_dim)`.

    That of a model that writes texts has `generate`, or `translate` or `summarize` where the
    model's `task` is that, and `serving_default`, which is the same. They take `prompt`, string
    `(batch,)`, and options of `model.generate`, each `(1,)` or `(batch,)`, with the model's
    `defaults`, which a server fills in, and Python's loader does not: int32 `max_new_tokens` and
    `top_k`, float32 `temperature`, `top_p`, `min_p` and `repetition_penalty`, and int64 `seed`;
    where by default a model searches with beams, it does so always, and the options are
    `max_new_tokens`, `repetition_penalty` and `length_penalty`. They give, all `(batch,)`, string
    `text`, what is new; int32 `token_count` and `prompt_token_count`; and string `finish_reason`:
    `"stop"`, `"length"`, or `"empty"` where an empty prompt has no token to go on from. A prompt
    that is too long is shortened as with `truncate=True`. A model whose tokenizer has a
    `chat_template` has `chat` too, which takes strings `(messages,)`, `roles` and `contents`,
    instead of `prompt`, one conversation a call. (A date that the template writes stays that of the
    export.)

    `assets.extra` holds `report.json`, `task.json`, which names the task, and, where there are
    labels, `labels.txt`. For more fine-tuning keep `model.save_pretrained`: Keras can't load a
    SavedModel.

    Any other functional Keras model goes the same way, given `inputs` to verify it on: then
    `serving_default`, the only signature, has the model's own inputs and outputs.

    Args:
        model: `TextClassifier`, `TokenClassifier`, `SpanLabeler`, `SentenceEncoder`, `CausalLM` or
            `Seq2SeqLM` with a tokenizer. Whatever its dtype policy, the export computes in float32,
            and is compared with a float32 copy of the model. Or, with `inputs`, any functional
            `keras.Model` that computes in float32.
        folder: str or path-like, the model's folder, which holds one folder a version.
        version: int of at least 1, or None for one more than the highest there.
        texts: list of str to compare on, of which each is a question on the next one, where the
            task is to answer questions; None for a built-in list in many languages.
        inputs: None for a model that takes texts; else examples of the model's input to compare
            on: an array `(examples, …)`, a list of them, or a dict by name of input.
        tolerance: float, largest difference of a score that is accepted; of a model that writes
            texts, the share of tokens that may differ.
        max_length: int or None, tokens that a text is cut to, or a window on a context; None for
            the model's `max_length`. None for a model that writes texts.

    Returns:
        `Report`, which is printed to stderr too.

    Raises:
        FileExistsError: the version is there already.
        OSError: the folder can't be written.
        RuntimeError: TensorFlow can't run the SavedModel in a fresh process.
        TypeError: `texts` is no list of str.
        ValueError: an argument is not as above, a step of the tokenizer or the chat template has no
            exact form in a graph, or nothing in a graph can tell where its tokens stand (see
            `tokenizers.words_in_graph` for tags, `tokenizers.offsets_in_graph` for answers); or
            answers differ by more than `tolerance`. After any error, as after Ctrl-C, nothing is
            left behind.

    Example:
        >>> model = BertClassifier.from_pretrained("my_model")  # doctest: +SKIP
        >>> report = to_saved_model(model, "serving/my_model")  # doctest: +SKIP
        >>> report.label_flips  # doctest: +SKIP
        0
    """
    place = _place(folder, version)
    verify.check_tolerance(tolerance)
    if inputs is not None:
        module = TensorModel(model, inputs)
    else:
        module = _text_module(model, verify.checked_texts(texts), max_length)
    with whole(place) as aside:
        _write(module, aside)
        _check_weights_once(module, aside)
        _check_operations(aside)
        expected, keras_milliseconds = module.expected()
        found, checks = _ask(module, aside, expected, tolerance)
        numbers = {**found, "keras_milliseconds": keras_milliseconds}
        return _reported(place, aside, numbers, (*checks, "each weight is stored once"))


def _text_module(model, texts, max_length):
    head = getattr(model, "HEAD", None)
    if head in TEXT_MODELS:
        picks = model.task == "extractive_summarization"
        return (SentencePicker if picks else TEXT_MODELS[head])(model, max_length, texts)
    if head in GENERATORS:
        if max_length is not None:
            raise ValueError(
                "`max_length` must be None for a model that writes texts. Received: "
                f"{max_length} (callers set `max_new_tokens`)."
            )
        return GENERATORS[head](model, texts)
    raise ValueError(
        f"`model` must be one of {', '.join(sorted({*TEXT_MODELS, *GENERATORS}))}. Received: a "
        f"{type(model).__name__}. Give any other Keras model `inputs`, examples to verify its "
        "artefact on."
    )


def _write(module, folder):
    """Write a `TextModel`, a `TextGenerator` or a `TensorModel`, and what one knows of it."""
    tf.saved_model.save(module, str(folder), module.signatures())
    methods = getattr(module, "methods", {})
    if methods:
        updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(folder))
        for name, method in methods.items():
            updater.replace_method_name(name, method)
        updater.save()
    extra = folder / "assets.extra"
    extra.mkdir()
    if isinstance(module, TensorModel):
        return
    (extra / TASK_FILE).write_text(describe(module.model), encoding="utf-8")
    labels = getattr(module, "labels", ())
    if labels:
        (extra / LABELS_FILE).write_text("\n".join(labels) + "\n", encoding="utf-8")


def _ask(module, folder, expected, tolerance):
    """Run a SavedModel in two fresh processes; return fields of the report, and checks."""
    question = {
        "folder": os.fspath(folder),
        "calls": list(module.calls("serving_default")),
        "signatures": signature_tensors(folder),
        "tensorflow_text": module.needs_text,
    }
    asked = ", ".join(sorted({call["signature"] for call in question["calls"]}))
    found, checks = [], []
    for runner, name in PROCESSES.items():
        answers = verify.run(runner, question)
        found.append(module.check(expected, answers, tolerance, f"The export in {name}"))
        checks.append(f"{name}: signatures {asked}")
    return max(found, key=lambda numbers: numbers.get("largest_difference", 0)), checks


def _reported(place, folder, numbers, checks):
    """Write the report into the folder that will stand at `place`, and show it."""
    report = verify.Report(
        target="saved_model",
        variant="float32",
        path=str(place),
        bytes=_bytes_under(folder),
        checks=checks,
        **numbers,
    )
    report.write(folder / "assets.extra" / "report.json")
    sys.stderr.write(f"{report}\n")
    return report


def _place(folder, version):
    return pathlib.Path(folder) / str(_checked_version(folder, version))


def _bytes_under(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _checked_version(folder, version):
    folder = pathlib.Path(folder)
    there = {int(entry.name) for entry in folder.glob("*") if entry.name.isdecimal()}
    if version is None:
        return max(there, default=0) + 1
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f"`version` must be an integer of at least 1. Received: {version!r}.")
    if version in there:
        raise FileExistsError(
            f"`version` must be new. Received: {version}, and `{folder}` holds {sorted(there)} "
            "(leave it out for the next one)."
        )
    return version


def _check_weights_once(module, folder):
    """Check that the checkpoint holds each weight once: neither none of them, nor two copies."""
    reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    types = reader.get_variable_to_dtype_map()
    stored = sum(
        int(np.prod(shape)) * types[name].size
        for name, shape in reader.get_variable_to_shape_map().items()
        if types[name] != tf.string  # the description of the objects
    )
    if stored != module.parameter_bytes:
        raise RuntimeError(
            f"The SavedModel must hold the {module.parameter_bytes} bytes of the model's weights "
            f"once. Received: {stored} bytes."
        )


def _check_operations(folder):
    """Check that no operation is XLA's, which TensorFlow Serving may not have."""
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    names = saved.meta_graphs[0].meta_info_def.stripped_op_list.op
    found = sorted(op.name for op in names if op.name.startswith("Xla"))
    if found:
        raise RuntimeError(f"The SavedModel must not need XLA. Received: {', '.join(found)} in it.")


def signature_tensors(folder):
    """Return what is behind the signatures of a SavedModel, for the C API asks for it.

    Args:
        folder: path of the version.

    Returns:
        dict, signature: dict of `inputs` and `outputs`: dicts, name: list of the tensor's name and
        the number of its dtype.
    """
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    return {
        name: {
            "inputs": {key: [info.name, info.dtype] for key, info in signature.inputs.items()},
            "outputs": {key: [info.name, info.dtype] for key, info in signature.outputs.items()},
        }
        for name, signature in saved.meta_graphs[0].signature_def.items()
        if not name.startswith("__")  # TensorFlow's own, for initialisation
    }
