"""Recurrent layers: a state that is carried from token to token."""

import keras
from keras import ops

from kerasllm.layers.dropout import Dropout


def rnn_step(new, old, states):
    """One step of a plain recurrent network: `tanh(new + old)`.

    Args:
        new: float `(batch, units)`, what the input says.
        old: float `(batch, units)`, what the state says.
        states: list with the hidden state, which this step does not ask for.

    Returns:
        list with the next hidden state, float `(batch, units)`.

    References:
        Elman 1990, "Finding Structure in Time".
    """
    return [ops.tanh(new + old)]


def lstm_step(new, old, states):
    """One step of long short-term memory.

    Args:
        new: float `(batch, 4 * units)`, what the input says to the input, forget, cell and output
            gate.
        old: float `(batch, 4 * units)`, what the hidden state says to them.
        states: list of the hidden state and the cell state, float `(batch, units)`.

    Returns:
        list of both states, next.

    References:
        Hochreiter and Schmidhuber 1997, "Long Short-Term Memory"; the forget gate: Gers et al.
        2000, "Learning to Forget".
    """
    input_gate, forget_gate, update, output_gate = ops.split(new + old, 4, axis=-1)
    memory = ops.sigmoid(forget_gate) * states[1] + ops.sigmoid(input_gate) * ops.tanh(update)
    return [ops.sigmoid(output_gate) * ops.tanh(memory), memory]


def gru_step(new, old, states):
    """One step of a gated recurrent unit, with the reset gate after the product.

    Args:
        new: float `(batch, 3 * units)`, what the input says to the reset gate, the update gate and
            the candidate.
        old: float `(batch, 3 * units)`, what the hidden state says to them.
        states: list with the hidden state, float `(batch, units)`.

    Returns:
        list with the next hidden state.

    References:
        Cho et al. 2014, "Learning Phrase Representations using RNN Encoder–Decoder", section 2.3;
        the first version on arXiv (v1) resets after the product, as cuDNN and PyTorch do.
    """
    new_reset, new_update, new_candidate = ops.split(new, 3, axis=-1)
    old_reset, old_update, old_candidate = ops.split(old, 3, axis=-1)
    reset = ops.sigmoid(new_reset + old_reset)
    update = ops.sigmoid(new_update + old_update)
    candidate = ops.tanh(new_candidate + reset * old_candidate)
    return [update * states[0] + (1.0 - update) * candidate]


# Cell: its step, how many gates it computes, and how many states it carries.
CELLS = {"rnn": (rnn_step, 1, 1), "lstm": (lstm_step, 4, 2), "gru": (gru_step, 3, 1)}


def _orthogonal(shape, dtype=None):
    """An orthogonal matrix; computed in float32, because its QR decomposition knows no bfloat16."""
    return ops.cast(keras.initializers.Orthogonal()(shape, dtype="float32"), dtype)


@keras.saving.register_keras_serializable(package="kerasllm")
class RecurrentCell(keras.layers.Layer):
    """One time step of a recurrent network, which `keras.layers.RNN` takes over a text.

    Keras has cells of its own. This one has both biases of the equations, and the gates in the
    order that PyTorch and cuDNN have, so that weights go in and out unchanged.

    Args:
        units: int, width of the state.
        cell: str, `"rnn"`, `"lstm"` or `"gru"`.

    Call arguments:
        inputs: float `(batch, width)`.
        states: list of float `(batch, units)`: the hidden state and, of an LSTM, the cell state.

    Returns:
        The pair of the output, float `(batch, units)`, and the list of the next states.

    Raises:
        ValueError: `cell` is no known cell.

    Example:
        >>> state = np.zeros((2, 8), "float32")
        >>> output, states = RecurrentCell(8, "lstm")(np.ones((2, 5), "float32"), [state, state])
        >>> tuple(output.shape), len(states)
        ((2, 8), 2)

    References:
        See `rnn_step`, `lstm_step` and `gru_step`; a forget gate that starts open: Jozefowicz et
        al. 2015, "An Empirical Exploration of Recurrent Network Architectures", section 2.2.
    """

    def __init__(self, units, cell="lstm", **kwargs):
        if cell not in CELLS:
            raise ValueError(f"`cell` must be one of {', '.join(CELLS)}. Received: {cell!r}.")
        super().__init__(**kwargs)
        self.units = units
        self.cell = cell
        self.state_size = [units] * CELLS[cell][2]
        self.output_size = units

    def build(self, inputs_shape, states_shape=None):
        width = CELLS[self.cell][1] * self.units
        self.kernel = self.add_weight(
            (inputs_shape[-1], width), initializer="glorot_uniform", name="kernel"
        )
        self.recurrent_kernel = self.add_weight(
            (self.units, width), initializer=_orthogonal, name="recurrent_kernel"
        )
        self.bias = self.add_weight((width,), initializer=self._first_bias, name="bias")
        self.recurrent_bias = self.add_weight((width,), initializer="zeros", name="recurrent_bias")

    def _first_bias(self, shape, dtype=None):
        """Zeros; but an LSTM starts with its forget gates open, or it would learn nothing far."""
        index = ops.arange(shape[0]) // self.units
        return ops.cast((index == 1) & (self.cell == "lstm"), dtype)

    def call(self, inputs, states):
        new = ops.matmul(inputs, self.kernel) + self.bias
        old = ops.matmul(states[0], self.recurrent_kernel) + self.recurrent_bias
        states = CELLS[self.cell][0](new, old, states)
        return states[0], states

    def get_config(self):
        return {**super().get_config(), "units": self.units, "cell": self.cell}


@keras.saving.register_keras_serializable(package="kerasllm")
class RecurrentBlock(keras.layers.Layer):
    """One recurrent layer over a text, forwards and, if asked for, backwards too.

    Args:
        units: int, width of the state in each direction.
        cell: str, `"rnn"`, `"lstm"` or `"gru"`.
        bidirectional: bool, whether a second network reads the text from its end.
        rate: float in [0, 1), dropout on the input.

    Call arguments:
        inputs: float `(batch, length, width)`.
        padding_mask: `(batch, length)`, 1 = real token, or None for all: no state sees padding,
            wherever it is.
        cache: list of float `(batch, units)`, the states before the first token, or None for zeros.
        training: bool, whether dropout is on.

    Returns:
        float `(batch, length, units)`, or twice the units, forwards then backwards; with a `cache`,
        the pair of that and the states after the last token.

    Raises:
        ValueError: `cell` is no known cell, or there is a `cache` though the layer is
            bidirectional.

    Example:
        >>> layer = RecurrentBlock(8, "gru", bidirectional=True)
        >>> tuple(layer(np.ones((2, 5, 4), "float32")).shape)
        (2, 5, 16)

    References:
        Schuster and Paliwal 1997, "Bidirectional Recurrent Neural Networks"; dropout between the
        layers and not from step to step: Zaremba et al. 2014, "Recurrent Neural Network
        Regularization", section 3.2.
    """

    def __init__(self, units, cell="lstm", bidirectional=False, rate=0.0, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.cell = cell
        self.bidirectional = bidirectional
        self.rate = rate
        self.dropout = Dropout(rate, dtype=self.dtype_policy, name="dropout")
        self.forward_layer = self._direction("forward_layer")
        self.backward_layer = None
        if bidirectional:
            self.backward_layer = self._direction("backward_layer", go_backwards=True)

    def _direction(self, name, **options):
        return keras.layers.RNN(
            RecurrentCell(self.units, self.cell, dtype=self.dtype_policy, name="cell"),
            return_sequences=True,
            return_state=True,
            dtype=self.dtype_policy,
            name=name,
            **options,
        )

    def build(self, inputs_shape, padding_mask_shape=None):
        self.forward_layer.build(inputs_shape)
        if self.bidirectional:
            self.backward_layer.build(inputs_shape)

    def call(self, inputs, padding_mask=None, cache=None, training=None):
        if self.bidirectional and cache is not None:
            raise ValueError(
                "`cache` must be None in a bidirectional layer, whose other direction begins at "
                "the end of the text. Received: a cache."
            )
        mask = None if padding_mask is None else ops.cast(padding_mask, "bool")
        x = self.dropout(inputs, training=training)
        output, *states = self.forward_layer(x, mask=mask, initial_state=cache)
        outputs = [output]  # of (batch, length, units)
        if self.bidirectional:
            backward, *_ = self.backward_layer(x, mask=mask)  # the last token first
            outputs.append(ops.flip(backward, axis=1))
        # A new tensor in any case: on its own output, Keras' layer has hung the mask.
        output = ops.concatenate(outputs, axis=-1)
        return output if cache is None else (output, states)

    def compute_output_shape(self, inputs_shape, padding_mask_shape=None):
        return (*inputs_shape[:-1], self.units * (1 + self.bidirectional))

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "cell": self.cell,
            "bidirectional": self.bidirectional,
            "rate": self.rate,
        }
