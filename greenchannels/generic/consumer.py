"""
Class-based consumers over events: the base of ``websocket.py``.

A consumer object serves one connection; each event calls the method that its
"type" names, with ``.`` as ``_``. The names and their meaning are those of Django
Channels 4 (``channels.consumer``), in blocking form: a handler is an ordinary
function that may block.

Where a server's socket stands behind, it is asked for what has no event; an idle
consumer then needs no greenlet. Behind middleware, or on another GSGI server, the
consumer object is an ordinary GSGI consumer and runs in one greenlet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Generic, TypeVar

from ..event_sockets import socket_of
from ..sockets import WebSocket
from ..text import printable
from ..types import Data, Event, Receive, Scope, Send
from .channel_layer import ChannelLayer
from .checks import check_arguments, check_concurrency, check_methods
from .running import run_handlers

T = TypeVar("T")

#: Events of the connection itself; nobody else may send a consumer one.
PROTOCOL_HANDLERS = frozenset(
    ("websocket_connect", "websocket_receive", "websocket_disconnect")
)

#: Methods that no event of a group or a channel calls: what the base classes have.
RESERVED = set(PROTOCOL_HANDLERS)


def reserve(cls: type[SyncConsumer]) -> None:
    """Keep the public methods of a base class from events."""
    RESERVED.update(name for name in dir(cls) if not name.startswith("_"))


class derived(Generic[T]):
    """A property that a subclass or its code may replace by an attribute."""

    def __init__(self, function: Callable[[Any], T]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: type) -> T:
        """Return the value; the function itself, for the class."""
        return self._function(instance) if instance is not None else self  # type: ignore[return-value]


class ClassApplication:
    """
    A consumer class as a GSGI consumer: each connection gets an object of its own.

    Made by ``as_asgi``; ``websocket()`` takes it, and the class itself as well.

    Args:
        consumer_class: The class.
        initkwargs: Given to it for each connection.

    """

    def __init__(
        self, consumer_class: type[SyncConsumer], initkwargs: dict[str, Any]
    ) -> None:
        self.consumer_class = consumer_class
        self.consumer_initkwargs = initkwargs
        self.__name__ = consumer_class.__name__
        self.__doc__ = consumer_class.__doc__

    def __repr__(self) -> str:
        return f"<application of {self.consumer_class.__qualname__}>"

    def new_handlers(self) -> SyncConsumer:
        """Return the consumer object of a new connection."""
        return self.consumer_class(**self.consumer_initkwargs)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; blocks until it has ended."""
        self.new_handlers()(scope, receive, send)

    # What a routing asks when it is made.

    def check_consumer(self) -> None:
        """
        Check what can be known before anybody connects.

        Raises:
            ConfigurationError: If the class, or its arguments, cannot work.

        """
        self.consumer_class._check_class()
        check_arguments(self.consumer_class, self.consumer_initkwargs)

    def check_fields(self, fields: Iterable[str]) -> None:
        """
        Check that the class asks for no other fields than those of its path.

        Raises:
            ConfigurationError: If it does.

        """
        self.consumer_class._check_fields(frozenset(fields))

    def handles(self, kind: str) -> bool:
        """Say whether the class has a handler for events of a type."""
        return self.consumer_class._handles(kind.replace(".", "_"))


class SyncConsumer:
    """
    A consumer whose handlers are named by the types of events.

    ``{"type": "chat.message"}`` calls ``chat_message(self, event)``. The events of
    the connection are those of GSGI: ``websocket.connect``, ``websocket.receive``
    and ``websocket.disconnect``. One handler of a connection runs at a time and may
    block; what comes meanwhile waits, in order.

    An event whose type names no handler, begins with ``_``, or would call a method
    of these base classes is logged and counted; the consumer lives on. An exception
    that leaves a handler closes with 1011 (500 before accepting); the handler for
    the disconnect runs all the same.

    Attributes:
        max_concurrency: How many handlers of one connection may run at a time. Above
            1 only their starts are in order. The first and the last handler run
            alone.
        channel_layer_alias: Accepted for compatibility; there is one layer.

    """

    max_concurrency: int = 1
    channel_layer_alias: ClassVar[str] = "default"

    _socket: WebSocket

    @classmethod
    def as_asgi(cls, **initkwargs: Any) -> ClassApplication:
        """
        Return this class as an application for a routing.

        Args:
            initkwargs: Given to the class for each connection.

        """
        return ClassApplication(cls, initkwargs)

    # What it knows of its connection.

    @derived
    def socket(self) -> WebSocket:
        """The socket behind: what a function consumer would hold."""
        return self._socket

    @derived
    def scope(self) -> Scope:
        """The GSGI scope: a dict as in ASGI 3, with ``url_route``."""
        return self._socket.scope

    @derived
    def channel_name(self) -> str:
        """The name by which ``Channel(name).send`` reaches this consumer."""
        return self._socket.channel_name

    @derived
    def channel_layer(self) -> ChannelLayer:
        """Groups and channels by the methods that Channels gives them; they block."""
        return ChannelLayer(self._socket)

    def spawn(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """
        Run ``function(*args, **kwargs)`` in a child greenlet; never blocks.

        It ends with the connection, before the disconnect; see ``WebSocket.spawn``.

        Returns:
            The greenlet.

        Raises:
            ConnectionEnded: If the connection has ended.

        """
        return self._socket.spawn(function, *args, **kwargs)

    # Events.

    def dispatch(self, message: Event) -> None:
        """Call the handler of an event."""
        name = message["type"].replace(".", "_")
        if name in PROTOCOL_HANDLERS:
            handler = getattr(self, name, None)
            if handler is not None:
                handler(message)
        else:
            self._dispatch_other(message, name)

    def send(self, message: Event) -> None:
        """
        Send a GSGI event, such as ``{"type": "websocket.send", "text": "hello"}``.

        Blocks like ``WebSocket.send``.

        Raises:
            ConnectionEnded: If the connection has ended.
            ValueError: If a WebSocket cannot send such an event.

        """
        self.base_send(message)

    def base_send(self, message: Event) -> None:
        """Send a GSGI event; what ``send`` is made of."""
        self._socket.send_event(message)

    @classmethod
    def _check_class(cls) -> None:
        """Raise ConfigurationError if no object of this class can work."""
        check_methods(cls)
        check_concurrency(cls)

    @classmethod
    def _check_fields(cls, fields: frozenset[str]) -> None:
        """Raise ConfigurationError if this class needs a field beside these."""

    @classmethod
    def _handles(cls, name: str) -> bool:
        """Say whether events that name this method have a handler."""
        return name not in RESERVED and callable(getattr(cls, name, None))

    def _handler_of(self, name: str) -> Callable[[Event], None] | None:
        """Return the method that events of groups and channels call by this name."""
        if name in RESERVED or name[:1] == "_":
            return None
        handler = getattr(self, name, None)
        return handler if callable(handler) else None

    def _dispatch_other(self, message: Event, name: str) -> None:
        """Call the handler of an event that does not come from the connection."""
        handler = self._handler_of(name)
        if handler is not None:
            handler(message)
        else:
            self._socket.count_unhandled_event(
                message["type"], f"{type(self).__name__} has no handler for it"
            )

    # GSGI: with something between the server and this object.

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection as a GSGI consumer; blocks until it has ended."""
        run_handlers(self, socket_of(scope, receive, send, type(self).__name__))

    # What a server calls (types.SocketHandlers).

    def socket_opened(self, socket: Any, /) -> None:
        """Take the connection's socket and the event that begins it."""
        self._socket = socket
        self.dispatch({"type": "websocket.connect"})

    def socket_received(self, message: Data | Event, /) -> None:
        """Take a message or an event, as the event that it is."""
        if isinstance(message, str):
            self.dispatch({"type": "websocket.receive", "text": message})
        elif isinstance(message, bytes):
            self.dispatch({"type": "websocket.receive", "bytes": message})
        else:
            self._dispatch_other(message, message["type"].replace(".", "_"))

    def socket_closed(self, code: int, reason: str, /) -> None:
        """Take the end of the connection; called once."""
        self.dispatch({"type": "websocket.disconnect", "code": code, "reason": reason})

    def socket_listens_to(self, kind: str, /) -> bool:
        """Say whether events of a type have a handler here, or in a stream."""
        return self._handles(kind.replace(".", "_"))

    def __repr__(self) -> str:
        socket = getattr(self, "_socket", None)
        path = printable(socket.path) if socket is not None else "not connected"
        return f"<{type(self).__name__} {path}>"


reserve(SyncConsumer)
