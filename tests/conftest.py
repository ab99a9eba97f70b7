"""What the tests share."""

import os
import pathlib
import types

import pytest


@pytest.fixture(scope="session")
def data_dir():
    """Folder of the public data sets that some tests read; without it they are skipped."""
    beside = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = pathlib.Path(os.environ.get("KERASLLM_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"the data sets are not at {folder}; KERASLLM_DATA names another folder")
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run of the command line on a tiny task.

    Has `folder`, the data files `train` and `test`, and `process` with what was printed.
    """
    from command import kerasllm, write_csv
    from tiny_task import rows

    folder = tmp_path_factory.mktemp("runs")
    train = write_csv(folder / "train.csv", rows(32))
    test = write_csv(folder / "test.csv", rows(16, seed=1))
    run = folder / "new" / "run"
    process = kerasllm(
        *("train", "bert_tiny", train, run, "--validation", test, "--test", test, "--json"),
        *("--epochs", 4, "--batch-size", 4, "--learning-rate", 2e-3, "--max-length", 16),
    )
    assert process.returncode == 0, process.stderr
    return types.SimpleNamespace(folder=run, train=train, test=test, process=process)


@pytest.fixture(scope="session")
def exported(trained, tmp_path_factory):
    """Path of the trained run's artefact by target, and `process` of the SavedModel's export."""
    from command import kerasllm

    from kerasllm import runs

    folder = tmp_path_factory.mktemp("artefacts")
    found = types.SimpleNamespace(saved_model=folder / "serving", tflite=folder / "model.tflite")
    found.process = kerasllm("export", trained.folder, "saved_model", found.saved_model, "--json")
    assert found.process.returncode == 0, found.process.stderr
    runs.export(trained.folder, "tflite", found.tflite, max_length=16)
    return found
