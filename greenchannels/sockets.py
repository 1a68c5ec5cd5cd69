"""
The socket that user code holds.

``WebSocket`` is the interface and all that does not depend on who carries the
messages. The server's own socket (``servers/websocket.py``) moves frames; the
one in ``event_sockets.py`` speaks GSGI events, for consumers behind middleware
that puts itself between.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec

from .children import Parent
from .close_codes import INVALID_DATA, NORMAL
from .errors import ConnectionEnded
from .groups import Group, to_json, topic_of
from .layers.layer import Layer, user_topic
from .request_fields import RequestFields
from .text import printable
from .types import Data, Event, HeaderList, Scope


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


class WebSocket(RequestFields, Parent):
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
        self._children = None

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

    # For class-based consumers.

    def receive_undecided(self) -> Data | Event:
        """
        Return the next message or event; does not accept the handshake.

        Blocks until another greenlet has decided it, or an event came before.

        Raises:
            ConnectionEnded: When the socket is over and all was received.
            RuntimeError: If another greenlet receives already.

        """
        raise NotImplementedError

    def send_event(self, event: Event) -> None:
        """Send a GSGI event; blocks like ``send``."""
        raise NotImplementedError

    def fail(self) -> None:
        """End the socket for its consumer's failure: 500, or 1011."""
        raise NotImplementedError

    def count_unhandled_event(self, kind: str, why: str) -> None:
        """Count an event that no handler took; warn once a route and type."""
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

    # What else belongs to it.

    @property
    def scope(self) -> Scope:
        """The GSGI scope: a dict as in ASGI 3, built when first asked for."""
        if self._scope is None:
            self._scope = self._get_scope()
        return self._scope

    @property
    def state(self) -> dict[str, Any]:
        """A dict for whatever the consumer wants to keep."""
        if self._state is None:
            self._state = {}
        return self._state

    def _source(self) -> object:
        """Return what marks the ``ConnectionEnded`` of this socket."""
        return self
