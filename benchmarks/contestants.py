"""The servers that can be measured: how each is started, and its label."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
SERVERS = Path(__file__).parent / "servers"
YARDSTICK = "aiohttp"
OURS = "greenchannels"

MODULES = {
    YARDSTICK: "aiohttp_uvloop",
    "gevent-websocket": "gevent_websocket",
    "channels": "channels_uvicorn",
}
#: Answers a close with a broken payload on Python 3.
LAX_CLOSE = "gevent-websocket"
PEERS = {"websockets": "websockets_uvloop", "picows": "picows_uvloop"}


@dataclass(frozen=True, slots=True)
class Contestant:
    """A server: its label in the table and how to start it."""

    label: str
    #: Arguments of Python; ``{port}`` stands for the port.
    arguments: tuple[str, ...]
    #: Folders that are imported from before all others.
    paths: tuple[Path, ...]

    def command(self, port):
        """Return the command line that serves on a port."""
        return [sys.executable, *(part.format(port=port) for part in self.arguments)]

    def environment(self):
        """Return the environment of the server's process."""
        paths = os.pathsep.join(str(path) for path in self.paths)
        return {**os.environ, "PYTHONPATH": paths}

    @property
    def load(self):
        """Return options of the load generator that only this server needs."""
        return {"lax-close": True} if self.label == LAX_CLOSE else {}

    @property
    def slow(self):
        """Say whether this is greenchannels without its optional C module."""
        built = self.paths[0].glob("greenchannels/wire/_speedups*.so")
        return self.ours and not any(built)

    @property
    def ours(self):
        """Say whether the limits apply."""
        return self.label.startswith(OURS)


def of_module(label, module):
    """Return a server of another library."""
    return Contestant(label, ("-m", f"benchmarks.servers.{module}", "{port}"), (ROOT,))


def of_checkout(label, path, extra=()):
    """Return greenchannels as it is in a source tree, with the routes of this one."""
    arguments = ["-m", "greenchannels", "run", "greenchannels_app:routing"]
    arguments += ["--host", "127.0.0.1", "--port", "{port}"]
    arguments += ["--access-log", "off", "--log-level", "warning", *extra]
    return Contestant(label, tuple(arguments), (path, SERVERS))


def labelled(checkout):
    """Split ``LABEL=PATH``; a path alone is labelled by its last part."""
    label, _, path = checkout.rpartition("=")
    path = Path(path).resolve()
    return f"{OURS} {label or path.name}", path


def chosen(names, checkouts, peers, extra):
    """
    Return the servers to measure, in the order of the table.

    Args:
        names: The labels to keep; all when empty.
        checkouts: Other source trees of greenchannels, ``PATH`` or ``LABEL=PATH``.
        peers: Whether libraries that stand there for orientation take part.
        extra: Further arguments of ``greenchannels run``.

    """
    modules = MODULES | (PEERS if peers or set(names) & set(PEERS) else {})
    known = [of_module(label, module) for label, module in modules.items()]
    known.append(of_checkout(OURS, ROOT, extra))
    found = [one for one in known if not names or one.label in names]
    others = [labelled(checkout) for checkout in checkouts]
    return found + [of_checkout(label, path, extra) for label, path in others]
