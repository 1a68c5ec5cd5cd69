"""
The bus over one Redis or Valkey server: ``redis://`` and ``rediss://``.

Topics are channels of its pub/sub. Each process has one connection that publishes
(``redis_publisher.py``) and one that listens (``redis_listener.py``). Redis does not
say who else listens: nothing is known of other processes but what they say. What a
process publishes comes back to it, too, if it listens to that; it is left out, and the
probes among it show that the process still hears.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
import weakref
from collections import Counter
from collections.abc import Iterable

from gevent import get_hub
from gevent.monkey import get_original

from ..net.clock import Alarm, Clock
from .numbers import NO_NUMBERS, PROBE
from .ports import BusState, Deliver, OnState, Witness
from .redis_connection import Refusal
from .redis_frames import encode_head, read_head
from .redis_listener import Listener, Stage
from .redis_publisher import Publisher
from .redis_url import read_url

#: Seconds in which ``close`` sends what waits.
CLOSE_TIMEOUT = 1.0

#: Seconds between two looks whether probes come back.
LOOK_INTERVAL = 0.5

#: Seconds after which a listener is deaf that has not heard its own probe: if it has
#: heard nothing else meanwhile, and if it has.
ECHO_TIMEOUT, LONGEST_ECHO_TIMEOUT = 3.5, 10.0

#: The same for the probe that is published when a connection was made.
FIRST_ECHO_TIMEOUT = 2.0

#: Seconds between two warnings of the same.
WARNING_INTERVAL = 10.0

#: Reasons that are logged in one outage.
MAX_REASONS = 5

_get_ident = get_original("_thread", "get_ident")

logger = logging.getLogger("greenchannels.layer")


class RedisBus:
    """
    Publish and subscribe on one server.

    Belongs to the hub of the thread that starts it.

    Args:
        url: Of the server; see ``redis_url.py``.

    Raises:
        ConfigurationError: If the URL means nothing.

    """

    def __init__(self, url: str) -> None:
        self._address = read_url(url)
        #: What happened, by name.
        self.counters: Counter[str] = Counter()
        self._publisher = Publisher(self._address, self, self.counters)
        self._listener = Listener(self._address, self)
        #: Is told what only the server knows.
        self.witness: Witness | None = None
        self._head = b""
        self._thread = 0
        self._clock: Clock | None = None
        self._alarm: Alarm | None = None
        #: When the oldest probe was published that has not come back, and how long
        #: that may take.
        self._asked: float | None = None
        self._patience = ECHO_TIMEOUT
        self._looked = 0.0
        self._log = OutageLog(str(self._address))
        #: Whether both connections are as they should be; unknown before the start.
        self._whole: bool | None = None

    # The port.

    def start(self, deliver: Deliver, on_state: OnState) -> str:
        """
        Connect; blocks for one attempt, usually 2 s at most.

        If the server is away, that is a state and no error.

        Raises:
            ConfigurationError: If the server does not let this program in.

        """
        self._deliver, self._on_state = deliver, on_state
        self._publisher = Publisher(self._address, self, self.counters)
        self._listener = Listener(self._address, self)
        self._whole, self._asked = None, None
        origin = f"{os.getpid()}-{secrets.token_hex(6)}"
        self._head = encode_head(origin)
        self._publisher.start(self._head)
        self._thread = _get_ident()
        self._clock = Clock(get_hub().loop)
        self._looked = time.monotonic()
        self._look()
        _started.add(self)
        return origin

    def subscribe(self, topics: Iterable[str], timeout: float) -> bool:
        """
        Want ``topics``; blocks until Redis confirms.

        Does not block in the hub, nor while Redis is known to be away.

        Raises:
            ConfigurationError: If the server has never let this program listen.

        """
        if self._clock is None:
            return False
        return self._listener.subscribe(topics, timeout, not self._publisher.up)

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Want ``topics`` no more."""
        self._listener.unsubscribe(topics)

    def wants(self, topic: str) -> bool:
        """Nobody knows, so it may be."""
        return True

    def publish(self, topic: str, data: bytes) -> bool:
        """Queue ``data``; False if Redis is away or too much waits for it."""
        queued = self._publisher.publish(topic, data)
        if queued and topic == PROBE and self._asked is None:
            self._asked, self._patience = time.monotonic(), ECHO_TIMEOUT
        return queued

    def catch_up(self, topic: str) -> None:
        """There is nothing to learn."""

    def flush(self, topic: str, timeout: float) -> bool:
        """
        Block until Redis has answered for all that was published; not in the hub.

        Returns:
            False if something of it was or may be lost.

        """
        return self._publisher.flush(timeout)

    def close(self) -> None:
        """Send what waits, at most for a second, and leave."""
        if self._clock is None:
            return
        self._publisher.close(CLOSE_TIMEOUT)
        self._listener.close()
        self._stop()

    def stats(self) -> dict[str, int]:
        """Return counts of what happened, and how many connections there are."""
        open_now = self._publisher.connected + self._listener.connected
        return {**self.counters, "connections": open_now}

    def _stop(self) -> None:
        if self._clock is not None:
            self._clock.close()
        self._clock = self._alarm = None
        _started.discard(self)

    def abandon(self) -> None:
        """This is a forked child: the connections are its parent's. Never blocks."""
        if self._thread == _get_ident():
            self._publisher.abandon()
            self._listener.abandon()
            self._stop()
        else:
            # The hub was another thread's: what it was about to do is half done.
            _of_parent.append((self._clock, self._publisher, self._listener))
            self._publisher.forsake()
            self._listener.forsake()
            self._clock = None
            _started.discard(self)

    # What the connections tell.

    def heard(self, topic: str, payload: bytes) -> None:
        """A message has come; if it is our own, that is all there is to know."""
        if payload.startswith(self._head):
            if topic == PROBE:
                self._asked = None
                if self.witness is not None:
                    self.witness.echo()
            return
        try:
            origin, start = read_head(payload)
        except ValueError:
            self.counters["payloads that are not ours"] += 1
            return
        self._deliver(topic, payload[start:], origin)

    def gap(self, topics: list[str]) -> None:
        """They are heard again after a pause."""
        self._on_state(BusState.GAP, topics)

    def answered(self, topic: str, hearers: int) -> None:
        """A message is with those who listen."""
        if not hearers and self.witness is not None:
            self.witness.unheard(topic)

    def refused(self, error: Refusal) -> None:
        """It was not published: most likely this user may not."""
        self._log.refused(error)

    def link_changed(self, error: Exception | None) -> None:
        """One of the two connections came or went."""
        listener = self._listener.stage
        whole_before = self._whole
        whole = self._publisher.up and listener not in (Stage.DOWN, Stage.JOINING)
        if error is not None:
            self._log.down(error)
            self._publisher.look()
        elif self._publisher.up and listener is Stage.UP:
            self._ask_for_echo()
        if whole is whole_before:
            return
        self._whole = whole
        if not whole:
            self.counters["outages"] += 1
            self._on_state(BusState.DOWN, ())
        elif whole_before is not None:
            self._log.up()
            self._on_state(BusState.UP, ())

    # Whether it still hears.

    def _ask_for_echo(self) -> None:
        """A listener may be older than what made another connection end, and deaf."""
        if self.publish(PROBE, NO_NUMBERS):
            self._asked, self._patience = time.monotonic(), FIRST_ECHO_TIMEOUT

    def _look(self) -> None:
        """Find out whether probes come back. Hub only, but for the first time."""
        assert self._clock is not None
        self._alarm = self._clock.call_later(LOOK_INTERVAL, self._look)
        now, listener = time.monotonic(), self._listener
        late = now - self._looked - LOOK_INTERVAL
        self._looked = now
        if self._asked is not None and late > LOOK_INTERVAL:
            self._asked += late  # the hub could not read meanwhile
        hears = listener.stage is Stage.UP and listener.wants(PROBE)
        if not hears or not self._publisher.up:
            self._asked = None
        elif self._asked is not None:
            waited = now - self._asked
            silent = now - max(listener.last_heard, self._asked)
            if silent > self._patience or waited > LONGEST_ECHO_TIMEOUT:
                self._asked = None
                self.counters["deaf listeners"] += 1
                listener.reconnect()


class OutageLog:
    """Tell the log of outages: each reason once, and the end."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._began = 0.0
        self._told: set[str] = set()
        self._warned = -WARNING_INTERVAL

    def down(self, error: Exception) -> None:
        """A connection is lost, or could not be made."""
        if not self._told:
            self._began = time.monotonic()
        reason = str(error) or type(error).__name__
        if reason in self._told or len(self._told) >= MAX_REASONS:
            return
        first = not self._told
        self._told.add(reason)
        if first:
            logger.warning(
                "no connection to Redis at %s (%s): members of this process still hear"
                " each other; it is tried again",
                self._where,
                reason,
            )
        else:
            logger.warning("still no connection to Redis: %s", reason)

    def up(self) -> None:
        """All is well again."""
        lasted = time.monotonic() - self._began
        self._told.clear()
        logger.warning("Redis at %s is back after %.1f s", self._where, lasted)

    def refused(self, error: Refusal) -> None:
        """A publish was refused."""
        now = time.monotonic()
        if now - self._warned >= WARNING_INTERVAL:
            self._warned = now
            logger.warning("Redis at %s has not published: %s", self._where, error)


#: Those that a fork must take from the child.
_started: weakref.WeakSet[RedisBus] = weakref.WeakSet()

#: What a child never lets go of: a loop of a thread that it does not have.
_of_parent: list[object] = []


def _after_fork() -> None:
    """Let the child have nothing of its parent's."""
    for bus in tuple(_started):
        bus.abandon()


os.register_at_fork(after_in_child=_after_fork)
