"""
Compressed messages, into frames and out of payloads (RFC 7692, sections 6 and 7.2).

Inflating stops at the limit of a message, while it inflates, so that a bomb is never
held. A payload that was cut is found out, although zlib would wait for more of it.
"""

from __future__ import annotations

import functools
import sys
import zlib
from collections.abc import Callable
from typing import TypeAlias

from ..errors import RemoteProtocolError
from .frames import INVALID_TEXT, TOO_BIG, TOO_BIG_REASON, encode, encode_deflated

Data: TypeAlias = str | bytes | bytearray | memoryview

#: What a sender takes off the end of a message, and the receiver puts back (7.2.1).
_TAIL = b"\x00\x00\xff\xff"

#: A last, empty block: the inflater accepts it only between two blocks.
_LAST = b"\x03\x00"

#: A message may have some final blocks (section 7.2.1); each makes a new inflater.
MAX_FINAL_BLOCKS = 16

#: zlib cannot deflate with a window of 256 bytes. With 512 it looks back no further
#: than 512 - 262, which is less than 256.
_LEAST_BITS = 9

#: As zlib has them: bytes that it wants ahead of a match, its default for memory.
_LOOKAHEAD, _MEMORY_LEVEL = 262, 8

#: Least level of memory, for messages below 2 KiB: less would save no time.
_LEAST_MEMORY_LEVEL = 5


class Codec:
    """
    Messages of connections that begin each of them anew.

    Args:
        level: zlib's, from 1 to 9.
        min_size: Length from which on a message is worth compressing.
        bits: Size of our window, from 8 to 15.
        their_bits: Size of the peer's.

    Attributes:
        min_size: Length from which on a message is worth compressing.
        encode: Returns a message as one frame. For a ``str`` it is text.
        encode_shared: The same for a frame that any connections may be sent whose
            codec has the same function here.
        inflate: Returns what a payload holds, given the most bytes it may be.

    """

    __slots__ = ("encode", "encode_shared", "inflate", "min_size")

    def __init__(self, level: int, min_size: int, bits: int, their_bits: int) -> None:
        self.min_size = min_size
        self.encode_shared = _shared_encoder(level, bits)
        self.encode: Callable[[Data], bytes] = self.encode_shared
        self.inflate: Callable[[bytes, int], bytes] = _shared_inflater(their_bits)

    def forget(self) -> None:
        """Begin the next message anew, since the peer gets what is not known here."""


class ContextCodec(Codec):
    """
    Messages of one connection in which one or both sides take over their context.

    ``encode_shared`` frames are not part of our context, and may be dropped on
    their way: after each of them ``forget`` must be called.

    Args:
        level: See ``Codec``, as the next three.
        min_size: See there.
        bits: See there.
        their_bits: See there.
        ours: Whether our messages may refer to earlier ones.
        theirs: Whether the peer's may.

    """

    __slots__ = ("_bits", "_deflater", "_inflater", "_level", "_their_bits")

    def __init__(
        self,
        level: int,
        min_size: int,
        bits: int,
        their_bits: int,
        *,
        ours: bool,
        theirs: bool,
    ) -> None:
        super().__init__(level, min_size, bits, their_bits)
        self._level = level
        self._bits = bits
        self._their_bits = their_bits
        self._deflater: zlib._Compress | None = None
        self._inflater: zlib._Decompress | None = None
        if ours:
            self.encode = self._encode
        if theirs:
            self.inflate = self._inflate

    def forget(self) -> None:
        """See ``Codec.forget``."""
        self._deflater = None

    def _encode(self, data: Data) -> bytes:
        """Return a frame; always compressed, since the context must go on."""
        is_text, payload = _payload_of(data)
        if self._deflater is None:
            self._deflater = _deflater(self._level, self._bits, _MEMORY_LEVEL)
        return encode_deflated(is_text, _deflate(self._deflater, payload))

    def _inflate(self, payload: bytes, limit: int) -> bytes:
        inflater = self._inflater or zlib.decompressobj(-self._their_bits)
        try:
            data, inflater = _inflate_blocks(inflater, self._their_bits, payload, limit)
            # What ends a stream ends its inflater, hence the copy.
            complete = not payload or not inflater.decompress(_TAIL, 1)
            complete = complete and _is_between_blocks(inflater.copy())
        except zlib.error:
            complete = False
        if not complete:
            raise _malformed()
        self._inflater = inflater
        return data


@functools.cache
def _shared_encoder(level: int, bits: int) -> Callable[[Data], bytes]:
    return functools.partial(encode_alone, level, bits)


@functools.cache
def _shared_inflater(bits: int) -> Callable[[bytes, int], bytes]:
    return functools.partial(inflate_alone, bits)


def encode_alone(level: int, bits: int, data: Data) -> bytes:
    """
    Return a message as one frame that needs no other; plain if that is not longer.

    State is made for the message's size: zlib's usual 256 KiB take ten times as long
    to get as 1 KiB takes to compress.

    Args:
        level: zlib's, from 1 to 9.
        bits: Size of the window, from 8 to 15.
        data: The message; text if it is a ``str``.

    """
    is_text, payload = _payload_of(data)
    size = len(payload)
    bits = min(bits, (size + _LOOKAHEAD).bit_length())
    memory = min(max(size.bit_length() - 6, _LEAST_MEMORY_LEVEL), _MEMORY_LEVEL)
    deflated = _deflate(_deflater(level, bits, memory), payload)
    return encode_deflated(is_text, deflated) if len(deflated) < size else encode(data)


def inflate_alone(bits: int, payload: bytes, limit: int) -> bytes:
    """
    Return what the payload of a message holds that needs no other (section 7.2.2).

    Args:
        bits: Size of the window, from 8 to 15.
        payload: Of all its frames.
        limit: The most bytes that it may inflate to.

    Raises:
        RemoteProtocolError: 1007 if it is malformed, 1009 if it is too big.

    """
    inflater = zlib.decompressobj(-bits)
    try:
        data, inflater = _inflate_blocks(inflater, bits, payload, limit)
        complete = not payload or _is_between_blocks(inflater, _TAIL)
    except zlib.error:
        complete = False
    if not complete:
        raise _malformed()
    return data


def _malformed() -> RemoteProtocolError:
    return RemoteProtocolError("compressed data is malformed", INVALID_TEXT)


def _payload_of(data: Data) -> tuple[bool, bytes]:
    """Return whether a message is text, and its bytes."""
    return (True, data.encode()) if isinstance(data, str) else (False, bytes(data))


def _deflater(level: int, bits: int, memory: int) -> zlib._Compress:
    return zlib.compressobj(level, zlib.DEFLATED, -max(bits, _LEAST_BITS), memory)


def _deflate(deflater: zlib._Compress, payload: bytes) -> bytes:
    """Return a message's payload, compressed (section 7.2.1)."""
    whole = deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH)
    # zlib says nothing at all when it is flushed twice: an empty block is meant.
    return whole[: -len(_TAIL)] or b"\x00"


def _inflate_blocks(
    inflater: zlib._Decompress, bits: int, payload: bytes, limit: int
) -> tuple[bytes, zlib._Decompress]:
    """
    Return what a payload holds, and what inflates the next block.

    A final block is followed by another stream, which may refer to what was before
    it; here only within the message. Senders that leave out the empty block which
    ends a message after a final one (section 7.2.3.4) are forgiven.
    """
    data, rest = b"", payload
    limit = min(limit, sys.maxsize - 1)
    for _ in range(MAX_FINAL_BLOCKS):
        data += inflater.decompress(rest, limit + 1 - len(data))
        if len(data) > limit:
            raise RemoteProtocolError(TOO_BIG_REASON, TOO_BIG)
        if not inflater.eof:
            return data, inflater
        rest = inflater.unused_data or b"\x00"
        inflater = zlib.decompressobj(-bits, data[-(1 << bits) :])
    raise _malformed()


def _is_between_blocks(inflater: zlib._Decompress, ahead: bytes = b"") -> bool:
    """
    Tell whether an inflater stands between two blocks, and end it.

    A message that was cut would make data of what is fed ``ahead``, or go on waiting.
    """
    more = inflater.decompress(ahead + _LAST, 1)
    return not more and inflater.eof and not inflater.unused_data
