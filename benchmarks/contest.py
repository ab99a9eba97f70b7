"""Contestants, each in a process of its own, that work in turns on one machine.

A contestant is a function of a module. It loads what it needs, and returns a function `work`,
without arguments, that does the work of one round and returns an answer to look at: a loss, or
scores. TensorFlow and PyTorch don't share a process, and no contestant inherits another's threads
or memory.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import multiprocessing
import os
import pathlib
import platform
import resource
import statistics
import sys
import tempfile
import time

PACKAGES = (
    "kerasllm", "tensorflow", "keras", "keras-nlp", "torch", "transformers", "onnxruntime",
    "ai-edge-litert", "litert-lm-api",
)  # fmt: skip
# What `ru_maxrss` counts.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024

# "spawn": a forked child would inherit the parent's memory, and its threads half.
_processes = multiprocessing.get_context("spawn")


@dataclasses.dataclass
class Result:
    """What was measured of one contestant.

    Args:
        wall: list of float, seconds of each round.
        cpu: list of float, seconds of processor time of each round, all threads together.
        peak_bytes: int, the most memory that the process ever held (resident), loading included.
        answers: list of what each round's work returned.
    """

    wall: list = dataclasses.field(default_factory=list)
    cpu: list = dataclasses.field(default_factory=list)
    peak_bytes: int = 0
    answers: list = dataclasses.field(default_factory=list)

    @property
    def answer(self):
        """What the last round's work returned."""
        return self.answers[-1]


def alone(function, *args):
    """Run a function in a process of its own, and return what it returns.

    Args:
        function: function of a module.
        *args: its arguments; anything that can be pickled.

    Returns:
        The function's result.

    Raises:
        RuntimeError: the process died; its traceback is on stderr.
    """
    with _Process(_answer_once, function, args) as process:
        return process.receive()


def compare(contestants, rounds):
    """Let contestants do the same work in turns: A, B, C, A, B, C, ….

    Each does the work of a round once before the first round, which counts for nothing.

    Args:
        contestants: dict, name: (function, *arguments), the function as this module describes it.
        rounds: int.

    Returns:
        dict, name: `Result`.

    Raises:
        RuntimeError: a contestant's process died; its traceback is on stderr.
    """
    results = {name: Result() for name in contestants}
    processes = {}
    try:
        for name, (function, *args) in contestants.items():
            _say(f"{name} starts …")
            processes[name] = _Process(_work_when_asked, function, args)
            processes[name].receive()  # one after the other, so that none is warmed up in a crowd
        for i in range(rounds):
            for name, process in processes.items():
                process.connection.send(True)
                measured = process.receive()
                results[name].wall.append(measured["wall"])
                results[name].cpu.append(measured["cpu"])
                results[name].peak_bytes = measured["peak_bytes"]
                results[name].answers.append(measured["answer"])
                _say(f"round {i + 1}/{rounds}: {name} {measured['wall']:.2f} s")
    finally:
        for process in processes.values():
            process.end()
    return results


class _Process:
    """A child process at the other end of a pipe."""

    def __init__(self, target, function, args):
        self.name = function.__name__
        self.connection, theirs = _processes.Pipe()
        self.process = _processes.Process(target=target, args=(theirs, function, args))
        self.process.start()
        theirs.close()  # so that the pipe ends when the child does

    def receive(self):
        try:
            return self.connection.recv()
        except EOFError:
            self.process.join()
            raise RuntimeError(
                f"The process of `{self.name}` died with exit code {self.process.exitcode}; see "
                "its message above."
            ) from None

    def end(self):
        self.connection.close()
        self.process.join()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


def _answer_once(connection, function, args):
    connection.send(function(*args))


def _work_when_asked(connection, function, args):
    work = function(*args)
    work()
    connection.send("ready")
    while True:
        try:
            connection.recv()
        except EOFError:  # the parent has seen enough
            return
        wall, cpu = time.perf_counter(), time.process_time()
        answer = work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT
        connection.send({"wall": wall, "cpu": cpu, "peak_bytes": peak, "answer": answer})


def run(description, workloads, measure, sentences, tries=()):
    """Do what every benchmark does: read the command line, measure, print tables, write JSON.

    Args:
        description: str, what `--help` says first.
        workloads: tuple of str, the names to choose from; all by default.
        measure: function from (workload, folder to work in, parsed arguments) to the pair (table
            as str, dict for JSON).
        sentences: int, the default of `--sentences`.
        tries: tuple of str, more names to choose from, which are not there by default.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    arguments = _parser(description, workloads, sentences, tries).parse_args()
    measured = {"environment": _environment(), "arguments": vars(arguments), "workloads": {}}
    with tempfile.TemporaryDirectory() as folder:
        for workload in arguments.workloads:
            _say(f"workload {workload}")
            table, measured["workloads"][workload] = measure(
                workload, pathlib.Path(folder), arguments
            )
            print(table, flush=True)
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(measured, indent=2) + "\n")


def _parser(description, workloads, sentences, tries):
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--model", metavar="FOLDER", help="Hugging Face folder; none: random, of MiniLM's size")
    add("--data", metavar="FILE", default=_sentences(), help="labelled sentences, for read_rows")
    add("--sentences", type=int, metavar="N", default=sentences, help="how many, drawn by a seed")
    add("--rounds", type=int, metavar="N", default=5, help="turns of each contestant")
    names = (*workloads, *tries)
    add("--workloads", nargs="+", metavar="NAME", choices=names, default=workloads, help="what")
    add("--json", metavar="FILE", help="write the raw numbers here too")
    return parser


def _sentences():
    beside = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
    file = pathlib.Path(os.environ.get("KERASLLM_DATA", beside)) / "sst2" / "train.txt"
    return str(file) if file.is_file() else "sample:reviews_en:train"


def _environment():
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {"platform": platform.platform(), "cpus": os.cpu_count(), "versions": versions}


def ratios(results, name, seconds="wall"):
    """How many times as fast as a contestant the first one is, by round.

    Args:
        results: of `compare`.
        name: str, a contestant.
        seconds: `"wall"` or `"cpu"`.

    Returns:
        list of float.
    """
    first = next(iter(results.values()))
    pairs = zip(getattr(results[name], seconds), getattr(first, seconds), strict=True)
    return [theirs / ours for theirs, ours in pairs]


def spread(values, form=".2f"):
    """Write values as `median (least–largest)`."""
    median, least, largest = (format(f(values), form) for f in (statistics.median, min, max))
    return f"{median} ({least}–{largest})"


def markdown(title, rows):
    """Lay out a table.

    Args:
        title: str.
        rows: list of dicts, column: cell, both str.

    Returns:
        str, Markdown that reads well as plain text too.
    """
    columns = list(rows[0])
    lines = [columns, *[list(row.values()) for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    lines.insert(1, ["-" * width for width in widths])
    padded = [[cell.ljust(width) for cell, width in zip(line, widths)] for line in lines]
    return "\n".join([f"\n### {title}\n", *[f"| {' | '.join(line)} |" for line in padded]])


def _say(text):
    print(text, file=sys.stderr, flush=True)
