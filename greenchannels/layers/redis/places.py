"""Where a connection to Redis leads: what is made anew for every connection."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from ...errors import ConfigurationError, LayerRefused
from .connection import RedisConnection, Refusal, connect_to
from .url import RedisAddress

#: What else than a server may be at an address.
_KINDS = {"cluster": "a node of a Cluster", "sentinel": "a sentinel"}

logger = logging.getLogger("greenchannels.layer")


class Place(Protocol):
    """A server, or what finds it. Its ``str`` names it in logs."""

    def connect(self) -> RedisConnection:
        """
        Return a new connection; blocks a few seconds at most.

        Raises:
            OSError: If there is none to be had now.
            LayerRefused: If this program is not let in.

        """

    def check(self, connection: RedisConnection) -> None:
        """
        Ask a server, at which nothing else is asked now, whether it is what it was.

        Blocks until it has answered.

        Raises:
            OSError: If the connection should be another one.
            LayerRefused: If the server is not what the URL says.

        """

    def refusal(self, error: Refusal) -> OSError | ConfigurationError:
        """Return what to raise when a command that must work does not."""

    def watch(self, moved: Callable[[], None]) -> None:
        """Block, and call ``moved`` when connections should lead elsewhere."""


class OneServer:
    """
    A server with a fixed address.

    Args:
        address: Of the server.

    """

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._copies = False

    def __str__(self) -> str:
        return str(self._address)

    def connect(self) -> RedisConnection:
        """See ``Place``."""
        return connect_to(self._address)

    def check(self, connection: RedisConnection) -> None:
        """See ``Place``: a replica may be used, if all use it, but it should not be."""
        said = connection.hello()
        kind = said.get("mode")
        if kind in ("cluster", "sentinel"):
            raise LayerRefused(
                f"Redis at {self} is {_KINDS[kind]}: use redis+{kind}://"
            )
        copies = said.get("role") == "replica"
        if copies and not self._copies:
            logger.warning(
                "Redis at %s is a replica: what is sent there reaches only processes"
                " that listen there, too",
                self,
            )
        self._copies = copies

    def refusal(self, error: Refusal) -> OSError | ConfigurationError:
        """See ``Place``: this program lacks a right."""
        return LayerRefused(f"Redis at {self}: {error}")

    def watch(self, moved: Callable[[], None]) -> None:
        """See ``Place``: it stays where it is."""
