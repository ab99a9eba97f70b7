"""Low-rank adaptation: a small detour beside a large kernel that stays as it is."""

import contextlib

import keras
from keras import ops

from kerasllm.layers.dense import Dense
from kerasllm.layers.dropout import Dropout


@keras.saving.register_keras_serializable(package="kerasllm")
class LowRank(keras.layers.Layer):
    """What is added to the output of a `Dense`: down to a few numbers, and up again.

    Args:
        rank: int, those few.
        units: int, width of the output.
        alpha: float; the output is multiplied by `alpha / rank`.
        rate: float in [0, 1), dropout on the input.
        down: `Dense` or None: the way down of another adapter, to share.

    Call arguments:
        inputs: float `(…, width)`.
        training: bool, whether dropout is on.

    Returns:
        float `(…, units)`: zeros in a fresh adapter, which so changes nothing.

    Example:
        >>> tuple(LowRank(2, 5, alpha=2.0)(np.ones((3, 4), "float32")).shape)
        (3, 5)

    References:
        Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1, equation
        3: `down` is A, `up` is B.
    """

    def __init__(self, rank, units, alpha, rate=0.0, down=None, **kwargs):
        super().__init__(**kwargs)
        self.rank = rank
        self.units = units
        self.alpha = alpha
        self.rate = rate
        self.dropout = Dropout(rate, dtype=self.dtype_policy, name="dropout")
        self.down = down
        if down is None:
            uniform = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
            self.down = self._dense(rank, uniform, "down")
        self.up = self._dense(units, "zeros", "up")

    def _dense(self, units, initializer, name):
        return Dense(
            units,
            use_bias=False,
            kernel_initializer=initializer,
            dtype=self.dtype_policy,
            name=name,
        )

    @property
    def scale(self):
        """What the output is multiplied by, float."""
        return self.alpha / self.rank

    def build(self, inputs_shape):
        if not self.down.built:
            self.down.build(inputs_shape)
        self.up.build((*inputs_shape[:-1], self.rank))

    def call(self, inputs, training=None):
        x = self.down(self.dropout(inputs, training=training))  # (…, rank)
        return self.up(x) * self.scale  # (…, units)

    def get_config(self):
        return {
            **super().get_config(),
            "rank": self.rank,
            "units": self.units,
            "alpha": self.alpha,
            "rate": self.rate,
        }


class AdaptedDense(Dense):
    """A `Dense` with an adapter, its attribute `lora`, beside the kernel.

    `adapt` turns a `Dense` into one. Keras' own `Dense.enable_lora` will not do: it makes the whole
    product of both kernels at every step, knows no dropout, and saves no adapter apart.
    """

    def product(self, x, training=None):
        return super().product(x) + self.lora(x, training=training)

    def merged_kernel(self):
        """The kernel that alone does what kernel and adapter do together, float32."""
        down, up = (ops.cast(part.kernel, "float32") for part in (self.lora.down, self.lora.up))
        return ops.cast(self.kernel, "float32") + self.lora.scale * ops.matmul(down, up)


def adapt(dense, rank, alpha, rate=0.0, down=None):
    """Give a `Dense` an adapter, in its place.

    Args:
        dense: built `Dense`. It becomes an `AdaptedDense`.
        rank, alpha, rate, down: of `LowRank`.

    Returns:
        The `LowRank`.

    Raises:
        TypeError: `dense` is no plain `Dense` in floating point.
    """
    if type(dense) is not Dense or dense.quantization_mode is not None:
        raise TypeError(f"`dense` must be a plain `kerasllm.layers.Dense`. Received: {dense}.")
    width, units = dense.kernel.shape
    adapter = LowRank(rank, units, alpha, rate, down, dtype=dense.dtype_policy, name="lora")
    with contextlib.ExitStack() as scopes:  # paths of its variables begin with those of the layer
        for name in dense.path.split("/"):
            scopes.enter_context(keras.name_scope(name))
        adapter.build((None, width))
    # A layer that is built takes no more parts, unless told to, as Keras itself does for LoRA.
    dense._tracker.unlock()
    dense.lora = adapter
    dense._tracker.lock()
    # The object stays: graphs, `Sequential`s and maps of names go on to hold it.
    dense.__class__ = AdaptedDense
    return adapter
