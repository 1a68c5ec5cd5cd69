"""What a node of a Cluster says: who has which slots, and how it is itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...errors import LayerRefused
from .connection import RedisConnection, Refusal, connect_to
from .frames import PLAIN, SHARDED, Dialect
from .url import RedisAddress


@dataclass(frozen=True)
class Map:
    """
    What a node knows.

    Attributes:
        asked: The node.
        slots: First and last slot of each range, and where its master is.
        dialect: The kind of pub/sub to use.
        sound: Whether the node hears most of the others, and all slots have a master.
        epoch: The Cluster's age, in changes of masters.

    """

    asked: RedisAddress
    slots: list[tuple[int, int, str, int]]
    dialect: Dialect
    sound: bool
    epoch: int

    @property
    def rank(self) -> tuple[bool, int, int]:
        """The better the higher."""
        covered = sum(last - first + 1 for first, last, *_ in self.slots)
        return self.sound, self.epoch, covered


def read_map(address: RedisAddress, pubsub: str) -> Map:
    """
    Ask a node for the map; blocks as long as it takes to connect, and 4 s a question.

    Args:
        address: Of the node.
        pubsub: ``"sharded"``, ``"plain"``, or ``"auto"`` for the best there is.

    Raises:
        OSError: If there is no answer.
        LayerRefused: If it does not let this program in, or is no node of a Cluster.

    """
    connection = connect_to(address)
    try:
        reply = connection.ask(b"CLUSTER", b"SLOTS")
        said = _read_info(connection)
        dialect = _choose(connection, pubsub)
    except Refusal as error:
        if "cluster support disabled" in str(error):
            text = f"Redis at {address} is no Cluster: use redis://"
            raise LayerRefused(text) from error
        if "unknown command" in str(error) or error.code == "NOPERM":
            raise LayerRefused(f"Redis at {address}: {error}") from error
        raise ConnectionError(str(error)) from error
    finally:
        connection.end()
    epoch = said.get("cluster_current_epoch", "")
    return Map(
        asked=address,
        slots=_read_slots(reply, address),
        dialect=dialect,
        sound=_says_sound(said),
        epoch=int(epoch) if epoch.isdigit() else 0,
    )


def is_sound(connection: RedisConnection) -> bool:
    """
    Say whether a node hears most of the others, and all slots have a master.

    Raises:
        OSError: If the connection is over.

    """
    return _says_sound(_read_info(connection))


def _says_sound(said: dict[str, str]) -> bool:
    return said.get("cluster_state", "ok") == "ok"


def _choose(connection: RedisConnection, pubsub: str) -> Dialect:
    """Return the kind of pub/sub that is asked for, or the best there is."""
    if pubsub != "auto":
        return PLAIN if pubsub == "plain" else SHARDED
    try:
        known = connection.ask(b"COMMAND", b"INFO", b"SPUBLISH")
    except Refusal:
        return SHARDED
    return SHARDED if known and known[0] else PLAIN


def _read_info(connection: RedisConnection) -> dict[str, str]:
    """
    Return what CLUSTER INFO says; nothing if it must not be asked.

    Raises:
        OSError: If the connection is over.

    """
    try:
        said = connection.ask(b"CLUSTER", b"INFO")
    except Refusal:
        return {}
    if not isinstance(said, bytes):
        raise ConnectionError("not what a node says of its Cluster")
    lines = (line.partition(":") for line in said.decode("ascii", "replace").split())
    return {name: value for name, _, value in lines}


def _read_slots(reply: Any, asked: RedisAddress) -> list[tuple[int, int, str, int]]:
    """
    Return first and last slot of each range, and where its master is.

    Raises:
        OSError: If it is no map.

    """
    found = []
    try:
        for first, last, (host, port, *_), *_ in reply:
            # An empty name stands for the one that was asked.
            name = host.decode() if host and host != b"?" else asked.host
            found.append((int(first), int(last), name, int(port)))
    except (TypeError, ValueError, AttributeError):
        raise ConnectionError("not a map of slots") from None
    if not found:
        raise ConnectionError("the Cluster has no slots yet")
    return found
