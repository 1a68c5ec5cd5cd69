"""
The connection to Redis that listens.

It is made when the first topic is wanted. One greenlet reads, another says what is
wanted and what not (``subscriptions.py``). After a loss all that is wanted is asked for
anew.
"""

from __future__ import annotations

import enum
import logging
import math
import time
from collections.abc import Iterable, Mapping
from typing import Protocol

import gevent
from gevent import Greenlet, get_hub, getcurrent
from gevent.event import Event as Signal

from ...errors import ConfigurationError, LayerRefused
from ...net.reactor import ONE_TURN
from .connection import Pauses, RedisConnection, Refusal
from .frames import Dialect
from .places import Place
from .subscriptions import Subscriptions

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
        self._wishes = Subscriptions(dialect)
        #: When all was confirmed that was wanted before this connection.
        self._joined_when = math.inf
        self._over = Signal()
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
        wishes = self._wishes
        wishes.topics.update(topics)
        if self.stage is Stage.IDLE:
            self._begin(known_down)
        if self._talks:
            wishes.ask(topics, wanted=True)
        confirmed = False
        if self.stage is not Stage.DOWN and getcurrent() is not get_hub():
            confirmed = wishes.wait(topics, 0.0 if known_down else timeout)
        if self._refusal is not None and not self._ever_up:
            raise self._refusal
        if not confirmed:
            wishes.give_up(topics, asked=self.stage is not Stage.CONNECTING)
        return confirmed

    def adopt(self, topics: Mapping[bytes, str]) -> None:
        """Want what was wanted of another server; never blocks. Gaps are announced."""
        if not topics or self.stage is Stage.CLOSED:
            return
        self._wishes.topics.update(topics)
        if self.stage is Stage.IDLE:
            self._begin(known_down=False)
            self._missed = True
        elif self._talks:
            for channels in self._dialect.batches(topics):
                self._wishes.ask(channels, wanted=True, again=True)
        else:
            self._missed = True

    def unsubscribe(self, channels: Iterable[bytes]) -> None:
        """Want them no more; never blocks."""
        topics = self._wishes.topics
        known = [c for c in channels if topics.pop(c, None) is not None]
        if known and self._talks:
            for batch in self._dialect.batches(known):
                self._wishes.ask(batch, wanted=False)

    def hears(self, channel: bytes) -> bool:
        """Say whether Redis has confirmed a channel that is wanted."""
        return self._talks and self._wishes.hears(channel)

    @property
    def channels(self) -> frozenset[bytes]:
        """Those that are wanted."""
        return frozenset(self._wishes.topics)

    @property
    def _talks(self) -> bool:
        """Whether there is a connection to ask on."""
        return self.stage in (Stage.JOINING, Stage.UP)

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
        self._wishes.topics.clear()
        self._wishes.forget()

    def retire(self) -> None:
        """End as ``close`` does, soon; never blocks."""
        self.stage = Stage.CLOSED
        self._over.set()
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill(block=False)
        self._wishes.topics.clear()
        self._wishes.forget()

    def abandon(self) -> None:
        """This is a forked child of the hub's thread: end. Never blocks."""
        self.stage = Stage.CLOSED
        self._over.set()
        self._wishes.topics.clear()
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
            except Exception as error:
                if not isinstance(error, OSError | ConfigurationError):
                    logger.exception("Redis at %s: a connection failed", self._place)
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
        self._wishes.forget()
        self._owner.link_changed(error)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.end()

    def _listen(self, connection: RedisConnection) -> None:
        """Ask for all that is wanted, and read until the connection is over."""
        connection.sock.settimeout(None)
        self.last_heard = time.monotonic()
        self.stage = Stage.JOINING
        self._wishes.ask_for_all(again=self._missed)
        if self._wishes.joined:
            self._joined()
        writer = Greenlet(self._write, connection)
        writer.name = f"greenchannels subscriber of {self._place}"
        writer.start()
        try:
            self._read(connection)
        finally:
            writer.kill()

    def _write(self, connection: RedisConnection) -> None:
        """Send commands, a few at a time."""
        work = self._wishes.work
        while True:
            work.wait()
            work.clear()
            commands = self._wishes.next_commands()
            if commands:
                try:
                    connection.send(commands)
                except OSError:
                    connection.cut()
                    return

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
            if kind == message and type(value) is bytes:
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
        topic = self._wishes.topic_of(channel)
        if topic is None:
            return
        try:
            self._owner.heard(topic, payload)
        except Exception:
            logger.exception("a message could not be taken")

    def _take_confirmation(self, wanted: bool, channel: bytes) -> None:
        self.last_heard = time.monotonic()
        wishes = self._wishes
        if self._dialect.slotted and not wanted and wishes.has_left(channel):
            # Its slot has left this node, and nobody else says so.
            self._owner.moved()
            return
        command = wishes.confirm(channel, wanted=wanted)
        if command is not None:
            self._look_if_joined()
            topics = wishes.missed(command)
            if topics:
                self._owner.gap(topics)
            wishes.release()

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
        self._wishes.refuse(str(error).split()[1])
        self._look_if_joined()
        self._wishes.release()
        self._owner.moved()

    def _look_if_joined(self) -> None:
        if self.stage is Stage.JOINING and self._wishes.joined:
            self._joined()

    def _joined(self) -> None:
        """All that was wanted before this connection is confirmed."""
        self.stage = Stage.UP
        self._lost = False
        self._joined_when = time.monotonic()
        self._ever_up, self._refusal = True, None
        self._owner.link_changed(None)
