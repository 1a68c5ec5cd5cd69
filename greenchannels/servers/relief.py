"""
The bound of the process: when too much waits to be written, the largest go.

Each connection has bounds of its own; ten thousand connections at theirs may still
be more than the process has memory for. Then those for whom most waits are cut.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any

from ..net.clock import Alarm
from ..net.reactor import SLICE_TIME
from ..net.transport import Transport
from .losses import CONNECTIONS_CUT
from .websocket import ServerSocket

if TYPE_CHECKING:
    from .server import Server

#: Connections are cut until this much of the bound is used.
ENOUGH = 0.9

#: Seconds between two lines of the log, and before looking again when cutting did
#: not help.
PAUSE = 1.0

#: What connections that serve no socket count as.
HTTP = "HTTP"

logger = logging.getLogger("greenchannels.server")


class Relief:
    """
    Keep what waits in a server's connections below ``max_total_buffer``.

    Args:
        server: The server, whose reactor has been made.

    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._backlog = backlog = server.reactor.backlog
        limit = server.options.max_total_buffer
        backlog.limit = sys.maxsize if limit is None else limit
        backlog.on_overflow = self._begin
        #: Cut, but not in the log yet.
        self._cut = 0
        self._alarm: Alarm | None = None

    def _begin(self) -> None:
        """Cut the largest if still too much waits. Hub only."""
        if self._backlog.total > self._backlog.limit:
            self._go_on()
        else:
            self._backlog.over = False

    def _go_on(self) -> None:
        """Cut the largest, a slice of time a turn. Hub only."""
        try:
            if self._cut_largest():
                self._server.reactor.next_turn(self._go_on)
            elif self._backlog.total > self._backlog.limit:
                self._look_later()  # what waits belongs to no connection
            else:
                self._backlog.over = False
        except Exception:
            logger.exception("cutting connections failed in the hub")
            self._look_later()

    def _cut_largest(self) -> bool:
        """Cut until it is enough; return whether the time was too short for that."""
        backlog = self._backlog
        end = time.perf_counter() + SLICE_TIME
        goal = int(backlog.limit * ENOUGH)
        for transport in sorted(self._server.connections, key=_size, reverse=True):
            if backlog.total <= goal or not _size(transport):
                break
            if time.perf_counter() > end:
                return True
            transport.write_now()  # perhaps it only has not been yet
            if transport.queue:
                self._cut_one(transport)
        return False

    def _cut_one(self, transport: Transport) -> None:
        """Cut a connection, count it, and have it logged."""
        connection: Any = self._server.connections.get(transport)
        route, policy = HTTP, None
        if isinstance(connection, ServerSocket):
            route, policy = connection.endpoint.name, connection.endpoint.slow.name
        size = _size(transport)
        transport.cut(ConnectionAbortedError("too much waits in this process"))
        self._server.layer.count_slow(route, policy, CONNECTIONS_CUT)
        if self._alarm is None:
            logger.warning(
                "%r: cut with %d bytes waiting: all that waits in this process is"
                " more than max_total_buffer, %d bytes",
                connection,
                size,
                self._backlog.limit,
            )
            self._alarm = self._server.reactor.clock.call_later(PAUSE, self._log_rest)
        else:
            self._cut += 1

    def _log_rest(self) -> None:
        """Say how many were cut since the last line."""
        self._alarm = None
        if self._cut:
            logger.warning("%d more connections were cut for memory", self._cut)
            self._cut = 0

    def _look_later(self) -> None:
        self._server.reactor.clock.call_later(PAUSE, self._begin)


def _size(transport: Transport) -> int:
    """Return the bytes that wait for a peer."""
    return transport.own + transport.shared
