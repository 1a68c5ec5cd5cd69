"""
The PROXY header that stands before everything else on a connection.

The bytes of the header, and no more, are taken off the socket here: they are
looked at first and then received. So whatever serves the connection afterwards,
TLS or not, begins with an untouched socket, and a server without the option has
nothing of this in its way.
"""

from __future__ import annotations

import logging
from _socket import MSG_PEEK
from _socket import close as close_descriptor
from _socket import socket as RawSocket
from collections.abc import Callable
from functools import partial
from typing import Any

from ..errors import RemoteProtocolError
from ..net.clock import Alarm
from ..net.listener import OnConnection
from ..net.reactor import Reactor
from ..wire.proxy_protocol import MAX_V2, ProxyHeaderParser
from .proxies import UNKNOWN_CLIENT, TrustedProxies

logger = logging.getLogger("greenchannels.server")


class ProxyHeaders:
    """
    The connections of a server that wait for their PROXY header.

    Args:
        reactor: What the connections of this hub share.
        proxies: Who may send a header. Who else connects is cut off.
        timeout: Seconds in which it must have come, or ``None``.
        changed: Called whenever one waits more or less.

    """

    def __init__(
        self,
        reactor: Reactor,
        proxies: TrustedProxies,
        timeout: float | None,
        changed: Callable[[], None],
    ) -> None:
        self.reactor = reactor
        self._proxies = proxies
        self._timeout = timeout
        self._changed = changed
        self._waiting: set[HeaderReader] = set()

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def before(self, serve: OnConnection) -> OnConnection:
        """Return what accepts a connection, and has it served after its header."""
        return partial(self._accept, serve)

    def _accept(self, serve: OnConnection, fd: int, address: Any) -> None:
        """Take a connection that has just come. Hub only."""
        client = address if isinstance(address, tuple) else None
        if self._proxies.trusts(client):
            self._waiting.add(HeaderReader(self, serve, fd, address, self._timeout))
            self._changed()
        else:
            close_descriptor(fd)
            logger.warning("%s: cut off: no trusted proxy", describe(address))

    def discard(self, reader: HeaderReader) -> None:
        """One does not wait any more."""
        self._waiting.discard(reader)

    def changed(self) -> None:
        """Tell the server that one has left, however it did."""
        self._changed()

    def close(self) -> None:
        """Cut off all that wait."""
        for reader in tuple(self._waiting):
            reader.close()

    def abandon(self, *, watched: bool) -> None:
        """
        This is a forked child: let go of what is its parent's, and end nothing.

        Args:
            watched: Whether the hub is this thread's.

        """
        for reader in self._waiting:
            reader.abandon(watched=watched)


class HeaderReader:
    """
    A connection that waits for its header.

    Args:
        headers: It is told when the waiting is over.
        serve: Gets the descriptor and the client's address then.
        fd: The connection's descriptor; owned until it is handed on.
        address: The proxy's own address.
        timeout: Seconds until it is cut off.

    """

    __slots__ = (
        "_address",
        "_alarm",
        "_headers",
        "_parser",
        "_serve",
        "_sock",
        "_watcher",
    )

    def __init__(
        self,
        headers: ProxyHeaders,
        serve: OnConnection,
        fd: int,
        address: Any,
        timeout: float | None,
    ) -> None:
        self._headers = headers
        self._serve = serve
        self._address = address
        self._sock = RawSocket(fileno=fd)
        self._parser = ProxyHeaderParser()
        self._watcher = headers.reactor.loop.io(fd, 1)
        self._watcher.start(self._on_readable)
        self._alarm: Alarm | None = None
        if timeout is not None:
            self._alarm = headers.reactor.clock.call_later(timeout, self._too_slow)

    def _on_readable(self) -> None:
        try:
            data = self._sock.recv(MAX_V2, MSG_PEEK)
            if not data:
                self._cut("closed before its PROXY header was complete")
                return
            self._sock.recv(self._parser.receive_data(data))
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, RemoteProtocolError) as error:
            self._cut(str(error))
            return
        if self._parser.header is not None:
            self._hand_on()

    def _hand_on(self) -> None:
        """Have the connection served as its header says."""
        header = self._parser.header
        assert header is not None
        address = self._address
        if not header.local:
            address = header.source or UNKNOWN_CLIENT
        self._stop()
        try:
            self._serve(self._sock.detach(), address)
        except Exception:
            logger.exception("a new connection failed")
        self._headers.changed()

    def _too_slow(self) -> None:
        self._alarm = None
        self._cut("the PROXY header took too long")

    def _cut(self, why: str) -> None:
        """End the connection, and say why."""
        logger.warning("%s: cut off: %s", describe(self._address), why)
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._stop()
        self._sock.close()
        self._headers.changed()

    def abandon(self, *, watched: bool) -> None:
        """As ``ProxyHeaders.abandon``."""
        if watched:
            self._watcher.stop()
            self._watcher.close()
        self._sock.close()

    def _stop(self) -> None:
        """Watch it no more."""
        self._watcher.stop()
        self._watcher.close()
        if self._alarm is not None:
            self._alarm.cancel()
        self._headers.discard(self)


def describe(address: Any) -> str:
    """Return a connection's own address for the log."""
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "unix"
