"""The command line in a process of its own, and small files for it."""

import csv
import os
import subprocess
import sys

COMMAND = [sys.executable, "-m", "kerasllm.cli"]

# As a user has it: no setting of the tests', and no network.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"},
    "HF_HUB_OFFLINE": "1",
}


def kerasllm(*arguments, **options):
    """Run `kerasllm` with these arguments to its end; returns a `CompletedProcess`."""
    command = [*COMMAND, *map(str, arguments)]
    process = subprocess.run(command, env=ENVIRONMENT, capture_output=True, check=False, **options)
    # Not `text=True`, which takes the carriage returns of a progress bar for line breaks.
    process.stdout, process.stderr = process.stdout.decode(), process.stderr.decode()
    return process


def write_csv(path, rows, header=("text", "label")):
    """Write rows as a CSV file; returns its path."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([row[name] for name in header] for row in rows)
    return path


def names(folder):
    """What is in a folder, all the way down."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
