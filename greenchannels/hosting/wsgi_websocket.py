"""
WebSockets for WSGI applications, in ``environ["wsgi.websocket"]``.

For applications of gevent-websocket, unchanged. Frames, limits, pings, the origin
rule and the closing handshake are those of our own server.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

from ..types import Receive, Scope, Send
from .environ import environ_of
from .wsgi import Application
from .wsgi_sockets import Handler, HostedSocket, SocketServer, WebSocketError


class WebSocketHost:
    """
    Serve WebSockets by a WSGI application.

    The handshake is accepted before the application runs. The subprotocol is the
    one that the application's ``app_protocol(path)`` names, if it has such a
    method and the peer offers it.

    Args:
        app: Uses ``environ["wsgi.websocket"]``; what it returns is dropped.

    """

    def __init__(self, app: Application) -> None:
        self.app = app
        #: What applications know as the server.
        self.server = SocketServer(app)

    def __repr__(self) -> str:
        return f"WebSocketHost({self.app!r})"

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one socket; blocks until the application has ended."""
        if scope["type"] != "websocket":
            raise ValueError(f"not a WebSocket: {scope['type']!r}")
        receive()  # websocket.connect
        environ = environ_of(scope, io.BytesIO())
        environ["wsgi.websocket_version"] = environ.get("HTTP_SEC_WEBSOCKET_VERSION")
        protocol = self._subprotocol(environ["PATH_INFO"], scope["subprotocols"])
        send({"type": "websocket.accept", "subprotocol": protocol})
        socket = HostedSocket(environ, receive, send)
        socket.handler = Handler(self.server, socket, scope.get("client"))
        environ["wsgi.websocket"] = socket
        try:
            self._run(environ)
        except WebSocketError:
            if not socket.ended:
                raise
            # Which it need not handle.
        finally:
            socket.handler.release()
            environ["wsgi.websocket"] = None

    def _subprotocol(self, path: str, offered: list[str]) -> str | None:
        choose = getattr(self.app, "app_protocol", None)
        protocol: str | None = choose(path) if choose is not None else None
        return protocol if protocol in offered else None

    def _run(self, environ: dict[str, Any]) -> None:
        result: Iterable[bytes] | None = self.app(environ, _start_response)
        if result is None:
            return
        try:
            for _ in result:  # some do their work here
                pass
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()


def _start_response(
    status: str, headers: list[tuple[str, str]], exc_info: Any = None
) -> Callable[[bytes], None]:
    """Take a response that nobody will see; return a ``write`` that does so, too."""
    return lambda data: None
