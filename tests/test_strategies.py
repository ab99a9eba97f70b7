"""Every strategy trains the same model. Each runs in a process, or cluster, of its own."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from kerasllm.training import STRATEGIES, strategy
from kerasllm.training.keras_mends import MENDS, mend

SCRIPT = pathlib.Path(__file__).with_name("train_under_strategy.py")
# Of this machine, to cut the CPU into; and of a cluster.
DEVICES = {"mirrored": 2, "central_storage": 2}
CLUSTERS = {
    "multi_worker_mirrored": {"workers": 2},
    "parameter_server": {"workers": 2, "servers": 1},
}
OTHERS = [name for name in STRATEGIES if name not in ("default", "tpu")]
PARALLEL = ["mirrored", "multi_worker_mirrored", "parameter_server", "central_storage"]


def run(folder, name):
    command = [
        sys.executable,
        str(SCRIPT),
        name,
        str(DEVICES.get(name, 0)),
        str(folder / "found.npz"),
    ]
    if name in CLUSTERS:
        code = f"from kerasllm.launch import launch; raise SystemExit(launch({command}, **{CLUSTERS[name]}))"
        command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        return done.stderr[-3000:]
    return dict(np.load(folder / "found.npz"))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A function from a strategy's name to what its run gave; each runs once."""
    found = {}

    def result(name):
        if name not in found:
            found[name] = run(tmp_path_factory.mktemp(name), name)
        if isinstance(found[name], str):
            pytest.fail(found[name])
        return found[name]

    return result


TRAININGS = [(name, training) for name in OTHERS for training in ("task", "options", "tasks")]


@pytest.mark.parametrize(("name", "training"), TRAININGS)
def test_it_does_what_one_device_does(results, name, training):
    ours, theirs = results(name), results("default")
    keys = [key for key in theirs if key.startswith(f"{training}: ")]
    assert keys == [key for key in ours if key.startswith(f"{training}: ")]
    for key in keys:
        tolerance = 1e-5 if "loss" in key else 1e-4
        np.testing.assert_allclose(ours[key], theirs[key], rtol=0, atol=tolerance, err_msg=key)


def test_training_goes_down(results):
    found = results("default")
    losses = found["task: losses"]
    assert len(losses) == 30
    assert losses[-10:].mean() < 0.5 * losses[:10].mean()
    assert found["options: loss"][-1] < 0.8 * found["options: loss"][0]


@pytest.mark.parametrize("name", PARALLEL[1:])
def test_dropout_depends_on_the_seed_alone(results, name):
    ours, theirs = (results(each)["dropout: losses"] for each in (name, "mirrored"))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-3)  # in half precision


def test_replicas_drop_other_values_each(results):
    # With one mask for all, two replicas would have another loss than these.
    assert results("mirrored")["replicas"] == 2
    ours, theirs = (results(each)["dropout: losses"] for each in ("mirrored", "default"))
    assert np.abs(ours - theirs).max() > 1e-3
    assert np.isfinite(ours).all()


def test_a_mend_is_put_once():
    mend()
    assert mend() == []
    assert all(not each.is_needed() for each in MENDS)


def test_a_mend_is_off_where_keras_has_no_fault():
    import dataclasses

    def mended(values):
        return values

    class Keras:
        """What has been mended there."""

    Keras.reduce = staticmethod(mended)
    each = dataclasses.replace(MENDS[0], owner=Keras, name="reduce", source=mended)
    assert not each.is_needed()


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(ValueError, match=r"`name` must be one of default, one_device, .*'cloud'"):
        strategy("cloud")


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_must_be_there(name, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(RuntimeError, match=r"`TF_CONFIG` must be set.*kerasllm launch"):
        strategy(name)


def test_a_tpu_must_be_there():
    with pytest.raises(
        RuntimeError, match=r"There must be a TPU for the strategy `tpu`\. Received"
    ):
        strategy("tpu")


def test_more_devices_than_there_are():
    tf.config.list_logical_devices()  # TensorFlow has started, and can't cut the CPU any more
    with pytest.raises(RuntimeError, match=r"`devices` must be at most 1.*Received: 64"):
        strategy("mirrored", devices=64)
