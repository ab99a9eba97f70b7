"""What the tests share."""

import os
import pathlib

import pytest


@pytest.fixture(scope="session")
def data_dir():
    """Folder of the public data sets that some tests read; without it they are skipped."""
    beside = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = pathlib.Path(os.environ.get("KERASLLM_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"the data sets are not at {folder}; KERASLLM_DATA names another folder")
    return folder
