"""
WebSocket frames: bytes in, messages out, and back (RFC 6455, section 5).

``FrameDecoder``, ``encode`` and ``apply_mask`` exist twice: in pure Python here
and in C in ``_speedups.c``, which takes their names when it has been built. Both
behave the same, down to the texts of the errors; the tests compare them.

Frames know control frames but not their meaning: that is in ``websocket.py``.
Neither do they know how to inflate a message: a function for it is given to the
decoder, and with it the first reserved bit of messages is allowed (RFC 7692,
section 6). Like all of ``wire/``, no I/O, no clock, no hub.
"""

from __future__ import annotations

import codecs
import enum
from typing import TYPE_CHECKING

from ..errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer


__all__ = [
    "BINARY",
    "CLOSE",
    "CONT",
    "INVALID_TEXT",
    "MAX_CONTROL",
    "MAX_EMPTY",
    "MAX_HEADER",
    "PING",
    "POLICY_VIOLATION",
    "PONG",
    "PROTOCOL_ERROR",
    "TEXT",
    "TOO_BIG",
    "TOO_BIG_REASON",
    "FrameDecoder",
    "Opcode",
    "PureFrameDecoder",
    "apply_mask",
    "encode",
    "encode_control",
    "encode_deflated",
    "encode_masked",
    "pure_apply_mask",
    "pure_encode",
]


class Opcode(enum.IntEnum):
    """What a frame is (section 5.2)."""

    CONT = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


CONT, TEXT, BINARY, CLOSE, PING, PONG = map(int, Opcode)

#: Longest header: start, 64-bit length and key, in bytes (section 5.2).
MAX_HEADER = 14

#: Longest payload of a control frame, in bytes (section 5.5).
MAX_CONTROL = 125

#: Empty fragments, one behind the other, that a message may have before its last. No
#: limit on bytes or messages sees them, and a peer could send them for ever.
MAX_EMPTY = 1000

#: Close codes that this module fails with (section 7.4.1).
PROTOCOL_ERROR, INVALID_TEXT, POLICY_VIOLATION, TOO_BIG = 1002, 1007, 1008, 1009

#: What a peer is told that sent too much.
TOO_BIG_REASON = "message is too big"

#: The bit that marks a compressed message (RFC 7692, section 6).
_RSV1 = 0x40

_BAD_TEXT = "text is not valid UTF-8"
_TOO_MANY_EMPTY = "too many empty fragments"
_new_validator = codecs.getincrementaldecoder("utf-8")


def pure_apply_mask(data: Buffer, key: Buffer, /) -> bytes:
    """
    Return ``data`` masked, or unmasked, with ``key`` (section 5.3).

    Args:
        data: The payload.
        key: Four bytes.

    Raises:
        ValueError: If ``key`` has another length.

    """
    data, key = memoryview(data), bytes(key)
    if len(key) != 4:
        raise ValueError(f"a key has 4 bytes, not {len(key)}")
    size = data.nbytes
    whole = int.from_bytes((key * (size // 4 + 1))[:size], "little")
    return (int.from_bytes(data, "little") ^ whole).to_bytes(size, "little")


def pure_encode(data: str | bytes | bytearray | memoryview, /) -> bytes:
    """
    Return ``data`` as one unmasked frame: text for a ``str``, else binary.

    Raises:
        TypeError: If it is neither text nor bytes.
        UnicodeEncodeError: If it has lone surrogates, which UTF-8 cannot hold.

    """
    if isinstance(data, str):
        payload = data.encode()
        return _header(0x80 | TEXT, len(payload)) + payload
    if isinstance(data, (bytes, bytearray, memoryview)):
        payload = bytes(data)
        return _header(0x80 | BINARY, len(payload)) + payload
    raise TypeError(
        f"a message is str, bytes, bytearray or memoryview, not {type(data).__name__}"
        " (send_json() sends what JSON can hold)"
    )


def encode_deflated(is_text: bool, payload: bytes) -> bytes:
    """
    Return what is compressed already as one unmasked frame (RFC 7692, section 6.1).

    Args:
        is_text: Whether it was text.
        payload: What it has become.

    """
    return _header(0x80 | _RSV1 | (TEXT if is_text else BINARY), len(payload)) + payload


def encode_control(opcode: int, payload: bytes = b"") -> bytes:
    """
    Return an unmasked control frame (section 5.5).

    Raises:
        LocalProtocolError: If the payload is over 125 bytes.
        ValueError: If ``opcode`` is not that of a control frame.

    """
    if opcode not in (CLOSE, PING, PONG):
        raise ValueError(f"opcode {opcode} is not that of a control frame")
    if len(payload) > MAX_CONTROL:
        raise LocalProtocolError(
            f"a control frame carries at most {MAX_CONTROL} bytes", 1011
        )
    return bytes((0x80 | opcode, len(payload))) + payload


def encode_masked(
    opcode: int, payload: bytes, key: bytes, *, fin: bool = True, rsv: int = 0
) -> bytes:
    """
    Return a masked frame, as clients send them; breaking rules is not checked.

    Args:
        opcode: What the frame is.
        payload: Its payload, before masking.
        key: Four bytes.
        fin: Whether it is the last of its message.
        rsv: The three reserved bits, as a number from 0 to 7.

    """
    start = fin << 7 | rsv << 4 | opcode
    header = _header(start, len(payload), masked=True)
    return header + key + apply_mask(payload, key)


def _header(start: int, size: int, *, masked: bool = False) -> bytes:
    """Return a header without a key, its length in the shortest form."""
    bit = masked << 7
    if size <= 125:
        return bytes((start, bit | size))
    if size <= 0xFFFF:
        return bytes((start, bit | 126)) + size.to_bytes(2, "big")
    return bytes((start, bit | 127)) + size.to_bytes(8, "big")


def _check_text(
    validator: codecs.IncrementalDecoder, data: bytes, complete: bool
) -> None:
    """Check the next bytes of a text; whether they are wrong is said at once."""
    try:
        validator.decode(data, complete)
    except UnicodeDecodeError:
        raise RemoteProtocolError(_BAD_TEXT, INVALID_TEXT) from None
    # Python waits for the third byte of a surrogate, in case they are allowed.
    if b"\xed\xa0" <= validator.getstate()[0] < b"\xee":
        raise RemoteProtocolError(_BAD_TEXT, INVALID_TEXT)


class PureFrameDecoder:
    """
    Turn bytes, however they are cut, into messages and control frames.

    Text is checked as it arrives, and memory grows with what has arrived, never
    by what a header announces. An idle decoder holds no buffers.

    Args:
        max_message: Longest message, all its fragments together, in bytes
            (1009 beyond, as soon as a header announces it); ``None``: no limit.
        masked: Whether the peer must mask (it is a client) or must not.
        inflate: Returns what a compressed payload holds, given the payload and the
            most bytes it may be; raises ``RemoteProtocolError``. ``None``: messages
            may not be compressed. On the wire a compressed message may be longer
            than ``max_message`` by an eighth and 64 bytes, because what does not
            compress grows.

    Attributes:
        inflate: That function.
        controls: ``None``, or the control frames met since the caller last set
            it to ``None``, in order, as ``(opcode, payload)``.
        error: ``None``, or how the peer broke a rule; ``hint`` is the close
            code to answer. To be read only.
        decoded_bytes: Payload, in bytes of UTF-8 and inflated, of the messages
            that the last ``decode`` returned. To be read only.

    """

    __slots__ = (
        "_compressed",
        "_empty",
        "_fin",
        "_head",
        "_in_frame",
        "_key",
        "_masked",
        "_max_message",
        "_message",
        "_message_opcode",
        "_opcode",
        "_over",
        "_partial",
        "_position",
        "_remaining",
        "_rest",
        "_validator",
        "controls",
        "decoded_bytes",
        "error",
        "inflate",
    )

    def __init__(
        self,
        max_message: int | None,
        masked: bool = True,
        inflate: Callable[[bytes, int], bytes] | None = None,
    ) -> None:
        if max_message is not None and max_message < 0:
            raise ValueError("max_message must not be negative")
        self.inflate = inflate
        self.controls: list[tuple[int, bytes]] | None = None
        self.error: RemoteProtocolError | None = None
        self.decoded_bytes = 0
        self._max_message = 2**63 - 1 if max_message is None else max_message
        self._masked = masked
        self._over = False
        self._rest = b""  # input; what is before _position has been used up
        self._position = 0
        self._head = b""  # an incomplete header
        self._in_frame = False
        self._fin = False
        self._opcode = CONT
        self._key = b""
        self._remaining = 0  # payload of the current frame still to come
        self._partial: bytearray | None = None  # payload of a control frame
        self._message: bytearray | None = None  # payload of earlier frames
        self._message_opcode = CONT  # within a message TEXT or BINARY
        self._compressed = False  # the message that has begun last
        self._empty = 0  # the latest fragments, as far as they hold nothing
        self._validator: codecs.IncrementalDecoder | None = None

    @property
    def buffered(self) -> int:
        """
        Bytes of input that a limit left undecoded.

        The bytes of a header or message that is merely incomplete do not count:
        they have been decoded, as far as they go.
        """
        return len(self._rest) - self._position

    @property
    def pending(self) -> bool:
        """Whether ``decode(b"", 0, ...)`` has something to go on with."""
        return self.buffered > 0

    def decode(
        self, buffer: Buffer, size: int, max_messages: int, max_bytes: int, /
    ) -> list[str | bytes]:
        """
        Take the first ``size`` bytes of ``buffer``; return the complete messages.

        Never raises for what a peer sends: if that breaks a rule, ``error`` is
        set, the messages before it are returned, and all later input is ignored,
        as it is after a close frame. Nothing of ``buffer`` is kept by reference.

        Args:
            buffer: Any contiguous buffer.
            size: How many bytes of it are input.
            max_messages: Stop when so many messages are returned ...
            max_bytes: ... or when their payload has so many bytes. The rest of
                the input stays undecoded (``pending``); new input goes behind it.

        """
        if not 0 <= size <= memoryview(buffer).nbytes:
            raise ValueError("size is not within the buffer")
        messages: list[str | bytes] = []
        self.decoded_bytes = 0
        if size and not self._over:
            new = bytes(memoryview(buffer).cast("B")[:size])
            self._rest = self._rest[self._position :] + new
            self._position = 0
        try:
            while (
                self._position < len(self._rest)
                and len(messages) < max_messages
                and self.decoded_bytes < max_bytes
            ):
                if self._in_frame or self._read_header():
                    self._read_payload(messages)
        except RemoteProtocolError as error:
            # Without the frames that it passed, and what they hold.
            self.error = error.with_traceback(None)
            self._stop()
        if self._position == len(self._rest):
            self._rest, self._position = b"", 0
        return messages

    def _stop(self) -> None:
        """Ignore all further input."""
        self._over = True
        self._rest = self._head = b""
        self._position = 0
        self._partial = self._message = self._validator = None

    def _read_header(self) -> bool:
        """Begin a frame if its header is complete."""
        before = len(self._head)
        end = self._position + MAX_HEADER - before
        head = self._head + self._rest[self._position : end]
        size = self._parse_header(head)
        if size is None:
            self._head = head
            self._position = len(self._rest)
            return False
        self._head = b""
        self._position += size - before
        self._in_frame = True
        return self._remaining == 0 or self._position < len(self._rest)

    def _parse_header(self, head: bytes) -> int | None:
        """Return the size of the header that ``head`` begins with, if it does."""
        if len(head) < 2:
            return None
        self._check_start(head[0], head[1])
        size, length = 2, head[1] & 0x7F
        if length >= 126:
            size = 4 if length == 126 else 10
            if len(head) < size:
                return None
            length = int.from_bytes(head[2:size], "big")
            if length < 126 or (size == 10 and length <= 0xFFFF):
                raise RemoteProtocolError("length is not minimal", PROTOCOL_ERROR)
            if length >> 63:
                raise RemoteProtocolError("length has its top bit set", PROTOCOL_ERROR)
        opcode = head[0] & 0x0F
        if opcode < CLOSE:
            self._check_size(head[0], length + len(self._message or b""))
        if self._masked:
            size += 4
            if len(head) < size:
                return None
            self._key = head[size - 4 : size]
        self._fin, self._opcode = head[0] >= 0x80, opcode
        if opcode in (TEXT, BINARY):
            self._compressed = bool(head[0] & _RSV1)
        self._remaining = length
        return size

    def _check_size(self, first: int, size: int) -> None:
        """Check the size of a message's payload so far against the limit."""
        most = self._max_message
        if first & _RSV1 or (self._compressed and first & 0x0F == CONT):
            most += most // 8 + 64
        if size > most:
            raise RemoteProtocolError(TOO_BIG_REASON, TOO_BIG)

    def _check_start(self, first: int, second: int) -> None:
        """Check the first two bytes of a header (section 5.2)."""
        opcode, fin = first & 0x0F, first >= 0x80
        reason = None
        can_be_compressed = self.inflate is not None and opcode in (TEXT, BINARY)
        if first & (0x30 if can_be_compressed else 0x70):
            reason = "reserved bits are set"
        elif opcode & 7 > 2:
            reason = "opcode is reserved"
        elif second >> 7 != self._masked:
            reason = "frame is not masked" if self._masked else "frame is masked"
        elif opcode >= CLOSE and not fin:
            reason = "control frame is fragmented"
        elif opcode >= CLOSE and second & 0x7F > MAX_CONTROL:
            reason = "control frame is too long"
        elif opcode == CONT == self._message_opcode:
            reason = "continuation without a start"
        elif opcode in (TEXT, BINARY) and self._message_opcode != CONT:
            reason = "message within a message"
        if reason is not None:
            raise RemoteProtocolError(reason, PROTOCOL_ERROR)

    def _read_payload(self, messages: list[str | bytes]) -> None:
        """Take what has come of the current frame's payload."""
        start = self._position
        data = self._rest[start : start + self._remaining]
        size = len(data)
        self._position += size
        self._remaining -= size
        if self._masked:
            data = apply_mask(data, self._key)
            turn = size & 3
            self._key = self._key[turn:] + self._key[:turn]
        self._in_frame = self._remaining > 0
        if self._opcode >= CLOSE:
            self._feed_control(data)
        else:
            self._feed_message(data, messages)

    def _feed_control(self, data: bytes) -> None:
        """Take the next bytes of a control frame."""
        if self._partial is None:
            self._partial = bytearray()
        self._partial += data
        if self._in_frame:
            return
        if self.controls is None:
            self.controls = []
        self.controls.append((self._opcode, bytes(self._partial)))
        self._partial = None
        if self._opcode == CLOSE:
            self._stop()

    def _feed_message(self, data: bytes, messages: list[str | bytes]) -> None:
        """Take the next bytes of a message; add it to ``messages`` if complete."""
        if self._message is None:
            self._message = bytearray()
            self._message_opcode = self._opcode
            checked = self._opcode == TEXT and not self._compressed
            self._validator = _new_validator() if checked else None
        self._message += data
        complete = self._fin and not self._in_frame
        self._empty = 0 if data or complete else self._empty + 1
        if self._empty > MAX_EMPTY:
            raise RemoteProtocolError(_TOO_MANY_EMPTY, POLICY_VIOLATION)
        if self._validator is not None:
            _check_text(self._validator, data, complete)
        if complete:
            messages.append(self._take_message())

    def _take_message(self) -> str | bytes:
        """Return the complete message, count it and forget it."""
        message = bytes(self._message or b"")
        is_text = self._message_opcode == TEXT
        self._message = self._validator = None
        self._message_opcode = CONT
        if self._compressed:
            assert self.inflate is not None, "else its first frame is an error"
            message = self.inflate(message, self._max_message)
            if is_text:
                _check_text(_new_validator(), message, True)
        self.decoded_bytes += len(message)
        return message.decode() if is_text else message


if TYPE_CHECKING:
    from ._speedups import FrameDecoder, apply_mask, encode
else:
    try:
        from ._speedups import FrameDecoder, apply_mask, encode
    except ImportError:
        FrameDecoder = PureFrameDecoder
        apply_mask = pure_apply_mask
        encode = pure_encode
