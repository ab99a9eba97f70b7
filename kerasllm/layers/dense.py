"""A product with a kernel, a bias and an activation, in the form that TensorFlow can fuse."""

import keras
from keras import ops


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

    def affine(self, x, training=None):
        """What comes before the activation.

        Args:
            x: float `(rows, width)`.
            training: bool, of account to a subclass alone.

        Returns:
            float `(rows, units)`.
        """
        x = ops.matmul(x, self.kernel)
        return x if self.bias is None else ops.add(x, self.bias)

    def call(self, inputs, training=None):
        *batch, width = ops.shape(inputs)
        x = self.affine(ops.reshape(inputs, (-1, width)), training)  # (rows, units)
        if self.activation is not None:
            x = self.activation(x)
        return ops.reshape(x, (*batch, self.units))
