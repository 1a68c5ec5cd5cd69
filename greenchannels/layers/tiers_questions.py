"""
What a process asks the gateway of its machine: to hear topics, and say when it does.

A question stays until it is answered, whoever is the gateway by then. Where nobody
waits for the answer any more, the topics' gap is announced with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from gevent import get_hub, getcurrent
from gevent.event import Event as Signal

from ..errors import LayerRefused
from .tiers_frames import MAX_TOPICS

#: Seconds after which the gateway is asked again that has not answered.
ASK_AGAIN = 1.0


class Question:
    """
    Topics that the gateway was asked to hear, of many joins of one turn at once.

    Attributes:
        number: By which it is answered.
        topics: All of them.
        late: Those for which nobody waits any more: their gap is announced.
        answered: Set when it is known.
        unheard: Topics that were not confirmed.
        refusal: Why Redis does not let the gateway listen, or nothing.
        asked: When it was asked.

    """

    __slots__ = (
        *("answered", "asked", "late", "number"),
        *("refusal", "topics", "unheard"),
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.topics: list[str] = []
        self.late: set[str] = set()
        self.answered = Signal()
        self.unheard: frozenset[str] = frozenset()
        self.refusal = ""
        self.asked = 0.0


class Questions:
    """
    Those of one process that are not answered yet.

    Belongs to the hub of the thread that makes it.

    Args:
        wanted: The topics that this process wants, always the present ones.
        ask: Asks the gateway by number and topics, if there is one; else the next one
            will be asked. Never blocks.
        announce_gap: Takes topics that are heard after a pause. Never blocks.

    """

    def __init__(
        self,
        wanted: Mapping[str, int],
        ask: Callable[[int, list[str]], None],
        announce_gap: Callable[[Iterable[str]], None],
    ) -> None:
        self._wanted = wanted
        self._ask = ask
        self._announce_gap = announce_gap
        self._open: dict[int, Question] = {}
        #: The one that is asked at the end of this turn.
        self._next: Question | None = None
        self._number = 0
        #: Whether a gateway has ever heard anything.
        self._heard = False

    def ask(self, topics: Sequence[str]) -> Question:
        """Ask for topics at the end of this turn; never blocks."""
        question = self._next
        if question is None or len(question.topics) >= MAX_TOPICS:
            question = self._next = self._new()
            get_hub().loop.run_callback(self._send, question)
        question.topics += topics
        return question

    def wait_for(self, question: Question, names: Sequence[str], end: float) -> bool:
        """
        Block until it is answered, not in the hub; say whether ``names`` are heard.

        Args:
            question: That was asked for ``names``, among others.
            names: See above.
            end: The monotonic time at which it is too late.

        Raises:
            LayerRefused: If Redis has never let the gateway listen, nor another one.

        """
        if not question.answered.is_set() and getcurrent() is not get_hub():
            question.answered.wait(max(0.0, end - time.monotonic()))
        if not question.answered.is_set():
            question.late.update(names)
            return False
        if question.refusal and not self._heard:
            raise LayerRefused(question.refusal)
        return question.unheard.isdisjoint(names)

    def ask_all(self, but: Iterable[str]) -> None:
        """
        Ask a new gateway for what an earlier one heard, and what it was asked.

        Args:
            but: Topics that no gateway hears.

        """
        asked = {t for each in self._open.values() for t in each.topics}
        asked.update(but)
        heard = [topic for topic in self._wanted if topic not in asked]
        for start in range(0, len(heard), MAX_TOPICS):
            question = self._new()
            question.topics = heard[start : start + MAX_TOPICS]
            question.late.update(question.topics)
        self._send_older_than(0.0)

    def ask_again(self) -> None:
        """Ask for what was not answered: the link may have ended in between."""
        self._send_older_than(ASK_AGAIN)

    def take_answer(self, number: int, unheard: list[str], refusal: str) -> None:
        """Wake who waits for it; never blocks."""
        question = self._open.pop(number, None)
        if question is not None:
            question.unheard, question.refusal = frozenset(unheard), refusal
            question.answered.set()
            self._heard = self._heard or len(unheard) < len(question.topics)
            self._announce_gap(question.late - question.unheard)

    def close(self) -> None:
        """There will be no more answers."""
        for question in self._open.values():
            question.unheard = frozenset(question.topics)
            question.answered.set()
        self._open.clear()

    def __len__(self) -> int:
        return len(self._open)

    def _new(self) -> Question:
        self._number += 1
        question = self._open[self._number] = Question(self._number)
        return question

    def _send_older_than(self, age: float) -> None:
        now = time.monotonic()
        for question in list(self._open.values()):
            if question is not self._next and now - question.asked >= age:
                self._send(question)

    def _send(self, question: Question) -> None:
        if question is self._next:
            self._next = None
        if question.number in self._open:
            question.asked = time.monotonic()
            topics = [topic for topic in question.topics if topic in self._wanted]
            self._ask(question.number, topics)
