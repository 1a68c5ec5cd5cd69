"""
One clock for all deadlines of a hub: pings, handshakes, closes, expiries.

Thousands of connections each have a deadline or two, and nearly all of them
are moved or cancelled before they are due. A libev timer object for each would
cost more memory than the rest of an idle connection, so alarms lie in buckets
of ``RESOLUTION`` seconds and one libev timer wakes up for the earliest bucket.
An alarm is never early and at most one bucket late, plus what the hub was busy.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Callable
from typing import Any

#: Width of a bucket, in seconds.
RESOLUTION = 0.02

#: Buckets of a second.
PER_SECOND = 50

#: Alarms that ring in one turn of the hub; the rest waits for the next.
ALARMS_PER_TURN = 256

logger = logging.getLogger("greenchannels.net")


class Alarm:
    """One deadline. ``cancel()`` takes it back, at any time, more than once."""

    __slots__ = ("_bucket", "callback")

    def __init__(
        self, callback: Callable[[], object], bucket: dict[Alarm, None]
    ) -> None:
        self.callback: Callable[[], object] | None = callback
        self._bucket: dict[Alarm, None] | None = bucket
        bucket[self] = None

    def cancel(self) -> None:
        """Never ring."""
        self.callback = None
        if self._bucket is not None:
            self._bucket.pop(self, None)
            self._bucket = None


class Clock:
    """
    Ring alarms in the hub.

    Callbacks run in the hub: they must not block. One that raises is logged.

    Args:
        loop: The hub's event loop.

    """

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._buckets: dict[int, dict[Alarm, None]] = {}
        self._order: list[int] = []
        self._timer: Any = None
        self._armed_for: int | None = None

    def call_later(self, delay: float, callback: Callable[[], object]) -> Alarm:
        """Ring in ``delay`` seconds: call ``callback()`` in the hub."""
        when = time.monotonic() + delay if delay > 0 else time.monotonic()
        key = int(when * PER_SECOND) + 1
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = {}
            heapq.heappush(self._order, key)
        alarm = Alarm(callback, bucket)
        if self._armed_for is None or key < self._armed_for:
            self._arm()
        return alarm

    def close(self) -> None:
        """Forget all alarms and stop the timer."""
        self._buckets.clear()
        self._order.clear()
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        self._armed_for = None

    def _arm(self, delay: float | None = None) -> None:
        """Set the libev timer for the earliest bucket that holds an alarm."""
        while self._order and not self._buckets[self._order[0]]:
            del self._buckets[heapq.heappop(self._order)]
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        self._armed_for = self._order[0] if self._order else None
        if self._armed_for is None:
            return
        if delay is None:
            delay = max(0.0, self._armed_for * RESOLUTION - time.monotonic())
        self._timer = self._loop.timer(delay)
        self._timer.start(self._ring)

    def _ring(self) -> None:
        """Run what is due, a bounded number a turn."""
        left = ALARMS_PER_TURN
        due = int(time.monotonic() * PER_SECOND + 1e-6)
        while left and self._order and self._order[0] <= due:
            bucket = self._buckets[self._order[0]]
            while bucket and left:
                left -= 1
                self._run(bucket.popitem()[0])
            if not bucket:
                del self._buckets[heapq.heappop(self._order)]
        self._arm(None if left else 0.0)

    def _run(self, alarm: Alarm) -> None:
        callback, alarm.callback, alarm._bucket = alarm.callback, None, None
        if callback is None:
            return
        try:
            callback()
        except Exception:
            logger.exception("a clock callback failed: %r", callback)
