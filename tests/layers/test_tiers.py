"""Two tiers: real processes on two machines, which are two folders, and a Redis."""

import contextlib
import os
import re
import signal
import tempfile
import time

import gevent
import pytest

from greenchannels.layers.layer import group_topic
from greenchannels.layers.registry import make_layer
from greenchannels.net.reactor import Reactor
from greenchannels.testing.recording import RecordingMember, text
from greenchannels.testing.recording import until as until_in_hub
from tests.layers.ipc_harness import Family, nursery, until
from tests.layers.redis_harness import proxy, redis_server, running_redis
from tests.servers.harness import no_leaks

__all__ = ["no_leaks", "nursery", "proxy", "redis_server"]

pytestmark = pytest.mark.usefixtures("no_leaks")

#: Seconds in which everything is back; promised are 5.
BACK = 50.0

#: What those hear who call a process that has just been killed.
GONE = {"ConnectionEnded", "LayerUnavailable"}


class Machine(Family):
    """The processes of one machine."""

    def __init__(self, folder, nursery, redis_url):
        super().__init__(folder, nursery)
        self.url = f"ipc://{folder}+{redis_url}"

    def gateways(self):
        """Return those of the living that say that they are the gateway."""
        return [each for each in self.living if each("stats")["bus"]["gateway"]]

    def gateway(self):
        """Wait until there is exactly one, and return it."""
        until(lambda: len(self.gateways()) == 1, BACK)
        return self.gateways()[0]

    def others(self):
        """Return the living that are not the gateway."""
        gateway = self.gateway()
        return [each for each in self.living if each is not gateway]


class World:
    """Two machines on a Redis, with the accounts of who has sent what in "room"."""

    def __init__(self, machines):
        self.machines = machines
        self.flooding = []

    @property
    def living(self):
        """All processes that were not killed."""
        return [each for machine in self.machines for each in machine.living]

    def populate(self, count=3):
        """Start processes with a member each, which have heard each other."""
        for machine in self.machines:
            machine.start(count)
        for each in self.living:
            each("join", "room")
        self.meet()

    def meet(self):
        """Have each hear each other, so that all know from where to count."""
        for each in self.living:
            each("flood", "room", 1)
        names = {each.origin for each in self.living}
        for each in self.living:
            until(lambda e=each: names <= set(e("flooded")[0]) | {e.origin}, BACK)
        for each in self.living:
            each("stop")

    def begin(self, *processes, burst=3):
        """Have processes send all the time."""
        self.flooding = list(processes)
        for each in processes:
            each("flood", "room", burst)

    def end(self):
        """Return how many messages each has sent in all."""
        self.flooding = []
        return {each.origin: each("stop") for each in self.living}

    def exact(self, sent, lossless=()):
        """
        Wait until each has got or counted all that the living have sent.

        Args:
            sent: As ``end`` returns it.
            lossless: Those of whom all must have come, for all on their machine.

        """

        def accounts(process):
            heard, disorder = process("flooded")
            assert not disorder
            got = sum(heard.get(o, 0) for o in sent if o != process.origin)
            return got, process("stats").get("messages missed", 0)

        for machine in self.machines:
            for each in machine.living:
                total = sum(n for o, n in sent.items() if o != each.origin)

                def balanced(each=each, total=total):
                    for sender in self.living:
                        sender("probe")
                    return sum(accounts(each)) == total

                until(balanced, BACK, lambda e=each, t=total: f"{t}: {accounts(e)}")
                heard = each("flooded")[0]
                for sender in lossless:
                    if sender in machine.living and sender is not each:
                        assert heard[sender.origin] == sent[sender.origin]

    def gaps(self, process):
        """Return how often a gap of unknown size was announced to a member."""
        return sum(event["missed"] is None for event in process("events"))


@pytest.fixture
def world(nursery, redis_server):
    """Two machines without processes."""
    with tempfile.TemporaryDirectory(prefix="gc-") as above:
        machines = [
            Machine(os.path.join(above, name), nursery, redis_server.url())
            for name in ("east", "west")
        ]
        yield World(machines)
        for machine in machines:
            machine.end()


def listening(redis_server):
    """Return how many connections of ours have subscribed to anything."""
    counts = [re.search(r"\bsub=(\d+)", line)[1] for line in redis_server.clients()]
    return sum(count != "0" for count in counts)


def test_one_message_a_machine_crosses_the_network(world, redis_server):
    """Though three processes of each want it; and each member gets it once."""
    world.populate()
    assert redis_server.listeners("test:g:room") == 2
    assert listening(redis_server) == 2
    assert redis_server("PUBLISH", "test:g:room", "not ours") == b":2"
    east, west = world.machines
    before = [each("stats")["bus"]["messages passed on"] for each in west.gateways()]
    east.processes[0]("send", "room", "hello", 10)
    for each in world.living:
        if each is not east.processes[0]:
            until(lambda e=each: e("texts") == ["hello"] * 10)
    after = [each("stats")["bus"]["messages passed on"] for each in west.gateways()]
    assert [b + 10 for b in before] == after


def test_what_one_process_wants_is_heard_by_its_gateway_alone(world, redis_server):
    """And no longer than it wants it, or lives."""
    world.populate()
    east, west = world.machines
    for count, process in enumerate(east.others(), 1):
        process("join", "side")
        assert redis_server.listeners("test:g:side") == 1
        west.processes[0]("send", "side", f"{count}")
        until(lambda p=process, c=count: p("texts")[-1:] == [f"{c}"])
    first, second = east.others()
    first("leave", "side")
    assert redis_server.listeners("test:g:side") == 1
    second.kill()
    until(lambda: redis_server.listeners("test:g:side") == 0)
    assert first("texts") == ["1", "2"]


def test_order_and_origin_hold_across_both_tiers(world):
    """All send at once: each hears all others in order, nothing twice, no holes."""
    world.populate()
    names = [each("channel") for each in world.living]
    world.begin(*world.living)
    for sender in world.living:
        for name in names:
            sender("send_channel", name, "by name")
    time.sleep(0.5)
    sent = world.end()
    world.exact(sent, lossless=world.living)
    assert {o.partition(".")[0] for o in sent} == {
        each.origin.partition(".")[0] for each in (m.living[0] for m in world.machines)
    }
    for each in world.living:
        stats = each("stats")
        assert each("texts") == ["by name"] * 6
        assert not {"messages missed", "messages heard twice"} & set(stats)
        assert each("flooded")[0] == sent


def test_sockets_of_other_machines_are_added_by_name(world):
    """The membership holds when the call returns; when they have gone, it fails."""
    world.populate(2)
    east, west = world.machines
    callers = [*east.living, west.gateway()]
    for process in (*west.others(), west.gateway()):
        name = process("channel", "socket")
        for caller in callers:
            assert caller("add_channel", f"named by {caller.pid}", name) is None
            caller("send", f"named by {caller.pid}", "hello")
        until(lambda p=process: p("texts", "socket") == ["hello"] * 3)
    for process in west.living:
        process.kill()
        name = f"{process.origin}!1"
        answers = [caller("add_channel", "x", name) for caller in east.living]
        assert {answer["error"] for answer in answers} <= GONE


@pytest.mark.parametrize("how", ["is killed", "leaves"])
def test_another_process_takes_over_when_the_gateway(world, redis_server, how):
    """At once; the machine itself loses nothing, and what others sent is counted."""
    world.populate()
    east, west = world.machines
    gateway, senders = east.gateway(), [*east.others(), west.processes[0]]
    world.begin(*senders)
    if how == "leaves":
        gateway("close")
    gateway.kill()
    follower = east.gateway()
    until(lambda: redis_server.listeners("test:g:room") == 2, BACK)
    time.sleep(0.3)
    world.exact(world.end(), lossless=senders)
    assert follower in east.living and listening(redis_server) == 2
    for each in east.living:
        until(lambda e=each: world.gaps(e) == 1)
    for each in west.living:
        assert world.gaps(each) == 0 and "messages missed" not in each("stats")
