"""
The memory of all that waits to be written in this process, and its bound.

A connection's own frames count for themselves. The frame of a broadcast counts
once, however many queues it stands in, from its making until nobody holds it: a
message that waits at a thousand members is one copy in memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from .outlet import Tally

#: What a frame of no topic is of; nothing replaces it.
NO_TOPIC = ""


class SharedFrame(bytes):
    """
    A frame that stands in the queues of many transports.

    Attributes:
        topic: What it is about: a newer frame of the same topic may replace it.
        backlog: Counts its bytes as long as it lives.

    """

    topic: str = NO_TOPIC
    backlog: Backlog | None = None

    def __del__(self) -> None:
        if self.backlog is not None:
            self.backlog.shared -= len(self)


class Backlog(Tally):
    """
    What waits in all transports of a hub.

    Args:
        loop: The hub's event loop.

    Attributes:
        on_overflow: Called in the hub when more than ``limit`` bytes wait, and not
            again before ``over`` has been reset.

    """

    __slots__ = ("_loop", "on_overflow")

    def __init__(self, loop: Any) -> None:
        super().__init__(sys.maxsize)
        self._loop = loop
        self.on_overflow: Callable[[], None] | None = None

    @property
    def total(self) -> int:
        """The bytes that wait."""
        return self.own + self.shared

    def hold(self, frame: SharedFrame) -> None:
        """Count the frame of a broadcast until it dies; counting twice counts once."""
        if frame.backlog is None:
            frame.backlog = self
            self.shared += len(frame)
            if self.own + self.shared > self.limit and not self.over:
                self.overflow()

    def overflow(self) -> None:
        """More than ``limit`` bytes wait: have somebody see to it. Any greenlet."""
        self.over = True
        if self.on_overflow is not None:
            self._loop.run_callback(self.on_overflow)
