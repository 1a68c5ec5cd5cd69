"""
What the one process of a machine does that listens at Redis for all of them.

Others ask it to hear topics and are told when Redis has confirmed them. What it hears
it passes on to those that want it, once each, in the order in which it came.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import gevent
from gevent import Greenlet

from ..errors import ConfigurationError

#: Seconds that Redis has to confirm.
CONFIRM_TIMEOUT = 2.0

logger = logging.getLogger("greenchannels.layer")


class Remote(Protocol):
    """What a gateway needs of the bus between machines; see ``RedisBus``."""

    def subscribe(self, topics: Iterable[str], timeout: float) -> bool:
        """Want ``topics``; blocks until they are confirmed."""

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Want ``topics`` no more."""

    def hears(self, topic: str) -> bool:
        """Whether it is confirmed that ``topic`` is wanted."""

    def stop_listening(self) -> None:
        """Want nothing more."""


class Gateway:
    """
    Listen for all processes of a machine, from an election until the next one.

    Belongs to the hub of the thread that makes it.

    Args:
        remote: Where to listen.
        wanted: Says whether a process of this machine wants a topic.
        answer: Called with who has asked, the number of what, the topics that are not
            confirmed, and why this program is not let in. Never blocks.

    """

    def __init__(
        self,
        remote: Remote,
        wanted: Callable[[str], bool],
        answer: Callable[[str, int, list[str], str], None],
    ) -> None:
        self._remote = remote
        self._wanted = wanted
        self._answer = answer
        self._topics: set[str] = set()
        #: Who subscribes to a topic now.
        self._pending: dict[str, Greenlet[..., None]] = {}
        self._running: set[Greenlet[..., None]] = set()

    def ask(self, process: str, number: int, topics: Sequence[str]) -> None:
        """Hear topics, and answer when that is known. Never blocks."""
        wanted = [t for t in topics if self._wanted(t)]
        fresh = [t for t in wanted if t not in self._topics]
        if not fresh and all(map(self._remote.hears, wanted)):
            self._answer(process, number, [], "")
            return
        earlier = {self._pending[t] for t in wanted if t in self._pending}
        greenlet = Greenlet(self._serve, process, number, wanted, fresh, earlier)
        greenlet.name = "greenchannels gateway"
        self._topics.update(fresh)
        self._pending.update(dict.fromkeys(fresh, greenlet))
        self._running.add(greenlet)
        greenlet.rawlink(self._running.discard)
        greenlet.start()

    def unwanted(self, topics: Iterable[str]) -> None:
        """No process of this machine wants them any more. Never blocks."""
        known = [t for t in topics if t in self._topics]
        self._topics.difference_update(known)
        for topic in known:
            self._pending.pop(topic, None)
        if known:
            self._remote.unsubscribe(known)

    def close(self) -> None:
        """Another is the gateway now. Never blocks."""
        self.abandon()
        self._remote.stop_listening()

    def abandon(self) -> None:
        """Answer nobody any more. Never blocks."""
        self._topics.clear()
        self._pending.clear()
        running, self._running = self._running, set()
        gevent.killall(list(running), block=False)

    def _serve(
        self,
        process: str,
        number: int,
        topics: list[str],
        fresh: list[str],
        earlier: set[Greenlet[..., None]],
    ) -> None:
        """Have Redis confirm what is fresh, wait for the rest, and answer."""
        refusal = ""
        mine = gevent.getcurrent()
        try:
            left = [t for t in fresh if t in self._topics]
            if left:
                self._remote.subscribe(left, CONFIRM_TIMEOUT)
        except ConfigurationError as error:
            refusal = str(error)
        finally:
            for topic in fresh:
                if self._pending.get(topic) is mine:
                    del self._pending[topic]
        gevent.joinall(list(earlier), timeout=CONFIRM_TIMEOUT)
        hears = self._remote.hears
        unheard = [t for t in topics if t in self._topics and not hears(t)]
        self._answer(process, number, unheard, refusal)
