"""
The drain: how a server ends without dropping anybody in silence.

One deadline shortens all others. Accepting stops at once, handshakes get 503,
requests may finish. Where other processes go on serving, connections that have just
come may still become sockets, which are told with the others: a client that was
accepted is not refused for having met the one that ends. Idle HTTP connections close
once what has come is read; those that never had a request have a moment for it. Sockets
are told 1012, and responses that stream are asked to end (their ``receive`` says that
the peer has gone), at a pace of at least 1,000 a second, all by half of the time; at
70 % what is still connected is reset, at 80 % the consumers that still run get
GreenletExit.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import gevent

from ..net.reactor import ONE_TURN
from .http import HTTPConnection

if TYPE_CHECKING:
    from .server import Server
    from .websocket import ServerSocket

#: Parts of the drain's time.
TOLD, RESET, KILLED = 0.5, 0.7, 0.8

#: Seconds that connections without a request yet have for it, and the part of the
#: drain's time that this may be.
GRACE, GRACE_PART = 0.25, 0.05

#: Seconds between two batches of close frames.
PACE = 0.02

#: The least number of sockets told in a second.
MIN_PER_SECOND = 1000

logger = logging.getLogger("greenchannels.server")


class Drain:
    """
    End all connections of a server.

    Args:
        server: The server.
        timeout: Seconds that all of it may take.

    """

    def __init__(self, server: Server, timeout: float) -> None:
        self._server = server
        self._timeout = timeout
        self._started_at = time.monotonic()
        #: When connections without a request are closed; ``None``: it has been done.
        self._grace_ends: float | None = self._started_at + min(
            GRACE, GRACE_PART * timeout
        )

    def run(self) -> None:
        """Drain; blocks until all has ended or the time is over."""
        server = self._server
        for listener in server.listeners:
            listener.close()
        if server.options.multiprocess:
            self._serve_newcomers()
        server.refuse()
        if server.sockets:
            logger.info("draining: %d sockets are told", len(server.sockets))
        for _ in range(2):  # the first may end before sockets are looked at
            gevent.sleep(ONE_TURN)
        self._close_idle(fresh=False)
        self._tell()
        self._wait(RESET)
        for transport in tuple(server.connections):
            transport.write_now()  # a close frame of this very turn, if it is late
            transport.abort(TimeoutError("the drain's time is over"))
        self._wait(KILLED)
        gevent.killall(list(server.consumers), block=False)
        self._wait(1.0)

    def _serve_newcomers(self) -> None:
        """Wait for the first requests of connections, as long as they have for it."""
        gevent.sleep(ONE_TURN)
        while self._left_of_grace() > 0 and any(
            isinstance(each, HTTPConnection) and each.fresh
            for each in self._server.connections.values()
        ):
            gevent.sleep(min(PACE, max(0.001, self._left_of_grace())))

    def _left_of_grace(self) -> float:
        assert self._grace_ends is not None
        return self._grace_ends - time.monotonic()

    def _close_idle(self, *, fresh: bool) -> None:
        """Close connections without a request, ``fresh`` ones perhaps too."""
        for connection in tuple(self._server.connections.values()):
            if isinstance(connection, HTTPConnection):
                connection.close_if_idle(fresh=fresh)

    def _pause(self, seconds: float) -> None:
        """Sleep, and end the grace if it is over."""
        gevent.sleep(seconds)
        if self._grace_ends is not None and time.monotonic() >= self._grace_ends:
            self._grace_ends = None
            self._close_idle(fresh=True)

    def _left(self, part: float) -> float:
        """Return the seconds until ``part`` of the time is over."""
        return self._started_at + part * self._timeout - time.monotonic()

    def _tell(self) -> None:
        """Close every socket with 1012, and ask streams to end, batch by batch."""
        busy = [c for c in self._server.connections.values() if _is_busy(c)]
        waiting = [*self._server.sockets, *busy]
        steps = max(1, int(self._left(TOLD) / PACE))
        batch = max(int(MIN_PER_SECOND * PACE), -(-len(waiting) // steps))
        while waiting:
            for connection in waiting[:batch]:
                if isinstance(connection, HTTPConnection):
                    connection.ask_to_end()
                else:
                    connection.tell_restart()
            del waiting[:batch]
            if waiting and self._left(TOLD) > 0:
                self._pause(PACE)

    def _wait(self, part: float) -> None:
        """Wait until everything has ended, or ``part`` of the time is over."""
        server = self._server
        while (server.connections or server.consumers) and self._left(part) > 0:
            self._pause(min(PACE, max(0.001, self._left(part))))


def _is_busy(connection: HTTPConnection | ServerSocket) -> bool:
    return isinstance(connection, HTTPConnection) and connection.busy
