"""
The socket that a WSGI application holds, as gevent-websocket 0.10.1 has it.

What is public of that package's ``WebSocket``, of its handler and of its server, over
GSGI events. The package need not be installed: if it is, its exception is raised.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import logging
from typing import Any

from ..errors import ConnectionEnded, LocalProtocolError
from ..types import Receive, Send

#: What the errors say; applications compare it.
ALREADY_CLOSED = "Connection is already closed"
SOCKET_DEAD = "Socket is dead"
CLOSED = "Connection closed"

#: Close codes: the usual one, and that of a connection that broke (RFC 6455, 7.4.1).
NORMAL, ABNORMAL = 1000, 1006

#: Bytes of a reason that fit into a close frame (RFC 6455, section 5.5).
MAX_REASON = 123

#: No port is as large: they make keys of peers that have no address of their own.
FIRST_NUMBER = 65536

logger = logging.getLogger("greenchannels.wsgi")


class OwnError(OSError):
    """The socket is closed."""


def _error_class() -> type[OSError]:
    """Return what applications catch."""
    try:
        package = importlib.import_module("geventwebsocket.exceptions")
    except ImportError:
        return OwnError
    found: type[OSError] = package.WebSocketError
    return found


WebSocketError = _error_class()


class SocketServer:
    """
    What applications know as their socket's server.

    Attributes:
        application: The application.
        clients: Its connected sockets, as ``Client``, by their addresses.

    """

    def __init__(self, application: Any) -> None:
        self.application = application
        self.clients: dict[tuple[str, int], Client] = {}
        self.logger = logger
        self._numbers = itertools.count(FIRST_NUMBER)

    def add(self, socket: HostedSocket, address: Any) -> tuple[str, int]:
        """Note a socket; return the key it has got in ``clients``."""
        host, port = address or ("", 0)
        if not port or (host, port) in self.clients:
            port = next(self._numbers)
        self.clients[host, port] = Client((host, port), socket)
        return host, port


class Client:
    """
    One of a server's sockets.

    Attributes:
        address: Host and port. The port is made up for peers that have none, as
            behind a Unix socket.
        ws: The socket.

    """

    __slots__ = ("address", "ws")

    def __init__(self, address: tuple[str, int], ws: HostedSocket) -> None:
        self.address = address
        self.ws = ws


class Handler:
    """
    What applications know as their socket's handler.

    Attributes:
        server: The server.
        websocket: The socket; ``None`` when the application has ended.
        environ: Its environ.
        client_address: Its key in ``server.clients``.

    """

    __slots__ = ("client_address", "environ", "server", "websocket")

    def __init__(self, server: SocketServer, socket: HostedSocket, peer: Any) -> None:
        self.server = server
        self.websocket: HostedSocket | None = socket
        self.environ = socket.environ
        self.client_address = server.add(socket, peer)

    def release(self) -> None:
        """The application has ended."""
        self.server.clients.pop(self.client_address, None)
        self.websocket = None

    @property
    def application(self) -> Any:
        """The application."""
        return self.server.application

    @property
    def active_client(self) -> Client:
        """This socket's entry in ``server.clients``."""
        return self.server.clients[self.client_address]

    @property
    def logger(self) -> logging.Logger:
        """The server's logger."""
        return self.server.logger


class Stream:
    """Leads applications that go by ``ws.stream.handler`` to the handler."""

    __slots__ = ("handler",)

    def __init__(self, handler: Handler) -> None:
        self.handler = handler


class HostedSocket:
    """
    The socket that an application finds in its environ.

    One greenlet at a time may receive; several may send.

    Args:
        environ: The handshake's.
        receive: Returns the next event.
        send: Takes an event.

    Attributes:
        closed: Whether ``close`` was called, or ``receive`` has come to the end.
        ended: Whether it is closed, or sending has failed.

    """

    OPCODE_CONTINUATION = 0x00
    OPCODE_TEXT = 0x01
    OPCODE_BINARY = 0x02
    OPCODE_CLOSE = 0x08
    OPCODE_PING = 0x09
    OPCODE_PONG = 0x0A

    handler: Handler

    def __init__(self, environ: dict[str, Any], receive: Receive, send: Send) -> None:
        self.environ = environ
        self.closed = False
        self.ended = False
        self._receive = receive
        self._send = send

    # Messages.

    def receive(self) -> str | bytearray | None:
        """
        Return the next message: str, or bytearray for binary; blocks.

        Returns:
            ``None``, once, when the socket has ended.

        Raises:
            WebSocketError: If it is closed already.

        """
        if self.closed:
            self.current_app.on_close(ALREADY_CLOSED)
            raise WebSocketError(ALREADY_CLOSED)
        while True:
            event = self._receive()
            if event["type"] == "websocket.receive":
                text: str | None = event.get("text")
                return text if text is not None else bytearray(event["bytes"])
            if event["type"] == "websocket.disconnect":
                self.closed = self.ended = True
                if event.get("code") == ABNORMAL:
                    self.current_app.on_close(CLOSED)
                return None

    def send(self, message: Any, binary: bool | None = None) -> None:
        """
        Send a message; blocks only while much output waits for the peer.

        Args:
            message: str for text, bytes or the like for binary.
            binary: Whether it is binary; ``None`` goes by its type.

        Raises:
            WebSocketError: If the socket is closed.

        """
        if binary is None:
            binary = not isinstance(message, str)
        try:
            self.send_frame(message, self.OPCODE_BINARY if binary else self.OPCODE_TEXT)
        except WebSocketError:
            self.current_app.on_close(SOCKET_DEAD)
            raise WebSocketError(SOCKET_DEAD) from None

    def send_frame(self, message: Any, opcode: int) -> None:
        """
        Send a message as a frame of a kind.

        Pings and pongs are not sent: the server sends its own.

        Raises:
            WebSocketError: If the socket is closed.
            ValueError: If no frame of this kind can be sent.

        """
        if self.closed:
            self.current_app.on_close(ALREADY_CLOSED)
            raise WebSocketError(ALREADY_CLOSED)
        if opcode == self.OPCODE_TEXT:
            self._give({"type": "websocket.send", "text": as_text(message)})
        elif opcode == self.OPCODE_BINARY:
            self._give({"type": "websocket.send", "bytes": as_bytes(message)})
        elif opcode == self.OPCODE_CLOSE:
            self.close(NORMAL, message)
        elif opcode not in (self.OPCODE_PING, self.OPCODE_PONG):
            raise ValueError(f"no frame of kind {opcode!r} can be sent")

    def close(self, code: int = NORMAL, message: Any = b"") -> None:
        """
        Close the socket with a close frame; never blocks.

        Args:
            code: What may not be sent becomes 1000.
            message: The reason, str or bytes; cut at 123 bytes.

        """
        if self.closed:
            self.current_app.on_close(ALREADY_CLOSED)
            return
        self.closed = self.ended = True
        event = {"type": "websocket.close", "code": code, "reason": as_reason(message)}
        with contextlib.suppress(WebSocketError):
            try:
                self._give(event)
            except LocalProtocolError:
                self._give({**event, "code": NORMAL})

    def _give(self, event: dict[str, Any]) -> None:
        try:
            self._send(event)
        except ConnectionEnded as error:
            self.ended = True
            raise WebSocketError(SOCKET_DEAD) from error

    # What the handshake said.

    @property
    def path(self) -> str | None:
        """The path below the route's prefix."""
        return self.environ.get("PATH_INFO")

    @property
    def origin(self) -> str | None:
        """The origin of the page, if a browser asks."""
        return self.environ.get("HTTP_ORIGIN")

    @property
    def protocol(self) -> str | None:
        """The subprotocols that the peer offers."""
        return self.environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL")

    @property
    def version(self) -> str | None:
        """The version of the protocol."""
        return self.environ.get("HTTP_SEC_WEBSOCKET_VERSION")

    # What leads to the others.

    @property
    def current_app(self) -> Any:
        """The application's ``current_app``, or something with an ``on_close``."""
        return getattr(self.handler.application, "current_app", _NO_APP)

    @property
    def stream(self) -> Stream:
        """Leads to the handler."""
        return Stream(self.handler)

    @property
    def logger(self) -> logging.Logger:
        """The server's logger."""
        return self.handler.logger


class _NoApp:
    """Stands for an application that names none as the current one."""

    def on_close(self, *args: Any) -> None:
        """Do nothing."""


_NO_APP = _NoApp()


def as_text(message: Any) -> str:
    """Return a message as text; bytes are UTF-8."""
    if isinstance(message, bytes | bytearray | memoryview):
        return bytes(message).decode()
    return message if isinstance(message, str) else str(message or "")


def as_reason(message: Any) -> str:
    """Return what a close frame may say of ``message``."""
    if isinstance(message, bytes | bytearray):
        message = message.decode(errors="replace")
    return as_text(message).encode()[:MAX_REASON].decode(errors="ignore")


def as_bytes(message: Any) -> bytes:
    """
    Return a message as bytes.

    Raises:
        TypeError: If it is a str or a number, or else is not made of bytes.

    """
    if isinstance(message, str | int):
        raise TypeError(f"a binary message is of bytes, not {type(message).__name__}")
    return bytes(message)
