"""Real processes that meet over ``ipc://``, and their end."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

import pytest

#: Seconds that anything may take that is not measured.
PATIENCE = 20.0


class Nursery:
    """A process that has imported everything, and forks those that are asked for."""

    def __init__(self):
        self._control, theirs = socket.socketpair()
        command = [sys.executable, "-m", "tests.layers.ipc_program"]
        with theirs:
            self._running = subprocess.Popen(
                [*command, str(theirs.fileno())], pass_fds=[theirs.fileno()]
            )

    def bear(self, url):
        """Start a process; return its id and a connection to it."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [url.encode()], [theirs.fileno()])
        return int(self._control.recv(100)), ours

    def close(self):
        """End it."""
        self._control.close()
        self._running.wait(timeout=PATIENCE)


class Process:
    """One run of ``ipc_program``; calling it sends a command."""

    def __init__(self, nursery, url):
        self.pid, self._connection = nursery.bear(url)
        self.origin = ""
        self.start_time = 0.0
        self.alive = True
        self._unread = b""

    def __call__(self, command, *arguments, timeout=PATIENCE):
        """Return the answer to a command."""
        self.tell(command, *arguments)
        return self.answer(timeout)

    def tell(self, command, *arguments):
        """Send a command; ``answer`` has to be called for it."""
        line = json.dumps([command, *arguments]).encode() + b"\n"
        self._connection.sendall(line)

    def answer(self, timeout=PATIENCE):
        """Return the answer to the oldest command told."""
        self._connection.settimeout(timeout)
        while b"\n" not in self._unread:
            data = self._connection.recv(65536)
            assert data, "the process has ended"
            self._unread += data
        line, self._unread = self._unread.split(b"\n", 1)
        return json.loads(line)

    def started(self):
        """Wait for the answer to "start"."""
        answer = self.answer()
        assert isinstance(answer, list), answer
        self.origin, self.start_time = answer
        return self

    def signal(self, number):
        """Send a signal."""
        os.kill(self.pid, number)

    def kill(self):
        """Kill it with SIGKILL and wait for its end."""
        if self.alive:
            self.alive = False
            self.signal(signal.SIGKILL)
            until(self.has_ended)
            self._connection.close()

    def has_ended(self):
        """Say whether there is no such process any more."""
        try:
            self.signal(0)
        except ProcessLookupError:
            return True
        return False

    def end(self):
        """Let it leave in order."""
        with contextlib.suppress(OSError):
            self.signal(signal.SIGCONT)
        with contextlib.suppress(OSError, AssertionError):
            self("close")
        self.kill()


class Family:
    """Processes of one folder."""

    def __init__(self, folder, nursery):
        self.folder = folder
        self.nursery = nursery
        self.url = f"ipc://{folder}"
        self.processes = []

    def begin(self, count=1):
        """Begin processes that are about to start their layers all at once."""
        found = [Process(self.nursery, self.url) for _ in range(count)]
        self.processes += found
        for each in found:
            each.tell("start")
        return found

    def start(self, count=1):
        """Start processes; returns when all their layers have started."""
        return [each.started() for each in self.begin(count)]

    def end(self):
        """End all."""
        for each in self.processes:
            if each.alive:
                each.end()

    def names(self):
        """Return the names of the sockets in the folder."""
        return [name for name in self.files() if "." not in name]

    def linked(self):
        """Wait until each of the living knows what each other wants, and no more."""
        names = {each.origin for each in self.living}
        for each in self.living:
            expected = [sorted(names - {each.origin})] * 2
            until(lambda e=each, x=expected: e("others") == x)

    @property
    def living(self):
        """The processes that were not killed."""
        return [each for each in self.processes if each.alive]

    def files(self):
        """Return what is in the folder."""
        return sorted(os.listdir(self.folder))


@pytest.fixture(scope="module")
def nursery():
    """Where processes come from."""
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def family(nursery):
    """Start and end processes in a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="gc-") as above:
        family = Family(os.path.join(above, "app"), nursery)
        yield family
        family.end()


def until(condition, timeout=PATIENCE, note=str):
    """Wait for a condition of other processes; ``note()`` says what it is like."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"it did not come true: {note()}"
        time.sleep(0.01)
