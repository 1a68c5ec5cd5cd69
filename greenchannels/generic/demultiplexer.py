"""
Several consumers over one WebSocket.

Each text is ``{"stream": name, "payload": anything}``. The payload goes to the
consumer of that stream, and what that consumer sends goes out in the same form.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import gevent
import msgspec
from gevent import GreenletExit

from ..close_codes import INVALID_DATA
from ..errors import ConfigurationError
from ..groups import Group, to_json
from ..text import printable
from ..types import Event, HeaderList
from .checks import is_fixed
from .consumer import ClassApplication, reserve
from .websocket_consumers import JsonWebsocketConsumer

logger = logging.getLogger("greenchannels.consumer")


class StreamSocket:
    """
    The socket as the consumer of one stream has it.

    What is sent gets its envelope; ``accept`` counts for this stream only. All else,
    closing too, is that of the socket itself.

    Args:
        owner: The demultiplexer.
        stream: The stream's name.

    """

    __slots__ = ("_owner", "stream")

    _owner: WebsocketDemultiplexer
    stream: str

    def __init__(self, owner: WebsocketDemultiplexer, stream: str) -> None:
        object.__setattr__(self, "_owner", owner)
        object.__setattr__(self, "stream", stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._owner.socket, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._owner.socket, name, value)

    def accept(self, subprotocol: str | None = None, headers: HeaderList = ()) -> None:
        """Accept, for this stream; the handshake waits for all of them."""
        self._owner._accept_stream(self.stream, subprotocol, headers)

    def send(self, message: str) -> None:
        """Send a JSON text in its envelope; see ``WebSocket.send``."""
        if not isinstance(message, str):
            raise TypeError("a stream carries JSON text, no bytes")
        self._owner._send_stream(envelope(self.stream, message))


def envelope(stream: str, payload: str) -> str:
    """
    Return the text that carries ``payload``, a JSON text, in ``stream``.

    Raises:
        ValueError: If ``payload`` is no JSON.

    """
    try:
        msgspec.json.decode(payload, type=msgspec.Raw)
    except msgspec.DecodeError as error:
        raise ValueError(f"a stream carries JSON: {error}") from error
    return f'{{"stream":{to_json(stream)},"payload":{payload}}}'


@contextlib.contextmanager
def _naming(stream: str) -> Iterator[None]:
    """Say in what is wrong which stream it is about."""
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(f"the stream {stream!r}: {error}") from None


def _application(stream: Any, found: Any) -> ClassApplication:
    """
    Return the application of a stream's consumer.

    Raises:
        ConfigurationError: If it is not what a stream needs.

    """
    if not isinstance(stream, str):
        raise ConfigurationError(f"a stream's name is a str, not {stream!r}")
    if isinstance(found, type):
        found = ClassApplication(found, {})
    if not isinstance(found, ClassApplication) or not issubclass(
        found.consumer_class, JsonWebsocketConsumer
    ):
        raise ConfigurationError(f"the stream {stream!r} needs a JsonWebsocketConsumer")
    return found


class WebsocketDemultiplexer(JsonWebsocketConsumer):
    """
    Give each stream of a WebSocket to a consumer of its own.

    The handshake is accepted when all of them have accepted, and refused when one
    refuses. An event goes to every stream whose consumer has a handler for it.
    ``disconnect`` goes to all. A text that is no such object, or names a stream that
    there is not, goes to ``bad_message`` of the demultiplexer.

    Attributes:
        consumers: For each stream a subclass of ``JsonWebsocketConsumer``, or what
            its ``as_asgi()`` returns.

    """

    consumers: ClassVar[Mapping[str, Any]] = {}

    def __init__(self) -> None:
        #: The consumer object of each stream.
        self.streams: dict[str, JsonWebsocketConsumer] = {}
        for stream, found in self.consumers.items():
            consumer = _application(stream, found).new_handlers()
            assert isinstance(consumer, JsonWebsocketConsumer)
            self.streams[stream] = consumer
        #: Streams that have not accepted yet, and what was sent before all had.
        self._undecided = set(self.streams)
        self._early: list[str] = []
        self._subprotocol: str | None = None
        self._headers: list[tuple[str | bytes, str | bytes]] = []

    @classmethod
    def _applications(cls) -> dict[str, ClassApplication]:
        """
        Return what makes the consumer of each stream, as far as the class tells.

        Raises:
            ConfigurationError: If ``consumers`` is no such mapping.

        """
        if not is_fixed(cls, "consumers"):
            return {}
        if not isinstance(cls.consumers, Mapping):
            raise ConfigurationError(
                f"{cls.__name__}.consumers is a dict, not {cls.consumers!r}"
            )
        return {name: _application(name, c) for name, c in cls.consumers.items()}

    @classmethod
    def _check_class(cls) -> None:
        super()._check_class()
        for stream, application in cls._applications().items():
            with _naming(stream):
                application.check_consumer()

    @classmethod
    def _check_fields(cls, fields: frozenset[str]) -> None:
        super()._check_fields(fields)
        for stream, application in cls._applications().items():
            with _naming(stream):
                application.check_fields(fields)

    @classmethod
    def _handles(cls, name: str) -> bool:
        streams = cls._applications().values()
        return super()._handles(name) or any(
            each.consumer_class._handles(name) for each in streams
        )

    @classmethod
    def group_send(cls, name: str, stream: str, payload: Any) -> None:
        """Send ``payload`` to every member of a group, in the envelope of a stream."""
        Group(name).send(envelope(stream, to_json(payload)))

    def connect(self) -> None:
        """Have every stream's consumer decide, until one refuses."""
        if not self.streams:
            self.accept()
        for stream, consumer in self.streams.items():
            consumer.socket_opened(StreamSocket(self, stream))
            if self._socket.close_code is not None:
                return

    def receive_json(self, content: Any, **kwargs: Any) -> None:
        """Give a payload to its stream's consumer."""
        try:
            consumer, payload = self._addressed(content)
        except ValueError as error:
            self.bad_message(error)
        else:
            consumer.receive_json(payload, **kwargs)

    def _addressed(self, content: Any) -> tuple[JsonWebsocketConsumer, Any]:
        """Return the consumer that a frame is for, and its payload."""
        if not isinstance(content, dict) or not {"stream", "payload"} <= set(content):
            raise ValueError('a frame is an object with "stream" and "payload"')
        stream = content["stream"]
        if not isinstance(stream, str) or stream not in self.streams:
            raise ValueError(f"there is no stream {stream!r}")
        return self.streams[stream], content["payload"]

    def bad_message(self, error: Exception) -> None:
        """
        Answer a text that is no frame of a stream; by default close with 1007.

        Args:
            error: What is wrong with it.

        """
        self.close(INVALID_DATA, "not a frame of a stream")

    def disconnect(self, code: int) -> None:
        """Tell every consumer that was told of the connection."""
        for stream, consumer in self.streams.items():
            if not hasattr(consumer, "_socket"):
                continue
            try:
                consumer.socket_closed(code, self._socket.close_reason)
            except (Exception, GreenletExit, gevent.Timeout, SystemExit):
                logger.exception("%s: the stream %r failed", self._path, stream)

    @property
    def _path(self) -> str:
        return printable(self._socket.path)

    def _dispatch_other(self, message: Event, name: str) -> None:
        """Give an event to every consumer that has a handler for it."""
        found = [c for c in self.streams.values() if c._handler_of(name) is not None]
        if not found or self._handler_of(name) is not None:
            super()._dispatch_other(message, name)
        for consumer in found:
            handler = consumer._handler_of(name)
            assert handler is not None
            handler(dict(message))

    # What the streams' sockets ask for.

    def _accept_stream(
        self, stream: str, subprotocol: str | None, headers: HeaderList
    ) -> None:
        """Note that a stream accepts; the last one accepts the handshake."""
        if stream not in self._undecided:
            raise RuntimeError("the handshake has been accepted already")
        self._undecided.remove(stream)
        self._subprotocol = self._subprotocol or subprotocol
        self._headers += headers.items() if isinstance(headers, dict) else headers
        if not self._undecided:
            self.accept(self._subprotocol, self._headers)
            for text in self._early:
                self._socket.send(text)
            self._early.clear()

    def _send_stream(self, text: str) -> None:
        """Send an envelope, once all streams have accepted."""
        if self._undecided:
            self._early.append(text)
        else:
            self._socket.send(text)


reserve(WebsocketDemultiplexer)
