"""Start a cluster of processes on this machine, and end all of them together."""

import contextlib
import ctypes
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time

logger = logging.getLogger("kerasllm")

GRACE = 10  # seconds that processes have to end by themselves
PR_SET_PDEATHSIG = 1  # of Linux: the signal that a process gets when its parent dies


def launch(command, workers=2, servers=0, *, restarts=0):
    """Run a command as a cluster of local processes, for a trial of what many machines do.

    Each process finds its place in the variable `TF_CONFIG`, as on a real cluster. The first one's
    output and progress bar are shown as they are; lines of the others come on stderr behind their
    names. When one fails, all are ended.

    Args:
        command: list of str, a program and its arguments.
        workers: int, how many compute.
        servers: int, parameter servers; with them there is a chief beside the workers, for
            `ParameterServerStrategy`.
        restarts: int, how often all are started anew after one has failed.

    Returns:
        int: exit status of the process that failed first, 0 if none did; 128 and a signal's number
        if a signal ended it.

    Raises:
        OSError: the command can't be started.
        ValueError: a number is out of its range.

    Example:
        >>> launch(["python", "train.py"], workers=2)  # doctest: +SKIP
        0
    """
    for name, number, least in (("workers", workers, 1), ("servers", servers, 0)):
        if number < least:
            raise ValueError(f"`{name}` must be at least {least}. Received: {number}.")
    for left in range(restarts, -1, -1):
        status = _run(command, _cluster(workers, servers))
        if status == 0 or left == 0:
            return status
        logger.warning("Starting all processes again; %d more times after this.", left - 1)
    return status


def _cluster(workers, servers):
    jobs = {"chief": 1, "worker": workers, "ps": servers} if servers else {"worker": workers}
    with contextlib.ExitStack() as stack:  # all ports are held until each has another one
        sockets = {
            job: [stack.enter_context(socket.socket()) for _ in range(count)]
            for job, count in jobs.items()
        }
        for each in sum(sockets.values(), []):
            each.bind(("localhost", 0))
        return {
            job: [f"localhost:{each.getsockname()[1]}" for each in of_job]
            for job, of_job in sockets.items()
        }


def _run(command, cluster):
    """Run one process a task; return the exit status."""
    tasks = [(job, index) for job, addresses in cluster.items() for index in range(len(addresses))]
    processes = []
    with _terminable():
        try:
            for task in tasks:
                processes.append(_start(command, cluster, *task, shown=not processes))
            for task, process in zip(tasks[1:], processes[1:]):
                prefix = "[{} {}] ".format(*task)
                threading.Thread(target=_forward, args=(process, prefix), daemon=True).start()
            return _wait(tasks, processes)
        finally:
            _end(processes)


@contextlib.contextmanager
def _terminable():
    """Let the signal to end come out as an exception, so that no process stays behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start(command, cluster, job, index, shown):
    place = {"cluster": cluster, "task": {"type": job, "index": index}}
    return subprocess.Popen(
        command,
        env={**os.environ, "TF_CONFIG": json.dumps(place)},
        stdout=None if shown else subprocess.PIPE,
        stderr=None if shown else subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # a group, so that it ends with all that it has started
        preexec_fn=_end_with_parent,
    )


def _end_with_parent():
    """If this launcher is killed, its processes shall not stay behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _forward(process, prefix):
    for line in process.stdout:
        text = line.decode("utf-8", "replace").rstrip("\r\n").split("\r")[-1]
        if text:
            sys.stderr.write(f"{prefix}{text}\n")
            sys.stderr.flush()


def _wait(tasks, processes):
    """Wait until one fails, or the first one is done and no worker trains on."""
    # With a chief, workers and servers wait for its orders for ever.
    awaited = processes[:1] if tasks[0][0] == "chief" else processes
    while True:
        for (job, index), process in zip(tasks, processes):
            status = process.poll()
            if status:
                status = 128 - status if status < 0 else status
                logger.warning("%s %d ended with status %d: ending all.", job, index, status)
                return status
        if all(process.poll() == 0 for process in awaited):
            return 0
        time.sleep(0.1)


def _end(processes):
    """End processes and all that they have started; those that linger are killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)
        end = time.monotonic() + GRACE
        while any(process.poll() is None for process in processes) and time.monotonic() < end:
            time.sleep(0.05)
    for process in processes:
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
