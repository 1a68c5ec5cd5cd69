"""
What an event stream sends: items of its source, and messages of a group, as bytes.

A group's message is encoded once a process: its broadcast keeps the bytes.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ..groups import to_json
from ..layers.codec import Kind, unpack_event
from ..wire.sse import encode_event

#: How each kind of a group's messages is encoded, from its payload.
Encoders: TypeAlias = Mapping[Kind, Callable[[Any], bytes]]


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """
    One event of a stream, with more than its data.

    Args:
        data: A str, or what JSON has a form for; ``None`` for an id or a retry
            alone, which the page does not see.
        event: The name under which ``addEventListener`` hears of it; without one
            it is "message".
        id: What ``Last-Event-ID`` says when the browser comes back.
        retry: Seconds until it does.

    Raises:
        ValueError: If ``event`` or ``id`` holds a line break, or ``id`` NUL.
        TypeError: If JSON has no form for ``data``.

    """

    data: Any = None
    event: str | None = None
    id: str | int | None = None
    retry: float | None = None
    #: The bytes of it.
    encoded: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        encoded = encode_event(
            _to_text(self.data),
            event=self.event,
            event_id=None if self.id is None else str(self.id),
            retry=self.retry,
        )
        object.__setattr__(self, "encoded", encoded)


def encode_item(item: object) -> bytes:
    """
    Return an item of a stream's source as bytes; none for ``None``.

    Raises:
        TypeError: If it is no event.

    """
    if item is None:
        return b""
    if isinstance(item, ServerSentEvent):
        return item.encoded
    if isinstance(item, str | dict | list):
        return encode_event(_to_text(item))
    raise TypeError(
        f"no event is made of {type(item).__name__}: it is a str, a dict or list as"
        " JSON, a ServerSentEvent or None"
    )


def _to_text(data: Any) -> str | None:
    if data is None or isinstance(data, str):
        return data
    if isinstance(data, bytes | bytearray | memoryview):
        raise TypeError("an event's data is text: decode the bytes, or use Base64")
    return to_json(data)


# The messages of groups. The functions are what a broadcast keeps bytes by.


def encode_binary(payload: bytes) -> bytes:
    """Return bytes as an event, in Base64: events are text."""
    return encode_event(base64.b64encode(payload).decode())


def encode_packed(payload: bytes) -> bytes:
    """Return a group's event as JSON."""
    return encode_event(to_json(unpack_event(payload)))


#: How a group's messages are encoded unless the user says how.
ENCODERS: Encoders = {
    Kind.TEXT: encode_event,
    Kind.BINARY: encode_binary,
    Kind.EVENT: encode_packed,
}


@dataclass(frozen=True, slots=True)
class Converted:
    """
    Encode a kind of message by way of a user's function.

    Equal for equal functions, so that all streams of a view share the bytes.
    """

    kind: Kind
    convert: Callable[[Any], Any]

    def __call__(self, payload: Any) -> bytes:
        """Return a message as bytes; none if the function returns ``None``."""
        is_event = self.kind is Kind.EVENT
        return encode_item(self.convert(unpack_event(payload) if is_event else payload))


def encoders_for(convert: Callable[[Any], Any] | None) -> Encoders:
    """Return how a group's messages are encoded, by ``convert`` or without."""
    if convert is None:
        return ENCODERS
    return {kind: Converted(kind, convert) for kind in ENCODERS}
