"""Does a run of several workers survive being killed, and end where it would have ended?

Trains twice under `multi_worker_mirrored`: undisturbed, and with `kill -9` of a random worker (the
chief included) after random steps, each time started anew by the launcher. Prints the kills, the
largest differences of the two runs, and what was left behind.

    python benchmarks/kills.py [--kills 20] [--workers 2] [--seed 0]
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import numpy as np

from kerasllm.launch import launch

SCRIPT = pathlib.Path(__file__).parents[1] / "tests" / "train_with_backup.py"
EPOCHS, STEPS = 3, 30  # of the script


def train(folder, workers, kills):
    """What came out of a run with these kills: weights, losses, metrics."""
    folder.mkdir()
    (folder / "kills.json").write_text(json.dumps(kills))
    command = [sys.executable, str(SCRIPT), "multi_worker_mirrored", str(folder)]
    if launch([*command, str(folder / "found.npz")], workers, restarts=len(kills)):
        raise RuntimeError("The run must come to its end.")
    left = json.loads((folder / "kills.json").read_text())
    if left:
        raise RuntimeError(f"All kills must happen. Received: {left} left.")
    return np.load(folder / "found.npz")


def random_kills(count, workers, seed):
    """Worker, epoch and step of each kill, in the order in which they happen."""
    generator = random.Random(seed)
    steps = sorted(generator.sample(range(EPOCHS * STEPS), count))
    return [[generator.randrange(workers), *divmod(step, STEPS)] for step in steps]


def main(count, workers, seed):
    """Print what kills do to a run."""
    kills = random_kills(count, workers, seed)
    print("worker, epoch and step of each kill:", *map(tuple, kills), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        undisturbed = train(folder / "undisturbed", workers, [])
        killed = train(folder / "killed", workers, kills)
        both = [(name, np.abs(killed[name] - undisturbed[name]).max()) for name in killed.files]
        files = {path.name for path in (folder / "killed").iterdir()} - {"found.npz", "kills.json"}
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    processes = [line for line in found.stdout.splitlines() if SCRIPT.name in line]
    weights = max(difference for name, difference in both if name.startswith("weight"))
    history = max(difference for name, difference in both if not name.startswith("weight"))
    print(f"{len(kills)} kills, {len(kills)} recoveries")
    print(f"largest difference of a weight {weights:.1e}, of a loss or metric {history:.1e}")
    print(f"files left: {sorted(files) or 'none'}; processes left: {len(processes)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    main(arguments.kills, arguments.workers, arguments.seed)
