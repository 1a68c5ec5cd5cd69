"""
The class-based consumers of WebSockets: ``connect``, ``receive``, ``disconnect``.

How they come by their events is in ``consumer.py``; here is what a subclass fills in
and what it can do. Nothing of it is made before it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import msgspec

from ..close_codes import INVALID_DATA, NORMAL
from ..exceptions import AcceptConnection, DenyConnection
from ..groups import to_json
from ..types import Data, Event, HeaderList
from .checks import check_group_fields, check_groups
from .consumer import SyncConsumer, derived, reserve


class WebsocketConsumer(SyncConsumer):
    """
    A WebSocket as three methods: ``connect``, ``receive`` and ``disconnect``.

    Events of groups and channels call the methods that their types name. See
    ``SyncConsumer`` for what happens to those that name none, and to exceptions.

    ``disconnect`` always runs, once, last: also after a refused handshake, a broken
    connection, or a handler that raised. A handler that still runs when the
    connection ends has 10 s (``Limits.stop_timeout``) before it is killed.

    Attributes:
        groups: Names of groups that it is in for as long as it is connected, joined
            before ``connect``; ``{name}`` stands for a field of the path, which is
            checked when the routing is made, unless middleware may add fields. A
            path that makes no name of a group is answered with 404.

    """

    groups: Iterable[str] | None = None

    #: Whether a subclass takes the connection's own events itself.
    _takes_connect: ClassVar[bool] = False
    _takes_receive: ClassVar[bool] = False
    _takes_disconnect: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = WebsocketConsumer
        cls._takes_connect = cls.websocket_connect is not own.websocket_connect
        cls._takes_receive = cls.websocket_receive is not own.websocket_receive
        cls._takes_disconnect = cls.websocket_disconnect is not own.websocket_disconnect

    @classmethod
    def _check_class(cls) -> None:
        super()._check_class()
        check_groups(cls)

    @classmethod
    def _check_fields(cls, fields: frozenset[str]) -> None:
        super()._check_fields(fields)
        check_group_fields(cls, fields)

    @derived
    def params(self) -> dict[str, Any]:
        """What the route's pattern matched, by name."""
        return self._socket.params

    # What a subclass fills in.

    def connect(self) -> None:
        """
        Decide the handshake: ``accept()`` it, or ``close()`` refuses it with 403.

        May raise ``AcceptConnection`` or ``DenyConnection`` instead. If nothing is
        decided within ``Timeouts.accept_timeout`` (30 s) the answer is 503; until
        then another handler may decide.
        """
        self.accept()

    def receive(self, text_data: str | None = None, bytes_data: Any = None) -> None:
        """Take a message: ``text_data`` is a str, or ``bytes_data`` is bytes."""

    def disconnect(self, code: int) -> None:
        """
        Clean up; nothing can be sent any more.

        Args:
            code: The close code; 1005 if there was none in the close frame, 1006
                without a close frame or when the handshake was refused.

        """

    # What it can do.

    def accept(
        self, subprotocol: str | None = None, headers: HeaderList | None = None
    ) -> None:
        """
        Accept the handshake; never blocks.

        Args:
            subprotocol: One that the peer offers (``scope["subprotocols"]``).
            headers: More fields for the 101 response.

        Raises:
            RuntimeError: If the handshake has been decided already.
            ValueError: If the peer did not offer ``subprotocol``.
            ConnectionEnded: If the peer has gone.

        """
        self._socket.accept(subprotocol, headers or ())

    def send(  # type: ignore[override]
        self,
        text_data: str | None = None,
        bytes_data: Any = None,
        close: bool | int = False,
    ) -> None:
        """
        Send a message; blocks only while more than 64 KiB of own output wait.

        Args:
            text_data: A str, sent as text.
            bytes_data: bytes, sent as binary, if there is no text.
            close: Close afterwards: ``True``, or a code.

        Raises:
            ValueError: If there is nothing to send.
            ConnectionEnded: If the connection has ended.

        """
        if text_data is not None:
            self._socket.send(text_data)
        elif bytes_data is not None:
            self._socket.send(bytes_data)
        else:
            raise ValueError("send takes text_data or bytes_data")
        if close:
            self.close(close)

    def close(self, code: bool | int | None = None, reason: str | None = None) -> None:
        """
        Close the connection, or refuse the handshake; never blocks.

        Closing twice changes nothing. What comes from the peer meanwhile is dropped.

        Args:
            code: 1000 if it is ``None`` or ``True``.
            reason: At most 123 bytes of UTF-8.

        Raises:
            LocalProtocolError: If code or reason may not be sent.

        """
        number = NORMAL if code is None or code is True else int(code)
        self._socket.close(number, reason or "")

    # The events of the connection, for those who take them as such.

    def websocket_connect(self, message: Event) -> None:
        """Join the groups, then ``connect``."""
        self._connect()

    def websocket_receive(self, message: Event) -> None:
        """Give a message to ``receive``."""
        text = message.get("text")
        if text is not None:
            self.receive(text_data=text)
        else:
            self.receive(bytes_data=message["bytes"])

    def websocket_disconnect(self, message: Event) -> None:
        """Give the code to ``disconnect``; the groups have been left already."""
        self.disconnect(message["code"])

    def _connect(self) -> None:
        """Join the groups; then have the subclass decide the handshake."""
        for pattern in self.groups or ():
            name = str(pattern).format(**self._socket.params)
            try:
                self._socket.join(name)
            except ValueError:
                if name == pattern:
                    raise
                # What the peer asks for makes no name of a group.
                self._socket.reject(404)
                return
        try:
            self.connect()
        except AcceptConnection:
            pass
        except DenyConnection:
            self.close()
            return
        else:
            return
        self._accept_undecided()

    def _accept_undecided(self) -> None:
        """Accept, unless that has been done."""
        try:
            self.accept()
        except RuntimeError as error:
            # The only sign of it that all sockets give; others pass.
            if "accepted already" not in str(error):
                raise

    # What a server calls: events are made only for those who take them.

    def socket_opened(self, socket: Any, /) -> None:
        """See ``SyncConsumer.socket_opened``."""
        self._socket = socket
        if self._takes_connect:
            self.websocket_connect({"type": "websocket.connect"})
        else:
            self._connect()

    def socket_received(self, message: Data | Event, /) -> None:
        """See ``SyncConsumer.socket_received``."""
        if self._takes_receive and isinstance(message, str | bytes):
            super().socket_received(message)
        elif type(message) is str:
            self.receive(text_data=message)
        elif type(message) is bytes:
            self.receive(bytes_data=message)
        else:
            event: Any = message
            self._dispatch_other(event, event["type"].replace(".", "_"))

    def socket_closed(self, code: int, reason: str, /) -> None:
        """See ``SyncConsumer.socket_closed``."""
        if self._takes_disconnect:
            super().socket_closed(code, reason)
        else:
            self.disconnect(code)


class JsonWebsocketConsumer(WebsocketConsumer):
    """
    A WebSocket of JSON texts: ``receive_json`` and ``send_json``.

    A message that is no JSON, or binary, goes to ``bad_message``.
    """

    def receive(
        self, text_data: str | None = None, bytes_data: Any = None, **kwargs: Any
    ) -> None:
        """Decode a text for ``receive_json``."""
        try:
            if text_data is None:
                raise ValueError("a binary message is no JSON text")
            content = self.decode_json(text_data)
        except (ValueError, RecursionError) as error:
            self.bad_message(error)
        else:
            self.receive_json(content, **kwargs)

    def receive_json(self, content: Any, **kwargs: Any) -> None:
        """Take a decoded message."""

    def bad_message(self, error: Exception) -> None:
        """
        Answer a message that is no JSON; by default close with 1007.

        A subclass may answer it and go on.

        Args:
            error: What is wrong with it: what ``decode_json`` raised.

        """
        self.close(INVALID_DATA, "not JSON")

    def send_json(self, content: Any, close: bool | int = False) -> None:
        """
        Send ``content`` as JSON; see ``send``.

        Raises:
            TypeError: If it holds something that JSON has no form for.
            ConnectionEnded: If the connection has ended.

        """
        self.send(text_data=self.encode_json(content), close=close)

    @classmethod
    def decode_json(cls, text_data: str) -> Any:
        """
        Return what a JSON text says; a subclass may decode differently.

        Raises:
            ValueError: If it is no JSON.

        """
        try:
            return msgspec.json.decode(text_data)
        except msgspec.DecodeError as error:
            raise ValueError(f"not JSON: {error}") from error

    @classmethod
    def encode_json(cls, content: Any) -> str:
        """Return ``content`` as a JSON text; a subclass may encode differently."""
        return to_json(content)


reserve(WebsocketConsumer)
reserve(JsonWebsocketConsumer)
