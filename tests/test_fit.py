import importlib
import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_task import classifier, rows

from kerasllm import evaluate
from kerasllm.data.batches import batches
from kerasllm.tasks import text_classification
from kerasllm.training import AdamW, LinearWarmup, fit, layer_rates

# The package has a function of the module's name.
fit_module = importlib.import_module("kerasllm.training.fit")

QUICK = {"batch_size": 4, "learning_rate": 0.01, "progress": False}
TRAIN, VALIDATION = rows(32), rows(16, seed=1)


@pytest.fixture(scope="module")
def trained():
    """A model that learned `TRAIN`, and its history."""
    model = classifier()
    return model, fit(model, TRAIN, TRAIN, epochs=6, **QUICK)


def weights_of(model):
    return [weight.numpy() for weight in model.weights]


def equal(ours, theirs):
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


class Spy(keras.callbacks.Callback):
    """Which epochs ran, and the weights at their ends."""

    def on_train_begin(self, logs=None):
        self.epochs, self.weights = [], []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(epoch)
        self.weights.append(weights_of(self.model))


class Spoil(keras.callbacks.Callback):
    """Make the model forget all as an epoch begins."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            for weight in self.model.trainable_weights:
                weight.assign(0 * weight)


class Crash(keras.callbacks.Callback):
    """Fail as an epoch begins."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise RuntimeError("the machine went down")


def test_learns_a_separable_task(trained):
    model, history = trained
    assert max(history["val_accuracy"]) == 1.0
    assert history["loss"][-1] < 0.3 < history["loss"][0]
    assert evaluate(model, TRAIN).accuracy == 1.0


def test_history_holds_plain_numbers_one_an_epoch(trained):
    _, history = trained
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"}
    assert {len(values) for name, values in history.items() if name != "learning_rate"} == {6}
    assert json.loads(json.dumps(history)) == history
    steps = 6 * 8
    schedule = LinearWarmup(0.01, steps, round(0.1 * steps))
    wanted = [float(schedule(step)) for step in range(steps)]
    np.testing.assert_allclose(history["learning_rate"], wanted, rtol=1e-6)


def test_long_curves_are_thinned_out(monkeypatch):
    monkeypatch.setattr(fit_module, "MOST_RATES", 5)
    found = fit(classifier(), TRAIN, epochs=2, warmup=0, **QUICK)["learning_rate"]
    np.testing.assert_allclose(found, [0.01 * (16 - step) / 16 for step in (0, 3, 7, 11, 15)])


def test_the_best_epoch_is_kept():
    spy, model = Spy(), classifier()
    history = fit(model, TRAIN, TRAIN, epochs=6, callbacks=[Spoil(5), spy], **QUICK)
    best = int(np.argmax(history["val_accuracy"]))
    assert best < 5
    assert history["val_accuracy"][5] < history["val_accuracy"][best]
    assert equal(weights_of(model), spy.weights[best])
    assert not equal(weights_of(model), spy.weights[5])


def test_patience_ends_the_run():
    recipe = {**QUICK, "learning_rate": 1e-12}
    spy = Spy()
    history = fit(classifier(), TRAIN, VALIDATION, epochs=9, patience=2, callbacks=[spy], **recipe)
    assert spy.epochs == [0, 1, 2]
    assert len(history["loss"]) == 3
    assert len(history["learning_rate"]) == 3 * 8


def test_a_seed_repeats_a_run(trained):
    again, other = (fit(classifier(), TRAIN, TRAIN, epochs=6, seed=s, **QUICK) for s in (0, 1))
    assert again == trained[1]
    assert other["loss"] != again["loss"]


def test_datasets_serve_as_rows_do(trained):
    model = classifier()
    inputs, targets = text_classification.encode(model, TRAIN)
    train = batches(inputs, targets, 4, max_length=16, shuffle=True)
    validation = batches(inputs, targets, 4, max_length=16)
    assert fit(model, train, validation, epochs=6, **QUICK) == trained[1]


def plain_model():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])


def numbers():
    x = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, x.sum(axis=1, keepdims=True))).batch(4)


def test_any_compiled_model_keeps_its_own_optimizer():
    model = plain_model()
    optimizer = keras.optimizers.SGD(0.1)
    model.compile(optimizer, "mse")
    history = fit(model, numbers(), numbers(), epochs=5, progress=False)
    assert model.optimizer is optimizer
    assert set(history) == {"loss", "val_loss"}
    assert history["loss"][-1] < history["loss"][0]


def test_a_model_that_no_task_trains_must_be_compiled_and_take_datasets():
    with pytest.raises(ValueError, match="`model` must be compiled.*Received: a Sequential"):
        fit(plain_model(), numbers())
    with pytest.raises(TypeError, match=r"`train` must be a `tf.data.Dataset`.*a Sequential"):
        fit(plain_model(), TRAIN)


def test_a_model_that_a_task_trains_is_compiled_anew_and_keeps_its_last_epoch():
    spy, model = Spy(), classifier()
    model.compile("sgd", "mse")
    history = fit(model, TRAIN, epochs=2, callbacks=[spy], **QUICK)
    assert isinstance(model.optimizer, AdamW)
    assert isinstance(model.loss, keras.losses.SparseCategoricalCrossentropy)
    assert set(history) == {"loss", "accuracy", "learning_rate"}
    assert equal(weights_of(model), spy.weights[-1])


def test_keras_own_compile_and_fit_work_too():
    model = classifier(rate=0.0)
    model.compile("adam", text_classification.loss(), metrics=text_classification.metrics())
    inputs, targets = text_classification.encode(model, TRAIN)
    history = model.fit(inputs, targets, batch_size=4, epochs=2, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert set(history) == {"loss", "accuracy"}


def test_max_length_cuts_texts(monkeypatch):
    seen = []

    def spied(inputs, *args, **options):
        seen.append(inputs["padding_mask"].sum(axis=1).max())
        return batches(inputs, *args, **options)

    monkeypatch.setattr(fit_module, "batches", spied)
    fit(classifier(), TRAIN, TRAIN, epochs=1, max_length=4, **QUICK)
    assert seen == [4, 4]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras 3.15
def test_backup_goes_on_where_a_crash_came(tmp_path):
    recipe = {**QUICK, "epochs": 4, "backup": tmp_path / "backup"}
    before = Spy()
    with pytest.raises(RuntimeError, match="went down"):
        fit(classifier(), TRAIN, VALIDATION, callbacks=[before, Crash(2)], **recipe)
    assert before.epochs == [0, 1]

    after, model = Spy(), classifier(seed=99)
    history = fit(model, TRAIN, VALIDATION, callbacks=[after], **recipe)
    assert after.epochs == [2, 3]
    assert int(model.optimizer.iterations) == 4 * 8
    assert len(history["loss"]) == len(history["val_loss"]) == 4
    schedule = LinearWarmup(0.01, 32, 3)
    wanted = [float(schedule(step)) for step in range(32)]
    np.testing.assert_allclose(history["learning_rate"], wanted, rtol=1e-6)
    assert not (tmp_path / "backup").exists()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras 3.15
def test_a_backup_after_the_last_epoch_leaves_nothing_to_do(tmp_path):
    class CrashAtEnd(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise RuntimeError("the machine went down")

    recipe = {**QUICK, "epochs": 1, "backup": tmp_path / "backup"}
    models = classifier(), classifier(seed=99)
    with pytest.raises(RuntimeError, match="went down"):
        fit(models[0], TRAIN, callbacks=[CrashAtEnd()], **recipe)
    history = fit(models[1], TRAIN, **recipe)
    assert len(history["loss"]) == 1
    assert len(history["learning_rate"]) == 8
    assert equal(*map(weights_of, models))


def test_tensorboard_gets_its_events(tmp_path):
    pytest.importorskip("tensorboard", reason="the callback needs the package tensorboard")
    fit(classifier(), TRAIN, TRAIN, epochs=1, tensorboard=tmp_path, **QUICK)
    for part in ("train", "validation"):
        assert list((tmp_path / part).glob("events.out.tfevents.*"))


def test_tensorboard_must_be_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r"`tensorboard` needs the package .*pip install"):
        fit(classifier(), TRAIN, tensorboard=tmp_path, **QUICK)


def test_frozen_blocks_stay_and_layer_rates_fall():
    model = classifier(num_layers=2)
    before = {weight.path: weight.numpy() for weight in model.weights}
    fit(model, TRAIN, epochs=1, freeze_blocks=1, layer_decay=0.5, weight_decay=0.1, **QUICK)
    changed = {w.path.split("/")[0] for w in model.weights if (w.numpy() != before[w.path]).any()}
    assert changed >= {"block_1", "pooler", "classifier"}
    assert not changed & {"embedding", "block_0"}
    factors = model.optimizer.rate_factors
    assert factors == layer_rates(model.bert, 0.5)
    assert set(factors.values()) == {0.5}
    assert (model.optimizer.decay, model.optimizer.global_clipnorm) == (0.1, 1.0)


def test_the_last_layer_alone_learns():
    model = classifier()
    before = {weight.path: weight.numpy() for weight in model.weights}
    fit(model, TRAIN, epochs=1, last_layer_only=True, **QUICK)
    changed = {w.path for w in model.weights if (w.numpy() != before[w.path]).any()}
    assert changed == {"classifier/kernel", "classifier/bias"}


def test_mixed_precision_trains():
    model = classifier(dtype="mixed_float16")
    history = fit(model, TRAIN, TRAIN, epochs=6, **QUICK)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert max(history["val_accuracy"]) == 1.0
    assert {weight.dtype for weight in model.trainable_weights} == {"float32"}


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda data: data.repeat(), "endless"), (lambda data: data.filter(lambda *_: True), "unkn")],
)
def test_the_number_of_batches_must_be_known(change, message):
    model = plain_model()
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=f"`train` must have a known number.*{message}"):
        fit(model, change(numbers()))


def test_unknown_labels_are_located():
    model = classifier()
    odd = [*VALIDATION, type(VALIDATION[0])({"text": "a film", "label": "so-so"}, "dev.csv:9")]
    for arguments in ((TRAIN, odd), (odd, None)):
        with pytest.raises(ValueError, match=r"dev\.csv:9: `label` must be one of.*'so-so'"):
            fit(model, *arguments)
    assert not model.compiled


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"epochs": 0}, "`epochs` must be an integer of at least 1. Received: 0"),
        ({"epochs": 1.5}, "`epochs` must be an integer"),
        ({"batch_size": True}, "`batch_size` must be an integer"),
        ({"warmup": 1.1}, r"`warmup` must be between 0 and 1. Received: 1.1"),
        ({"warmup": -0.1}, "`warmup` must be between"),
        ({"patience": 2}, "`patience` must come with `validation`. Received: 2"),
        ({"layer_decay": 0}, "`decay` must be above 0"),
        ({"layer_decay": 1.5}, "`decay` must be above 0"),
        ({"freeze_blocks": 2}, "`blocks` must be between 0 and 1"),
        ({"max_length": 17}, "`max_length` must be at most 16"),
        ({"max_length": 1}, "`max_length`"),
    ],
)
def test_arguments_are_checked(option, message):
    with pytest.raises(ValueError, match=message):
        fit(classifier(), TRAIN, **option)
