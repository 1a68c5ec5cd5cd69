"""Nodes of a Cluster as places that connections lead to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ...errors import ConfigurationError, LayerRefused
from .cluster_map import is_sound
from .connection import RedisConnection, Refusal, connect_to
from .url import RedisAddress

#: What a node says that is not, or not now, the one for a slot.
_ELSEWHERE = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "CROSSSLOT")


class Nodes(Protocol):
    """A Cluster, as far as its nodes go. Its ``str`` names it in logs."""

    @property
    def sound(self) -> bool:
        """Whether there was a node lately that heard most of the others."""

    def candidates(self) -> list[RedisAddress]:
        """Return the nodes that there may be, best first."""


class Node:
    """
    A node, as a ``Place``.

    Args:
        address: Of the node.

    """

    def __init__(self, address: RedisAddress) -> None:
        self._address = address

    def __str__(self) -> str:
        return str(self._address)

    def connect(self) -> RedisConnection:
        """See ``Place``."""
        return connect_to(self._address)

    def check(self, connection: RedisConnection) -> None:
        """See ``Place``: the map is watched, and who asks a wrong node is told so."""

    def refusal(self, error: Refusal) -> OSError | ConfigurationError:
        """See ``Place``: the map may be old."""
        if error.code in _ELSEWHERE:
            return ConnectionError(str(error))
        return LayerRefused(f"Redis at {self}: {error}")

    def watch(self, moved: Callable[[], None]) -> None:
        """See ``Place``: the map is watched."""


def _enter(address: RedisAddress) -> tuple[RedisConnection, bool]:
    """Return a connection, and whether its node is sound."""
    connection = connect_to(address)
    try:
        return connection, is_sound(connection)
    except BaseException:
        connection.end()
        raise


class AnyNode:
    """
    The first node that is to be had, as a ``Place``.

    Args:
        cluster: Whose nodes.

    """

    def __init__(self, cluster: Nodes) -> None:
        self._cluster = cluster

    def __str__(self) -> str:
        return str(self._cluster)

    def connect(self) -> RedisConnection:
        """See ``Place``: tries one node after the other, and takes the best."""
        reasons = []
        spare: list[RedisConnection] = []
        try:
            for address in self._cluster.candidates():
                try:
                    connection, sound = _enter(address)
                except OSError as error:
                    reasons.append(f"{address}: {error}")
                    continue
                if sound:
                    return connection
                spare.append(connection)
            if spare:
                return spare.pop(0)
        finally:
            for connection in spare:
                connection.end()
        raise ConnectionError("; ".join(reasons))

    def check(self, connection: RedisConnection) -> None:
        """See ``Place``: a node that is cut off from the others tells nobody."""
        if self._cluster.sound and not is_sound(connection):
            raise ConnectionError("this node is cut off from its Cluster")

    def refusal(self, error: Refusal) -> OSError | ConfigurationError:
        """See ``Place``: this program lacks a right."""
        return LayerRefused(f"{self}: {error}")

    def watch(self, moved: Callable[[], None]) -> None:
        """See ``Place``: any will do."""
