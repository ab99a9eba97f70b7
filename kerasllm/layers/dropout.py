"""Dropout that draws 16 random bits a value, where Keras draws 32."""

import keras
from keras import ops

STEPS = 2**16


@keras.saving.register_keras_serializable(package="kerasllm")
class Dropout(keras.layers.Dropout):
    """`keras.layers.Dropout`, from half as many random numbers.

    In a small BERT on a CPU, drawing random numbers is a tenth of a training step. Each 32-bit
    number here serves two values; the rate is rounded to a multiple of 1/65536, and the scale of
    the kept values is that of the rounded rate, so the expectation is exact.

    Args:
        rate: float in [0, 1], share of the values set to 0.
        noise_shape: as for `keras.layers.Dropout`, which then does the work.
        seed: int or None.

    Call arguments:
        inputs: float, any shape of at least one axis.
        training: bool, whether values are dropped at all.

    Returns:
        float, shape of `inputs`.

    Example:
        >>> values = Dropout(0.5, seed=1)(np.ones((1, 4), "float32"), training=True)
        >>> sorted(set(np.array(values[0]).tolist()))
        [0.0, 2.0]

    References:
        Srivastava et al. 2014, "Dropout", section 4.
    """

    def call(self, inputs, training=False):
        dropped = round(self.rate * STEPS)
        if not training or not dropped:
            return inputs
        if dropped == STEPS:
            return ops.zeros_like(inputs)
        if self.noise_shape is not None:
            return super().call(inputs, training=training)
        keep = ops.cast(self._random_steps(ops.shape(inputs)) >= dropped, inputs.dtype)
        return inputs * (keep * (STEPS / (STEPS - dropped)))

    def _random_steps(self, shape):
        """Integers below `STEPS`, of the given shape."""
        pairs = (shape[-1] + 1) // 2
        numbers = keras.random.randint(
            (*shape[:-1], pairs, 1), -(2**31), 2**31 - 1, dtype="int32", seed=self.seed_generator
        )
        halves = ops.view(numbers, "uint16")  # (…, pairs, 2)
        return ops.reshape(halves, (*shape[:-1], 2 * pairs))[..., : shape[-1]]
