"""
Control frames and the closing handshake of a server's socket (RFC 6455, section 7).

``wire`` knows what the frames mean and which answers they ask for; here they move
the socket on, and the transport with it.
"""

from __future__ import annotations

import logging

from ..close_codes import ABNORMAL, NORMAL
from ..errors import ConnectionBroken, ConnectionClosed
from ..options import OWN_BUFFER
from ..text import printable
from ..wire.websocket import CloseReceived, Failed, Pong, State
from .socket_life import CLOSING, ENDED, OPEN
from .socket_output import SocketOutput

logger = logging.getLogger("greenchannels.socket")


class SocketClosing(SocketOutput):
    """Answers pings at once, and ends the connection in the order of the RFC."""

    __slots__ = ()

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """See ``WebSocket.close``."""
        if self._opening is not None:
            self.reject()
        elif self._stage is OPEN:
            self._transport.push(self._wire.close(code, reason))
            self._advance(CLOSING)
            self._clear_inbox()
            self._start_closing(code, reason)

    def _start_closing(self, code: int, reason: str) -> None:
        """Our close frame is queued: wait for the peer's, but not for long."""
        self._set_alarm(self._endpoint.timeouts.close_timeout, self._abort)
        self._end(ConnectionClosed, code, reason)
        self._transport.resume_reading()
        self._input_paused = False
        if self._wire.pending:
            # The peer's close frame may be among what was kept back.
            self._server.reactor.loop.run_callback(self._feed, b"")

    # What the peer's control frames ask for.

    def _take_controls(self) -> None:
        """Answer pings and closes; notice pongs and broken rules."""
        wire = self._wire
        events = wire.control_events()
        output = wire.data_to_send()
        if output:
            if self._transport.push(output) > OWN_BUFFER:
                self._transport.write_now()
            if self._transport.own > OWN_BUFFER:
                # It asks and does not read the answers: write_progress goes on.
                self._transport.pause_reading()
        for event in events:
            if isinstance(event, Pong):
                self._pong_due = None
            elif isinstance(event, CloseReceived):
                self._peer_closed(event)
            elif isinstance(event, Failed):
                self._peer_failed(event)

    def _peer_closed(self, event: CloseReceived) -> None:
        if self._stage is OPEN:
            self._advance(CLOSING)
        self._end(ConnectionClosed, event.code, event.reason)
        self._transport.close()
        if self._transport.queue:
            self._set_alarm(self._endpoint.timeouts.close_timeout, self._abort)
            self._transport.resume_reading()
        else:
            self._cancel_alarm()

    def _peer_failed(self, event: Failed) -> None:
        """The peer broke the rules: our close frame is queued (section 7.1.7)."""
        logger.info("%s: %s", printable(self._path), event.error)
        if self._stage is OPEN:
            self._advance(CLOSING)
        self._start_closing(event.error.hint, event.error.reason)
        self._transport.write_now()
        if not self._transport.queue:
            self._all_written()

    # What the transport tells. Hub only.

    def eof_received(self) -> None:
        """The peer has gone without, or after, a close frame."""
        if self._stage is CLOSING:
            self._transport.close()
        else:
            self._transport.fail(ConnectionResetError("the peer has gone"))

    def write_progress(self) -> None:
        """A peer that had stopped reading has read."""
        transport = self._transport
        if self._losses is not None:
            self._peer_reads(self._losses)
        if self._stage is OPEN:
            self._read_on()
        elif self._stage is CLOSING and not transport.queue:
            self._all_written()

    def _all_written(self) -> None:
        """Our close frame has gone: a peer that broke the rules hears no more."""
        if self._wire.state is State.FAILED:
            self._transport.shutdown()

    def connection_lost(self, error: Exception | None) -> None:
        """The socket has been closed; nothing more can happen."""
        self._opening = None
        self._cancel_alarm()
        if self._stage is not ENDED:
            self._advance(ENDED)
        self._end(ConnectionBroken, ABNORMAL, str(error) if error else "")
        self._server.connection_gone(self._transport)
