"""
Rates: how much peers may send, and what happens to those that send more.

``buckets.py`` counts, and ``intake.py`` says what of a socket's input may pass; here
its buckets are found, and those wait in line that have to. Everything holds for this
process alone. A socket of a route without rates has none of it, one of a route with
rates has a ``Gate`` from its first bytes until its end.

No method blocks. Lines are served in the hub.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from ..close_codes import POLICY_VIOLATION
from ..net.clock import Alarm, Clock
from ..options import Rate
from ..text import printable
from .buckets import Bucket, SharedBuckets, Terms, network_of
from .intake import Controls, Intake

if TYPE_CHECKING:
    from .server import Server
    from .socket_input import SocketInput

#: Seconds between two log lines of one route about the same.
SAID_EVERY = 10.0

#: Nobody's address has been asked for yet.
UNKNOWN = object()

logger = logging.getLogger("greenchannels.socket")


class Gate:
    """
    What the rates of its route know of one socket.

    Attributes:
        own: For each rate the socket's own bucket, or ``None`` if it is shared.
        address: What its address is counted by, ``UNKNOWN`` until asked for.
        line: Where it waits, if it does.
        turn: Messages that it may take now although others wait; 0 when it is not
            its turn.
        exceeded: The rate that closes it, once it was exceeded.
        answered: When our next ping was due as a pong came that was not counted.

    """

    __slots__ = ("address", "answered", "exceeded", "line", "own", "turn")

    def __init__(self, own: list[Bucket | None]) -> None:
        self.own = own
        self.address: Any = UNKNOWN
        self.line: Line | None = None
        self.turn = 0
        self.exceeded: tuple[Rate, str] | None = None
        self.answered: float | None = None


class Line:
    """
    Sockets that wait for the tokens of one bucket: first come, first served.

    Each takes one message when it is its turn, or as much as there is if nobody else
    waits, and goes to the end of the line if it has more.
    """

    __slots__ = ("_alarm", "_bucket", "_clock", "_waiting")

    def __init__(self, bucket: Bucket, clock: Clock) -> None:
        self._bucket = bucket
        self._clock = clock
        self._waiting: OrderedDict[SocketInput, Gate] = OrderedDict()
        self._alarm: Alarm | None = None

    def join(self, socket: SocketInput, gate: Gate) -> None:
        """Have ``socket.tokens_back`` called when it is its turn."""
        gate.line = self
        self._waiting[socket] = gate
        if self._alarm is None:
            self._alarm = self._clock.call_later(self._bucket.delay(), self._serve)

    def leave(self, socket: SocketInput) -> None:
        """Wait no more."""
        self._waiting.pop(socket).line = None
        if not self._waiting:
            self._close()

    def _serve(self) -> None:
        """Let as many go on as there are tokens for, each once. Hub only."""
        bucket, waiting = self._bucket, self._waiting
        try:
            for _ in range(len(waiting)):
                bucket.refill(time.monotonic())
                if not waiting or not bucket.ready:
                    break
                socket, gate = waiting.popitem(last=False)
                gate.line = None
                gate.turn = 1 if waiting else sys.maxsize
                socket.tokens_back()
        finally:
            if waiting:
                self._alarm = self._clock.call_later(bucket.delay(), self._serve)
            else:
                self._close()

    def _close(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._bucket.line is self:
            self._bucket.line = None


class Rates:
    """
    The rates of a server: the buckets that its routes share.

    One ``Rate`` object is one set of shared buckets, whichever routes it stands in.

    Args:
        server: The server.

    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._shared: dict[int, SharedBuckets] = {}

    def of_route(self, name: str, rates: tuple[Rate, ...]) -> RouteRates | None:
        """Return what a route needs for its rates, or ``None`` if it has none."""
        if not rates:
            return None
        shared = [self._shared_buckets(rate) for rate in rates]
        return RouteRates(self._server, name, list(zip(rates, shared, strict=True)))

    def _shared_buckets(self, rate: Rate) -> SharedBuckets | None:
        if rate.each == "connection":
            return None
        found = self._shared.get(id(rate))
        if found is None:
            found = self._shared[id(rate)] = SharedBuckets(rate)
        return found


class RouteRates:
    """
    The rates of one route, and what they know of its sockets.

    Args:
        server: The server; its layer's ``stats()`` have the counts.
        name: The route's pattern.
        rates: Each with its buckets if they are shared.

    """

    def __init__(
        self, server: Server, name: str, rates: list[tuple[Rate, SharedBuckets | None]]
    ) -> None:
        self._server = server
        self._name = printable(name)
        self._rates = [(rate, Terms(rate), shared) for rate, shared in rates]
        #: Whether bytes are counted: else nobody asks how many a text has.
        self.measured = any(rate.bytes is not None for rate, _ in rates)
        self._gates: dict[SocketInput, Gate] = {}
        self._said: dict[str, float] = {}
        self._counts = server.layer.rate_counts(name)

    def intake(self, socket: SocketInput, controls: Controls) -> Intake:
        """Return what the input that has just come has to pass."""
        now = time.monotonic()
        gate = self._gates.get(socket)
        if gate is None:
            own = [Bucket(t, now) if s is None else None for _, t, s in self._rates]
            gate = self._gates[socket] = Gate(own)
        buckets = []
        for (rate, _, shared), bucket in zip(self._rates, gate.own, strict=True):
            if shared is not None:
                key = self._key(rate, socket, gate)
                bucket = shared.get(key, now) if key is not None else None
            if bucket is not None:
                bucket.refill(now)
                buckets.append((rate, bucket))
        return Intake(self, socket, gate, buckets, controls)

    def _key(self, rate: Rate, socket: SocketInput, gate: Gate) -> Hashable:
        """Return whom a socket is counted with, or ``None`` if that is not known."""
        if rate.each == "user":
            return socket.user_topic
        if gate.address is UNKNOWN:
            host = socket.peer_host()
            gate.address = network_of(host) if host else None
        address: Hashable = gate.address
        return address

    def holds(self, socket: SocketInput) -> bool:
        """Tell whether a socket waits until it may send more, or will be closed."""
        gate = self._gates.get(socket)
        return gate is not None and (gate.line is not None or gate.exceeded is not None)

    def wait(self, socket: SocketInput, gate: Gate, bucket: Bucket) -> None:
        """Have ``socket.tokens_back`` called when the bucket has tokens for it."""
        if bucket.line is None:
            bucket.line = Line(bucket, self._server.reactor.clock)
        bucket.line.join(socket, gate)
        self.count("waits")

    def enforce(self, socket: SocketInput) -> None:
        """Close a socket that has sent too much."""
        gate = self._gates.get(socket)
        if gate is None or gate.exceeded is None:
            return
        rate, what = gate.exceeded
        self.count("closed")
        reason = describe(rate, what)
        self._say("closed with 1008", reason)
        socket.close(POLICY_VIOLATION, reason)

    def dropped(self, rate: Rate, what: str) -> None:
        """A message was discarded."""
        self.count("dropped")
        self._say("dropped a message", describe(rate, what))

    def forget(self, socket: SocketInput) -> None:
        """A socket has ended."""
        gate = self._gates.pop(socket, None)
        if gate is not None and gate.line is not None:
            gate.line.leave(socket)

    def count(self, name: str) -> None:
        """Count something for the layer's ``stats()``."""
        self._counts[name] += 1

    def _say(self, what: str, why: str) -> None:
        """Log what happened, unless the same was said a moment ago."""
        now = time.monotonic()
        if now >= self._said.get(what, 0.0):
            self._said[what] = now + SAID_EVERY
            logger.warning(
                "%s: %s: %s (said at most every %g s)",
                self._name,
                what,
                why,
                SAID_EVERY,
            )


def describe(rate: Rate, what: str) -> str:
    """Return which part of a rate was exceeded, in the words of a close frame."""
    amount = rate.bytes if what == "bytes" else rate.messages
    whose = "" if rate.each == "connection" else f" from one {rate.each}"
    return f"more than {amount} {what} in {rate.per:g} s{whose}"
