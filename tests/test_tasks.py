"""`kerasllm.tasks`: what each of them has, and which one a model is for."""

import keras
import pytest
from tiny_classifier import tiny_classifier
from tiny_task import rows

from kerasllm import BertClassifier, fit
from kerasllm.tasks import TASKS, evaluate, task_named, task_of, text_classification

NAMES = ("predict", "answers", "evaluate", "head", "texts", "loss", "metrics")


@pytest.mark.parametrize("name", TASKS)
def test_each_has_the_agreed_names(name):
    task = TASKS[name]
    assert issubclass(task.MODEL, keras.Model)
    assert task.COLUMNS or task.OPTIONAL_COLUMNS
    assert not set(task.COLUMNS) & set(task.OPTIONAL_COLUMNS)
    assert isinstance(task.MONITOR, str)
    assert {"figures", "tables", "pictures", "to_dict", "from_dict"} <= set(dir(task.RESULT))
    # A model with several outputs has losses and metrics by their names.
    assert all(isinstance(loss, keras.losses.Loss) for loss in keras.tree.flatten(task.loss()))
    metrics = keras.tree.flatten(task.metrics())
    assert all(isinstance(metric, keras.metrics.Metric) for metric in metrics)
    assert all(getattr(task, function).__doc__ for function in NAMES)
    assert hasattr(task, "encode") != hasattr(task, "dataset")


def test_the_task_of_a_model():
    model = tiny_classifier()
    assert task_of(model) is text_classification
    model.task = "sst-2"  # what a published checkpoint may call it
    assert task_of(model) is text_classification
    assert task_of(keras.Sequential()) is None


def test_a_model_remembers_its_task(tmp_path):
    model = BertClassifier.from_pretrained(_saved(tmp_path / "fresh"))
    assert model.task is None
    fit(model, rows(8), task="text_classification", epochs=1, batch_size=8, progress=False)
    model.save_pretrained(tmp_path / "trained")
    assert BertClassifier.from_pretrained(tmp_path / "trained").task == "text_classification"
    assert BertClassifier.from_config(model.get_config()).task == "text_classification"


def _saved(folder):
    from tiny_task import classifier

    classifier().save_pretrained(folder)
    return folder


def test_unknown_names_and_other_models_are_refused():
    with pytest.raises(ValueError, match=r"`task` must be one of text_classification.*'x'"):
        task_named("x")
    with pytest.raises(TypeError, match="`model` must be a TokenClassifier for the task"):
        fit(tiny_classifier(), rows(8), task="token_classification", progress=False)
    with pytest.raises(TypeError, match=r"`model` must be .*a Sequential .*`evaluate_scores`"):
        evaluate(keras.Sequential(), rows(8))
