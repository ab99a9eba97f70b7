import json
import os
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from tiny_classifier import LABELS, keras_scores, tiny_classifier

from kerasllm.export import tflite, to_tflite, verify
from kerasllm.export.metadata import plain_text
from kerasllm.export.scorer import Scorer, float32_copy

MAX_LENGTH = 24
INPUT_NAMES = {"token_ids", "padding_mask", "segment_ids"}
TEXTS = ["Not dull!", "", "Éclair au café 🎉", "好 好 bad", "long " * 200]
VARIANTS = {"float32": 1e-5, "float16": 0.01, "int8": 0.1}


@pytest.fixture(scope="module")
def model():
    return tiny_classifier()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """Path and report of each variant."""
    folder = tmp_path_factory.mktemp("phone")
    quantize = {"float32": None}
    return {
        name: (
            folder / f"{name}.tflite",
            to_tflite(
                model,
                folder / f"{name}.tflite",
                quantize=quantize.get(name, name),
                max_length=MAX_LENGTH,
            ),
        )
        for name in VARIANTS
    }


def run(path, model, texts):
    signature = Interpreter(str(path)).get_signature_runner("serving_default")
    ids = model.tokenizer(texts, max_length=MAX_LENGTH, pad_to=MAX_LENGTH)
    return np.concatenate(
        [
            signature(**{name: rows[i : i + 1] for name, rows in ids.items()})["scores"]
            for i in range(len(texts))
        ]
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_report_is_complete_and_stands_beside_the_file(exported, variant):
    path, report = exported[variant]
    written = json.loads((path.parent / f"{path.name}.report.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(report.to_dict()))
    assert (report.target, report.variant, report.path) == ("tflite", variant, str(path))
    assert report.sentences == len(verify.SENTENCES)
    assert 0 < report.mean_difference <= report.largest_difference <= VARIANTS[variant]
    assert report.bytes == path.stat().st_size
    assert report.milliseconds > 0
    assert report.keras_milliseconds > 0
    assert len(report.checks) == 3
    assert "builtin operations" in report.checks[1]


def test_nothing_else_is_written(exported):
    folder = exported["float32"][0].parent
    names = {f"{name}.tflite{end}" for name in VARIANTS for end in ("", ".report.json")}
    assert {path.name for path in folder.iterdir()} == names


@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_are_those_of_keras(model, exported, variant):
    expected = keras_scores(model, TEXTS, MAX_LENGTH)
    assert np.ptp(expected[:, 0]) > 0.1  # else the comparison would say little
    received = run(exported[variant][0], model, TEXTS)
    np.testing.assert_allclose(received, expected, atol=VARIANTS[variant])
    np.testing.assert_allclose(received.sum(axis=1), np.ones(len(TEXTS)), atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_signature_has_its_names_types_and_static_shapes(exported, variant):
    interpreter = Interpreter(str(exported[variant][0]))
    assert list(interpreter.get_signature_list()) == ["serving_default"]
    signature = interpreter.get_signature_runner("serving_default")
    inputs, outputs = signature.get_input_details(), signature.get_output_details()
    assert set(inputs) == INPUT_NAMES
    assert set(outputs) == {"scores"}
    for tensor in inputs.values():
        assert tensor["dtype"] == np.int32
        assert tensor["shape"].tolist() == tensor["shape_signature"].tolist() == [1, MAX_LENGTH]
    assert outputs["scores"]["dtype"] == np.float32
    assert outputs["scores"]["shape"].tolist() == [1, 3]


def test_variants_store_weights_in_their_types(model, exported):
    largest = {}
    for variant, (path, _) in exported.items():
        graph = schema.Model.GetRootAs(path.read_bytes()).Subgraphs(0)
        tensors = [graph.Tensors(i) for i in range(graph.TensorsLength())]
        rows = [t for t in tensors if t.ShapeAsNumpy().tolist() == [model.config.vocab_size, 32]]
        largest[variant] = {tensor.Type() for tensor in rows}
    assert largest["float32"] == {schema.TensorType.FLOAT32}
    assert schema.TensorType.FLOAT16 in largest["float16"]
    assert largest["int8"] == {schema.TensorType.INT8}
    sizes = {variant: report.bytes for variant, (_, report) in exported.items()}
    assert sizes["int8"] < sizes["float16"] < sizes["float32"]


def test_file_carries_its_tokenizer(model, exported, tmp_path):
    with zipfile.ZipFile(exported["int8"][0]) as archive:
        assert archive.namelist() == [
            *("vocab.txt", "labels.txt", "tokenizer_config.json", "task.json"),
        ]
        assert archive.read("labels.txt").decode() == "".join(f"{label}\n" for label in LABELS)
        archive.extractall(tmp_path)
    tokenizer = type(model.tokenizer).from_pretrained(tmp_path)
    texts = [*TEXTS, *verify.SENTENCES]
    assert [tokenizer.encode(t) for t in texts] == [model.tokenizer.encode(t) for t in texts]


@pytest.fixture(scope="module")
def text_tasks():
    return pytest.importorskip(
        "mediapipe.tasks.python.text", reason="mediapipe runs the files as phones do"
    )


def classify(text_tasks, path, texts):
    """Scores by MediaPipe, in the order of LABELS."""
    rows = []
    with text_tasks.TextClassifier.create_from_model_path(str(path)) as classifier:
        for text in texts:
            (head,) = classifier.classify(text).classifications
            scores = {category.category_name: category.score for category in head.categories}
            assert set(scores) == set(LABELS)
            rows.append([scores[label] for label in LABELS])
    return np.array(rows)


@pytest.mark.parametrize("variant", VARIANTS)
def test_mediapipe_runs_the_file_unchanged(text_tasks, model, exported, variant):
    texts = ["A warm, funny film!", "DULL", "", "饭都凉了,差评。", "long " * 200, "a [SEP] b"]
    received = classify(text_tasks, exported[variant][0], texts)
    np.testing.assert_allclose(received, run(exported[variant][0], model, texts), atol=2e-5)
    expected = keras_scores(model, texts, MAX_LENGTH)
    np.testing.assert_allclose(received, expected, atol=VARIANTS[variant])


def test_mediapipe_needs_accents_stripped_and_other_scripts_lower_cased(
    text_tasks, model, exported
):
    path, report = exported["float32"]
    assert any("strips accents" in warning for warning in report.warnings)

    texts = [*verify.SENTENCES, "ΌΛΑ ΚΑΛΆ ΣΑΣ", "no\u00a0break\u3000and\x00nul\u200b", "İstanbul"]
    expected = keras_scores(model, texts, MAX_LENGTH)
    as_they_are = classify(text_tasks, path, texts)
    assert np.abs(as_they_are - expected).max() > 1e-3
    received = classify(text_tasks, path, [plain_text(text) for text in texts])
    np.testing.assert_allclose(received, expected, atol=1e-5)


def test_a_cased_vocabulary_is_warned_about(tmp_path, monkeypatch):
    monkeypatch.setattr(tflite, "_verify", lambda *_: (dict(NUMBERS), ()))
    report = to_tflite(tiny_classifier(lowercase=False), tmp_path / "cased.tflite", max_length=8)
    assert any("this vocabulary is cased" in warning for warning in report.warnings)
    assert "WARNING" in str(report)


NUMBERS = {
    "sentences": 1,
    "largest_difference": 0.0,
    "mean_difference": 0.0,
    "label_flips": 0,
    "keras_milliseconds": 1.0,
    "milliseconds": 1.0,
}


@pytest.mark.parametrize("quantize", [None, "int8"])
@pytest.mark.parametrize("dtype", ["bfloat16", "mixed_float16"])
def test_any_policy_is_exported_from_float32(dtype, quantize, tmp_path, monkeypatch):
    model = tiny_classifier(dtype)
    monkeypatch.setattr(tflite, "_verify", lambda *_: (dict(NUMBERS), ()))
    path = tmp_path / "tiny.tflite"
    to_tflite(model, path, quantize=quantize, max_length=MAX_LENGTH)
    copy = float32_copy(model)
    copy.tokenizer = model.tokenizer
    expected = keras_scores(copy, TEXTS, MAX_LENGTH)
    np.testing.assert_allclose(
        run(path, model, TEXTS), expected, atol=VARIANTS[quantize or "float32"]
    )


def test_another_process_writes_the_same_bytes(exported, tmp_path):
    script = f"""
import sys
sys.path[:0] = {[str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parents[1])]}
from kerasllm.export import tflite
from tiny_classifier import tiny_classifier
tflite._verify = lambda *_: ({NUMBERS!r}, ())
tflite.to_tflite(tiny_classifier(), "same.tflite", max_length={MAX_LENGTH})
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, stderr=subprocess.PIPE)
    assert (tmp_path / "same.tflite").read_bytes() == exported["float32"][0].read_bytes()


class HoldsKeras(Scorer):
    """The trap: TensorFlow tracks the Keras model instead of its variables."""

    def __init__(self, model, max_length):
        super().__init__(model, max_length)
        self.weights = []
        self.copy = float32_copy(model)
        self._scores = lambda inputs: tf.nn.softmax(self.copy(inputs))


def test_a_file_without_weights_is_refused(model, exported):
    size = Scorer(model).parameter_bytes
    content = tflite.convert(HoldsKeras(model, MAX_LENGTH))
    with pytest.raises(RuntimeError, match=r"must hold the model's weights .*VAR_HANDLE"):
        tflite.check_file(content, size)
    whole = exported["int8"][0].read_bytes()
    assert "weights inside the file" in tflite.check_file(whole, size)
    with pytest.raises(RuntimeError, match=r"must hold the model's weights"):
        tflite.check_file(whole, 6 * len(whole))


def test_a_file_with_operations_of_tensorflow_is_refused(tmp_path):
    module = tf.Module()
    module.call = tf.function(
        lambda x: {"y": tf.strings.length(tf.strings.as_string(x))},
        input_signature=[tf.TensorSpec([1], tf.float32)],
    )
    tf.saved_model.save(module, str(tmp_path), module.call)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path))
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS,
        tf.lite.OpsSet.SELECT_TF_OPS,
    ]
    with pytest.raises(RuntimeError, match=r"builtin operations only.*FlexAsString"):
        tflite.check_file(converter.convert(), 0)


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_wrong_scores_are_an_error_and_leave_what_was_there(model, quantize, tmp_path, monkeypatch):
    score_texts = Scorer.score_texts

    def shifted(self, texts):
        scores, milliseconds = score_texts(self, texts)
        return scores[:, ::-1], milliseconds

    monkeypatch.setattr(Scorer, "score_texts", shifted)
    path = tmp_path / "tiny.tflite"
    path.write_bytes(b"an older one")
    with pytest.raises(ValueError, match=r"\.tflite file .* must .* label flips"):
        to_tflite(model, path, quantize=quantize, max_length=MAX_LENGTH)
    assert os.listdir(tmp_path) == ["tiny.tflite"]
    assert path.read_bytes() == b"an older one"


def test_wrong_names_or_types_are_an_error(model, tmp_path, monkeypatch):
    ask = verify.run

    def other_types(*arguments):
        answer = ask(*arguments)
        answer["inputs"]["token_ids"][1] = "float32"
        return answer

    monkeypatch.setattr(verify, "run", other_types)
    with pytest.raises(RuntimeError, match=r"must have the inputs .* Received: .*float32"):
        to_tflite(model, tmp_path / "tiny.tflite", max_length=MAX_LENGTH)
    assert os.listdir(tmp_path) == []


def test_a_short_model_is_exported_as_it_is(model, tmp_path, monkeypatch):
    lengths = []
    monkeypatch.setattr(tflite, "convert", lambda scorer, _: lengths.append(scorer.max_length))
    for max_length in (None, 24):
        with pytest.raises(TypeError):  # there is no content to go on with
            to_tflite(model, tmp_path / "tiny.tflite", max_length=max_length)
    assert lengths == [64, 24]


def test_arguments_are_checked(model, tmp_path):
    with pytest.raises(ValueError, match=r"`quantize` must be one of .*Received: 'int4'"):
        to_tflite(model, tmp_path / "tiny.tflite", quantize="int4")
    with pytest.raises(ValueError, match=r"`max_length` must be from 3 to 64.* Received: 128"):
        to_tflite(model, tmp_path / "tiny.tflite", max_length=128)
    with pytest.raises(ValueError, match=r"`tolerance` must be a number of at least 0.*: nan"):
        to_tflite(model, tmp_path / "tiny.tflite", tolerance=float("nan"))
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"can't be written"):
        to_tflite(model, tmp_path / "file" / "tiny.tflite", max_length=8)
    assert os.listdir(tmp_path) == ["file"]
