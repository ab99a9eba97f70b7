import pathlib
import shutil
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from tiny_classifier import LABELS, keras_scores, tiny_classifier
from tiny_task import rows

from kerasllm.export import load_artefact, to_tflite
from kerasllm.models import BertClassifier
from kerasllm.tasks import text_classification

TEXTS = [row["text"] for row in rows(20, seed=5)]  # more than one batch
TOLERANCE = {"saved_model": 1e-5, "tflite": 1e-4}


@pytest.fixture(scope="module")
def expected(trained):
    model = BertClassifier.from_pretrained(trained.folder)
    return text_classification.predict(model, [{"text": text} for text in TEXTS])


@pytest.mark.parametrize("target", TOLERANCE)
def test_answers_as_the_model_does(exported, expected, target):
    artefact = load_artefact(getattr(exported, target))
    assert artefact.labels == ("negative", "positive")
    scores = artefact.predict(TEXTS)
    assert scores.shape == (20, 2)
    np.testing.assert_allclose(scores, expected, atol=TOLERANCE[target])
    np.testing.assert_array_equal(scores.argmax(axis=1), expected.argmax(axis=1))
    np.testing.assert_allclose(artefact.predict(TEXTS[:1]), expected[:1], atol=TOLERANCE[target])


def test_the_newest_version_is_taken(exported, tmp_path):
    for version in (2, 10):
        shutil.copytree(exported.saved_model / "1", tmp_path / str(version))
    labels = tmp_path / "10" / "assets.extra" / "labels.txt"
    labels.write_text("bad\ngood\n", encoding="utf-8")
    for place, found in (
        (tmp_path, ("bad", "good")),
        (tmp_path / "2", ("negative", "positive")),
        (str(tmp_path / "10"), ("bad", "good")),
    ):
        assert load_artefact(place).labels == found


def test_other_things_are_no_artefacts(trained, tmp_path):
    (tmp_path / "1").mkdir()
    for path in (trained.folder, trained.train, tmp_path, "no/such", "bert_tiny"):
        assert load_artefact(path) is None


@pytest.mark.parametrize(
    ("file", "keep", "message"),
    [
        ("saved_model.pb", 0, "must be a whole SavedModel. Received: one that TensorFlow can't"),
        ("saved_model.pb", 5000, "must be a whole SavedModel"),
        ("variables/variables.data-00000-of-00001", 500, "must be a whole SavedModel"),
        ("assets.extra/task.json", 5, "task.json` is not valid JSON"),
        ("assets.extra/task.json", None, "`task` must be one of .* Received: 'telepathy'"),
    ],
)
def test_a_damaged_saved_model_is_told(exported, tmp_path, file, keep, message):
    path = shutil.copytree(exported.saved_model / "1", tmp_path / "1") / file
    content = path.read_bytes()
    path.write_bytes(b'{"task": "telepathy"}' if keep is None else content[:keep])
    with pytest.raises(ValueError, match=message):
        load_artefact(tmp_path)


def test_a_saved_model_of_another_make_is_refused(tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path / "1"))
    with pytest.raises(ValueError, match="that `to_saved_model` wrote .* whose inputs are none"):
        load_artefact(tmp_path)


@pytest.mark.parametrize("cut", ["all", "archive"])
def test_a_tflite_file_of_another_make_is_refused(exported, tmp_path, cut):
    content = pathlib.Path(exported.tflite).read_bytes()
    content = b"" if cut == "all" else content[: content.rindex(b"PK\x01\x02")]
    path = tmp_path / "other.tflite"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.tflite` must hold a vocabulary.*`to_tflite`"):
        load_artefact(path)


def test_a_file_of_a_language_model_is_refused(tmp_path):
    path = tmp_path / "writer.tflite"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tokenizer.json", "{}")
    with pytest.raises(ValueError, match="must be of a text classifier. Received: one of a langua"):
        load_artefact(path)


def test_text_is_tokenized_as_the_model_was_trained(tmp_path):
    model = tiny_classifier(lowercase=False)
    to_tflite(model, tmp_path / "cased.tflite", max_length=24, texts=["It was dull."])
    artefact = load_artefact(tmp_path / "cased.tflite")
    assert artefact.labels == LABELS
    texts = ["The Soup was cold", "the soup was cold", "Éclair", "eclair"]
    scores = artefact.predict(texts)
    np.testing.assert_allclose(scores, keras_scores(model, texts, 24), atol=1e-4)
    assert np.abs(scores[0] - scores[1]).max() > 0.01
    assert np.abs(scores[2] - scores[3]).max() > 0.01
