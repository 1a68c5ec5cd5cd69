"""
What all connections of one hub share.

A reactor holds the clock, the receive buffer, the count of what waits to be
written, and the list of transports that have something to write at the end of the
hub's turn. It also runs long work in
slices, one a turn, so that I/O gets its turn between them: gevent runs
callbacks that were added by callbacks in the same turn, so a slice that simply
called ``run_callback`` again would starve the sockets.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
from gevent.hub import Hub

from .backlog import Backlog
from .clock import Clock
from .outlet import Outlet, write_each

#: Size of the buffer that all sockets of a hub receive into, in bytes.
RECEIVE_BUFFER = 256 * 1024

#: Transports written in one turn, so that a large broadcast leaves gaps.
WRITES_PER_TURN = 1024

#: Seconds that slices may take of one turn.
SLICE_TIME = 0.004

#: Seconds to sleep for the hub to look at all sockets once; for 0 it would not.
ONE_TURN = 1e-6

logger = logging.getLogger("greenchannels.net")


class Reactor:
    """
    The hub of this thread as connections use it.

    Make one in the thread and process in which it is used; ``close`` it when
    its connections have gone.
    """

    def __init__(self) -> None:
        self.hub: Hub = gevent.get_hub()
        self.loop: Any = self.hub.loop
        self.clock = Clock(self.loop)
        self.buffer = bytearray(RECEIVE_BUFFER)
        #: Transports to be written at the end of the hub's turn.
        self.dirty: list[Outlet] = []
        #: How much waits to be written, and how much may.
        self.backlog = Backlog(self.loop)
        #: How often a sender's full buffer was taken at once, and it did not wait.
        self.unwaited = 0
        #: Bytes that were made of fewer in this turn, by inflating.
        self.spent = 0
        self._slices: deque[Callable[[], object]] = deque()
        self._timer: Any = None

    def wake_writer(self) -> None:
        """Write what is going to be in ``dirty`` at the end of the hub's turn."""
        self.loop.run_callback(self._write_dirty)

    def next_turn(self, work: Callable[[], object]) -> None:
        """Call ``work()`` in the hub after I/O has had a turn, first in first out."""
        self._slices.append(work)
        if self._timer is None:
            self._timer = self.loop.timer(0)
            self._timer.start(self._run_slices)

    def spend(self, size: int) -> None:
        """Count ``size`` bytes as ``spent`` in this turn. Hub callbacks only."""
        if not self.spent:
            self.next_turn(self._begin_turn)
        self.spent += size

    def _begin_turn(self) -> None:
        self.spent = 0

    @property
    def busy(self) -> bool:
        """Whether something waits to be written or to have its slice."""
        return bool(self.dirty or self._slices)

    def close(self) -> None:
        """Stop the clock; what waits for its turn is dropped."""
        self.clock.close()
        self.dirty.clear()
        self._slices.clear()
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def _write_dirty(self) -> None:
        dirty = self.dirty
        batch = dirty[:WRITES_PER_TURN]
        del dirty[:WRITES_PER_TURN]
        write_each(batch)
        if dirty:
            self.next_turn(self._write_dirty)

    def _run_slices(self) -> None:
        self._timer.close()
        self._timer = None
        end = time.perf_counter() + SLICE_TIME
        for _ in range(len(self._slices)):
            work = self._slices.popleft()
            try:
                work()
            except Exception:
                logger.exception("a slice of work failed: %r", work)
            if time.perf_counter() >= end:
                break
        if self._slices and self._timer is None:
            self._timer = self.loop.timer(0)
            self._timer.start(self._run_slices)
