"""Export to a SavedModel that takes strings, for TensorFlow Serving and whatever else loads one."""

import os
import pathlib
import sys

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from kerasllm.atomic import whole
from kerasllm.export import verify
from kerasllm.export.scorer import Scorer, at_least_one_row, chunks, first_rows
from kerasllm.export.tensors import TensorModel
from kerasllm.export.text_generator import GENERATORS

# The scripts that try an export, and where they do.
PROCESSES = {
    "run_saved_model.py": "TensorFlow in a fresh process without kerasllm",
    "run_c_api.py": "TensorFlow's C API, the loader of TensorFlow Serving",
}
FEW = 4  # texts that are tried through the signatures other than the one for text
CLASSIFY_METHOD = "tensorflow/serving/classify"


def to_saved_model(
    model, folder, *, version=None, texts=None, inputs=None, tolerance=1e-5, max_length=None
):
    """Write a classifier, or a model that writes texts, as `folder/<version>/`, verified.

    The SavedModel of a classifier has three signatures. `serving_default` takes `text`, string
    `(batch,)`, and gives `scores`, float32 `(batch, num_classes)` probabilities, and `label`,
    string `(batch,)`. `token_ids` takes the model's own int32 inputs `(batch, length)` and gives
    the same. `classify` is TensorFlow Serving's Classify over `tf.Example`s with a bytes feature
    `text`: it gives `classes` and `scores`, both `(batch, num_classes)`. The folder also holds
    `assets.extra/labels.txt`.

    That of a model that writes texts has `generate`, or `translate` or `summarize` where the
    model's `task` is that, and `serving_default`, which is the same. They take `prompt`, string
    `(batch,)`, and options of `model.generate`, each `(1,)` or `(batch,)`, with the model's
    `defaults`: int32 `max_new_tokens` and `top_k`, float32 `temperature`, `top_p`, `min_p` and
    `repetition_penalty`, and int64 `seed`; where by default a model searches with beams, it does so
    always, and the options are `max_new_tokens`, `repetition_penalty` and `length_penalty`. They
    give, all `(batch,)`, string `text`, what is new; int32 `token_count` and
    `prompt_token_count`; and string `finish_reason`: `"stop"`, `"length"`, or `"empty"` where an
    empty prompt has no token to go on from. A prompt that is too long is shortened as with
    `truncate=True`. A model whose tokenizer has a `chat_template` has `chat` too, which takes
    strings `(messages,)`, `roles` and `contents`, instead of `prompt`, one conversation a call.

    `assets.extra/report.json` holds the report. For more fine-tuning keep `model.save_pretrained`:
    Keras can't load a SavedModel.

    Any other functional Keras model goes the same way, given `inputs` to verify it on: then
    `serving_default`, the only signature, has the model's own inputs and outputs.

    Args:
        model: `TextClassifier`, `CausalLM` or `Seq2SeqLM` with a tokenizer. Whatever its dtype
            policy, the export computes in float32, and is compared with a float32 copy of the
            model. Or, with `inputs`, any functional `keras.Model` that computes in float32.
        folder: str or path-like, the model's folder, which holds one folder a version.
        version: int of at least 1, or None for one more than the highest there.
        texts: list of str to compare on; None for a built-in list in many languages.
        inputs: None for a model that takes texts; else examples of the model's input to compare
            on: an array `(examples, …)`, a list of them, or a dict by name of input.
        tolerance: float, largest difference of a score that is accepted; of a model that writes
            texts, the share of tokens that may differ.
        max_length: int or None, tokens that a classifier's text is cut to; None for the model's
            `max_length`.

    Returns:
        `Report`, which is printed to stderr too.

    Raises:
        FileExistsError: the version is there already.
        OSError: the folder can't be written.
        RuntimeError: TensorFlow can't run the SavedModel in a fresh process.
        TypeError: `texts` is no list of str.
        ValueError: an argument is not as above, a step of the tokenizer or the chat template has no
            exact form in a graph, or answers differ by more than `tolerance`. After any error, as
            after Ctrl-C, nothing is left behind.

    Example:
        >>> model = BertClassifier.from_pretrained("my_model")  # doctest: +SKIP
        >>> report = to_saved_model(model, "serving/my_model")  # doctest: +SKIP
        >>> report.label_flips  # doctest: +SKIP
        0
    """
    if inputs is not None:
        return _verified(TensorModel(model, inputs), folder, version, tolerance)
    texts = verify.checked_texts(texts)
    if getattr(model, "HEAD", None) in GENERATORS:
        if max_length is not None:
            raise ValueError(
                "`max_length` must be None for a model that writes texts. Received: "
                f"{max_length} (callers set `max_new_tokens`)."
            )
        return _verified(GENERATORS[model.HEAD](model, texts), folder, version, tolerance)
    scorer = Scorer(model, max_length)
    place = _place(folder, version)
    with whole(place) as aside:
        _write(scorer, aside)
        _check_weights_once(scorer, aside)
        numbers, checks = _verify(scorer, aside, texts, tolerance)
        return _reported(place, aside, numbers, checks)


def _verified(module, folder, version, tolerance):
    """Export a `TensorModel` or a `TextGenerator`."""
    place = _place(folder, version)
    with whole(place) as aside:
        tf.saved_model.save(module, str(aside), module.signatures())
        (aside / "assets.extra").mkdir()
        _check_weights_once(module, aside)
        _check_operations(aside)
        expected, keras_milliseconds = module.expected()
        question = {
            "folder": os.fspath(aside),
            "calls": list(module.calls("serving_default")),
            "signatures": _describe(aside),
            "tensorflow_text": module.needs_text,
        }
        for runner, name in PROCESSES.items():
            answers = verify.run(runner, question)
            numbers = module.check(expected, answers, tolerance, f"The export in {name}")
        checks = (*PROCESSES.values(), "each weight is stored once")
        return _reported(
            place, aside, {**numbers, "keras_milliseconds": keras_milliseconds}, checks
        )


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


def _write(scorer, folder):
    module = tf.Module(name="classifier")
    module.scorer = scorer  # so that the weights are saved
    module.tokenizer = scorer.tokenizer.in_graph()
    signatures = _signatures(scorer, module.tokenizer)
    tf.saved_model.save(module, str(folder), signatures)
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(folder))
    updater.replace_method_name("classify", CLASSIFY_METHOD)
    updater.save()
    extra = folder / "assets.extra"
    extra.mkdir()
    (extra / "labels.txt").write_text("\n".join(scorer.labels) + "\n", encoding="utf-8")


def _signatures(scorer, tokenizer):
    labels = tf.constant(scorer.labels)

    def answer(inputs):
        scores = scorer.scores(inputs)  # (batch, num_classes)
        return {"scores": scores, "label": tf.gather(labels, tf.argmax(scores, axis=1))}

    def from_text(text):
        rows, text = tf.shape(text)[0], at_least_one_row(text)
        return first_rows(rows, answer(tokenizer(text, max_length=scorer.max_length)))

    def from_ids(**inputs):
        rows = tf.shape(inputs["token_ids"])[0]
        inputs = {name: at_least_one_row(ids) for name, ids in inputs.items()}
        return first_rows(rows, answer(inputs))

    def classify(inputs):
        features = {"text": tf.io.FixedLenFeature([], tf.string)}
        scores = from_text(tf.io.parse_example(inputs, features)["text"])["scores"]
        return {"classes": tf.tile(labels[tf.newaxis], [tf.shape(scores)[0], 1]), "scores": scores}

    strings = [tf.TensorSpec([None], tf.string, name) for name in ("text", "inputs")]
    return {
        "serving_default": _graph(from_text).get_concrete_function(strings[0]),
        "token_ids": _graph(from_ids).get_concrete_function(**scorer.specs()),
        "classify": _graph(classify).get_concrete_function(strings[1]),
    }


def _graph(function):
    return tf.function(function, autograph=False)


def _check_weights_once(scorer, folder):
    """Check that the checkpoint holds each weight once: neither none of them, nor two copies."""
    reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    types = reader.get_variable_to_dtype_map()
    stored = sum(
        int(np.prod(shape)) * types[name].size
        for name, shape in reader.get_variable_to_shape_map().items()
        if types[name] != tf.string  # the description of the objects
    )
    if stored != scorer.parameter_bytes:
        raise RuntimeError(
            f"The SavedModel must hold the {scorer.parameter_bytes} bytes of the model's weights "
            f"once. Received: {stored} bytes."
        )


def _check_operations(folder):
    """Check that no operation is XLA's, which TensorFlow Serving may not have."""
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    names = saved.meta_graphs[0].meta_info_def.stripped_op_list.op
    found = sorted(op.name for op in names if op.name.startswith("Xla"))
    if found:
        raise RuntimeError(f"The SavedModel must not need XLA. Received: {', '.join(found)} in it.")


def _verify(scorer, folder, texts, tolerance):
    """Run all three signatures in two fresh processes; return fields of the report, and checks."""
    expected, keras_milliseconds = scorer.score_texts(texts)
    calls = _calls(scorer, texts)
    question = {"folder": os.fspath(folder), "calls": calls, "signatures": _describe(folder)}
    batch = len(chunks(texts)[0])
    signatures = ", ".join(sorted(question["signatures"]))
    found, checks = [], []
    for runner, name in PROCESSES.items():
        answers = verify.run(runner, question)
        found.append(_check_answers(scorer, expected, answers, tolerance, f"The export in {name}"))
        checks.append(f"{name}: signatures {signatures}; batches of 0, 1 and {batch}")
    checks.append("each weight is stored once")
    numbers = max(found, key=lambda numbers: numbers["largest_difference"])
    return {**numbers, "keras_milliseconds": keras_milliseconds}, tuple(checks)


def _check_answers(scorer, expected, answers, tolerance, what):
    """Compare what one process answered to `_calls`; return fields of the report."""
    empty, single, ids, examples, *in_chunks = (call["outputs"] for call in answers)
    scores = [row for outputs in in_chunks for row in outputs["scores"]]
    numbers = verify.check_difference(expected, scores, tolerance, what)
    for outputs, count in ((single, 1), (ids, FEW), (examples, FEW)):
        verify.check_difference(expected[:count], outputs["scores"], tolerance, what)
    labels = [_bytes(label.encode()) for label in scorer.labels]
    given = [label for outputs in in_chunks for label in outputs["label"]]
    if given != [labels[i] for i in np.argmax(scores, axis=1)] or any(
        classes != labels for classes in examples["classes"]
    ):
        raise ValueError(f"{what} must give the labels {scorer.labels}. Received: {given[:5]}, ….")
    if empty["scores"] or empty["label"]:
        raise ValueError(f"{what} must give nothing for an empty batch. Received: {empty}.")
    seconds = sum(call["seconds"] for call in answers[-len(in_chunks) :])
    return {**numbers, "milliseconds": 1000 * seconds / len(scores)}


def _calls(scorer, texts):
    """An empty batch, one text, token ids, examples; then all texts."""
    few = texts[:FEW]
    ids = {name: value.tolist() for name, value in scorer.tokenize(few).items()}
    batches = [[], texts[:1], *chunks(texts)]
    by_text = [
        {
            "signature": "serving_default",
            "inputs": {"text": [_bytes(text.encode()) for text in batch]},
        }
        for batch in batches
    ]
    by_ids = {"signature": "token_ids", "inputs": ids}
    by_example = {"signature": "classify", "inputs": {"inputs": [_example(text) for text in few]}}
    return [*by_text[:2], by_ids, by_example, *by_text[2:]]


def _example(text):
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()]))
    example = tf.train.Example(features=tf.train.Features(feature={"text": feature}))
    return _bytes(example.SerializeToString())


def _bytes(value):
    """Bytes as the runners take them: JSON has none, so one character for one byte."""
    return value.decode("latin-1")


def _describe(folder):
    """Name and type of the tensors behind each signature, which the C API asks for."""
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    return {
        name: {
            "inputs": {key: [info.name, info.dtype] for key, info in signature.inputs.items()},
            "outputs": {key: [info.name, info.dtype] for key, info in signature.outputs.items()},
        }
        for name, signature in saved.meta_graphs[0].signature_def.items()
        if not name.startswith("__")  # TensorFlow's own, for initialisation
    }
