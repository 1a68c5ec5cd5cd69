"""
Input of a socket whose route has rates, as it passes them.

How much may be decoded is asked first, since what is not decoded waits in ``wire``;
what has been decoded is then counted message by message. Pure but for what it asks
socket and route: no clock, no I/O.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeAlias

from ..options import Rate
from ..types import Data
from ..wire.frames import CLOSE, PONG
from .buckets import SLACK, Bucket

if TYPE_CHECKING:
    from .rates import Gate, RouteRates
    from .socket_input import SocketInput

#: Control frames as ``wire`` keeps them.
Controls: TypeAlias = "list[tuple[int, bytes]] | None"


class Intake:
    """
    One piece of input on its way to a socket's inbox.

    Args:
        route: The route's rates.
        socket: The socket.
        gate: What they know of it.
        buckets: What its messages come out of, refilled.
        controls: The control frames that were there before.

    """

    __slots__ = (
        "_before",
        "_closing",
        "_dropping",
        "_empty",
        "_gate",
        "_route",
        "_socket",
        "_waiting",
    )

    def __init__(
        self,
        route: RouteRates,
        socket: SocketInput,
        gate: Gate,
        buckets: list[tuple[Rate, Bucket]],
        controls: Controls,
    ) -> None:
        self._route = route
        self._socket = socket
        self._gate = gate
        self._closing = [each for each in buckets if each[0].action == "close"]
        self._dropping = [each for each in buckets if each[0].action == "drop"]
        self._waiting = [b for rate, b in buckets if rate.action == "wait"]
        self._before = len(controls or ())
        self._empty: Bucket | None = None

    @property
    def exceeded(self) -> bool:
        """Whether the socket is to be closed."""
        return self._gate.exceeded is not None

    def allowance(self) -> tuple[int, int]:
        """Return how many messages and bytes may be decoded now; 0: ``wait``."""
        messages: float = sys.maxsize
        size: float = sys.maxsize
        turn, self._gate.turn = self._gate.turn, 0
        for bucket in self._waiting:
            if not bucket.ready or (bucket.line is not None and not turn):
                self._empty = bucket
                return 0, 0
            messages = min(messages, bucket.messages + SLACK)
            size = min(size, bucket.bytes + SLACK)
        if turn:
            messages = min(messages, turn)
        return int(messages), int(size)

    def wait(self) -> None:
        """Nothing is allowed: wait for the bucket that is empty."""
        assert self._empty is not None
        self._route.wait(self._socket, self._gate, self._empty)

    def admit(self, messages: list[Data]) -> list[Data]:
        """Return the messages that pass, in order, and count them all."""
        passed = []
        measured = self._route.measured
        for message in messages:
            size = size_of(message) if measured else 0
            over = take(self._closing, size)
            if over is not None:
                self._gate.exceeded = over
                break
            for bucket in self._waiting:
                bucket.take(1, size)
            over = take(self._dropping, size)
            if over is None:
                passed.append(message)
            else:
                self._route.dropped(*over)
        return passed

    def count_controls(self, controls: Controls) -> None:
        """Count the pings and pongs that have come, but for the one asked for."""
        if controls is None or len(controls) == self._before or self.exceeded:
            return
        frames = [each for each in controls[self._before :] if each[0] != CLOSE]
        due = self._socket.next_ping
        if due != self._gate.answered and any(kind == PONG for kind, _ in frames):
            self._gate.answered = due
            frames.remove(next(each for each in frames if each[0] == PONG))
        for _, payload in frames:
            over = take(self._closing, len(payload))
            if over is not None:
                self._gate.exceeded = over
                return
        size = sum(len(payload) for _, payload in frames)
        for bucket in self._waiting:
            bucket.take_within(len(frames), size)


def take(buckets: list[tuple[Rate, Bucket]], size: int) -> tuple[Rate, str] | None:
    """
    Take a message of ``size`` bytes out of all buckets, if it fits them all.

    Returns:
        ``None``, or the first rate that it exceeds, and in what.

    """
    for rate, bucket in buckets:
        short = bucket.short_of(size)
        if short is not None:
            return rate, short
    for _, bucket in buckets:
        bucket.take(1, size)
    return None


def size_of(message: Data) -> int:
    """Return the bytes of a message, of text as UTF-8."""
    if isinstance(message, str) and not message.isascii():
        return len(message.encode())
    return len(message)
