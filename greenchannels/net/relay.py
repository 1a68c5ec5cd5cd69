"""
Bytes passed on between a socket and our end of a pair, by a greenlet each way.

For connections that a transport cannot have for itself: those that are encrypted by
somebody else's TLS, or that have been answered already. What waits for a peer that
does not read is what the kernel holds for the pair and the socket, no more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from ssl import SSLSocket
from typing import Any

import gevent
from gevent import Greenlet, socket

#: Bytes that are read at a time.
READ_SIZE = 64 * 1024

#: Seconds that a peer has to close its side once ours has been closed.
LAST_BYTES = 1.0


class Relay:
    """
    Pass on bytes until both sides have ended.

    Args:
        sock: A socket of gevent's; it is shut down in the end, but not closed.
        begin: Called with our end of the pair before anything is passed on to the
            socket; returns what to send first. It may block.

    Attributes:
        far: The other end of the pair, for whoever speaks through the relay.

    """

    def __init__(self, sock: Any, begin: Callable[[Any], bytes] | None = None) -> None:
        self._sock = sock
        self._begin = begin
        self._near, self.far = socket.socketpair()
        with contextlib.suppress(OSError):  # a Unix socket has no such option
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._greenlets: list[Greenlet[..., Any]] = []

    def start(self) -> None:
        """Begin to pass on; never blocks."""
        self._greenlets = [gevent.spawn(self._inward), gevent.spawn(self._outward)]

    def finish(self) -> None:
        """Pass on what waits, and end. Blocks until then, at most two seconds."""
        inward, outward = self._greenlets
        try:
            outward.join(LAST_BYTES)
            if isinstance(self._sock, SSLSocket):
                inward.kill()  # who says that it was all reads the answer, too
                inward = gevent.spawn(self._unwrap)
            inward.join(LAST_BYTES)
        finally:
            gevent.killall([inward, outward], block=False)
            self._near.close()

    def _unwrap(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.unwrap()

    def _inward(self) -> None:
        """Pass on what the socket says."""
        _copy(self._sock, self._near)

    def _outward(self) -> None:
        """Pass on what is said to the socket."""
        first = b"" if self._begin is None else self._begin(self._near)
        _copy(self._near, self._sock, first)


def _copy(source: Any, target: Any, data: bytes = b"") -> None:
    """Send ``data``, and all that comes; then say that it was all, if TLS does not."""
    with contextlib.suppress(OSError):  # the other direction ends, too
        while True:
            if data:
                target.sendall(data)
            data = source.recv(READ_SIZE)
            if not data:
                break
    if not isinstance(target, SSLSocket):
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
