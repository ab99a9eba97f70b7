"""The recurrent cells and layers against NumPy."""

import keras
import numpy as np
import numpy_reference as reference
import pytest

from kerasllm.layers import RecurrentBlock, RecurrentCell
from kerasllm.layers.recurrent_block import CELLS

TOLERANCE = 1e-5
INPUTS = np.random.default_rng(1).normal(size=(4, 7, 6)).astype("float32")
MASK = np.ones((4, 7), "int32")
MASK[1, 5:] = 0
MASK[2, 1:] = 0
MASK[3, :3] = 0


def made(cell, bidirectional=False, units=5, **options):
    layer = RecurrentBlock(units, cell, bidirectional, **options)
    layer.build(INPUTS.shape)
    return reference.randomise(layer)


@pytest.mark.parametrize("cell", CELLS)
def test_a_step_equals_numpy(cell):
    layer = RecurrentCell(5, cell)
    states = [state.astype("float32") for state in np.random.default_rng(2).normal(size=(2, 4, 5))]
    states = states[: len(layer.state_size)]
    layer.build(INPUTS[:, 0].shape)
    reference.randomise(layer)
    output, following = layer(INPUTS[:, 0], states)
    for row in range(4):
        expected = reference.recurrent_step(
            cell, layer.get_weights(), INPUTS[row, 0], [state[row] for state in states]
        )
        np.testing.assert_allclose(output[row], expected[0], atol=TOLERANCE)
        for state, wanted in zip(following, expected, strict=True):
            np.testing.assert_allclose(state[row], wanted, atol=TOLERANCE)


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one_way", "two_ways"])
@pytest.mark.parametrize("cell", CELLS)
def test_equals_numpy(cell, bidirectional):
    layer = made(cell, bidirectional)
    output = np.array(layer(INPUTS, MASK))
    assert output.shape == (4, 7, 10 if bidirectional else 5)
    expected = reference.recurrent_block(layer, INPUTS, MASK)
    np.testing.assert_allclose(output[MASK == 1], expected[MASK == 1], atol=TOLERANCE)
    expected = reference.recurrent_block(layer, INPUTS, np.ones_like(MASK))
    np.testing.assert_allclose(layer(INPUTS), expected, atol=TOLERANCE)


@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_goes_on_from_its_states(cell):
    layer = made(cell)
    states = [np.zeros((4, 5), "float32")] * len(layer.forward_layer.state_size)
    first, states = layer(INPUTS[:, :3], MASK[:, :3], cache=states)
    second, states = layer(INPUTS[:, 3:], MASK[:, 3:], cache=states)
    assert [tuple(state.shape) for state in states] == [(4, 5)] * CELLS[cell][2]
    output = np.concatenate([first, second], axis=1)[MASK == 1]
    np.testing.assert_allclose(output, np.array(layer(INPUTS, MASK))[MASK == 1], atol=TOLERANCE)
    with pytest.raises(ValueError, match="`cache` must be None in a bidirectional layer"):
        made(cell, True)(INPUTS, cache=states)


def test_unknown_cell():
    with pytest.raises(ValueError, match="`cell` must be one of rnn, lstm, gru. Received: 'LSTM'"):
        RecurrentBlock(5, "LSTM")


def test_fresh_weights():
    keras.utils.set_random_seed(0)
    for cell, (_, gates, _) in CELLS.items():
        layer = RecurrentCell(8, cell)
        layer.build((None, 6))
        assert [tuple(weight.shape) for weight in layer.weights] == [
            *((6, gates * 8), (8, gates * 8)),
            *((gates * 8,), (gates * 8,)),
        ]
        recurrent = layer.recurrent_kernel.numpy()
        np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(8), atol=1e-5)
        bias = np.zeros((gates, 8))
        bias[1:2] = cell == "lstm"  # the forget gate starts open
        np.testing.assert_array_equal(layer.bias.numpy(), bias.ravel())
        np.testing.assert_array_equal(layer.recurrent_bias.numpy(), np.zeros(gates * 8))


def test_dropout_while_training_only():
    layer = made("gru", rate=0.5)
    np.testing.assert_array_equal(layer(INPUTS), layer(INPUTS, training=False))
    first, second = (np.array(layer(INPUTS, training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 1e-3
    never = made("gru", rate=0.0)
    np.testing.assert_array_equal(never(INPUTS), never(INPUTS, training=True))


def test_config_there_and_back():
    layer = made("gru", True, rate=0.25, name="block")
    again = RecurrentBlock.from_config(layer.get_config())
    again.build(INPUTS.shape)
    again.set_weights(layer.get_weights())
    assert again.get_config() == layer.get_config()
    np.testing.assert_array_equal(again(INPUTS, MASK), layer(INPUTS, MASK))
    assert layer.compute_output_shape(INPUTS.shape) == again(INPUTS).shape
