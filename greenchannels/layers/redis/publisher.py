"""
The connection to Redis that publishes.

Messages wait in a bounded queue; one greenlet sends all that wait at once and reads
their replies, so that many cost what few do. What was sent and not answered is not
sent again: nobody knows whether it has arrived.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from typing import Protocol

from gevent import Greenlet, get_hub, getcurrent
from gevent.event import Event as Signal

from ...errors import ConfigurationError
from .connection import Pauses, RedisConnection, Refusal
from .frames import Dialect
from .places import Place

#: How much may wait to be sent: bytes, and messages.
MAX_QUEUED_BYTES = 32 * 1024 * 1024
MAX_QUEUED = 100_000

#: Bytes that are sent before their replies are read; one message may be longer.
MAX_BATCH = 512 * 1024

#: Seconds after which a connection that was not used may have been closed.
IDLE = 0.01

#: Seconds that a connection lasts if it is good for something.
SOUND = 0.1

#: Seconds between two looks whether the server is still what it should be.
CHECK_INTERVAL = 5.0

#: What ``stats`` calls messages whose fate is not known, and those that were too much.
UNANSWERED = "publishes lost with the connection"
OVERFLOWS = "publishes above the queue's bounds"
REFUSED = "publishes that Redis refused"

logger = logging.getLogger("greenchannels.layer")


class PublisherOwner(Protocol):
    """Who is told by a publisher; nothing here may block."""

    def link_changed(self, error: Exception | None) -> None:
        """It has connected, or could not, because of ``error``."""

    def answered(self, topic: str, hearers: int) -> None:
        """A message was published, and so many connections have got it."""

    def refused(self, error: Refusal) -> None:
        """Redis did not publish a message."""


class Publisher:
    """
    Publish on one server, in order, each message at most once.

    Args:
        place: The server.
        dialect: How it is spoken to.
        owner: Who is told.
        counters: Where what was lost is counted.

    """

    def __init__(
        self,
        place: Place,
        dialect: Dialect,
        owner: PublisherOwner,
        counters: Counter[str],
    ) -> None:
        self._place = place
        self._dialect = dialect
        self._owner = owner
        self._counters = counters
        self._head = b""
        self._connection: RedisConnection | None = None
        #: Topic and command of each message that waits to be sent.
        self._queue: deque[tuple[str, bytes]] = deque()
        self._size = 0
        #: Messages sent and not answered yet.
        self._flying: list[tuple[str, bytes]] = []
        #: How many were queued, answered or given up, and the last that was lost.
        self._queued = self._settled = self._last_lost = 0
        self._waiters: list[tuple[int, Signal]] = []
        self._work, self._over = Signal(), Signal()
        self._greenlet: Greenlet[..., None] | None = None
        self._used = self._checked = 0.0
        #: Why the connection was cut here.
        self._reason = ""
        #: Whether messages are taken.
        self.up = False

    # Life.

    def start(self, head: bytes, channel: bytes, *, insist: bool) -> None:
        """
        Connect and go on; blocks for one attempt, at most 6 s, and tries again later.

        Args:
            head: What all payloads begin with.
            channel: One that must be allowed.
            insist: Whether it is an error if it is not, or if this program is not let
                in; else it is tried again.

        Raises:
            ConfigurationError: See above.

        """
        self._head = head
        tolerated = (OSError,) if insist else (OSError, ConfigurationError)
        try:
            self._connect()
            self._check_right(channel)
        except tolerated as error:
            self._disconnect()
            self._fail(error)
        except BaseException:
            self._disconnect()
            raise
        else:
            self._owner.link_changed(None)
        if self._over.is_set():
            self._disconnect()
            return
        self._greenlet = Greenlet(self._run)
        self._greenlet.name = f"greenchannels publisher of {self._place}"
        self._greenlet.start()

    def close(self, timeout: float) -> None:
        """Send what waits, blocking at most ``timeout`` seconds, and end."""
        if self.up and self._queued > self._settled:
            self._wait_for(self._queued, timeout)
        self.up = False
        self._over.set()
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill()
        self._end_connection()
        self._give_up()

    def abandon(self) -> None:
        """This is a forked child of the hub's thread: end. Never blocks."""
        self.up = False
        self._over.set()
        self._work.set()
        if self._connection is not None:
            self._connection.cut()
        if self._greenlet is not None:
            self._greenlet.kill(block=False)

    def forsake(self) -> None:
        """This is a forked child of another thread: the greenlet will never run."""
        self.up = False
        if self._connection is not None:
            self._connection.forsake()

    def reconnect(self, reason: str) -> None:
        """Make another connection. Never blocks."""
        if self._connection is not None:
            self._reason = reason
            self._connection.cut()
            self._work.set()

    def look(self) -> None:
        """Find out soon whether the connection is still there. Never blocks."""
        self._used = 0.0
        self.wake()

    def wake(self) -> None:
        """
        Look whether there is something to do, above all if nothing is published.

        Has to be called now and then: it waits without a timeout of its own, which
        would cost each message a timer. Never blocks.
        """
        self._work.set()

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._connection is not None

    # Publishing.

    def publish(self, topic: str, channel: bytes, data: bytes) -> bool:
        """Queue a message; False if it is lost. Never blocks."""
        if not self.up:
            return False
        if self._size >= MAX_QUEUED_BYTES or len(self._queue) >= MAX_QUEUED:
            self._counters[OVERFLOWS] += 1
            return False
        command = self._dialect.encode_publish(channel, self._head, data)
        self._queue.append((topic, command))
        self._size += len(command)
        self._queued += 1
        self._work.set()
        return True

    def flush(self, timeout: float) -> bool:
        """
        Block until Redis has answered for all that was queued; not in the hub.

        Returns:
            False if something of it was lost, or not answered in ``timeout`` seconds.

        """
        number, settled = self._queued, self._settled
        if number > settled and getcurrent() is not get_hub():
            self._wait_for(number, timeout)
            return self._settled >= number and self._last_lost <= settled
        return self.up

    def _wait_for(self, number: int, timeout: float) -> None:
        waiter = (number, Signal())
        self._waiters.append(waiter)
        try:
            waiter[1].wait(timeout)
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    # Its greenlet.

    def _run(self) -> None:
        pauses = Pauses(self._over)
        while not self._over.is_set():
            began = time.monotonic()
            try:
                if self._connection is None:
                    self._connect()
                    self._owner.link_changed(None)
                self._serve()
            except Exception as error:
                if self._over.is_set():
                    return
                if not isinstance(error, OSError | ConfigurationError):
                    logger.exception("Redis at %s: a connection failed", self._place)
                connected = self._connection is not None
                self._end_connection()
                if connected and time.monotonic() - began > SOUND:
                    pauses.reset()
                    if self._reconnect_at_once():
                        self._owner.link_changed(None)
                        continue
                self._fail(error)
                pauses.wait()

    def _serve(self) -> None:
        """Send what waits, whenever something does."""
        connection = self._connection
        assert connection is not None
        while not self._over.is_set():
            self._work.wait()
            self._work.clear()
            if self._reason:
                reason, self._reason = self._reason, ""
                raise ConnectionError(reason)
            idle = time.monotonic() - self._used > IDLE
            if idle and connection.has_ended():
                raise ConnectionError("Connection closed by server.")
            while self._queue:
                self._send_batch(connection)
            if time.monotonic() - self._checked > CHECK_INTERVAL:
                self._check_server(connection)

    def _send_batch(self, connection: RedisConnection) -> None:
        queue, size = self._queue, 0
        batch = self._flying = []
        while queue and size < MAX_BATCH:
            batch.append(queue.popleft())
            size += len(batch[-1][1])
        self._size -= size
        connection.send(b"".join([command for _, command in batch]))
        owner = self._owner
        for done, (topic, _) in enumerate(batch, 1):
            try:
                hearers = connection.read()
            except Refusal as error:
                self._refuse(error, self._settled + done)
            except OSError:
                del batch[: done - 1]
                self._settled += done - 1
                raise
            else:
                owner.answered(topic, hearers)
        self._flying = []
        self._used = time.monotonic()
        self._settle(self._settled + len(batch))

    def _refuse(self, error: Refusal, number: int) -> None:
        self._counters[REFUSED] += 1
        self._last_lost = number
        self._owner.refused(error)

    # Connecting.

    def _connect(self) -> None:
        connection = self._place.connect()
        try:
            self._check_server(connection)
        except BaseException:
            connection.end()
            raise
        self._connection = connection
        self._work.set()
        self._used = time.monotonic()
        self.up = True

    def _check_server(self, connection: RedisConnection) -> None:
        """Notice a server that has become a copy of another."""
        self._checked = time.monotonic()
        self._place.check(connection)

    def _check_right(self, channel: bytes) -> None:
        """Publish to nobody, to see whether it is allowed."""
        assert self._connection is not None
        try:
            self._connection.send(self._dialect.encode_publish(channel, b"", b""))
            self._connection.read()
        except Refusal as error:
            raise self._place.refusal(error) from error

    def _reconnect_at_once(self) -> bool:
        """Try, so that those who publish notice nothing."""
        try:
            self._connect()
        except (OSError, ConfigurationError):
            return False
        return True

    def _end_connection(self) -> None:
        """What was sent and not answered may be lost."""
        lost, self._flying = len(self._flying), []
        self._disconnect()
        if lost:
            self._lose(lost)

    def _fail(self, error: Exception) -> None:
        """There is no connection: nothing is taken, and what waits is lost."""
        self.up = False
        self._give_up()
        self._owner.link_changed(error)

    def _give_up(self) -> None:
        waiting = len(self._queue)
        self._queue.clear()
        self._size = 0
        self._work.clear()
        if waiting:
            self._lose(waiting)

    def _lose(self, number: int) -> None:
        self._counters[UNANSWERED] += number
        self._last_lost = self._settled + number
        self._settle(self._last_lost)

    def _settle(self, number: int) -> None:
        """All up to a number were answered, or are lost."""
        self._settled = number
        while self._waiters and self._waiters[0][0] <= number:
            self._waiters.pop(0)[1].set()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._reason = ""
        if connection is not None:
            connection.end()
