"""
What a listener wants, what it has asked for, and what is confirmed: no I/O.

Redis confirms each channel of each command, in order; what comes of a channel while one
of its confirmations is awaited belongs to an earlier wish.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from gevent.event import Event as Signal

from .frames import MAX_CHANNELS, Dialect, encode_command

#: Commands that Redis has to confirm before more are sent: its confirmations count for
#: the limit of its output buffer.
MAX_UNCONFIRMED = 4


class Command:
    """A SUBSCRIBE or UNSUBSCRIBE on its way."""

    __slots__ = ("again", "channels", "left", "slot", "wanted")

    def __init__(self, wanted: bool, again: bool, slot: int) -> None:
        #: Which of the two it is.
        self.wanted = wanted
        #: Whether its channels were wanted before this connection.
        self.again = again
        #: What they have in common.
        self.slot = slot
        self.channels: list[bytes] = []
        #: How many of them are not confirmed yet.
        self.left = 0

    def takes(self, wanted: bool, again: bool, slot: int) -> bool:
        """Say whether a channel of such a kind fits in."""
        kind = (self.wanted, self.again, self.slot)
        return kind == (wanted, again, slot) and len(self.channels) < MAX_CHANNELS


class Waiter:
    """Who waits for confirmations."""

    __slots__ = ("channels", "confirmed", "number", "signal")

    def __init__(self, channels: Iterable[bytes], number: int) -> None:
        self.channels = frozenset(channels)
        #: How many channels have to be confirmed.
        self.number = number
        self.confirmed = False
        self.signal = Signal()


class Subscriptions:
    """
    The wishes of one listener.

    Args:
        dialect: How they are said.

    Attributes:
        topics: What is wanted, by channel.
        work: Set when there may be something to say.

    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self.topics: dict[bytes, str] = {}
        self.work = Signal()
        #: How many confirmations of a channel are awaited.
        self._awaited: dict[bytes, int] = {}
        self._queue: deque[Command] = deque()
        self._sent: deque[Command] = deque()
        #: Channels that were asked for and confirmed on this connection.
        self._asked = self._confirmed = 0
        #: The number of the last channel that was wanted before this connection.
        self._joined_at = 0
        self._waiters: deque[Waiter] = deque()
        #: Channels whose wish nobody waits for any more, though it is not confirmed.
        self._late: set[bytes] = set()

    # Asking.

    def ask(
        self, channels: Iterable[bytes], *, wanted: bool, again: bool = False
    ) -> None:
        """Have it said, with what was asked for in the same turn."""
        queue = self._queue
        for channel in channels:
            kind = (wanted, again, self._dialect.slot_of(channel))
            if not queue or not queue[-1].takes(*kind):
                queue.append(Command(*kind))
            queue[-1].channels.append(channel)
            queue[-1].left += 1
            if wanted:
                self._asked += 1
                self._awaited[channel] = self._awaited.get(channel, 0) + 1
        self.work.set()

    def ask_for_all(self, *, again: bool) -> None:
        """Have all said that is wanted: the connection is a new one."""
        for channels in self._dialect.batches(self.topics):
            self.ask(channels, wanted=True, again=again)
        self._joined_at = self._asked
        # Who waits since before the connection waits for all of it.
        for waiter in self._waiters:
            waiter.number = self._asked

    def next_commands(self) -> bytes:
        """Return what is to be sent now, a few commands at a time."""
        said = []
        dialect = self._dialect
        while self._queue and len(self._sent) < MAX_UNCONFIRMED:
            command = self._queue.popleft()
            self._sent.append(command)
            word = dialect.subscribe if command.wanted else dialect.unsubscribe
            said.append(encode_command(word, *command.channels))
        return b"".join(said)

    # Waiting.

    def wait(self, channels: Iterable[bytes], timeout: float) -> bool:
        """Block until all is confirmed that was asked for until now."""
        waiter = Waiter(channels, self._asked)
        self._waiters.append(waiter)
        try:
            waiter.signal.wait(timeout)
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        return waiter.confirmed

    def give_up(self, channels: Iterable[bytes], *, asked: bool) -> None:
        """Nobody waits any more: what is confirmed later is a gap."""
        awaited = self._awaited
        self._late.update(c for c in channels if not asked or c in awaited)

    # What is known.

    @property
    def joined(self) -> bool:
        """Whether all is confirmed that was wanted before this connection."""
        return self._confirmed >= self._joined_at

    def hears(self, channel: bytes) -> bool:
        """Say whether a channel is wanted, and nothing about it is awaited."""
        return channel in self.topics and channel not in self._awaited

    def topic_of(self, channel: bytes) -> str | None:
        """Return the topic that a message is of, unless it is of an earlier wish."""
        return None if channel in self._awaited else self.topics.get(channel)

    # Answers.

    def confirm(self, channel: bytes, *, wanted: bool) -> Command | None:
        """
        Take a confirmation; return the command that is carried out by it.

        Raises:
            OSError: If this was not asked for.

        """
        command = self._sent[0] if self._sent else None
        known = channel in self._awaited or not wanted
        if command is None or not known or command.wanted is not wanted:
            raise ConnectionError("it confirms what it was not asked for")
        if wanted:
            self._answered(channel)
        command.left -= 1
        return None if command.left else self._take_first()

    def has_left(self, channel: bytes) -> bool:
        """Say whether a channel is given up, though this process wants it."""
        command = self._sent[0] if self._sent else None
        asked = command is not None and not command.wanted
        if asked and command is not None and channel in command.channels:
            return False
        if channel not in self._awaited:
            self.topics.pop(channel, None)
        return True

    def refuse(self, slot: str) -> None:
        """Take that the command on its way was not carried out, if it is of a slot."""
        command = self._sent[0] if self._sent else None
        if command is not None and str(command.slot) == slot:
            self._take_first()
            if command.wanted:
                self._drop(command)

    def missed(self, command: Command) -> list[str]:
        """Return topics of a command that was carried out that may have a gap."""
        missed = [c for c in command.channels if command.again or c in self._late]
        self._late.difference_update(missed)
        return [self.topics[c] for c in missed if c in self.topics]

    def release(self) -> None:
        """Have those go on who wait for no more than is confirmed."""
        while self._waiters and self._waiters[0].number <= self._confirmed:
            waiter = self._waiters.popleft()
            waiter.confirmed = True
            waiter.signal.set()

    def forget(self) -> None:
        """What was asked for on this connection is over; what is wanted stays."""
        self._queue.clear()
        self._sent.clear()
        self._awaited.clear()
        self._late.clear()
        self._asked = self._confirmed = 0
        for waiter in self._waiters:
            waiter.signal.set()
        self._waiters.clear()

    def _take_first(self) -> Command:
        self.work.set()
        return self._sent.popleft()

    def _answered(self, channel: bytes) -> None:
        """It was confirmed, or will never be."""
        self._confirmed += 1
        left = self._awaited[channel] - 1
        if left:
            self._awaited[channel] = left
        else:
            del self._awaited[channel]

    def _drop(self, command: Command) -> None:
        """Who waits for a command that is not carried out learns that."""
        for channel in command.channels:
            self._answered(channel)
            if channel not in self._awaited:
                self.topics.pop(channel, None)
                self._late.discard(channel)
        for waiter in list(self._waiters):
            if not waiter.channels.isdisjoint(command.channels):
                self._waiters.remove(waiter)
                waiter.signal.set()
