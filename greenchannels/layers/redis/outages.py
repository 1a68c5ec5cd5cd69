"""What the log says of servers that are away."""

from __future__ import annotations

import logging
import time

from .connection import Refusal

#: Seconds between two warnings of the same.
WARNING_INTERVAL = 10.0

#: Reasons that are logged in one outage.
MAX_REASONS = 5

logger = logging.getLogger("greenchannels.layer")


class OutageLog:
    """Tell the log of outages: each reason once, and the end."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._began = 0.0
        self._told: set[str] = set()
        self._warned = -WARNING_INTERVAL

    def down(self, error: Exception) -> None:
        """A connection is lost, or could not be made."""
        if not self._told:
            self._began = time.monotonic()
        reason = str(error) or type(error).__name__
        if reason in self._told or len(self._told) >= MAX_REASONS:
            return
        first = not self._told
        self._told.add(reason)
        if first:
            logger.warning(
                "no connection to Redis at %s (%s): members of this process still hear"
                " each other; it is tried again",
                self._where,
                reason,
            )
        else:
            logger.warning("still no connection to Redis: %s", reason)

    def up(self) -> None:
        """All is well, again or at last."""
        if not self._told:
            return
        lasted = time.monotonic() - self._began
        self._told.clear()
        logger.warning("Redis at %s is back after %.1f s", self._where, lasted)

    def refused(self, error: Refusal) -> None:
        """A publish was refused."""
        now = time.monotonic()
        if now - self._warned >= WARNING_INTERVAL:
            self._warned = now
            logger.warning("Redis at %s has not published: %s", self._where, error)
