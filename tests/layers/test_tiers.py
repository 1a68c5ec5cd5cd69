"""Two tiers: real processes on two machines, which are two folders, and a Redis."""

import contextlib
import os
import re
import signal
import tempfile
import time

import gevent
import pytest

from greenchannels.layers.codec import encode_message
from greenchannels.layers.layer import group_topic
from greenchannels.layers.registry import make_layer
from greenchannels.layers.tiers_frames import encode_forwarded
from greenchannels.net.reactor import Reactor
from greenchannels.testing.recording import RecordingMember, text
from greenchannels.testing.recording import until as until_in_hub
from tests.layers.ipc_harness import Family, nursery, until
from tests.layers.redis_harness import proxy, redis_server
from tests.servers.harness import no_leaks

__all__ = ["no_leaks", "nursery", "proxy", "redis_server"]

pytestmark = pytest.mark.usefixtures("no_leaks")

#: Seconds in which everything is back; promised are 5.
BACK = 50.0

#: What those hear who send strictly while Redis is away.
UNREACHED = {
    "error": "LayerUnavailable",
    "text": "the other processes cannot be reached",
}

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
        self.gaps_before = {}

    @property
    def living(self):
        """All processes that were not killed."""
        return [each for machine in self.machines for each in machine.living]

    def populate(self, count=3):
        """Start processes with a member each, which have heard each other."""
        for machine in self.machines:
            machine.start(count)
        for machine in self.machines:
            machine.gateway()
        for each in self.living:
            self.join(each)
        self.meet()
        self.gaps_before = {each: self.gaps(each) for each in self.living}

    def join(self, process):
        """Have a member in "room" that is confirmed, however busy this machine is."""
        while True:
            before = process("stats").get("unconfirmed joins")
            process("join", "room")
            if process("stats").get("unconfirmed joins") == before:
                return
            process("leave", "room")

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
        for each in processes:
            each("flood", "room", burst)

    def end(self):
        """Return how many messages each has sent in all."""
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
        """Return how often a gap of unknown size was announced since ``populate``."""
        found = sum(event["missed"] is None for event in process("events"))
        return found - self.gaps_before.get(process, 0)


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


def subscriptions(redis_server):
    """Return to how many topics each connection of ours that listens does."""
    found = [re.search(r"\bsub=(\d+)", line)[1] for line in redis_server.clients()]
    return sorted(int(count) for count in found if count != "0")


def listening(redis_server):
    """Return how many connections of ours have subscribed to anything."""
    return len(subscriptions(redis_server))


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


def test_a_stopped_gateway_is_not_waited_for(world, redis_server):
    """Another takes over; when it goes on, it is none, and knows what it missed."""
    world.populate()
    east, west = world.machines
    gateway, others = east.gateway(), east.others()
    senders = [*others, *west.living]
    world.begin(*senders, burst=1)
    gateway.signal(signal.SIGSTOP)
    until(lambda: any(each("stats")["bus"]["gateway"] for each in others), BACK)
    until(lambda: redis_server.listeners("test:g:room") == 3, BACK)
    time.sleep(0.3)
    gateway.signal(signal.SIGCONT)
    until(lambda: redis_server.listeners("test:g:room") == 2, BACK)
    world.exact(world.end(), lossless=senders)
    assert east.gateway() in others and listening(redis_server) == 2
    for each in others:
        assert world.gaps(each) == 1


def test_processes_that_are_killed_harm_nobody(world, redis_server):
    """What the others send reaches all, on both machines."""
    world.populate()
    east, west = world.machines
    killed = [east.others()[0], west.others()[0]]
    world.begin(*world.living)
    for each in killed:
        each.kill()
    time.sleep(0.2)
    world.exact(world.end(), lossless=world.living)
    for each in world.living:
        assert "messages missed" not in each("stats") and not world.gaps(each)


def test_a_redis_that_is_away_leaves_each_machine_to_itself(world, redis_server):
    """Its processes hear each other, joins return at once; then all is as before."""
    world.populate()
    east, west = world.machines
    world.begin(*world.living)
    redis_server.kill()
    for each in world.living:
        until(lambda e=each: e("stats").get("outages of the layer"), BACK)
        until(lambda e=each: e("send_strictly", "other", "x") == UNREACHED, BACK)
        assert each("join", "late") < 2
        name = each("channel", "socket")
        for near in next(m for m in world.machines if each in m.living).living:
            assert near("send_channel", name, "near") is None
        until(lambda e=each: e("texts", "socket") == ["near"] * 3)
    far = west.living[0]("channel", "socket")
    answer = east.living[0]("send_channel", far, "far")
    assert answer["error"] == UNREACHED["error"]
    redis_server.start()
    until(lambda: redis_server.listeners("test:g:room") == 2, BACK)
    time.sleep(0.3)
    world.exact(world.end(), lossless=world.living)
    for each in world.living:
        until(lambda e=each: "late" in [x.get("group") for x in e("events")], BACK)
        assert world.gaps(each) == 2
        assert each("stats")["messages missed"] > 0


def test_what_was_passed_on_before_a_join_is_no_loss(world):
    """Even if it is read after that, by a process that left, and was busy since."""
    world.populate(2)
    east, west = world.machines
    (process,) = east.others()
    world.begin(west.living[0])
    for _ in range(20):
        process("rejoin_blindly", "room", 0.02)
        heard = sum(process("flooded")[0].values())
        until(lambda h=heard: sum(process("flooded")[0].values()) > h)
    world.end()
    assert "messages missed" not in process("stats")


def test_a_gateway_that_forks_stays_the_gateway(world, redis_server):
    """Its child has no part in it."""
    world.populate(2)
    east, west = world.machines
    gateway = east.gateway()
    child = gateway("fork", 1.5)
    world.begin(*world.living)
    os.kill(child, 0)
    time.sleep(0.3)
    world.exact(world.end(), lossless=world.living)
    assert east.gateway() is gateway and listening(redis_server) == 2
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)


# Layers of this process, each on the machine that its folder is.


@pytest.fixture
def start():
    """A function that starts a layer on a machine of a name."""
    reactor, started = Reactor(), []
    with tempfile.TemporaryDirectory(prefix="gc-") as above:

        def start_layer(machine, redis_url, **options):
            layer = make_layer(f"ipc://{above}/{machine}+{redis_url}")
            layer.start(reactor, **options)
            started.append(layer)
            return layer

        yield start_layer
        for layer in started:
            layer.close()
    reactor.close()


def test_a_deaf_gateway_listens_anew_for_all(start, redis_server, proxy, caplog):
    """It notices by its own probe; the gap is announced in each process."""
    far = start("b", redis_server.url())
    url = redis_server.url().replace(str(redis_server.port), str(proxy.port))
    layers = [start("a", url) for _ in range(3)]
    members = [RecordingMember(listens=("layer.gap",)) for _ in layers]
    for layer, member in zip(layers, members, strict=True):
        layer.add(group_topic("room"), member)
    far.send(group_topic("room"), text("before"))
    until_in_hub(lambda: all(member.texts for member in members))
    proxy.deafens = True
    far.send(group_topic("room"), text("lost"))
    layers[0].probe()
    until_in_hub(lambda: layers[0].stats()["bus"].get("deaf listeners"), BACK)
    proxy.deafens = False
    until_in_hub(lambda: all(m.events for m in members), BACK)
    far.send(group_topic("room"), text("after"))
    until_in_hub(lambda: all("after" in member.texts for member in members), BACK)
    for layer, member in zip(layers, members, strict=True):
        assert layer.stats()["messages missed"] == 1
        assert [event["missed"] for event in member.events][-1] == 1
        assert member.texts == ["before", "after"]


def test_probes_of_both_ways_find_what_was_lost(start, redis_server, monkeypatch):
    """Here and elsewhere, each tail once."""
    url = redis_server.url()
    here, near, far = (start(name, url) for name in ("a", "a", "b"))
    members = [RecordingMember() for _ in range(2)]
    for layer, member in zip((near, far), members, strict=True):
        layer.add(group_topic("room"), member)
    here.send(group_topic("room"), text("before"))
    until_in_hub(lambda: all(member.texts for member in members))
    with monkeypatch.context() as patch:
        patch.setattr(here._bus, "publish", lambda topic, data: True)
        here.send(group_topic("room"), text("lost"))
    for _ in range(2):
        here.probe()
        for layer in (near, far):
            until_in_hub(lambda e=layer: e.stats().get("messages missed") == 1)


def test_joins_without_a_gateway_are_made_good_later(start, redis_server, monkeypatch):
    """They return in time, and their gap is announced when they hold."""
    url = redis_server.url()
    gateway, near, far = (start(name, url) for name in ("a", "a", "b"))
    bus = gateway._bus
    with monkeypatch.context() as patch:
        patch.setattr(bus._gateway, "ask", lambda *asked: None)
        member = RecordingMember(listens=("layer.gap",))
        near.add(group_topic("room"), member)
        assert near.stats()["unconfirmed joins"] == 1
    until_in_hub(lambda: member.events, BACK)
    assert member.events == [{"type": "layer.gap", "missed": None, "group": "room"}]
    far.send(group_topic("room"), text("hello"))
    until_in_hub(lambda: member.texts == ["hello"])


def test_many_topics_go_to_the_next_gateway(start, redis_server):
    """More than fit into one question."""
    url = redis_server.url()
    gateway, near, far = (start(name, url) for name in ("a", "a", "b"))
    member = RecordingMember()
    joins = [
        gevent.spawn(near.add, group_topic(f"room {number}"), member)
        for number in range(2500)
    ]
    gevent.joinall(joins, raise_error=True)
    until_in_hub(lambda: subscriptions(redis_server) == [2, 2503])
    gateway.close()
    until_in_hub(lambda: subscriptions(redis_server) == [2, 2502], BACK)
    for number in (0, 1234, 2499):
        far.send(group_topic(f"room {number}"), text(number))
    until_in_hub(lambda: len(member.texts) == 3)


def test_a_layer_that_only_sends_is_no_gateway(start, redis_server):
    """It has no listening connection; nor has one that calls, if there are servers."""
    url = redis_server.url()
    sends = start("a", url, listens=False)
    assert sends.stats()["bus"]["gateway"] == 0
    assert sends.stats()["bus"]["connections"] == 1
    near, far = start("a", url), start("b", url)
    members = {layer: RecordingMember() for layer in (near, far)}
    for layer, member in members.items():
        layer.add(group_topic("room"), member)
    sends.send(group_topic("room"), text("hello"))
    assert sends.flush(group_topic("room"), 5.0)
    until_in_hub(lambda: all(m.texts == ["hello"] for m in members.values()))
    for layer, member in members.items():
        sends.add_channel(group_topic("side"), layer.new_channel(member))
    assert sends.stats()["bus"]["gateway"] == 0
    assert listening(redis_server) == 2


def test_a_server_takes_over_from_a_program_that_only_called(start, redis_server):
    """Programs without members may end at any time."""
    url = redis_server.url()
    calls, far = start("a", url, listens=False), start("b", url)
    member = RecordingMember()
    calls.add_channel(group_topic("side"), far.new_channel(member))
    assert calls.stats()["bus"]["gateway"] == 1
    near = start("a", url)
    until_in_hub(lambda: near.stats()["bus"]["gateway"] == 1)
    until_in_hub(lambda: calls.stats()["bus"]["gateway"] == 0)
    until_in_hub(lambda: listening(redis_server) == 2)
    until_in_hub(lambda: redis_server.listeners(f"test:p:{calls.origin}") == 1)
    calls.add_channel(group_topic("other side"), far.new_channel(member))


def test_two_that_were_elected_at_once_agree(start, redis_server):
    """On the one whose name is greater; nothing is heard twice."""
    url = redis_server.url()
    layers = [start("a", url) for _ in range(3)]
    far = start("b", url)
    members = [RecordingMember() for _ in layers]
    for layer, member in zip(layers, members, strict=True):
        layer.add(group_topic("room"), member)
    for layer in layers[1:]:
        layer._bus._election._win()
    until_in_hub(lambda: sum(e.stats()["bus"]["gateway"] for e in layers) == 1)
    winner = max(layers[1:], key=lambda layer: layer.origin)
    assert winner.stats()["bus"]["gateway"] == 1
    until_in_hub(lambda: redis_server.listeners("test:g:room") == 1)
    until_in_hub(lambda: not len(winner._bus._questions))
    for number in range(100):
        far.send(group_topic("room"), text(number))
    until_in_hub(lambda: all(len(member.texts) == 100 for member in members))
    assert all(m.texts == [str(n) for n in range(100)] for m in members)


def test_what_a_former_gateway_passes_on_is_left_out(start, redis_server):
    """It may have been stopped, and what it says be outdated."""
    url = redis_server.url()
    gateway, former, near, far = (start(name, url) for name in "aaab")
    member = RecordingMember()
    near.add(group_topic("room"), member)
    old = encode_message(text("old"), exclude="", epoch=1, number=1)
    forwarded = encode_forwarded(far.origin, old)
    former._bus._local.publish(group_topic("room"), forwarded)
    until_in_hub(lambda: near.stats()["bus"].get("messages of former gateways"))
    gateway._bus._local.publish(group_topic("room"), forwarded)
    until_in_hub(lambda: member.texts == ["old"])


def test_what_is_nothing_of_ours_harms_nothing(start, redis_server):
    """By processes of the same user, which speak otherwise."""
    url = redis_server.url()
    here, near = start("a", url), start("a", url)
    member = RecordingMember()
    near.add(group_topic("room"), member)
    for topic, data in [
        ("#tiers", b""),
        ("#tiers", b"\x93\x01"),
        ("#tiers", b"\x91\x63"),
        ("g:room", b"\xc1\x00"),
        ("g:room", b"\xc1\x00\x05abc"),
        ("g:room", b"\xc1\x00\x01\xff"),
        ("g:room", b"\xc1\x00\x01a\xff"),
    ]:
        here._bus._local.publish(topic, data)
    here.send(group_topic("room"), text("hello"))
    until_in_hub(lambda: member.texts == ["hello"])
    assert near.stats()["bus"]["payloads that are not ours"] == 6
    assert near.stats()["messages that are not ours"] == 1
