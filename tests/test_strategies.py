import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from kerasllm.training import STRATEGIES, fit, strategy

SCRIPT = pathlib.Path(__file__).with_name("train_under_strategy.py")
DEVICES = {"default": 1}  # logical CPUs; two for every other strategy
STEPS = 10
RECIPE = {"epochs": 4, "batch_size": 8, "learning_rate": 0.01, "clip_norm": 0.2}


def run(folder, name, **changes):
    """Train in a process of its own; several strategies in one disturb each other."""
    settings = {
        "strategy": name,
        "devices": DEVICES.get(name, 2),
        "rows": 8 * STEPS,
        "validation": 33,
        "in_order": True,
        "dtype": None,
        "recipe": RECIPE,
        **changes,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    command = [sys.executable, str(SCRIPT), "settings.json", "result.npz"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(done.stderr[-3000:])
    return dict(np.load(folder / "result.npz"))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A function from a strategy's name to what its run gave; each runs once."""
    found = {}

    def result(name):
        if name not in found:
            found[name] = run(tmp_path_factory.mktemp(name), name)
        return found[name]

    return result


@pytest.mark.parametrize("name", STRATEGIES)
def test_training_goes_down(results, name):
    found = results(name)
    assert found["replicas"] == DEVICES.get(name, 2)
    assert len(found["losses"]) == RECIPE["epochs"] * STEPS
    assert np.isfinite(found["losses"]).all()
    assert found["loss"][-1] < 0.5 * found["loss"][0]


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "default"])
def test_replicas_do_what_one_device_does(results, name):
    ours, theirs = results(name), results("default")
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose(ours["losses"][:STEPS], theirs["losses"][:STEPS], rtol=0, atol=1e-5)
    for key in theirs.keys() - {"replicas"}:
        np.testing.assert_allclose(ours[key], theirs[key], rtol=0, atol=1e-4, err_msg=key)


def test_replicas_in_float16_with_batches_that_do_not_fill_up(tmp_path):
    # 42 rows: two are left out of an epoch. 33 to validate on: the last batch is of one row.
    recipe = {**RECIPE, "epochs": 6}
    options = {"rows": 42, "in_order": False, "dtype": "mixed_float16", "recipe": recipe}
    found = run(tmp_path, "mirrored", **options)
    assert len(found["losses"]) == 6 * (42 // 8)
    assert np.isfinite(found["losses"]).all()
    assert found["loss"][-1] < found["loss"][0]
    assert found["val_loss"][-1] < found["val_loss"][0]
    assert found["scores"].shape == (33, 2)
    np.testing.assert_allclose(found["scores"].sum(axis=1), 1, atol=1e-3)


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(ValueError, match=r"`name` must be one of default, mirrored.*'tpu'"):
        strategy("tpu")


@pytest.mark.parametrize(
    ("count", "batch_size", "message"),
    [
        (8, 7, "`batch_size` must be a multiple of 2.*7"),
        (6, 8, "`train` must have at least.*6 rows"),
    ],
)
def test_batches_must_fill_all_replicas(count, batch_size, message, monkeypatch):
    from tiny_task import classifier, rows

    class Two:
        num_replicas_in_sync = 2

    model = classifier()
    monkeypatch.setattr(type(model), "distribute_strategy", Two())
    with pytest.raises(ValueError, match=message):
        fit(model, rows(count), batch_size=batch_size)
