"""
One WebSocket connection after its handshake, in the server's role (RFC 6455).

``frames.py`` turns bytes into messages and control frames; this module knows what
control frames mean (section 5.5) and in which order the two ends close (section
7). It does no I/O: the caller feeds ``decode``, asks for ``control_events`` when
``controls`` or ``error`` is set, writes what ``data_to_send`` returns, and closes
the transport when ``state`` says so.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias

from ..errors import LocalProtocolError, RemoteProtocolError
from .deflate import Parameters
from .deflate_codec import Codec
from .frames import (
    CLOSE,
    MAX_CONTROL,
    PING,
    PONG,
    FrameDecoder,
    Opcode,
    encode_control,
)

#: The close frame had no code (section 7.4.1); never on the wire.
NO_STATUS = 1005

#: Longest reason of a close frame, in bytes of UTF-8 (section 5.5).
MAX_REASON = MAX_CONTROL - 2

#: The headers of pongs, by the size of what they carry.
PONG_HEADERS = [bytes((0x80 | PONG, size)) for size in range(MAX_CONTROL + 1)]


class State(enum.StrEnum):
    """Where a connection is in its life (section 7.1)."""

    OPEN = "open"
    #: Our close frame has been sent, the peer's is awaited.
    CLOSING = "closing"
    #: Close frames were exchanged.
    CLOSED = "closed"
    #: The peer broke a rule; our close frame has been sent, nothing is awaited.
    FAILED = "failed"


class Step(enum.StrEnum):
    """What moves a connection on."""

    CLOSE_SENT = "close sent"
    CLOSE_RECEIVED = "close received"
    RULE_BROKEN = "rule broken"


#: What may happen in each state, and where it leads. A close frame received in
#: OPEN is answered at once, which completes the exchange.
NEXT_STATE: dict[State, dict[Step, State]] = {
    State.OPEN: {
        Step.CLOSE_SENT: State.CLOSING,
        Step.CLOSE_RECEIVED: State.CLOSED,
        Step.RULE_BROKEN: State.FAILED,
    },
    State.CLOSING: {
        Step.CLOSE_RECEIVED: State.CLOSED,
        Step.RULE_BROKEN: State.FAILED,
    },
    State.CLOSED: {},
    State.FAILED: {},
}


@dataclass(frozen=True, slots=True)
class Pong:
    """A pong came, asked for or not; of several that came together the last."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class CloseReceived:
    """The peer's close frame came; 1005 if it had no code."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The peer broke a rule and has been told so."""

    error: RemoteProtocolError


Event: TypeAlias = Pong | CloseReceived | Failed


class WebSocketProtocol(FrameDecoder):
    """
    Bytes of one connection in, messages and events out, and back.

    Args:
        max_message: Longest message in bytes, also inflated; ``None``: no limit.
        parameters: What was negotiated for compression; ``None``: nothing.

    Attributes:
        codec: What compresses messages to be sent, ``None`` if nothing may.
        state: Where the connection is in its life. To be read only.
        close_sent: Code and reason of our close frame, ``None`` before it.
        close_received: Code and reason of the peer's, ``None`` before it.

    """

    __slots__ = ("_output", "close_received", "close_sent", "codec", "state")

    def __init__(
        self, max_message: int | None, parameters: Parameters | None = None
    ) -> None:
        self.codec: Codec | None = None
        if parameters is None:
            super().__init__(max_message)
        else:
            self.codec = parameters.codec()
            super().__init__(max_message, True, self.codec.inflate)
        self.state = State.OPEN
        self.close_sent: tuple[int, str] | None = None
        self.close_received: tuple[int, str] | None = None
        self._output = b""

    def control_events(self) -> list[Event]:
        """
        Take what ``controls`` and ``error`` hold; return what it means.

        Answers to pings and to a close frame, and the close frame that a broken
        rule asks for, are queued for ``data_to_send``. Pings are no events: while
        the connection is open they are answered, and that is all there is to them.
        """
        events: list[Event] = []
        controls, self.controls = self.controls, None
        if controls:
            pong = self._take_pings(controls)
            if pong is not None:
                events.append(Pong(pong))
            opcode, payload = controls[-1]
            if opcode == CLOSE:  # nothing is decoded behind it
                events.append(self._receive_close(payload))
        if self.error is not None and self.state is not State.FAILED:
            events.append(self._fail(self.error))
        return events

    def data_to_send(self) -> bytes:
        """Return the queued answers, as bytes for the wire, and forget them."""
        output, self._output = self._output, b""
        return output

    def close(self, code: int = 1000, reason: str = "") -> bytes:
        """
        Return our close frame, or ``b""`` if none may be sent any more.

        Raises:
            LocalProtocolError: If the code may not be sent (section 7.4) or the
                reason is over 123 bytes of UTF-8.

        """
        if not may_be_sent(code):
            raise LocalProtocolError(f"close code {code} may not be sent", 1011)
        if len(reason.encode()) > MAX_REASON:
            raise LocalProtocolError(
                f"a close reason has at most {MAX_REASON} bytes", 1011
            )
        if self.state is not State.OPEN:
            return b""
        self._advance(Step.CLOSE_SENT)
        if self.inflate is not None:
            self.inflate = _discard  # nobody receives what comes now
        return self._encode_close(code, reason)

    def ping(self, payload: bytes = b"") -> bytes:
        """
        Return a ping, or ``b""`` if none may be sent any more.

        Raises:
            LocalProtocolError: If the payload is over 125 bytes.

        """
        frame = encode_control(Opcode.PING, payload)
        return frame if self.state is State.OPEN else b""

    def _advance(self, step: Step) -> None:
        """Move to the state that ``step`` leads to. The only writer of ``state``."""
        self.state = NEXT_STATE[self.state][step]

    def _take_pings(self, controls: list[tuple[int, bytes]]) -> bytes | None:
        """
        Answer the pings; return the payload of the last pong, if there is any.

        There may be tens of thousands in one read.
        """
        answers, pong = [], None
        for opcode, payload in controls:
            if opcode == PING:
                answers.append(PONG_HEADERS[len(payload)] + payload)
            elif opcode == PONG:
                pong = payload
        if self.state is State.OPEN:
            self._output += b"".join(answers)
        return pong

    def _receive_close(self, payload: bytes) -> Event:
        """Take the peer's close frame and answer it if ours was not sent yet."""
        try:
            code, reason = read_close(payload)
        except RemoteProtocolError as error:
            return self._fail(error)
        self.close_received = code, reason
        if self.state is State.OPEN:
            self._output += self._encode_close(code, "")
        self._advance(Step.CLOSE_RECEIVED)
        return CloseReceived(code, reason)

    def _fail(self, error: RemoteProtocolError) -> Failed:
        """Tell the peer that it broke a rule (section 7.1.7)."""
        if self.state is State.OPEN:
            self._output += self._encode_close(error.hint, error.reason)
        self._advance(Step.RULE_BROKEN)
        return Failed(error)

    def _encode_close(self, code: int, reason: str) -> bytes:
        """Return our close frame and note what it says."""
        self.close_sent = code, reason
        if code == NO_STATUS:
            return encode_control(Opcode.CLOSE)
        return encode_control(Opcode.CLOSE, code.to_bytes(2, "big") + reason.encode())


def _discard(payload: bytes, limit: int) -> bytes:
    """Inflate nothing: a peer could fill the memory while its close is awaited."""
    return b""


def may_be_sent(code: int) -> bool:
    """
    Tell whether a close frame may carry ``code`` (section 7.4).

    1012 to 1014 are not in the RFC but in IANA's registry.
    """
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def read_close(payload: bytes) -> tuple[int, str]:
    """
    Return the code and reason of a close frame (sections 5.5.1 and 7.4).

    Raises:
        RemoteProtocolError: If the payload is one byte long, the code may not
            be sent, or the reason is not UTF-8.

    """
    if not payload:
        return NO_STATUS, ""
    if len(payload) == 1:
        raise RemoteProtocolError("close frame has half a code", 1002)
    code = int.from_bytes(payload[:2], "big")
    if not may_be_sent(code):
        raise RemoteProtocolError("close frame has a forbidden code", 1002)
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise RemoteProtocolError("close reason is not valid UTF-8", 1007) from None
