"""
Names for the types that everybody uses: GSGI's callables and the events.

GSGI is specified in ``docs/gsgi.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol, TypeAlias

#: What a request is about: a dict as in ASGI 3 (www 2.5, lifespan).
Scope: TypeAlias = MutableMapping[str, Any]

#: What happens: a dict with "type".
Event: TypeAlias = MutableMapping[str, Any]

#: Return the next event; blocks the greenlet.
Receive: TypeAlias = Callable[[], Event]

#: Send an event; may block the greenlet.
Send: TypeAlias = Callable[[Event], None]

#: The one interface: consumers, routers, middleware and hosted apps are it.
Consumer: TypeAlias = Callable[[Scope, Receive, Send], None]

#: A consumer around a consumer.
Middleware: TypeAlias = Callable[[Consumer], Consumer]

#: Entered in each worker before it accepts, left after its drain.
Lifespan: TypeAlias = Callable[[], AbstractContextManager[Any]]

#: Header fields: names in lower case, and values.
Headers: TypeAlias = list[tuple[bytes, bytes]]

#: What WebSockets carry.
Data: TypeAlias = str | bytes

#: Fields of a response or of the 101.
HeaderList: TypeAlias = Iterable[tuple[str | bytes, str | bytes]]


class SocketHandlers(Protocol):
    """
    What a server calls for one socket of a class-based consumer.

    The methods may block. Whatever they raise ends the socket.
    """

    #: How many handlers of one socket may run at a time.
    max_concurrency: int

    def socket_opened(self, socket: Any, /) -> None:
        """Take the socket, whose handshake has not been decided; called first."""

    def socket_received(self, message: Data | Event, /) -> None:
        """Take a message of the peer, or an event of a group or a channel."""

    def socket_closed(self, code: int, reason: str, /) -> None:
        """Clean up: the socket is over. Called last, and always."""

    def socket_listens_to(self, kind: str, /) -> bool:
        """Say whether events of a type have a handler; never blocks."""


#: What happens to a member that reads too slowly.
SlowPolicy: TypeAlias = Literal["close", "drop", "latest"]
