"""
A server's socket as its consumer receives from it.

Messages and events come from one inbox, in order; when it is empty the
consumer's greenlet waits there for the hub.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

from ..errors import ConnectionEnded
from ..layers.codec import Broadcast
from ..text import printable
from ..types import Data, Event
from .losses import Losses
from .socket_input import SocketInput

#: Types of events that a route is warned of; there may be as many as messages.
MAX_WARNED = 1000

logger = logging.getLogger("greenchannels.socket")


class SocketReceiving(SocketInput):
    """
    Takes from the inbox what the consumer asks for, and waits for more.

    It also decides about events: a consumer that only receives messages takes
    none, which is known once it has received. It needs from above ``_events_fit``.
    """

    __slots__ = ()

    @property
    def waiting(self) -> bool:
        """Whether the consumer waits for input that is not there."""
        return self._waiter is not None and not self._inbox

    # The consumer's greenlet.

    def receive(self, timeout: float | None = None) -> Data:
        """See ``WebSocket.receive``."""
        if self._listening is not False:
            self._listen(False)
        if not self._inbox:
            self._wait_for_input(timeout)
        message: Data = self._inbox.pop()
        return message

    def __iter__(self) -> Iterator[Data]:
        """Yield messages until the peer has left."""
        while True:
            if self._listening is not False:
                try:
                    self._listen(False)
                except ConnectionEnded:
                    return
            if not self._inbox and not self._input_comes(None):
                return
            yield self._inbox.pop()

    def _receive_any(self) -> Data | Event:
        if self._listening is not True:
            self._listen(True)
        if not self._inbox:
            self._wait_for_input(None)
        message: Data = self._inbox.pop()
        if type(message) is str or type(message) is bytes:
            return message
        if self._input_paused and not self._messages_wait:
            self._resume_soon()
        return self._event_from(message)

    def _event_from(self, message: Any) -> Event:
        """Return the event that something in the inbox stands for."""
        self._event_count -= 1
        if type(message) is Losses:
            return message.take()
        self._event_bytes -= message.size
        event: Event = message.event()
        return event

    def receive_undecided(self) -> Data | Event:
        """See ``WebSocket.receive_undecided``."""
        while self._opening is not None and not self._inbox:
            if self._waiter is not None:
                raise RuntimeError("another greenlet is receiving from this socket")
            self._park()
        if self._error is not None and not self._inbox:
            self._raise_error()
        self._listening = True
        return self._receive_any()

    def _wait_for_input(self, timeout: float | None) -> None:
        """Return once the inbox holds something; raise when it never will."""
        if not self._input_comes(timeout):
            self._raise_error()

    def _input_comes(self, timeout: float | None) -> bool:
        """Wait until the inbox holds something; return whether it ever will."""
        if self._opening is not None:
            self.accept()
        if self._waiter is not None:
            raise RuntimeError("another greenlet is receiving from this socket")
        if self._input_paused:
            self._resume_soon()
        if timeout is not None and not self._inbox:
            self._wait_with_timeout(timeout)
        while not self._inbox:
            if self._error is not None:
                return False
            self._park()
        return True

    def _wait_with_timeout(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds for the inbox to hold something."""
        deadline = time.monotonic() + timeout
        loop = self._server.reactor.loop
        while not self._inbox and self._error is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no message in {timeout} s")
            timer = loop.timer(left)
            timer.start(self._wake, update=True)
            try:
                self._park()
            finally:
                timer.close()

    # Events. Any greenlet.

    def keep_events(self) -> None:
        """The consumer takes events: keep them from now on."""
        self._listening = True

    def listens_to(self, kind: str) -> bool:
        """Say whether the consumer takes what the layer tells of itself."""
        return self._listening is True

    def _listen(self, listening: bool) -> None:
        """Note whether the consumer takes events; if not, drop those that wait."""
        if self._opening is not None:
            self.accept()
        self._listening = listening
        if not listening and self._event_count:
            for message in self._inbox:
                if type(message) is Broadcast:
                    self._drop_event(message)
                elif type(message) is Losses:
                    self.count_dropped_event(message.take()["type"])
            kinds = (Broadcast, Losses)
            self._inbox = [m for m in self._inbox if type(m) not in kinds]
            self._event_count = self._event_bytes = 0

    def _take_event(self, broadcast: Broadcast, *, always: bool = False) -> bool:
        """
        Put an event into the inbox if the consumer takes any; return if it fits.

        Args:
            always: Put it there although it does not.

        """
        if self._error is not None:
            return True
        if self._listening is False:
            self._drop_event(broadcast)
            return True
        endpoint = self._endpoint
        if (
            (
                self._event_count >= endpoint.max_inbox
                or self._event_bytes >= endpoint.max_inbox_bytes
            )
            and not always
            and not self._events_fit()
        ):
            return False
        self._inbox.insert(0, broadcast)
        self._event_count += 1
        self._event_bytes += broadcast.size
        if self._waiter is not None:
            self._wake_soon()
        return True

    def _events_fit(self) -> bool:
        """Say whether one more event may wait, looking closely."""
        raise NotImplementedError

    def _drop_event(self, broadcast: Broadcast) -> None:
        event = broadcast.event()
        self.count_dropped_event(event["type"])

    def count_dropped_event(self, kind: str) -> None:
        """Count an event that a consumer which takes none was sent; warn once."""
        self._server.layer.counters["events without a listener"] += 1
        self._warn_once(kind, "the consumer does not iterate over socket.events()")

    def count_unhandled_event(self, kind: str, why: str) -> None:
        """See ``WebSocket.count_unhandled_event``."""
        self._server.layer.counters["events without a handler"] += 1
        self._warn_once(kind, why)

    def _warn_once(self, kind: str, why: str) -> None:
        """Say why events of a type are dropped, once a route."""
        warned = self._endpoint.warned
        if kind in warned or len(warned) >= MAX_WARNED:
            return
        warned.add(kind)
        logger.warning(
            "%s: an event %r was dropped: %s (said once)",
            self._endpoint.name,
            printable(kind),
            why,
        )
