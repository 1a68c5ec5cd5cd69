"""
All meaning of groups and channels, once, over any bus.

A layer knows the members in its own process and which topics they need. What
is sent reaches them directly; one copy goes to the bus for the other
processes. A large group is served in slices, the first at once, so that a
broadcast to many leaves the hub to others in between; a broadcast once begun
is finished, whatever happens to its sender.

What layers tell each other beside messages is in ``exchange.py``. The module is long
because it is the one place where a promise of groups can be read.
"""

from __future__ import annotations

import logging
import os
import re
import weakref
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any, Protocol

import gevent
from gevent import getcurrent
from gevent.event import Event as Signal
from gevent.monkey import get_original

from ..errors import (
    ConfigurationError,
    ConnectionEnded,
    LayerUnavailable,
    TooManyGroups,
)
from ..net.reactor import Reactor
from .codec import Broadcast, decode_message, encode_message, make_broadcast
from .exchange import GONE, LOST, Exchange, process_topic
from .ports import Bus, BusState, Linked

#: Members served in one go.
SLICE = 1024

#: Unfinished broadcasts of one group before a sender waits for the hub.
MAX_UNFINISHED = 32

#: Seconds that ``add`` waits for the bus to confirm.
SUBSCRIBE_TIMEOUT = 2.0

#: The type of the event that tells a consumer that its group's messages were lost:
#: "missed" is how many, or ``None`` if nobody knows.
GAP_EVENT = "layer.gap"

#: Longest group name, in bytes of UTF-8.
MAX_NAME = 200

#: What slow members are denied, as ``stats`` calls it for a route and for all.
SLOW_TOTALS = {
    "sockets closed": "closed for being slow",
    "frames dropped": "frames dropped for slow members",
    "frames replaced": "frames replaced for slow members",
    "events dropped": "events dropped for slow members",
    "events replaced": "events replaced for slow members",
    "connections cut": "connections cut for memory",
}

_CHANNEL_NAME = re.compile(r"[A-Za-z0-9._-]+(?:[!?][A-Za-z0-9._-]*)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_get_ident = get_original("_thread", "get_ident")

logger = logging.getLogger("greenchannels.layer")


class Member(Protocol):
    """What a layer asks of those it delivers to."""

    #: Topics that this member is in; kept by the layer.
    memberships: set[str] | None
    #: The most topics it may be in, or ``None``.
    max_groups: int | None

    def deliver(self, broadcast: Broadcast) -> None:
        """Take a message; never blocks."""


class Topic:
    """The members of one topic in this process, and what they still have to get."""

    __slots__ = ("members", "ready", "snapshot", "unfinished")

    def __init__(self) -> None:
        self.members: dict[Member, None] = {}
        #: The members as a list, shared by broadcasts until somebody comes or goes.
        self.snapshot: list[Member] | None = None
        self.unfinished: deque[tuple[Broadcast, object, list[Member], int]] | None
        self.unfinished = None
        #: Set once the bus has confirmed, or the wait for it is over.
        self.ready: Signal | None = None


def group_topic(name: str) -> str:
    """
    Return the topic of the group called ``name``.

    Raises:
        TypeError: If ``name`` is no str.
        ValueError: If it is empty, too long, or has control characters.

    """
    if not isinstance(name, str):
        raise TypeError(f"a group's name is a str, not {type(name).__name__}")
    if not name or len(name) > MAX_NAME or _CONTROL.search(name):
        raise ValueError(f"not a name for a group: {name!r}")
    if not name.isascii() and len(name.encode()) > MAX_NAME:
        raise ValueError(f"a group's name has at most {MAX_NAME} bytes: {name!r}")
    return "g:" + name


def user_topic(user_id: str) -> str:
    """Return the topic of all sockets of a user; no group name reaches it."""
    return "u:" + user_id


def channel_topic(name: str) -> str:
    """Return what messages to one channel are about: they are a group of their own."""
    return "c:" + name


def check_channel_name(name: str) -> str:
    """Return ``name`` if a channel may be called so, else raise."""
    if not isinstance(name, str):
        raise TypeError(f"a channel's name is a str, not {type(name).__name__}")
    if len(name) > 100 or not _CHANNEL_NAME.fullmatch(name):
        raise ValueError(f"not a name for a channel: {name!r}")
    return name


class Layer:
    """
    Groups and channels of one process, joined to the others by ``bus``.

    All methods belong to the hub's thread but ``send`` and ``send_channel``,
    which native threads may call: they hand the message to the hub.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        # Looked up once: to ask a protocol takes longer than what is asked for.
        self._linked = bus if isinstance(bus, Linked) else None
        self._topics: dict[str, Topic] = {}
        self._channels: dict[str, Member] = {}
        self._last_channel = 0
        self._reactor: Reactor | None = None
        self._thread = 0
        #: What happened to messages, by name.
        self.counters: Counter[str] = Counter()
        self._exchange = Exchange(bus, self.counters, self._announce_gap, self._perform)
        self._slow: dict[str, dict[str, Any]] = {}
        self._rates: dict[str, dict[str, int]] = {}
        #: Names this process in channel names; empty until started.
        self.origin = ""

    # Life.

    def start(self, reactor: Reactor, *, listens: bool = True) -> None:
        """
        Join the bus; ``reactor`` is the hub that members live on.

        Blocks until the others know, at most a few seconds.

        Args:
            listens: Whether there will be members; a layer without only sends.

        Raises:
            ConfigurationError: If the bus cannot be as it was configured.
            LayerUnavailable: If there is no way to the others.

        """
        self._thread = _get_ident()
        self.origin = self._bus.start(self._deliver, self._on_state)
        self._reactor = reactor
        _started.add(self)
        try:
            timeout = SUBSCRIBE_TIMEOUT
            self._exchange.start(reactor, self.origin, timeout, listens=listens)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """
        Leave the bus and forget all members.

        Blocks while the bus sends what waits, at most a few seconds.
        """
        self._exchange.close()
        self._bus.close()
        self.abandon()

    def abandon(self) -> None:
        """Forget all members, and tell nobody: in a child that was just forked."""
        _started.discard(self)
        self._exchange.close()
        self._topics.clear()
        self._channels.clear()
        self._reactor = None
        self.origin = ""

    @property
    def started(self) -> bool:
        """Whether members can be served."""
        return self._reactor is not None

    @property
    def busy(self) -> bool:
        """Whether a broadcast still waits to reach some members."""
        return any(t.unfinished for t in self._topics.values())

    def stats(self) -> dict[str, Any]:
        """
        Return counts of what happened so far, and the present sizes.

        "messages missed" were lost on their way from other processes, "lost publishes"
        on their way to some of them; "bus" has what the bus itself counts.
        "slow" has, by route, the policy for slow consumers and what it did; "rates"
        what became of sockets and messages above a route's rates.
        """
        return {
            **self.counters,
            **self._exchange.bus_stats(),
            "groups": len(self._topics),
            "channels": len(self._channels),
            "slow": {route: dict(counts) for route, counts in self._slow.items()},
            "rates": {route: dict(counts) for route, counts in self._rates.items()},
        }

    def count_slow(
        self, route: str, policy: str | None, what: str, number: int = 1
    ) -> None:
        """
        Count what members were denied that read too slowly.

        Args:
            route: The pattern of their route.
            policy: What that route does about them, if it has a policy.
            what: A key of ``SLOW_TOTALS``.
            number: How many.

        """
        self.counters[SLOW_TOTALS[what]] += number
        counts = self._slow.get(route)
        if counts is None:
            counts = self._slow[route] = {"policy": policy}
        counts[what] = counts.get(what, 0) + number

    def rate_counts(self, route: str) -> dict[str, int]:
        """Return what ``stats`` shows of a route's rates, to be counted up."""
        counts = {"closed": 0, "dropped": 0, "waits": 0}
        return self._rates.setdefault(route, counts)

    def probe(self) -> None:
        """Tell the others the numbers of what was sent, as is done each 5 seconds."""
        self._exchange.probe()

    def is_wanted(self, topic: str) -> bool:
        """Say whether another process has members of ``topic``, as far as is known."""
        return self._bus.wants(topic)

    def flush(self, topic: str, timeout: float) -> bool:
        """
        Block until the system has what was sent to ``topic`` in other processes.

        Args:
            timeout: Seconds after which the rest is not waited for.

        Returns:
            False if it has not all of it; then that may be lost.

        """
        return self._linked is None or self._linked.flush(topic, timeout)

    def catch_up(self, topic: str) -> None:
        """Learn who wants ``topic`` by now; blocks if the hub was kept from it."""
        if self._linked is not None:
            self._linked.catch_up(topic)

    # Membership.

    def add(self, topic: str, member: Member) -> None:
        """
        Make ``member`` get what is sent to ``topic``.

        Blocks until the bus confirms, at most ``SUBSCRIBE_TIMEOUT`` seconds and
        only for the first member of a topic; what is sent after that arrives.

        Raises:
            TooManyGroups: If the member is in as many groups as it may.

        """
        found = self._topics.get(topic)
        if found is None:
            found = self._topics[topic] = Topic()
            self._join(found, topic, member)
            self._subscribe(found, topic, member)
        elif member not in found.members:
            self._join(found, topic, member)
            if found.ready is not None:
                found.ready.wait(SUBSCRIBE_TIMEOUT)

    def discard(self, topic: str, member: Member) -> None:
        """Undo ``add``; nothing happens if ``member`` is not in."""
        if member.memberships is not None:
            member.memberships.discard(topic)
        found = self._topics.get(topic)
        if found is None or member not in found.members:
            return
        del found.members[member]
        found.snapshot = None
        if not found.members:
            del self._topics[topic]
            self._exchange.forget([topic])
            self._bus.unsubscribe([topic])

    def discard_everywhere(self, member: Member) -> None:
        """Take ``member`` out of all its groups: it has ended."""
        for topic in tuple(member.memberships or ()):
            self.discard(topic, member)
        member.memberships = None

    def members(self, topic: str) -> Iterable[Member]:
        """Return the members of ``topic`` in this process."""
        found = self._topics.get(topic)
        return tuple(found.members) if found is not None else ()

    def _join(self, found: Topic, topic: str, member: Member) -> None:
        joined = member.memberships
        if joined is None:
            joined = member.memberships = set()
        if member.max_groups is not None and len(joined) >= member.max_groups:
            if not found.members:
                del self._topics[topic]
            raise TooManyGroups(f"already in {len(joined)} groups")
        joined.add(topic)
        found.members[member] = None
        found.snapshot = None

    def _subscribe(self, found: Topic, topic: str, member: Member) -> None:
        found.ready = Signal()
        try:
            if not self._bus.subscribe([topic], SUBSCRIBE_TIMEOUT):
                self.counters["unconfirmed joins"] += 1
        except BaseException:
            self.discard(topic, member)
            raise
        finally:
            found.ready.set()
            found.ready = None

    def add_channel(self, topic: str, name: str) -> None:
        """
        Add the socket that ``name`` belongs to, in whatever process it is.

        Blocks until its membership holds, at most ``SUBSCRIBE_TIMEOUT`` seconds.

        Raises:
            ConnectionEnded: If there is no such socket any more.
            TooManyGroups: If it is in as many groups as it may.
            LayerUnavailable: If its process cannot be reached.

        """
        self._call("add", topic, name)

    def discard_channel(self, topic: str, name: str) -> None:
        """Undo ``add_channel``; nothing happens if there is no such socket."""
        self._call("discard", topic, name)

    def is_elsewhere(self, name: str) -> bool:
        """Say whether ``name`` is of a socket of another process that lives."""
        process = name.partition("!")[0]
        return process != self.origin and self._bus.wants(process_topic(process))

    def _call(self, operation: str, topic: str, name: str) -> None:
        if self.is_elsewhere(name):
            self._exchange.call(operation, topic, name)
        else:
            self._perform(operation, topic, name)

    def _perform(self, operation: str, topic: str, name: str) -> None:
        """Do to the socket that ``name`` belongs to what somebody asked for."""
        member = self._channels.get(name)
        if operation == "discard":
            if member is not None:
                self.discard(topic, member)
        elif member is None:
            raise ConnectionEnded(reason=f"no socket is called {name}")
        else:
            self.add(topic, member)

    # Channels.

    def new_channel(self, member: Member) -> str:
        """Return a name, never used before, that reaches ``member`` alone."""
        self._last_channel += 1
        name = f"{self.origin}!{self._last_channel}"
        self._channels[name] = member
        return name

    def close_channel(self, name: str) -> None:
        """Forget a channel name."""
        self._channels.pop(name, None)

    def find_channel(self, name: str) -> Member | None:
        """Return the member of this process that ``name`` reaches."""
        return self._channels.get(name)

    # Sending.

    def send(
        self,
        topic: str,
        broadcast: Broadcast,
        *,
        exclude: object = None,
        strict: bool = False,
    ) -> None:
        """
        Send to all members of ``topic``, in this process and the others.

        Blocks only when ``MAX_UNFINISHED`` earlier broadcasts to the same large
        group are still being served.

        Args:
            exclude: A member, or a channel name, that does not get it.
            strict: Raise when the other processes cannot be reached.

        Raises:
            LayerUnavailable: With ``strict``.

        """
        reactor = self._reactor
        if reactor is None:
            raise ConfigurationError("the layer has not been started")
        if _get_ident() != self._thread:
            reactor.loop.run_callback_threadsafe(
                self._send, topic, broadcast, exclude, False
            )
            return
        found = self._topics.get(topic)
        if found is not None and found.unfinished is not None:
            self._wait_for_turn(found, reactor)
        self._send(topic, broadcast, exclude, strict)

    def send_channel(self, name: str, broadcast: Broadcast) -> None:
        """
        Send to the socket that ``name`` belongs to, wherever it is.

        A socket that has gone is counted, not an error.

        Raises:
            LayerUnavailable: If its process cannot be reached.

        """
        reactor = self._reactor
        if reactor is None:
            raise ConfigurationError("the layer has not been started")
        check_channel_name(name)
        if _get_ident() != self._thread:
            reactor.loop.run_callback_threadsafe(self._send_channel, name, broadcast)
        elif not self._send_channel(name, broadcast):
            raise LayerUnavailable(f"the process of {name} cannot be reached")

    def _send_channel(self, name: str, broadcast: Broadcast) -> bool:
        process = name.partition("!")[0]
        topic = process_topic(process)
        if process == self.origin or "!" not in name:
            self._send_local(name, broadcast)
        elif self._bus.wants(topic):
            return self._publish(topic, broadcast, name)
        else:
            self.counters[GONE] += 1
        return True

    def _send(
        self, topic: str, broadcast: Broadcast, exclude: object, strict: bool
    ) -> None:
        excluded = self._channels.get(exclude) if type(exclude) is str else exclude
        reached = True
        if self._bus.wants(topic):  # first: they deliver while this process does
            name = exclude if isinstance(exclude, str) else None
            if name is None:
                name = getattr(exclude, "channel_name", "")
            reached = self._publish(topic, broadcast, name)
        else:
            self._exchange.not_wanted(topic)
        found = self._topics.get(topic)
        if found is not None:
            self._begin(topic, found, broadcast, excluded)
        if strict and not reached:
            raise LayerUnavailable("the other processes cannot be reached")

    def _send_local(self, name: str, broadcast: Broadcast) -> None:
        member = self._channels.get(name)
        if member is None:
            self.counters[GONE] += 1
        else:
            self._take(channel_topic(name), broadcast)
            member.deliver(broadcast)

    def _take(self, topic: str, broadcast: Broadcast) -> None:
        """Note what a message is about, and who counts the frames made of it."""
        broadcast.topic = topic
        if self._reactor is not None:
            broadcast.backlog = self._reactor.backlog

    def _publish(self, topic: str, broadcast: Broadcast, name: str) -> bool:
        epoch, number = self._exchange.accounts.published.number(topic)
        data = encode_message(broadcast, exclude=name, epoch=epoch, number=number)
        if self._bus.publish(topic, data):
            return True
        self.counters[LOST] += 1
        return False

    def _wait_for_turn(self, found: Topic, reactor: Reactor) -> None:
        """Let the hub work while too many broadcasts are unfinished."""
        while found.unfinished is not None and len(found.unfinished) > MAX_UNFINISHED:
            if getcurrent() is reactor.hub:
                return
            gevent.sleep(0)

    # Delivering.

    def _deliver(self, topic: str, data: bytes, origin: str) -> None:
        """Take a message from the bus. Called in the hub."""
        exchange = self._exchange
        try:
            if exchange.takes(topic, data, origin):
                return
            broadcast, name, epoch, number = decode_message(data)
        except ValueError:
            self.counters["messages that are not ours"] += 1
            return
        if not exchange.accounts.take(topic, origin, epoch, number):
            self.counters["messages heard twice"] += 1
        elif topic.startswith("p:"):
            self._send_local(name, broadcast)
        elif (found := self._topics.get(topic)) is not None:
            self._begin(topic, found, broadcast, self._channels.get(name))

    def _on_state(self, state: BusState, topics: Iterable[str]) -> None:
        """Take what the bus reports. Called in the hub, or where the bus was asked."""
        if state is BusState.GAP:
            self.counters["gaps of unknown size"] += 1
            for topic in topics:
                self._announce_gap(topic, None)
        elif state is BusState.DOWN:
            self.counters["outages of the layer"] += 1

    def _announce_gap(self, topic: str, missed: int | None) -> None:
        """Tell the members that listen that messages were lost. Never blocks."""
        found = self._topics.get(topic)
        if found is None:
            return
        event = {"type": GAP_EVENT, "missed": missed}
        if topic.startswith("g:"):
            event["group"] = topic[2:]
        listening = [each for each in found.members if _listens(each)]
        broadcast = make_broadcast(event)
        self._take(topic, broadcast)
        self._serve(found.members, listening, broadcast, None)

    def _begin(
        self, topic: str, found: Topic, broadcast: Broadcast, exclude: object
    ) -> None:
        """Serve the first slice now, unless earlier broadcasts are unfinished."""
        self._take(topic, broadcast)
        snapshot = found.snapshot
        if snapshot is None:
            snapshot = found.snapshot = list(found.members)
        if found.unfinished is not None:
            found.unfinished.append((broadcast, exclude, snapshot, 0))
            return
        self._serve(found.members, snapshot[:SLICE], broadcast, exclude)
        if len(snapshot) > SLICE:
            found.unfinished = deque([(broadcast, exclude, snapshot, SLICE)])
            self._later(found)

    def _later(self, found: Topic) -> None:
        assert self._reactor is not None
        self._reactor.next_turn(lambda: self._continue(found))

    def _continue(self, found: Topic) -> None:
        """Serve one more slice of the oldest unfinished broadcast. Hub only."""
        if not found.unfinished or self._reactor is None:
            return
        broadcast, exclude, snapshot, start = found.unfinished.popleft()
        end = start + SLICE
        self._serve(found.members, snapshot[start:end], broadcast, exclude)
        if end < len(snapshot):
            found.unfinished.appendleft((broadcast, exclude, snapshot, end))
        if found.unfinished:
            self._later(found)
        else:
            found.unfinished = None

    def _serve(
        self,
        members: dict[Member, None],
        those: list[Member],
        broadcast: Broadcast,
        exclude: Any,
    ) -> None:
        for member in those:
            if member in members and member is not exclude:
                try:
                    member.deliver(broadcast)
                except Exception:
                    logger.exception("%r could not take a message", member)


def _listens(member: Member) -> bool:
    """Say whether a member wants to be told of gaps."""
    listens_to = getattr(member, "listens_to", None)
    return listens_to is not None and listens_to(GAP_EVENT)


#: Those that a child of this process must not take for its own.
_started: weakref.WeakSet[Layer] = weakref.WeakSet()

#: What a child keeps of its parent's members: letting go of each takes time, which a
#: child that is about to run another program does not have.
_of_parent: list[object] = []


def _after_fork() -> None:
    """Let the child have no layer of its parent's."""
    for layer in tuple(_started):
        _of_parent.append((layer._topics, layer._channels))
        layer._topics, layer._channels = {}, {}
        if layer._thread == _get_ident():
            layer.abandon()
        else:
            _of_parent.append(layer._reactor)
            layer._reactor, layer.origin = None, ""  # no thread is there to end it


os.register_at_fork(after_in_child=_after_fork)
