import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the tokenizer's operations)
from tensorflow.core.protobuf import saved_model_pb2
from tiny_classifier import LABELS, keras_scores, tiny_classifier

from kerasllm.export import saved_model, to_saved_model, verify
from kerasllm.export.scorer import Scorer, float32_copy

MAX_LENGTH = 24
# None of them is among the sentences of the verification.
TEXTS = ["Not dull!", "", "Éclair \u0000 au café 🎉", "好 好 bad", "long " * 200]


@pytest.fixture(scope="module")
def model():
    return tiny_classifier()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving") / "tiny"
    report = to_saved_model(model, folder, max_length=MAX_LENGTH)
    return folder / "1", report


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(str(exported[0]))


def test_report_is_complete_and_stands_beside_the_model(exported):
    folder, report = exported
    written = json.loads((folder / "assets.extra" / "report.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(report.to_dict()))
    assert (report.target, report.variant, report.path) == ("saved_model", "float32", str(folder))
    assert report.sentences == len(verify.SENTENCES)
    assert 0 <= report.mean_difference <= report.largest_difference <= 1e-5
    assert report.label_flips == 0
    assert report.milliseconds > 0
    assert report.keras_milliseconds > 0
    assert len(report.checks) == 3
    assert "signatures classify, pairs, serving_default, token_ids" in report.checks[1]
    assert "C API" in report.checks[1]
    text = str(report)
    assert "label flips         0" in text
    assert "MB" in text
    assert str(folder) in text


def test_folder_holds_what_serving_reads(exported):
    folder, _ = exported
    names = {entry.name for entry in folder.iterdir()}
    assert {"saved_model.pb", "variables", "assets.extra"} <= names
    task = json.loads((folder / "assets.extra" / "task.json").read_text("utf-8"))
    assert task["task"] == "text_classification"
    assert (folder / "assets.extra" / "labels.txt").read_text("utf-8").split("\n")[:3] == [*LABELS]
    assert [entry.name for entry in folder.parent.iterdir()] == ["1"]


def test_signatures_have_their_names_types_and_shapes(exported):
    folder, _ = exported
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    signatures = saved.meta_graphs[0].signature_def

    def described(infos):
        return {
            name: (tf.as_dtype(info.dtype).name, [dim.size for dim in info.tensor_shape.dim])
            for name, info in infos.items()
        }

    ids = ("int32", [-1, -1])
    answer = {"scores": ("float32", [-1, 3]), "label": ("string", [-1])}
    text = signatures["serving_default"]
    assert described(text.inputs) == {"text": ("string", [-1])}
    assert described(text.outputs) == answer
    assert text.method_name == "tensorflow/serving/predict"
    token_ids = signatures["token_ids"]
    assert described(token_ids.inputs) == dict.fromkeys(
        ["token_ids", "padding_mask", "segment_ids"], ids
    )
    assert described(token_ids.outputs) == answer
    classify = signatures["classify"]
    assert described(classify.inputs) == {"inputs": ("string", [-1])}
    assert described(classify.outputs) == {
        "scores": ("float32", [-1, 3]),
        "classes": ("string", [-1, 3]),
    }
    assert classify.method_name == "tensorflow/serving/classify"


def test_text_gives_the_scores_and_labels_of_keras(model, loaded):
    expected = keras_scores(model, TEXTS, MAX_LENGTH)
    assert np.ptp(expected[:, 0]) > 0.1  # else the comparison would say little
    answer = loaded.signatures["serving_default"](text=tf.constant(TEXTS))
    np.testing.assert_allclose(answer["scores"], expected, atol=1e-5)
    assert [label.decode() for label in answer["label"].numpy()] == [
        LABELS[i] for i in expected.argmax(axis=1)
    ]


def test_token_ids_give_the_scores_of_keras(model, loaded):
    ids = model.tokenizer(TEXTS, max_length=MAX_LENGTH)
    answer = loaded.signatures["token_ids"](**{key: tf.constant(ids[key]) for key in ids})
    expected = keras_scores(model, TEXTS, MAX_LENGTH)
    np.testing.assert_allclose(answer["scores"], expected, atol=1e-5)


def test_classify_takes_examples(model, loaded):
    def example(text):
        feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()]))
        return tf.train.Example(features=tf.train.Features(feature={"text": feature}))

    inputs = tf.constant([example(text).SerializeToString() for text in TEXTS])
    answer = loaded.signatures["classify"](inputs=inputs)
    expected = keras_scores(model, TEXTS, MAX_LENGTH)
    np.testing.assert_allclose(answer["scores"], expected, atol=1e-5)
    assert answer["classes"].numpy().tolist() == [[label.encode() for label in LABELS]] * len(TEXTS)


@pytest.mark.parametrize("rows", [0, 1, 100])
def test_batches_of_any_size(loaded, rows):
    text = tf.constant([f"film number {i}" for i in range(rows)], tf.string)
    answer = loaded.signatures["serving_default"](text=text)
    assert answer["scores"].shape == (rows, 3)
    assert answer["label"].shape == (rows,)
    np.testing.assert_allclose(np.sum(answer["scores"], axis=1), np.ones(rows), atol=1e-5)
    ids = tf.ones([rows, 5], tf.int32)
    answer = loaded.signatures["token_ids"](token_ids=ids, padding_mask=ids, segment_ids=0 * ids)
    assert answer["scores"].shape == (rows, 3)
    empty = tf.constant([tf.train.Example().SerializeToString()][:0], tf.string)
    assert loaded.signatures["classify"](inputs=empty)["classes"].shape == (0, 3)


def test_weights_are_stored_once(model, exported):
    reader = tf.train.load_checkpoint(str(exported[0] / "variables" / "variables"))
    shapes = reader.get_variable_to_shape_map()
    stored = sum(int(np.prod(shape)) for name, shape in shapes.items() if "GRAPH" not in name)
    assert stored == model.count_params()


def test_verification_sees_weights_stored_twice_or_not_at_all(model, tmp_path):
    scorer = Scorer(model)
    for weights in (
        [],
        [*scorer.weights, *[weight.value for weight in float32_copy(model).weights]],
    ):
        module = tf.Module()
        module.weights = weights
        tf.saved_model.save(module, str(tmp_path))
        with pytest.raises(
            RuntimeError, match=r"must hold the .* bytes of the model's weights once"
        ):
            saved_model._check_weights_once(scorer, tmp_path)


def test_c_api_sees_what_the_python_loader_does_not(model, tmp_path):
    """A module that holds the Keras model itself: TensorFlow Serving fails at the first request."""

    class HoldsKeras(Scorer):
        def __init__(self, model):
            super().__init__(model)
            self.weights = []
            self.copy = float32_copy(model)
            self._scores = lambda inputs: tf.nn.softmax(self.copy(inputs))

    scorer = HoldsKeras(model)
    folder = tmp_path / "1"
    saved_model._write(scorer, folder)
    question = {
        "folder": str(folder),
        "calls": list(scorer.calls()),
        "signatures": saved_model.signature_tensors(folder),
    }
    assert len(verify.run("run_saved_model.py", question)) == len(question["calls"])
    with pytest.raises(RuntimeError, match=r"run_c_api.*Could not find variable"):
        verify.run("run_c_api.py", question)


NUMBERS = {
    "sentences": 1,
    "largest_difference": 0.0,
    "mean_difference": 0.0,
    "label_flips": 0,
    "keras_milliseconds": 1.0,
    "milliseconds": 1.0,
}


def float32_copy_with_tokenizer(model):
    copy = float32_copy(model)
    copy.tokenizer = model.tokenizer
    return copy


@pytest.mark.parametrize("dtype", ["bfloat16", "mixed_float16"])
def test_any_policy_is_exported_in_float32(dtype, tmp_path, monkeypatch):
    model = tiny_classifier(dtype)
    monkeypatch.setattr(saved_model, "_ask", lambda *_: (dict(NUMBERS), ()))
    to_saved_model(model, tmp_path, max_length=MAX_LENGTH)
    answer = tf.saved_model.load(str(tmp_path / "1")).signatures["serving_default"](
        text=tf.constant(TEXTS)
    )
    expected = keras_scores(float32_copy_with_tokenizer(model), TEXTS, MAX_LENGTH)
    np.testing.assert_allclose(answer["scores"], expected, atol=1e-5)
    np.testing.assert_allclose(keras_scores(model, TEXTS, MAX_LENGTH), expected, atol=0.1)
    graph = (tmp_path / "1" / "saved_model.pb").read_bytes()
    nodes = saved_model_pb2.SavedModel.FromString(graph).meta_graphs[0].graph_def.library.function
    types = {node.attr["T"].type for function in nodes for node in function.node_def}
    assert not types & {tf.bfloat16.as_datatype_enum, tf.float16.as_datatype_enum}


def test_versions_count_up_and_are_never_overwritten(model, tmp_path):
    for name in ("2", "10", "notes", ".11-aside"):
        (tmp_path / name).mkdir()
    assert saved_model._checked_version(tmp_path, None) == 11
    assert saved_model._checked_version(tmp_path, 5) == 5
    assert saved_model._checked_version(tmp_path / "absent", None) == 1
    with pytest.raises(FileExistsError, match=r"`version` must be new. Received: 10"):
        to_saved_model(model, tmp_path, version=10)
    for version in (0, -1, "3", True, 1.0):
        with pytest.raises(ValueError, match=r"`version` must be an integer of at least 1"):
            to_saved_model(model, tmp_path, version=version)


def test_wrong_scores_are_an_error_and_leave_nothing(model, tmp_path, monkeypatch):
    predict = Scorer.predict
    monkeypatch.setattr(Scorer, "predict", lambda self, rows: predict(self, rows)[:, ::-1])
    with pytest.raises(
        ValueError, match=r"within 1e-05\. Received: a largest difference of 0\.\d+"
    ):
        to_saved_model(model, tmp_path / "deep" / "tiny")
    assert list(tmp_path.iterdir()) == []


def test_arguments_are_checked(model, tmp_path):
    for max_length in (2, 65):
        with pytest.raises(ValueError, match=r"`max_length` must be from 3 to 64"):
            to_saved_model(model, tmp_path, max_length=max_length)
    for tolerance in (-1.0, float("nan"), None, "1"):
        with pytest.raises(ValueError, match=r"`tolerance` must be a number of at least 0"):
            to_saved_model(model, tmp_path, tolerance=tolerance)
    with pytest.raises(TypeError, match=r"`texts` must be a list of str"):
        to_saved_model(model, tmp_path, texts="one text")
    with pytest.raises(ValueError, match=r"`texts` must hold at least one"):
        to_saved_model(model, tmp_path, texts=[])
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_is_needed_that_fits(tmp_path):
    model = tiny_classifier()
    large, model.tokenizer = model.tokenizer, None
    with pytest.raises(ValueError, match=r"`model` must have a tokenizer"):
        to_saved_model(model, tmp_path)
    model.tokenizer = type(large)([*large.vocab, "onemore"])
    with pytest.raises(ValueError, match=r"must have a row for each entry of its tokenizer"):
        to_saved_model(model, tmp_path)


def test_a_folder_that_cant_be_written_is_named(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file.*can't be written"):
        to_saved_model(model, tmp_path / "file" / "tiny")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
@pytest.mark.parametrize("target", ["saved_model", "tflite"])
def test_ctrl_c_leaves_neither_files_nor_processes(target, tmp_path):
    runners, out = tmp_path / "runners", tmp_path / "out"
    runners.mkdir()
    started = tmp_path / "started"
    # A verification that does not end, and says who it is.
    sleeper = (
        f"import os, time; open({str(started)!r}, 'w').write(str(os.getpid())); time.sleep(120)"
    )
    for name in ("run_saved_model.py", "run_tflite.py"):
        (runners / name).write_text(sleeper)
    script = f"""
import pathlib, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background, it may be ignored
sys.path[:0] = {[str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parents[1])]}
from kerasllm.export import TARGETS, verify
from tiny_classifier import tiny_classifier
verify.RUNNERS = pathlib.Path({str(runners)!r})
TARGETS[{target!r}](tiny_classifier(), {str(out / "tiny")!r}, max_length=16)
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 120
            while not (started.exists() and started.read_text()):
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert any(out.rglob("*"))  # there is something to clean up
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode != 0
    assert "KeyboardInterrupt" in said
    assert [path for path in out.rglob("*") if path.is_file()] == []
    assert not any(path.name.startswith(".") for path in out.rglob("*"))
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)
