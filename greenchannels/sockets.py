"""
The socket that user code holds.

``WebSocket`` is the interface and all that does not depend on who carries the
messages. The server's own socket (``servers/websocket.py``) moves frames;
``EventSocket`` here speaks GSGI events, for consumers behind middleware that
puts itself between.
"""

from __future__ import annotations

import contextvars
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import gevent
import msgspec
from gevent import Greenlet, GreenletExit, getcurrent

from .errors import (
    ConnectionBroken,
    ConnectionClosed,
    ConnectionEnded,
    HandshakeRefused,
)
from .groups import Group, to_json, topic_of
from .layers.layer import Layer, user_topic
from .types import Data, Event, Receive, Scope, Send

if TYPE_CHECKING:
    from werkzeug.datastructures import Headers, MultiDict

#: Close codes (RFC 6455, section 7.4.1, and our own 4401).
NORMAL, INVALID_DATA, INTERNAL_ERROR, EXPIRED = 1000, 1007, 1011, 4401

#: Fields of a response or of the 101, as bytes or str.
HeaderList = Iterable[tuple[str | bytes, str | bytes]]

logger = logging.getLogger("greenchannels.socket")


#: Control characters and quotes, which would let a peer write lines of its own.
_ESCAPES = {i: f"\\x{i:02x}" for i in (*range(0x20), 0x22, 0x5C, *range(0x7F, 0xA0))}


def printable(text: str) -> str:
    """Return what a peer sent as it may stand in a log."""
    return text.translate(_ESCAPES)


def user_id_of(user: object) -> str | None:
    """Return the id by which a user's sockets are addressed, or ``None``."""
    if user is None:
        return None
    if isinstance(user, str | int | bytes):
        return user.decode() if isinstance(user, bytes) else str(user)
    for name in ("id", "pk"):
        found = getattr(user, name, None)
        if found is not None:
            return str(found)
    if hasattr(user, "id") or hasattr(user, "pk"):
        return None  # somebody who is nobody yet, like an anonymous user
    return str(user)


class WebSocket:
    """
    One connected peer.

    A function that has not accepted accepts at its first receive, send or
    iteration. Methods block the greenlet unless they say otherwise. One
    greenlet at a time may receive; several may send.

    Attributes:
        params: What the route's pattern matched, by name.
        close_code: The code the connection ended with, or ``None`` before.
        close_reason: The reason that came with it.

    """

    __slots__ = (
        "_channel_name",
        "_children",
        "_scope",
        "_state",
        "_user",
        "_user_topic",
        "close_code",
        "close_reason",
        "max_groups",
        "memberships",
        "params",
    )

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params
        self.close_code: int | None = None
        self.close_reason = ""
        self.memberships: set[str] | None = None
        self.max_groups: int | None = None
        self._scope: Scope | None = None
        self._state: dict[str, Any] | None = None
        self._user: Any = None
        self._user_topic: str | None = None
        self._channel_name = ""
        self._children: set[Greenlet[..., Any]] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {printable(self.path)}>"

    # What the carrier of the messages must do.

    def accept(self, subprotocol: str | None = None, headers: HeaderList = ()) -> None:
        """
        Accept the handshake; never blocks.

        Args:
            subprotocol: One of ``subprotocols``; by default the first that the
                route names and the peer offers, if any.
            headers: More fields for the 101 response.

        Raises:
            RuntimeError: If the handshake has been decided already.
            ValueError: If the peer did not offer ``subprotocol``.
            LocalProtocolError: If a field is not allowed in the response.
            ConnectionEnded: If the peer has gone meanwhile.

        """
        raise NotImplementedError

    def reject(
        self, status: int = 403, body: Data = b"", headers: HeaderList = ()
    ) -> None:
        """
        Refuse the handshake with an HTTP response; never blocks.

        Raises:
            RuntimeError: If the handshake has been decided already.

        """
        raise NotImplementedError

    def receive(self, timeout: float | None = None) -> Data:
        """
        Return the next message: str for text, bytes for binary.

        Args:
            timeout: Seconds to wait; ``None`` waits for ever.

        Raises:
            TimeoutError: If none came in time; the socket stays usable.
            ConnectionEnded: When the peer has gone and all it sent was read.
            RuntimeError: If another greenlet receives already.

        """
        raise NotImplementedError

    def _receive_any(self) -> Data | Event:
        """Return the next message or event."""
        raise NotImplementedError

    def send(self, message: Data) -> None:
        """
        Send text (str) or binary (bytes).

        The frame is written when the consumer waits, or at the end of the
        hub's turn. Blocks only while more than 64 KiB of this socket's own
        output wait for the peer.

        Raises:
            TypeError: If ``message`` is neither.
            ConnectionEnded: If the socket has ended.

        """
        raise NotImplementedError

    def flush(self) -> None:
        """
        Block until the kernel has taken everything sent so far.

        Raises:
            ConnectionEnded: If the socket ends before.

        """
        raise NotImplementedError

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """
        Close with a close frame; never blocks. Closing twice changes nothing.

        Before accepting this is ``reject()``.

        Args:
            code: 1000, one of the codes for endpoints, or 3000 to 4999.
            reason: At most 123 bytes of UTF-8.

        Raises:
            LocalProtocolError: If code or reason may not be sent.

        """
        raise NotImplementedError

    def _layer(self) -> Layer:
        """Return the layer of this socket's server."""
        raise NotImplementedError

    @property
    def member(self) -> Any:
        """Whoever is in groups for this socket: the server's own socket."""
        raise NotImplementedError

    def _check_alive(self) -> None:
        """Raise what ended this socket, if something did."""
        raise NotImplementedError

    def _get_scope(self) -> Scope:
        """Return the scope as GSGI describes it."""
        raise NotImplementedError

    @property
    def channel_name(self) -> str:
        """The name by which ``Channel(name).send`` reaches this socket."""
        raise NotImplementedError

    @property
    def expires(self) -> float | None:
        """
        When the socket is closed with 4401, in seconds since the epoch.

        Assign a number, an aware or local ``datetime``, or ``None``; assign
        again to refresh.
        """
        raise NotImplementedError

    @expires.setter
    def expires(self, when: float | datetime | None) -> None:
        raise NotImplementedError

    # Receiving.

    def __iter__(self) -> Iterator[Data]:
        """Yield messages until the peer has left."""
        receive = self.receive
        while True:
            try:
                message = receive()
            except ConnectionEnded as error:
                if error.source is not self._source():
                    raise
                return
            yield message

    def events(self) -> Iterator[Data | Event]:
        """
        Yield messages, and events of groups and channels, as they arrive.

        A message is str or bytes, an event a dict with "type". Ends when the
        peer has left.
        """
        while True:
            try:
                message = self._receive_any()
            except ConnectionEnded as error:
                if error.source is not self._source():
                    raise
                return
            yield message

    def receive_json(self, timeout: float | None = None) -> Any:
        """
        Return the next message, decoded as JSON.

        A message that is no JSON closes the socket with 1007.

        Raises:
            TimeoutError: If none came in time.
            ConnectionEnded: When the peer has gone, or was no speaker of JSON.

        """
        message = self.receive(timeout)
        try:
            return msgspec.json.decode(message)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.close(INVALID_DATA, "not JSON")
            self._check_alive()
            raise

    def json(self) -> Iterator[Any]:
        """Yield messages decoded as JSON; ends when the peer has left."""
        while True:
            try:
                message = self.receive_json()
            except ConnectionEnded as error:
                if error.source is not self._source():
                    raise
                return
            yield message

    def wait(self) -> None:
        """Block until the peer has gone; what it sends is discarded."""
        for _ in self:
            pass

    # Sending.

    def send_json(self, obj: object) -> None:
        """Send ``obj`` as JSON text; see ``send``."""
        self.send(to_json(obj))

    # Groups and users.

    def join(self, group: Group | str, info: object = None) -> None:
        """
        Get what is sent to ``group``; see ``Group.add``.

        Args:
            group: A group or its name.
            info: What others may know of this member.

        Raises:
            TooManyGroups: If it is in as many groups as it may.
            ConnectionEnded: If the socket has ended.

        """
        self._check_alive()
        self._layer().add(topic_of(group), self.member)

    def leave(self, group: Group | str) -> None:
        """Undo ``join``; never blocks."""
        self._layer().discard(topic_of(group), self.member)

    @property
    def user(self) -> Any:
        """
        Who this socket belongs to: an id, or an object with ``id`` or ``pk``.

        Assigning makes ``User(id)`` reach the socket, and the one before not;
        ``None`` belongs to nobody.
        """
        if self._user is None and self._scope is not None:
            return self._scope.get("user")
        return self._user

    @user.setter
    def user(self, user: Any) -> None:
        self._user = user
        if self._user_topic is None and user is None:
            return
        user_id = user_id_of(user)
        topic = user_topic(user_id) if user_id is not None else None
        before, self._user_topic = self._user_topic, topic
        if before is not None and before != topic:
            self._layer().discard(before, self.member)
        if topic is not None and before != topic and not self.member.ended:
            self._layer().add(topic, self.member)

    # Children.

    def spawn(
        self, function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Greenlet[..., Any]:
        """
        Run ``function(*args, **kwargs)`` in a child greenlet; never blocks.

        The child runs in a copy of this greenlet's context, and is killed and
        joined when the consumer or the socket ends. An exception that leaves
        it closes the socket with 1011; its own kill and its socket's
        ``ConnectionEnded`` are no errors.

        Raises:
            ConnectionEnded: If the socket has ended.

        """
        self._check_alive()
        child: Greenlet[..., Any] = Greenlet(self._run_child, function, args, kwargs)
        child.gr_context = contextvars.copy_context()
        child.name = f"child of {self.path}: {getattr(function, '__name__', function)}"
        if self._children is None:
            self._children = set()
        self._children.add(child)
        child.rawlink(self._forget_child)
        child.start()
        return child

    def _run_child(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        try:
            return function(*args, **kwargs)
        except ConnectionEnded as error:
            if error.source is not self._source():
                self._child_failed(function)
        except (Exception, gevent.Timeout, SystemExit):
            self._child_failed(function)
        return None

    def _forget_child(self, child: Greenlet[..., Any]) -> None:
        """A child has ended, or was killed before it began."""
        if self._children is not None:
            self._children.discard(child)

    def _child_failed(self, function: Callable[..., Any]) -> None:
        logger.exception("%s: child %r failed", printable(self.path), function)
        self.close(INTERNAL_ERROR)

    def _kill_children(self) -> None:
        """Ask all children to end; never blocks."""
        for child in tuple(self._children or ()):
            child.kill(GreenletExit, block=False)

    def _join_children(self, timeout: float | None) -> None:
        """Kill the children and wait for them, at most ``timeout`` seconds."""
        if not self._children:
            return
        current = getcurrent()
        children = [child for child in self._children if child is not current]
        gevent.killall(children, block=False)
        gevent.joinall(children, timeout=timeout)
        left = sum(not child.dead for child in children)
        if left:
            where = printable(self.path)
            logger.warning("%s: %d children did not end in time", where, left)

    # What the request said.

    @property
    def scope(self) -> Scope:
        """The GSGI scope: a dict as in ASGI 3, built when first asked for."""
        if self._scope is None:
            self._scope = self._get_scope()
        return self._scope

    @property
    def path(self) -> str:
        """The path asked for, percent-decoded."""
        return str(self.scope["path"])

    @property
    def query(self) -> MultiDict[str, str]:
        """The query's fields; ``get`` returns the first, ``getlist`` all."""
        from urllib.parse import parse_qsl

        from werkzeug.datastructures import MultiDict

        text = self.scope["query_string"].decode("utf-8", "replace")
        return MultiDict(parse_qsl(text, keep_blank_values=True))

    @property
    def headers(self) -> Headers:
        """The request's fields; names in any case."""
        from werkzeug.datastructures import Headers

        return Headers(
            [
                (k.decode("latin-1"), v.decode("latin-1"))
                for k, v in self.scope["headers"]
            ]
        )

    @property
    def cookies(self) -> Mapping[str, str]:
        """The request's cookies."""
        from werkzeug.http import parse_cookie

        return parse_cookie("; ".join(self.headers.getlist("cookie")))

    @property
    def client(self) -> tuple[str, int] | None:
        """Address and port of the peer, through trusted proxies."""
        client: tuple[str, int] | None = self.scope.get("client")
        return client

    @property
    def subprotocols(self) -> list[str]:
        """The subprotocols that the peer offers, in its order."""
        return list(self.scope.get("subprotocols", ()))

    @property
    def session(self) -> Any:
        """The session that a middleware put into the scope, or ``None``."""
        return self.scope.get("session")

    @property
    def state(self) -> dict[str, Any]:
        """A dict for whatever the consumer wants to keep."""
        if self._state is None:
            self._state = {}
        return self._state

    def _source(self) -> object:
        """Return what marks the ``ConnectionEnded`` of this socket."""
        return self


def epoch_seconds(when: float | datetime | None) -> float | None:
    """Return a point in time as seconds since the epoch."""
    return when.timestamp() if isinstance(when, datetime) else when


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
            extension["socket"].front = self
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

    def _next(self, timeout: float | None) -> Data | Event:
        if not self._accepted:
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
            self._ended(event.get("code", 1005), event.get("reason") or "")
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
        kind = ConnectionBroken if code == 1006 else ConnectionClosed
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

    def _get_scope(self) -> Scope:
        raise AssertionError("an EventSocket is made from its scope")


def encode_headers(headers: HeaderList) -> list[tuple[bytes, bytes]]:
    """Return header fields as bytes."""
    items = headers.items() if isinstance(headers, Mapping) else headers
    return [(_to_bytes(name), _to_bytes(value)) for name, value in items]


def _to_bytes(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text
