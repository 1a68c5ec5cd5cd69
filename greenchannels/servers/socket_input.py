"""
A server's socket as it takes bytes from its transport.

What the peer sends becomes messages in a bounded inbox; when that is full,
reading stops and TCP pushes back. All of it runs in the hub, or in the
consumer's greenlet when it goes on after a pause, and never blocks but for the
one switch to a waiting consumer.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ..net.transport import Transport
from ..wire.frames import CLOSE
from .endpoint import Endpoint
from .opening import Opening
from .socket_keepalive import SocketKeepalive
from .socket_life import CLOSING, OPEN
from .socket_run import in_hub

if TYPE_CHECKING:
    from .server import Server


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
        #: Whether the consumer takes events; ``None`` until it received.
        self._listening: bool | None = None

    def data_received(self, buffer: bytes | bytearray, size: int) -> None:
        """Take ``size`` bytes from the transport, and wake the consumer."""
        if self._stage is not OPEN:
            self._data_received_otherwise(buffer, size)
            return
        endpoint = self._endpoint
        wire = self._wire
        inbox = self._inbox
        if inbox:
            self._append(buffer, size)
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
                if count >= endpoint.max_inbox or received >= endpoint.max_inbox_bytes:
                    self._pause_input()
        ending = False
        if wire.controls is not None or wire.error is not None:
            controls = wire.controls
            ending = controls is None or controls[-1][0] == CLOSE
            ending = ending or wire.error is not None
            if not ending:
                self._take_controls()
        if self._waiter is not None and self._inbox:
            self._waiter.switch()
        if ending:
            # After the consumer, which may have answered what came before.
            self._take_controls()

    def _append(self, buffer: bytes | bytearray, size: int) -> None:
        """Decode behind what still waits in the inbox."""
        endpoint, wire = self._endpoint, self._wire
        count = len(self._inbox) - self._event_count
        messages = wire.decode(
            buffer,
            size,
            max(1, endpoint.max_inbox - count),
            max(1, endpoint.max_inbox_bytes - self._inbox_bytes),
        )
        messages.reverse()
        self._inbox[:0] = messages
        self._inbox_bytes += wire.decoded_bytes
        if (
            count + len(messages) >= endpoint.max_inbox
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

    def _resume_input(self) -> None:
        """The inbox is empty: decode what was kept back, then read again."""
        self._input_paused = False
        if self._stage is not OPEN:
            self._transport.resume_reading()
            return
        endpoint, wire = self._endpoint, self._wire
        messages = wire.decode(b"", 0, endpoint.max_inbox, endpoint.max_inbox_bytes)
        self._inbox_bytes = wire.decoded_bytes
        messages.reverse()
        self._inbox[:0] = messages
        if wire.controls is not None or wire.error is not None:
            self._take_controls_after(messages)
        if (
            len(messages) >= endpoint.max_inbox
            or wire.decoded_bytes >= endpoint.max_inbox_bytes
        ):
            self._input_paused = True
        else:
            self._transport.resume_reading()

    def _take_controls_after(self, messages: list[Any]) -> None:
        """Let the consumer have the messages that came before, if there are any."""
        if messages:
            self._server.reactor.loop.run_callback(self._take_controls_later)
        else:
            self._take_controls()

    @in_hub
    def _take_controls_later(self) -> None:
        """Hub only."""
        self._take_controls()

    def _take_controls(self) -> None:
        """Act upon the control frames and the broken rule that ``_wire`` holds."""
        raise NotImplementedError
