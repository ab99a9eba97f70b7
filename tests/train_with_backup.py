"""Train with a backup under a strategy, maybe killed on the way: `… NAME FOLDER RESULT.npz`.

While there are kills left in the folder's `kills.json`, the worker that the first of them names
kills itself with SIGKILL after the step that it names.
"""

import json
import os
import pathlib
import signal
import sys

import keras
import numpy as np
from tiny_task import classifier, rows

from kerasllm.training import fit, strategy
from kerasllm.training.strategies import is_chief


class Kill(keras.callbacks.Callback):
    """Be killed, if it is this process' turn."""

    def __init__(self, place, path):
        super().__init__()
        self.task = place.cluster_resolver.task_id if place.cluster_resolver else 0
        self.path = path
        self.left = json.loads(path.read_text())

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.left and self.left[0] == [self.task, self.epoch, batch]:
            self.path.write_text(json.dumps(self.left[1:]))
            os.kill(os.getpid(), signal.SIGKILL)


def main(name, folder, result):
    folder = pathlib.Path(folder)
    place = strategy(name)
    with place.scope():
        model = classifier(rate=0.2)
    history = fit(
        model,
        rows(8 * 30 - 3),
        rows(33, 1),
        epochs=3,
        batch_size=8,
        learning_rate=0.003,
        backup=folder / "backup",
        backup_every=7,
        callbacks=[Kill(place, folder / "kills.json")],
        progress=False,
    )
    if is_chief(place):
        weights = {f"weight {i}": w.numpy() for i, w in enumerate(model.trainable_weights)}
        np.savez(result, **weights, **history)


if __name__ == "__main__":
    main(*sys.argv[1:])
