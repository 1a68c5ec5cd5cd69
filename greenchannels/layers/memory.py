"""
The bus of a process that is alone: ``memory://``.

It carries nothing, because there is nobody else: members of the same process
are served by the layer itself.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable

from .ports import Deliver, OnState


class MemoryBus:
    """A bus without other processes."""

    def start(self, deliver: Deliver, on_state: OnState) -> str:
        """Return an origin; nothing will ever be delivered."""
        return f"{os.getpid()}-{secrets.token_hex(4)}"

    def subscribe(self, topics: Iterable[str], timeout: float) -> bool:
        """Confirm at once."""
        return True

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Do nothing."""

    def wants(self, topic: str) -> bool:
        """Nobody else is there."""
        return False

    def publish(self, topic: str, data: bytes) -> bool:
        """Reach everybody else, of whom there are none."""
        return True

    def close(self) -> None:
        """Do nothing."""
