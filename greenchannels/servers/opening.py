"""
What a connection holds only until its handshake has been decided.

An idle socket has none of it: the object goes with the 101 or the refusal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..layers.codec import Broadcast
from ..options import Deflate
from ..wire.deflate import Parameters, negotiate
from ..wire.handshake import Handshake

if TYPE_CHECKING:
    from ..wire.http1 import Request

#: Bytes that a peer may send ahead of our 101.
MAX_EARLY = 64 * 1024

#: Messages that groups may send ahead of our 101, however short they are.
MAX_EARLY_MESSAGES = 10_000


class Opening:
    """
    A handshake, and what comes before it has been answered.

    Args:
        request: The peer's request.
        handshake: What it asks for.
        trailing: What the peer sent behind it.

    """

    __slots__ = ("early", "early_size", "handshake", "peer_sent", "request")

    def __init__(self, request: Request, handshake: Handshake, trailing: bytes) -> None:
        self.request = request
        self.handshake = handshake
        #: What the peer sent behind its request.
        self.peer_sent = bytearray(trailing)
        #: What groups sent so far, and its bytes.
        self.early: list[Broadcast] = []
        self.early_size = 0

    def choose(self, wanted: str | None, spoken: tuple[str, ...]) -> str | None:
        """
        Return the subprotocol to speak, if any.

        Args:
            wanted: What the consumer asks for.
            spoken: What the route speaks, best first; used if nothing is asked for.

        Raises:
            ValueError: If the peer did not offer what is wanted.

        """
        offered = self.handshake.subprotocols
        if wanted is not None:
            if wanted not in offered:
                raise ValueError(f"the peer did not offer the subprotocol {wanted!r}")
            return wanted
        for name in spoken:
            if name in offered:
                return name
        return None

    def agree(self, deflate: Deflate | None) -> Parameters | None:
        """Return how messages will be compressed, if both ends want that."""
        offers = self.handshake.extensions
        return negotiate(offers, deflate) if offers and deflate is not None else None

    def keep_bytes(self, buffer: bytes | bytearray, size: int) -> bool:
        """Keep what the peer sent; return whether it may send more."""
        self.peer_sent += memoryview(buffer)[:size]
        return len(self.peer_sent) < MAX_EARLY

    def keep_message(self, broadcast: Broadcast, max_size: int) -> bool:
        """Keep what a group sent; return whether there was room for it."""
        if self.early_size > max_size or len(self.early) >= MAX_EARLY_MESSAGES:
            return False
        self.early.append(broadcast)
        self.early_size += broadcast.size
        return True
