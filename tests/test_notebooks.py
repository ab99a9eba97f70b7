"""Each notebook runs, and what is committed is its source, executed, with clean outputs."""

import base64
import importlib.util
import os
import pathlib
import subprocess
import sys

import nbformat
import pytest

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "notebooks"
SOURCES = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
KILOBYTES = 400  # of a notebook
PICTURE_KILOBYTES = 60


def load_build():
    spec = importlib.util.spec_from_file_location("build", FOLDER / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load_build()
each = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def committed(source):
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_all_notebooks_are_sources_and_built():
    assert build.sources() == SOURCES
    assert (
        {path.stem for path in SOURCES} == {path.stem for path in FOLDER.glob("*.ipynb")} != set()
    )


@each
def test_source_runs(source):
    done = subprocess.run(
        [sys.executable, FOLDER / "build.py", source.stem, "--fast"],
        env={**os.environ, "MPLBACKEND": ""},  # the kernel's own, not that of the tests
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@each
def test_committed_notebook_is_its_source(source):
    expected = [(cell.cell_type, cell.source) for cell in build.read(source).cells]
    found = [(cell.cell_type, cell.source) for cell in committed(source).cells]
    assert found == expected, f"run `python notebooks/build.py {source.stem}`"


@each
def test_committed_notebook_was_executed_in_order(source):
    counts = [cell.execution_count for cell in code_cells(committed(source))]
    assert counts == list(range(1, len(counts) + 1))


@each
def test_committed_outputs_are_clean(source):
    assert build.faults(committed(source)) == []


@each
def test_committed_notebook_has_small_pictures_and_is_small(source):
    pictures = [
        len(base64.b64decode(output.data["image/png"]))
        for cell in code_cells(committed(source))
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert pictures
    assert max(pictures) <= 1000 * PICTURE_KILOBYTES
    assert source.with_suffix(".ipynb").stat().st_size <= 1000 * KILOBYTES


def notebook_with(*outputs):
    cell = nbformat.v4.new_code_cell(outputs=list(outputs))
    return nbformat.v4.new_notebook(cells=[cell])


def stream(text):
    return nbformat.v4.new_output("stream", name="stderr", text=text)


@pytest.mark.parametrize(
    "output",
    [
        nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[]),
        stream("<cell>:1: UserWarning: something\n"),
        stream("WARNING: All log messages before absl::InitializeLog() is called are …\n"),
        stream("fine\nI0000 00:00:1.2 3 port.cc:153] oneDNN custom operations are on.\n"),
        stream("written to: /var/folders/model\n"),
        stream(r"written to C:\Users\me"),
        nbformat.v4.new_output(
            "execute_result", data={"text/plain": "PosixPath('/" + "home/me/x')"}
        ),
    ],
)
def test_faults_are_found(output):
    assert build.faults(notebook_with(stream("ok\n"), output))


@pytest.mark.parametrize(
    "text", ["runs/first_model/serving/1", "and/or 5/10", "https://keras.io/api", "90/90 - 4s"]
)
def test_clean_outputs_have_no_faults(text):
    assert build.faults(notebook_with(stream(text))) == []


def test_execution_stops_at_an_error():
    notebook = build.read(SOURCES[0])
    notebook.cells = [nbformat.v4.new_code_cell("raise ValueError('stop here')")]
    with pytest.raises(build.nbclient.exceptions.CellExecutionError, match="stop here"):
        build.execute(notebook, fast=True)
