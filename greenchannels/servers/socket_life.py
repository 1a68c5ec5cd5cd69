"""
The life of a server's socket: its stages, its one end, and its alarms.

Whatever ends a socket, be it a frame, a failure, an alarm or the consumer, ends
it here, once.
"""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ..close_codes import EXPIRED, INTERNAL_ERROR, NORMAL
from ..errors import ConnectionEnded, HandshakeRefused
from ..net.clock import Alarm
from ..net.transport import Transport
from ..wire.websocket import WebSocketProtocol
from .endpoint import Endpoint
from .opening import Opening
from .socket_run import SocketRun, in_hub

if TYPE_CHECKING:
    from .gsgi import EventPort
    from .server import Server

logger = logging.getLogger("greenchannels.socket")


class Stage(enum.StrEnum):
    """Where a connection is in its life."""

    HANDSHAKE = "handshake"
    OPEN = "open"
    CLOSING = "closing"
    ENDED = "ended"


HANDSHAKE, OPEN, CLOSING, ENDED = Stage

#: What may follow what.
NEXT_STAGE: dict[Stage, frozenset[Stage]] = {
    HANDSHAKE: frozenset({OPEN, ENDED}),
    OPEN: frozenset({CLOSING, ENDED}),
    CLOSING: frozenset({ENDED}),
    ENDED: frozenset(),
}


class SocketLife(SocketRun):
    """
    Knows the connection, where it is in its life, and how it ended.

    There is one alarm for what the connection waits for in its stage: the
    decision, the next ping or pong, the peer's close frame. ``expires`` has one
    of its own.
    """

    __slots__ = (
        "_alarm",
        "_error",
        "_expires",
        "_expiry",
        "_gsgi",
        "_opening",
        "_path",
        "_stage",
        "_started_at",
        "_transport",
        "_wire",
    )

    #: The peer's frames; there is one from the 101 on.
    _wire: WebSocketProtocol

    def __init__(
        self,
        server: Server,
        transport: Transport,
        opening: Opening,
        endpoint: Endpoint,
        params: dict[str, Any],
    ) -> None:
        super().__init__(server, endpoint, params)
        self._transport = transport
        #: The handshake, until it has been decided.
        self._opening: Opening | None = opening
        self._path = opening.request.path
        self._stage = HANDSHAKE
        self._error: tuple[type[ConnectionEnded], int, str] | None = None
        #: How events reach the consumer, if anything stands between.
        self._gsgi: EventPort | None = None
        self._expires: float | None = None
        self._expiry: Alarm | None = None
        self._started_at = time.monotonic()
        self._alarm: Alarm | None = None

    @property
    def path(self) -> str:
        """The path asked for, percent-decoded."""
        return self._path

    @property
    def transport(self) -> Transport:
        """The connection."""
        return self._transport

    @property
    def stage(self) -> Stage:
        """Where the connection is in its life."""
        return self._stage

    @property
    def ended(self) -> bool:
        """Whether the socket is over for its consumer."""
        return self._error is not None

    def _advance(self, stage: Stage) -> None:
        """Move to ``stage``. The only writer of ``_stage``."""
        if stage not in NEXT_STAGE[self._stage]:
            raise AssertionError(f"{self._stage} cannot become {stage}")
        self._stage = stage
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%r = connection is %s", self, stage.name)

    # The end.

    def _end(self, kind: type[ConnectionEnded], code: int, reason: str = "") -> None:
        """
        The socket is over for its consumer: say why, once.

        Groups forget it, its children are killed, and its consumer has
        ``stop_timeout`` to end.
        """
        if self._error is not None:
            return
        self._error = (kind, code, reason)
        self.close_code, self.close_reason = code, reason
        if self._gsgi is not None:
            self._gsgi.socket_ended(code, reason)
        layer, member = self._server.layer, self.member
        layer.discard_everywhere(member)
        if self._channel_name:
            layer.close_channel(self._channel_name)
        if self._expiry is not None:
            self._expiry.cancel()
        self._kill_children()
        self._server.socket_ended(member)
        self._transport.wake_waiters()
        self._stop_run()

    def _check_alive(self) -> None:
        if self._error is not None:
            self._raise_error()

    def _raise_error(self) -> None:
        assert self._error is not None
        kind, code, reason = self._error
        if kind is HandshakeRefused:
            raise HandshakeRefused(code, source=self)
        raise kind(code, reason, source=self)

    def fail(self) -> None:
        """The consumer failed: 500, or 1011."""
        if self._opening is not None:
            self.reject(500)
        else:
            self.close(INTERNAL_ERROR)

    def finish(self) -> None:
        """The consumer returned: 403 if it never accepted, else 1000."""
        self.close(NORMAL)

    def callback_failed(self, error: Exception) -> None:
        """End the connection with 1011, or 500; without words if it is ending."""
        logger.error("%r failed in the hub", self, exc_info=error)
        if self._stage is HANDSHAKE or self._stage is OPEN:
            self.fail()
        else:
            self._transport.fail(error)

    # Alarms.

    def _set_alarm(self, delay: float | None, callback: Callable[[], None]) -> None:
        """Replace the one alarm of the connection's own life."""
        self._cancel_alarm()
        if delay is not None:
            clock = self._server.reactor.clock
            self._alarm = clock.call_later(delay, callback)

    def _cancel_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    @in_hub
    def _abort(self) -> None:
        """The peer did not close in time. Hub only."""
        self._alarm = None
        self._transport.abort(TimeoutError("the peer did not close in time"))

    @property
    def expires(self) -> float | None:
        """See ``WebSocket.expires``."""
        return self._expires

    @expires.setter
    def expires(self, when: float | datetime | None) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        self._expires = when.timestamp() if isinstance(when, datetime) else when
        if self._expires is not None and self._error is None:
            clock = self._server.reactor.clock
            delay = self._expires - time.time()
            self._expiry = clock.call_later(delay, self._expire)

    @in_hub
    def _expire(self) -> None:
        """The time has come. Hub only."""
        self._expiry = None
        if self._opening is not None:
            self.reject(401)
        else:
            self.close(EXPIRED, "expired")
