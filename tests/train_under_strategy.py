"""Train under a strategy, in a process (or cluster) of its own: `… NAME DEVICES RESULT.npz`.

Trainings one after another: `task` as users fine-tune, with `fit` and batches that don't fill up;
`options` with all of Keras' options that strategies are known to break; `tasks`, several at once;
`dropout` in half precision. The result holds, for each, the loss of each step, figures, scores and
weights.
"""

import sys

import keras
import numpy as np
import tensorflow as tf
import tiny_tasks
from tiny_task import classifier, rows

from kerasllm.tasks import text_classification
from kerasllm.training import fit, strategy
from kerasllm.training.strategies import is_chief

RECIPE = {"epochs": 3, "batch_size": 8, "learning_rate": 0.01, "clip_norm": 0.2}
STEPS = 10  # an epoch


class Losses(keras.callbacks.Callback):
    """The loss of each step; Keras itself shows the mean of an epoch so far."""

    def __init__(self):
        super().__init__()
        self.found = []

    def on_train_batch_end(self, batch, logs=None):
        self.found.append(float(logs["loss"]))
        self.model.reset_metrics()


def task(place):
    """Fine-tune: the last batch of an epoch has one row, less than there are replicas."""
    count = 8 * (STEPS - 1) + 1
    with place.scope():
        model = classifier(rate=0.0)
    losses = Losses()
    history = fit(model, rows(count), rows(33, 1), callbacks=[losses], progress=False, **RECIPE)
    return {
        "losses": losses.found,
        "scores": text_classification.predict(model, rows(33)),
        **history,
        **{f"weight {i}": weight.numpy() for i, weight in enumerate(model.trainable_weights)},
    }


@keras.saving.register_keras_serializable(package="tests")
class Lengths(keras.layers.Layer):
    """Lengths of strings, as floats."""

    def call(self, inputs):
        return tf.cast(tf.strings.length(inputs), "float32")[:, tf.newaxis]

    def compute_output_spec(self, inputs):
        return keras.KerasTensor((*inputs.shape, 1), "float32")


def options(place):
    """All options of Keras that fail or err under some strategy."""
    random = np.random.default_rng(0)
    numbers = random.normal(size=(45, 6)).astype("float32")
    data = {
        "number": numbers,
        "flag": numbers > 0,
        "word": np.array([b"a" * (i % 5) for i in range(45)]),
    }
    targets = numbers[:, :1] * 2 + numbers[:, 1:2]
    weights = random.uniform(0.5, 2, size=45).astype("float32")
    with place.scope():
        number, flag = (
            keras.Input((6,), name="number"),
            keras.Input((6,), dtype="bool", name="flag"),
        )
        word = keras.Input((), dtype="string", name="word")
        x = keras.layers.Dense(8, "tanh", kernel_regularizer="l2")(number)
        x = keras.layers.Concatenate()([x, keras.ops.cast(flag, "float32"), Lengths()(word)])
        model = keras.Model(
            {"number": number, "flag": flag, "word": word}, keras.layers.Dense(1)(x)
        )
        optimizer = keras.optimizers.AdamW(
            0.02,
            global_clipnorm=0.5,
            gradient_accumulation_steps=2,
            use_ema=True,
            ema_momentum=0.9,
            ema_overwrite_frequency=3,
        )
        metrics = [keras.metrics.RootMeanSquaredError(name="rmse")]
        model.compile(
            optimizer,
            keras.losses.MeanSquaredError("mean_with_sample_weight"),
            metrics=metrics,
            weighted_metrics=["mae"],
            steps_per_execution=2,
        )
    kept = []
    seen = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: kept.append(logs))
    train = tf.data.Dataset.from_tensor_slices((data, targets, weights)).batch(8)
    history = model.fit(
        train, epochs=3, validation_data=train, shuffle=False, verbose=0, callbacks=[seen]
    )
    return {
        **{f"step {name}": [each[name] for each in kept] for name in ("loss", "rmse", "mae")},
        **history.history,
        "scores": model.predict(tf.data.Dataset.from_tensor_slices(data).batch(8), verbose=0),
        "evaluation": model.evaluate(train, verbose=0),
        **{f"weight {i}": weight.numpy() for i, weight in enumerate(model.trainable_weights)},
    }


def tasks(place):
    """Several tasks on one backbone: weights in dicts, pairs to compare, few rows of some."""
    weights = {"masked_pairs": 1, "sentiment": 3, "alike": 2}
    with place.scope():
        model = tiny_tasks.several(weights, rate=0.0)
    losses = Losses()
    train = {
        "masked_pairs": tiny_tasks.rows(18, 1),
        "sentiment": tiny_tasks.rows(37, 1),  # the last batch has less rows than there are replicas
        "alike": tiny_tasks.paired(tiny_tasks.rows(15, 1)),  # pairs that no two replicas can share
    }
    validation = {**train, "sentiment": tiny_tasks.rows(9, 2)}
    options = {**RECIPE, "epochs": 2, "batch_size": 16, "progress": False}
    history = fit(model, train, validation, callbacks=[losses], **options)
    # Keras shows of one of several outputs the mean of the batches' mean losses.
    outputs = ("tokens_loss", "pair_loss")
    shown = {n: x for n, x in history.items() if n[:4] == "val_" and not n.endswith(outputs)}
    return {
        "losses": losses.found,
        "loss": history["loss"],
        **shown,
        **{f"weight {i}": weight.numpy() for i, weight in enumerate(model.trainable_weights)},
    }


def dropout(place):
    """Random numbers, and a loss scale."""
    with place.scope():
        model = classifier(rate=0.3, dtype="mixed_float16")
    losses = Losses()
    fit(model, rows(64), callbacks=[losses], progress=False, **RECIPE)
    return {"losses": losses.found}


def main(name, devices, result):
    keras.utils.set_random_seed(0)
    place = strategy(name, devices=int(devices) or None)
    found = {"replicas": place.num_replicas_in_sync}
    for training in (task, options, tasks, dropout):
        for key, value in training(place).items():
            found[f"{training.__name__}: {key}"] = value
    if is_chief(place):
        np.savez(result, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
