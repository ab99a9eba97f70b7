"""What Keras 3 gets wrong under `tf.distribute`, mended until Keras does it itself.

Every mend names what it answers, and is put in place only while the faulty line stands in Keras'
source: once Keras has changed it, the mend is off. Nothing changes for a single replica.
"""

import dataclasses
import functools
import inspect
import logging

import keras
import tensorflow as tf
from keras.src import tree
from keras.src.backend.tensorflow import core as tensorflow_core
from keras.src.backend.tensorflow import optimizer as tensorflow_optimizer
from keras.src.backend.tensorflow import trainer
from keras.src.losses import loss as losses
from keras.src.optimizers import base_optimizer, loss_scale_optimizer
from keras.src.random import seed_generator

from kerasllm.data.parts import Part, current_part, first_tensor, part_of_batch
from kerasllm.training.coordinator import predict_on_workers, step_on_workers

logger = logging.getLogger("kerasllm")

SUM = tf.distribute.ReduceOp.SUM


@dataclasses.dataclass(frozen=True)
class Mend:
    """One function of Keras, and what stands in for it.

    Args:
        answers: str, what was wrong, and Keras' issue if there is one.
        owner: class or module that holds the function.
        name: str, its name.
        fault: str, a piece of its source that is at fault.
        make: function from the original to its replacement.
        source: the function with the fault, if it is another than the one replaced.
    """

    answers: str
    owner: object
    name: str
    fault: str
    make: object
    source: object = None

    def is_needed(self):
        """Whether Keras still has the fault, and nothing stands in yet."""
        function = getattr(self.owner, self.name, None)
        if function is None or hasattr(function, "mend"):
            return False
        try:
            return self.fault in inspect.getsource(self.source or function)
        except OSError:  # Keras is installed without its source
            return True

    def put(self):
        """Put the replacement in place."""
        original = getattr(self.owner, self.name)
        replacement = functools.wraps(original)(self.make(original))
        replacement.mend = self
        setattr(self.owner, self.name, replacement)


def mend():
    """Put every mend in place that this version of Keras needs; a second call does nothing.

    Returns:
        list of `Mend`: those put in place by this call.
    """
    put = [each for each in MENDS if each.is_needed()]
    for each in put:
        each.put()
        logger.debug("Mended in Keras %s: %s.", keras.__version__, each.answers)
    return put


# ------------------------------------------------------------------------------------ the step


def _symbolic_build(original):
    def build(self, iterator=None, data_batch=None):
        """Build on the shapes of the data, and leave the data alone.

        A batch that is taken here would make an epoch's order another than on one device.
        """
        if iterator is not None and self._distribute_strategy is not None:
            data = iterator.data_adapter.get_tf_dataset()
            if isinstance(data, tf.data.Dataset):
                data_batch = tree.map_structure(data_spec, data.element_spec)
            else:  # the user has distributed it
                local = self.distribute_strategy.experimental_local_results
                data_batch = tree.map_structure(lambda x: local(x)[0], next(iter(data)))
            iterator = None
        return original(self, iterator, data_batch)

    return build


def data_spec(spec):
    """A part of a dataset's `element_spec`; None where it has no data, e.g. no weights."""
    return spec if hasattr(spec, "shape") else None


def _make_function(original):
    def make_function(self, step_function):
        strategy = self.distribute_strategy
        if _has_servers(strategy):
            return step_on_workers(self, self._autoconvert_optionals(step_function))
        if strategy.num_replicas_in_sync == 1 or isinstance(strategy, tf.distribute.TPUStrategy):
            return original(self, step_function)  # a TPU takes no uneven batches
        step = _on_part(self._autoconvert_optionals(step_function))

        def one_step(data):
            logs = strategy.run(step, args=(data,))
            return _of_all_replicas(self, strategy, logs)

        def steps(iterator):
            """`steps_per_execution` of them, or as many as there are data for; at least one."""
            most = self.steps_per_execution
            logs = one_step(iterator.get_next())
            if most == 1:
                return logs

            def goes_on(count, data, _):
                return tf.logical_and(count < most, data.has_value())

            def another(count, data, _):
                logs = one_step(data.get_value())
                # What is fetched past the last step would be lost.
                data = tf.cond(count + 1 < most, iterator.get_next_as_optional, lambda: data)
                return count + 1, data, logs

            return tf.while_loop(goes_on, another, (1, iterator.get_next_as_optional(), logs))[2]

        if not self.run_eagerly:
            one_step = tf.function(one_step, autograph=False, reduce_retracing=True)
            steps = tf.function(steps, autograph=False, reduce_retracing=True)

        def function(iterator):
            if isinstance(iterator, (tf.data.Iterator, tf.distribute.DistributedIterator)):
                return steps(iterator)
            for _, data in zip(range(self.steps_per_execution), iterator):
                logs = one_step(data)
            return logs

        return function

    return make_function


def _on_part(step_function):
    """Let a replica's step know which part of the global batch it has."""

    def step(data):
        rows = tf.cast(tf.shape(first_tensor(data))[0], "float32")
        share = tf.math.divide_no_nan(rows, _over_replicas(rows))
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        with part_of_batch(Part(replica, share, _over_replicas, _gather)):
            return step_function(data)

    return step


def _over_replicas(x):
    return tf.distribute.get_replica_context().all_reduce(SUM, x)


def _gather(*tensors):
    """The rows of all replicas, and how many of them come before this one's.

    TensorFlow's own `all_gather` fails on workers with one device.
    """
    replica = tf.distribute.get_replica_context()
    index, replicas = replica.replica_id_in_sync_group, replica.num_replicas_in_sync
    rows = tf.shape(tensors[0])[0]
    counts = _over_replicas(tf.one_hot(index, replicas, dtype=tf.int32) * rows)
    before = tf.reduce_sum(tf.where(tf.range(replicas) < index, counts, 0))
    after = tf.reduce_sum(counts) - before - rows

    def padded(x):
        return tf.pad(x, [[before, after], *[[0, 0]] * (x.shape.rank - 1)])

    return [_over_replicas(padded(x)) for x in tensors], before


def _of_all_replicas(model, strategy, logs):
    """The logs of a step: of a metric its own result over all replicas, of others the mean."""
    logs = tree.map_structure(
        lambda x: strategy.reduce("MEAN", x, axis=None) if _is_float(x) else x, logs
    )
    results = model.get_metrics_result()
    if not isinstance(logs, dict) or not results.keys() <= logs.keys():
        return logs
    return {**logs, **results}


def _is_float(x):
    return getattr(x, "dtype", tf.string).is_floating


def _make_predict_function(original):
    def make(self, force=False):
        if not _has_servers(self.distribute_strategy):
            original(self, force)
        elif self.predict_function is None or force:
            self.predict_function = predict_on_workers(self)

    return make


def _distribute(original):
    def init(self, distribute_strategy=None, *args, **kwargs):
        """With servers, the chief reads all data itself."""
        if _has_servers(distribute_strategy):
            distribute_strategy = tf.distribute.OneDeviceStrategy("CPU:0")
        original(self, distribute_strategy, *args, **kwargs)

    return init


def _has_servers(strategy):
    return isinstance(strategy, tf.distribute.ParameterServerStrategy)


def _reduce_per_replica(original):
    def reduce_per_replica(values, strategy, reduction):
        """Over workers, `axis=0` would take the mean of a scalar's rows."""
        if reduction == "auto":
            reduction = "mean"
        if reduction != "mean" or not trainer._collective_all_reduce_multi_worker(strategy):
            return original(values, strategy, reduction)
        return tree.map_structure(lambda x: strategy.reduce("MEAN", x, axis=None), values)

    return reduce_per_replica


# ------------------------------------------------------------------------------------ the loss


def _reduce_values(original):
    def reduce_values(values, sample_weight=None, reduction="sum_over_batch_size"):
        """Divide by the count over all replicas, not each by its own."""
        means = ("sum_over_batch_size", "mean", "mean_with_sample_weight")
        part = current_part()
        if part is None or reduction not in means or not tuple(values.shape):
            return original(values, sample_weight, reduction)
        if reduction == "mean_with_sample_weight" and sample_weight is not None:
            weight = tf.reduce_sum(tf.cast(sample_weight, values.dtype))
            count = part.total(tf.stop_gradient(weight))
        else:
            count = part.total(tf.cast(tf.size(values), values.dtype))
        return tf.math.divide_no_nan(tf.reduce_sum(values), count)

    return reduce_values


def _scale_loss(original):
    def scale_loss_for_distribution(value):
        part = current_part()
        return original(value) if part is None else value * tf.cast(part.share, value.dtype)

    return scale_loss_for_distribution


def _unscale_loss(original):
    def unscale_loss_for_distribution(value):
        part = current_part()
        if part is None:
            return original(value)
        return tf.math.divide_no_nan(value, tf.cast(part.share, value.dtype))

    return unscale_loss_for_distribution


# ------------------------------------------------------------------------------------ the update


def _apply_gradients(original):
    def apply(self, grads, trainable_variables):
        """Sum over replicas first, then clip, decay and update; conditions outside of replicas."""
        if not _in_replicas():
            original(self, grads, trainable_variables)
            return
        if self.gradient_accumulation_steps:
            _accumulate(self, list(grads), trainable_variables)
        else:
            _update(self, grads, trainable_variables)
        if self.use_ema:
            self._update_model_variables_moving_average(self._trainable_variables)
            if self.ema_overwrite_frequency:
                _merged_cond(
                    (self.iterations + 1) % self.ema_overwrite_frequency == 0,
                    lambda _: self._overwrite_model_variables_with_average_value(
                        self._trainable_variables
                    ),
                )

    return apply


def _collect_gradients(original):
    def apply_gradients(self, grads_and_vars):
        part = current_part()
        if part is None or part.gradients is None:
            return original(self, grads_and_vars)
        part.gradients.extend(grad for grad, _ in grads_and_vars)
        return self._iterations

    return apply_gradients


def _in_replicas():
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return False
    return not tf.__internal__.distribute.strategy_supports_no_merge_call()  # as TPUs do


def _update(self, grads, variables):
    """Update variables by the sum of the replicas' gradients, in replica context."""
    values = [getattr(variable, "value", variable) for variable in variables]
    grads, _ = zip(*self._all_reduce_sum_gradients(list(zip(grads, values))))
    grads = self._clip_gradients(list(grads))
    self._apply_weight_decay(variables)
    tf.distribute.get_replica_context().merge_call(
        self._distributed_tf_update_step, args=(list(zip(grads, values)), self.learning_rate)
    )


def _accumulate(self, grads, variables):
    """Add gradients up on each replica by itself; sum over replicas and update when it is time."""
    steps = self.gradient_accumulation_steps
    due = (self._iterations + 1) % steps == 0
    sums = [self._accumulated_gradients[self._get_variable_index(v)] for v in variables]
    parts = 1
    if _is_central():  # there is one sum, for all replicas
        grads = _over_replicas(grads)
        parts = tf.distribute.get_strategy().num_replicas_in_sync
    for total, grad in zip(sums, grads):
        total.value.assign_add(tf.convert_to_tensor(grad))

    def update():
        means = [total.value.read_value() / (steps * parts) for total in sums]
        _update(self, means, variables)
        for total in sums:
            total.value.assign(tf.zeros(total.shape, total.dtype))

    _merged_cond(due, lambda distribution: distribution.extended.call_for_each_replica(update))


def _merged_cond(condition, action):
    """Do something in cross-replica context if a condition holds.

    A condition within a replica can't have a branch that waits for the other replicas.
    """

    def merged(distribution):
        def true():
            action(distribution)
            return tf.constant(True)

        tf.cond(tf.convert_to_tensor(condition), true, lambda: tf.constant(False))

    tf.distribute.get_replica_context().merge_call(merged)


def _add_variable_from_reference(original):
    def add(self, reference_variable, name=None, initializer="zeros"):
        """A sum of gradients is each replica's own until it is read."""
        replicas = self._distribution_strategy.num_replicas_in_sync
        if name != "gradient_accumulator" or replicas == 1 or _is_central():
            return original(self, reference_variable, name=name, initializer=initializer)
        variable = keras.Variable(
            keras.initializers.get(initializer),
            shape=reference_variable.shape,
            dtype=reference_variable.dtype,
            trainable=False,
            aggregation="sum",
            synchronization="on_read",
            name=f"{reference_variable.path.replace('/', '_')}_{name}",
        )
        self._track_variable(variable)
        return variable

    return add


def _apply_if_finite(original):
    def apply(self, grads, trainable_variables=None):
        """Pass a step over where *any* replica's gradients overflow, on all of them alike."""
        if not _in_replicas():
            original(self, grads, trainable_variables)
            return
        finite = _over_replicas(tf.cast(self.check_finite(grads), "float32"))
        all_finite = tf.equal(finite, float(tf.distribute.get_strategy().num_replicas_in_sync))

        def update(grads, variables):
            grads = [
                grad
                if grad is None or self._overwrite_variable_with_gradient(variable)
                else keras.ops.divide(grad, self.dynamic_scale)
                for grad, variable in zip(grads, variables)
            ]
            self.inner_optimizer.apply(grads, trainable_variables=variables)

        def merged(distribution, all_finite, grads, variables):
            def apply_all():
                distribution.extended.call_for_each_replica(update, args=(grads, variables))
                grows = tf.equal(self.step_counter.value, self.dynamic_growth_steps - 1)
                counter = (self.step_counter.value + 1) * tf.cast(~grows, self.step_counter.dtype)
                self.step_counter.assign(counter)
                self.dynamic_scale.assign(self.dynamic_scale.value * tf.where(grows, 2.0, 1.0))

            local = distribution.experimental_local_results(all_finite)[0]
            keras.ops.cond(local, apply_all, self._stateful_handle_non_finite_grads)

        tf.distribute.get_replica_context().merge_call(
            merged, args=(all_finite, grads, trainable_variables)
        )

    return apply


def _next_seed(original):
    def next_seed(self, ordered=True):
        """Parts of a batch share a seed, and drop other values each."""
        seed, part = original(self, ordered), current_part()
        return seed if part is None else seed + tf.cast(tf.stack([part.index, 0]), seed.dtype)

    return next_seed


# ---------------------------------------------------------------------------- central variables


def _map_aggregation(original):
    def map_aggregation(self, aggregation):
        """A central variable (a seed) must say whose value counts, when replicas assign to it."""
        if aggregation == "none" and _is_central():
            aggregation = "only_first_replica"
        return original(self, aggregation)

    return map_aggregation


def _direct_assign(original):
    def assign(self, value):
        """A central metric's sum grows by what each replica adds, not by whole sums."""
        context = tf.distribute.get_replica_context()
        if self.aggregation == "sum" and context is not None and _is_central():
            self._value.assign_add(tf.cast(value, self._value.dtype) - self._value)
        else:
            original(self, value)

    return assign


def _is_central():
    strategy = tf.distribute.get_strategy()
    return isinstance(strategy, tf.distribute.experimental.CentralStorageStrategy)


MENDS = (
    Mend(
        "bool and string features: the mean of a batch is taken over replicas (keras#20585)",
        trainer.TensorFlowTrainer,
        "_maybe_symbolic_build",
        '"MEAN",',
        _symbolic_build,
    ),
    Mend(
        "`steps_per_execution` fails, a step's metrics are means of means, an uneven batch trains "
        "differently (keras#19246), XLA is unsafe (keras#18145)",
        trainer.TensorFlowTrainer,
        "_make_function",
        "one_step_on_data(next_optional_inputs.get_value())",
        _make_function,
    ),
    Mend(
        "no `predict` with parameter servers",
        trainer.TensorFlowTrainer,
        "make_predict_function",
        "self.distribute_strategy.run(",
        _make_predict_function,
    ),
    Mend(
        "no data for parameter servers",
        trainer.TFEpochIterator,
        "__init__",
        "experimental_distribute_dataset(",
        _distribute,
    ),
    Mend(
        "no `fit` with parameter servers",
        base_optimizer.BaseOptimizer,
        "apply_gradients",
        "self.apply(grads, trainable_variables)",
        _collect_gradients,
    ),
    Mend(
        "several workers fail to reduce a scalar (keras#20585)",
        trainer,
        "reduce_per_replica",
        'strategy.reduce("MEAN", v, axis=0)',
        _reduce_per_replica,
    ),
    Mend(
        "each replica divides by its own count of rows (keras#19246)",
        losses,
        "reduce_values",
        "scale_loss_for_distribution(loss)",
        _reduce_values,
    ),
    Mend(
        "losses of layers, of replicas with unequal parts of a batch (keras#19246)",
        losses,
        "scale_loss_for_distribution",
        "1.0 / num_replicas",
        _scale_loss,
    ),
    Mend(
        "the shown loss, of replicas with unequal parts of a batch (keras#19246)",
        losses,
        "unscale_loss_for_distribution",
        "num_replicas, value.dtype",
        _unscale_loss,
    ),
    Mend(
        "`gradient_accumulation_steps` (keras#20582) and `ema_overwrite_frequency` fail, gradients "
        "are clipped before they are summed",
        tensorflow_optimizer.TFOptimizer,
        "_backend_apply_gradients",
        "ops.cond(",
        _apply_gradients,
        source=base_optimizer.BaseOptimizer._backend_apply_gradients,
    ),
    Mend(
        "sums of gradients can't be added to in a replica (keras#20582)",
        tensorflow_optimizer.TFOptimizer,
        "add_variable_from_reference",
        "super().add_variable_from_reference(",
        _add_variable_from_reference,
    ),
    Mend(
        "only the first replica is asked whether gradients are finite",
        loss_scale_optimizer.LossScaleOptimizer,
        "_tf_apply",
        "`grads` is all-reduced across replicas",
        _apply_if_finite,
    ),
    Mend(
        "all replicas drop the same values",
        seed_generator.SeedGenerator,
        "next",
        "new_seed_value = seed_state.value * 1",
        _next_seed,
    ),
    Mend(
        "seeds of dropout under `CentralStorageStrategy`",
        tensorflow_core.Variable,
        "_map_aggregation",
        '"none": tf.VariableAggregation.NONE',
        _map_aggregation,
    ),
    Mend(
        "metrics under `CentralStorageStrategy`",
        tensorflow_core.Variable,
        "_direct_assign",
        "self._value.assign(tf.cast(",
        _direct_assign,
    ),
)
