"""
What processes of one machine tell each other beside messages, and how messages of
other machines look between them: bytes, and nothing else.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

#: What messages of other machines begin with: no MessagePack does, and calls go on with
#: another byte.
FORWARDED = b"\xc1\x00"

#: The topic of what is for all processes; with a name behind, of what is for one.
CONTROL = "#tiers"

#: Topics in one frame; more are told in several.
MAX_TOPICS = 1000


class Who(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Who is the gateway?"""


class Beat(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """
    I am the gateway.

    Attributes:
        term: The number of its election; the highest counts.

    """

    term: int


class Ask(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """
    To the gateway: hear these topics at Redis, and say when you do.

    Attributes:
        number: By which it is answered.
        topics: What is wanted.

    """

    number: int
    topics: list[str]


class Answer(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """
    By the gateway.

    Attributes:
        number: Of what was asked.
        unheard: Topics that Redis has not confirmed; it is announced when it does.
        refusal: Why Redis does not let the gateway listen, or nothing.

    """

    number: int
    unheard: list[str]
    refusal: str


class Gap(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """By the gateway: these topics are heard, and something may be missing."""

    topics: list[str]


class Echo(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """By the gateway: it hears its own probe, and so those of other machines."""


Control: TypeAlias = Who | Beat | Ask | Answer | Gap | Echo

_decoder = msgspec.msgpack.Decoder(Control)


def control_topic(name: str) -> str:
    """Return the topic of what is for the process called ``name`` alone."""
    return f"{CONTROL}:{name}"


def encode_control(control: Control) -> bytes:
    """Return what is published on a topic of ``CONTROL``."""
    return msgspec.msgpack.encode(control)


def read_control(data: bytes) -> Control:
    """
    Return what was told.

    Raises:
        ValueError: If it is nothing of that kind.

    """
    try:
        control: Control = _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise ValueError(f"nothing that a gateway says: {error}") from error
    return control


def encode_forwarded(origin: str, data: bytes) -> bytes:
    """Return a message of another machine as it is passed on in this one."""
    name = origin.encode("ascii")
    return b"".join((FORWARDED, bytes([len(name)]), name, data))


def read_forwarded(data: bytes) -> tuple[str, bytes]:
    """
    Return who has sent a message, and the message.

    Raises:
        ValueError: If the sender is not whole.

    """
    start = len(FORWARDED) + 1
    end = start + (data[start - 1] if len(data) >= start else 0)
    name = data[start:end]
    if not name or len(data) < end or not name.isascii():
        raise ValueError("a message without its sender")
    return name.decode("ascii"), data[end:]
