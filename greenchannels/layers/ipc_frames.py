"""
What two processes of ``ipc://`` say to each other: bytes in, frames out, and back.

A frame is the length of its body (4 bytes, big-endian), its kind (1 byte) and the
body: MessagePack, but for a message, which is its topic's length (2 bytes), topic
and data. It knows no socket and no layer.
"""

from __future__ import annotations

import enum
import struct
from typing import TypeVar

import msgspec

#: What both sides must speak to understand each other.
VERSION = 1

#: Longest body, in bytes: a message of 1 MiB, its topic and its envelope.
MAX_BODY = 2 * 1024 * 1024

#: Topics in one frame; more are told in several.
MAX_TOPICS = 1000

_HEAD = struct.Struct(">IB")
_LENGTH = struct.Struct(">H")

T = TypeVar("T")


class Kind(enum.IntEnum):
    """What a frame says."""

    #: ``(version, name)``: the first frame of the one who dials, and of the answer.
    HELLO = 1
    #: Why there will be no link.
    REFUSED = 2
    #: ``(number, topics)``: send me these from now on, and say so.
    WANT = 3
    #: Topics: send me these no more.
    UNWANT = 4
    #: ``(number, note)``: what you wanted by this number you get from now on.
    ACK = 5
    #: All topics that I wanted before there was this link have been told.
    READY = 6
    #: A message of a topic.
    MESSAGE = 7


class FrameError(ValueError):
    """The bytes are no frames."""


class FrameReader:
    """Cut a stream of bytes into frames."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._needed = _HEAD.size

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """
        Return kind and body of each frame that ``data`` completes.

        Raises:
            FrameError: If a body would be longer than ``MAX_BODY``.

        """
        kept = self._kept
        if kept:
            kept += data
            if len(kept) < self._needed:
                return []
            data = bytes(kept)
            kept.clear()
        frames, start = self._cut(data)
        if start < len(data):
            kept += memoryview(data)[start:]
        return frames

    def _cut(self, data: bytes) -> tuple[list[tuple[int, bytes]], int]:
        """Return the whole frames of ``data``, and where the rest begins."""
        frames: list[tuple[int, bytes]] = []
        start, end = 0, len(data)
        while end - start >= _HEAD.size:
            length, kind = _HEAD.unpack_from(data, start)
            if length > MAX_BODY:
                raise FrameError(f"a frame of {length} bytes")
            body = start + _HEAD.size
            if end - body < length:
                self._needed = _HEAD.size + length
                return frames, start
            start = body + length
            frames.append((kind, data[body:start]))
        self._needed = _HEAD.size
        return frames, start


def encode_frame(kind: Kind, body: object) -> bytes:
    """Return a frame of any kind but MESSAGE."""
    packed = msgspec.msgpack.encode(body)
    return _HEAD.pack(len(packed), kind) + packed


def encode_message(topic: str, data: bytes) -> bytes:
    """Return the frame of a message."""
    name = topic.encode()
    length = _LENGTH.size + len(name) + len(data)
    head = _HEAD.pack(length, Kind.MESSAGE)
    return b"".join((head, _LENGTH.pack(len(name)), name, data))


def is_message(frame: bytes) -> bool:
    """Say whether a whole frame is a MESSAGE."""
    return frame[_HEAD.size - 1] == Kind.MESSAGE


def read_body(body: bytes, form: type[T]) -> T:
    """
    Return what a frame's body holds.

    Raises:
        FrameError: If it is not of that form.

    """
    try:
        return msgspec.msgpack.decode(body, type=form)
    except msgspec.MsgspecError as error:
        raise FrameError(f"a frame that says nothing: {error}") from error


def read_message(body: bytes) -> tuple[str, bytes]:
    """
    Return topic and data of a MESSAGE.

    Raises:
        FrameError: If the topic is not whole, or no UTF-8.

    """
    try:
        (length,) = _LENGTH.unpack_from(body)
        end = _LENGTH.size + length
        if end > len(body):
            raise FrameError("a message without its topic")
        return body[_LENGTH.size : end].decode(), body[end:]
    except (struct.error, UnicodeDecodeError) as error:
        raise FrameError(f"a message without its topic: {error}") from error
