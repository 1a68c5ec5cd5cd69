"""
A server's socket as it takes bytes from its transport.

What the peer sends becomes messages in a bounded inbox; when that is full,
reading stops and TCP pushes back. All of it runs in the hub, or in the
consumer's greenlet when it goes on after a pause, and never blocks but for the
one switch to a waiting consumer.
"""

from __future__ import annotations

import sys
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..errors import ConnectionEnded
from ..net.reactor import SLICE_TIME
from ..net.transport import Transport
from ..options import MIB, OWN_BUFFER
from ..wire.frames import CLOSE
from .endpoint import Endpoint
from .opening import Opening
from .socket_keepalive import SocketKeepalive
from .socket_life import CLOSING, OPEN
from .socket_run import in_hub

if TYPE_CHECKING:
    from .intake import Intake
    from .server import Server


#: Bytes that messages are inflated to in one turn of the hub; the others wait for the
#: next. A MiB takes 2 to 4 ms.
INFLATED_PER_TURN = MIB


class SocketInput(SocketKeepalive):
    """
    Owns the inbox and its bounds, and knows whether reading pauses for it.

    It needs from above ``_take_controls``, for frames that are no messages.
    """

    __slots__ = (
        "_event_bytes",
        "_event_count",
        "_inbox",
        "_inbox_bytes",
        "_input_paused",
        "_listening",
        "_resuming",
    )

    def __init__(
        self,
        server: Server,
        transport: Transport,
        opening: Opening,
        endpoint: Endpoint,
        params: dict[str, Any],
    ) -> None:
        super().__init__(server, transport, opening, endpoint, params)
        #: Next message last; holds str, bytes and event broadcasts.
        self._inbox: list[Any] = []
        #: Bytes from the peer since the inbox was empty: an upper bound.
        self._inbox_bytes = 0
        #: Events in the inbox, and their bytes: they have bounds of their own.
        self._event_count = 0
        self._event_bytes = 0
        self._input_paused = False
        #: Whether ``_resume_later`` will be called.
        self._resuming = False
        #: Whether the consumer takes events; ``None`` until it received.
        self._listening: bool | None = None

    @property
    def next_ping(self) -> float | None:
        """When our next ping is due: another time than before the last one."""
        return getattr(self, "_ping_due", None)

    @property
    def user_topic(self) -> str | None:
        """What tells the user of this socket from others, if it has one."""
        return self._user_topic

    def peer_host(self) -> str | None:
        """Return the peer's address, through trusted proxies, if it has one."""
        scope = self._get_scope() if self._scope is None else self._scope
        client = scope.get("client")
        return str(client[0]) if client else None

    def data_received(self, buffer: bytes | bytearray, size: int) -> None:
        """Take ``size`` bytes from the transport, and wake the consumer."""
        if self._stage is not OPEN:
            self._data_received_otherwise(buffer, size)
            return
        endpoint = self._endpoint
        wire = self._wire
        inbox = self._inbox
        ending = False
        if self._server.reactor.spent > INFLATED_PER_TURN and wire.codec is not None:
            wire.decode(buffer, size, 0, 0)
            self._pause_input()
            self._resume_soon()
        elif inbox or endpoint.rates is not None:
            ending = self._append(buffer, size)
        else:
            messages = wire.decode(
                buffer, size, endpoint.max_inbox, endpoint.max_inbox_bytes
            )
            count = len(messages)
            if count:
                if count > 1:
                    messages.reverse()
                self._inbox = messages
                received = self._inbox_bytes = wire.decoded_bytes
                if received > size:
                    self._server.reactor.spend(received)
                if count >= endpoint.max_inbox or received >= endpoint.max_inbox_bytes:
                    self._pause_input()
        if wire.controls is not None or wire.error is not None:
            controls = wire.controls
            if controls is None or controls[-1][0] == CLOSE or wire.error is not None:
                ending = True
            if not ending:
                self._take_controls()
        if self._waiter is not None and self._inbox:
            self._waiter.switch()
        if ending:
            # After the consumer, which may have answered what came before.
            self._take_end()

    def _append(self, buffer: bytes | bytearray, size: int) -> bool:
        """
        Decode behind what still waits in the inbox.

        Returns:
            Whether that exceeded a rate which closes.

        """
        if not self._messages_wait:
            self._inbox_bytes = 0
        rates = self._endpoint.rates
        if rates is None:
            count, most_bytes = self._room()
            messages = self._wire.decode(buffer, size, count, most_bytes)
            if self._wire.decoded_bytes > size:
                self._server.reactor.spend(self._wire.decoded_bytes)
            self._put(messages)
            return False
        intake = rates.intake(self, self._wire.controls)
        self._append_allowed(intake, buffer, size)
        intake.count_controls(self._wire.controls)
        return intake.exceeded

    def _append_allowed(
        self, intake: Intake, buffer: bytes | bytearray, size: int
    ) -> None:
        """Decode what the rates allow; wait if they do not allow all of it."""
        wire, reactor = self._wire, self._server.reactor
        end = perf_counter() + SLICE_TIME
        while True:
            count, most_bytes = self._room()
            allowed, allowed_bytes = intake.allowance()
            messages = wire.decode(
                buffer, size, min(count, allowed), min(most_bytes, allowed_bytes)
            )
            if wire.decoded_bytes > size:
                reactor.spend(wire.decoded_bytes)
            self._put(intake.admit(messages))
            if self._input_paused or intake.exceeded or not wire.pending:
                return
            if not allowed:
                self._transport.pause_reading()
                intake.wait()
                return
            if perf_counter() > end:
                self._pause_input()
                self._resume_soon()
                return
            buffer, size = b"", 0

    @property
    def _messages_wait(self) -> bool:
        """Whether the inbox holds anything but events."""
        return len(self._inbox) > self._event_count

    def _room(self) -> tuple[int, int]:
        """Return how many messages and bytes may join the inbox: one at least."""
        endpoint = self._endpoint
        count = len(self._inbox) - self._event_count
        return (
            max(1, endpoint.max_inbox - count),
            max(1, endpoint.max_inbox_bytes - self._inbox_bytes),
        )

    def _put(self, messages: list[Any]) -> None:
        """Put what has just been decoded behind what waits; pause at the bounds."""
        if not messages:
            return
        endpoint = self._endpoint
        messages.reverse()
        self._inbox[:0] = messages
        self._inbox_bytes += self._wire.decoded_bytes
        if (
            len(self._inbox) - self._event_count >= endpoint.max_inbox
            or self._inbox_bytes >= endpoint.max_inbox_bytes
        ):
            self._pause_input()

    def _data_received_otherwise(self, buffer: bytes | bytearray, size: int) -> None:
        """Before the 101 keep what comes; in closing state look for a close only."""
        if self._opening is not None:
            if not self._opening.keep_bytes(buffer, size):
                self._transport.pause_reading()
        elif self._stage is CLOSING:
            self._wire.decode(buffer, size, sys.maxsize, sys.maxsize)
            if self._wire.controls is not None or self._wire.error is not None:
                self._take_controls()

    @in_hub
    def _feed(self, early: bytes | bytearray) -> None:
        """Take bytes that came earlier, and what was kept back. Hub only."""
        self.data_received(early, len(early))

    def _clear_inbox(self) -> None:
        """Drop what waits for the consumer."""
        self._inbox.clear()
        self._event_count = self._event_bytes = 0

    # Backpressure.

    def _pause_input(self) -> None:
        self._input_paused = True
        self._transport.pause_reading()

    def _resume_soon(self) -> None:
        """Go on with what was kept back when others have had a turn. Any greenlet."""
        if not self._resuming:
            self._resuming = True
            self._server.reactor.next_turn(self._resume_later)

    @in_hub
    def _resume_later(self) -> None:
        """Go on, and wake the consumer if there is something for it. Hub only."""
        self._resuming = False
        if self._input_paused and not self._messages_wait:
            self._resume_input()
        if self._waiter is not None and self._inbox:
            self._wake()

    def _resume_input(self) -> None:
        """No message waits: decode what was kept back, then read again."""
        self._input_paused = False
        if self._stage is not OPEN:
            self._transport.resume_reading()
            return
        wire = self._wire
        if self._append(b"", 0) or wire.controls is not None or wire.error is not None:
            self._take_end_after_inbox()
        if not self._held_back():
            self._transport.resume_reading()

    def _take_end_after_inbox(self) -> None:
        """Let the consumer have the messages that came before, if there are any."""
        if self._inbox:
            self._server.reactor.loop.run_callback(self._take_end_later)
        else:
            self._take_end()

    @in_hub
    def _take_end_later(self) -> None:
        """Hub only."""
        self._take_end()

    def _take_end(self) -> None:
        """Act upon a rate that was exceeded, and upon control frames."""
        if self._endpoint.rates is not None:
            self._endpoint.rates.enforce(self)
        if self._wire.controls is not None or self._wire.error is not None:
            self._take_controls()

    def _held_back(self) -> bool:
        """Tell whether nothing is read for the inbox' or a rate's sake."""
        rates = self._endpoint.rates
        return self._input_paused or (rates is not None and rates.holds(self))

    def _read_on(self) -> None:
        """Read again, unless something speaks against it."""
        if self._transport.own <= OWN_BUFFER and not self._held_back():
            self._transport.resume_reading()

    @in_hub
    def tokens_back(self) -> None:
        """A rate has room again: go on with what was kept back. Hub only."""
        if self._stage is OPEN:
            self.data_received(b"", 0)
        if self._stage is OPEN:
            self._read_on()

    def _end(self, kind: type[ConnectionEnded], code: int, reason: str = "") -> None:
        if self._endpoint.rates is not None:
            self._endpoint.rates.forget(self)
        super()._end(kind, code, reason)

    def _take_controls(self) -> None:
        """Act upon the control frames and the broken rule that ``_wire`` holds."""
        raise NotImplementedError
