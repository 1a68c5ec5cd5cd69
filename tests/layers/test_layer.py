"""The meaning of groups and channels, over memory and over a bus between two layers."""

import threading
import time

import gevent
import pytest

from greenchannels.errors import (
    ConfigurationError,
    LayerUnavailable,
    TooManyGroups,
)
from greenchannels.layers import layer as layer_module
from greenchannels.layers.codec import Broadcast, Kind, make_broadcast
from greenchannels.layers.layer import Layer, check_channel_name, group_topic
from greenchannels.layers.memory import MemoryBus
from greenchannels.net.reactor import Reactor


class FakeMember:
    """Takes messages into a list."""

    def __init__(self, on_deliver=None):
        self.memberships = None
        self.max_groups = None
        self.got = []
        self.on_deliver = on_deliver

    def deliver(self, broadcast):
        """Take a message."""
        self.got.append(broadcast.payload)
        if self.on_deliver is not None:
            self.on_deliver()


class PairBus:
    """A bus between the layers of one process: what one publishes the others get."""

    network: list

    def __init__(self, network, *, confirms=True):
        self.network = network
        self.confirms = confirms
        self.topics = set()
        self.up = True

    def start(self, deliver, on_state):
        """Join the network."""
        self.deliver = deliver
        self.network.append(self)
        self.origin = f"fake-{len(self.network)}"
        return self.origin

    def subscribe(self, topics, timeout):
        """Want topics."""
        self.topics.update(topics)
        return self.confirms

    def unsubscribe(self, topics):
        """Want them no more."""
        self.topics.difference_update(topics)

    def wants(self, topic):
        """Whether another layer may."""
        return True

    def publish(self, topic, data):
        """Give it to the others, unless the network is down."""
        if self.up:
            for other in self.network:
                if other is not self and (
                    topic in other.topics or topic == "p:" + other.origin
                ):
                    other.deliver(topic, data, self.origin)
        return self.up

    def close(self):
        """Leave."""
        self.network.remove(self)


@pytest.fixture
def reactor():
    reactor = Reactor()
    yield reactor
    reactor.close()


@pytest.fixture
def layer(reactor):
    layer = Layer(MemoryBus())
    layer.start(reactor)
    yield layer
    layer.close()


@pytest.fixture
def pair(reactor):
    network = []
    layers = [Layer(PairBus(network)), Layer(PairBus(network))]
    for each in layers:
        each.start(reactor)
    yield layers
    for each in layers:
        each.close()


TEXT = make_broadcast("hello")
TOPIC = group_topic("room")


def test_members_get_what_is_sent_and_others_do_not(layer):
    """Only the topic's, and only while they are in."""
    inside, outside = FakeMember(), FakeMember()
    layer.add(TOPIC, inside)
    layer.add(group_topic("other"), outside)
    layer.send(TOPIC, TEXT)
    layer.discard(TOPIC, inside)
    layer.send(TOPIC, TEXT)
    assert inside.got == ["hello"]
    assert outside.got == []


def test_adding_and_discarding_twice_changes_nothing(layer):
    """Both are idempotent."""
    member = FakeMember()
    layer.add(TOPIC, member)
    layer.add(TOPIC, member)
    layer.send(TOPIC, TEXT)
    layer.discard(TOPIC, member)
    layer.discard(TOPIC, member)
    layer.discard(group_topic("never"), member)
    assert member.got == ["hello"]
    assert layer.stats()["groups"] == 0


def test_a_member_that_has_ended_leaves_all_groups(layer):
    """Nothing of it stays behind."""
    member = FakeMember()
    for name in "abc":
        layer.add(group_topic(name), member)
    layer.discard_everywhere(member)
    assert layer.stats()["groups"] == 0
    assert member.memberships is None


def test_a_member_may_be_in_max_groups_and_no_more(layer):
    """The one too many leaves no empty group behind."""
    member = FakeMember()
    member.max_groups = 2
    layer.add(group_topic("a"), member)
    layer.add(group_topic("b"), member)
    with pytest.raises(TooManyGroups):
        layer.add(group_topic("c"), member)
    assert layer.stats()["groups"] == 2


@pytest.mark.parametrize("by_name", [True, False])
def test_exclude_spares_one_member(layer, by_name):
    """Named by itself or by its channel."""
    one, other = FakeMember(), FakeMember()
    layer.add(TOPIC, one)
    layer.add(TOPIC, other)
    name = layer.new_channel(one)
    layer.send(TOPIC, TEXT, exclude=name if by_name else one)
    assert (one.got, other.got) == ([], ["hello"])


def test_one_member_that_fails_does_not_stop_the_others(layer, caplog):
    """Its failure is logged."""

    def fail():
        raise RuntimeError("cannot take it")

    members = [FakeMember(), FakeMember(fail), FakeMember()]
    for member in members:
        layer.add(TOPIC, member)
    layer.send(TOPIC, TEXT)
    assert [m.got for m in members] == [["hello"]] * 3
    assert "cannot take it" in caplog.text


def test_a_member_may_leave_others_while_it_is_served(layer):
    """Members are iterated over a snapshot, and membership is checked again."""
    members = [FakeMember() for _ in range(4)]
    members[0].on_deliver = lambda: layer.discard(TOPIC, members[2])
    for member in members:
        layer.add(TOPIC, member)
    layer.send(TOPIC, TEXT)
    assert [len(m.got) for m in members] == [1, 1, 0, 1]


def test_a_large_group_is_served_in_slices_in_order(layer, monkeypatch):
    """The first slice at once; later broadcasts wait for earlier ones."""
    monkeypatch.setattr(layer_module, "SLICE", 10)
    members = [FakeMember() for _ in range(35)]
    for member in members:
        layer.add(TOPIC, member)
    layer.send(TOPIC, make_broadcast("1"))
    assert sum(len(m.got) for m in members) == 10
    layer.send(TOPIC, make_broadcast("2"))
    assert sum(len(m.got) for m in members) == 10
    assert layer.busy
    while layer.busy:
        gevent.sleep(0)
    assert [m.got for m in members] == [["1", "2"]] * 35


def test_slices_leave_turns_to_others(layer, monkeypatch):
    """Between two slices other greenlets and I/O have a turn."""
    monkeypatch.setattr(layer_module, "SLICE", 10)
    members = [FakeMember() for _ in range(100)]
    for member in members:
        layer.add(TOPIC, member)
    layer.send(TOPIC, TEXT)
    seen = []
    loop = gevent.get_hub().loop
    while layer.busy:
        seen.append(sum(len(m.got) for m in members))
        gevent.sleep(0)
        loop.update_now()
    assert len(set(seen)) >= 5


def test_a_broadcast_once_begun_is_finished_though_its_sender_is_killed(
    layer, monkeypatch
):
    """Slices belong to the layer."""
    monkeypatch.setattr(layer_module, "SLICE", 10)
    members = [FakeMember() for _ in range(35)]
    for member in members:
        layer.add(TOPIC, member)
    sender = gevent.spawn(lambda: (layer.send(TOPIC, TEXT), gevent.sleep(60)))
    gevent.sleep(0)
    sender.kill()
    while layer.busy:
        gevent.sleep(0)
    assert [m.got for m in members] == [["hello"]] * 35


def test_a_sender_waits_while_too_many_broadcasts_are_unfinished(layer, monkeypatch):
    """So that the queue of a large group is bounded."""
    monkeypatch.setattr(layer_module, "SLICE", 10)
    monkeypatch.setattr(layer_module, "MAX_UNFINISHED", 3)
    members = [FakeMember() for _ in range(25)]
    for member in members:
        layer.add(TOPIC, member)
    most = 0
    for i in range(50):
        layer.send(TOPIC, make_broadcast(str(i)))
        most = max(most, len(layer._topics[TOPIC].unfinished or ()))
    while layer.busy:
        gevent.sleep(0)
    assert most <= 5
    assert members[0].got == [str(i) for i in range(50)] == members[-1].got


def test_a_broadcast_to_50000_members_leaves_gaps(layer):
    """Others wait no longer than a tenfold of 20 ms."""
    members = [FakeMember() for _ in range(50_000)]
    for member in members:
        layer.add(TOPIC, member)
    gaps = []
    done = False

    def watch():
        last = time.perf_counter()
        while not done:
            gevent.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    watcher = gevent.spawn(watch)
    gevent.sleep(0.01)
    gaps.clear()
    for i in range(3):
        layer.send(TOPIC, make_broadcast(str(i)))
        gevent.sleep(0)
    while layer.busy:
        gevent.sleep(0.001)
    done = True
    watcher.join()
    assert members[-1].got == ["0", "1", "2"]
    assert max(gaps) < 10 * 0.020


def test_a_channel_reaches_one_member(layer):
    """And nobody once it has gone, which is counted."""
    member = FakeMember()
    name = layer.new_channel(member)
    assert check_channel_name(name) == name
    layer.send_channel(name, TEXT)
    layer.close_channel(name)
    layer.send_channel(name, TEXT)
    assert member.got == ["hello"]
    assert layer.stats()["sent to channels that have gone"] == 1


def test_channel_names_are_never_used_again(layer):
    """Not even after their member has gone."""
    names = set()
    for _ in range(100):
        name = layer.new_channel(FakeMember())
        layer.close_channel(name)
        names.add(name)
    assert len(names) == 100


@pytest.mark.parametrize(
    "name", ["", "a b", "a!b!c", "é", "x" * 101, "a/b", "!", "a\n", "a!b?c"]
)
def test_bad_channel_names_are_refused(name):
    """[A-Za-z0-9._-], at most 100 characters, one ! or ?."""
    with pytest.raises(ValueError):
        check_channel_name(name)


@pytest.mark.parametrize(
    "name", ["", "a\0", "a\n", "x" * 201, "é" * 101, "\x7f", "\ud800"]
)
def test_bad_group_names_are_refused(name):
    """Any str without control characters, at most 200 bytes of UTF-8."""
    with pytest.raises(ValueError):
        group_topic(name)


@pytest.mark.parametrize("name", ["a", "ä ö", "x" * 200, "é" * 100, "🌱/#!?", "u:1"])
def test_good_group_names_are_taken(name):
    """Spaces, slashes and emoji included; none of them is a user's topic."""
    assert group_topic(name).startswith("g:")


def test_native_threads_hand_their_sends_to_the_hub(layer):
    """Members are only ever touched by the hub's thread."""
    idents = []
    member = FakeMember(lambda: idents.append(threading.get_ident()))
    layer.add(TOPIC, member)
    pool = gevent.get_hub().threadpool
    pool.apply(lambda: layer.send(TOPIC, TEXT))
    name = layer.new_channel(member)
    pool.apply(lambda: layer.send_channel(name, TEXT))
    with gevent.Timeout(5):
        while len(member.got) < 2:
            gevent.sleep(0.001)
    assert set(idents) == {threading.get_ident()}


def test_a_layer_that_was_not_started_says_so():
    """Nothing is sent into nowhere."""
    with pytest.raises(ConfigurationError):
        Layer(MemoryBus()).send(TOPIC, TEXT)


# Between processes.


def test_members_of_all_processes_get_what_is_sent(pair):
    """Once each."""
    here, there = FakeMember(), FakeMember()
    pair[0].add(TOPIC, here)
    pair[1].add(TOPIC, there)
    pair[0].send(TOPIC, TEXT)
    pair[1].send(TOPIC, make_broadcast(b"bytes"))
    assert here.got == there.got == ["hello", b"bytes"]


def test_exclude_is_honoured_in_every_process(pair):
    """By the channel name, which tells who is meant."""
    here, there = FakeMember(), FakeMember()
    pair[0].add(TOPIC, here)
    pair[1].add(TOPIC, there)
    pair[0].send(TOPIC, TEXT, exclude=pair[1].new_channel(there))
    assert (here.got, there.got) == (["hello"], [])


def test_a_channel_is_reached_from_another_process(pair):
    """By its name alone."""
    member = FakeMember()
    name = pair[1].new_channel(member)
    pair[0].send_channel(name, TEXT)
    assert member.got == ["hello"]


def test_the_bus_is_told_of_the_first_member_and_the_last(pair):
    """Not of those between."""
    bus = pair[0]._bus
    its_own = set(bus.topics)
    one, other = FakeMember(), FakeMember()
    pair[0].add(TOPIC, one)
    pair[0].add(TOPIC, other)
    assert bus.topics == its_own | {TOPIC}
    pair[0].discard(TOPIC, one)
    assert bus.topics == its_own | {TOPIC}
    pair[0].discard(TOPIC, other)
    assert bus.topics == its_own


def test_a_join_that_nobody_confirmed_holds_here_and_is_counted(reactor):
    """The member is in locally."""
    layer = Layer(PairBus([], confirms=False))
    layer.start(reactor)
    member = FakeMember()
    layer.add(TOPIC, member)
    layer.send(TOPIC, TEXT)
    assert member.got == ["hello"]
    assert layer.stats()["unconfirmed joins"] == 1
    layer.close()


def test_a_lost_publish_is_counted_and_raises_only_when_strict(pair):
    """Members of the same process get it all the same."""
    member = FakeMember()
    pair[0].add(TOPIC, member)
    pair[0]._bus.up = False
    pair[0].send(TOPIC, TEXT)
    with pytest.raises(LayerUnavailable):
        pair[0].send(TOPIC, TEXT, strict=True)
    with pytest.raises(LayerUnavailable):
        pair[0].send_channel(pair[1].new_channel(member), TEXT)
    assert member.got == ["hello"] * 2
    assert pair[0].stats()["lost publishes"] == 3


def test_strangers_on_our_topic_are_counted_not_fatal(pair):
    """Whatever bytes they publish."""
    member = FakeMember()
    pair[0].add(TOPIC, member)
    pair[0]._deliver(TOPIC, b"not msgpack", "stranger")
    assert member.got == []
    assert pair[0].stats()["messages that are not ours"] == 1


def test_a_broadcast_is_encoded_once_for_all_members(layer):
    """Each asks for its own encoding; the first computes it."""
    calls = []

    class Encoding(FakeMember):
        def deliver(self, broadcast):
            self.got.append(broadcast.encoded(encode))

    def encode(payload):
        calls.append(payload)
        return payload

    members = [Encoding() for _ in range(10)]
    for member in members:
        layer.add(TOPIC, member)
    layer.send(TOPIC, Broadcast(Kind.TEXT, "x"))
    assert calls == ["x"]


def test_a_message_knows_what_it_is_about(pair):
    """In every process, and when it goes to one channel."""

    class Topical(FakeMember):
        def deliver(self, broadcast):
            self.got.append((broadcast.topic, broadcast.backlog))

    here, there = Topical(), Topical()
    pair[0].add(TOPIC, here)
    pair[1].add(TOPIC, there)
    pair[0].send(TOPIC, make_broadcast("x"))
    name = pair[1].new_channel(there)
    pair[0].send_channel(name, make_broadcast("y"))
    pair[1].send_channel(name, make_broadcast("z"))
    backlog = pair[0]._reactor.backlog
    assert here.got == [(TOPIC, backlog)]
    assert there.got == [(TOPIC, backlog), *[("c:" + name, backlog)] * 2]


def test_what_slow_members_miss_is_counted_by_route_and_in_all(layer):
    """What is returned is a copy."""
    assert layer.stats()["slow"] == {}
    layer.count_slow("/a", "drop", "frames dropped", 3)
    layer.count_slow("/a", "drop", "frames dropped")
    layer.count_slow("/b", "close", "sockets closed")
    layer.count_slow("/b", "close", "frames dropped", 10)
    found = layer.stats()
    assert found["slow"] == {
        "/a": {"policy": "drop", "frames dropped": 4},
        "/b": {"policy": "close", "sockets closed": 1, "frames dropped": 10},
    }
    assert found["frames dropped for slow members"] == 14
    assert found["closed for being slow"] == 1
    found["slow"]["/a"].clear()
    assert layer.stats()["slow"]["/a"]
    with pytest.raises(KeyError):
        layer.count_slow("/a", "drop", "hopes dropped")
