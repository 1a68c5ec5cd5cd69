"""
Messages on their way to members: what they are, and how they travel.

A ``Broadcast`` is made once per send and holds its payload in the form in
which it stays: text, bytes, or a packed event. Members ask it for the encoding
of their own protocol, which is computed once per process and cached.

Events carry what MessagePack carries (``None``, bool, int of 64 bits, float,
str, bytes, list, dict) plus datetime, Decimal and UUID, and nothing else. A
packed event is a copy: changing the dict after the send changes nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from ..errors import MessageTooLarge
from ..net.backlog import NO_TOPIC, Backlog, SharedFrame
from ..options import MIB

#: Largest message that a layer carries, in bytes of its encoded payload.
MAX_MESSAGE = 1 * MIB

#: First byte of every message between processes; others are not ours.
VERSION = 1

# Application codes of MessagePack extension types.
EXT_DATETIME, EXT_DECIMAL, EXT_UUID = 1, 2, 3

_PLAIN = (str, int, float, bool, bytes, type(None))


class Kind(enum.IntEnum):
    """What a broadcast carries."""

    TEXT = 1
    BINARY = 2
    EVENT = 3
    CLOSE = 4


class Broadcast:
    """
    One message to all members of a group, or to one channel.

    Attributes:
        kind: What it is.
        payload: The text, the bytes, or the packed event.
        size: Bytes of the payload when encoded.
        encodings: What ``encoded`` has computed, by function.
        topic: Where it was sent, once a layer has taken it: a newer message of the
            same topic may replace it at a slow member.
        backlog: Counts the frames made of it, once a layer has taken it.

    """

    __slots__ = ("backlog", "encodings", "kind", "payload", "size", "topic")

    def __init__(self, kind: Kind, payload: str | bytes) -> None:
        self.kind = kind
        self.payload = payload
        size = len(payload)
        if type(payload) is str and not payload.isascii():
            size = len(payload.encode())
        if size > MAX_MESSAGE:
            raise MessageTooLarge(size, MAX_MESSAGE)
        self.size = size
        self.encodings: dict[object, Any] = {}
        self.topic = NO_TOPIC
        self.backlog: Backlog | None = None

    def encoded(self, encode: Callable[[Any], Any]) -> Any:
        """Return ``encode(payload)``, computed once for each function."""
        try:
            return self.encodings[encode]
        except KeyError:
            return self.keep(encode, encode(self.payload))

    def keep(self, encode: object, result: Any) -> Any:
        """Return what ``encode`` made, kept for those who ask for the same."""
        self.encodings[encode] = result
        if type(result) is SharedFrame:
            result.topic = self.topic
            if self.backlog is not None:
                self.backlog.hold(result)
        return result

    def event(self) -> dict[str, Any]:
        """Return the event that it carries: a new one at each call."""
        pattern = self.encoded(_plain_event)
        if pattern is None:
            return unpack_event(self.payload)  # type: ignore[arg-type]
        event: dict[str, Any] = pattern.copy()
        return event


def make_broadcast(message: object) -> Broadcast:
    """
    Return the broadcast of a str, bytes or event; what it holds is a copy.

    Raises:
        ValueError: For a dict without "type".
        TypeError: For anything else that does not travel.
        MessageTooLarge: Above 1 MiB.

    """
    if isinstance(message, str):
        return Broadcast(Kind.TEXT, str(message))
    if isinstance(message, bytes | bytearray | memoryview):
        return Broadcast(Kind.BINARY, bytes(message))
    if isinstance(message, dict):
        if not isinstance(message.get("type"), str):
            raise ValueError(
                'an event needs a "type" (str); to send JSON use send_json'
            )
        return Broadcast(Kind.EVENT, pack_event(message))
    raise TypeError(
        f"cannot send {type(message).__name__}: str, bytes or an event (a dict"
        ' with "type")'
    )


def make_close(code: int, reason: str) -> Broadcast:
    """Return the broadcast that closes sockets with ``code`` and ``reason``."""
    return Broadcast(Kind.CLOSE, msgspec.msgpack.encode([code, reason]))


def read_close(payload: bytes) -> tuple[int, str]:
    """Return code and reason of a CLOSE broadcast's payload."""
    code, reason = msgspec.msgpack.decode(payload, type=tuple[int, str])
    return code, reason


def pack_event(event: dict[str, Any]) -> bytes:
    """
    Return ``event`` as MessagePack.

    Raises:
        TypeError: If it holds something that does not travel.

    """
    try:
        return msgspec.msgpack.encode(_portable(event))
    except (OverflowError, RecursionError, UnicodeEncodeError) as error:
        raise TypeError(f"an event cannot carry this: {error}") from error


def unpack_event(payload: bytes) -> dict[str, Any]:
    """Return the event in ``payload``: a new dict at each call."""
    event: dict[str, Any] = _decoder.decode(payload)
    return event


def _plain_event(payload: bytes) -> dict[str, Any] | None:
    """Return an event to be copied, which is cheaper, if nothing in it can change."""
    event = unpack_event(payload)
    nested = any(type(each) in (dict, list) for each in event.values())
    return None if nested else event


def encode_message(
    broadcast: Broadcast, *, exclude: str = "", epoch: int = 0, number: int = 0
) -> bytes:
    """
    Return ``broadcast`` as it travels between processes.

    Args:
        exclude: Channel name of the member that does not get it.
        epoch: Of the publisher's numbers for this topic.
        number: Of this message among them.

    """
    return msgspec.msgpack.encode(
        (VERSION, int(broadcast.kind), epoch, number, exclude, broadcast.payload)
    )


def decode_message(data: bytes) -> tuple[Broadcast, str, int, int]:
    """
    Return broadcast, exclude, epoch and number of a message.

    Raises:
        ValueError: If it is not a message of ours.

    """
    try:
        version, kind, epoch, number, exclude, payload = msgspec.msgpack.decode(
            data, type=tuple[int, int, int, int, str, msgspec.Raw]
        )
        if version != VERSION:
            raise ValueError(f"unknown version {version}")
        form: type[str] | type[bytes] = str if kind == Kind.TEXT else bytes
        content = msgspec.msgpack.decode(payload, type=form)
        return Broadcast(Kind(kind), content), exclude, epoch, number
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a message of ours: {error}") from error


def _portable(value: Any) -> Any:
    """Return ``value`` with the types that MessagePack lacks as extensions."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, dict):
        return {_portable_key(k): _portable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(item) for item in value]
    if isinstance(value, datetime):
        return msgspec.msgpack.Ext(EXT_DATETIME, value.isoformat().encode())
    if isinstance(value, Decimal):
        return msgspec.msgpack.Ext(EXT_DECIMAL, str(value).encode())
    if isinstance(value, UUID):
        return msgspec.msgpack.Ext(EXT_UUID, value.bytes)
    return _plain_copy(value)


def _plain_copy(value: Any) -> Any:
    """Return instances of subclasses (an IntEnum, a lazy str) as what they are."""
    for plain in (str, int, float):
        if isinstance(value, plain):
            return plain(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise TypeError(f"an event cannot carry {type(value).__name__}")


def _portable_key(key: Any) -> Any:
    if isinstance(key, str | int | bytes):
        return _portable(key)
    raise TypeError(f"an event cannot have {type(key).__name__} as a key")


def _read_extension(code: int, data: memoryview) -> Any:
    if code == EXT_DATETIME:
        return datetime.fromisoformat(str(data, "ascii"))
    if code == EXT_DECIMAL:
        return Decimal(str(data, "ascii"))
    if code == EXT_UUID:
        return UUID(bytes=bytes(data))
    raise ValueError(f"unknown extension type {code}")


_decoder = msgspec.msgpack.Decoder(ext_hook=_read_extension)
