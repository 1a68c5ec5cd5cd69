"""A member of groups that keeps what it gets, and how to wait for that."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gevent

from ..layers.codec import Broadcast, Kind, make_broadcast, unpack_event

#: Seconds that anything may take.
PATIENCE = 20.0


class RecordingMember:
    """
    A member that keeps what it gets.

    Args:
        max_groups: The most topics it may be in.
        listens: Types of events about the layer itself that it takes.

    """

    def __init__(
        self, *, max_groups: int | None = None, listens: tuple[str, ...] = ()
    ) -> None:
        self.memberships: set[str] | None = None
        self.max_groups = max_groups
        self.channel_name = ""
        self.got: list[Broadcast] = []
        self._listens = listens

    def deliver(self, broadcast: Broadcast) -> None:
        """Take a message."""
        self.got.append(broadcast)

    def listens_to(self, kind: str) -> bool:
        """Whether it takes events of this type."""
        return kind in self._listens

    @property
    def texts(self) -> list[Any]:
        """The texts and bytes that it got."""
        return [b.payload for b in self.got if b.kind is not Kind.EVENT]

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events that it got."""
        events = [b.payload for b in self.got if b.kind is Kind.EVENT]
        return [unpack_event(each) for each in events if isinstance(each, bytes)]


def until(condition: Callable[[], object], timeout: float = PATIENCE) -> None:
    """Wait for ``condition()`` while the hub works; fail after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"it did not come true in {timeout} s")
        gevent.sleep(0.001)


def text(content: object) -> Broadcast:
    """Return a message of text."""
    return make_broadcast(str(content))
