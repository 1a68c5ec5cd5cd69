"""Nodes of a Cluster are lost, change their roles, and give each other slots."""

import signal
import zlib

import gevent
import pytest
from gevent.threadpool import ThreadPool

from greenchannels.errors import LayerRefused
from greenchannels.layers.layer import group_topic
from greenchannels.layers.redis import publisher
from greenchannels.layers.redis.cluster import TAG_SLOTS
from greenchannels.layers.registry import make_layer
from greenchannels.net.reactor import Reactor
from greenchannels.testing.recording import RecordingMember, text, until
from tests.cli.test_run import opened, run
from tests.layers.redis_cluster_harness import running_cluster
from tests.layers.redis_harness import free_port, redis_server
from tests.layers.test_outside import BEGINNINGS, Program
from tests.layers.test_redis_outages import BACK, ROOM, Pair, reactor, start
from tests.layers.test_redis_sentinel import SENDING_SCRIPT
from tests.servers.harness import no_leaks

__all__ = ["no_leaks", "reactor", "redis_server", "run", "start"]

pytestmark = pytest.mark.usefixtures("no_leaks")

PLAIN_AND_SHARDED = pytest.mark.parametrize("pubsub", ["sharded", "plain"])


@pytest.fixture(scope="module")
def shared_masters():
    """Three masters."""
    with running_cluster() as it:
        yield it


@pytest.fixture
def masters(shared_masters):
    """Three masters, whole at the test's begin."""
    shared_masters.settle()
    return shared_masters


@pytest.fixture(scope="module")
def shared_replicas():
    """Three masters with a replica each."""
    with running_cluster(replicas=1) as it:
        yield it


@pytest.fixture
def replicated(shared_replicas):
    """The same, whole at the test's begin."""
    shared_replicas.settle()
    return shared_replicas


def slot_of(topic):
    """Return the slot of a topic, as redis-cli would."""
    return TAG_SLOTS[zlib.crc32(topic.encode()) % len(TAG_SLOTS)]


def topics_by_owner(cluster):
    """Return a topic of each master, by port."""
    topics = (group_topic(f"room {number}") for number in range(1000))
    found = {}
    for topic in topics:
        found.setdefault(cluster.owner(slot_of(topic)).port, topic)
        if len(found) == 3:
            return found
    raise AssertionError("not three masters")


def connections(node):
    """Return how many connections of ours a node has; at times one asks for a map."""
    return len(node.clients())


def publishers(node):
    """Return how many of them listen to nothing."""
    return len([line for line in node.clients() if " sub=0 " in line])


@PLAIN_AND_SHARDED
def test_a_killed_node_whose_replica_takes_over(start, replicated, caplog, pubsub):
    """All that was lost meanwhile is counted, and gaps are announced."""
    pair = Pair(start, replicated.url(pubsub=pubsub))
    slot = slot_of(ROOM)
    before = replicated.owner(slot)
    before.kill()
    pair.send(10)
    until(lambda: replicated.owner(slot) is not before, BACK)
    pair.whole()
    pair.exact()
    if pubsub == "sharded":
        until(lambda: pair.count("connections") == 12, BACK)
        assert pair.missed(0) >= 10 and pair.missed(1) >= 10
        assert all(gaps >= 1 for gaps in pair.gaps())


def test_under_load_all_that_a_failover_loses_is_counted(start, replicated):
    """Greenlets send all the time, and the node comes back as a replica."""
    pair, over, slot = Pair(start, replicated.url()), False, slot_of(ROOM)
    before = replicated.owner(slot)

    def send():
        while not over:
            pair.send()
            gevent.sleep(0.005)

    sender = gevent.spawn(send)
    try:
        gevent.sleep(0.2)
        before.kill()
        until(lambda: replicated.owner(slot) is not before, BACK)
        replicated.settle()
        until(lambda: connections(before) == 0, BACK)
    finally:
        over = True
        sender.join()
    pair.whole()
    pair.exact()
    assert pair.missed(0) and pair.missed(1)


@pytest.mark.parametrize("stopped", [False, True])
def test_a_node_that_becomes_a_replica_is_left(start, replicated, stopped):
    """By CLUSTER FAILOVER, or because it was stopped and goes on."""
    pair, slot = Pair(start, replicated.url()), slot_of(ROOM)
    before = replicated.owner(slot)
    after = replicated.replica_of(before)
    if stopped:
        before.signal(signal.SIGSTOP)
        pair.send(5)
        until(lambda: after.is_master, BACK)
        before.signal(signal.SIGCONT)
    else:
        assert after("CLUSTER", "FAILOVER") == b"+OK"
    until(lambda: connections(after) == 4 and connections(before) == 0, BACK)
    pair.whole()
    pair.exact()


def test_a_lost_node_takes_only_its_names_away(start, masters, caplog):
    """The names of others go on; its own are back when it is."""
    topics, members = topics_by_owner(masters), {}
    one, other = start(masters.url()), start(masters.url())
    for port, topic in topics.items():
        members[port] = RecordingMember(listens=("layer.gap",))
        other.add(topic, members[port])
        one.send(topic, text("before"))
    until(lambda: all(it.texts for it in members.values()))
    lost, *others = topics
    masters.at(lost).kill()
    until(lambda: one.stats()["bus"]["connections"] == 4)
    until(lambda: other.stats()["bus"]["connections"] == 4)
    until(lambda: masters.at(others[0]).info()["cluster_state"] == "fail", BACK)
    for topic in topics.values():
        one.send(topic, text("meanwhile"))
    for port in others:
        until(lambda port=port: members[port].texts == ["before", "meanwhile"])
        assert not members[port].events
    masters.at(lost).start()
    until(lambda: members[lost].events, BACK)

    def heard():
        one.send(topics[lost], text("after"))
        gevent.sleep(0.05)
        return "after" in members[lost].texts

    until(heard, BACK)
    assert other.stats()["messages missed"] >= 1
    assert "meanwhile" not in members[lost].texts
    assert not any(members[port].events for port in others)
    assert caplog.text.count("members of this process still hear") == 2


@pytest.mark.slow
def test_plain_pubsub_goes_on_over_other_nodes(start, masters):
    """Every node tells all others; also while slots are without a master."""
    pair = Pair(start, masters.url(pubsub="plain"))
    for number in (0, 1):
        masters.nodes[number].kill()
        pair.whole()
        pair.exact()
        masters.settle()


@pytest.mark.slow
def test_a_node_that_is_cut_off_from_its_cluster_is_left(start, monkeypatch):
    """Who publishes there reaches only those that listen there; to listen may do."""
    monkeypatch.setattr(publisher, "CHECK_INTERVAL", 0.1)
    with running_cluster() as cluster:
        if cluster.version >= (7, 2):
            pytest.skip("there CLUSTER FORGET makes the others forget, too")
        pair, alone = Pair(start, cluster.url(pubsub="plain")), cluster.nodes[0]
        until(lambda: publishers(alone) == 2)
        for it in cluster.nodes[1:]:
            assert alone("CLUSTER", "FORGET", it.name) == b"+OK"
        until(lambda: publishers(alone) == 0, BACK)
        pair.whole()
        pair.exact()
        # It is asked first for the map of the slots, and the others know better.
        assert Pair(start, cluster.url()).count("connections") >= 8


def test_slots_that_move_while_messages_flow(start, masters):
    """There and back; what is lost at the moment of the move is counted."""
    pair, over, slot = Pair(start, masters.url()), False, slot_of(ROOM)
    _, channel = pair.layers[0]._bus._router.find(ROOM)

    def send():
        while not over:
            pair.send()
            gevent.sleep(0.005)

    sender = gevent.spawn(send)
    try:
        source = masters.owner(slot)
        (target, *_) = [it for it in masters.nodes if it is not source]
        for node in (target, source) * 2:
            before = pair.gaps()
            masters.move(slot, node)
            until(lambda n=node: n.sharded_listeners(channel) == 2, BACK)
            until(lambda b=before: all(map(int.__gt__, pair.gaps(), b)), BACK)
    finally:
        over = True
        sender.join()
    pair.whole()
    pair.exact()
    assert pair.count("messages heard twice") == 0
    assert pair.count("outages of the layer") == 0
    assert pair.count("deaf listeners") == 0


def test_a_node_whose_last_slot_leaves_is_left_and_found_again(start, masters):
    """A process has connections only to nodes that have names."""
    pair = Pair(start, masters.url())
    source = masters.owner(slot_of(ROOM))
    target, other = [it for it in masters.nodes if it is not source]
    slots = [slot for slot in TAG_SLOTS if masters.owner(slot) is source]
    other_topic = topics_by_owner(masters)[other.port]
    member = RecordingMember(listens=("layer.gap",))
    pair.layers[0].add(other_topic, member)
    for node, count in ((target, 0), (source, 4)):
        before = pair.gaps()
        masters.move(slots, node)
        until(lambda c=count: connections(source) == c, BACK)
        until(lambda b=before: all(map(int.__gt__, pair.gaps(), b)), BACK)
        pair.whole()
        pair.exact()
    assert not member.events, "others were not touched"
    assert pair.count("connections") == 12
    assert pair.count("deaf listeners") == 0


def test_joins_and_leaves_while_slots_move(start, masters):
    """Whoever has joined hears, whatever the node answers meanwhile."""
    one, other, over = start(masters.url()), start(masters.url()), False
    topics = [group_topic(f"room {number}") for number in range(200)]
    slots = sorted({slot_of(topic) for topic in topics})
    staying = {topic: RecordingMember() for topic in topics[::2]}
    for topic, member in staying.items():
        one.add(topic, member)

    def come_and_go():
        while not over:
            passing = RecordingMember()
            for topic in topics[1::2]:
                one.add(topic, passing)
            for topic in topics[1::2]:
                one.discard(topic, passing)

    greenlet = gevent.spawn(come_and_go)
    try:
        for target in masters.nodes:
            masters.move(slots, target)
    finally:
        over = True
        greenlet.join()
        masters.spread()
    for topic, member in staying.items():

        def heard(topic=topic, member=member):
            other.send(topic, text("after"))
            gevent.sleep(0.01)
            return member.texts

        until(heard, BACK)
    assert "outages of the layer" not in one.stats()
    assert one.stats()["bus"].get("deaf listeners", 0) == 0


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_programs_without_a_server_send(start, masters, kind):
    """Also a child that they fork; Redis has a message when the send returns."""
    layer, member = start(masters.url()), RecordingMember()
    layer.add(ROOM, member)
    name = layer.new_channel(member)
    program = Program(masters.url(), SENDING_SCRIPT.format(name), kind)
    pool = ThreadPool(1)  # the layer here has to answer meanwhile
    try:
        assert pool.apply(program.end) == ["0"]
    finally:
        pool.kill()
    until(lambda: len(member.texts) == 4)
    assert member.texts == ["one", "two", "child", "three"]


# At the start.


@PLAIN_AND_SHARDED
def test_a_cluster_that_is_away_at_the_start_is_one_warning(
    start, masters, caplog, pubsub
):
    """It serves, and joins when the nodes come."""
    for it in masters.nodes:
        it.kill()
    url = masters.url(pubsub=pubsub)
    layer, member = start(url), RecordingMember(listens=("layer.gap",))
    layer.add(ROOM, member)
    layer.send(ROOM, text("here"))
    assert member.texts == ["here"]
    gevent.sleep(1)
    (warning,) = [r for r in caplog.records if r.levelname == "WARNING"]
    assert "members of this process still hear" in warning.message
    masters.settle()
    until(lambda: member.events, BACK)
    assert "is back after" in caplog.text
    pair = Pair(start, url)
    until(lambda: "0 1" in member.texts)
    pair.exact()


def refusal(url):
    """Return what is said at the start by a layer that does not start."""
    layer, reactor = make_layer(url), Reactor()
    with pytest.raises(LayerRefused) as raised:
        layer.start(reactor)
    reactor.close()
    assert not layer.started
    said = str(raised.value)
    assert "\n" not in said and "secret" not in said
    return said


def test_a_server_is_no_cluster_and_a_node_no_server(masters, redis_server):
    """It is said what to use."""
    server, node = redis_server.port, masters.nodes[0].port
    said = refusal(f"redis+cluster://127.0.0.1:{server}")
    assert said == f"Redis at 127.0.0.1:{server} is no Cluster: use redis://"
    said = refusal(f"redis://127.0.0.1:{node}")
    assert (
        said
        == f"Redis at 127.0.0.1:{node} is a node of a Cluster: use redis+cluster://"
    )


@PLAIN_AND_SHARDED
def test_rights_that_are_missing_are_an_error_and_the_right_ones_are_enough(
    start, masters, pubsub
):
    """As the documentation names them."""
    sharded = "s" if pubsub == "sharded" else ""
    words = [f"{sharded}{word}" for word in ("publish", "subscribe", "unsubscribe")]
    rights = ["cluster|slots", "cluster|info", *words]
    user = ["ACL", "SETUSER", "app", "reset", "on", ">secret", "resetchannels"]
    url = masters.url(pubsub=pubsub).replace("://", "://app:secret@")
    try:
        for missing in ("cluster|slots", *words[:2]):
            given = [f"+{right}" for right in rights if right != missing]
            for it in masters.nodes:
                assert it(*user, "&test:*", *given) == b"+OK"
            assert "NOPERM" in refusal(url)
        for enough in (words, ["cluster|info", *words]):
            given = [f"+{right}" for right in ("cluster|slots", *enough)]
            for it in masters.nodes:
                assert it(*user, "&test:*", *given) == b"+OK"
            Pair(start, url)
    finally:
        for it in masters.nodes:
            it("ACL", "DELUSER", "app")


@pytest.fixture
def locked(masters):
    """Three masters that want a password."""
    masters.set_password("secret1")
    yield masters
    masters.set_password(None)


def test_a_wrong_password_is_one_line_and_exit_code_1(run, start, locked):
    """The right one is not shown."""
    right = locked.url()
    code, out, error = run("--layer", right.replace("secret1", "secret2")).end()
    assert (code, out) == (1, "") and "secret" not in error, error
    (line,) = [each for each in error.splitlines() if "Error: " in each]
    assert "refuses the default user" in line
    layer, member = start(right), RecordingMember()
    layer.add(group_topic("all"), member)
    server = run("--layer", right, "--workers", "2")
    with opened(server.address()) as peer:
        peer.say("hello")
        assert peer.hear() == "hello"
    until(lambda: member.texts == ["hello"])
    server.process.terminate()
    code, out, error = server.end()
    assert code == 0 and "secret" not in out + error, error
    port = locked.nodes[0].port
    assert f"Groups over redis+cluster://127.0.0.1:{port},127" in error, error


def test_a_seed_that_is_away_is_passed_over(start, masters):
    """One node is enough."""
    port = masters.nodes[2].port
    url = f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{port}?prefix=test"
    pair = Pair(start, url)
    assert pair.count("outages of the layer") == 0
    assert pair.count("connections") == 12
