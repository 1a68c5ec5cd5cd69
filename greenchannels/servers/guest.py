"""
A server whose connections another server has accepted.

Its process, its signals and its HTTP are the other's: WSGI servers on gevent, which
know no WebSockets. Each connection holds the greenlet, and with it the slot, that the
other server gave to its request.
"""

from __future__ import annotations

import contextlib
import socket as stdlib_socket
from typing import Any

from gevent.event import Event

from ..net.transport import Transport
from .drain import Drain
from .server import Server
from .websocket import ServerSocket

#: Seconds that a peer has to answer the close frame when its greenlet is killed.
LAST_WORDS = 0.5


class GuestServer(Server):
    """
    Serve connections of another server on the hub of this thread.

    ``start`` it, hand connections over by ``serve``, and ``close`` it at the end of
    the process.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ends: dict[Transport, Event] = {}

    def serve(
        self, sock: Any, received: bytes, address: Any, scope: dict[str, Any] | None
    ) -> None:
        """
        Serve a connection; blocks until it has been closed.

        If the waiting greenlet is killed, a WebSocket is told 1012.

        Args:
            sock: The connection: a socket of gevent's, owned from now on.
            received: What has been read of it: the head of a request, and more.
            address: The peer's.
            scope: What to put into a WebSocket's scope beside the request.

        """
        with contextlib.suppress(OSError):  # a Unix socket has no such option
            sock.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
        transport = self.connect(sock, address, scope, received)
        end = self._ends[transport] = Event()
        try:
            end.wait()
        except BaseException:
            connection = self.connections.get(transport)
            if isinstance(connection, ServerSocket):
                connection.tell_restart()
                transport.write_now()
            end.wait(LAST_WORDS)
            raise
        finally:
            transport.abort()

    def connection_gone(self, transport: Transport) -> None:
        """See ``Server.connection_gone``."""
        super().connection_gone(transport)
        end = self._ends.pop(transport, None)
        if end is not None:
            end.set()

    def drain(self, timeout: float) -> None:
        """
        Tell all sockets 1012, refuse new ones, and wait until they have ended.

        Blocks for at most ``timeout`` seconds. Layer and lifespans stay until
        ``close``, for the requests that the other server is still serving.
        """
        Drain(self, timeout).run()
