"""
What a process has of one server: a connection that publishes and one that listens.

What a process publishes comes back to it, too, if it listens to that; it is left out,
and the probes among it show that the process still hears.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol

from gevent import Greenlet, get_hub

from ...net.clock import Alarm, Clock
from ..numbers import PROBE
from .connection import Refusal
from .frames import Dialect
from .listener import Listener, Stage
from .outages import OutageLog
from .places import Place
from .publisher import Publisher

#: Seconds between two looks whether probes come back, and the publisher is there.
LOOK_INTERVAL = 0.5

#: Seconds after which a listener is deaf that has not heard its own probe: if it has
#: heard nothing else meanwhile, and if it has.
ECHO_TIMEOUT, LONGEST_ECHO_TIMEOUT = 3.5, 10.0

#: The same for the probe that is published when a connection was made.
FIRST_ECHO_TIMEOUT = 2.0


class LinkOwner(Protocol):
    """Who is told by a link; nothing here may block."""

    def heard(self, topic: str, payload: bytes) -> None:
        """A message of another process has come."""

    def echo(self) -> None:
        """A probe of this process has come back."""

    def empty_probe(self) -> bytes:
        """Return a probe that says only that this process lives."""

    def gap(self, topics: list[str]) -> None:
        """They are heard again after a pause."""

    def link_changed(self, error: Exception | None) -> None:
        """A link has become whole, or has ceased to be or not become so again."""

    def moved(self) -> None:
        """A channel belongs to another server by now."""

    def answered(self, topic: str, hearers: int) -> None:
        """A message is with those who listen."""

    def refused(self, error: Refusal) -> None:
        """A message was not published."""


class Link:
    """
    Publish and subscribe on one server.

    Belongs to the hub of the thread that starts it.

    Args:
        place: The server.
        dialect: How it is spoken to.
        head: What all payloads begin with.
        probe_channel: The channel of this process' probes.
        owner: Who is told.
        counters: Where what happens is counted.

    """

    def __init__(
        self,
        place: Place,
        dialect: Dialect,
        head: bytes,
        probe_channel: bytes,
        owner: LinkOwner,
        counters: Counter[str],
    ) -> None:
        self._place = place
        self._dialect = dialect
        self._probe_channel = probe_channel
        self._owner = owner
        self._counters = counters
        self._publisher = Publisher(place, dialect, self, counters)
        self._listener = Listener(place, dialect, self)
        self._head = head
        self._clock: Clock | None = None
        self._alarm: Alarm | None = None
        self._watch: Greenlet[..., None] | None = None
        #: When the oldest probe was published that has not come back, and how long
        #: that may take.
        self._asked: float | None = None
        self._patience = ECHO_TIMEOUT
        self._looked = 0.0
        self._log = OutageLog(str(place))
        #: Whether both connections are as they should be; unknown before the start.
        self._whole: bool | None = None
        self._closed = False

    # Life.

    def start(self, *, insist: bool) -> None:
        """
        Connect; blocks for one attempt, usually 2 s at most.

        If the server is away, that is a state and no error.

        Args:
            insist: Whether a server that does not let this program in is an error;
                else it is tried again.

        Raises:
            ConfigurationError: See above.

        """
        channel = self._probe_channel + b"/start"
        self._publisher.start(self._head, channel, insist=insist)
        if self._closed:
            return
        self._clock = Clock(get_hub().loop)
        self._looked = time.monotonic()
        self._look()
        self._watch = Greenlet(self._place.watch, self._moved)
        self._watch.name = f"greenchannels watch of {self._place}"
        self._watch.start()

    def close(self, timeout: float) -> None:
        """Send what waits, blocking at most ``timeout`` seconds, and leave."""
        self._closed = True
        self._publisher.close(timeout)
        self._listener.close()
        if self._watch is not None:
            self._watch.kill()
        self._stop()

    def abandon(self) -> None:
        """This is a forked child of the hub's thread: end. Never blocks."""
        self._closed = True
        self._publisher.abandon()
        self._listener.abandon()
        if self._watch is not None:
            self._watch.kill(block=False)
        self._stop()

    def forsake(self) -> None:
        """This is a forked child of another thread: the greenlets will never run."""
        self._publisher.forsake()
        self._listener.forsake()

    def _stop(self) -> None:
        if self._clock is not None:
            self._clock.close()
        self._clock = self._alarm = self._watch = None

    @property
    def whole(self) -> bool:
        """Whether both connections are as they should be."""
        return bool(self._whole)

    @property
    def connections(self) -> int:
        """How many there are: up to 2."""
        return self._publisher.connected + self._listener.connected

    # Use.

    def subscribe(self, topics: Mapping[bytes, str], timeout: float) -> bool:
        """
        Want topics, by channel; blocks until Redis confirms.

        Does not block in the hub, nor while Redis is known to be away.

        Raises:
            ConfigurationError: If the server has never let this program listen.

        """
        return self._listener.subscribe(topics, timeout, not self._publisher.up)

    def adopt(self, topics: Mapping[bytes, str]) -> None:
        """Want what was another link's; never blocks. Their gaps are announced."""
        self._listener.adopt(topics)

    def unsubscribe(self, channels: Iterable[bytes]) -> None:
        """Want them no more; never blocks."""
        self._listener.unsubscribe(channels)

    def probe_by(self, channel: bytes) -> None:
        """Publish probes on another channel from now on."""
        if channel != self._probe_channel:
            self._probe_channel, self._asked = channel, None

    @property
    def channels(self) -> frozenset[bytes]:
        """Those that are wanted."""
        return self._listener.channels

    def hears(self, channels: Iterable[bytes]) -> bool:
        """Say whether Redis has confirmed that they are wanted."""
        return all(map(self._listener.hears, channels))

    def stop_listening(self) -> None:
        """Want nothing more, and end the connection that listens; never blocks."""
        self._listener.retire()
        self._listener = Listener(self._place, self._dialect, self)
        self.link_changed(None)

    def publish(self, topic: str, channel: bytes, data: bytes) -> bool:
        """Queue ``data``; False if Redis is away or too much waits for it."""
        return self._publisher.publish(topic, channel, data)

    def publish_probe(self, data: bytes) -> bool:
        """Publish what has to come back."""
        queued = self._publisher.publish(PROBE, self._probe_channel, data)
        if queued and self._asked is None and self._hears():
            self._asked, self._patience = time.monotonic(), ECHO_TIMEOUT
        return queued

    def flush(self, timeout: float) -> bool:
        """
        Block until Redis has answered for all that was published; not in the hub.

        Returns:
            False if something of it was or may be lost.

        """
        return self._publisher.flush(timeout)

    # What the connections tell.

    def heard(self, topic: str, payload: bytes) -> None:
        """A message has come; if it is our own, that is all there is to know."""
        if not payload.startswith(self._head):
            self._owner.heard(topic, payload)
        elif topic == PROBE:
            self._asked = None
            self._owner.echo()

    def gap(self, topics: list[str]) -> None:
        """They are heard again after a pause."""
        self._owner.gap(topics)

    def moved(self) -> None:
        """A channel belongs to another server by now."""
        self._owner.moved()

    def answered(self, topic: str, hearers: int) -> None:
        """A message is with those who listen."""
        self._owner.answered(topic, hearers)

    def refused(self, error: Refusal) -> None:
        """It was not published: most likely this user may not."""
        self._log.refused(error)
        self._owner.refused(error)

    def link_changed(self, error: Exception | None) -> None:
        """One of the two connections came or went."""
        listener = self._listener
        whole_before = self._whole
        whole = self._publisher.up and not listener.away
        if error is not None:
            self._log.down(error)
            self._publisher.look()
        elif self._publisher.up and listener.stage is Stage.UP:
            self._ask_for_echo()
        self._whole = whole
        if whole and whole_before is False:
            self._log.up()
        if error is not None or whole is not whole_before:
            self._owner.link_changed(error)

    # Whether it still hears.

    def _moved(self) -> None:
        """The server is another one by now: connections lead to the old one."""
        self._counters["moves"] += 1
        self._publisher.reconnect("another server has taken its place")
        self._listener.reconnect("another server has taken its place")

    def _ask_for_echo(self) -> None:
        """A listener may be older than what made another connection end, and deaf."""
        if self.publish_probe(self._owner.empty_probe()):
            self._asked, self._patience = time.monotonic(), FIRST_ECHO_TIMEOUT

    def _hears(self) -> bool:
        """Whether probes should come back."""
        joined = self._listener.stage is Stage.UP
        return (
            self._publisher.up and joined and self._listener.hears(self._probe_channel)
        )

    def _look(self) -> None:
        """Find out whether probes come back. Hub only, but for the first time."""
        assert self._clock is not None
        self._alarm = self._clock.call_later(LOOK_INTERVAL, self._look)
        self._publisher.wake()
        now, listener = time.monotonic(), self._listener
        late = now - self._looked - LOOK_INTERVAL
        self._looked = now
        if self._asked is not None and late > LOOK_INTERVAL:
            self._asked += late  # the hub could not read meanwhile
        if not self._hears():
            self._asked = None
        elif self._asked is not None:
            waited = now - self._asked
            silent = now - max(listener.last_heard, self._asked)
            if silent > self._patience or waited > LONGEST_ECHO_TIMEOUT:
                self._asked = None
                self._counters["deaf listeners"] += 1
                listener.reconnect("nothing comes from it any more")
