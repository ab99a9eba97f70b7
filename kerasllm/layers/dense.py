"""A product with a kernel, a bias and an activation, in the form that TensorFlow can fuse."""

import keras
from keras import ops

from kerasllm.layers.quick_steps import is_quick_step


def shape_of(x):
    """The shape of a tensor, as `ops.reshape` takes it, computed only where it must be.

    Where one axis alone is not known beforehand, such as the batch in a step of a loop, it is -1,
    which costs nothing: reading its length would take several operations each time.

    Args:
        x: tensor.

    Returns:
        tuple of int, or of scalar int tensors where several axes are unknown.

    Example:
        >>> shape_of(np.zeros((2, 3))), shape_of(keras.Input((3, 4)))
        ((2, 3), (-1, 3, 4))
    """
    unknown = [length is None for length in x.shape]
    # Of no rows, TensorFlow can tell what -1 is by what is known, unless that is 0 too.
    if sum(unknown) == 1 and 0 not in x.shape:
        return tuple(-1 if length is None else length for length in x.shape)
    return tuple(ops.shape(x))


@keras.saving.register_keras_serializable(package="kerasllm")
class Dense(keras.layers.Dense):
    """`keras.layers.Dense`, computed as a product of two matrices whatever the input's rank.

    Keras' own brings a tensor of three axes back into its form before it adds the bias. That
    hides bias and activation from TensorFlow's optimizer, which otherwise computes all three at
    once on a CPU.

    Args:
        units, activation, use_bias, …: of `keras.layers.Dense`.

    Call arguments:
        inputs: float `(…, width)`.

    Returns:
        float `(…, units)`.

    Example:
        >>> tuple(Dense(4)(np.ones((2, 3, 5), "float32")).shape)
        (2, 3, 4)
    """

    def product(self, x, training=None):
        """What comes before bias and activation.

        Args:
            x: float `(rows, width)`.
            training: bool, of account to a subclass alone.

        Returns:
            float `(rows, units)`.
        """
        return ops.matmul(x, self.kernel)

    def call(self, inputs, training=None):
        *batch, width = shape_of(inputs)
        x = self.product(ops.reshape(inputs, (-1, width)), training)  # (rows, units)
        apart = is_quick_step(inputs, axis=1)  # all at once, a single row takes longer
        if apart:
            x = ops.reshape(x, (*batch, self.units))
        if self.bias is not None:
            x = ops.add(x, self.bias)
        if self.activation is not None:
            x = self.activation(x)
        return x if apart else ops.reshape(x, (*batch, self.units))
