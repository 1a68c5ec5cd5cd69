"""
The bus of two tiers: ``ipc://NAME+redis://HOST``.

Processes of one machine (one folder of ``ipc://``) meet over the mesh, machines over
Redis. Each process publishes once in the mesh and once at Redis. Only one process of a
machine listens at Redis (``tiers_gateway.py``, chosen in ``tiers_election.py``) and
passes on what comes from other machines, so that a message crosses the network once
for each machine.

The name of a process begins with its machine's; what it publishes has one number
whichever way it goes. Who sends in the mesh acknowledges subscriptions; of those at
other machines the first number heard counts.
"""

from __future__ import annotations

import os
import time
import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from gevent import get_hub, getcurrent
from gevent.event import Event as Signal
from gevent.monkey import get_original

from ..errors import LayerRefused
from ..net.clock import Clock
from .ipc import IpcBus
from .numbers import NO_NUMBERS, PROBE
from .ports import BusState, Deliver, Ledger, OnState, Witness
from .tiers_election import Election
from .tiers_frames import (
    CONTROL,
    FORWARDED,
    MAX_TOPICS,
    Answer,
    Ask,
    Beat,
    Control,
    Echo,
    Gap,
    Who,
    control_topic,
    encode_control,
    encode_forwarded,
    read_control,
    read_forwarded,
)
from .tiers_gateway import Gateway

if TYPE_CHECKING:
    from .redis.bus import RedisBus

#: Seconds after which the gateway is asked again that has not answered.
ASK_AGAIN = 1.0

#: Seconds between two looks whether the folder's token is there.
TOKEN_INTERVAL = 60.0

_get_ident = get_original("_thread", "get_ident")


class Question:
    """
    Topics that the gateway was asked to hear, many joins of one turn at once.

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


class NamedLedger:
    """The layer's ledger, for a mesh that knows nothing of machines."""

    def __init__(self, bus: TiersBus, ledger: Ledger) -> None:
        self._named = bus.named
        self._ledger = ledger

    def describe(self, topics: Sequence[str]) -> bytes:
        """See ``Ledger``."""
        return self._ledger.describe(topics)

    def learn(self, origin: str, topics: Sequence[str | None], note: bytes) -> None:
        """See ``Ledger``."""
        self._ledger.learn(self._named(origin), topics, note)

    def expect(self, origin: str, topics: Iterable[str]) -> None:
        """See ``Ledger``."""
        self._ledger.expect(self._named(origin), topics)

    def forget(self, origin: str) -> None:
        """See ``Ledger``."""
        self._ledger.forget(self._named(origin))


class TiersBus:
    """
    A mesh in each machine, and Redis between them.

    Belongs to the hub of the thread that starts it. A process that only publishes has
    no part in elections and does not listen.

    Args:
        local: The bus between the processes of this machine.
        remote: The bus between machines.

    """

    def __init__(self, local: IpcBus, remote: RedisBus) -> None:
        self._local = local
        self._remote = remote
        local.watcher = self
        remote.witness = self
        self._ledger: Ledger | None = None
        self.witness: Witness | None = None
        #: What happened, by name.
        self.counters: Counter[str] = Counter()
        self._clock: Clock | None = None
        self._election: Election | None = None
        self._gateway: Gateway | None = None
        self._thread = 0
        self._name = self._machine = self._here = ""
        self._token_seen = 0.0
        #: Whether this process takes part, and whether it has members.
        self._joined = self._serving = False
        #: What the gateway was asked and has not answered, and what it is asked next.
        self._questions: dict[int, Question] = {}
        self._next: Question | None = None
        self._number = 0

    # The port.

    def start(self, deliver: Deliver, on_state: OnState) -> str:
        """
        Link up with the others and connect to Redis; blocks as both buses do.

        Raises:
            ConfigurationError: If the folder is not this user's alone, or Redis does
                not let this program in.
            LayerUnavailable: If there can be no socket in the folder.

        """
        self._deliver, self._on_state = deliver, on_state
        self._thread = _get_ident()
        self._machine = self._local.machine()
        self._here = self._machine + "."
        self._token_seen = time.monotonic()
        self._joined = self._serving = False
        self._clock = Clock(get_hub().loop)
        _started.add(self)
        try:
            self._name = self._local.start(self._heard_here, on_state)
            origin = self.named(self._name)
            state = self._remote_state
            self._remote.start(self._heard_there, state, origin, self._here)
        except BaseException:
            self.close()
            raise
        return origin

    def subscribe(self, topics: Iterable[str], timeout: float) -> bool:
        """
        Want ``topics``; blocks until the others here and Redis have confirmed it.

        Does not block in the hub, nor for a Redis that is known to be away.

        Raises:
            LayerRefused: If Redis has never let the gateway listen.

        """
        if self._clock is None:
            return False
        names = tuple(topics)
        end = time.monotonic() + timeout
        self._serving = self._serving or PROBE in names
        wanted = names if self._joined else (*self._control_topics(), *names)
        number = self._local.want(wanted)
        question = self._ask(names)
        if not self._joined:
            self._join()
        confirmed = self._local.wait_for(number, wanted, timeout)
        return self._wait_for(question, names, end) and confirmed

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Want ``topics`` no more."""
        gone = list(topics)
        self._local.unsubscribe(gone)
        if self._gateway is not None:
            self._gateway.unwanted([t for t in gone if not self._local.wants(t)])

    def wants(self, topic: str) -> bool:
        """Nobody knows, but of topics of one process of this machine."""
        return not self._is_here(topic) or self._local.wants(topic)

    @property
    def unsure(self) -> bool:
        """Whether there are processes here whose topics are not all known yet."""
        return self._local.unsure

    def publish(self, topic: str, data: bytes) -> bool:
        """Queue ``data`` for all; False if some of them cannot get it."""
        if topic.startswith("p:"):
            bus = self._local if self._is_here(topic) else self._remote
            return bus.publish(topic, data)
        reached = self._local.publish(topic, data)
        return self._remote.publish(topic, data) and reached

    def catch_up(self, topic: str) -> None:
        """Learn who wants ``topic`` here by now; see ``IpcBus``."""
        self._local.catch_up(topic)

    def flush(self, topic: str, timeout: float) -> bool:
        """
        Block until the kernel has all for those here, and Redis for the others.

        Returns:
            False if something of it was or may be lost.

        """
        end = time.monotonic() + timeout
        if topic.startswith("p:") and not self._is_here(topic):
            return self._remote.flush(topic, timeout)
        taken = self._local.flush(topic, timeout)
        if self._is_here(topic):
            return taken
        return self._remote.flush(topic, max(0.0, end - time.monotonic())) and taken

    def close(self) -> None:
        """Send what waits, at most for two seconds, and leave."""
        if self._clock is None:
            return
        self._clock.close()
        self._forget()
        self._local.close()
        self._remote.close()

    def stats(self) -> dict[str, int]:
        """Return what both buses count, and whether this process is the gateway."""
        return {
            **self._local.stats(),
            **self._remote.stats(),
            **self.counters,
            "gateway": int(self._gateway is not None),
        }

    def _forget(self) -> None:
        if self._election is not None:
            self._election.close()
        if self._gateway is not None:
            self._gateway.abandon()
        self._clock = self._election = self._gateway = self._next = None
        questions, self._questions = self._questions, {}
        for question in questions.values():
            question.unheard = frozenset(question.topics)
            question.answered.set()
        _started.discard(self)

    def abandon(self) -> None:
        """This is a forked child: nothing here is its own. Never blocks."""
        if self._clock is None:
            return
        if self._thread == _get_ident():
            self._clock.close()
            self._forget()
        else:
            # The hub was another thread's: what it was about to do is half done.
            _of_parent.append((self._clock, self._election, self._gateway))
            self._clock = self._election = self._gateway = self._next = None
            self._questions = {}
            _started.discard(self)

    # Names.

    def named(self, name: str) -> str:
        """Return what the layer calls a process of this machine."""
        return self._here + name

    def _is_here(self, topic: str) -> bool:
        """Say whether a topic belongs to one process, of this machine."""
        return topic.startswith("p:") and topic.startswith(self._here, 2)

    # Numbers and probes.

    @property
    def ledger(self) -> Ledger | None:
        """See ``Acknowledging``."""
        return self._ledger

    @ledger.setter
    def ledger(self, ledger: Ledger | None) -> None:
        self._ledger = ledger
        self._local.ledger = None if ledger is None else NamedLedger(self, ledger)

    def acknowledges(self, origin: str) -> bool:
        """Those of this machine do."""
        return origin.startswith(self._here)

    def ways(self) -> list[str]:
        """Return the ways between machines; here there is one for all topics."""
        return self._remote.ways()

    def way(self, topic: str) -> str:
        """Return the way of a topic between machines."""
        return self._remote.way(topic)

    def publish_probe(self, way: str, data: bytes) -> bool:
        """Tell all processes; False if those elsewhere cannot be told."""
        if data != NO_NUMBERS:
            self._local.publish(PROBE, data)
        if time.monotonic() - self._token_seen > TOKEN_INTERVAL:
            self._token_seen = time.monotonic()
            self._local.keep_token(self._machine)
        return self._remote.publish_probe(way, data)

    def unheard(self, topic: str) -> None:
        """No machine wanted a message."""
        if self.witness is not None:
            self.witness.unheard(topic)

    def echo(self) -> None:
        """The gateway's probe has come back: it hears for all who are here."""
        if self.witness is not None:
            self.witness.echo()
        if self._gateway is not None:
            self.tell_all(Echo())

    # What comes.

    def _heard_here(self, topic: str, data: bytes, name: str) -> None:
        """Take what another process of this machine says, or passes on. In the hub."""
        if topic.startswith(CONTROL):
            self._take_control(name, data)
        elif data.startswith(FORWARDED):
            self._take_forwarded(topic, data, name)
        else:
            self._deliver(topic, data, self._here + name)

    def _take_forwarded(self, topic: str, data: bytes, name: str) -> None:
        """
        Take what was heard at Redis, from one gateway only, so that order holds.

        What it has sent before it knew of the present wish belongs to an earlier one.
        """
        election = self._election
        if election is None or election.gateway != name:
            self.counters["messages of former gateways"] += 1
        elif self._local.serves(name, topic):
            try:
                origin, data = read_forwarded(data)
            except ValueError:
                self.counters["payloads that are not ours"] += 1
                return
            self._deliver(topic, data, origin)

    def _heard_there(self, topic: str, data: bytes, origin: str) -> None:
        """Take a message of another machine, and pass it on. In the hub."""
        if self._gateway is None:
            return
        if self._local.wants(topic):
            self.counters["messages passed on"] += 1
            self._local.publish(topic, encode_forwarded(origin, data))
        if topic in self._local.topics:
            self._deliver(topic, data, origin)

    def _remote_state(self, state: BusState, topics: Iterable[str]) -> None:
        """Take what Redis' bus reports."""
        if state is not BusState.GAP:
            self._on_state(state, topics)
        elif self._gateway is not None:
            names = list(topics)
            for start in range(0, len(names), MAX_TOPICS):
                self.tell_all(Gap(names[start : start + MAX_TOPICS]))
            self._announce_gap(names)

    def _announce_gap(self, topics: Iterable[str]) -> None:
        wanted = [t for t in topics if t in self._local.topics]
        if wanted:
            self._on_state(BusState.GAP, wanted)

    # Watcher.

    def unwanted(self, topics: list[str]) -> None:
        """No other process here wants them any more."""
        if self._gateway is not None:
            own = self._local.topics
            self._gateway.unwanted([t for t in topics if t not in own])

    def process_ended(self, name: str) -> None:
        """Another process here has."""
        if self._election is not None:
            self._election.process_ended(name)

    # Voters.

    def candidates(self) -> list[str]:
        """Return those who listen; servers before programs that only wait once."""
        serving = set(self._local.who_wants(PROBE))
        if self._serving:
            serving.add(self._name)
        names = {self._name, *self._local.who_wants(CONTROL)}
        return sorted(names, key=lambda name: (name not in serving, name))

    def fits(self, name: str) -> bool:
        """Whether it is a server, or there is none."""
        return not self._serving or name in (
            self._name,
            *self._local.who_wants(PROBE),
        )

    def tell_all(self, control: Control) -> None:
        """Tell the others here something."""
        self._local.publish(CONTROL, encode_control(control))

    def elected(self) -> None:
        """Have another gateway: it has to hear all topics, and some were missed."""
        election = self._election
        if election is None:
            return
        if election.won is not (self._gateway is not None):
            if self._gateway is not None:
                self._gateway.close()
                self._gateway = None
            else:
                self.counters["times gateway"] += 1
                self._gateway = Gateway(self._remote, self._is_wanted, self._answer)
        if election.gateway is not None:
            self._ask_for_all()

    def _is_wanted(self, topic: str) -> bool:
        return topic in self._local.topics or self._local.wants(topic)

    # Asking the gateway.

    def _control_topics(self) -> tuple[str, str]:
        return CONTROL, control_topic(self._name)

    def _join(self) -> None:
        """Take part in elections from now on."""
        assert self._clock is not None
        self._joined = True
        self._local.tell_wishes()
        self._election = Election(self._name, self, self._clock)
        self._election.join()

    def _ask(self, topics: Sequence[str]) -> Question:
        """Ask for topics at the end of this turn."""
        question = self._next
        if question is None or len(question.topics) >= MAX_TOPICS:
            question = self._next = self._new_question()
            get_hub().loop.run_callback(self._send, question)
        question.topics += topics
        return question

    def _new_question(self) -> Question:
        self._number += 1
        question = self._questions[self._number] = Question(self._number)
        return question

    def _ask_for_all(self) -> None:
        """Ask a new gateway for what an earlier one heard, and what it was asked."""
        asked = {t for each in self._questions.values() for t in each.topics}
        asked.update(self._control_topics())
        heard = [topic for topic in self._local.topics if topic not in asked]
        for start in range(0, len(heard), MAX_TOPICS):
            question = self._new_question()
            question.topics = heard[start : start + MAX_TOPICS]
            question.late.update(question.topics)
        for question in list(self._questions.values()):
            if question is not self._next:  # which is asked at the end of this turn
                self._send(question)

    def _send(self, question: Question) -> None:
        """Ask the gateway, if there is one; else the next one will be asked."""
        if question is self._next:
            self._next = None
        election = self._election
        if election is None or election.gateway is None:
            return
        wanted = [topic for topic in question.topics if topic in self._local.topics]
        question.asked = time.monotonic()
        if self._gateway is not None:
            self._gateway.ask(self._name, question.number, wanted)
        else:
            self._local.tell_wishes()
            ask = Ask(question.number, wanted)
            self._local.publish(control_topic(election.gateway), encode_control(ask))

    def _wait_for(self, question: Question, names: Sequence[str], end: float) -> bool:
        """Wait for the answer; if it comes later, the gap is announced."""
        if not question.answered.is_set() and getcurrent() is not get_hub():
            question.answered.wait(max(0.0, end - time.monotonic()))
        if not question.answered.is_set():
            question.late.update(names)
            return False
        if question.refusal:
            raise LayerRefused(question.refusal)
        return question.unheard.isdisjoint(names)

    def _take_control(self, name: str, data: bytes) -> None:
        """Take what processes tell each other. In the hub."""
        election = self._election
        try:
            control = read_control(data)
        except ValueError:
            self.counters["payloads that are not ours"] += 1
            return
        if election is None:
            return
        match control:
            case Who():
                election.take_who()
            case Beat(number):
                election.take_beat(name, number)
                self._ask_again()
            case Ask(number, topics) if self._gateway is not None:
                self._gateway.ask(name, number, topics)
            case Answer(number, unheard, refusal) if name == election.gateway:
                self._take_answer(number, unheard, refusal)
            case Gap(topics) if name == election.gateway:
                self._announce_gap(topics)
            case Echo() if name == election.gateway and self.witness is not None:
                self.witness.echo()

    def _ask_again(self) -> None:
        """Ask for what was not answered: the link may have ended in between."""
        now = time.monotonic()
        for question in list(self._questions.values()):
            if question is not self._next and now - question.asked > ASK_AGAIN:
                self._send(question)

    def _answer(
        self, process: str, number: int, unheard: list[str], refusal: str
    ) -> None:
        """Tell who has asked what Redis says."""
        if process == self._name:
            self._take_answer(number, unheard, refusal)
        else:
            answer = encode_control(Answer(number, unheard, refusal))
            self._local.publish(control_topic(process), answer)

    def _take_answer(self, number: int, unheard: list[str], refusal: str) -> None:
        question = self._questions.pop(number, None)
        if question is None:
            return
        question.unheard, question.refusal = frozenset(unheard), refusal
        question.answered.set()
        self._announce_gap(question.late - question.unheard)


#: Those that a fork must take from the child.
_started: weakref.WeakSet[TiersBus] = weakref.WeakSet()

#: What a child never lets go of: a loop of a thread that it does not have.
_of_parent: list[object] = []


def _after_fork() -> None:
    """Let the child have nothing of its parent's."""
    for bus in tuple(_started):
        bus.abandon()


os.register_at_fork(after_in_child=_after_fork)
