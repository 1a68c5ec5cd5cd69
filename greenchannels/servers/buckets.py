"""
Token buckets: how much of what a rate allows is left.

A bucket is full at first, tokens flow in until it is full again, and what a peer sends
takes tokens out. So in any ``t`` seconds no more than ``t`` times the rate and one
bucket pass. Time is passed in, in seconds of any clock that never goes back; nothing
here knows sockets.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from ipaddress import IPv6Address, ip_address
from typing import Any

from ..options import Rate

#: Part of a token that may be missing: what adding up floats can lose.
SLACK = 1e-6

#: Buckets that are kept of one rate at most, in use by waiting sockets or not.
MAX_SHARED = 65_536

#: Buckets that are looked at for being full when there comes a new one: more than one,
#: so that they become fewer.
LOOKED_AT = 2


class Terms:
    """
    A rate in tokens: what its buckets hold, and what flows into them a second.

    A bucket has room for one message and one byte at least, or nothing would ever
    pass. What has no limit is infinite.
    """

    __slots__ = ("bytes", "bytes_per_second", "messages", "messages_per_second")

    def __init__(self, rate: Rate) -> None:
        burst = rate.per if rate.burst is None else rate.burst
        self.messages, self.messages_per_second = _tokens(rate.messages, rate, burst)
        self.bytes, self.bytes_per_second = _tokens(rate.bytes, rate, burst)


def _tokens(amount: int | None, rate: Rate, burst: float) -> tuple[float, float]:
    if amount is None:
        return math.inf, 0.0
    return max(1.0, amount * burst / rate.per), amount / rate.per


class Bucket:
    """
    What is left for one connection, address or user.

    Attributes:
        messages, bytes: Tokens, as of the last ``refill``; below zero is a debt, which
            is paid off by waiting.
        line: Who waits for tokens, if anybody does. Kept by whom it concerns.

    """

    __slots__ = ("_at", "bytes", "line", "messages", "terms")

    def __init__(self, terms: Terms, now: float) -> None:
        self.terms = terms
        self.messages = terms.messages
        self.bytes = terms.bytes
        self.line: Any = None
        self._at = now

    def refill(self, now: float) -> None:
        """Add what has flowed in since the last time."""
        elapsed = now - self._at
        if elapsed <= 0:
            return
        self._at, terms = now, self.terms
        self.messages = min(
            terms.messages, self.messages + elapsed * terms.messages_per_second
        )
        self.bytes = min(terms.bytes, self.bytes + elapsed * terms.bytes_per_second)

    @property
    def full(self) -> bool:
        """Whether it is like a new one."""
        return self.messages >= self.terms.messages and self.bytes >= self.terms.bytes

    @property
    def ready(self) -> bool:
        """Whether one message may pass if its bytes may be owed."""
        return self.messages >= 1 - SLACK and self.bytes >= 1 - SLACK

    def short_of(self, size: int) -> str | None:
        """Return what is missing for a message of ``size`` bytes, if anything is."""
        if self.messages < 1 - SLACK:
            return "messages"
        return "bytes" if self.bytes < size - SLACK else None

    def take(self, messages: int, size: int) -> None:
        """Take tokens, also such as are not there."""
        self.messages -= messages
        self.bytes -= size

    def take_within(self, messages: int, size: int) -> None:
        """Take tokens, but owe no more than one bucket because of them."""
        terms = self.terms
        floor = min(self.messages, -terms.messages)
        self.messages = max(self.messages - messages, floor)
        floor = min(self.bytes, -terms.bytes)
        self.bytes = max(self.bytes - size, floor)

    def delay(self) -> float:
        """Return the seconds from the last ``refill`` until it is ``ready``."""
        terms, longest = self.terms, 0.0
        if self.messages < 1:
            longest = (1 - self.messages) / terms.messages_per_second
        if self.bytes < 1:
            longest = max(longest, (1 - self.bytes) / terms.bytes_per_second)
        return longest


class SharedBuckets:
    """
    The buckets of one rate by address or user.

    One that is full says nothing and is forgotten: whenever there comes a new one,
    some that have not been used of late are looked at, so that as many are kept as are
    in use, and never more than ``most``: at that bound these are forgotten although
    they are not full. A peer with so many addresses needs no full bucket.

    Args:
        rate: What the buckets are for.
        most: How many are kept, but for those that somebody waits for.

    """

    def __init__(self, rate: Rate, most: int = MAX_SHARED) -> None:
        self.rate = rate
        self._terms = Terms(rate)
        self._most = most
        #: In order of use, or of having been looked at.
        self._buckets: OrderedDict[Hashable, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def get(self, key: Hashable, now: float) -> Bucket:
        """Return the bucket of ``key``. Not to be kept: it may be forgotten."""
        found = self._buckets.get(key)
        if found is not None:
            self._buckets.move_to_end(key)
            return found
        self._forget_some(now)
        found = self._buckets[key] = Bucket(self._terms, now)
        return found

    def _forget_some(self, now: float) -> None:
        for _ in range(min(LOOKED_AT, len(self._buckets))):
            key, bucket = next(iter(self._buckets.items()))
            bucket.refill(now)
            over = len(self._buckets) >= self._most
            if bucket.line is None and (over or bucket.full):
                del self._buckets[key]
            else:
                self._buckets.move_to_end(key)


def network_of(host: str) -> Hashable:
    """
    Return what the buckets of an address go by.

    That is an IPv4 address, also one inside of IPv6, and the /64 of an IPv6 address:
    a single customer has that many. Other names stand for themselves.
    """
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        mapped = address.ipv4_mapped
        return address.packed[:8] if mapped is None else mapped.packed
    return address.packed
