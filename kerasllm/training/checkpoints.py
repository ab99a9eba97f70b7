"""Checkpoints of a training run, from which it goes on at the very step where it ended."""

import dataclasses
import hashlib
import json
import logging
import pathlib
import shutil

import keras
import numpy as np
import safetensors.numpy
from keras.src import tree

from kerasllm.atomic import whole
from kerasllm.training.keras_mends import data_spec
from kerasllm.weights import read_json

logger = logging.getLogger("kerasllm")

ARRAYS, STATE = "arrays.safetensors", "state.json"


@dataclasses.dataclass(frozen=True)
class State:
    """Where a run stands.

    Args:
        arrays: dict, name: array: weights, optimizer, seeds, metrics of the epoch so far.
        epoch: int, the epoch it is in, from 0.
        step: int, how many of its steps are done.
        history: dict, name of a figure: list of its values, one for each epoch before.
        watcher: dict, what `BestEpoch` has seen so far; its weights are in `arrays`.
    """

    arrays: dict
    epoch: int = 0
    step: int = 0
    history: dict = dataclasses.field(default_factory=dict)
    watcher: dict = dataclasses.field(default_factory=dict)


def save_state(state, folder, number, keep):
    """Write a checkpoint whole, and remove the oldest ones.

    Args:
        state: `State`.
        folder: `pathlib.Path`.
        number: int, steps done since the run began.
        keep: int, how many checkpoints stay.

    Raises:
        OSError: it can't be written, e.g. because the disk is full. Those before it stay.
    """
    place = folder / f"step-{number:010}"
    fields = {name: value for name, value in vars(state).items() if name != "arrays"}
    if place.exists():  # damaged, or the run would have gone on from there
        shutil.rmtree(place)
    try:
        with whole(place) as aside:
            aside.mkdir()
            data = safetensors.numpy.save(state.arrays)
            (aside / ARRAYS).write_bytes(data)
            fields["sha256"] = hashlib.sha256(data).hexdigest()
            (aside / STATE).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OSError(
            f"A checkpoint can't be written to `{folder}`: {error} The last one that was is of "
            f"step {_steps_of(_places(folder)[-1]) if _places(folder) else 'none'}; make room and "
            "start the same command again."
        ) from None
    for old in _places(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def load_state(folder):
    """Read the newest checkpoint that is whole.

    Damaged ones are passed over with a warning.

    Args:
        folder: `pathlib.Path`.

    Returns:
        `State`; None if there is none.
    """
    for place in reversed(_places(folder)):
        try:
            return _read(place)
        except (OSError, ValueError, KeyError) as error:
            logger.warning("`%s` is damaged and passed over for the one before: %s", place, error)
    return None


def _read(place):
    fields = read_json(place / STATE)
    data = (place / ARRAYS).read_bytes()
    if hashlib.sha256(data).hexdigest() != fields.pop("sha256"):
        raise ValueError(f"`{ARRAYS}` is not what was written.")
    return State(safetensors.numpy.load(data), **fields)


def _places(folder):
    return sorted(folder.glob("step-*"))


def _steps_of(place):
    return int(place.name.removeprefix("step-"))


class Checkpoints(keras.callbacks.Callback):
    """Writes a checkpoint every few steps, and has a run go on from the last one.

    It follows the `watcher` among the callbacks. When training has come to its end, the folder is
    removed.

    Args:
        folder: str or path-like. Several workers must see the same one.
        spec: `element_spec` of the dataset that the model is trained on.
        every: int, steps from one checkpoint to the next; the end of an epoch is one too.
        keep: int, how many stay.
        watcher: `BestEpoch` among the callbacks, or None.
        writes: bool, whether this process writes; of several workers, one does.
    """

    def __init__(self, folder, spec, every=100, *, keep=2, watcher=None, writes=True):
        super().__init__()
        self.spec = spec
        self.folder = pathlib.Path(folder)
        self.every, self.keep, self.watcher, self.writes = every, keep, watcher, writes
        self.state = load_state(self.folder)

    @property
    def epoch(self):
        """The epoch to begin with, int."""
        return self.state.epoch if self.state else 0

    @property
    def history(self):
        """Figures of the epochs before that, dict."""
        return self.state.history if self.state else {}

    def on_train_begin(self, logs=None):
        self._figures = {name: list(values) for name, values in self.history.items()}
        self._left = self.state.step if self.state else 0  # steps done before, now passed over
        self._saved = self.epoch * self.params["steps"] + self._left
        self._build()
        if self.state is None:
            return
        _check_same(self.model, self.state)
        logger.info("Going on from step %d of epoch %d.", self._left, self.epoch + 1)
        if self._left:
            self.model.train_function = self._passing_over(self.model.train_function)
        else:
            self._restore()

    def _build(self):
        """Make all variables, of metrics too, which Keras may leave to the first step."""
        with self.model.distribute_strategy.scope():
            self.model._symbolic_build(data_batch=tree.map_structure(data_spec, self.spec))

    def _passing_over(self, train_function):
        """For as many steps as were done before, take the data alone."""

        def function(iterator):
            if not self._left:
                return train_function(iterator)
            for _ in range(min(self.model.steps_per_execution, self._left)):
                next(iterator)
                self._left -= 1
            return self.model.get_metrics_result()

        return function

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        if self._left:  # not before, because Keras has just reset the metrics
            self._restore()

    def on_train_batch_end(self, batch, logs=None):
        done = batch + 1
        if not self._left and done % self.every < self.model.steps_per_execution:
            self._save(self._epoch, done)

    def on_epoch_end(self, epoch, logs=None):
        for name, value in (logs or {}).items():
            self._figures.setdefault(name, []).append(float(value))
        self._save(epoch + 1, 0)

    def on_train_end(self, logs=None):
        if self.writes:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _save(self, epoch, step):
        number = epoch * self.params["steps"] + step
        if number == self._saved:  # the last step of an epoch is the end of it, too
            return
        self._saved = number
        # Every worker takes part, because a metric's value is a sum over all of them.
        arrays = {name: variable.numpy() for name, variable in _variables(self.model).items()}
        watcher = {}
        if self.watcher is not None:
            watcher, best = self.watcher.seen()
            arrays |= {f"best/{i:05}": array for i, array in enumerate(best)}
        if not self.writes:
            return
        state = State(
            {name: np.asarray(array, order="C") for name, array in arrays.items()},
            epoch,
            step,
            self._figures,
            watcher,
        )
        save_state(state, self.folder, number, self.keep)

    def _restore(self):
        arrays = self.state.arrays
        for name, variable in _variables(self.model).items():
            variable.assign(arrays[name])
        if self.watcher is not None:
            best = [arrays[name] for name in sorted(arrays) if name.startswith("best/")]
            self.watcher.go_on(self.state.watcher, best)
        self.state = dataclasses.replace(self.state, arrays={})  # they are in the model now


def _variables(model):
    """All that changes while a model is trained, numbered: names count a process's layers."""
    variables = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
    return {f"{i:05}": variable for i, variable in enumerate(variables)}


def _check_same(model, state):
    found = {name: a.shape for name, a in state.arrays.items() if not name.startswith("best/")}
    wanted = {name: tuple(variable.shape) for name, variable in _variables(model).items()}
    if found != wanted:
        raise ValueError(
            "`backup` must hold checkpoints of the same model and optimizer. Received: "
            f"{len(found)} arrays where {len(wanted)} fit (remove the folder to begin anew)."
        )
