"""
What we say to Redis, and what our messages look like there: bytes, and nothing else.

Commands are arrays of bulk strings (RESP 2, "Sending commands to a Redis server"). The
payload of our messages begins with a head: three bytes of ours, one for the length of
the sender's name, and that name. A head of other first bytes is another version's, or
another program's.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

#: What payloads of ours begin with, as they are and encrypted; the last byte is the
#: version.
CLEAR, SEALED = b"gc\x01", b"gc\x02"

#: Hash slots of a Cluster.
SLOTS = 16384

#: Channels in one SUBSCRIBE or UNSUBSCRIBE.
MAX_CHANNELS = 512

_NAME = len(CLEAR) + 1


def slot_of(tag: bytes) -> int:
    """Return the hash slot of what is in braces (CRC16, XMODEM)."""
    return binascii.crc_hqx(tag, 0) % SLOTS


@dataclass(frozen=True)
class Dialect:
    """
    One of the two kinds of pub/sub.

    Attributes:
        subscribe: The command that subscribes.
        unsubscribe: The one that undoes it.
        publish: The one that publishes.
        joined: What confirmations of the first say they are.
        left: What confirmations of the second say they are.
        message: What messages say they are.
        slotted: Whether the channels of one command have to share their hash slot.

    """

    subscribe: bytes
    unsubscribe: bytes
    publish: bytes
    joined: bytes
    left: bytes
    message: bytes
    slotted: bool

    def slot_of(self, channel: bytes) -> int:
        """Return what the channels of one command have in common."""
        if not self.slotted:
            return 0
        return slot_of(channel.partition(b"{")[2].partition(b"}")[0])

    def batches(self, channels: Iterable[bytes]) -> list[list[bytes]]:
        """Return channels in portions that fit into one command."""
        found = []
        for _, group in groupby(sorted(channels, key=self.slot_of), self.slot_of):
            same = list(group)
            starts = range(0, len(same), MAX_CHANNELS)
            found += [same[start : start + MAX_CHANNELS] for start in starts]
        return found

    def encode_publish(self, channel: bytes, head: bytes, data: bytes) -> bytes:
        """Return the command that publishes a message: ``head`` and ``data``."""
        return b"*3\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b%b\r\n" % (
            len(self.publish),
            self.publish,
            len(channel),
            channel,
            len(head) + len(data),
            head,
            data,
        )


#: Pub/sub of one server, and of all nodes of a Cluster.
PLAIN = Dialect(
    *(b"SUBSCRIBE", b"UNSUBSCRIBE", b"PUBLISH"),
    *(b"subscribe", b"unsubscribe", b"message"),
    slotted=False,
)

#: Pub/sub within the part of a Cluster that a channel's slot belongs to.
SHARDED = Dialect(
    *(b"SSUBSCRIBE", b"SUNSUBSCRIBE", b"SPUBLISH"),
    *(b"ssubscribe", b"sunsubscribe", b"smessage"),
    slotted=True,
)


def encode_command(*words: bytes) -> bytes:
    """Return a command as Redis reads it."""
    head = b"*%d\r\n" % len(words)
    return head + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def encode_head(origin: str, mark: bytes = CLEAR) -> bytes:
    """Return what the payloads of a process begin with."""
    name = origin.encode("ascii")
    return mark + bytes([len(name)]) + name


def read_head(payload: bytes, mark: bytes = CLEAR) -> tuple[str, int]:
    """
    Return the sender's name, and where the message begins.

    Raises:
        ValueError: If the payload is not ours.

    """
    if not payload.startswith(mark) or len(payload) < _NAME:
        raise ValueError("not a payload of ours")
    end = _NAME + payload[_NAME - 1]
    name = payload[_NAME:end]
    if end == _NAME or len(payload) < end or not name.isascii():
        raise ValueError("a payload without a sender")
    return name.decode("ascii"), end
