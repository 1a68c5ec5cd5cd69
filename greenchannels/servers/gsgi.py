"""
The GSGI side of a socket: ``receive`` and ``send`` over events.

Made only when middleware or a raw GSGI consumer stands between: a function
consumer with nothing around it holds the socket itself, and no dict is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..close_codes import NORMAL
from ..errors import ConnectionEnded, HandshakeRefused
from ..types import Event

if TYPE_CHECKING:
    from ..event_sockets import EventSocket
    from .socket_receiving import SocketReceiving


class EventPort:
    """
    A server's socket as a GSGI consumer sees it.

    Args:
        socket: The socket.

    Attributes:
        front: The socket that a function behind wrapping middleware holds.

    """

    __slots__ = ("_begun", "_refusal", "_socket", "front")

    def __init__(self, socket: SocketReceiving) -> None:
        self.front: EventSocket | None = None
        self._socket = socket
        #: Whether "websocket.connect" has been received.
        self._begun = False
        #: A refusal's first event, and its body so far.
        self._refusal: tuple[Event, list[bytes]] | None = None

    def receive(self) -> Event:
        """Return the next GSGI event; blocks."""
        if not self._begun:
            self._begun = True
            self._socket.keep_events()
            return {"type": "websocket.connect"}
        while True:
            try:
                message = self._socket.receive_undecided()
            except ConnectionEnded as error:
                return _disconnect_event(error)
            if isinstance(message, str):
                return {"type": "websocket.receive", "text": message}
            if isinstance(message, bytes):
                return {"type": "websocket.receive", "bytes": message}
            if not message["type"].startswith("websocket."):
                return message
            # Sent to a group or a channel, it would pass for the peer's own.
            why = "types that begin with 'websocket.' are the connection's own"
            self._socket.count_unhandled_event(message["type"], why)

    def send(self, event: Event) -> None:
        """Take a GSGI event; blocks like ``WebSocket.send``."""
        kind = event["type"]
        socket = self._socket
        if kind == "websocket.send":
            text = event.get("text")
            socket.send(text if text is not None else event["bytes"])
        elif kind == "websocket.accept":
            socket.accept(event.get("subprotocol"), event.get("headers", ()))
        elif kind == "websocket.close":
            socket.close(event.get("code", NORMAL), event.get("reason") or "")
        elif kind == "websocket.http.response.start":
            socket._check_alive()
            self._refusal = (event, [])
        elif kind == "websocket.http.response.body":
            self._refuse(event)
        else:
            raise ValueError(f"a WebSocket cannot send {kind!r}")

    def _refuse(self, event: Event) -> None:
        """Take a part of a refusal's body; the last one sends it."""
        if self._refusal is None:
            raise RuntimeError("websocket.http.response.start comes before its body")
        start, parts = self._refusal
        parts.append(event.get("body", b""))
        if not event.get("more_body", False):
            self._refusal = None
            headers: Any = start.get("headers", ())
            self._socket.reject(start["status"], b"".join(parts), headers)

    def socket_ended(self, code: int, reason: str) -> None:
        """The socket is over for its consumer, which need not have noticed."""
        if self.front is not None:
            self.front.socket_ended(code, reason)


def _disconnect_event(error: ConnectionEnded) -> Event:
    reason = "" if isinstance(error, HandshakeRefused) else error.reason
    return {"type": "websocket.disconnect", "code": error.code, "reason": reason}
