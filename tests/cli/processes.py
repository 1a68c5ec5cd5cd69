"""Servers of several processes, as their tests start, watch and end them."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.cli.test_binds import LAUNCHER
from tests.cli.test_run import Process, get
from tests.servers.harness import Peer

#: Seconds for what takes a fraction of one on a machine that is not busy.
PATIENCE = 20


class Family(Process):
    """
    A program with worker processes, in a session of its own.

    With ``socks`` it is started as systemd does.
    """

    def __init__(self, folder, *command, env=None, socks=()):
        self._runtime = tempfile.TemporaryDirectory(prefix="gc-", dir="/tmp")
        fds = [sock.fileno() for sock in socks]
        command = [sys.executable, "-m", *command]
        if socks:
            numbers = ",".join(map(str, fds))
            command = [sys.executable, "-c", LAUNCHER, numbers, "self", "", *command]
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={
                **os.environ,
                # What is changed within a second would be loaded from before.
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONPATH": os.getcwd(),
                "PYTHONWARNINGS": "default::DeprecationWarning",
                "XDG_RUNTIME_DIR": self._runtime.name,
                **(env or {}),
            },
            pass_fds=fds,
            start_new_session=True,
        )
        self.error = b""

    @property
    def pid(self):
        """The arbiter's."""
        return self.process.pid

    def members(self):
        """Return the process ids of all that it has started and that live."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, group = path.read_text().rpartition(")")[2].split()[:3]
                if int(group) == self.pid and state != "Z":
                    found.append(int(path.parent.name))
        return found

    def workers(self):
        """Return the process ids of the workers that there are."""
        return {pid for pid in self.members() if pid != self.pid}

    def wait_for_workers(self, condition):
        """Wait until the set of workers fulfils a condition; return it."""
        return waited(self.workers, condition)

    def kill(self):
        """End all of it at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.communicate()
        self._runtime.cleanup()

    def stopped(self, number=signal.SIGTERM, code=0):
        """End it as one does; return its standard output and error."""
        self.signal(number)
        found, out, error = self.end()
        assert found == code, error
        assert "Traceback" not in error and "Warning" not in error, error
        assert self.members() == []
        return out, error


def waited(look, condition, seconds=PATIENCE):
    """Return what ``look`` returns once it fulfils a condition."""
    end = time.monotonic() + seconds
    while not condition(found := look()):
        assert time.monotonic() < end, found
        time.sleep(0.02)
    return found


def pages(address, condition, path="/pid", *, tries_again=False):
    """Ask for pages until the set of answers fulfils a condition; return it."""
    found = set()

    def look():
        with contextlib.suppress(*((EOFError, OSError) if tries_again else ())):
            found.add(get(address, path).body.decode())
        return found

    return waited(look, condition)


@contextlib.contextmanager
def spread(address, pids):
    """Return an open socket in each of these workers, and perhaps in others."""
    peers = {}
    extra = []
    try:
        end = time.monotonic() + PATIENCE
        while not set(pids) <= set(peers):
            assert time.monotonic() < end, (peers, pids)
            peer = Peer(address)
            extra.append(peer)
            peer.open("/ws")
            pid = int(peer.hear())
            if pid not in peers:
                peers[pid] = extra.pop()
            elif len(extra) > 3:
                extra.pop(0).close()  # it keeps a worker busy, so that another accepts
        for peer in extra:
            peer.close()
        extra.clear()
        yield peers
    finally:
        for peer in [*peers.values(), *extra]:
            peer.close()


def lose_one(server, address, pids):
    """Kill one of two workers: the other goes on, together with the one that comes."""
    with spread(address, pids) as peers:
        victim, survivor = pids
        os.kill(victim, signal.SIGKILL)
        assert peers[victim].ended() in ("closed", "reset")
        now = server.wait_for_workers(lambda w: len(w) == 2 and victim not in w)
        (newcomer,) = now - {survivor}
        with spread(address, {newcomer}) as more:
            more[newcomer].say("together")
            assert more[newcomer].hear() == "together"
            assert peers[survivor].hear() == "together"
