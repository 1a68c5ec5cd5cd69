"""
The handshakes of a TLS listener, a few steps in each of the hub's turns.

The private key's operation is the most expensive thing a stranger can ask for:
a thousand who connect at once must not hold up those who are connected.
"""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping
from typing import Any

from .certificates import Certificates
from .reactor import Reactor
from .tls import TLSTransport

#: Seconds that handshakes may take of one turn; one step is always made.
HANDSHAKE_TIME = 0.001

#: Steps of handshakes in one turn.
STEPS_PER_TURN = 8

#: Where ciphertext is received in the reactor's buffer. Plaintext is written from
#: the start and never catches up: more than one record (RFC 8446, section 5.2) of
#: what came earlier is never left over.
INLET = 64 * 1024


class Handshakes:
    """
    Makes the transports of a TLS listener, and lets their handshakes take turns.

    Args:
        reactor: What the connections of this hub share.
        certificates: What new connections are encrypted with.
        counters: Where handshakes are counted.
        plain_answer: Returns what somebody is told who speaks HTTP without TLS.

    """

    def __init__(
        self,
        reactor: Reactor,
        certificates: Certificates,
        *,
        counters: MutableMapping[str, int],
        plain_answer: Callable[[], bytes],
    ) -> None:
        self.reactor = reactor
        self.certificates = certificates
        self.counters = counters
        self.plain_answer = plain_answer
        self.view = memoryview(reactor.buffer)
        self.inlet = self.view[INLET:]
        self._waiting: dict[TLSTransport, None] = {}
        self._scheduled = False

    def transport(
        self, fd: int, address: Any, *, write_timeout: float | None = None
    ) -> TLSTransport:
        """Return the transport of a connection that has just been accepted."""
        return TLSTransport(self, fd, address, write_timeout=write_timeout)

    def add(self, transport: TLSTransport) -> None:
        """Let a handshake take its next step when it is its turn."""
        self._waiting[transport] = None
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.reactor.next_turn(self._take_steps)

    def forget(self, transport: TLSTransport) -> None:
        """A connection has ended."""
        self._waiting.pop(transport, None)

    def count(self, what: str) -> None:
        """Count what happened to a connection."""
        self.counters[what] = self.counters.get(what, 0) + 1

    def _take_steps(self) -> None:
        self._scheduled = False
        waiting = self._waiting
        end = time.perf_counter() + HANDSHAKE_TIME
        for _ in range(min(STEPS_PER_TURN, len(waiting))):
            transport = next(iter(waiting))
            del waiting[transport]
            transport.shake_hands()
            if not waiting or time.perf_counter() >= end:
                break
        if waiting:
            self._schedule()
