"""``greenchannels run --workers N`` under faults: started, watched, and ended."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import gevent

from tests.cli.processes import Family

#: Seconds that anything may take that is not measured.
PATIENCE = 30.0

#: Seconds between two looks at what other processes do.
LOOK = 0.01

#: The application: all are in one group, hear of gaps, and may ask what is counted.
APP = """
    import contextlib, gc, json, os, subprocess, sys
    import gevent
    from gevent.monkey import get_original
    from greenchannels import Group, http, stats, websocket
    from greenchannels.layers import ipc_links

    ipc_links.MAX_WAITING = int(os.environ.get("MAX_WAITING", ipc_links.MAX_WAITING))

    sockets = set()

    def look():
        found = (g for g in gc.get_objects() if issubclass(type(g), gevent.Greenlet))
        return {
            "sockets": len(sockets),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "greenlets": sum(not g.dead for g in found),
            "stats": stats(),
        }

    def fork(seconds):
        if os.fork() == 0:
            get_original("time", "sleep")(seconds)
            os._exit(0)

    def execute(seconds):
        subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({seconds})"])

    @contextlib.contextmanager
    def inside(socket):
        sockets.add(socket)
        yield
        sockets.discard(socket)

    def crowd(socket):
        with Group("crowd").joined(socket) as group, inside(socket):
            socket.send(f"in {os.getpid()}")
            for event in socket.events():
                if isinstance(event, dict):
                    socket.send(f"gap {event['missed']}")
                elif event[0] == "?":
                    socket.send("look " + json.dumps(look()))
                elif event[0] == "!":
                    name, _, seconds = event[1:].partition(" ")
                    {"fork": fork, "execute": execute}[name](float(seconds))
                else:
                    group.send(event)

    def brief(socket):
        socket.send("hello")

    routing = [
        http("/version", lambda request: "one"),
        websocket("/brief", brief),
        websocket("/crowd", crowd),
    ]
"""

_UP = re.compile(rb"worker (\d+) is up")


class Fleet(Family):
    """
    Workers and who looks after them, in a session of their own.

    Args:
        folder: Where the application is, and the log.
        runtime: Where the folder of the sockets is made.

    """

    def __init__(self, folder, runtime, *arguments, workers=3, env=None):
        folder, self.runtime = Path(folder), runtime
        app = folder / "app.py"
        if not app.exists():
            app.write_text(textwrap.dedent(APP))
        self.count = workers
        self.log = folder / f"log-{time.monotonic_ns()}"
        options = ["--access-log", "off", "--port", "0", "--workers", str(workers)]
        command = [sys.executable, "-m", "greenchannels", "run", "app"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *options, *arguments],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    **os.environ,
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "PYTHONPATH": os.getcwd(),
                    "XDG_RUNTIME_DIR": str(runtime),
                    **(env or {}),
                },
                start_new_session=True,
            )

    @property
    def error(self):
        """What it has said."""
        return self.log.read_bytes()

    def wait_for(self, pattern, seconds=PATIENCE):
        """Wait until it has said something."""
        return until(lambda: re.search(pattern, self.error), seconds, self)

    def workers(self):
        """Return the process ids of the workers that there are."""
        return {pid for pid in self.members() if parent_of(pid) == self.pid}

    def wait_for_workers(self, condition):
        """Wait until the set of workers fulfils a condition; return it."""
        until(lambda: condition(self.workers()), note=self)
        return self.workers()

    def up(self):
        """Wait until as many accept as there should be; return their ids."""

        def all_up():
            said = {int(number) for number in _UP.findall(self.error)}
            found = self.workers()
            return found if len(found) == self.count and found <= said else None

        return until(all_up, note=self)

    def replaced(self, gone):
        """Wait until others accept in the place of ``gone``; return all ids."""
        self.wait_for_workers(lambda now: len(now) == self.count and not now & gone)
        return self.up()

    def files(self):
        """Return what is in the folders of the sockets."""
        above = os.path.join(self.runtime, "greenchannels")
        return sorted(n for _, _, names in os.walk(above) for n in names)

    def kill(self):
        """End all of it at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        until(lambda: not self.members(), note=self)

    def leave(self):
        """End it as one does; nothing is left."""
        self.signal(signal.SIGTERM)
        until(lambda: self.process.poll() is not None, note=self)
        assert self.process.returncode == 0, self
        assert b"Traceback" not in self.error, self
        assert (self.members(), self.files()) == ([], [])

    def __str__(self):
        return self.error.decode()[-4000:]


def parent_of(pid):
    """Return the id of the parent of a process; 0 if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])


def until(condition, seconds=PATIENCE, note=""):
    """Wait until a condition is true while the hub works; return its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"it did not come true: {note}"
        gevent.sleep(LOOK)
    return value
