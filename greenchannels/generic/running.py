"""
The handlers of a class-based consumer run in one greenlet, over any socket.

For consumers with middleware or another GSGI server between them and the socket;
the server's own sockets run handlers in bursts instead (``servers/bursts.py``). Both
keep the same promises: the first handler alone, then one after another, or up to
``max_concurrency``, and the last one always, once, alone.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable
from typing import Any

import gevent
from gevent import Greenlet, GreenletExit
from gevent.pool import Pool

from ..close_codes import ABNORMAL, NORMAL
from ..errors import ConnectionEnded
from ..exceptions import StopConsumer
from ..sockets import WebSocket
from ..text import printable
from ..types import Data, Event, SocketHandlers

logger = logging.getLogger("greenchannels.consumer")

#: Seconds that concurrent handlers have to end after their socket did.
STOP_TIMEOUT = 10.0

#: Seconds for those that were killed to be gone.
KILL_TIMEOUT = 1.0


def run_handlers(handlers: SocketHandlers, socket: WebSocket) -> None:
    """Call the handlers of a connection; blocks until it has ended."""
    _Run(handlers, socket).run()


class _Run:
    """One connection's handlers at work."""

    def __init__(self, handlers: SocketHandlers, socket: WebSocket) -> None:
        self._handlers = handlers
        self._socket = socket
        self._pool: Pool | None = None
        if handlers.max_concurrency > 1:
            self._pool = Pool(handlers.max_concurrency)

    def run(self) -> None:
        """Call the first handler, those of what comes, and the last."""
        try:
            self._call(self._handlers.socket_opened, self._socket)
            while True:
                self._start(self._socket.receive_undecided())
        except ConnectionEnded:
            pass
        except GreenletExit:
            self._fail()
        except (Exception, gevent.Timeout, SystemExit):
            # Of middleware, or a timeout that a handler has left behind.
            self._failed()
        for step in (self._join_others, self._kill_others):
            try:
                step()
            except GreenletExit:
                logger.warning("%r: killed while its handlers ended", self._socket)
            except (Exception, gevent.Timeout):
                logger.exception("%r: while its handlers ended", self._socket)
        self._call(self._handlers.socket_closed, *self._end())

    def _end(self) -> tuple[int, str]:
        """Return code and reason of the socket's end."""
        code, reason = self._socket.close_code, self._socket.close_reason
        # Of a handshake that was refused the code is the status.
        refused = code is None or code < NORMAL
        return (ABNORMAL, "") if code is None or refused else (code, reason)

    def _start(self, message: Data | Event) -> None:
        """Call the handler of a message, beside others if it may."""
        if self._pool is None:
            self._call(self._handlers.socket_received, message)
        else:
            greenlet: Greenlet[..., Any] = Greenlet(self._call_beside, message)
            greenlet.gr_context = contextvars.copy_context()
            greenlet.name = f"handler of {self._socket!r}"
            self._pool.start(greenlet)  # blocks while there is no room

    def _call_beside(self, message: Data | Event) -> None:
        """Call a handler in a greenlet of its own."""
        try:
            self._call(self._handlers.socket_received, message)
        except GreenletExit:
            self._fail()

    def _call(self, handler: Callable[..., None], *args: Any) -> None:
        """Call one handler, and end the socket if it fails."""
        socket = self._socket
        try:
            handler(*args)
        except ConnectionEnded as error:
            if error.source is not socket._source():
                self._failed()
        except StopConsumer:
            self._end_by(socket.close)
        except (Exception, gevent.Timeout, SystemExit):
            self._failed()

    def _failed(self) -> None:
        logger.exception("%s: the consumer failed", printable(self._socket.path))
        self._fail()

    def _fail(self) -> None:
        """End the socket for a failure, unless it has ended already."""
        if self._socket.close_code is None:
            self._end_by(self._socket.fail)

    def _end_by(self, end: Callable[[], None]) -> None:
        """End the socket by one of its methods; middleware may be in the way."""
        try:
            end()
        except ConnectionEnded:
            pass
        except Exception:
            logger.exception("%r could not be ended", self._socket)

    def _join_others(self) -> None:
        """Wait for children, which are killed, and for handlers beside."""
        self._socket.join_children(STOP_TIMEOUT)
        if self._pool is not None:
            self._pool.join(timeout=STOP_TIMEOUT)

    def _kill_others(self) -> None:
        """Kill the handlers that have not ended."""
        if self._pool is not None:
            self._pool.kill(timeout=KILL_TIMEOUT)
