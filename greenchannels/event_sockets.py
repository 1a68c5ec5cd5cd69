"""
The socket over GSGI events, for a function behind middleware.

It speaks the dicts that the middleware understands, and asks the server's own
socket for what has no event: groups, the channel's name, the expiry.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import gevent
from gevent import Greenlet

from .close_codes import ABNORMAL, INTERNAL_ERROR, NO_CODE, NORMAL
from .errors import (
    ConnectionBroken,
    ConnectionClosed,
    ConnectionEnded,
    HandshakeRefused,
)
from .layers.layer import Layer
from .sockets import WebSocket
from .text import encode_headers
from .types import Data, Event, HeaderList, Receive, Scope, Send


def socket_of(scope: Scope, receive: Receive, send: Send, whose: str) -> WebSocket:
    """
    Return the socket of a GSGI consumer: the server's own if nothing stands between.

    Args:
        whose: What the consumer is called in errors.

    Raises:
        ValueError: If the scope is not that of a WebSocket.

    """
    if scope["type"] != "websocket":
        raise ValueError(f"{whose} cannot serve {scope['type']!r}")
    extension = scope.get("extensions", {}).get("greenchannels")
    found: Any = extension["socket"] if extension is not None else None
    if found is None or not found.is_direct(receive, send):
        return EventSocket(scope, receive, send)
    found.adopt(scope)
    socket: WebSocket = found
    return socket


class EventSocket(WebSocket):
    """
    A socket over GSGI events, for a function behind middleware.

    Messages pass through the ``receive`` and ``send`` that the middleware gave;
    groups, the channel name and ``expires`` belong to the server's own socket,
    found in ``scope["extensions"]["greenchannels"]``.

    Args:
        scope: A scope of type "websocket".
        receive: Returns the next event.
        send: Takes an event.

    """

    __slots__ = ("_accepted", "_end", "_receive", "_receiving", "_send")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(dict(scope.get("url_route", {}).get("kwargs", {})))
        self._scope = scope
        self._receive = receive
        self._send = send
        self._accepted = False
        self._receiving = False
        self._end: ConnectionEnded | None = None
        self.user = scope.get("user")
        extension = scope.get("extensions", {}).get("greenchannels")
        if extension is not None:
            extension["socket"].gsgi.front = self
        first = receive()
        if first["type"] != "websocket.connect":
            raise RuntimeError(f"expected websocket.connect, not {first['type']}")

    # Handshake.

    def accept(self, subprotocol: str | None = None, headers: HeaderList = ()) -> None:
        """See ``WebSocket.accept``."""
        self._check_alive()
        if self._accepted:
            raise RuntimeError("the handshake has been accepted already")
        self._send(
            {
                "type": "websocket.accept",
                "subprotocol": subprotocol,
                "headers": encode_headers(headers),
            }
        )
        self._accepted = True

    def reject(
        self, status: int = 403, body: Data = b"", headers: HeaderList = ()
    ) -> None:
        """See ``WebSocket.reject``."""
        self._check_alive()
        if self._accepted:
            raise RuntimeError("the handshake has been accepted already")
        if isinstance(body, str):
            body = body.encode()
        if "websocket.http.response" in self.scope.get("extensions", {}):
            self._send(
                {
                    "type": "websocket.http.response.start",
                    "status": status,
                    "headers": encode_headers(headers),
                }
            )
            self._send({"type": "websocket.http.response.body", "body": body})
        else:
            self._send({"type": "websocket.close"})
        self._end = HandshakeRefused(status)

    # Messages.

    def receive_undecided(self) -> Data | Event:
        """See ``WebSocket.receive_undecided``."""
        return self._next(None, accept=False)

    def receive(self, timeout: float | None = None) -> Data:
        """See ``WebSocket.receive``."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            message = self._next(left)
            if isinstance(message, str | bytes):
                return message
            self._server_socket().count_dropped_event(message["type"])

    def _receive_any(self) -> Data | Event:
        return self._next(None)

    def _next(self, timeout: float | None, *, accept: bool = True) -> Data | Event:
        if accept and not self._accepted:
            self.accept()
        self._check_alive()
        if self._receiving:
            raise RuntimeError("another greenlet is receiving from this socket")
        self._receiving = True
        try:
            with gevent.Timeout(timeout, TimeoutError("no message in time")):
                event = self._receive()
        finally:
            self._receiving = False
        if event["type"] == "websocket.receive":
            text: str | None = event.get("text")
            return text if text is not None else event["bytes"]
        if event["type"] == "websocket.disconnect":
            self._ended(event.get("code", NO_CODE), event.get("reason") or "")
            self._check_alive()
        return event

    def send(self, message: Data) -> None:
        """See ``WebSocket.send``."""
        if not self._accepted:
            self.accept()
        self._check_alive()
        if isinstance(message, str):
            self._send({"type": "websocket.send", "text": message})
        elif isinstance(message, bytes | bytearray | memoryview):
            self._send({"type": "websocket.send", "bytes": bytes(message)})
        else:
            raise TypeError(
                f"send takes str or bytes, not {type(message).__name__}:"
                " for anything else there is send_json"
            )

    def flush(self) -> None:
        """See ``WebSocket.flush``."""
        self._check_alive()
        self._server_socket().flush()

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """See ``WebSocket.close``."""
        if self._end is not None:
            return
        if not self._accepted:
            self.reject()
            return
        self._send({"type": "websocket.close", "code": code, "reason": reason})
        self._ended(code, reason)

    def fail(self) -> None:
        """See ``WebSocket.fail``."""
        if self._end is None and not self._accepted:
            self.reject(500)
        else:
            self.close(INTERNAL_ERROR)

    def send_event(self, event: Event) -> None:
        """See ``WebSocket.send_event``."""
        self._check_alive()
        self._send(event)
        if event["type"] == "websocket.accept":
            self._accepted = True
        elif event["type"] == "websocket.close" and self._accepted:
            self._ended(event.get("code", NORMAL), event.get("reason") or "")
        elif event["type"] == "websocket.close":
            self._end = HandshakeRefused(403)

    # The server's socket behind.

    def _server_socket(self) -> Any:
        try:
            return self.scope["extensions"]["greenchannels"]["socket"]
        except KeyError:
            raise RuntimeError(
                "this GSGI server offers no groups: scope['extensions'] has no"
                " 'greenchannels'"
            ) from None

    def _layer(self) -> Layer:
        layer: Layer = self._server_socket()._layer()
        return layer

    @property
    def member(self) -> Any:
        """See ``WebSocket.member``."""
        return self._server_socket()

    def count_unhandled_event(self, kind: str, why: str) -> None:
        """See ``WebSocket.count_unhandled_event``."""
        self._server_socket().count_unhandled_event(kind, why)

    @property
    def channel_name(self) -> str:
        """See ``WebSocket.channel_name``."""
        return str(self._server_socket().channel_name)

    def socket_ended(self, code: int, reason: str) -> None:
        """The server's socket behind has ended; this one need not have noticed."""
        self.close_code, self.close_reason = code, reason

    @property
    def expires(self) -> float | None:
        """See ``WebSocket.expires``."""
        when: float | None = self._server_socket().expires
        return when

    @expires.setter
    def expires(self, when: float | datetime | None) -> None:
        self._server_socket().expires = when

    def _ended(self, code: int, reason: str) -> None:
        self.close_code, self.close_reason = code, reason
        kind = ConnectionBroken if code == ABNORMAL else ConnectionClosed
        self._end = kind(code, reason)

    def _check_alive(self) -> None:
        if self._end is not None:
            error = type(self._end)
            if error is HandshakeRefused:
                status = getattr(self._end, "status", 403)
                raise HandshakeRefused(status, source=self._source())
            raise error(self._end.code, self._end.reason, source=self._source())

    def _source(self) -> object:
        extension = self.scope.get("extensions", {}).get("greenchannels")
        return self if extension is None else extension["socket"]

    def spawn(
        self, function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Greenlet[..., Any]:
        """See ``WebSocket.spawn``; the server's socket owns the child."""
        self._check_alive()
        if "greenchannels" not in self.scope.get("extensions", {}):
            return super().spawn(function, *args, **kwargs)
        child: Greenlet[..., Any] = self._server_socket().spawn(
            function, *args, **kwargs
        )
        return child

    def join_children(self, timeout: float | None) -> None:
        """See ``Parent.join_children``."""
        if "greenchannels" in self.scope.get("extensions", {}):
            self._server_socket().join_children(timeout)
        super().join_children(timeout)

    def _get_scope(self) -> Scope:
        raise AssertionError("an EventSocket is made from its scope")
