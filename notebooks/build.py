"""Build the notebooks: execute each source `NN_name.py` and write `NN_name.ipynb` beside it.

    python notebooks/build.py               all of them
    python notebooks/build.py 01_first      those whose names begin so
    python notebooks/build.py --fast        execute them on few rows, write nothing: a quick check

A notebook that fails, warns, or shows a path of this machine is not written.
"""

import argparse
import copy
import os
import pathlib
import re
import sys
import tempfile

import jupytext
import nbclient
import nbformat

FOLDER = pathlib.Path(__file__).resolve().parent
FAST = "KERASLLM_FAST"  # the notebooks look at this variable
SECONDS = 900  # that one cell may take

FAULTS = {
    "a warning": re.compile(r"Warning\b|WARNING:|^[IWEF]\d{4} ", re.MULTILINE),
    # A URL has a colon before its slashes, and "and/or" a letter.
    "a path of this machine": re.compile(r"(?<![\w.:/])/\w[\w.-]*/\w|\b[A-Z]:\\"),
}


def sources(names=()):
    """Paths of the sources whose names begin with one of `names`; all of them without names."""
    found = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
    return [path for path in found if path.name.startswith(tuple(names) or "")]


def read(source):
    """Read a source as a notebook without outputs, whose cell ids are their numbers."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id = f"cell-{number:02}"
        cell.metadata.clear()
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"]}
    return notebook


def execute(notebook, fast=False):
    """Execute a notebook in an empty folder and a fresh process.

    Args:
        notebook: `nbformat` notebook, which is not changed.
        fast: bool, whether the notebook is to take few rows and epochs.

    Returns:
        The notebook with outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = copy.deepcopy(notebook)
    with tempfile.TemporaryDirectory() as folder:
        client = nbclient.NotebookClient(
            notebook,
            timeout=SECONDS,
            kernel_name=notebook.metadata.kernelspec.name,
            resources={"metadata": {"path": folder}},
            # A cell's time would make each build another file.
            record_timing=False,
            coalesce_streams=True,
            # What libraries in C++ write past Python's `sys.stderr` is for the terminal.
            extra_arguments=["--IPKernelApp.capture_fd_output=False"],
        )
        client.execute(env={**os.environ, FAST: str(int(fast)), "TF_CPP_MIN_LOG_LEVEL": "3"})
    notebook.metadata.pop("language_info", None)  # holds the version of this Python
    return notebook


def faults(notebook):
    """Say what is wrong with a notebook's outputs: list of str, empty where nothing is."""
    outputs = [
        (cell.id, output)
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    found = [f"{name}: an error" for name, output in outputs if output.output_type == "error"]
    for name, output in outputs:
        text = output.get("text", "") + output.get("data", {}).get("text/plain", "")
        for fault, pattern in FAULTS.items():
            match = pattern.search(text)
            if match:
                found.append(f"{name}: {fault}: {text[max(match.start() - 20, 0) :][:100]!r}")
    return found


def build(source, fast=False):
    """Execute a source and, unless `fast`, write the notebook.

    Args:
        source: path of a `.py` file.
        fast: bool.

    Raises:
        ValueError: its outputs have faults; the message says which.
    """
    notebook = execute(read(source), fast)
    found = faults(notebook)
    if found:
        raise ValueError(f"{source.name} must give clean outputs. Received: {'; '.join(found)}.")
    if not fast:
        nbformat.validate(notebook)
        nbformat.write(notebook, source.with_suffix(".ipynb"))


def main():
    """Read the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="how names begin; none for all")
    parser.add_argument("--fast", action="store_true", help="few rows, and write nothing")
    arguments = parser.parse_args()
    found = sources(arguments.names)
    if not found:
        parser.error(f"no notebook's name begins with {', '.join(arguments.names)}")
    for source in found:
        sys.stderr.write(f"{source.name}\n")
        build(source, arguments.fast)


if __name__ == "__main__":
    main()
