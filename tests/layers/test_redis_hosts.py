"""Several servers that share the topics."""

import signal

import gevent
import pytest

from greenchannels.errors import ConfigurationError, LayerUnavailable
from greenchannels.layers.layer import group_topic
from greenchannels.layers.redis.frames import PLAIN
from greenchannels.layers.redis.routers import Hosts
from greenchannels.layers.registry import make_layer
from greenchannels.testing.recording import RecordingMember, text, until
from tests.layers.redis_harness import free_port, reactor, running_redis, start
from tests.servers.harness import no_leaks

__all__ = ["no_leaks", "reactor", "start"]

pytestmark = pytest.mark.usefixtures("no_leaks")

#: Seconds in which everything is back; promised are 5.
BACK = 50.0


@pytest.fixture
def servers():
    """Two of them."""
    with running_redis() as one, running_redis() as other:
        yield one, other


@pytest.fixture
def url(servers):
    """Where both are."""
    return ",".join(server.url() for server in servers)


def hosts(*names):
    """Return what divides topics among servers."""
    return Hosts(dict.fromkeys(names), PLAIN, "test:")


def topics_of(servers, count):
    """Return so many groups of each server."""
    router = hosts(*(f"127.0.0.1:{server.port}" for server in servers))
    found = [[] for _ in servers]
    number = 0
    while min(map(len, found)) < count:
        topic = group_topic(f"room {number}")
        index = list(router.places).index(router.find(topic)[0])
        found[index].append(topic)
        number += 1
    return [topics[:count] for topics in found]


def test_each_server_gets_its_share():
    """About the same number of topics, whatever the order of the servers."""
    one, other = hosts("a:1", "b:2", "c:3"), hosts("c:3", "a:1", "b:2")
    topics = [f"g:{number}" for number in range(3000)]
    assert [one.find(topic) for topic in topics] == [
        other.find(topic) for topic in topics
    ]
    for server in one.places:
        assert 850 < sum(one.find(topic)[0] == server for topic in topics) < 1150


def test_one_server_more_takes_over_only_its_own():
    """All other topics stay where they are."""
    before, after = hosts("a:1", "b:2"), hosts("a:1", "b:2", "c:3")
    topics = [f"g:{number}" for number in range(3000)]
    moved = [t for t in topics if before.find(t) != after.find(t)]
    assert {after.find(topic)[0] for topic in moved} == {"c:3"}
    assert 850 < len(moved) < 1150


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://a,redis://a:6379", "a:6379 is named twice"),
        ("redis://a,redis://b?prefix=x", "same prefix"),
        ("redis://a/1,redis://b/2", "same prefix"),
        ("redis://a,b", "several servers"),
        ("redis://a,redis+cluster://b", "one URL"),
        ("redis://a,", "names a host"),
    ],
)
def test_servers_that_do_not_fit_are_refused(url, says):
    """When the layer is made."""
    with pytest.raises(ConfigurationError, match=says):
        make_layer(url)


def test_a_server_that_is_away_affects_only_its_names(start, servers, url):
    """Others are joined and heard as before; its own are, when it is back."""
    here, there = start(url), start(url)
    gone, fine = topics_of(servers, 3)
    near, far = RecordingMember(), RecordingMember(listens=("layer.gap",))
    for topic in (gone[0], fine[0]):
        here.add(topic, near)
        there.add(topic, far)
    here.send(gone[0], text("before"))
    until(lambda: far.texts == ["before"])
    servers[0].kill()
    until(lambda: all("outages of the layer" in e.stats() for e in (here, there)))
    until(lambda: refuses(here, gone[0]))
    assert "unconfirmed joins" not in there.stats()
    there.add(gone[1], far)
    assert there.stats()["unconfirmed joins"] == 1
    there.add(fine[1], far)
    assert there.stats()["unconfirmed joins"] == 1
    here.send(gone[0], text("only here"))
    here.send(fine[0], text("both"), strict=True)
    here.send(fine[1], text("there"), strict=True)
    until(lambda: far.texts == ["before", "both", "there"])
    assert near.texts[-2:] == ["only here", "both"]
    servers[0].start()
    until(lambda: {topic_of(e) for e in far.events} >= {gone[0], gone[1]}, BACK)
    until(lambda: not refuses(here, gone[0]), BACK)
    here.send(gone[1], text("again"), strict=True)
    until(lambda: far.texts[-1] == "again")
    until(lambda: missed(here, there) == lost(here) > 0)
    assert not {topic_of(event) for event in far.events} & {fine[0], fine[1]}


def lost(layer):
    """Return how many messages did not get out."""
    stats = layer.stats()
    later = stats["bus"].get("publishes lost with the connection", 0)
    return stats.get("lost publishes", 0) + later


def missed(sender, receiver):
    """Return how many messages a receiver knows it has missed."""
    sender.probe()
    gevent.sleep(0.05)
    return receiver.stats().get("messages missed", 0)


def topic_of(event):
    """Return the topic of a gap."""
    return group_topic(event["group"])


def refuses(layer, topic):
    """Say whether a layer knows that it cannot reach the others."""
    try:
        layer.send(topic, text("probe"), strict=True)
    except LayerUnavailable:
        return True
    return False


def test_a_slow_server_makes_no_false_holes(start, servers, url):
    """Numbers of its topics are told on its own way."""
    here, there = start(url), start(url)
    slow, fine = topics_of(servers, 1)
    member = RecordingMember()
    for topic in (*slow, *fine):
        there.add(topic, member)
        here.send(topic, text("first"))
    until(lambda: len(member.texts) == 2)
    servers[0].signal(signal.SIGSTOP)
    try:
        here.send(slow[0], text("late"))
        here.probe()
        here.send(fine[0], text("soon"))
        until(lambda: member.texts[-1] == "soon")
        here.probe()
        gevent.sleep(0.2)
        assert "messages missed" not in there.stats()
    finally:
        servers[0].signal(signal.SIGCONT)
    until(lambda: member.texts[-1] == "late")
    assert "messages missed" not in there.stats()


def test_it_serves_when_one_is_away_at_the_start(start, servers, caplog):
    """With one warning; all is well when it comes."""
    servers[0].kill()
    url = ",".join(server.url() for server in servers)
    here, there = start(url), start(url)
    late, fine = topics_of(servers, 1)
    member = RecordingMember(listens=("layer.gap",))
    there.add(fine[0], member)
    there.add(late[0], member)
    here.send(fine[0], text("hello"), strict=True)
    until(lambda: member.texts == ["hello"])
    warnings = [r for r in caplog.records if "no connection to Redis" in r.message]
    assert len(warnings) == 2
    servers[0].start()
    until(lambda: not refuses(here, late[0]) and member.events, BACK)
    here.send(late[0], text("at last"))
    until(lambda: member.texts[-1] == "at last")


def test_all_are_away_at_the_start(start):
    """It serves all the same."""
    layer = start(f"redis://127.0.0.1:{free_port()},redis://127.0.0.1:{free_port()}")
    member = RecordingMember()
    layer.add(group_topic("room"), member)
    layer.send(group_topic("room"), text("hello"))
    assert member.texts == ["hello"]
    assert layer.stats()["outages of the layer"] == 1
