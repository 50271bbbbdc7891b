"""Words for test files written in Python: a daemon, its API, the lines of the protocol.

The bash twin is lib.sh. Only the standard library, Python 3.11.
"""

import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

HULL = os.environ["HULL"]
WORK = Path(os.environ["HULL_WORK"])
SCALE = float(os.environ.get("HULL_TEST_SCALE", "1"))
# How many times longer than usual this machine may take.
PATIENCE = int(os.environ.get("HULL_TEST_PATIENCE", "1"))
SOCKET = WORK / "hull.sock"
TESTS = Path(__file__).resolve().parent

# How long a daemon may take until it answers, and anything else that a test waits for.
START_S = 20 * PATIENCE
WAIT_S = 30 * PATIENCE


class Failure(Exception):
    """A promise that was not kept."""


class ApiError(Exception):
    """An answer that says no."""

    def __init__(self, status, text):
        super().__init__(f"{status}: {text}")
        self.status = status


def scaled(count):
    """A loop's count: the aim times the scale, at least one."""
    return max(1, int(count * SCALE))


def check(held, what):
    if not held:
        raise Failure(what)


def wait_until(ready, what, seconds=WAIT_S):
    deadline = time.monotonic() + seconds
    while not (result := ready()):
        check(time.monotonic() < deadline, f"waited in vain for {what}")
        time.sleep(0.005)
    return result


class _Connection(http.client.HTTPConnection):
    def __init__(self, timeout):
        super().__init__("localhost", timeout=timeout)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(SOCKET))


def api(method, path, body=None, timeout=WAIT_S):
    """One request on a connection of its own; the parsed answer, or its bytes if it is not JSON."""
    connection = _Connection(timeout)
    try:
        headers = {} if body is None else {"Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        data = answer.read()
    finally:
        connection.close()
    if answer.status >= 400:
        raise ApiError(answer.status, data.decode(errors="replace").strip())
    if "json" in (answer.getheader("Content-Type") or "") and data:
        return json.loads(data)
    return data


def api_lines(method, path, timeout=WAIT_S):
    """One request whose answer is a line of JSON after the other."""
    connection = _Connection(timeout)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        data = answer.read()
    finally:
        connection.close()
    if answer.status >= 400:
        raise ApiError(answer.status, data.decode(errors="replace").strip())
    return [json.loads(line) for line in data.splitlines()]


class Daemon:
    """A daemon with its own data root, exec root and socket under WORK."""

    def __init__(self, *flags):
        self.flags = flags
        self.log = open(WORK / "daemon.log", "ab")
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            [HULL, "daemon", "--data-root", WORK / "data", "--exec-root", WORK / "run",
             "--pidfile", WORK / "hull.pid", "--host", f"unix://{SOCKET}", *self.flags],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        wait_until(self._answers, "the daemon's first answer", START_S)
        return self

    def _answers(self):
        check(self.process.poll() is None, f"the daemon ended with {self.process.poll()}")
        try:
            return api("GET", "/_ping") == b"OK"
        except OSError:
            return False

    @property
    def pid(self):
        return self.process.pid

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.terminate()
        self.process.wait(WAIT_S)

    def finish(self):
        """Takes away every container, then what outlives a daemon by design, then the daemon."""
        if self.process.poll() is not None:
            self.start()
        for container in api("GET", "/containers/json?all=1"):
            remove(container["Id"])
        subprocess.run([HULL, "-H", f"unix://{SOCKET}", "system", "shutdown"],
                       stdout=self.log, stderr=self.log, timeout=60, check=True)
        if self.process.poll() is None:
            self.stop()


def load_busybox():
    """Loads the same image as lib.sh's `load_busybox`."""
    script = f". {TESTS}/lib.sh; busybox_image"
    path = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True).stdout
    connection = _Connection(60)
    with open(path.strip(), "rb") as image:
        connection.request("POST", "/images/load?quiet=1", image.read(), {"Content-Type": "application/x-tar"})
    answer = connection.getresponse()
    text = answer.read()
    check(answer.status == 200, f"load busybox: {answer.status} {text}")
    connection.close()


def create(command, name=None, **fields):
    body = {"Image": "busybox", "Cmd": command, **fields}
    return api("POST", "/containers/create" + (f"?name={name}" if name else ""), body)["Id"]


def start(container):
    api("POST", f"/containers/{container}/start")


def wait(container, timeout=WAIT_S):
    return api("POST", f"/containers/{container}/wait", timeout=timeout)["StatusCode"]


def inspect(container):
    return api("GET", f"/containers/{container}/json")


def remove(container):
    try:
        api("DELETE", f"/containers/{container}?force=1&v=1")
    except ApiError as refused:
        if refused.status != 404:
            raise


def logs(container):
    """What the container wrote to stdout and stderr, without the frames around it."""
    data = api("GET", f"/containers/{container}/logs?stdout=1&stderr=1")
    text, at = b"", 0
    while at + 8 <= len(data):
        length = struct.unpack(">I", data[at + 4:at + 8])[0]
        text += data[at + 8:at + 8 + length]
        at += 8 + length
    check(at == len(data), "the log stream ends inside a frame")
    return text.decode()


def parent_of(pid):
    """The parent of a process: for the first one of a container that is its shim."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("PPid:"):
            return int(line.split()[1])
    raise Failure(f"process {pid} has no parent")


def run(*tests):
    """Runs test functions in order, prints their lines, ends the process."""
    failed = False
    only = os.environ.get("HULL_TEST_ONLY", "")
    for test in tests:
        name = test.__name__.removeprefix("test_")
        if only not in name:
            continue
        try:
            note = test()
            print(f"ok {name}", flush=True)
            if note:
                print(f"# {note}", flush=True)
        except Exception as error:
            failed = True
            print(f"not ok {name}: {type(error).__name__}: {error}", flush=True)
            traceback.print_exc(file=sys.stdout)
    sys.exit(1 if failed else 0)
