"""The routes for greenchannels, run by its own command line."""

import inspect
import os

from greenchannels import Group, websocket

#: Members of ``/crowd`` that are nobody's sockets.
ABSENTEES = 50_000
#: Where their messages are written: a file in memory takes about 1 us for each,
#: as long as a member of "8 in flight" takes.
NOBODY = os.memfd_create("nobody")
#: No server compresses here; older trees of greenchannels cannot.
KNOWN = inspect.signature(websocket).parameters
PLAIN = {"deflate": False} if "deflate" in KNOWN else {}


def echo(socket):
    """Return each message."""
    for message in socket:
        socket.send(message)


def broadcast(socket):
    """Send each message to everybody here."""
    with Group("all").joined(socket) as group:
        for message in socket:
            group.send(message)


class Absentee:
    """A member without a socket, which costs a broadcast about what one does."""

    __slots__ = ("max_groups", "memberships", "waiting")

    def __init__(self):
        self.memberships = self.max_groups = None
        self.waiting = []

    def deliver(self, broadcast):
        """Queue a frame, which all share, and give it to the kernel."""
        self.waiting.append(broadcast.encoded(str.encode))
        os.pwritev(NOBODY, self.waiting, 0)
        self.waiting.clear()


def crowd(socket):
    """Send each message to 50,000 others and, last of all, back."""
    group = Group("crowd")
    for _ in range(ABSENTEES):
        group.add(Absentee())
    with group.joined(socket):
        for message in socket:
            group.send(message)


def idle(socket):
    """Wait until the peer has gone."""
    socket.wait()


routing = [
    websocket("/echo", echo, **PLAIN),
    websocket("/broadcast", broadcast, **PLAIN),
    websocket("/crowd", crowd, **PLAIN),
    websocket("/idle", idle, **PLAIN),
]
