"""
What a backend must implement, and nothing else.

All meaning of groups and channels is in ``layer.py``; a backend knows topics
and bytes.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

#: Called with ``(topic, data, origin)``. Never blocks, never runs user code.
Deliver: TypeAlias = Callable[[str, bytes, str], None]


class BusState(enum.Enum):
    """What a bus reports of its connection to the others."""

    UP = "up"
    DOWN = "down"
    GAP = "gap"


#: Called with the state and the topics that it concerns (empty for all).
OnState: TypeAlias = Callable[[BusState, Iterable[str]], None]


class Bus(Protocol):
    """
    Carry encoded messages to the other processes.

    A bus knows topics and bytes; it does not know groups, members, capacity or
    codecs. Delivery is at most once, in order per publisher. A bus never
    delivers a message back to the layer that published it. It remembers its
    topics and subscribes to them again when it has been away.
    """

    def start(self, deliver: Deliver, on_state: OnState) -> str:
        """Connect; return this layer's origin, new after every start and fork."""

    def subscribe(self, topics: Iterable[str], timeout: float) -> bool:
        """Want ``topics``; return whether it was confirmed within ``timeout`` s."""

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Want ``topics`` no more; never blocks."""

    def wants(self, topic: str) -> bool:
        """Whether another process may want ``topic``: spares an encoding."""

    def publish(self, topic: str, data: bytes) -> bool:
        """Queue ``data`` for the others; never blocks. False if it was lost."""

    def close(self) -> None:
        """Leave the others."""


@runtime_checkable
class Linked(Protocol):
    """What a bus is, too, if it has a link to each process that wants a topic."""

    def catch_up(self, topic: str) -> None:
        """Learn who wants ``topic`` by now, after a pause; may block for seconds."""

    def flush(self, topic: str, timeout: float) -> bool:
        """Block until the system has it all; False if not within ``timeout`` s."""


class Ledger(Protocol):
    """What acknowledgements say of the messages before them; never blocks."""

    def describe(self, topics: Sequence[str]) -> bytes:
        """Return a note on what was published of ``topics`` until now."""

    def learn(self, origin: str, topics: Sequence[str | None], note: bytes) -> None:
        """
        Take the note of another process.

        Args:
            origin: The process.
            topics: What it describes; ``None`` for topics of no interest any more.
            note: What its ledger returned.

        Raises:
            ValueError: If it is no note.

        """

    def expect(self, origin: str, topics: Iterable[str]) -> None:
        """A process has been heard of that is younger than the wish for ``topics``."""

    def forget(self, origin: str) -> None:
        """The process has ended."""


@runtime_checkable
class Acknowledging(Protocol):
    """
    What a bus is, too, if those who publish, or some, acknowledge each subscription.

    Attributes:
        ledger: Set before the start; writes and reads the acknowledgements' notes.
        unsure: Whether there are processes whose topics are not all known yet.

    """

    ledger: Ledger | None

    @property
    def unsure(self) -> bool:
        """See above."""

    def acknowledges(self, origin: str) -> bool:
        """Say whether the process of that name does, too."""


class Witness(Protocol):
    """Who is told what only a broker knows; nothing here may block."""

    def unheard(self, topic: str) -> None:
        """A message of ``topic`` was published, and no process wanted it."""

    def echo(self) -> None:
        """A probe of this process has come back: it hears, and so do the others."""


@runtime_checkable
class Brokered(Protocol):
    """
    What a bus is, too, if servers stand between the processes.

    It delivers nothing back to its layer but needs a probe at times, even one that
    says nothing, to know that it hears. Messages are in order only along their way: a
    probe tells of topics of its own way.

    Attributes:
        witness: Set before the start.

    """

    witness: Witness | None

    def ways(self) -> Iterable[str]:
        """Return the ways that there are now."""

    def way(self, topic: str) -> str:
        """Return the one that messages of ``topic`` go."""

    def publish_probe(self, way: str, data: bytes) -> bool:
        """Publish on the topic of probes; never blocks. False if it was lost."""
