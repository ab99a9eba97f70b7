"""Train a tiny classifier under a strategy: `train_under_strategy.py settings.json result.npz`.

A process of its own for each strategy, because several in one give errors of collectives. The
settings hold `strategy`, `devices` (logical CPUs), `rows`, `validation` (numbers of rows),
`in_order` (whether they are not shuffled) and `recipe` (of `fit`); the result holds what `fit`
returned, the loss of each step, scores and weights.
"""

import json
import sys

import keras
import numpy as np
import tensorflow as tf
from tiny_task import classifier, rows

from kerasllm.data.batches import batches
from kerasllm.tasks import text_classification
from kerasllm.training import fit, strategy


class StepLosses(keras.callbacks.Callback):
    """The loss of each step; Keras itself shows the mean of an epoch so far."""

    def on_epoch_begin(self, epoch, logs=None):
        self.sum = 0.0

    def on_train_begin(self, logs=None):
        self.found = []

    def on_train_batch_end(self, batch, logs=None):
        total = logs["loss"] * (batch + 1)
        self.found.append(total - self.sum)
        self.sum = total


def main(settings, result):
    with open(settings, encoding="utf-8") as file:
        settings = json.load(file)
    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration() for _ in range(settings["devices"])]
    tf.config.set_logical_device_configuration(cpu, parts)
    with strategy(settings["strategy"]).scope():
        model = classifier(rate=0.0, dtype=settings["dtype"])
    losses = StepLosses()
    train, validation = rows(settings["rows"]), rows(settings["validation"], seed=1)
    if settings["in_order"]:
        inputs = text_classification.encode(model, train)
        train = batches(*inputs, settings["recipe"]["batch_size"], drop_remainder=True)
    history = fit(
        model,
        train,
        validation,
        callbacks=[losses],
        progress=False,
        **settings["recipe"],
    )
    np.savez(
        result,
        replicas=model.distribute_strategy.num_replicas_in_sync,
        losses=losses.found,
        scores=text_classification.predict(model, rows(33)),
        **history,
        **{f"weight {weight.path}": weight.numpy() for weight in model.trainable_weights},
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
