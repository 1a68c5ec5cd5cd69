"""
Listening sockets and the accept loop.

Accepting pauses at the connection limit, and when the process or the system
has run out of descriptors; the kernel's backlog holds who comes meanwhile.
"""

from __future__ import annotations

import errno
import logging
import os
from _socket import socket as RawSocket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .binding import close_listening
from .clock import Alarm
from .reactor import Reactor

#: Connections accepted in one turn of the hub.
ACCEPTS_PER_TURN = 64

#: Seconds to wait when descriptors or memory have run out.
EXHAUSTED_PAUSE = 0.5

EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

logger = logging.getLogger("greenchannels.net")

#: Called in the hub with a non-blocking descriptor, which it then owns, and the
#: peer's address.
OnConnection = Callable[[int, Any], object]


def pure_accept_connection(listening: int, /) -> tuple[int, Any] | None:
    """
    Accept a connection without waiting for one.

    Args:
        listening: The descriptor of a non-blocking, listening socket.

    Returns:
        The connection's descriptor, non-blocking, and the peer's address;
        ``None`` if there is no connection, or it has been aborted.

    Raises:
        OSError: If the process or the system is short of something.

    """
    sock = RawSocket(fileno=listening)
    try:
        fd, address = sock._accept()  # type: ignore[attr-defined]
    except (BlockingIOError, InterruptedError, ConnectionAbortedError):
        return None
    finally:
        sock.detach()
    os.set_blocking(fd, False)
    return fd, address


if TYPE_CHECKING:
    accept_connection = pure_accept_connection
else:
    try:
        from ._speedups import accept_connection
    except ImportError:
        accept_connection = pure_accept_connection


class Listener:
    """
    Accept connections in the hub.

    Args:
        reactor: What the connections of this hub share.
        sock: A raw, non-blocking, listening socket; owned from now on.
        on_connection: Called with each accepted descriptor and its address.

    """

    def __init__(
        self, reactor: Reactor, sock: RawSocket, on_connection: OnConnection
    ) -> None:
        self._reactor = reactor
        self._sock = sock
        self._fd = sock.fileno()
        self._on_connection = on_connection
        self._watcher = reactor.loop.io(self._fd, 1)
        self._retry: Alarm | None = None
        self._wanted = False
        self._closed = False
        #: Where it listens: ``(host, port, ...)`` or a path.
        self.address: Any = sock.getsockname()

    def start(self) -> None:
        """Accept from now on, unless it has been closed."""
        self._wanted = not self._closed
        self._go()

    def pause(self) -> None:
        """Accept nothing until ``start``."""
        self._wanted = False
        self._watcher.stop()

    def close(self) -> None:
        """Stop listening; a Unix socket's own file is removed."""
        if self._closed:
            return
        self._closed = True
        self.pause()
        if self._retry is not None:
            self._retry.cancel()
        self._watcher.close()
        close_listening(self._sock)

    def abandon(self, *, watched: bool) -> None:
        """
        This is a forked child: close what is its parent's, and no more.

        Args:
            watched: Whether the hub is this thread's.

        """
        self._closed = True
        if watched:
            self.pause()
            self._watcher.close()
        self._sock.close()

    def _go(self) -> None:
        if self._wanted and self._retry is None and not self._watcher.active:
            self._watcher.start(self._on_acceptable)

    def _on_acceptable(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                accepted = accept_connection(self._fd)
            except OSError as error:
                self._wait(error)
                return
            if accepted is None:
                return
            try:
                self._on_connection(*accepted)
            except Exception:
                logger.exception("a new connection failed")
            if not self._wanted:
                return

    def _wait(self, error: OSError) -> None:
        """Accept again after a pause: the system is short of something."""
        if error.errno not in EXHAUSTED:
            logger.error("accept failed: %s", error)
        else:
            logger.warning("accepting pauses: %s", error.strerror)
        self._watcher.stop()
        self._retry = self._reactor.clock.call_later(EXHAUSTED_PAUSE, self._retry_now)

    def _retry_now(self) -> None:
        self._retry = None
        self._go()
