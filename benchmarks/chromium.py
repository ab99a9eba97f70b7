"""A page in headless Chromium, which is driven through a pipe (its DevTools protocol)."""

import base64
import contextlib
import functools
import http.server
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading

NAMES = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 720, 480
SECONDS = 300  # after which a browser that says nothing is ended
# Chromium reads from the descriptor 3 and writes to 4.
SHELL = 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1'


def find():
    """The path of the browser: that of the environment variable CHROMIUM, or one that is found.

    Returns:
        str, or None.
    """
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def served(folder):
    """Serve a folder on this machine.

    Args:
        folder: path.

    Yields:
        str, the address.
    """
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("localhost", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def opened(address):
    """Open a page on this machine, in a browser that finds no other.

    Args:
        address: str, which begins with `http://localhost`.

    Yields:
        `Page`.
    """
    # What the browser's other processes still write while they end must not end us.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = [
            "--headless",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),  # root has to do without
            "about:blank",
        ]
        command = ["sh", "-c", SHELL, "sh", find(), *options]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, **pipes, start_new_session=True) as process:
            try:
                yield Page(process, address)
            finally:
                os.killpg(process.pid, signal.SIGKILL)


class Page:
    """A page in a browser.

    Args:
        process: `subprocess.Popen`, the browser.
        address: str.
    """

    def __init__(self, process, address):
        self._process, self._session, self._count = process, {}, 0
        targets = self._call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        session = self._call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = {"sessionId": session["sessionId"]}
        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        self._call("Page.navigate", url=address)

    def run(self, function, *arguments):
        """Run a function in the page.

        Args:
            function: str, JavaScript, maybe an async function.
            *arguments: anything that JSON knows.

        Returns:
            What it returns.

        Raises:
            RuntimeError: it threw an error, or the browser ended.
        """
        expression = f"({function})(...{json.dumps(arguments)})"
        options = {"awaitPromise": True, "returnByValue": True}
        found = self._call("Runtime.evaluate", expression=expression, **options)
        if "exceptionDetails" in found:
            raise RuntimeError(f"The page said: {found['result'].get('description')}")
        return found["result"].get("value")

    def picture(self):
        """The page as it looks now: bytes, a PNG file."""
        return base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])

    def _call(self, method, **params):
        self._count += 1
        message = {"id": self._count, "method": method, "params": params, **self._session}
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        self._process.stdin.flush()
        timer = threading.Timer(SECONDS, self._process.kill)
        timer.start()
        try:
            while (answer := self._read()).get("id") != self._count:
                pass  # what happened meanwhile
        finally:
            timer.cancel()
        if "error" in answer:
            raise RuntimeError(f"The browser said: {answer['error']['message']}")
        return answer["result"]

    def _read(self):
        message = b"".join(iter(functools.partial(self._process.stdout.read, 1), b"\0"))
        return json.loads(message)
