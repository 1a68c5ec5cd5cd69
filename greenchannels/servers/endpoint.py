"""What the sockets of one route have in common: its options, ready for use."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..options import Deflate, Limits, Timeouts
from ..types import SlowPolicy
from .slow import POLICIES, Policy

if TYPE_CHECKING:
    from .rates import RouteRates


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """A route as its sockets see it, made once."""

    #: For logs: the route's pattern.
    name: str
    limits: Limits
    timeouts: Timeouts
    subprotocols: tuple[str, ...]
    max_inbox: int
    max_inbox_bytes: int
    max_write_buffer: int
    #: Names of counts that are logged once a route.
    warned: set[str]
    #: How much peers may send, if that is limited.
    rates: RouteRates | None = None
    #: How messages are compressed for who offers it, ``None``: they are not.
    deflate: Deflate | None = None
    #: What happens to messages of groups that do not fit.
    slow: Policy = POLICIES["close"]
    #: Whether the consumer gets an event when some have been dropped.
    announce_drops: bool = False

    @classmethod
    def make(
        cls,
        name: str,
        limits: Limits,
        timeouts: Timeouts,
        subprotocols: tuple[str, ...] = (),
        rates: RouteRates | None = None,
        deflate: Deflate | None = None,
        slow: SlowPolicy = "close",
        announce_drops: bool = False,
    ) -> Endpoint:
        """Return an endpoint; limits of ``None`` become very large numbers."""
        return cls(
            name,
            limits,
            timeouts,
            subprotocols,
            _or_huge(limits.max_inbox),
            _or_huge(limits.max_inbox_bytes),
            _or_huge(limits.max_write_buffer),
            set(),
            rates=rates,
            deflate=deflate,
            slow=POLICIES[slow],
            announce_drops=announce_drops,
        )


def _or_huge(limit: int | None) -> int:
    return sys.maxsize if limit is None else limit
