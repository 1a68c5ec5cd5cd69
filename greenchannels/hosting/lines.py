"""
An event stream's way to one peer, over GSGI and nothing else.

Whoever runs the source may be blocked in it for ever, so the peer's end comes from
elsewhere: another greenlet, or the same, waits in ``receive``. What it shall do
meanwhile, and what shall end the source, is thrown into it, by hub callbacks only.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from gevent import GreenletExit, getcurrent
from gevent.lock import BoundedSemaphore

from ..errors import ConnectionEnded
from ..layers.codec import Broadcast
from ..layers.registry import current_layer
from ..options import KIB
from ..types import Event, Receive, Send
from ..wire.sse import HEARTBEAT
from .events import Encoders

#: Why a stream is over before its source is.
LEFT, TOO_SLOW = "the peer has left", "the peer reads too slowly"

#: Bytes that are joined to one piece of the body.
PIECE = 64 * KIB

#: What an event costs beside its text: "data: " and two line ends.
_FRAMING = 8


class StreamOver(GreenletExit):
    """Thrown into what sends a stream: nobody will read the rest."""

    def __init__(self, line: Line) -> None:
        super().__init__(line.over)
        self.line = line


class _Nudge(BaseException):
    """Thrown into the greenlet that waits in ``receive``: look what there is."""


class Line:
    """
    One stream on its way to one peer: what is sent, and what ends it.

    At most one greenlet works at it, sending, and at most one waits in it: the
    same, or a watcher.

    Attributes:
        over: Why there is nobody to send to any more, or ``None``.
        failure: What a watcher failed with.

    """

    def __init__(
        self, start: Event, receive: Receive, send: Send, heartbeat: float | None
    ) -> None:
        self._start = start
        self._receive = receive
        self._send = send
        self._heartbeat = heartbeat
        self._loop: Any = gevent.get_hub().loop
        #: Middleware need not expect two greenlets in ``send``.
        self._lock = BoundedSemaphore(1)
        self._sent_at = time.monotonic()
        self._timer: Any = None
        self._worker: Any = None
        self._listener: Any = None
        self._woken = self._heartbeat_due = False
        self.over: str | None = None
        self.failure: Exception | None = None

    def open(self, data: bytes) -> None:
        """Send the head at once: the browser's ``open`` waits for it."""
        self._send(self._start)
        self.send(data)
        if self._heartbeat is not None:
            self._arm(self._heartbeat)

    def close(self) -> None:
        """Ring no more."""
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def send(self, data: bytes) -> None:
        """Send a piece of the body; blocks while the peer is slow."""
        if self.over is not None:
            raise StreamOver(self)
        with self._lock:
            self._send({"type": "http.response.body", "body": data, "more_body": True})
            self._sent_at = time.monotonic()

    # Waiting in receive().

    def wait(self) -> bool:
        """
        Block until ``wake`` is called, and send heartbeats meanwhile.

        Returns whether the peer is still there.
        """
        while not self._woken:
            if self._heartbeat_due:
                if not self._lock.locked():  # a slow peer would only get more
                    self.send(HEARTBEAT)
                self._heartbeat_due = False
            elif not self._listen():
                return False
        self._woken = False
        return True

    def _listen(self) -> bool:
        """Wait in ``receive``; return whether this was for a nudge."""
        self._listener = getcurrent()
        try:
            while self._receive()["type"] != "http.disconnect":
                pass
        except _Nudge:
            return True
        finally:
            self._listener = None
        return False

    def wake(self) -> None:
        """Have ``wait`` return; never blocks."""
        if not self._woken:
            self._woken = True
            self._loop.run_callback(self._nudge)

    def _nudge(self) -> None:
        """Hub only."""
        if self._listener is not None and (self._woken or self._heartbeat_due):
            self._listener.throw(_Nudge())

    def _arm(self, delay: float) -> None:
        self._timer = self._loop.timer(delay)
        self._timer.start(self._ring)

    def _ring(self) -> None:
        """A heartbeat may be due. Hub only."""
        assert self._heartbeat is not None
        self._timer.close()
        left = self._sent_at + self._heartbeat - time.monotonic()
        self._arm(left if left > 0 else self._heartbeat)
        if left <= 0:
            self._heartbeat_due = True
            self._nudge()

    # The end.

    def watch(self) -> None:
        """Wait until the peer has left, for a worker that is blocked elsewhere."""
        try:
            while self.wait():
                pass
        except ConnectionEnded:
            pass
        except Exception as error:
            self.failure = error
        self.end(LEFT)

    @contextmanager
    def worked(self) -> Iterator[None]:
        """Let ``end`` reach this greenlet for the length of the block."""
        if self.over is not None:
            raise StreamOver(self)
        self._worker = getcurrent()
        try:
            yield
        finally:
            self._worker = None

    def end(self, reason: str) -> None:
        """Have ``StreamOver`` raised in the worker, once; never blocks."""
        if self.over is None:
            self.over = reason
            self._loop.run_callback(self._interrupt)

    def _interrupt(self) -> None:
        """Hub only."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.throw(StreamOver(self))


class Feed:
    """
    A member of a group: its messages on their way to one stream.

    Args:
        line: Is woken by each message.
        limit: Bytes that may wait; ``None`` for any number.
        encoders: How each kind of message is encoded.

    """

    def __init__(self, line: Line, limit: int | None, encoders: Encoders) -> None:
        self.memberships: set[str] | None = None
        self.max_groups: int | None = None
        self._line = line
        self._limit = limit
        self._encoders = encoders
        self._counters = current_layer().counters
        self._loop: Any = gevent.get_hub().loop
        self._waiting: deque[Broadcast] = deque()
        self._size = 0
        self._is_judged = False

    def deliver(self, broadcast: Broadcast) -> None:
        """Take a message; never blocks."""
        if self._line.over is not None:
            return
        self._waiting.append(broadcast)
        self._size += broadcast.size + _FRAMING
        self._line.wake()
        if self._is_over_limit() and not self._is_judged:
            # Not yet: the stream has not had its turn since much was sent at once.
            self._is_judged = True
            self._loop.run_callback(self._judge)

    def _is_over_limit(self) -> bool:
        return self._limit is not None and self._size > self._limit

    def _judge(self) -> None:
        """The stream had its turn: is it still too much? Hub only."""
        self._is_judged = False
        if self._is_over_limit():
            self._line.end(TOO_SLOW)

    def take(self) -> Iterator[bytes]:
        """Yield what waits, encoded, in pieces."""
        while self._waiting:
            parts: list[bytes] = []
            size = 0
            while self._waiting and size < PIECE:
                broadcast = self._waiting.popleft()
                self._size -= broadcast.size + _FRAMING
                parts.append(broadcast.encoded(self._encoders[broadcast.kind]))
                size += len(parts[-1])
            if size:
                yield b"".join(parts)

    def count_dropped(self) -> None:
        """Count a peer that was too slow, as sockets do."""
        self._counters["closed for being slow"] += 1
        self._counters["frames dropped for slow members"] += len(self._waiting)
        self._waiting.clear()
