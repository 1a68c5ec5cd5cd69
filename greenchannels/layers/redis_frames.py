"""
What we say to Redis, and what our messages look like there: bytes, and nothing else.

Commands are arrays of bulk strings (RESP 2, "Sending commands to a Redis server"). The
payload of our messages begins with a head: three bytes of ours, one for the length of
the sender's name, and that name. A head of other first bytes is another version's, or
another program's.
"""

from __future__ import annotations

from collections.abc import Iterable

#: What payloads of ours begin with; the last byte is the version.
MARK = b"gc\x01"

#: Channels in one SUBSCRIBE or UNSUBSCRIBE.
MAX_CHANNELS = 512

_NAME = len(MARK) + 1


def encode_command(*words: bytes) -> bytes:
    """Return a command as Redis reads it."""
    head = b"*%d\r\n" % len(words)
    return head + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def encode_publish(channel: bytes, head: bytes, data: bytes) -> bytes:
    """Return the command that publishes a message: ``head`` and ``data``."""
    return b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b%b\r\n" % (
        len(channel),
        channel,
        len(head) + len(data),
        head,
        data,
    )


def encode_head(origin: str) -> bytes:
    """Return what the payloads of a process begin with."""
    name = origin.encode("ascii")
    return MARK + bytes([len(name)]) + name


def read_head(payload: bytes) -> tuple[str, int]:
    """
    Return the sender's name, and where the message begins.

    Raises:
        ValueError: If the payload is not ours.

    """
    if not payload.startswith(MARK) or len(payload) < _NAME:
        raise ValueError("not a payload of ours")
    end = _NAME + payload[_NAME - 1]
    name = payload[_NAME:end]
    if end == _NAME or len(payload) < end or not name.isascii():
        raise ValueError("a payload without a sender")
    return name.decode("ascii"), end


def batches(channels: Iterable[bytes]) -> list[list[bytes]]:
    """Return channels in portions that fit into one command."""
    found = list(channels)
    return [
        found[start : start + MAX_CHANNELS]
        for start in range(0, len(found), MAX_CHANNELS)
    ]
