"""
What one socket has lost to its policy for slow consumers.

A stall begins with the first loss and ends when there is room again: then it is
logged, once, with what it cost.
"""

from __future__ import annotations

from collections import Counter

from ..types import Event, SlowPolicy

#: What happens to messages and sockets, as ``Layer.count_slow`` has it.
FRAMES_DROPPED, FRAMES_REPLACED = "frames dropped", "frames replaced"
EVENTS_DROPPED, EVENTS_REPLACED = "events dropped", "events replaced"
SOCKETS_CLOSED, CONNECTIONS_CUT = "sockets closed", "connections cut"

#: The type of the event that tells a consumer of losses.
LAYER_DROPPED = "layer.dropped"


class Losses:
    """
    The losses of one socket; stands in its inbox when the consumer is to be told.

    Args:
        policy: Whose doing they are.

    Attributes:
        dropped: What the consumer has not been told of yet.
        frames: What the present stall of the peer cost; empty without one.
        events: What the present stall of the consumer cost; empty without one.
        waits: Whether this stands in the inbox.

    """

    __slots__ = ("dropped", "events", "frames", "policy", "waits")

    def __init__(self, policy: SlowPolicy) -> None:
        self.policy = policy
        self.dropped: Counter[str] = Counter()
        self.frames: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.waits = False

    def add(self, what: str, number: int) -> bool:
        """Count a loss; return whether a stall begins with it."""
        of_frames = what in (FRAMES_DROPPED, FRAMES_REPLACED)
        stall = self.frames if of_frames else self.events
        begins = not stall
        stall[what] += number
        if what in (FRAMES_DROPPED, EVENTS_DROPPED):
            self.dropped[what] += number
        return begins

    def take(self) -> Event:
        """Return the event that tells of what was dropped, and begin anew."""
        event: Event = {
            "type": LAYER_DROPPED,
            "frames": self.dropped[FRAMES_DROPPED],
            "events": self.dropped[EVENTS_DROPPED],
            "policy": self.policy,
        }
        self.dropped.clear()
        self.waits = False
        return event


def describe(stall: Counter[str]) -> str:
    """Return what a stall cost, for the log."""
    return ", ".join(f"{number} {what}" for what, number in stall.items())
