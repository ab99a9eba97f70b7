"""Train a model: the recipe that BERT is fine-tuned by, over `model.fit`."""

import contextlib
import importlib
import itertools

import keras
import numpy as np
import tensorflow as tf

from kerasllm.data.batches import batches, check_at_least_one
from kerasllm.tasks import give_task, task_of
from kerasllm.training.callbacks import BestEpoch, Progress
from kerasllm.training.checkpoints import Checkpoints
from kerasllm.training.keras_mends import mend
from kerasllm.training.multi_task import EachTask, MultiTask, check_names
from kerasllm.training.optimizer import AdamW, freeze, freeze_all_but_last, layer_rates
from kerasllm.training.privacy import private_steps
from kerasllm.training.schedules import LinearWarmup
from kerasllm.training.strategies import is_chief, strategy_of

MOST_RATES = 200  # points of the learning rate's curve that the history keeps


def fit(
    model,
    train,
    validation=None,
    *,
    task=None,
    epochs=3,
    batch_size=32,
    learning_rate=5e-5,
    weight_decay=0.01,
    warmup=0.1,
    clip_norm=1.0,
    layer_decay=1.0,
    freeze_blocks=None,
    last_layer_only=False,
    max_length=None,
    patience=None,
    seed=0,
    tensorboard=None,
    backup=None,
    backup_every=100,
    privacy=None,
    callbacks=(),
    progress=True,
):
    """Train a model with AdamW under linear warm-up and decay, and keep its best epoch.

    Nothing here is needed to train: `model.compile` and `model.fit` work as with any Keras model.
    They are also the way to another optimizer or loss, because a model that a task trains is always
    compiled anew here. Any other model stays as you compiled it, with its own optimizer, and
    `learning_rate` to `last_layer_only` have no say.

    Args:
        model: a model that a task trains (`kerasllm.tasks.TASKS`), made in the scope of the
            strategy it shall be trained under; a `MultiTask` of several such; or any compiled
            `keras.Model`, then with datasets.
        train: list of rows as the task wants them, or a `tf.data.Dataset` of batches; of a
            `MultiTask`, a dict with such for each name.
        validation: the same, or None. With it, the weights of the best epoch are kept: of a
            `MultiTask`, that with the lowest loss of all tasks together, by their weights.
        task: str, a name in `kerasllm.tasks.TASKS`, which becomes the model's; or None for the
            model's `task`, or the first that trains models of its class.
        epochs: int, the most passes over `train`.
        batch_size: int, rows in a step, over all replicas together. (A `tf.data.Dataset` comes in
            batches of its own.)
        learning_rate: float, the peak.
        weight_decay: float; norms and biases have none.
        warmup: float in [0, 1], share of all steps until the peak.
        clip_norm: float or None, the largest norm of all gradients together.
        layer_decay: float in (0, 1], factor on the learning rate from one block to that below.
        freeze_blocks: int or None: keep the embedding and so many of the lowest blocks.
        last_layer_only: bool, whether to keep all but the last layer of the head.
        max_length: int or None: texts are cut to so many tokens; None for all the model can take.
        patience: int or None: stop after so many epochs without a better one; None for never.
            Needs `validation`.
        seed: int, of the order of rows. For fresh weights and dropout, call
            `keras.utils.set_random_seed` before making the model.
        tensorboard: path or None, folder for TensorBoard's logs (needs the package `tensorboard`).
        backup: path or None, folder of checkpoints, from which a run that died goes on at the step
            of the last one: start it again with the same arguments. Several workers must see the
            same folder. It is removed when training has come to its end.
        backup_every: int, steps from one checkpoint to the next.
        privacy: `Privacy`, or None: train with differential privacy, on rows, one device and
            without `backup`. Batches are drawn at random then, and the gradient of each row is
            clipped in place of their mean (`clip_norm`).
        callbacks: further Keras callbacks.
        progress: bool, whether to draw a progress bar on stderr.

    Returns:
        dict: name of a figure: list of its values, one an epoch; `learning_rate` (of a model that a
        task trains) has one for every step, or for `MOST_RATES` of them; with `privacy`, `epsilon`
        is what was spent.

    Raises:
        ImportError: `tensorboard` is given, and the package is not installed.
        TypeError: `train` or `validation` are rows, and no task trains the model.
        ValueError: an argument is out of its range, a row has an unknown label, there are fewer
            rows than a step needs, or the model is neither compiled nor one that a task trains.

    Example:
        >>> model = BertClassifier.from_pretrained("my_model", labels=("bad", "good"))
        >>> history = fit(model, read_rows("train.csv"), read_rows("dev.csv"), epochs=3)

    References:
        Devlin et al. 2018, "BERT", appendix A.3.
    """
    mend()
    check_at_least_one(epochs=epochs, batch_size=batch_size, backup_every=backup_every)
    _check(warmup=(warmup, 0 <= warmup <= 1, "be between 0 and 1"))
    with_best = patience is None or validation is not None
    _check(patience=(patience, with_best, "come with `validation`"))
    task = task_of(model) if task is None else give_task(model, task)
    if privacy is not None:
        _check_private(model, task, train, backup)
        rate, clip_norm = min(1.0, batch_size / len(train)), None
    options = dict(training=True, seed=seed, sampled=privacy is not None)
    train = _encoded(model, task, train, batch_size, max_length, **options)
    if validation is not None:
        validation = _encoded(model, task, validation, batch_size, max_length)
    steps = _steps(train)
    train = _counted_by_passes(train, steps)
    schedule = None
    if last_layer_only:
        freeze_all_but_last(model)
    if task is not None or isinstance(model, MultiTask):
        schedule = LinearWarmup(learning_rate, epochs * steps, round(warmup * epochs * steps))
        _compile(model, task, schedule, weight_decay, clip_norm, layer_decay, freeze_blocks)
    elif not model.compiled:
        raise ValueError(
            "`model` must be compiled, or one that a task trains. Received: a "
            f"{type(model).__name__} (call its `compile` first)."
        )
    chief = is_chief(strategy_of(model))
    best = each_task = None
    if validation is not None:
        monitor = task.MONITOR if task else "val_loss"
        best = BestEpoch(monitor, epochs if patience is None else patience)
    if isinstance(validation, dict):
        each_task, validation = EachTask(validation), None
    checkpoints = None
    if backup is not None:
        checkpoints = Checkpoints(
            backup, train.element_spec, backup_every, watcher=best, writes=chief
        )
        # Each pass over the data has its order in turn, which that of several tasks has not until
        # its end, for the shorter ones begin anew on the way.
        first_batches = None if isinstance(model, MultiTask) else 1
        for _ in range(checkpoints.epoch):
            for _ in itertools.islice(train, first_batches):
                pass
    first = checkpoints.epoch if checkpoints else 0
    own_steps = contextlib.nullcontext()
    if privacy is not None:
        noise = privacy.noise(rate, epochs * steps)
        own_steps = private_steps(model, privacy, noise, batch_size, seed)
    with own_steps:
        ran = model.fit(
            train,
            validation_data=validation,
            initial_epoch=first,
            epochs=epochs,
            shuffle=False,  # the dataset does it
            verbose=0,
            callbacks=[
                *filter(None, [each_task, best, checkpoints]),
                *_tensorboard(tensorboard),
                *callbacks,
                *[Progress()] * (progress and chief),
            ],
        )
    history = _joined(checkpoints.history if checkpoints else {}, ran.history)
    if privacy is not None:
        history["epsilon"] = [privacy.spent(rate, noise, steps * (i + 1)) for i in ran.epoch]
    if schedule is not None:
        history["learning_rate"] = _rates(schedule, (first + len(ran.epoch)) * steps)
    return history


def _counted_by_passes(dataset, steps):
    """The same data, whose order goes on when a pass begins, not when an iterator is made.

    Keras makes iterators that it never uses, more of them under a strategy: if each shuffled anew,
    the order would depend on the strategy.
    """
    passes = tf.data.Dataset.from_tensors(0).flat_map(lambda _: dataset)
    return passes.apply(tf.data.experimental.assert_cardinality(steps))


def _joined(before, after):
    """The figures of a run that went on: those of the epochs before, and those since."""
    after = {name: [float(value) for value in values] for name, values in after.items()}
    return {name: before.get(name, []) + after.get(name, []) for name in {**before, **after}}


def _compile(model, task, schedule, weight_decay, clip_norm, layer_decay, freeze_blocks):
    if freeze_blocks is not None:
        freeze(model.backbone, freeze_blocks)
    with strategy_of(model).scope():  # an optimizer belongs to the strategy that it was made under
        optimizer = AdamW(
            schedule,
            weight_decay,
            rate_factors=layer_rates(model.backbone, layer_decay) if layer_decay != 1 else None,
            global_clipnorm=clip_norm,
        )
        if isinstance(model, MultiTask):
            model.compile(optimizer)  # it knows its tasks
        else:
            model.compile(optimizer, task.loss(), weighted_metrics=task.metrics())


def _check(**arguments):
    for name, (value, holds, rule) in arguments.items():
        if not holds:
            raise ValueError(f"`{name}` must {rule}. Received: {value!r}.")


def _check_private(model, task, train, backup):
    alone = strategy_of(model).num_replicas_in_sync == 1
    _check(privacy=("a strategy of several replicas", alone, "come with one device"))
    _check(privacy=("a backup", backup is None, "come without `backup`"))
    if isinstance(train, tf.data.Dataset) or not hasattr(task, "encode"):
        raise TypeError(
            "`train` must be rows of a task that encodes them, for `privacy` draws them at random. "
            f"Received: a {type(train).__name__}."
        )


def _encoded(model, task, rows, batch_size, max_length, training=False, seed=0, sampled=False):
    if isinstance(rows, tf.data.Dataset):
        return rows
    if isinstance(model, MultiTask):
        return _encoded_of_each(model, rows, batch_size, max_length, training, seed)
    if task is None:
        raise TypeError(
            "`train` must be a `tf.data.Dataset` of batches for a model that no task trains. "
            f"Received: rows, and a {type(model).__name__}."
        )
    if hasattr(task, "dataset"):
        options = dict(max_length=max_length, training=training, seed=seed)
        return task.dataset(model, rows, batch_size=batch_size, **options)
    inputs, targets, *weights = task.encode(model, rows, max_length)
    return batches(
        inputs,
        targets,
        batch_size,
        sample_weight=weights[0] if weights else None,
        shuffle=training,
        sampled=sampled,
        seed=seed,
        max_length=model.config.max_length,
    )


def _encoded_of_each(model, rows, batch_size, max_length, training, seed):
    """The data of several tasks: together to train on, by name for validation."""
    check_names(model.models, **{"train" if training else "validation": rows})
    sizes = model.rows(batch_size) if training else dict.fromkeys(rows, batch_size)
    found = {
        name: _encoded(each, model.tasks[name], rows[name], sizes[name], max_length, training, seed)
        for name, each in model.models.items()
    }
    return model.mixed(found) if training else found


def _steps(dataset):
    steps = int(dataset.cardinality())
    if steps < 1:
        raise ValueError(
            "`train` must have a known number of batches. Received: a dataset of "
            f"{'endless' if steps == tf.data.INFINITE_CARDINALITY else 'unknown or no'} "
            "cardinality (use `take`, or `tf.data.experimental.assert_cardinality`)."
        )
    return steps


def _tensorboard(folder):
    if folder is not None:
        _check_tensorboard()
        yield keras.callbacks.TensorBoard(str(folder))


def _check_tensorboard():
    try:
        importlib.import_module("tensorboard")
    except ImportError:
        raise ImportError(
            "`tensorboard` needs the package `tensorboard`, which is not installed "
            "(pip install tensorboard)."
        ) from None


def _rates(schedule, count):
    """The learning rate at `MOST_RATES` of the first `count` steps."""
    shown = np.unique(np.linspace(0, count - 1, min(count, MOST_RATES)).astype(int))
    return keras.ops.convert_to_numpy(schedule(shown)).tolist()
