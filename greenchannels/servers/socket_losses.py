"""
A server's socket as it accounts for what it lost of what groups sent.

Policies (``slow.py``) say what is lost; here it is counted by route, logged once a
stall, and told to consumers that ask for it.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

from ..close_codes import TRY_LATER
from ..errors import ConnectionEnded
from ..layers.codec import Broadcast
from ..net.backlog import SharedFrame
from ..net.transport import Transport
from .endpoint import Endpoint
from .losses import (
    EVENTS_DROPPED,
    FRAMES_DROPPED,
    LAYER_DROPPED,
    SOCKETS_CLOSED,
    Losses,
    describe,
)
from .opening import Opening
from .socket_receiving import SocketReceiving

if TYPE_CHECKING:
    from .server import Server

logger = logging.getLogger("greenchannels.socket")


class SocketLosses(SocketReceiving):
    """Does what policies ask for, and knows what that has cost."""

    __slots__ = ("_losses",)

    def __init__(
        self,
        server: Server,
        transport: Transport,
        opening: Opening,
        endpoint: Endpoint,
        params: dict[str, Any],
    ) -> None:
        super().__init__(server, transport, opening, endpoint, params)
        #: There is one from the first loss on.
        self._losses: Losses | None = None

    # For policies. Any greenlet.

    @property
    def endpoint(self) -> Endpoint:
        """What the route says."""
        return self._endpoint

    @property
    def waiting_input(self) -> list[Any]:
        """What waits for the consumer, oldest first."""
        return self._inbox[::-1]

    def keep_input(self, kept: list[Any]) -> None:
        """Drop what waits for the consumer but for ``kept``, oldest first."""
        self._inbox[:] = kept[::-1]
        events = [each for each in kept if type(each) is Broadcast]
        self._event_bytes = sum(each.size for each in events)
        self._event_count = len(events) + self._words_waiting()

    def take_event(self, event: Broadcast, *, always: bool) -> bool:
        """Keep an event for the consumer if it fits, or in any case; return if so."""
        return self._take_event(event, always=always)

    def lose(self, what: str, number: int = 1) -> None:
        """Account for messages that were dropped or replaced; never blocks."""
        endpoint = self._endpoint
        policy = endpoint.slow.name
        self._server.layer.count_slow(endpoint.name, policy, what, number)
        losses = self._losses
        if losses is None:
            losses = self._losses = Losses(policy)
        if losses.add(what, number):
            logger.warning("%r: too slow, policy %r: %s", self, policy, what)
        if what == EVENTS_DROPPED and endpoint.announce_drops:
            self._announce(losses)

    def close_as_too_slow(self, what: str) -> None:
        """Close with 1013, or refuse with 503, because a message did not fit."""
        layer, endpoint = self._server.layer, self._endpoint
        policy = endpoint.slow.name
        layer.count_slow(endpoint.name, policy, SOCKETS_CLOSED)
        if self._opening is not None:
            self.reject(503)
            return
        layer.count_slow(endpoint.name, policy, what)
        # Of the consumer's own frames, and of pongs, no member misses anything.
        frames = sum(type(each) is SharedFrame for each in self._transport.unsent)
        self._transport.drop_unsent()
        events = self._event_count
        if frames:
            layer.count_slow(endpoint.name, policy, FRAMES_DROPPED, frames)
        if events:
            layer.count_slow(endpoint.name, policy, EVENTS_DROPPED, events)
        logger.warning("%r: closed with 1013, it reads too slowly", self)
        self.close(TRY_LATER, "too slow")

    # The end of a stall.

    def _peer_reads(self, losses: Losses) -> None:
        """Bytes have gone to the peer: is its stall over? Hub only."""
        transport = self._transport
        waiting = transport.own + transport.shared
        if losses.frames and waiting <= self._endpoint.max_write_buffer // 2:
            self._stall_ends(losses.frames)
            if losses.dropped[FRAMES_DROPPED] and self._endpoint.announce_drops:
                self._announce(losses)

    def _consumer_receives(self, losses: Losses) -> None:
        """An event has fit: is the stall of the consumer over? Any greenlet."""
        endpoint = self._endpoint
        if (
            losses.events
            and self._event_count - 1 <= endpoint.max_inbox // 2
            and self._event_bytes <= endpoint.max_inbox_bytes // 2
        ):
            self._stall_ends(losses.events)

    def _stall_ends(self, stall: Counter[str]) -> None:
        logger.warning("%r: lost for being slow: %s", self, describe(stall))
        stall.clear()

    def _end(self, kind: type[ConnectionEnded], code: int, reason: str = "") -> None:
        if self._losses is not None and self._error is None:
            for stall in (self._losses.frames, self._losses.events):
                if stall:
                    self._stall_ends(stall)
        super()._end(kind, code, reason)

    # Telling the consumer.

    def _announce(self, losses: Losses) -> None:
        """Have the consumer told, behind what waits for it. Any greenlet."""
        if losses.waits or self._error is not None:
            return
        if self._listening is False:
            self.count_dropped_event(LAYER_DROPPED)
            return
        losses.waits = True
        self._inbox.insert(0, losses)
        self._event_count += 1
        if self._waiter is not None:
            self._wake_soon()

    def _words_waiting(self) -> int:
        """Return how many of the events that wait are word of losses."""
        return 1 if self._losses is not None and self._losses.waits else 0

    def _events_fit(self) -> bool:
        """Say whether one more event may wait: word of losses takes no room."""
        endpoint = self._endpoint
        count = self._event_count - self._words_waiting()
        fits = self._event_bytes < endpoint.max_inbox_bytes
        return count < endpoint.max_inbox and fits
