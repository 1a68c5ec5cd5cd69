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

The module is long because this bus is several ports at once (``ports.py``).
"""

from __future__ import annotations

import os
import time
import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from gevent import get_hub
from gevent.monkey import get_original

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
from .tiers_questions import Questions

if TYPE_CHECKING:
    from .redis.bus import RedisBus

#: Seconds between two looks whether the folder's token is there.
TOKEN_INTERVAL = 60.0

_get_ident = get_original("_thread", "get_ident")


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
        self._questions = self._new_questions()

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
        self._questions = self._new_questions()
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
        question = self._questions.ask(names)
        if not self._joined:
            self._join()
        confirmed = self._local.wait_for(number, wanted, timeout)
        return self._questions.wait_for(question, names, end) and confirmed

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
        self._clock = self._election = self._gateway = None
        self._questions.close()
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
            kept = (self._clock, self._election, self._gateway, self._questions)
            _of_parent.append(kept)
            self._clock = self._election = self._gateway = None
            self._questions = self._new_questions()
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
            self._questions.ask_all(self._control_topics())

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

    def _new_questions(self) -> Questions:
        return Questions(self._local.topics, self._ask, self._announce_gap)

    def _ask(self, number: int, topics: list[str]) -> None:
        """Ask the gateway to hear topics, if there is one."""
        election = self._election
        if election is None or election.gateway is None:
            return
        if self._gateway is not None:
            self._gateway.ask(self._name, number, topics)
        else:
            self._local.tell_wishes()
            ask = encode_control(Ask(number, topics))
            self._local.publish(control_topic(election.gateway), ask)

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
                self._questions.ask_again()
            case Ask(number, topics) if self._gateway is not None:
                self._gateway.ask(name, number, topics)
            case Answer(number, unheard, refusal) if name == election.gateway:
                self._questions.take_answer(number, unheard, refusal)
            case Gap(topics) if name == election.gateway:
                self._announce_gap(topics)
            case Echo() if name == election.gateway and self.witness is not None:
                self.witness.echo()

    def _answer(
        self, process: str, number: int, unheard: list[str], refusal: str
    ) -> None:
        """Tell who has asked what Redis says."""
        if process == self._name:
            self._questions.take_answer(number, unheard, refusal)
        else:
            answer = encode_control(Answer(number, unheard, refusal))
            self._local.publish(control_topic(process), answer)


#: Those that a fork must take from the child.
_started: weakref.WeakSet[TiersBus] = weakref.WeakSet()

#: What a child never lets go of: a loop of a thread that it does not have.
_of_parent: list[object] = []


def _after_fork() -> None:
    """Let the child have nothing of its parent's."""
    for bus in tuple(_started):
        bus.abandon()


os.register_at_fork(after_in_child=_after_fork)
