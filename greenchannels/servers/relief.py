"""
The bound of the process: when too much waits to be written, the largest go.

Each connection has bounds of its own; ten thousand connections at theirs may still
be more than the process has memory for. Then those for whom most waits are cut,
where what is shared with others counts for little: cutting one of them frees nothing.
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

#: Above this much of it they are cut at once, however long that blocks the hub.
URGENT = 1.25

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
        #: Who may be cut yet, the largest last, while cutting takes several turns.
        self._left: list[Transport] = []

    def _begin(self) -> None:
        """Cut the largest if still too much waits. Hub only."""
        if self._backlog.total > self._backlog.limit:
            self._left = self._by_weight()
            self._go_on()
        else:
            self._backlog.over = False

    def _go_on(self) -> None:
        """Cut the largest, a slice of time a turn. Hub only."""
        try:
            if self._cut_largest():
                self._server.reactor.next_turn(self._go_on)
                return
            self._left = []
            if self._backlog.total > self._backlog.limit:
                self._look_later()  # what waits belongs to no connection
            else:
                self._backlog.over = False
        except Exception:
            logger.exception("cutting connections failed in the hub")
            self._look_later()

    def _by_weight(self) -> list[Transport]:
        """Return the connections by what cutting them frees, the largest last."""
        connections = self._server.connections
        queued = sum(transport.shared for transport in connections)
        # A frame in a hundred queues is one in memory: a hundredth in each.
        part = min(1.0, self._backlog.shared / queued) if queued else 0.0
        return sorted(connections, key=lambda each: each.own + each.shared * part)

    def _cut_largest(self) -> bool:
        """Cut until it is enough; return whether the time was too short for that."""
        backlog, left = self._backlog, self._left
        end = time.perf_counter() + SLICE_TIME
        goal, urgent = int(backlog.limit * ENOUGH), int(backlog.limit * URGENT)
        while left and backlog.total > goal:
            transport = left.pop()
            transport.write_now()  # perhaps it only has not been yet
            if transport.queue and not transport.closed:
                self._cut_one(transport)
            if backlog.total <= urgent and time.perf_counter() > end:
                return True
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
