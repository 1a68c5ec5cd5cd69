"""
What a transport tells the protocol above it, and who takes that protocol's place.

``Lingering`` does while a closing connection waits for its peer, ``GONE`` does after
the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from .clock import Alarm

if TYPE_CHECKING:
    from .transport import Transport

#: Seconds that a closed connection is still read, for the peer to close.
LINGER = 2.0


class StreamProtocol(Protocol):
    """
    What a transport tells the protocol above it, always in the hub.

    Any of these may be called while a consumer runs elsewhere; none may block.
    """

    def data_received(self, buffer: bytearray, size: int) -> None:
        """Take the first ``size`` bytes of ``buffer``, which is then reused."""

    def eof_received(self) -> None:
        """The peer will send no more."""

    def connection_lost(self, error: Exception | None) -> None:
        """The socket has been closed; called once, last."""

    def write_progress(self) -> None:
        """Bytes that had to wait have been taken by the kernel."""

    def callback_failed(self, error: Exception) -> None:
        """One of the above raised ``error``: log it and end the connection."""


class Lingering:
    """Takes the protocol's place while a closing transport waits for the peer."""

    def __init__(self, transport: Transport, protocol: StreamProtocol) -> None:
        self._transport = transport
        self._protocol = protocol
        self._alarm: Alarm | None = None
        self._peer_ended = False

    def start(self) -> None:
        """Half-close, and close for good after ``LINGER`` seconds."""
        if self._alarm is None:
            clock = self._transport.reactor.clock
            self._alarm = clock.call_later(LINGER, self.eof_received)
            self._transport.shutdown()
            if self._peer_ended:
                self._transport.fail(None)

    def data_received(self, buffer: bytearray, size: int) -> None:
        """Discard it."""

    def eof_received(self) -> None:
        """The peer has closed as well, or took too long."""
        if self._alarm is None:
            self._peer_ended = True  # it may still read what is being written
        else:
            self._transport.fail(None)

    def write_progress(self) -> None:
        """Do nothing."""

    def callback_failed(self, error: Exception) -> None:
        """Nothing here does."""

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the protocol whose place this took."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._protocol.connection_lost(error)


class _Gone:
    """The protocol of a transport that has been closed."""

    def data_received(self, buffer: bytearray, size: int) -> None:
        """Nothing can come."""

    def eof_received(self) -> None:
        """Nothing can come."""

    def write_progress(self) -> None:
        """Nothing can go."""

    def callback_failed(self, error: Exception) -> None:
        """Nothing is left to end."""

    def connection_lost(self, error: Exception | None) -> None:
        """It was."""


#: It keeps nothing.
GONE = _Gone()
