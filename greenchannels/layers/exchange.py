"""
What the layers of several processes tell each other beside messages.

Numbers and probes, so that what is lost is known (``numbers.py``), and calls
(``remote.py``). Each process has a topic of its own, and all share the one of probes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable

from ..net.clock import Alarm
from ..net.reactor import Reactor
from .numbers import NO_NUMBERS, PROBE, PROBE_INTERVAL, Accounts, LossLog
from .ports import Acknowledging, Brokered, Bus
from .remote import MARK, RemoteCalls

logger = logging.getLogger("greenchannels.layer")

#: What ``stats`` calls messages that were lost between processes.
MISSED = "messages missed"

#: What ``stats`` calls messages that did not reach all other processes.
LOST = "lost publishes"

#: What ``stats`` calls messages for sockets that are no more.
GONE = "sent to channels that have gone"


def process_topic(origin: str) -> str:
    """Return the topic of what is for the process called ``origin``."""
    return "p:" + origin


class Exchange:
    """
    A layer's part in it.

    Args:
        bus: The layer's bus.
        counters: Where losses are counted.
        on_gap: Called in the hub with a topic and how many messages were missed.
        perform: Carries out calls of others; see ``RemoteCalls``.

    """

    def __init__(
        self,
        bus: Bus,
        counters: Counter[str],
        on_gap: Callable[[str, int], None],
        perform: Callable[[str, str, str], None],
    ) -> None:
        self._bus = bus
        self._counters = counters
        self._on_gap = on_gap
        self._acknowledging = bus if isinstance(bus, Acknowledging) else None
        self.accounts = Accounts(self._missed, acknowledged=self._acknowledges)
        if self._acknowledging is not None:
            self._acknowledging.ledger = self.accounts
        self._brokered = bus if isinstance(bus, Brokered) else None
        if self._brokered is not None:
            self._brokered.witness = self
        self.calls = RemoteCalls(self._reach, perform)
        self._log = LossLog()
        self._alarm: Alarm | None = None
        self._reactor: Reactor | None = None
        self._origin = ""
        self._timeout = 0.0
        #: Whether answers to calls arrive.
        self._listens = False

    def start(
        self, reactor: Reactor, origin: str, timeout: float, *, listens: bool = True
    ) -> None:
        """
        Begin to tell numbers, and to listen to the others.

        Blocks until the others know, at most ``timeout`` seconds.

        Args:
            listens: Whether to; else only once there is a ``call``.

        """
        self._reactor, self._origin = reactor, origin
        self._timeout, self._listens = timeout, listens
        self.calls.start(origin)
        if listens:
            self._bus.subscribe([process_topic(origin), PROBE], timeout)
        if self._brokered:
            self.probe()
        self._rearm()

    def call(self, operation: str, topic: str, channel: str) -> None:
        """Have another process do something; see ``RemoteCalls.call``. Blocks."""
        if not self._listens:
            self._bus.subscribe([process_topic(self._origin)], self._timeout)
            self._listens = True
        self.calls.call(operation, topic, channel)

    def close(self) -> None:
        """Stop, and forget what was heard."""
        self.calls.close()
        self.accounts.heard.forget_all()
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._reactor = None

    def takes(self, topic: str, data: bytes, origin: str) -> bool:
        """
        Take what is not a message; return whether it is that.

        Raises:
            ValueError: If it is nothing of ours.

        """
        if topic == PROBE:
            self.accounts.take_probe(origin, data)
        elif data.startswith(MARK) and topic == process_topic(self._origin):
            self.calls.take(data)
        else:
            return False
        return True

    def bus_stats(self) -> dict[str, dict[str, int]]:
        """Return what the bus counts, as "bus", if it counts."""
        stats = getattr(self._bus, "stats", None)
        return {"bus": stats()} if stats is not None else {}

    def probe(self) -> None:
        """Tell the others the last numbers."""
        bus = self._brokered
        if bus is None:
            for _, probe in self.accounts.probes():
                self._bus.publish(PROBE, probe)
            return
        probes = self.accounts.probes(bus.way)
        silent = set(bus.ways()).difference(way for way, _ in probes)
        probes += [(way, NO_NUMBERS) for way in silent]
        self.accounts.told(all([bus.publish_probe(*probe) for probe in probes]))

    def not_wanted(self, topic: str) -> None:
        """
        Note that a message was not published, since nobody is known to want it.

        A process whose topics are not known yet may want it: it will know from the
        numbers that it has missed it.
        """
        if self._acknowledging is not None and self._acknowledging.unsure:
            self.accounts.published.number(topic)

    # Witness.

    def unheard(self, topic: str) -> None:
        """Nobody wanted a message; if it was for a process, that is away or no more."""
        process = topic.removeprefix("p:")
        if process == topic:
            return
        lives = self.accounts.heard_lately(process)
        if not self.calls.fail(process, lives=lives):
            self._counters[LOST if lives else GONE] += 1

    def echo(self) -> None:
        """A probe of this process has come back."""
        self.accounts.note_echo()

    # Topics.

    def forget(self, topics: Iterable[str]) -> None:
        """This process has no member of them any more."""
        self.accounts.heard.forget_topics(topics)

    def _reach(self, topic: str, data: bytes) -> bool:
        return self._bus.wants(topic) and self._bus.publish(topic, data)

    def _acknowledges(self, origin: str) -> bool:
        bus = self._acknowledging
        return bus is not None and bus.acknowledges(origin)

    def _missed(self, topic: str, number: int) -> None:
        self._counters[MISSED] += number
        self._log.add(topic, number)
        self._on_gap(topic, number)

    def _rearm(self) -> None:
        assert self._reactor is not None
        clock = self._reactor.clock
        self._alarm = clock.call_later(PROBE_INTERVAL, self._on_alarm)

    def _on_alarm(self) -> None:
        """It is time for a probe. Hub only."""
        self._rearm()
        self._log.warn()
        self.probe()
