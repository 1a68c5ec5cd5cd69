"""
The bus over Redis or Valkey: one server, or several among which topics are divided.

Topics are channels of their pub/sub. For each server a process has one connection that
publishes (``publisher.py``) and one that listens (``listener.py``). Redis does not say
who else listens: nothing is known of other processes but what they say.
"""

from __future__ import annotations

import os
import secrets
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import gevent
from gevent import get_hub, getcurrent
from gevent.monkey import get_original

from ..numbers import NO_NUMBERS, PROBE
from ..ports import BusState, Deliver, OnState, Witness
from .connection import Refusal
from .frames import CLEAR, SEALED, encode_head, read_head
from .link import Link
from .routers import Router
from .sealing import Sealer

#: Seconds in which ``close`` sends what waits.
CLOSE_TIMEOUT = 1.0

_get_ident = get_original("_thread", "get_ident")

T = TypeVar("T")


class RedisBus:
    """
    Publish and subscribe on servers.

    Belongs to the hub of the thread that starts it.

    Args:
        router: The servers.
        seal: Encrypts messages, if they are to be.

    """

    def __init__(self, router: Router, seal: Sealer | None = None) -> None:
        self._router = router
        self._seal = seal
        self._mark = CLEAR if seal is None else SEALED
        #: What happened, by name.
        self.counters: Counter[str] = Counter()
        #: Is told what only a server knows.
        self.witness: Witness | None = None
        self._links: dict[str, Link] = {}
        #: The topics that are wanted.
        self._topics: set[str] = set()
        self._head = b""
        self._origin = ""
        self._relatives: str | None = None
        self._thread = 0
        self._started = False
        #: Whether all links were whole when that was reported, and whether they are
        #: being made, so that there is nothing to report.
        self._whole, self._connecting = True, 0

    # The port.

    def start(
        self,
        deliver: Deliver,
        on_state: OnState,
        origin: str | None = None,
        relatives: str | None = None,
    ) -> str:
        """
        Connect; blocks for one attempt, usually 2 s at most.

        A server that is away is a state and no error.

        Args:
            deliver: Takes messages.
            on_state: Takes states.
            origin: The name of this process, if it has one; it is never used again.
            relatives: What the names begin with of processes that are heard in another
                way, and left out here.

        Raises:
            ConfigurationError: If a server does not let this program in.

        """
        self._deliver, self._on_state = deliver, on_state
        self._links, self._topics, self._whole = {}, set(), True
        self._origin = origin or f"{os.getpid()}-{secrets.token_hex(6)}"
        self._relatives = relatives
        self._head = encode_head(self._origin, self._mark)
        self._thread = _get_ident()
        self._started = True
        _started.add(self)
        try:
            self._router.start(self._servers_changed)
            servers = list(self._router.places)
            self._make_links(servers)
            self._start_links(servers, insist=True)
        except BaseException:
            self._end(0.0)
            raise
        self._tell_state()
        return self._origin

    def subscribe(self, topics: Iterable[str], timeout: float) -> bool:
        """
        Want ``topics``; blocks until Redis confirms.

        Does not block in the hub, nor for servers that are known to be away.

        Raises:
            ConfigurationError: If a server has never let this program listen.

        """
        if not self._started:
            return False
        wanted = list(topics)
        self._topics.update(wanted)
        found = self._channels(wanted)
        links = self._links
        work = [(links[s], found[s], timeout) for s in found if s in links]
        confirmed = _in_parallel(Link.subscribe, work)
        return len(confirmed) == len(found) and all(confirmed)

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Want ``topics`` no more."""
        gone = list(topics)
        self._topics.difference_update(gone)
        for server, channels in self._channels(gone).items():
            if server in self._links:
                self._links[server].unsubscribe(channels)

    def hears(self, topic: str) -> bool:
        """Say whether Redis has confirmed that ``topic`` is wanted."""
        found = self._channels([topic])
        links = self._links
        return all(s in links and links[s].hears(found[s]) for s in found)

    def stop_listening(self) -> None:
        """Want nothing more, and end what listens; never blocks."""
        self._topics.clear()
        for link in self._links.values():
            link.stop_listening()

    def wants(self, topic: str) -> bool:
        """Nobody knows, so it may be."""
        return True

    def publish(self, topic: str, data: bytes) -> bool:
        """Queue ``data``; False if its server is away or too much waits for it."""
        server, channel = self._router.find(topic)
        link = self._links.get(server)
        if link is None:
            return False
        if self._seal is not None:
            data = self._seal.seal(topic, self._origin, data)
        return link.publish(topic, channel, data)

    def catch_up(self, topic: str) -> None:
        """There is nothing to learn."""

    def flush(self, topic: str, timeout: float) -> bool:
        """
        Block until Redis has answered for all that was published; not in the hub.

        Returns:
            False if something of it was or may be lost.

        """
        link = self._links.get(self._router.find(topic)[0])
        return link is not None and link.flush(timeout)

    def close(self) -> None:
        """Send what waits, at most for a second, and leave."""
        if self._started:
            self._end(CLOSE_TIMEOUT)

    def stats(self) -> dict[str, int]:
        """Return counts of what happened, and how many connections there are."""
        open_now = sum(link.connections for link in self._links.values())
        return {**self.counters, "connections": open_now}

    # Probes: order holds only on the way over one server.

    def ways(self) -> list[str]:
        """Return the names of the servers."""
        return list(self._links)

    def way(self, topic: str) -> str:
        """Return the server of a topic."""
        return self._router.find(topic)[0]

    def publish_probe(self, way: str, data: bytes) -> bool:
        """Have a server tell all processes; False if it is away."""
        link = self._links.get(way)
        return link is not None and link.publish_probe(self._sealed(data))

    def empty_probe(self) -> bytes:
        """Return a probe that says only that this process lives."""
        return self._sealed(NO_NUMBERS)

    def _sealed(self, probe: bytes) -> bytes:
        if self._seal is None:
            return probe
        return self._seal.seal(PROBE, self._origin, probe)

    # Links.

    def _channels(self, topics: Iterable[str]) -> dict[str, dict[bytes, str]]:
        """Return what topics are, by server and channel."""
        found: dict[str, dict[bytes, str]] = {}
        for topic in topics:
            if topic == PROBE:
                for server in self._router.places:
                    channels = self._router.probe_channels(server)
                    found.setdefault(server, {}).update(dict.fromkeys(channels, PROBE))
            else:
                server, channel = self._router.find(topic)
                found.setdefault(server, {})[channel] = topic
        return found

    def _make_links(self, servers: list[str]) -> None:
        """Have what is to be started."""
        router, head = self._router, self._head
        for server in servers:
            channel = router.probe_channels(server)[0]
            place = router.places[server]
            link = Link(place, router.dialect, head, channel, self, self.counters)
            self._links[server] = link

    def _start_links(self, servers: list[str], *, insist: bool) -> None:
        """
        Connect to all of them at the same time.

        Args:
            servers: Their names.
            insist: See ``Link.start``.

        """
        work = [(self._links[server],) for server in servers]
        self._connecting += 1
        try:
            _in_parallel(partial(Link.start, insist=insist), work)
        finally:
            self._connecting -= 1

    def _servers_changed(self) -> None:
        """Have a link to each server, and listen where topics belong now. Blocks."""
        if not self._started:
            return
        places = self._router.places
        for server in [each for each in self._links if each not in places]:
            self._links.pop(server).close(0.0)
        fresh = [each for each in places if each not in self._links]
        self._make_links(fresh)
        self._move_wishes()
        self._start_links(fresh, insist=False)
        self._tell_state()

    def _move_wishes(self) -> None:
        """Listen where topics belong now."""
        wanted = self._channels(self._topics)
        for server, link in self._links.items():
            link.probe_by(self._router.probe_channels(server)[0])
            channels, known = wanted.get(server, {}), link.channels
            link.unsubscribe(known - channels.keys())
            link.adopt({c: channels[c] for c in channels.keys() - known})

    def _end(self, timeout: float) -> None:
        self._router.close()
        links = list(self._links.values())
        _in_parallel(Link.close, [(link, timeout) for link in links])
        self._forget()

    def _forget(self) -> None:
        self._started = False
        self._links = {}
        self._topics.clear()
        _started.discard(self)

    def abandon(self) -> None:
        """This is a forked child: the connections are its parent's. Never blocks."""
        if self._thread == _get_ident():
            self._router.close()
            for link in self._links.values():
                link.abandon()
        else:
            # The hub was another thread's: what it was about to do is half done.
            _of_parent.append((self._router.forsake(), self._links))
            for link in self._links.values():
                link.forsake()
        self._forget()

    # What the links tell.

    def heard(self, topic: str, payload: bytes) -> None:
        """A message of another process has come."""
        try:
            origin, start = read_head(payload, self._mark)
            if self._relatives is not None and origin.startswith(self._relatives):
                return
            data = payload[start:]
            if self._seal is not None:
                data = self._seal.open(topic, origin, data)
        except ValueError:
            self.counters["payloads that are not ours"] += 1
            return
        self._deliver(topic, data, origin)

    def echo(self) -> None:
        """A probe of this process has come back."""
        if self.witness is not None:
            self.witness.echo()

    def gap(self, topics: list[str]) -> None:
        """They are heard again after a pause."""
        self._on_state(BusState.GAP, topics)

    def moved(self) -> None:
        """A channel belongs to another server by now."""
        self._router.doubt(gone=True)

    def answered(self, topic: str, hearers: int) -> None:
        """A message is with those who listen."""
        if not hearers and self.witness is not None:
            self.witness.unheard(topic)

    def refused(self, error: Refusal) -> None:
        """It was not published: this user may not, or its server is another."""
        self._router.doubt()

    def link_changed(self, error: Exception | None) -> None:
        """A link has become whole, or has ceased to be."""
        if error is not None:
            self._router.doubt()
        self._tell_state()

    def _tell_state(self) -> None:
        whole = bool(self._links) and all(link.whole for link in self._links.values())
        if whole is self._whole or self._connecting or not self._started:
            return
        self._whole = whole
        if not whole:
            self.counters["outages"] += 1
        self._on_state(BusState.UP if whole else BusState.DOWN, ())


def _in_parallel(function: Callable[..., T], work: list[tuple[Any, ...]]) -> list[T]:
    """
    Return what a function returns for each; blocks as long as the longest does.

    One after the other in the hub, where nothing blocks.

    Raises:
        Exception: The first that the function raises.

    """
    if len(work) <= 1 or getcurrent() is get_hub():
        return [function(*each) for each in work]

    errors: list[Exception] = []

    def attempt(*each: Any) -> list[T]:
        try:
            return [function(*each)]
        except Exception as error:
            errors.append(error)
            return []

    greenlets = [gevent.spawn(attempt, *each) for each in work]
    try:
        results = [result for greenlet in greenlets for result in greenlet.get()]
    finally:
        gevent.killall(greenlets, block=False)
    if errors:
        raise errors[0]
    return results


#: Those that a fork must take from the child.
_started: weakref.WeakSet[RedisBus] = weakref.WeakSet()

#: What a child never lets go of: a loop of a thread that it does not have.
_of_parent: list[object] = []


def _after_fork() -> None:
    """Let the child have nothing of its parent's."""
    for bus in tuple(_started):
        bus.abandon()


os.register_at_fork(after_in_child=_after_fork)
