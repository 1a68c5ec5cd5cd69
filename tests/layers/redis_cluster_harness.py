"""A Cluster that tests form, and whose nodes they kill."""

import contextlib
import tempfile

from greenchannels.layers.redis.cluster import TAG_SLOTS
from greenchannels.testing.recording import until
from tests.layers.redis_harness import MEMORY, RedisServer, free_port

#: Where the masters' slots begin, and the end.
BOUNDS = (0, 5461, 10922, 16384)

#: Milliseconds after which a node counts as lost.
NODE_TIMEOUT = 1000

#: Seconds in which a Cluster is whole again.
SETTLED = 60.0


class ClusterNode(RedisServer):
    """A node, which remembers who it is."""

    def __init__(self, folder, password=None):
        self.bus_port = free_port()
        options = ["--cluster-enabled", "yes", "--cluster-port", str(self.bus_port)]
        options += ["--cluster-node-timeout", str(NODE_TIMEOUT)]
        options += ["--cluster-replica-validity-factor", "0"]
        options += ["--repl-diskless-sync-delay", "0"]
        if password:
            options += ["--requirepass", password, "--masterauth", password]
        super().__init__(folder, *options, password=password)

    @property
    def name(self):
        """What it is called in the Cluster."""
        return self.ask("CLUSTER", "MYID").decode()

    def info(self):
        """Return what it knows of the Cluster."""
        lines = self.ask("CLUSTER", "INFO").decode().split()
        return dict(line.split(":", 1) for line in lines)

    @property
    def is_master(self):
        """Whether it is one, as it says."""
        return self.ask("ROLE")[0] == b"master"

    def sharded_listeners(self, channel):
        """Return how many connections have subscribed to a channel."""
        return int(self.ask("PUBSUB", "SHARDNUMSUB", channel)[1])

    def meet(self, other):
        """Introduce another one."""
        self("CLUSTER", "MEET", "127.0.0.1", other.port, other.bus_port)

    def slots(self):
        """Return the ranges of slots that it knows, with their masters' ports."""
        found = self.ask("CLUSTER", "SLOTS")
        return [(first, last, node[1]) for first, last, node, *_ in found]

    def flags(self):
        """Return the nodes that it knows, by port, with their flags."""
        lines = self.ask("CLUSTER", "NODES").decode().splitlines()
        words = [line.split() for line in lines]
        return {
            int(word[1].split("@")[0].rpartition(":")[2]): word[2].split(",")
            for word in words
        }


class RunningCluster:
    """
    Masters that share the slots evenly, with replicas.

    Args:
        folder: Where they run.
        replicas: How many each master has.
        password: Of all.

    """

    def __init__(self, folder, replicas=0, password=None):
        self.nodes = []
        try:
            for _ in range(3 * (1 + replicas)):
                path = tempfile.mkdtemp(dir=folder)
                self.nodes.append(ClusterNode(path, password))
            self._form()
        except BaseException:
            self.kill()
            raise

    def _form(self):
        first, masters, others = self.nodes[0], self.nodes[:3], self.nodes[3:]
        for number, it in enumerate(self.nodes):
            it("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for number, it in enumerate(masters):
            bounds = BOUNDS[number], BOUNDS[number + 1] - 1
            it("CLUSTER", "ADDSLOTSRANGE", *bounds)
        for it in self.nodes[1:]:
            first.meet(it)
        names = {it.name for it in masters}
        until(lambda: all(len(it.flags()) == len(self.nodes) for it in self.nodes))
        for number, it in enumerate(others):
            master = masters[number % 3].name
            assert master in names
            until(lambda it=it, m=master: it("CLUSTER", "REPLICATE", m) == b"+OK")
        self.settle()

    def url(self, **options):
        """Return its URL for an application."""
        options.setdefault("prefix", "test")
        query = "&".join(f"{name}={value}" for name, value in options.items())
        hosts = ",".join(f"127.0.0.1:{it.port}" for it in self.nodes[:2])
        password = self.nodes[0].password
        secret = f":{password}@" if password else ""
        return f"redis+cluster://{secret}{hosts}?{query}"

    @property
    def version(self):
        """Which Redis it is, or is like."""
        lines = self.nodes[0].ask("INFO", "server").decode().split()
        (found,) = [line for line in lines if line.startswith("redis_version:")]
        return tuple(map(int, found.partition(":")[2].split(".")))

    def settle(self):
        """Have all of them run, and wait until all is well and all agree."""
        for it in self.nodes:
            if not it.runs:
                it.start()
        until(self._settled, SETTLED)

    def _settled(self):
        sound = all(it.info()["cluster_state"] == "ok" for it in self.nodes)
        maps = {tuple(sorted(it.slots())) for it in self.nodes}
        roles = {tuple(sorted(self._roles(it))) for it in self.nodes}
        well = all(self._is_linked(it) for it in self.nodes)
        return sound and len(maps) == len(roles) == 1 and well

    def _roles(self, node):
        """Return all nodes with their roles, as one sees them."""
        for port, flags in node.flags().items():
            yield port, *sorted({"master", "slave", "fail", "fail?"} & set(flags))

    def _is_linked(self, node):
        role = node.ask("ROLE")
        return role[0] == b"master" or role[3] == b"connected"

    def set_password(self, password):
        """Have all want a password, or none."""
        for it in self.nodes:
            it("CONFIG", "SET", "requirepass", password or "")
            it.password = password

    def at(self, port):
        """Return the node with a port."""
        (found,) = [it for it in self.nodes if it.port == port]
        return found

    def owner(self, slot):
        """Return the master of a slot, as most of the nodes see it."""
        ports = [
            port
            for it in self.nodes
            if it.runs
            for first, last, port in it.slots()
            if first <= slot <= last
        ]
        return self.at(max(ports, key=ports.count))

    def replica_of(self, master):
        """Return the first replica of a master."""
        for it in self.nodes:
            role = it.ask("ROLE")
            if role[0] == b"slave" and role[2] == master.port:
                return it
        raise AssertionError("it has none")

    def move(self, slots, target):
        """Give slots to another node, as redis-cli does."""
        for slot in [slots] if isinstance(slots, int) else slots:
            source = self.owner(slot)
            if source is not target:
                self._move(slot, source, target)

    def _move(self, slot, source, target):
        target("CLUSTER", "SETSLOT", slot, "IMPORTING", source.name)
        source("CLUSTER", "SETSLOT", slot, "MIGRATING", target.name)
        others = [it for it in self.nodes if it not in (source, target)]
        for it in (target, source, *others):
            assert it("CLUSTER", "SETSLOT", slot, "NODE", target.name) == b"+OK"

    def spread(self):
        """Have the slots where they were at the begin."""
        for number, it in enumerate(self.nodes[:3]):
            first, last = BOUNDS[number], BOUNDS[number + 1] - 1
            self.move([slot for slot in TAG_SLOTS if first <= slot <= last], it)

    def kill(self):
        """Kill all."""
        for it in self.nodes:
            it.kill()


@contextlib.contextmanager
def running_cluster(**options):
    """Have a Cluster for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="gc-", dir=MEMORY) as folder:
        cluster = RunningCluster(folder, **options)
        try:
            yield cluster
        finally:
            cluster.kill()
