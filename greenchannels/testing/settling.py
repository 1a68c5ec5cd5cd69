"""
Wait until a server has nothing left to do for what its test clients did.

Looks at the server's queues, the kernel's, and the clients'. Children of
sockets and greenlets of the application's own are not looked at.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from types import FrameType
from typing import Any

import gevent
from gevent import Greenlet

from ..servers.http import HTTPConnection
from ..servers.server import Server
from ..servers.websocket import ServerSocket
from ..servers.workers import Worker
from .links import Link

#: Seconds between two looks.
LOOK = 0.001

#: Looks in a row that must see nothing: one may fall between two callbacks.
LOOKS = 2

#: Frames of files below these say nothing about where a consumer is.
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_NOT_THE_USERS = (_OURS, os.path.dirname(os.path.abspath(gevent.__file__)) + os.sep)


def settle(server: Server, links: Collection[Link], timeout: float) -> None:
    """
    Block until nothing is in flight.

    Raises:
        TimeoutError: If something still is; it names the consumers that do not
            wait for input, and where they are.

    """
    end = time.monotonic() + timeout
    seen = 0
    while seen < LOOKS:
        gevent.sleep(LOOK)
        seen = 0 if in_flight(server, links) else seen + 1
        if seen < LOOKS and time.monotonic() > end:
            raise TimeoutError(f"not settled in {timeout} s: {_why(server)}")


def in_flight(server: Server, links: Collection[Link]) -> bool:
    """Say whether something still has to happen."""
    if server.reactor.busy or server.layer.busy or restless(server):
        return True
    for connection in server.connections.values():
        if isinstance(connection, HTTPConnection):
            if connection.busy:
                return True
        elif not connection.idle:
            return True
    return any(link.in_flight for link in links)


def restless(server: Server) -> list[Greenlet[..., Any]]:
    """Return the consumers that do anything but wait for input."""
    return [greenlet for greenlet in server.consumers if not _rests(greenlet)]


def _rests(greenlet: Greenlet[..., Any]) -> bool:
    owner = greenlet.task if isinstance(greenlet, Worker) else greenlet.args[0]
    return isinstance(owner, ServerSocket) and owner.waiting and owner.idle


def _why(server: Server) -> str:
    found = [f"{each.name} is {where(each)}" for each in restless(server)]
    return "; ".join(found) or "bytes or messages are on their way"


def where(greenlet: Greenlet[..., Any]) -> str:
    """Return the place in the user's code at which a greenlet is."""
    top: FrameType | None = greenlet.gr_frame
    if top is None:
        return "not started"
    frame: FrameType | None = top
    while frame is not None and frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        frame = frame.f_back
    frame = frame or top
    code = frame.f_code
    return f"in {code.co_qualname} ({code.co_filename}:{frame.f_lineno})"
