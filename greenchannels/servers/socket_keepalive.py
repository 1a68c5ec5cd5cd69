"""
Pings, and the clock that waits for a sign of life.

The clock stands while the peer could not show any: our ping has not left, or
nothing of the peer's is being read.
"""

from __future__ import annotations

import time

from .socket_life import OPEN, SocketLife
from .socket_run import in_hub


class SocketKeepalive(SocketLife):
    """Knows when the next ping, and when an answer is due. Hub only."""

    __slots__ = ("_ping_due", "_pong_due")

    #: Both exist from the 101 on.
    _ping_due: float
    _pong_due: float | None

    def _start_keepalive(self) -> None:
        self._pong_due = None
        interval = self._endpoint.timeouts.ping_interval
        if interval is None:
            self._cancel_alarm()
        else:
            self._ping_due = time.monotonic() + interval
            self._set_alarm(interval, self._keep_alive)

    @in_hub
    def _keep_alive(self) -> None:
        """Send a ping when one is due; cut a peer that shows no sign of life."""
        self._alarm = None
        if self._stage is not OPEN:
            return
        now = time.monotonic()
        if self._pong_due is not None and now >= self._pong_due:
            if not self._shows_life():
                self._transport.abort(TimeoutError("no answer to a ping"))
                return
            self._pong_due = None
        timeouts = self._endpoint.timeouts
        assert timeouts.ping_interval is not None
        if now >= self._ping_due:
            self._ping_due = now + timeouts.ping_interval
            self._ping(now)
        due = self._ping_due
        if self._pong_due is not None and self._pong_due < due:
            due = self._pong_due
        self._set_alarm(due - now, self._keep_alive)

    def _ping(self, now: float) -> None:
        transport = self._transport
        if transport.blocked:
            return  # the write timeout watches; a ping would only queue up
        transport.push(self._wire.ping())
        transport.write_now()
        timeout = self._endpoint.timeouts.ping_timeout
        if self._pong_due is None and timeout is not None:
            transport.heard = False
            self._pong_due = now + timeout

    def _shows_life(self) -> bool:
        """Whether bytes moved since the ping, or could not have moved."""
        transport = self._transport
        return transport.heard or transport.blocked or not transport.reading
