"""
Redis Cluster: each node has some of the 16,384 hash slots, and they move.

Topics are divided among ``TAGS``, names in braces of which each stands for one slot
("Redis cluster specification", "Hash tags"), so that many channels fit into one command
and few probes tell all numbers. Where there is no sharded pub/sub (before Redis 7),
every node tells all others what is published, and one node is enough.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gevent
from gevent import Greenlet
from gevent.event import Event as Signal

from ...errors import ConfigurationError, LayerRefused
from ..numbers import PROBE
from .connection import Pauses, RedisConnection, Refusal, connect_to
from .frames import PLAIN, SHARDED, SLOTS, Dialect, slot_of
from .outages import OutageLog
from .places import Place
from .url import RedisAddress

#: How many parts topics are divided into; more nodes than that are not of use.
PARTS = 64

#: Seconds between two looks at the map, and at least between two when in doubt.
LOOK_INTERVAL, SHORTEST_INTERVAL = 5.0, 0.25

#: Seconds that a node has to answer.
ANSWER_TIMEOUT = 2.0

#: What a node says that is not, or not now, the one for a slot.
_ELSEWHERE = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "CROSSSLOT")

#: What plain pub/sub calls the one server that it sees.
_ANY = "the Cluster"


def _make_tags() -> list[bytes]:
    """Return names whose slots are spread evenly, as nodes' slots usually are."""
    tags: dict[int, bytes] = {}
    number = 0
    while len(tags) < PARTS:
        tag = b"%d" % number
        tags.setdefault(slot_of(tag) * PARTS // SLOTS, tag)
        number += 1
    return [tags[part] for part in range(PARTS)]


#: The names of the parts, and their slots. All processes must have the same.
TAGS = _make_tags()
TAG_SLOTS = [slot_of(tag) for tag in TAGS]


@dataclass(frozen=True)
class Map:
    """
    What a node knows.

    Attributes:
        asked: The node.
        slots: First and last slot of each range, and where its master is.
        dialect: The best kind of pub/sub.
        sound: Whether the node hears most of the others, and all slots have a master.
        epoch: The Cluster's age, in changes of masters.

    """

    asked: RedisAddress
    slots: list[tuple[int, int, str, int]]
    dialect: Dialect
    sound: bool
    epoch: int

    @property
    def rank(self) -> tuple[bool, int]:
        """The better the higher."""
        return self.sound, self.epoch


class Cluster:
    """
    The ``Router`` of a Cluster.

    Args:
        seeds: Some of its nodes.
        server: How nodes are entered.
        prefix: What all channels begin with.
        pubsub: ``"sharded"``, ``"plain"``, or ``"auto"`` for the best there is.

    """

    def __init__(
        self,
        seeds: tuple[RedisAddress, ...],
        server: RedisAddress,
        prefix: str,
        pubsub: str,
    ) -> None:
        self._seeds = seeds
        self._server = server
        self._prefix = prefix.encode()
        self._pubsub = pubsub
        self.dialect: Dialect = PLAIN
        self.places: dict[str, Place] = {}
        #: Whether all was well where the map is from.
        self.sound = False
        self._epoch = 0
        #: The nodes that have slots; the one first that had the map.
        self._nodes: list[RedisAddress] = []
        #: The node of each part; empty if there is none.
        self._owners = [""] * PARTS
        self._wake = Signal()
        #: Whether a node has given up channels by itself.
        self._gone = False
        self._greenlet: Greenlet[..., None] | None = None
        self._failed = False
        self._log = OutageLog(str(self))

    def __str__(self) -> str:
        return f"the Cluster of {', '.join(map(str, self._seeds))}"

    # Router.

    def start(self, changed: Callable[[], None]) -> None:
        """See ``Router``."""
        try:
            self._look()
        except OSError as error:
            self._fail(error)
        self._greenlet = Greenlet(self._run, changed)
        self._greenlet.name = f"greenchannels watch of {self}"
        self._greenlet.start()

    def find(self, topic: str) -> tuple[str, bytes]:
        """See ``Router``."""
        name = topic.encode()
        if self.dialect is PLAIN:
            return _ANY, self._prefix + name
        part = zlib.crc32(name) % PARTS
        return self._owners[part], self._channel(part, name)

    def probe_channels(self, server: str) -> list[bytes]:
        """See ``Router``: one for each of its parts."""
        name = PROBE.encode()
        if self.dialect is PLAIN:
            return [self._prefix + name]
        parts = [part for part in range(PARTS) if self._owners[part] == server]
        return [self._channel(part, name) for part in parts]

    def doubt(self, *, gone: bool = False) -> None:
        """See ``Router``."""
        self._gone |= gone
        self._wake.set()

    def close(self) -> None:
        """See ``Router``."""
        if self._greenlet is not None:
            self._greenlet.kill(block=False)
            self._greenlet = None

    def forsake(self) -> object:
        """See ``Router``."""
        kept = (self._greenlet, self._wake)
        self._greenlet, self._wake = None, Signal()
        return kept

    # The map.

    def _channel(self, part: int, name: bytes) -> bytes:
        return b"%b{%b}%b" % (self._prefix, TAGS[part], name)

    def _run(self, changed: Callable[[], None]) -> None:
        pauses = Pauses(Signal())
        while True:
            gevent.sleep(SHORTEST_INTERVAL)
            self._wake.wait(LOOK_INTERVAL)
            self._wake.clear()
            try:
                other = self._look()
            except (OSError, ConfigurationError) as error:
                self._fail(error)
                pauses.wait()
                continue
            pauses.reset()
            self._recover()
            if other or self._gone:
                self._gone = False
                changed()

    def _fail(self, error: Exception) -> None:
        """There is no map: what is known is kept."""
        self._failed = True
        self._log.down(error)
        self.doubt()

    def _recover(self) -> None:
        if self._failed:
            self._failed = False
            self._log.up()

    def _look(self) -> bool:
        """
        Ask for the map; return whether it is another than before.

        A node that is cut off from the others, or was, has an old one: if the first
        may be such a node, the others are asked, too.

        Raises:
            OSError: If no node has it.
            LayerRefused: If they do not let this program in.

        """
        reasons, refusal = [], None
        best: Map | None = None
        for address in self.candidates():
            try:
                with gevent.Timeout(ANSWER_TIMEOUT, TimeoutError("no answer")):
                    found = self._ask(address)
            except OSError as error:
                reasons.append(f"{address}: {error}")
                continue
            except LayerRefused as error:
                refusal = error
                continue
            if best is None or found.rank > best.rank:
                best = found
            if best.sound and best.epoch >= self._epoch:
                break
        if best is None:
            raise refusal or ConnectionError("; ".join(reasons))
        return self._take(best)

    def _ask(self, address: RedisAddress) -> Map:
        """Return what a node knows."""
        connection = connect_to(address)
        try:
            reply = connection.ask(b"CLUSTER", b"SLOTS")
            said = _read_info(connection)
            dialect = self.dialect if self.places else self._choose(connection)
        except Refusal as error:
            if "cluster support disabled" in str(error):
                text = f"Redis at {address} is no Cluster: use redis://"
                raise LayerRefused(text) from error
            if "unknown command" in str(error) or error.code == "NOPERM":
                raise LayerRefused(f"Redis at {address}: {error}") from error
            raise ConnectionError(str(error)) from error
        finally:
            connection.end()
        return Map(
            asked=address,
            slots=_read_slots(reply, address),
            dialect=dialect,
            sound=said.get("cluster_state", "ok") == "ok",
            epoch=int(said.get("cluster_current_epoch", "0")),
        )

    def _choose(self, connection: RedisConnection) -> Dialect:
        """Return the kind of pub/sub that there is."""
        if self._pubsub != "auto":
            return PLAIN if self._pubsub == "plain" else SHARDED
        try:
            known = connection.ask(b"COMMAND", b"INFO", b"SPUBLISH")
        except Refusal:
            return SHARDED
        return SHARDED if known and known[0] else PLAIN

    def _take(self, found: Map) -> bool:
        """Have the places that a map names; return whether they are others."""
        dialect, slots = found.dialect, found.slots
        self.sound, self._epoch = found.sound, found.epoch
        nodes = {(host, port): self._server.at(host, port) for *_, host, port in slots}
        owners = [""] * PARTS
        for first, last, host, port in slots:
            for part, slot in enumerate(TAG_SLOTS):
                if first <= slot <= last:
                    owners[part] = str(nodes[host, port])
        self._nodes = [each for each in nodes.values() if each == found.asked]
        self._nodes += [each for each in nodes.values() if each != found.asked]
        if dialect is PLAIN:
            places: dict[str, Place] = {_ANY: self.places.get(_ANY) or AnyNode(self)}
        else:
            used = {str(each): each for each in self._nodes if str(each) in owners}
            kept = self.places
            places = {n: kept.get(n) or Node(address) for n, address in used.items()}
        same = (dialect, owners, list(places)) == (
            self.dialect,
            self._owners,
            list(self.places),
        )
        self.dialect, self._owners, self.places = dialect, owners, places
        return not same

    def candidates(self) -> list[RedisAddress]:
        """Return the nodes that there may be, best first."""
        return list(dict.fromkeys([*self._nodes, *self._seeds]))


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


def _is_sound(connection: RedisConnection) -> bool:
    """Whether a node is with most of the others; ends the connection if it is over."""
    try:
        return _read_info(connection).get("cluster_state", "ok") == "ok"
    except BaseException:
        connection.end()
        raise


class AnyNode:
    """
    The first node that is to be had, as a ``Place``.

    Args:
        cluster: Whose nodes.

    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def __str__(self) -> str:
        return str(self._cluster)

    def connect(self) -> RedisConnection:
        """See ``Place``: tries one node after the other, and takes the best."""
        reasons = []
        spare: RedisConnection | None = None
        for address in self._cluster.candidates():
            try:
                connection = connect_to(address)
                sound = _is_sound(connection)
            except OSError as error:
                reasons.append(f"{address}: {error}")
                continue
            if sound:
                if spare is not None:
                    spare.end()
                return connection
            if spare is None:
                spare = connection
            else:
                connection.end()
        if spare is None:
            raise ConnectionError("; ".join(reasons))
        return spare

    def check(self, connection: RedisConnection) -> None:
        """See ``Place``: a node that is cut off from the others tells nobody."""
        if self._cluster.sound and not _is_sound(connection):
            raise ConnectionError("this node is cut off from its Cluster")

    def refusal(self, error: Refusal) -> OSError | ConfigurationError:
        """See ``Place``: this program lacks a right."""
        return LayerRefused(f"{self}: {error}")

    def watch(self, moved: Callable[[], None]) -> None:
        """See ``Place``: any will do."""
