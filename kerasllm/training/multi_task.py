"""Several tasks on one backbone: each step has rows of every task, in proportion to its weight."""

import keras
import tensorflow as tf

from kerasllm.data.batches import check_at_least_one
from kerasllm.tasks import give_task, task_of
from kerasllm.training.strategies import strategy_of


class MultiTask(keras.Model):
    """Models that share a backbone, as one model that trains all of them at once.

    Each step is on a batch of every task. The loss is the mean of the tasks' losses, each counted
    by its weight, so that its gradient is, in expectation, that of drawing a task by weight for
    every step. Also the rows of a batch are dealt out by weight, for a small weight needs few.
    Each model stays what it is: save, evaluate and export it by itself.

    Weights are no cure for losses of unlike scale: the ranking loss of `similarity` has gradients
    hundreds of times those of a cross entropy, which may learn nothing beside it.

    Args:
        models: dict, name: model that a task trains, all made with the same `backbone` and
            `tokenizer`, in the scope of the strategy that they shall be trained under. One model
            may have several names, for several `tasks`.
        weights: dict, name: float above 0, how often a task would be drawn; None for all alike.
            `mixing_weights` gives them by the tasks' sizes.
        tasks: dict or None, name: a name in `kerasllm.tasks.TASKS`, for models that are for several
            tasks; of the others, their `task`, or the first that trains models of their class.
        steps: int or None, the steps of an epoch, each of which begins all data anew; None for as
            many as the data of the task that lasts longest have. The others' are repeated.
        name: str or None.

    Call arguments:
        inputs: dict, name: the inputs of the model of this name.

    Returns:
        dict, name: the model's output; where that is a dict, its items by `name_key`.

    Attributes:
        models: dict, as above.
        shares: dict, name: its weight over the sum of all.
        tasks: dict, name: module of `TASKS`.
        backbone: the backbone of all.

    Raises:
        TypeError: no task trains one of the models, or not the one that `tasks` says.
        ValueError: there are fewer than two models, they have different backbones or tokenizers, a
            weight is not above 0, or a name is unknown.

    Example:
        >>> sentiment = TextClassifier(2, "bert_tiny")
        >>> masked = MaskedLM(sentiment.backbone, family="bert")
        >>> weights = {"sentiment": 1, "masked": 3}
        >>> both = MultiTask({"sentiment": sentiment, "masked": masked}, weights)
        >>> both.shares, both.rows(batch_size=32)
        ({'sentiment': 0.25, 'masked': 0.75}, {'sentiment': 8, 'masked': 24})
        >>> history = fit(both, {"sentiment": rows, "masked": "wiki/*.txt"})  # doctest: +SKIP

    References:
        Caruana 1997, "Multitask Learning"; Raffel et al. 2019, "T5", section 3.5.2.
    """

    def __init__(self, models, weights=None, *, tasks=None, steps=None, name=None):
        first = _check_models(models)
        weights = dict.fromkeys(models, 1.0) if weights is None else weights
        check_names(models, weights=weights)
        if not all(weight > 0 for weight in weights.values()):
            raise ValueError(f"`weights` must be above 0. Received: {weights}.")
        tasks = dict(tasks or {})
        if not tasks.keys() <= models.keys():
            raise ValueError(
                f"`tasks` must have names of the models, {', '.join(models)}. Received: {tasks}."
            )
        with strategy_of(first).scope():
            super().__init__(name=name, dtype=first.dtype_policy)
        if steps is not None:
            check_at_least_one(steps=steps)
        self.models = dict(models)
        self.tasks = {
            name: give_task(model, tasks[name]) if name in tasks else _task_of(model, name)
            for name, model in models.items()
        }
        self.shares = {name: weights[name] / sum(weights.values()) for name in models}
        self.steps = steps
        self.supports_jit = all(model.supports_jit for model in models.values())
        self.built = True

    @property
    def backbone(self):
        """The backbone that all models share."""
        return next(iter(self.models.values())).backbone

    def call(self, inputs, training=None):
        return flat(
            {name: model(inputs[name], training=training) for name, model in self.models.items()}
        )

    def compile(self, optimizer="rmsprop", **options):
        """Compile it with the losses and metrics of its tasks, and each model with its own.

        Args:
            optimizer: of `keras.Model.compile`.
            **options: others of `keras.Model.compile`, but no losses and metrics.
        """
        losses = {name: task.loss() for name, task in self.tasks.items()}
        shares = {
            name: keras.tree.map_structure(lambda _, share=share: share, losses[name])
            for name, share in self.shares.items()
        }
        super().compile(
            optimizer,
            flat(losses),
            loss_weights=flat(shares),
            weighted_metrics=flat({name: task.metrics() for name, task in self.tasks.items()}),
            **options,
        )
        for name, model in self.models.items():
            task = self.tasks[name]
            model.compile(loss=task.loss(), weighted_metrics=task.metrics())

    def rows(self, batch_size):
        """Deal out the rows of a batch by weight.

        Args:
            batch_size: int, rows in a batch of all tasks, over all replicas together.

        Returns:
            dict, name: int, at least 1.
        """
        return {name: max(1, round(share * batch_size)) for name, share in self.shares.items()}

    def mixed(self, datasets):
        """Put the data of all tasks together: in each step, a batch of every one.

        Args:
            datasets: dict, name: `tf.data.Dataset` of batches of `(inputs, targets)` or `(inputs,
                targets, weights)`, which is repeated as long as another one lasts.

        Returns:
            A `tf.data.Dataset` of `(inputs, targets, weights)`, dicts as the model's inputs and
            outputs.

        Raises:
            ValueError: there is not one for each name, or one is empty.
        """
        check_names(self.models, datasets=datasets)
        lengths = {name: int(data.cardinality()) for name, data in datasets.items()}
        if 0 in lengths.values():
            raise ValueError(f"`datasets` must not be empty. Received: batches of each: {lengths}.")
        parts = {name: data.map(_weighted).repeat() for name, data in datasets.items()}
        data = tf.data.Dataset.zip(parts).map(_by_kind)
        return data.take(self.steps or max(lengths.values()))


class EachTask(keras.callbacks.Callback):
    """Evaluates each model of a `MultiTask` by itself, on all its rows once, after every epoch.

    The figures are those of the models as `val_{name}_{figure}`, and `val_loss`, their losses
    counted by weight. It must stand before callbacks that read them.

    Args:
        datasets: dict, name: `tf.data.Dataset` of batches.

    Example:
        >>> both.fit(both.mixed(train), callbacks=[EachTask(dev)])  # doctest: +SKIP
    """

    def __init__(self, datasets):
        super().__init__()
        self.datasets = datasets

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = 0.0
        for name, model in self.model.models.items():
            found = model.evaluate(self.datasets[name], return_dict=True, verbose=0)
            logs.update({f"val_{name}_{figure}": value for figure, value in found.items()})
            logs["val_loss"] += self.model.shares[name] * found["loss"]


def mixing_weights(sizes, temperature=1.0, limit=None):
    """Weights of tasks by their sizes, for `MultiTask`.

    Args:
        sizes: dict, name: int, its rows.
        temperature: float; 1 is in proportion to the sizes, the higher the more alike.
        limit: int or None, the rows from which on a task counts as no larger.

    Returns:
        dict, name: float.

    Example:
        >>> mixing_weights({"large": 4000, "small": 100}, temperature=2, limit=900)
        {'large': 30.0, 'small': 10.0}

    References:
        Raffel et al. 2019, "T5", section 3.5.2, examples-proportional and temperature-scaled
        mixing.
    """
    return {name: min(n, limit or n) ** (1 / temperature) for name, n in sizes.items()}


def flat(named):
    """Put the items of dicts in a dict beside the others.

    Args:
        named: dict.

    Returns:
        dict.

    Example:
        >>> flat({"a": 1, "b": {"x": 2, "y": 3}})
        {'a': 1, 'b_x': 2, 'b_y': 3}
    """
    found = {}
    for name, value in named.items():
        items = value.items() if isinstance(value, dict) else [(None, value)]
        found |= {name if key is None else f"{name}_{key}": each for key, each in items}
    return found


def check_names(models, **arguments):
    """Check that dicts, given by name, have the names of the models.

    Args:
        models: dict.
        **arguments: dicts.

    Raises:
        ValueError: one is no dict, a name is unknown or missing.
    """
    for argument, given in arguments.items():
        if not isinstance(given, dict) or given.keys() != models.keys():
            found = sorted(given) if isinstance(given, dict) else f"a {type(given).__name__}"
            raise ValueError(
                f"`{argument}` must be a dict with the names {', '.join(models)}. Received: "
                f"{found}."
            )


def _check_models(models):
    """Check that models have one backbone and tokenizer; return the first."""
    if not isinstance(models, dict) or len(models) < 2:
        raise ValueError(
            f"`models` must be a dict of at least two models. Received: {models!r} (train a single "
            "one with `fit`)."
        )
    first, *others = models
    for part in ("backbone", "tokenizer"):
        for other in others:
            if getattr(models[other], part, None) is not getattr(models[first], part, None):
                raise ValueError(
                    f"`models` must share one {part}. Received: that of {other!r} is another than "
                    f"that of {first!r} (make it with `{part}=model.{part}` of the first)."
                )
    return models[first]


def _task_of(model, name):
    task = task_of(model)
    if task is None:
        raise TypeError(
            f"`models` must each be one that a task trains. Received: a {type(model).__name__} as "
            f"{name!r}."
        )
    return task


def _weighted(inputs, targets, weights=None):
    """A batch with a weight for each row, if it has none."""
    if weights is None:
        weights = keras.tree.map_structure(lambda x: tf.ones(tf.shape(x)[:1]), targets)
    return inputs, targets, weights


def _by_kind(parts):
    """From batches by name to inputs, targets and weights by name."""
    inputs, targets, weights = (
        {name: batch[kind] for name, batch in parts.items()} for kind in range(3)
    )
    return inputs, flat(targets), flat(weights)
