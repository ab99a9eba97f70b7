"""Train with a backup under a strategy, maybe killed on the way: `… NAME FOLDER RESULT.npz SEED`.

While there are kills left (in `kills.json` of the folder above), the process or worker that it
names kills itself with SIGKILL after so many seconds, wherever training is then.
"""

import json
import os
import pathlib
import random
import signal
import sys
import threading

import numpy as np
from tiny_task import classifier, rows

from kerasllm.training import fit, strategy
from kerasllm.training.strategies import is_chief


def die_some_time(place, kills):
    """Be killed, if it is this process' turn."""
    left = json.loads(kills.read_text()) if kills.exists() else []
    task = place.cluster_resolver.task_id if place.cluster_resolver else 0
    if not left or left[0]["task"] != task:
        return
    kills.write_text(json.dumps(left[1:]))
    threading.Timer(left[0]["seconds"], os.kill, (os.getpid(), signal.SIGKILL)).start()


def main(name, folder, result):
    folder = pathlib.Path(folder)
    place = strategy(name)
    with place.scope():
        model = classifier(rate=0.2)
    die_some_time(place, folder / "kills.json")
    history = fit(
        model,
        rows(8 * 30 - 3),
        rows(33, 1),
        epochs=4,
        batch_size=8,
        learning_rate=0.003,
        backup=folder / "backup",
        backup_every=7,
        progress=False,
    )
    if is_chief(place):
        weights = {f"weight {i}": w.numpy() for i, w in enumerate(model.trainable_weights)}
        np.savez(result, **weights, **history)


if __name__ == "__main__":
    random.seed()
    main(*sys.argv[1:])
