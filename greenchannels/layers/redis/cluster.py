"""
Redis Cluster: each node has some of the 16,384 hash slots, and they move.

Topics are divided among ``TAGS``, names in braces of which each stands for one slot
("Redis cluster specification", "Hash tags"), so that many channels fit into one command
and few probes tell all numbers. Where there is no sharded pub/sub (before Redis 7),
every node tells all others what is published, and one node is enough.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Mapping

import gevent
from gevent import Greenlet
from gevent.event import Event as Signal

from ...errors import ConfigurationError, LayerRefused
from ..numbers import PROBE
from .cluster_map import Map, read_map
from .connection import Pauses
from .frames import PLAIN, SLOTS, Dialect, slot_of
from .nodes import AnyNode, Node
from .outages import OutageLog
from .places import Place
from .url import RedisAddress

#: How many parts topics are divided into; more nodes than that are not of use.
PARTS = 64

#: Seconds between two looks at the map, and at least between two when in doubt.
LOOK_INTERVAL, SHORTEST_INTERVAL = 5.0, 0.25

#: Seconds that a node has to answer.
ANSWER_TIMEOUT = 2.0

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

logger = logging.getLogger("greenchannels.layer")


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
                self._tell(changed)

    def _tell(self, changed: Callable[[], None]) -> None:
        try:
            changed()
        except Exception:
            logger.exception("%s: links could not follow the map", self)
            self._gone = True  # the next look tries again

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
                    found = read_map(address, self._pubsub)
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

    def _take(self, found: Map) -> bool:
        """Have the places that a map names; return whether they are others."""
        before = (self.dialect, self._owners, self.places.keys())
        self.sound, self._epoch = found.sound, found.epoch
        nodes = {
            (host, port): self._server.at(host, port) for *_, host, port in found.slots
        }
        self._nodes = [each for each in nodes.values() if each == found.asked]
        self._nodes += [each for each in nodes.values() if each != found.asked]
        if not self.places:
            self.dialect = found.dialect
        kept = self.places
        if self.dialect is PLAIN:
            self.places = {_ANY: kept.get(_ANY) or AnyNode(self)}
        else:
            self._owners = _find_owners(found, nodes)
            used = {str(each): each for each in self._nodes}
            self.places = {
                name: kept.get(name) or Node(address)
                for name, address in used.items()
                if name in self._owners
            }
        return before != (self.dialect, self._owners, self.places.keys())

    def candidates(self) -> list[RedisAddress]:
        """Return the nodes that there may be, best first."""
        return list(dict.fromkeys([*self._nodes, *self._seeds]))


def _find_owners(
    found: Map, nodes: Mapping[tuple[str, int], RedisAddress]
) -> list[str]:
    """Return the node of each part; empty if there is none."""
    owners = [""] * PARTS
    for first, last, host, port in found.slots:
        for part, slot in enumerate(TAG_SLOTS):
            if first <= slot <= last:
                owners[part] = str(nodes[host, port])
    return owners
