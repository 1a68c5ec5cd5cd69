"""
All meaning of groups and channels, once, over any bus.

A layer knows the members in its own process and which topics they need. What
is sent reaches them directly; one copy goes to the bus for the other
processes. A large group is served in slices, the first at once, so that a
broadcast to many leaves the hub to others in between; a broadcast once begun
is finished, whatever happens to its sender.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any, Protocol

import gevent
from gevent import getcurrent
from gevent.event import Event as Signal
from gevent.monkey import get_original

from ..errors import ConfigurationError, LayerUnavailable, TooManyGroups
from ..net.reactor import Reactor
from .codec import Broadcast, decode_message, encode_message
from .ports import Bus, BusState

#: Members served in one go.
SLICE = 1024

#: Unfinished broadcasts of one group before a sender waits for the hub.
MAX_UNFINISHED = 32

#: Seconds that ``add`` waits for the bus to confirm.
SUBSCRIBE_TIMEOUT = 2.0

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
        self._topics: dict[str, Topic] = {}
        self._channels: dict[str, Member] = {}
        self._last_channel = 0
        self._reactor: Reactor | None = None
        self._thread = 0
        self._numbers: dict[str, int] = {}
        self._epoch = 1
        #: What happened to messages, by name.
        self.counters: Counter[str] = Counter()
        self._slow: dict[str, dict[str, Any]] = {}
        self._rates: dict[str, dict[str, int]] = {}
        #: Names this process in channel names; empty until started.
        self.origin = ""

    # Life.

    def start(self, reactor: Reactor) -> None:
        """Join the bus; ``reactor`` is the hub that members live on."""
        self._reactor = reactor
        self._thread = _get_ident()
        self.origin = self._bus.start(self._deliver, self._on_state)

    def close(self) -> None:
        """Leave the bus and forget all members."""
        self._bus.close()
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

        "slow" has, by route, the policy for slow consumers and what it did; "rates"
        what became of sockets and messages above a route's rates.
        """
        return {
            **self.counters,
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
        if _get_ident() != self._thread:
            reactor.loop.run_callback_threadsafe(self._send_local, name, broadcast)
            return
        process = check_channel_name(name).partition("!")[0]
        if process == self.origin or "!" not in name:
            self._send_local(name, broadcast)
        elif self._bus.wants("p:" + process):
            if not self._publish("p:" + process, broadcast, name):
                raise LayerUnavailable(f"{process} cannot be reached")
        else:
            self.counters["sent to channels that have gone"] += 1

    def _send(
        self, topic: str, broadcast: Broadcast, exclude: object, strict: bool
    ) -> None:
        excluded = self._channels.get(exclude) if type(exclude) is str else exclude
        found = self._topics.get(topic)
        if found is not None:
            self._begin(topic, found, broadcast, excluded)
        if self._bus.wants(topic):
            name = exclude if isinstance(exclude, str) else None
            if name is None:
                name = getattr(exclude, "channel_name", "")
            if not self._publish(topic, broadcast, name) and strict:
                raise LayerUnavailable("the other processes cannot be reached")

    def _send_local(self, name: str, broadcast: Broadcast) -> None:
        member = self._channels.get(name)
        if member is None:
            self.counters["sent to channels that have gone"] += 1
        else:
            self._take(channel_topic(name), broadcast)
            member.deliver(broadcast)

    def _take(self, topic: str, broadcast: Broadcast) -> None:
        """Note what a message is about, and who counts the frames made of it."""
        broadcast.topic = topic
        if self._reactor is not None:
            broadcast.backlog = self._reactor.backlog

    def _publish(self, topic: str, broadcast: Broadcast, name: str) -> bool:
        number = self._numbers[topic] = self._numbers.get(topic, 0) + 1
        data = encode_message(broadcast, exclude=name, epoch=self._epoch, number=number)
        if self._bus.publish(topic, data):
            return True
        self.counters["lost publishes"] += 1
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
        try:
            broadcast, name, _, _ = decode_message(data)
        except ValueError:
            self.counters["messages that are not ours"] += 1
            return
        if topic.startswith("p:"):
            self._send_local(name, broadcast)
        elif (found := self._topics.get(topic)) is not None:
            self._begin(topic, found, broadcast, self._channels.get(name))

    def _on_state(self, state: BusState, topics: Iterable[str]) -> None:
        logger.warning("the layer's bus reports: %s", state.value)

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
