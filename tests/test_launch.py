"""Processes that are started together end together."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from kerasllm.launch import launch

# What starts a test run in the background may have it ignore SIGINT, which a child inherits.
LAUNCH = """import signal
from kerasllm.launch import launch
signal.signal(signal.SIGINT, signal.default_int_handler)
raise SystemExit(launch({command}, {options}))"""


@pytest.fixture
def run(tmp_path):
    """A function that launches a Python program, which finds its task's type and index."""
    head = (
        "import json, os, sys, time, pathlib\n"
        "place = json.loads(os.environ['TF_CONFIG'])\n"
        "task, index = place['task']['type'], place['task']['index']\n"
    )
    with contextlib.ExitStack() as stack:

        def run(program, **options):
            options = ", ".join(f"{name}={value}" for name, value in options.items())
            command = [sys.executable, "-c", head + program]
            process = subprocess.Popen(
                [sys.executable, "-c", LAUNCH.format(command=command, options=options)],
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            return stack.enter_context(process)

        yield run


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def test_each_finds_its_place_and_only_the_first_speaks_plainly(run):
    program = "print(task, index, sum(map(len, place['cluster'].values())))"
    process = run(program, workers=3)
    out, err = process.communicate()
    assert process.returncode == 0
    assert out == "worker 0 3\n"
    assert sorted(err.splitlines()) == ["[worker 1] worker 1 3", "[worker 2] worker 2 3"]


def test_with_servers_all_end_when_the_chief_is_done(run):
    program = "print(task, index, flush=True)\nif task != 'chief': time.sleep(600)"
    process = run(program, workers=2, servers=1)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out == "chief 0\n"


def test_ports_are_distinct(run, tmp_path):
    program = "pathlib.Path(f'{index}.json').write_text(json.dumps(place['cluster']))"
    assert run(program, workers=4).wait() == 0
    (cluster,) = {(tmp_path / f"{i}.json").read_text() for i in range(4)}
    assert len(set(json.loads(cluster)["worker"])) == 4


@pytest.mark.parametrize(("end", "status"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 137)])
def test_when_one_fails_all_are_ended(run, tmp_path, end, status):
    program = (
        "pathlib.Path(f'{index}.pid').write_text(str(os.getpid()))\n"
        f"if index == 1: {end}\n"
        "time.sleep(600)"
    )
    process = run(program, workers=3)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert f"worker 1 ended with status {status}: ending all." in err
    assert not any(is_running(int(path.read_text())) for path in tmp_path.glob("*.pid"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of a killed parent")
def test_no_process_stays_behind(run, tmp_path, number):
    program = (
        "import signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        * (number == signal.SIGTERM)
        + "pathlib.Path(f'{index}.pid').write_text(str(os.getpid()))\ntime.sleep(600)"
    )
    process = run(program, workers=2)
    wait_for(lambda: len([p for p in tmp_path.glob("*.pid") if p.read_text()]) == 2)
    pids = [int(path.read_text()) for path in tmp_path.glob("*.pid")]
    process.send_signal(number)
    assert process.wait(timeout=60) != 0
    wait_for(lambda: not any(map(is_running, pids)))


def test_restarts(run, tmp_path):
    program = (
        "tries = pathlib.Path('tries')\n"
        "if index == 0:\n"
        "    tries.write_text(tries.read_text() + 'x' if tries.exists() else 'x')\n"
        "    sys.exit(len(tries.read_text()) < 3)"
    )
    process = run(program, workers=2, restarts=5)
    assert process.wait(timeout=60) == 0
    assert (tmp_path / "tries").read_text() == "xxx"


@pytest.mark.parametrize(
    ("options", "name"), [({"workers": 0}, "workers"), ({"servers": -1}, "ser")]
)
def test_numbers_out_of_range(options, name):
    with pytest.raises(ValueError, match=rf"`{name}.*` must be at least"):
        launch(["true"], **options)


def test_a_program_that_is_not_there():
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        launch(["no-such-program"], workers=1)
