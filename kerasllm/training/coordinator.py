"""The steps of `fit`, `evaluate` and `predict` under `ParameterServerStrategy`.

Keras 3 has no path for it. Here the chief cuts each batch into one part a worker, has the workers
compute on them, and updates the variables, which are on the servers, by all parts at once: the same
step as on one device. What a worker answers is a function of its part and the variables alone, so
that a part which was lost with its worker is just computed again by another.
"""

import functools

import keras
import tensorflow as tf
from keras.src import tree

from kerasllm.data.parts import Part, first_tensor, part_of_batch


def step_on_workers(model, step_function):
    """Make the function that trains or tests a model on the next batch.

    Args:
        model: compiled `keras.Model`, made under a `ParameterServerStrategy`.
        step_function: its `train_step` or `test_step`.

    Returns:
        A function from an iterator over batches to the dict of metrics so far.
    """
    variables = [*model.non_trainable_variables, *model.metrics_variables]
    changed = []  # which of them the step changes; known once it has been traced

    @tf.function(reduce_retracing=True, autograph=False)
    def count(data):
        """What losses are divided by, of the whole batch: little of the step is run for it."""
        counts = []
        part = Part(0, 1.0, lambda x: counts.append(x) or x, _gather, gradients=[])
        with part_of_batch(part), Aside():
            step_function(data)
        return counts

    @tf.function(reduce_retracing=True, autograph=False)
    def compute(data, index, share, counts):
        gradients, totals = [], iter(counts)
        sums = [(v, tf.zeros(v.shape, v.dtype)) for v in variables if v.aggregation == "sum"]
        part = Part(index, share, lambda _: next(totals), _gather, gradients)
        with part_of_batch(part), Aside(state_mapping=sums) as scope:
            step_function(data)
        changed[:] = [i for i, variable in enumerate(variables) if id(variable) in scope.changed]
        values = [scope.get_current_value(variables[i]) for i in changed]
        return [_plain(each) for each in gradients], values

    @tf.function(reduce_retracing=True, autograph=False)
    def update(gradients, values, shares):
        if gradients[0]:
            weights = model.trainable_weights
            sums = [_sum(parts, w.shape) for parts, w in zip(zip(*gradients), weights)]
            model.optimizer.apply_gradients(zip(sums, weights))
        for i, parts in zip(changed, zip(*values)):
            _merge(variables[i], parts, shares)

    def step(iterator):
        batches = [data for _, data in zip(range(model.steps_per_execution), iterator)]
        if not batches:
            raise StopIteration
        for data in batches:
            parts = _parts(data, 1 if _compares_rows(model) else _num_workers(model))
            shares, counts = [share for *_, share in parts], count(data)
            gradients, values = zip(*_on_workers(model, compute, parts, counts))
            update(list(gradients), list(values), shares)
        return model.get_metrics_result()

    return step


def predict_on_workers(model):
    """Make the function that predicts for one batch.

    Args:
        model: `keras.Model`, made under a `ParameterServerStrategy`.

    Returns:
        A function from a list of batches to the model's outputs for all their rows.
    """

    @tf.function(reduce_retracing=True, autograph=False)
    def compute(data, index, share):
        with Aside():
            return model.predict_step(data)

    def predict(batches):
        answers = []
        for data in batches:
            answers += _on_workers(model, compute, _parts(data, _num_workers(model)))
        return tree.map_structure(lambda *rows: tf.concat(rows, axis=0), *answers)

    return predict


class Aside(keras.StatelessScope):
    """Keeps what is assigned to variables aside, and leaves the variables as they are.

    Attributes:
        changed: set of `id` of the variables that were assigned to.
    """

    def __init__(self, **options):
        super().__init__(**options)
        self.changed = set()

    def add_update(self, update):
        super().add_update(update)
        self.changed.add(id(update[0]))

    def get_current_value(self, variable):
        value = super().get_current_value(variable)
        return variable._value if value is None else value  # regularizers can't do with none


def _on_workers(model, function, parts, *others):
    """What workers answer for each part, in order."""
    workers = tf.distribute.coordinator.ClusterCoordinator(model.distribute_strategy)
    asked = [workers.schedule(function, args=(*part, *others)) for part in parts]
    workers.join()
    return [answer.fetch() for answer in asked]


def _num_workers(model):
    return model.distribute_strategy.extended._num_workers


def _compares_rows(model):
    """Whether a loss needs all rows of a batch at once, so that one worker must have them."""
    return any(getattr(loss, "compares_rows", False) for loss in tree.flatten(model.loss))


def _gather(*tensors):
    """All rows, where one part has them: that of a loss that compares them."""
    return tensors, 0


def _parts(data, count):
    """Cut a batch into at most `count` parts, none empty, each tensor by its own rows.

    Returns:
        list of triples: a part, which it is, and its share of the rows.
    """
    first = first_tensor(data)
    count = min(count, len(first))

    def part(i, x):
        return x[len(x) * i // count : len(x) * (i + 1) // count]

    return [
        (
            tree.map_structure(functools.partial(part, i), data),
            tf.constant(i),
            tf.constant(len(part(i, first)) / len(first)),
        )
        for i in range(count)
    ]


def _plain(gradient):
    """A gradient as tensors, for the way to the chief: some rows of a table, or all of it."""
    if isinstance(gradient, tf.IndexedSlices):
        return gradient.values, gradient.indices
    return (gradient,)


def _sum(parts, shape):
    if len(parts[0]) == 1:
        return tf.add_n([part for (part,) in parts])
    values, indices = (tf.concat(each, axis=0) for each in zip(*parts))
    return tf.IndexedSlices(values, indices, dense_shape=shape)


def _merge(variable, parts, shares):
    """Bring what the workers made of a variable that is not trained together."""
    if variable.aggregation == "sum":
        variable.assign_add(tf.add_n(parts))
    elif variable.aggregation == "mean":
        variable.assign(tf.add_n([part * tf.cast(s, part.dtype) for part, s in zip(parts, shares)]))
    else:  # a seed, which each worker has moved on alike
        variable.assign(parts[0])
