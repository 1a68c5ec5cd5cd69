"""
The connection to Redis that listens.

It is made when the first topic is wanted. One greenlet reads, another says what is
wanted and what not. Redis confirms each channel of each command, in order; what comes
of a channel while one of its confirmations is awaited belongs to an earlier wish and
is left out. After a loss all that is wanted is asked for anew.
"""

from __future__ import annotations

import enum
import logging
import math
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Protocol

import gevent
from gevent import Greenlet, get_hub, getcurrent
from gevent.event import Event as Signal

from ...errors import ConfigurationError, LayerRefused
from ...net.reactor import ONE_TURN
from .connection import Pauses, RedisConnection, Refusal
from .frames import MAX_CHANNELS, Dialect, encode_command
from .places import Place

#: Commands that Redis has to confirm before more are sent: its confirmations count for
#: the limit of its output buffer.
MAX_UNCONFIRMED = 4

#: Replies and bytes after which other greenlets and sockets get their turn.
REPLIES_PER_TURN = 256
BYTES_PER_TURN = 1024 * 1024

#: Seconds that a connection lasts if it is good for something.
SOUND = 1.0

logger = logging.getLogger("greenchannels.layer")


class Stage(enum.Enum):
    """Where a listener is in its life."""

    IDLE = "nothing is wanted yet"
    CONNECTING = "first attempt"
    JOINING = "connected; not all is confirmed yet"
    UP = "up"
    DOWN = "down"
    CLOSED = "closed"


class Command:
    """A SUBSCRIBE or UNSUBSCRIBE on its way."""

    __slots__ = ("channels", "kind", "left")

    def __init__(self, kind: tuple[bool, bool, int]) -> None:
        #: Whether they are wanted, whether they were wanted before this connection,
        #: and what they must have in common.
        self.kind = kind
        self.channels: list[bytes] = []
        #: Channels that are not confirmed yet.
        self.left = 0


class Waiter:
    """Who waits for confirmations."""

    __slots__ = ("channels", "confirmed", "number", "signal")

    def __init__(self, channels: Iterable[bytes], number: int) -> None:
        self.channels = frozenset(channels)
        #: How many channels have to be confirmed.
        self.number = number
        self.confirmed = False
        self.signal = Signal()


class ListenerOwner(Protocol):
    """Who is told by a listener; nothing here may block."""

    def heard(self, topic: str, payload: bytes) -> None:
        """A message has come."""

    def gap(self, topics: list[str]) -> None:
        """They are heard again, and something may be missing."""

    def moved(self) -> None:
        """A channel belongs to another server by now."""

    def link_changed(self, error: Exception | None) -> None:
        """It has connected, or could not, because of ``error``."""


class Listener:
    """
    Listen to the channels that are wanted on one server.

    Args:
        place: The server.
        dialect: How it is spoken to.
        owner: Who is told.

    """

    def __init__(self, place: Place, dialect: Dialect, owner: ListenerOwner) -> None:
        self._place = place
        self._dialect = dialect
        self._owner = owner
        #: The topics that are wanted, by channel.
        self._topics: dict[bytes, str] = {}
        #: How many confirmations of a channel are awaited.
        self._awaited: dict[bytes, int] = {}
        self._queue: deque[Command] = deque()
        self._sent: deque[Command] = deque()
        #: Channels that were asked for and confirmed on this connection.
        self._asked = self._confirmed = 0
        self._waiters: deque[Waiter] = deque()
        #: Channels whose wish nobody waits for any more, though it is not confirmed.
        self._late: set[bytes] = set()
        #: The number of the last channel that was wanted before this connection.
        self._joined_at = 0
        #: When all of those were confirmed.
        self._joined_when = math.inf
        self._work, self._over = Signal(), Signal()
        self._connection: RedisConnection | None = None
        self._greenlet: Greenlet[..., None] | None = None
        self._refusal: LayerRefused | None = None
        self._ever_up = False
        #: Whether a connection was lost, or could not be made, before this one.
        self._missed = False
        #: Whether one was since all that was wanted was heard.
        self._lost = False
        #: Why the connection was cut here.
        self._reason = ""
        #: When the last reply came.
        self.last_heard = 0.0
        self.stage = Stage.IDLE

    # Wanting.

    def subscribe(
        self, topics: Mapping[bytes, str], timeout: float, known_down: bool
    ) -> bool:
        """
        Want ``topics``; return whether Redis has confirmed it.

        Blocks at most ``timeout`` seconds; not in the hub, and not while it is away.
        What is confirmed later is announced as a gap.

        Args:
            topics: By channel.
            timeout: See above.
            known_down: Whether the server is known to be away.

        Raises:
            LayerRefused: If this program was never let in.

        """
        if self.stage is Stage.CLOSED:
            return False
        self._topics.update(topics)
        if self.stage is Stage.IDLE:
            self._begin(known_down)
        if self.stage in (Stage.JOINING, Stage.UP):
            self._ask(topics, wanted=True)
        confirmed = False
        if self.stage is not Stage.DOWN and getcurrent() is not get_hub():
            confirmed = self._wait(topics, 0.0 if known_down else timeout)
        if self._refusal is not None and not self._ever_up:
            raise self._refusal
        if not confirmed and self.stage is Stage.CONNECTING:
            self._late.update(topics)
        elif not confirmed:
            self._late.update(self._awaited.keys() & topics.keys())
        return confirmed

    def adopt(self, topics: Mapping[bytes, str]) -> None:
        """Want what was wanted of another server; never blocks. Gaps are announced."""
        if not topics or self.stage is Stage.CLOSED:
            return
        self._topics.update(topics)
        if self.stage is Stage.IDLE:
            self._begin(known_down=False)
            self._missed = True
        elif self.stage in (Stage.JOINING, Stage.UP):
            for channels in self._dialect.batches(topics):
                self._ask(channels, wanted=True, again=True)
        else:
            self._missed = True

    def unsubscribe(self, channels: Iterable[bytes]) -> None:
        """Want them no more; never blocks."""
        known = [c for c in channels if self._topics.pop(c, None) is not None]
        if known and self.stage in (Stage.JOINING, Stage.UP):
            for batch in self._dialect.batches(known):
                self._ask(batch, wanted=False)

    def hears(self, channel: bytes) -> bool:
        """Say whether Redis has confirmed a channel that is wanted."""
        connected = self.stage in (Stage.JOINING, Stage.UP)
        return connected and channel in self._topics and channel not in self._awaited

    @property
    def channels(self) -> frozenset[bytes]:
        """Those that are wanted."""
        return frozenset(self._topics)

    def _ask(
        self, channels: Iterable[bytes], *, wanted: bool, again: bool = False
    ) -> None:
        """Have it said, with what was asked for in the same turn."""
        queue = self._queue
        for channel in channels:
            last = queue[-1] if queue else None
            kind = (wanted, again, self._dialect.slot_of(channel))
            if last is None or last.kind != kind or len(last.channels) >= MAX_CHANNELS:
                last = Command(kind)
                queue.append(last)
            last.channels.append(channel)
            last.left += 1
            if wanted:
                self._asked += 1
                self._awaited[channel] = self._awaited.get(channel, 0) + 1
        self._work.set()

    def _wait(self, channels: Iterable[bytes], timeout: float) -> bool:
        """Wait for all that was asked for until now."""
        waiter = Waiter(channels, self._asked)
        self._waiters.append(waiter)
        try:
            waiter.signal.wait(timeout)
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        return waiter.confirmed

    # Life.

    def _begin(self, known_down: bool) -> None:
        self.stage = Stage.DOWN if known_down else Stage.CONNECTING
        self._missed = self._lost = known_down
        self._greenlet = Greenlet(self._run)
        self._greenlet.name = f"greenchannels listener of {self._place}"
        self._greenlet.start()

    def close(self) -> None:
        """End; what is wanted is forgotten."""
        self.stage = Stage.CLOSED
        self._over.set()
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill()
        self._topics.clear()
        self._forget()

    def retire(self) -> None:
        """End as ``close`` does, soon; never blocks."""
        self.stage = Stage.CLOSED
        self._over.set()
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill(block=False)
        self._topics.clear()
        self._forget()

    def abandon(self) -> None:
        """This is a forked child of the hub's thread: end. Never blocks."""
        self.stage = Stage.CLOSED
        self._over.set()
        self._topics.clear()
        if self._connection is not None:
            self._connection.cut()
        if self._greenlet is not None:
            self._greenlet.kill(block=False)

    def forsake(self) -> None:
        """This is a forked child of another thread: the greenlets will never run."""
        self.stage = Stage.CLOSED
        if self._connection is not None:
            self._connection.forsake()

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._connection is not None

    @property
    def away(self) -> bool:
        """Whether a connection was lost, and not all that was wanted is heard again."""
        joining = self.stage is Stage.JOINING and self._lost
        return joining or self.stage is Stage.DOWN

    def reconnect(self, reason: str) -> None:
        """Make another connection. Never blocks."""
        if self._connection is not None:
            self._reason = reason
            self._connection.cut()

    # Its greenlet.

    def _run(self) -> None:
        pauses = Pauses(self._over)
        while not self._over.is_set():
            self._joined_when = math.inf
            try:
                self._connection = self._place.connect()
                self._listen(self._connection)
            except (OSError, ConfigurationError) as error:
                self._lose(error)
            finally:
                self._disconnect()
            if time.monotonic() - self._joined_when > SOUND:
                pauses.reset()
            pauses.wait()

    def _lose(self, error: Exception) -> None:
        """Nothing is heard; what is wanted is kept."""
        if self.stage is Stage.CLOSED:
            return
        if self._reason:
            error = ConnectionError(self._reason)
            self._reason = ""
        if isinstance(error, LayerRefused) and not self._missed:
            # Only a first attempt is somebody's mistake, and not an outage.
            self._refusal = error
        self._missed = self._lost = True
        self.stage = Stage.DOWN
        self._forget()
        self._owner.link_changed(error)

    def _forget(self) -> None:
        """What was asked for on this connection is over."""
        self._queue.clear()
        self._sent.clear()
        self._awaited.clear()
        self._late.clear()
        self._asked = self._confirmed = 0
        for waiter in self._waiters:
            waiter.signal.set()
        self._waiters.clear()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.end()

    def _listen(self, connection: RedisConnection) -> None:
        """Ask for all that is wanted, and read until the connection is over."""
        connection.sock.settimeout(None)
        self.last_heard = time.monotonic()
        self.stage = Stage.JOINING
        for channels in self._dialect.batches(self._topics):
            self._ask(channels, wanted=True, again=self._missed)
        self._joined_at = self._asked
        if not self._joined_at:
            self._joined()
        # Who waits since before the connection waits for all of it.
        for waiter in self._waiters:
            waiter.number = self._asked
        writer = Greenlet(self._write, connection)
        writer.name = f"greenchannels subscriber of {self._place}"
        writer.start()
        try:
            self._read(connection)
        finally:
            writer.kill()

    def _write(self, connection: RedisConnection) -> None:
        """Send commands, a few at a time."""
        while True:
            self._work.wait()
            self._work.clear()
            commands = []
            while self._queue and len(self._sent) < MAX_UNCONFIRMED:
                commands.append(self._queue.popleft())
                self._sent.append(commands[-1])
            if commands:
                try:
                    connection.send(b"".join(map(self._encode, commands)))
                except OSError:
                    connection.cut()
                    return

    def _encode(self, command: Command) -> bytes:
        dialect, wanted = self._dialect, command.kind[0]
        word = dialect.subscribe if wanted else dialect.unsubscribe
        return encode_command(word, *command.channels)

    def _read(self, connection: RedisConnection) -> None:
        dialect = self._dialect
        joined, left, message = dialect.joined, dialect.left, dialect.message
        replies = size = 0
        while True:
            replies += 1
            try:
                reply = connection.read()
            except Refusal as error:
                self._take_refusal(error)
                continue
            try:
                kind, channel, value = reply
            except (TypeError, ValueError):
                raise ConnectionError("not what a listener hears") from None
            if kind == message:
                size += len(value)
                self._take(channel, value)
            elif kind in (joined, left):
                self._take_confirmation(kind == joined, channel)
            else:
                raise ConnectionError(f"not what a listener hears: {kind!r:.50}")
            if replies >= REPLIES_PER_TURN or size >= BYTES_PER_TURN:
                replies = size = 0
                gevent.sleep(ONE_TURN)

    def _take(self, channel: bytes, payload: bytes) -> None:
        self.last_heard = time.monotonic()
        topic = self._topics.get(channel)
        if topic is None or channel in self._awaited:
            return
        try:
            self._owner.heard(topic, payload)
        except Exception:
            logger.exception("a message could not be taken")

    def _take_confirmation(self, wanted: bool, channel: bytes) -> None:
        self.last_heard = time.monotonic()
        command = self._sent[0] if self._sent else None
        if self._dialect.slotted and not wanted and not self._was_asked(channel):
            # Its slot has left this node, and nobody else says so.
            if channel not in self._awaited:
                self._topics.pop(channel, None)
            self._owner.moved()
            return
        if command is None or command.kind[0] is not wanted:
            raise ConnectionError("it confirms what it was not asked for")
        if wanted:
            self._answered(channel)
        command.left -= 1
        if not command.left:
            self._sent.popleft()
            self._work.set()
            self._complete(command)

    def _was_asked(self, channel: bytes) -> bool:
        """Whether a channel is left because this process wants that."""
        command = self._sent[0] if self._sent else None
        return (
            command is not None and not command.kind[0] and channel in command.channels
        )

    def _answered(self, channel: bytes) -> None:
        """It was confirmed, or will never be."""
        self._confirmed += 1
        left = self._awaited[channel] - 1
        if left:
            self._awaited[channel] = left
        else:
            del self._awaited[channel]

    def _take_refusal(self, error: Refusal) -> None:
        """
        A command was not carried out.

        If the slot of its channels is another node's by now, they are that link's
        affair. One that gives up channels may be answered twice then: they were taken
        away before it came, which looks like its confirmation.

        Raises:
            OSError: If the connection should be another one.
            ConfigurationError: If this program lacks a right.

        """
        if not self._dialect.slotted or error.code != "MOVED":
            raise self._place.refusal(error) from error
        command = self._sent[0] if self._sent else None
        if command is not None and str(command.kind[2]) == str(error).split()[1]:
            self._sent.popleft()
            self._work.set()
            self._drop(command)
        self._owner.moved()

    def _drop(self, command: Command) -> None:
        """It was not carried out: who waits for it learns that."""
        if not command.kind[0]:
            return
        for channel in command.channels:
            self._answered(channel)
            if channel not in self._awaited:
                self._topics.pop(channel, None)
                self._late.discard(channel)
        if self.stage is Stage.JOINING and self._confirmed >= self._joined_at:
            self._joined()
        for waiter in list(self._waiters):
            if not waiter.channels.isdisjoint(command.channels):
                self._waiters.remove(waiter)
                waiter.signal.set()
        self._release()

    def _complete(self, command: Command) -> None:
        """All of a command is confirmed."""
        if self.stage is Stage.JOINING and self._confirmed >= self._joined_at:
            self._joined()
        missed = [c for c in command.channels if command.kind[1] or c in self._late]
        self._late.difference_update(missed)
        topics = [self._topics[c] for c in missed if c in self._topics]
        if topics:
            self._owner.gap(topics)
        self._release()

    def _release(self) -> None:
        """Have those go on who wait for no more than is confirmed."""
        while self._waiters and self._waiters[0].number <= self._confirmed:
            waiter = self._waiters.popleft()
            waiter.confirmed = True
            waiter.signal.set()

    def _joined(self) -> None:
        """All that was wanted before this connection is confirmed."""
        self.stage = Stage.UP
        self._lost = False
        self._joined_when = time.monotonic()
        self._ever_up, self._refusal = True, None
        self._owner.link_changed(None)
