"""
Honest accounts of what was lost between processes.

Who publishes numbers its messages by topic, as ``(epoch, n)``; who listens counts the
holes. The base line is the number that a subscription's acknowledgement bears, where
the bus has acknowledgements, else the first number heard. Each ``PROBE_INTERVAL`` a
process tells its last numbers, for tails that were lost; tails of the idle are told
twice and then forgotten, and a topic that is used again starts a new epoch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Iterable, Sequence
from typing import TypeAlias, TypeVar

import msgspec

#: Seconds between two probes.
PROBE_INTERVAL = 5.0

#: Seconds of silence after which a topic's numbers may be forgotten.
IDLE_TIME = 60.0

#: Topics in one probe; more are told in several.
MAX_PROBED = 1000

#: Seconds between two warnings.
WARNING_INTERVAL = 10.0

#: The topic of probes, which every process wants.
PROBE = "#probe"

#: A probe that says only that its process lives.
NO_NUMBERS = msgspec.msgpack.encode([])

#: Topics whose numbers are kept while nobody can be told them.
MAX_UNTOLD = 100_000

#: Echoes of own probes in which every living process has sent one, too.
ECHOES = round(IDLE_TIME / PROBE_INTERVAL)

#: Nothing was published yet.
NOTHING = (0, 0)

logger = logging.getLogger("greenchannels.layer")

T = TypeVar("T")

#: Returns the way of a topic.
Way: TypeAlias = Callable[[str], str]

#: Says something of a process by its origin.
Says: TypeAlias = Callable[[str], bool]


class Published:
    """The numbers of what this process publishes."""

    def __init__(self) -> None:
        self._epoch = 1
        #: Last numbers of topics used since the last turn of the page, and before.
        self._page: dict[str, list[int]] = {}
        self._last_page: dict[str, list[int]] = {}
        #: Topics used since the last probe, and since the one before.
        self._used: dict[str, None] = {}
        self._used_before: dict[str, None] = {}
        #: Topics in the last probes.
        self._told: list[str] = []

    def __len__(self) -> int:
        return len(self._page) + len(self._last_page)

    def number(self, topic: str) -> tuple[int, int]:
        """Return epoch and number of the next message of ``topic``."""
        last = self._page.get(topic)
        if last is None:
            last = self._last_page.pop(topic, None) or [self._epoch, 0]
            self._page[topic] = last
        last[1] += 1
        self._used[topic] = None
        return last[0], last[1]

    def last(self, topic: str) -> tuple[int, int]:
        """Return epoch and number of the last message of ``topic``."""
        last = self._page.get(topic) or self._last_page.get(topic)
        return (last[0], last[1]) if last is not None else NOTHING

    def turn_page(self) -> None:
        """Forget the topics that were not used since this was called last."""
        if self._last_page:
            self._epoch += 1
        self._last_page, self._page = self._page, {}

    def probes(self, way: Way = lambda topic: "") -> list[tuple[str, bytes]]:
        """
        Return the last numbers of the topics used since the last two probes.

        Args:
            way: Returns the way of a topic; a probe tells of topics of one way.

        Returns:
            Each with its way.

        """
        topics = list(self._used_before | self._used)
        self._used_before, self._used = self._used, {}
        self._told = topics
        told: dict[str, list[tuple[str, int, int]]] = {}
        for topic in topics:
            told.setdefault(way(topic), []).append((topic, *self.last(topic)))
        return [(name, probe) for name in told for probe in _encode(told[name])]

    def tell_again(self) -> None:
        """The last probes were lost: what they said belongs into the next ones."""
        known = [topic for topic in self._told if self.last(topic) != NOTHING]
        self._used = dict.fromkeys(known) | self._used


def _encode(numbers: list[tuple[str, int, int]]) -> list[bytes]:
    """Return probes that tell them."""
    starts = range(0, len(numbers), MAX_PROBED)
    return [msgspec.msgpack.encode(numbers[s : s + MAX_PROBED]) for s in starts]


class Heard:
    """
    The numbers of what this process hears from others.

    Args:
        first_counts: Says of an origin whether the first number heard of a topic is
            its base line; else there is none until it is told by ``learn``.

    """

    def __init__(self, *, first_counts: Says) -> None:
        self._first_counts = first_counts
        self._topics: dict[str, dict[str, tuple[int, int]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._topics.values()))

    def take(self, topic: str, origin: str, epoch: int, number: int) -> int:
        """
        Note a message.

        Returns:
            How many before it were missed; -1 if it has been heard already.

        """
        origins = self._topics.get(topic)
        last = origins.get(origin) if origins is not None else None
        if last is None:
            if self._first_counts(origin):
                self._keep(topic, origin, epoch, number)
            return 0
        assert origins is not None
        missed = _between(last, epoch, number) - 1
        if missed >= 0:
            origins[origin] = (epoch, number)
            return missed
        return -1

    def learn(self, topic: str, origin: str, epoch: int, number: int) -> int:
        """Note the last number before what comes now; return how many were missed."""
        origins = self._topics.get(topic)
        if origins is None or origin not in origins:
            self._keep(topic, origin, epoch, number)
            return 0
        return self.check(topic, origin, epoch, number)

    def expect(self, origin: str, topics: Iterable[str]) -> None:
        """All that a new process publishes of ``topics`` counts, from its first on."""
        for topic in topics:
            self._keep(topic, origin, *NOTHING)

    def check(self, topic: str, origin: str, epoch: int, number: int) -> int:
        """Note the last number if there is a base line; return how many were missed."""
        origins = self._topics.get(topic)
        last = origins.get(origin) if origins is not None else None
        if last is None:
            return 0
        assert origins is not None
        missed = _between(last, epoch, number)
        if missed > 0:
            origins[origin] = (epoch, number)
            return missed
        return 0

    def forget_topics(self, topics: Iterable[str]) -> None:
        """This process does not want them any more."""
        for topic in topics:
            self._topics.pop(topic, None)

    def forget_all(self) -> None:
        """This process wants nothing any more."""
        self._topics.clear()

    def forget_origin(self, origin: str) -> None:
        """It has ended."""
        for origins in self._topics.values():
            origins.pop(origin, None)

    def forget_others(self, origins: Container[str]) -> None:
        """All but ``origins`` and those that acknowledge have ended."""
        for topic, found in list(self._topics.items()):
            for origin in [each for each in found if each not in origins]:
                if self._first_counts(origin):
                    del found[origin]
            if not found:
                del self._topics[topic]

    def _keep(self, topic: str, origin: str, epoch: int, number: int) -> None:
        self._topics.setdefault(topic, {})[origin] = (epoch, number)


def _between(last: tuple[int, int], epoch: int, number: int) -> int:
    """Return how far a number is behind the last one; an epoch begins with 1."""
    if epoch == last[0]:
        return number - last[1]
    return number if epoch > last[0] else -1


class Accounts:
    """
    The numbers of one layer, both ways, and what becomes of holes.

    A ledger for buses with acknowledgements (``ports.Ledger``).

    Args:
        on_missed: Called with a topic and how many of its messages were missed.
        acknowledged: Says whether a process acknowledges subscriptions with a note.

    """

    def __init__(
        self, on_missed: Callable[[str, int], None], *, acknowledged: Says
    ) -> None:
        self._on_missed = on_missed
        self.published = Published()
        self.heard = Heard(first_counts=lambda origin: not acknowledged(origin))
        self._page_turned = time.monotonic()
        #: Whether the last probes were lost.
        self._untold = False
        #: Echoes of this minute, and who has sent a probe in it and the last one, when.
        self._echoes, self._echoed = 0, 0.0
        self._alive: dict[str, float] = {}
        self._alive_before: dict[str, float] = {}

    def take(self, topic: str, origin: str, epoch: int, number: int) -> bool:
        """Note a message; return False if it has been heard already."""
        missed = self.heard.take(topic, origin, epoch, number)
        if missed > 0:
            self._on_missed(topic, missed)
        return missed >= 0

    def probes(self, way: Way = lambda topic: "") -> list[tuple[str, bytes]]:
        """Return what to publish on ``PROBE`` now; to be called each interval."""
        now = time.monotonic()
        untold = self._untold and len(self.published) < MAX_UNTOLD
        if now - self._page_turned >= IDLE_TIME and not untold:
            self._page_turned = now
            self.published.turn_page()
        return self.published.probes(way)

    def told(self, reached: bool) -> None:
        """Note whether the last probes are on their way; else they are told again."""
        self._untold = not reached
        if not reached:
            self.published.tell_again()

    def note_echo(self) -> None:
        """
        A probe of this process has come back, so those of the others come, too.

        For a bus that does not say who has ended: who sends no probe for a minute has.
        Time in which nothing was heard does not count.
        """
        now = time.monotonic()
        if now - self._echoed < PROBE_INTERVAL / 2:
            return
        self._echoed = now
        self._echoes += 1
        if self._echoes == ECHOES:
            self.heard.forget_others(self._alive | self._alive_before)
            self._alive_before, self._alive, self._echoes = self._alive, {}, 0

    def heard_lately(self, origin: str) -> bool:
        """Say whether a process has just sent a probe, so that it should live."""
        last = self._alive.get(origin) or self._alive_before.get(origin, 0.0)
        return time.monotonic() - last < 3 * PROBE_INTERVAL

    def take_probe(self, origin: str, data: bytes) -> None:
        """
        Compare another's numbers with what was heard of it.

        Raises:
            ValueError: If it is no probe.

        """
        told = _read(data, list[tuple[str, int, int]])
        self._alive[origin] = time.monotonic()
        for topic, epoch, number in told:
            missed = self.heard.check(topic, origin, epoch, number)
            if missed:
                self._on_missed(topic, missed)

    # Ledger.

    def describe(self, topics: Sequence[str]) -> bytes:
        """Return the last numbers of ``topics``."""
        last = self.published.last
        return msgspec.msgpack.encode([last(topic) for topic in topics])

    def learn(self, origin: str, topics: Sequence[str | None], note: bytes) -> None:
        """
        Begin to count, or count on, at the numbers that ``origin`` described.

        Raises:
            ValueError: If the note is none.

        """
        for topic, last in zip(topics, _read(note, list[tuple[int, int]]), strict=True):
            if topic is not None:
                missed = self.heard.learn(topic, origin, *last)
                if missed:
                    self._on_missed(topic, missed)

    def expect(self, origin: str, topics: Iterable[str]) -> None:
        """It is younger than the wish for ``topics``."""
        self.heard.expect(origin, topics)

    def forget(self, origin: str) -> None:
        """It has ended."""
        self.heard.forget_origin(origin)


def _read(data: bytes, form: type[T]) -> T:
    """Return what another process told; raise ``ValueError`` if it is not that."""
    try:
        return msgspec.msgpack.decode(data, type=form)
    except msgspec.MsgspecError as error:
        raise ValueError(f"no numbers: {error}") from error


class LossLog:
    """
    Warn of missed messages, at once and then at most each ``WARNING_INTERVAL``.

    What is missed in between is told with the next warning.
    """

    def __init__(self) -> None:
        self._missed: dict[str, int] = {}
        self._warned = -WARNING_INTERVAL

    def add(self, topic: str, missed: int) -> None:
        """Warn of it now or later."""
        self._missed[topic] = self._missed.get(topic, 0) + missed
        self.warn()

    def warn(self) -> None:
        """Warn of what was not told yet, if it is time."""
        now = time.monotonic()
        if not self._missed or now - self._warned < WARNING_INTERVAL:
            return
        self._warned = now
        total, topics = sum(self._missed.values()), len(self._missed)
        worst = max(self._missed, key=lambda topic: self._missed[topic])
        self._missed.clear()
        logger.warning(
            "%d messages of %d topics were lost on their way from other processes,"
            " most of them of %r",
            total,
            topics,
            worst,
        )
