"""
Which process of a machine is its gateway.

It tells all others each second that it is. When it has ended, or says nothing for
``SILENCE`` seconds because it is stopped, another takes its place: the first by name at
once, each further one a moment later, so that one that is stopped is not waited for.
Each election has a number, and the highest counts; so whoever has been stopped learns
that it is the gateway no more, and two that were elected at once agree on one. There
is no lock, because one that is stopped would keep it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Protocol

from ..net.clock import Alarm, Clock
from .tiers_frames import Beat, Control, Who

#: Seconds between two signs of life.
BEAT_INTERVAL = 1.0

#: Seconds after which a gateway that says nothing is one no more.
SILENCE = 3.0

#: Seconds that each candidate leaves to the one before.
STEP = 0.3

#: Seconds from the end of a gateway until the first candidate takes its place: this
#: process may have been stopped, and another one's sign of life be still unread.
SOON = 0.05

#: Seconds after which an alarm is so late that the hub could not read meanwhile.
LATE = 0.5

logger = logging.getLogger("greenchannels.layer")


class Voters(Protocol):
    """What an election needs of the processes of the machine; nothing may block."""

    def candidates(self) -> Sequence[str]:
        """Return the names of all that may be elected, this one too, best first."""

    def fits(self, name: str) -> bool:
        """Whether one that was elected should stay."""

    def tell_all(self, control: Control) -> None:
        """Tell the others something."""

    def elected(self) -> None:
        """``gateway`` is another one now."""


class Election:
    """
    One process' part in it.

    Belongs to the hub of the thread that makes it; nothing here blocks.

    Args:
        name: Of this process.
        voters: The processes.
        clock: Of the hub.

    Attributes:
        gateway: The name of the one that was elected, or ``None``.
        number: Of the last election.

    """

    def __init__(self, name: str, voters: Voters, clock: Clock) -> None:
        self._name = name
        self._voters = voters
        self._clock = clock
        self._alarm: Alarm | None = None
        self._due = 0.0
        #: When the gateway was heard, and since when there should be another one.
        self._heard = 0.0
        self._vacant: float | None = None
        #: One that says nothing.
        self._silent: str | None = None
        self.gateway: str | None = None
        self.number = 0

    @property
    def won(self) -> bool:
        """Whether this process is the gateway."""
        return self.gateway == self._name

    def join(self) -> None:
        """
        Ask who is the gateway, or be it, if nobody else is there.

        One of several that begin at once sees nobody: who wants to be heard of is told
        to the others before this looks for them. So one that does not answer is busy,
        or has just ended.
        """
        if len(self._voters.candidates()) > 1:
            self._voters.tell_all(Who())
            self._vacant = time.monotonic() + SILENCE
            self._rearm(STEP)
        else:
            self._win()
            self._rearm(BEAT_INTERVAL)

    def close(self) -> None:
        """Take part no more."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self.gateway = None

    def take_who(self) -> None:
        """Somebody asks who is the gateway."""
        if self.won:
            self._voters.tell_all(Beat(self.number))

    def take_beat(self, name: str, number: int) -> None:
        """A process says that it is the gateway."""
        if (number, name) < (self.number, self.gateway or ""):
            self.take_who()
            return
        self._heard, self._vacant, self._silent = time.monotonic(), None, None
        self.number = number
        if name != self.gateway:
            self._change(name)

    def process_ended(self, name: str) -> None:
        """Another process has."""
        if name == self.gateway:
            self._vacant = time.monotonic()
            self._change(None)
            self._rearm(SOON)

    def _change(self, name: str | None) -> None:
        self.gateway = name
        self._voters.elected()

    def _win(self) -> None:
        self._vacant = self._silent = None
        self.number += 1
        self._voters.tell_all(Beat(self.number))
        self._change(self._name)

    def _rearm(self, delay: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._due = time.monotonic() + delay
        self._alarm = self._clock.call_later(delay, self._ring)

    def _ring(self) -> None:
        """Look whether the gateway lives, or say so. Hub only."""
        late = time.monotonic() - self._due
        if late > LATE:  # the hub could not read meanwhile
            self._heard += late
            if self._vacant is not None:
                self._vacant += late
        self._look()

    def _look(self) -> None:
        now = time.monotonic()
        if self.won:
            self._voters.tell_all(Beat(self.number))
        elif self.gateway is not None and now - self._heard > SILENCE:
            logger.warning("%s says nothing: another gateway is elected", self.gateway)
            self._silent = self.gateway
            self._change(None)
        if self.gateway is not None and self._voters.fits(self.gateway):
            self._rearm(BEAT_INTERVAL)
            return
        if self._vacant is None:
            self._vacant = now
        ranking = [c for c in self._voters.candidates() if c != self._silent]
        if now - self._vacant >= STEP * ranking.index(self._name):
            self._win()
        self._rearm(STEP if not self.won else BEAT_INTERVAL)
