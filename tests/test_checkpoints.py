"""A run that dies goes on at its last whole checkpoint, and ends where it would have ended."""

import errno
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from tiny_task import classifier, rows

from kerasllm.training import fit
from kerasllm.training.checkpoints import ARRAYS, State, load_state, save_state

SCRIPT = pathlib.Path(__file__).with_name("train_with_backup.py")
CLUSTERS = {"default": 1, "multi_worker_mirrored": 2}
# Worker, epoch and step: before the first checkpoint, at one, between two, and at an epoch's end.
KILLS = {
    "default": [(0, 0, 3), (0, 0, 6), (0, 1, 10), (0, 1, 29), (0, 2, 20)],
    "multi_worker_mirrored": [(1, 1, 10), (0, 2, 20)],
}


def train(folder, name, kills=()):
    """Train under the launcher, which starts anew after each kill; return what came out."""
    folder.mkdir()
    (folder / "kills.json").write_text(json.dumps(list(kills)))
    command = [sys.executable, str(SCRIPT), name, str(folder), str(folder / "found.npz")]
    code = (
        "from kerasllm.launch import launch\n"
        f"raise SystemExit(launch({command}, workers={CLUSTERS[name]}, restarts={len(kills)}))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((folder / "kills.json").read_text()) == []
    assert done.stderr.count("ended with status 137") == len(kills)
    assert sorted(path.name for path in folder.iterdir()) == ["found.npz", "kills.json"]
    return np.load(folder / "found.npz")


@pytest.mark.parametrize("name", CLUSTERS)
def test_kill_9_at_any_step(tmp_path, name):
    theirs = train(tmp_path / "undisturbed", name)
    ours = train(tmp_path / "killed", name, KILLS[name])
    assert ours.files == theirs.files
    for key in theirs.files:
        np.testing.assert_allclose(ours[key], theirs[key], rtol=0, atol=1e-6, err_msg=key)


def state(number):
    return State({"a": np.full(3, number, "float32"), "b": np.array(number)}, epoch=number, step=2)


def test_the_newest_ones_stay(tmp_path):
    for number in range(5):
        save_state(state(number), tmp_path, number, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-0000000003",
        "step-0000000004",
    ]
    found = load_state(tmp_path)
    assert (found.epoch, found.step) == (4, 2)
    np.testing.assert_array_equal(found.arrays["a"], np.full(3, 4, "float32"))
    assert found.arrays["b"].shape == ()


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def alter(path):
    path.write_bytes(path.read_bytes()[:-1] + b"x")


@pytest.mark.parametrize("name", [ARRAYS, "state.json"])
@pytest.mark.parametrize("damage", [truncate, alter, pathlib.Path.unlink])
def test_a_damaged_one_is_passed_over(tmp_path, caplog, name, damage):
    for number in (1, 2):
        save_state(state(number), tmp_path, number, keep=2)
    damage(tmp_path / "step-0000000002" / name)
    assert load_state(tmp_path).epoch == 1
    assert "`" + str(tmp_path / "step-0000000002") + "` is damaged and passed over" in caplog.text
    # When the run has come to that step again, it is written anew.
    save_state(state(2), tmp_path, 2, keep=2)
    assert load_state(tmp_path).epoch == 2


def test_none_is_none(tmp_path):
    assert load_state(tmp_path / "nowhere") is None


def test_a_full_disk_ends_the_run_and_keeps_the_last_one(tmp_path, monkeypatch):
    save, writes = pathlib.Path.write_bytes, []

    def full(path, data):
        writes.append(path)
        if len(writes) > 2:
            save(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(path, data)

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"can't be written to .*No space left.* step 4; make room"):
        fit(classifier(), rows(64), epochs=2, batch_size=8, backup=tmp_path / "b", backup_every=2)
    assert [path.name for path in sorted((tmp_path / "b").iterdir())] == [
        "step-0000000002",
        "step-0000000004",
    ]
    assert load_state(tmp_path / "b").step == 4


def test_another_model_is_refused(tmp_path):
    save_state(State({"00000": np.zeros(3, "float32")}), tmp_path / "b", 1, keep=2)
    with pytest.raises(
        ValueError, match=r"`backup` must hold checkpoints of the same model.*1 arr"
    ):
        fit(classifier(), rows(16), epochs=1, batch_size=8, backup=tmp_path / "b")


def test_the_file_is_plain_safetensors(tmp_path):
    save_state(state(7), tmp_path, 7, keep=1)
    found = safetensors.numpy.load_file(tmp_path / "step-0000000007" / ARRAYS)
    assert found.keys() == {"a", "b"}
