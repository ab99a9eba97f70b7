"""Export to a .tflite file that phones, browsers and MediaPipe run."""

import json
import os
import pathlib
import sys
import tempfile

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from kerasllm.atomic import whole
from kerasllm.export import metadata, verify
from kerasllm.export.artefact import TASK_FILE, describe
from kerasllm.export.decoder import Decoder, compare
from kerasllm.export.scorer import Scorer, check_classifier
from kerasllm.export.tensors import TensorModel
from kerasllm.models import CausalLM
from kerasllm.tokenizers import WordPieceTokenizer

SIGNATURE = "serving_default"

# What is done to weights: how the converter is told, and the tolerance by default. That of int8 is
# for the mean difference: see `verify.check_labels`.
VARIANTS = {
    None: ({}, 1e-4),
    "float16": ({"optimizations": [tf.lite.Optimize.DEFAULT], "types": [tf.float16]}, 0.01),
    "int8": ({"optimizations": [tf.lite.Optimize.DEFAULT]}, 0.05),
}
FRESH = "LiteRT's interpreter in a fresh process without kerasllm and TensorFlow"
LENGTH = 128  # tokens of a text, where nobody says how many
LEAST_SHARE = 0.2  # of the float32 weights' bytes, that a right file has at least; int8 has 0.25


def to_tflite(
    model, file, *, quantize=None, max_length=None, texts=None, inputs=None, tolerance=None
):
    """Write a classifier or a language model as a .tflite file, verified.

    Of a classifier, the file holds vocabulary and labels.

    The signature `serving_default` takes the model's inputs `token_ids`, `padding_mask` and
    `segment_ids`, int32 `(1, max_length)`, and gives `scores`, float32 `(1, num_classes)`
    probabilities. It needs builtin operations only. MediaPipe's TextClassifier runs the file
    unchanged, on text. `file` + `.report.json` holds the report.

    MediaPipe lower-cases ASCII letters, whatever the model was trained with, and does nothing else
    of what BERT does to a text before it splits it. So an app has to pass text for an uncased model
    through `metadata.plain_text` (`export/mobile/README.md` in the repository has it for each
    platform), and to give a cased model token ids through LiteRT. Warnings in the report say so.

    Of a `CausalLM` the file has the signatures `prefill_1`, `prefill_8`, `prefill_64` and `decode`
    (see `kerasllm.export.decoder.Decoder`), and holds the tokenizer and, in
    `generation_config.json`, the tokens that begin and end a text. `export/generation` in the
    repository has the loop over them, for Python and for browsers. The prompts in `texts`, and
    what Keras' `generate` writes on from them, are fed to the file token by token; the scores that
    are compared are the probabilities of the tokens. `to_litert_lm` packs such a file for an
    engine that has the loop.

    Any other functional Keras model goes the same way, given `inputs` to verify it on: then the
    signature has the model's own inputs, of one example, and its outputs, and no metadata.

    Args:
        model: `TextClassifier` with a tokenizer, or `CausalLM`. Whatever its dtype policy, the
            export starts from a float32 copy of the model, and is compared with it. Or, with
            `inputs`, any functional `keras.Model` that computes in float32.
        file: str or path-like, usually ending in `.tflite`.
        quantize: None for float32, `"float16"` for weights of half the size, `"int8"` for weights
            of a quarter, which are also multiplied as int8.
        max_length: int or None: the fixed number of tokens; longer texts are cut; None for the
            model's most, but at most 128. Of a language model, the tokens that the cache holds;
            None for its most, but at most 1024.
        texts: list of str to compare on; None for a built-in list in many languages. A language
            model without a tokenizer is tried on random token ids.
        inputs: None for a text classifier; else examples of the model's input to compare on, see
            `to_saved_model`. Their shape is the one that the file takes.
        tolerance: float or None: the largest difference of a score that is accepted; None for 1e-4
            in float32 and 0.01 in float16. Of int8, single scores may differ by 0.1 and more, so
            there it is the mean difference, 0.05 by default, and at most a tenth of the labels may
            flip on which the model is clear (by more than 0.1).

    Returns:
        `Report`, which is printed to stderr too.

    Raises:
        OSError: the file can't be written.
        RuntimeError: the converter gave a broken file, or LiteRT can't run it.
        TypeError: `texts` is no list of str.
        ValueError: an argument is not as above, or the scores differ by more than `tolerance`.
            After any error, as after Ctrl-C, nothing is left behind.

    Example:
        >>> model = BertClassifier.from_pretrained("my_model")  # doctest: +SKIP
        >>> report = to_tflite(model, "my_model.tflite", quantize="int8")  # doctest: +SKIP
        >>> report.label_flips  # doctest: +SKIP
        0
    """
    if quantize not in VARIANTS:
        raise ValueError(f"`quantize` must be one of {tuple(VARIANTS)}. Received: {quantize!r}.")
    tolerance = VARIANTS[quantize][1] if tolerance is None else tolerance
    verify.check_tolerance(tolerance)
    if inputs is not None:
        return _tensors_to_tflite(TensorModel(model, inputs), file, quantize, tolerance)
    if isinstance(model, CausalLM):
        return _decoder_to_tflite(Decoder(model, max_length), file, quantize, texts, tolerance)
    texts = verify.checked_texts(texts)
    check_classifier(model)
    max_length = min(LENGTH, model.config.max_length) if max_length is None else max_length
    scorer = Scorer(model, max_length)
    path = pathlib.Path(file)
    with whole(f"{path}.report.json") as report_aside, whole(path) as aside:
        content = convert(scorer, quantize)
        checks = check_file(content, scorer.parameter_bytes)
        content = _with_tokenizer(content, scorer)
        aside.write_bytes(content)
        numbers, found = _verify(scorer, aside, texts, tolerance, quantize)
        report = verify.Report(
            target="tflite",
            variant=quantize or "float32",
            path=str(path),
            bytes=len(content),
            checks=(*found, *checks),
            warnings=tuple(_warnings(scorer)),
            **numbers,
        )
        report.write(report_aside)
    sys.stderr.write(f"{report}\n")
    return report


def _tensors_to_tflite(module, file, quantize, tolerance):
    path = pathlib.Path(file)
    with whole(f"{path}.report.json") as report_aside, whole(path) as aside:
        content = _converted(module, {SIGNATURE: module.signature(single=True)}, quantize)
        checks = check_file(content, module.parameter_bytes)
        aside.write_bytes(content)
        expected, keras_milliseconds = module.expected()
        question = {
            "file": os.fspath(aside), "signature": SIGNATURE, "calls": list(module.calls())
        }  # fmt: skip
        answers = verify.run("run_tflite.py", question)["calls"]
        check = verify.check_labels if quantize == "int8" else verify.check_difference
        what = f"The .tflite file ({quantize or 'float32'})"
        report = verify.Report(
            target="tflite",
            variant=quantize or "float32",
            path=str(path),
            bytes=len(content),
            checks=(FRESH, *checks),
            keras_milliseconds=keras_milliseconds,
            **module.check(expected, answers, tolerance, what, check),
        )
        report.write(report_aside)
    sys.stderr.write(f"{report}\n")
    return report


def _decoder_to_tflite(decoder, file, quantize, texts, tolerance):
    prompts = decoder.prompts(texts)
    path = pathlib.Path(file)
    with whole(f"{path}.report.json") as report_aside, whole(path) as aside:
        content, checks = convert_decoder(decoder, quantize)
        if decoder.model.tokenizer is not None:
            content = metadata.attach_files(content, None, _files_of_decoder(decoder))
        aside.write_bytes(content)
        answers, keras_milliseconds = decoder.answers(prompts)
        report = verify.Report(
            target="tflite",
            variant=quantize or "float32",
            path=str(path),
            bytes=len(content),
            keras_milliseconds=keras_milliseconds,
            checks=(FRESH, *checks),
            **check_decoder(decoder, aside, prompts, answers, quantize, tolerance),
        )
        report.write(report_aside)
    sys.stderr.write(f"{report}\n")
    return report


def convert_decoder(decoder, quantize=None):
    """Convert a language model to a .tflite file without a tokenizer.

    Args:
        decoder: `Decoder`.
        quantize: a key of `VARIANTS`.

    Returns:
        The pair of bytes, and of a tuple of str: what was found to hold.

    Raises:
        RuntimeError: the converter gave a broken file.
    """
    content = _converted(decoder, decoder.signatures(), quantize)
    return content, check_file(content, decoder.parameter_bytes)


def check_decoder(decoder, file, prompts, answers, quantize, tolerance=None):
    """Feed prompts and answers to a language model's .tflite file, and compare it with Keras.

    Args:
        decoder: `Decoder`.
        file: path of the file.
        prompts: list of str, or of lists of token ids.
        answers: list of `Generated`, what follows each of them.
        quantize: a key of `VARIANTS`.
        tolerance: of `to_tflite`.

    Returns:
        dict of fields of `Report`.

    Raises:
        RuntimeError: LiteRT can't run the file.
        ValueError: the probabilities of tokens differ by more than `tolerance`.
    """
    rows = [[*decoder.ids(prompt), *text.token_ids] for prompt, text in zip(prompts, answers)]
    found = verify.run("run_decoder.py", {"file": os.fspath(file), "rows": rows})
    expected = [
        (best[first:], scores[first:])
        for first, (best, scores) in zip(found["first"], decoder.score(rows))
    ]
    numbers = compare(
        [np.concatenate(columns) for columns in zip(*expected)],
        [np.concatenate(found[name]) for name in ("best", "scores")],
    )
    limit = VARIANTS[quantize][1] if tolerance is None else tolerance
    name = "mean_difference" if quantize == "int8" else "largest_difference"
    if not numbers[name] <= limit:
        raise ValueError(
            f"The .tflite file ({quantize or 'float32'}) must give the probabilities of the Keras "
            f"model within {limit:g}. Received: a {name.replace('_', ' ')} of {numbers[name]:.2g}, "
            f"and {numbers['equal_tokens']:.1%} equal tokens, so nothing was written. A larger "
            "`tolerance` accepts it."
        )
    milliseconds = 1000 * found["seconds"] / len(rows)
    return {"sentences": len(rows), "milliseconds": milliseconds, **numbers}


def _files_of_decoder(decoder):
    """The tokenizer's files, and the tokens that begin and end a text, as `transformers` has it."""
    with tempfile.TemporaryDirectory() as folder:
        decoder.model.tokenizer.save_pretrained(folder)
        files = {path.name: path.read_bytes() for path in sorted(pathlib.Path(folder).iterdir())}
    begin, end = decoder.begin(), decoder.model._stop_ids(())
    config = {"bos_token_id": begin, "eos_token_id": end}
    return {**files, "generation_config.json": json.dumps(config).encode()}


def convert(scorer, quantize=None):
    """Convert a scorer to a .tflite file without metadata.

    Args:
        scorer: `Scorer`.
        quantize: a key of `VARIANTS`.

    Returns:
        bytes.
    """
    scores = tf.function(lambda **inputs: {"scores": scorer.scores(inputs)}, autograph=False)
    signature = scores.get_concrete_function(**scorer.specs(1, scorer.max_length))
    return _converted(scorer, {SIGNATURE: signature}, quantize)


def _converted(module, signatures, quantize):
    # Straight from Keras, inputs become float32 or names are lost; a SavedModel keeps both.
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures)
        keys = [*signatures]
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=keys)
        options = VARIANTS[quantize][0]
        converter.optimizations = options.get("optimizations", [])
        converter.target_spec.supported_types = options.get("types", [])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        return converter.convert()


def check_file(content, parameter_bytes):
    """Check that a .tflite file holds its weights, and nothing that interpreters lack.

    Args:
        content: bytes.
        parameter_bytes: int, size of the model's weights in float32.

    Returns:
        tuple of str: what was found to hold.

    Raises:
        RuntimeError: it does not hold.
    """
    model = schema.Model.GetRootAs(content)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    used = sorted({names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())] for code in codes})
    if "CUSTOM" in used:
        custom = sorted(code.CustomCode().decode() for code in codes if code.CustomCode())
        raise RuntimeError(
            f"The .tflite file must need builtin operations only. Received: {custom}."
        )
    if "VAR_HANDLE" in used or len(content) < LEAST_SHARE * parameter_bytes:
        raise RuntimeError(
            f"The .tflite file must hold the model's weights ({parameter_bytes} bytes in float32). "
            f"Received: a file of {len(content)} bytes with the operations {used}."
        )
    return f"{len(used)} builtin operations, no other", "weights inside the file"


def _input_order(content):
    """Our names of the inputs, in the order of the graph, which is not that of the signature."""
    model = schema.Model.GetRootAs(content)
    signature, graph = model.SignatureDefs(0), model.Subgraphs(0)
    pairs = [signature.Inputs(i) for i in range(signature.InputsLength())]
    names = {pair.TensorIndex(): pair.Name().decode() for pair in pairs}
    return [names[graph.Inputs(i)] for i in range(graph.InputsLength())]


def _with_tokenizer(content, scorer):
    """Put labels and tokenizer into the file: in MediaPipe's form where it has such tokenizers."""
    tokenizer = scorer.tokenizer
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = {path.name: path.read_bytes() for path in sorted(pathlib.Path(folder).iterdir())}
    files[TASK_FILE] = describe(scorer.model).encode()
    if not isinstance(tokenizer, WordPieceTokenizer):
        return metadata.attach_files(content, scorer.labels, files)
    # What MediaPipe does not ask for, and whoever tokenizes in an app has to know.
    options = {name: files[name] for name in ("tokenizer_config.json", TASK_FILE)}
    order = _input_order(content)
    return metadata.attach(content, order, tokenizer.vocab, scorer.labels, options)


def _verify(scorer, file, texts, tolerance, quantize):
    """Run the file in a fresh process; return fields of the report, and checks."""
    expected, keras_milliseconds = scorer.score_texts(texts)
    ids = scorer.tokenize(texts, pad_to=scorer.max_length)
    calls = [
        {name: rows[i : i + 1].tolist() for name, rows in ids.items()} for i in range(len(texts))
    ]
    question = {"file": os.fspath(file), "signature": SIGNATURE, "calls": calls}
    answer = verify.run("run_tflite.py", question)
    what = f"The .tflite file ({quantize or 'float32'})"
    wanted = {name: [[1, scorer.max_length], "int32"] for name in scorer.input_names}
    scores = {"scores": [[1, len(scorer.labels)], "float32"]}
    if answer["inputs"] != wanted or answer["outputs"] != scores:
        raise RuntimeError(
            f"{what} must have the inputs {wanted} and the outputs {scores}. Received: "
            f"{answer['inputs']} and {answer['outputs']}."
        )
    received = [row for call in answer["calls"] for row in call["outputs"]["scores"]]
    check = verify.check_labels if quantize == "int8" else verify.check_difference
    numbers = check(expected, received, tolerance, what)
    seconds = sum(call["seconds"] for call in answer["calls"])
    numbers["milliseconds"] = 1000 * seconds / len(texts)
    numbers["keras_milliseconds"] = keras_milliseconds
    return numbers, (FRESH,)


def _warnings(scorer):
    tokenizer = scorer.tokenizer
    if not isinstance(tokenizer, WordPieceTokenizer):
        yield (
            "MediaPipe has no such tokenizer, so it does not run this file. Tokenize in the app, "
            "and run the file with LiteRT."
        )
        return
    strip = tokenizer.lowercase if tokenizer.strip_accents is None else tokenizer.strip_accents
    if not tokenizer.lowercase:
        yield (
            "MediaPipe lower-cases all ASCII letters, and this vocabulary is cased: scores there "
            "will differ. Tokenize in the app, and run the file with LiteRT."
        )
    elif strip:
        yield (
            "MediaPipe neither strips accents nor lower-cases beyond ASCII: the app has to, as "
            "kerasllm.export.metadata.plain_text does."
        )
    if not tokenizer.split_cjk:
        yield "MediaPipe splits Chinese text, and this tokenizer does not: scores will differ."
    if set(scorer.input_names) != set(metadata.INPUTS):
        yield "MediaPipe wants three inputs, and this model has no segment ids. LiteRT runs it."
