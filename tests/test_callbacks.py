import re

import keras
import pytest
import tensorflow as tf

from kerasllm.training import fit


@pytest.fixture
def run(capfd):
    """A function that trains for two epochs, and returns what was shown."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")

    def run(steps=2, **options):
        data = tf.data.Dataset.from_tensors(([[0.0]], [[0.0]])).repeat(steps)
        fit(model, data, data, epochs=2, **options)
        return capfd.readouterr()

    return run


def test_each_epoch_ends_in_a_line_with_its_figures(run):
    shown = run()
    assert shown.out == ""
    lines = [line.split("\r")[-1] for line in shown.err.strip().split("\n")]
    assert len(lines) == 2
    for epoch, line in enumerate(lines, start=1):
        assert line.startswith(f"epoch {epoch}/2: 100%")
        assert "2/2" in line
        assert re.findall(r"(\w+) \d+\.\d{4}", line) == ["loss", "val_loss"]


def test_it_can_be_left_out(run):
    assert run(progress=False) == ("", "")


def test_a_log_file_gets_few_updates(run):
    assert run(steps=300).err.count("\r") <= 8


def test_a_run_that_fails_leaves_the_next_bar_alone(run, capfd):
    class Crash(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise RuntimeError("the machine went down")

    with pytest.raises(RuntimeError, match="went down"):
        run(callbacks=[Crash()])
    capfd.readouterr()
    assert len(run().err.strip().split("\n")) == 2
