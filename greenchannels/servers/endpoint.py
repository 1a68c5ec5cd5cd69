"""What the sockets of one route have in common: its options, ready for use."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from ..options import Limits, Timeouts


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

    @classmethod
    def make(
        cls,
        name: str,
        limits: Limits,
        timeouts: Timeouts,
        subprotocols: tuple[str, ...] = (),
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
        )


def _or_huge(limit: int | None) -> int:
    return sys.maxsize if limit is None else limit
