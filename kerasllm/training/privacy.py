"""Differentially private training: no single row can be told from what was learnt."""

import contextlib
import dataclasses

import keras
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Privacy:
    """How much a model may tell of any one training row.

    With `delta` small, the chance of any outcome changes by at most the factor `e**epsilon` when a
    row is added or left out.

    The noise grows with the number of weights that are trained, so with few rows train few weights
    (`fit(last_layer_only=True)`), in large batches and at a high learning rate.

    Args:
        epsilon: float, what may be spent on the whole of the training: below 1 is strict, 3 to 8
            is what is mostly published.
        delta: float, much less than one by the number of rows.
        clip_norm: float, the most that the gradient of one row counts.

    Raises:
        ValueError: an argument is not above 0, or `delta` not below 1.

    Example:
        >>> history = fit(model, rows, privacy=Privacy(3.0, delta=1e-5))  # doctest: +SKIP
        >>> round(history["epsilon"][-1], 2)  # doctest: +SKIP
        3.0

    References:
        Abadi et al. 2016, "Deep Learning with Differential Privacy", algorithm 1.
    """

    epsilon: float
    delta: float = 1e-5
    clip_norm: float = 1.0

    def __post_init__(self):
        for name in ("epsilon", "delta", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be above 0. Received: {getattr(self, name)!r}.")
        if self.delta >= 1:
            raise ValueError(f"`delta` must be below 1. Received: {self.delta!r}.")

    def noise(self, rate, steps):
        """The noise that spends no more than `epsilon`.

        Args:
            rate: float, the chance of a row to be in a batch.
            steps: int, how many batches.

        Returns:
            float, the standard deviation, as a multiple of `clip_norm`.

        Raises:
            ImportError: the package `dp-accounting` is not installed.
        """
        accounting = _accounting()
        return float(
            accounting.calibrate_dp_mechanism(
                accounting.rdp.RdpAccountant,
                lambda noise: _event(accounting, rate, noise, steps),
                self.epsilon,
                self.delta,
                bracket_interval=accounting.LowerEndpointAndGuess(0.2, 1.0),
                tol=1e-3,
            )
        )

    def spent(self, rate, noise, steps):
        """What so many steps have spent.

        Args:
            rate: float, the chance of a row to be in a batch.
            noise: float, of `noise`.
            steps: int.

        Returns:
            float, the epsilon at `delta`.
        """
        accounting = _accounting()
        accountant = accounting.rdp.RdpAccountant()
        accountant.compose(_event(accounting, rate, noise, steps))
        return float(accountant.get_epsilon(self.delta))


@contextlib.contextmanager
def private_steps(model, privacy, noise, batch_size, seed):
    """While this context lasts, have `model.fit` take the steps of `private_step`.

    Args:
        model, privacy, noise, batch_size, seed: of `private_step`.
    """
    model.train_step = private_step(model, privacy, noise, batch_size, seed)
    try:
        yield
    finally:
        del model.train_step  # that of its class is back


def private_step(model, privacy, noise, batch_size, seed):
    """Make a step of training that adds up clipped gradients, row by row, and noise.

    Args:
        model: compiled `keras.Model`.
        privacy: `Privacy`.
        noise: float, of `Privacy.noise`.
        batch_size: int, rows of a batch in the mean.
        seed: int, of the noise. Who knows it can take the noise away: keep it to yourself.

    Returns:
        function like `model.train_step`.
    """
    generator = tf.random.Generator.from_seed(seed)
    deviation = noise * privacy.clip_norm

    def step(data):
        rows = tf.shape(tf.nest.flatten(data)[0])[0]
        variables = [variable.value for variable in model.trainable_variables]

        def one_row(number, *sums):
            row = _row(data, number)
            gradients = _row_gradients(model, row, variables)
            clipped, _ = tf.clip_by_global_norm(gradients, privacy.clip_norm)
            return number + 1, *(total + part for total, part in zip(sums, clipped))

        zeros = [tf.zeros(variable.shape, "float32") for variable in variables]
        _, *sums = tf.while_loop(
            lambda number, *_: number < rows, one_row, [tf.constant(0), *zeros]
        )
        noisy = [(total + deviation * generator.normal(total.shape)) / batch_size for total in sums]
        model.optimizer.apply(noisy, model.trainable_variables)
        return model.get_metrics_result()

    return step


def _row(data, number):
    """One row of a batch, without the padding that longer rows of the batch ask for."""
    x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
    lengths = {
        name: tf.maximum(tf.reduce_sum(mask[number]), 1)
        for name, mask in x.items()
        if name.endswith("padding_mask")
    }
    own, decoder = lengths["padding_mask"], lengths.get("decoder_padding_mask")
    row = {
        name: values[number : number + 1, : decoder if name.startswith("decoder_") else own]
        for name, values in x.items()
    }
    y, weight = (None if each is None else each[number : number + 1] for each in (y, weight))
    if weight is not None and weight.shape.rank == 2:  # one a token, as the targets (`batches`)
        y, weight = (each[:, : own if decoder is None else decoder] for each in (y, weight))
    return row, y, weight


def _row_gradients(model, row, variables):
    """The gradients of one row, dense; the metrics learn of it too."""
    x, y, weight = keras.utils.unpack_x_y_sample_weight(row)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(variables)  # nothing is kept of what lies below the lowest of them
        y_pred = model(x, training=True)
        loss = model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=weight, training=True)
    model._loss_tracker.update_state(loss)
    model.compute_metrics(x, y, y_pred, sample_weight=weight)
    gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
    return [tf.cast(tf.convert_to_tensor(gradient), "float32") for gradient in gradients]


def _event(accounting, rate, noise, steps):
    gaussian = accounting.GaussianDpEvent(noise)
    return accounting.SelfComposedDpEvent(accounting.PoissonSampledDpEvent(rate, gaussian), steps)


def _accounting():
    try:
        import dp_accounting
        import dp_accounting.rdp
    except ImportError:
        raise ImportError(
            "`privacy` needs the package `dp-accounting`, which is not installed "
            "(pip install dp-accounting)."
        ) from None
    return dp_accounting
