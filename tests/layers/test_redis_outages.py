"""Redis goes away in every way that there is, and comes back."""

import contextlib
import logging
import re
import signal
import time

import gevent
import pytest
from gevent import socket
from gevent.server import StreamServer

from greenchannels.errors import ConnectionEnded, LayerRefused, LayerUnavailable
from greenchannels.layers.layer import group_topic
from greenchannels.layers.redis.bus import RedisBus
from greenchannels.layers.registry import make_layer
from greenchannels.net.reactor import Reactor
from greenchannels.testing.recording import RecordingMember, text, until
from tests.layers.redis_harness import (
    encode,
    free_port,
    proxy,
    reactor,
    redis_server,
    running_redis,
    start,
)
from tests.servers.harness import no_leaks

__all__ = ["no_leaks", "proxy", "reactor", "redis_server", "start"]

pytestmark = pytest.mark.usefixtures("no_leaks")

ROOM = group_topic("room")

#: Seconds in which everything is back; promised are 5.
BACK = 50.0


class Pair:
    """Two layers on a Redis, with a member of "room" each that hears of gaps."""

    def __init__(self, start, url):
        self.layers = [start(url), start(url)]
        self.members = [RecordingMember(listens=("layer.gap",)) for _ in "ab"]
        for layer, member in zip(self.layers, self.members, strict=True):
            layer.add(ROOM, member)
        #: What each has sent.
        self.sent = [0, 0]
        self.send()
        self.exact()

    def send(self, count=1):
        """Both send."""
        for _ in range(count):
            for number, layer in enumerate(self.layers):
                self.sent[number] += 1
                layer.send(ROOM, text(f"{number} {self.sent[number]}"))

    def lost(self):
        """Return how many messages did not get out, as far as is known here."""
        later = self.count("publishes lost with the connection")
        return self.count("lost publishes") + later

    def missed(self, number):
        """Return how many messages a layer has counted as missed."""
        return self.layers[number].stats().get("messages missed", 0)

    def heard(self, number):
        """Return how many messages of the other a member has got."""
        mine = [t for t in self.members[number].texts if not t.startswith(str(number))]
        counts = [int(t.split()[1]) for t in mine]
        assert counts == sorted(set(counts)), "out of order, or twice"
        return len(counts)

    def is_exact(self):
        """Say whether sent = received + counted, both ways."""
        return all(
            self.heard(number) + self.missed(number) == self.sent[1 - number]
            for number in (0, 1)
        )

    def exact(self):
        """Wait until it is; members of the same process have got everything."""

        def probed():
            for layer in self.layers:
                layer.probe()
            gevent.sleep(0.05)
            return self.is_exact()

        until(probed, BACK)
        for number, member in enumerate(self.members):
            own = [t for t in member.texts if t.startswith(str(number))]
            assert len(own) == self.sent[number]

    def whole(self):
        """Wait until both layers have their connections, and hear each other."""

        def hear():
            before = [self.heard(0), self.heard(1)]
            self.send()
            gevent.sleep(0.05)
            return self.heard(0) > before[0] and self.heard(1) > before[1]

        until(hear, BACK)

    def gaps(self):
        """Return how often gaps of unknown size were announced to each member."""
        return [
            sum(event["missed"] is None for event in member.events)
            for member in self.members
        ]

    def count(self, key):
        """Return what both have counted, in the layer or in the bus."""
        stats = [layer.stats() for layer in self.layers]
        return sum(each.get(key, 0) + each["bus"].get(key, 0) for each in stats)


@pytest.fixture
def pair(start, redis_server):
    """Two layers on the test's Redis."""
    return Pair(start, redis_server.url())


def test_a_killed_redis_that_comes_back_is_found_again(pair, redis_server, caplog):
    """What was sent meanwhile is counted, gaps are announced, and the log says so."""
    redis_server.kill()
    until(lambda: pair.count("connections") == 0)
    assert pair.count("outages of the layer") == 2
    pair.send(10)
    until(lambda: pair.lost() == 20)
    with pytest.raises(LayerUnavailable):
        pair.layers[0].send(ROOM, text("0 12"), strict=True)
    pair.sent[0] += 1
    redis_server.start()
    began = time.monotonic()
    pair.whole()
    assert time.monotonic() - began < BACK
    pair.exact()
    assert pair.missed(0) >= 10 and pair.missed(1) >= 11
    assert pair.gaps() == [1, 1]
    lost = [r for r in caplog.records if "no connection to Redis" in r.message]
    back = [r for r in caplog.records if "is back after" in r.message]
    assert len([r for r in lost if "members of this process" in r.message]) == 2
    assert len(back) == 2


def test_joins_do_not_wait_for_a_redis_that_is_away(pair, redis_server):
    """They hold here at once, elsewhere when it is back, and their gap is announced."""
    redis_server.kill()
    until(lambda: pair.count("connections") == 0)
    assert pair.count("outages of the layer") == 2
    late = RecordingMember(listens=("layer.gap",))
    began = time.monotonic()
    for number in range(100):
        pair.layers[1].add(group_topic(f"late {number}"), late)
    assert time.monotonic() - began < 1
    assert pair.layers[1].stats()["unconfirmed joins"] == 100
    pair.layers[1].send(group_topic("late 1"), text("here"))
    assert late.texts == ["here"]
    pair.layers[1].discard(group_topic("late 99"), late)
    redis_server.start()
    until(lambda: len(late.events) >= 99, BACK)
    groups = {event["group"] for event in late.events}
    assert groups == {f"late {number}" for number in range(99)}
    pair.whole()
    pair.layers[0].send(group_topic("late 98"), text("there"))
    until(lambda: late.texts == ["here", "there"])


@pytest.mark.parametrize("kind", ["pubsub", "normal"])
def test_connections_that_are_killed_are_made_again(pair, redis_server, kind):
    """The listening one announces a gap; a publishing one loses nothing."""
    for _ in range(3):
        gevent.sleep(0.05)
        redis_server("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        pair.send(5)
        pair.whole()
        pair.exact()
    if kind == "normal":
        assert pair.missed(0) == pair.missed(1) == 0
        assert pair.count("outages of the layer") == 0
        assert pair.gaps() == [0, 0]
    else:
        assert all(gaps >= 1 for gaps in pair.gaps())


def test_under_load_every_loss_is_counted(pair, redis_server):
    """Greenlets send all the time, while connections are killed again and again."""

    def send():
        for _ in range(100):
            pair.send(5)
            gevent.sleep(0.01)

    sender = gevent.spawn(send)
    while not sender.ready():
        gevent.sleep(0.15)
        for kind in ("pubsub", "normal"):
            redis_server("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
    sender.get()
    pair.whole()
    pair.exact()
    assert pair.missed(0) + pair.missed(1) > 0
    assert pair.count("messages heard twice") == 0


def test_a_stopped_redis_is_noticed_and_found_again(pair, redis_server):
    """Sends return at once; when it goes on, all that was lost is counted."""
    redis_server.signal(signal.SIGSTOP)
    began = time.monotonic()
    pair.send(100)
    assert time.monotonic() - began < 1
    until(lambda: pair.count("outages of the layer") == 2)
    began = time.monotonic()
    pair.layers[0].add(group_topic("other"), RecordingMember())
    assert time.monotonic() - began < 1
    redis_server.signal(signal.SIGCONT)
    pair.whole()
    pair.exact()


@pytest.mark.slow
def test_a_redis_that_is_stopped_for_long_is_found_again(pair, redis_server):
    """For 30 s, while both send all the time."""
    redis_server.signal(signal.SIGSTOP)
    for _ in range(300):
        pair.send()
        gevent.sleep(0.1)
    redis_server.signal(signal.SIGCONT)
    pair.whole()
    pair.exact()
    assert pair.missed(0) > 100 and pair.missed(1) > 100


def test_flushing_the_database_changes_nothing(pair, redis_server):
    """There is nothing in it."""
    redis_server("FLUSHALL")
    pair.send(10)
    pair.exact()
    assert pair.missed(0) == pair.missed(1) == 0
    assert pair.count("outages of the layer") == 0
    assert redis_server("DBSIZE") == b":0"


def test_a_full_memory_changes_nothing(start):
    """Messages are not stored."""
    with running_redis("--maxmemory", "1") as it:
        assert it("SET", "a", "b").startswith(b"-OOM")
        pair = Pair(start, it.url())
        pair.send(10)
        pair.exact()
        assert pair.missed(0) == pair.missed(1) == 0
        assert pair.count("outages of the layer") == 0


def test_a_listener_above_the_output_buffers_limit_comes_back(start):
    """Redis cuts it off; what it did not get is counted, and it listens again."""
    limit = ("--client-output-buffer-limit", "pubsub 256kb 0 0")
    with running_redis(*limit) as it:
        pair = Pair(start, it.url())
        it.flood("test:g:room", 60)
        pair.send(5)
        until(lambda: pair.count("outages of the layer") == 2, BACK)
        pair.whole()
        pair.exact()
        assert pair.missed(0) >= 5 and pair.missed(1) >= 5


def test_many_topics_are_heard_again_below_a_small_output_buffer(start):
    """What Redis has to confirm is asked for in portions."""
    limit = ("--client-output-buffer-limit", "pubsub 256kb 0 0")
    with running_redis(*limit) as it:
        one, other = start(it.url()), start(it.url())
        member = RecordingMember()
        joins = [
            gevent.spawn(one.add, group_topic(f"a room of some size {n}"), member)
            for n in range(10_000)
        ]
        gevent.joinall(joins, raise_error=True)
        until(lambda: it.listeners("test:g:a room of some size 9999") == 1, BACK)
        assert "outages of the layer" not in one.stats()
        it("CLIENT", "KILL", "TYPE", "pubsub")
        until(lambda: "outages of the layer" in one.stats(), BACK)
        until(lambda: it.listeners("test:g:a room of some size 9999") == 1, BACK)
        other.send(group_topic("a room of some size 9999"), text("hello"))
        until(lambda: member.texts == ["hello"])


@pytest.mark.parametrize("sends", [True, False])
def test_half_open_connections_are_made_again(start, redis_server, proxy, sends):
    """Their bytes are lost on the way, without a word from TCP."""
    other = start(redis_server.url())
    one = start(redis_server.url().replace(str(redis_server.port), str(proxy.port)))
    member = RecordingMember(listens=("layer.gap",))
    one.add(ROOM, member)
    other.send(ROOM, text("before"))
    until(lambda: member.texts)
    proxy.lose()
    if sends:
        one.send(ROOM, text("lost"))
    other.send(ROOM, text("lost"))
    until(lambda: member.events, 100)
    other.send(ROOM, text("after"))
    until(lambda: "after" in member.texts, BACK)
    assert one.stats()["messages missed"] == 1


def test_a_deaf_listener_is_noticed_by_its_own_probe(
    start, redis_server, proxy, caplog
):
    """It listens anew, which is counted, and the gap is announced."""
    other = start(redis_server.url())
    one = start(redis_server.url().replace(str(redis_server.port), str(proxy.port)))
    member = RecordingMember(listens=("layer.gap",))
    one.add(ROOM, member)
    proxy.deafens = True
    other.send(ROOM, text("lost"))
    until(lambda: one.stats()["bus"].get("deaf listeners"), 100)
    proxy.deafens = False
    until(lambda: member.events, BACK)
    assert "nothing comes from it any more" in caplog.text
    other.send(ROOM, text("after"))
    until(lambda: member.texts == ["after"])
    assert "lost publishes" not in one.stats()


def test_who_only_sends_and_calls_has_no_probe_to_hear(start, redis_server):
    """Its listener hears answers; it is not taken for a deaf one."""
    url = redis_server.url()
    there, member = start(url), RecordingMember()
    name = there.new_channel(member)
    one = start(url, listens=False)
    assert one.stats()["bus"]["connections"] == 1
    one.add_channel(ROOM, name)
    assert one.stats()["bus"]["connections"] == 2
    one.probe()
    gevent.sleep(5.5)
    one.add_channel(group_topic("another"), name)
    stats = one.stats()
    assert "deaf listeners" not in stats["bus"] and "outages of the layer" not in stats


def test_foreign_messages_are_counted_and_harm_nothing(pair, redis_server):
    """Whatever they hold, also what looks nearly like ours."""
    channel = "test:g:room"
    strangers = [b"", b"hello", b"gc\x01", b"gc\x01\x05ab", b"gc\x02\x011hello"]
    for payload in strangers:
        redis_server("PUBLISH", channel, payload)
    for topic in ("#probe", "g:room"):
        redis_server("PUBLISH", f"test:{topic}", b"gc\x01\x03abcnonsense")
    to_one = f"test:p:{pair.layers[0].origin}"
    redis_server("PUBLISH", to_one, b"gc\x01\x03abc\xc1\x92")
    until(lambda: pair.count("messages that are not ours") == 5)
    assert pair.count("payloads that are not ours") == 2 * len(strangers)
    pair.send()
    pair.exact()
    assert pair.missed(0) == pair.missed(1) == 0
    assert pair.count("outages of the layer") == 0


@pytest.mark.parametrize("limited", [True, False])
def test_a_foreign_message_of_33_mebibytes_harms_nothing(start, limited):
    """Redis cuts listeners off at its limit, else it is read and dropped."""
    options = () if limited else ("--client-output-buffer-limit", "pubsub 0 0 0")
    with running_redis(*options) as it:
        pair = Pair(start, it.url())
        it("PUBLISH", "test:g:room", b"x" * (33 * 1024 * 1024))
        if limited:
            until(lambda: pair.count("outages of the layer") == 2)
        else:
            until(lambda: pair.count("payloads that are not ours") == 2)
            assert pair.count("outages of the layer") == 0
        pair.whole()
        pair.exact()


# At the start.


def test_an_unreachable_redis_at_the_start_is_one_warning(start, caplog):
    """Members of the process hear each other; it joins when Redis comes."""
    with running_redis() as it:
        it.kill()
        began = time.monotonic()
        one, other = start(it.url()), start(it.url())
        member, far = RecordingMember(), RecordingMember(listens=("layer.gap",))
        one.add(ROOM, member)
        other.add(ROOM, far)
        assert time.monotonic() - began < 2
        one.send(ROOM, text("here"))
        assert member.texts == ["here"]
        warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
        assert len(warnings) == 2, "one a layer"
        it.start()
        until(lambda: far.events, BACK)

        def heard():
            one.send(ROOM, text("there"))
            gevent.sleep(0.05)
            return far.texts

        until(heard, BACK)


def test_a_wrong_password_at_the_start_is_an_error(redis_server):
    """It says where and who, and not the password."""
    redis_server("CONFIG", "SET", "requirepass", "right")
    for secret in (":wrong@", "app:wrong@", "app:@", ""):
        url = f"redis://{secret}127.0.0.1:{redis_server.port}"
        layer, reactor = make_layer(url), Reactor()
        with pytest.raises(LayerRefused) as raised:
            layer.start(reactor)
        reactor.close()
        said = str(raised.value)
        assert f"127.0.0.1:{redis_server.port}" in said and "\n" not in said
        assert "wrong" not in said and not layer.started
    redis_server.password = "right"


@pytest.mark.parametrize(
    ("rights", "starts"),
    [
        (["&test:*", "+publish", "+subscribe", "+unsubscribe"], True),
        (["&test:*", "+publish"], False),
        (["&test:*", "+subscribe", "+unsubscribe"], False),
        (["&other:*", "+publish", "+subscribe", "+unsubscribe"], False),
    ],
)
def test_rights_that_are_missing_at_the_start_are_an_error(
    start, redis_server, rights, starts
):
    """As the documentation names them; more is not needed."""
    redis_server("ACL", "SETUSER", "app", "on", ">pw", "resetchannels", *rights)
    url = f"redis://app:pw@127.0.0.1:{redis_server.port}?prefix=test"
    if starts:
        Pair(start, url)
        return
    with pytest.raises(LayerRefused, match="(?i)noperm|permission"):
        start(url)


def test_a_user_may_publish_only_if_nothing_listens(start, redis_server):
    """For programs that only send."""
    redis_server("ACL", "SETUSER", "app", "on", ">pw", "&test:*", "+publish")
    url = f"redis://app:pw@127.0.0.1:{redis_server.port}?prefix=test"
    there, member = start(redis_server.url()), RecordingMember()
    there.add(ROOM, member)
    start(url, listens=False).send(ROOM, text("hello"))
    until(lambda: member.texts == ["hello"])


def test_a_password_that_becomes_wrong_is_logged_and_tried_again(
    pair, redis_server, caplog
):
    """Until it is right again; nothing ends."""
    redis_server("CONFIG", "SET", "requirepass", "another")
    redis_server.password = "another"
    for kind in ("pubsub", "normal"):
        redis_server("CLIENT", "KILL", "TYPE", kind)
    until(lambda: "refuses the default user" in caplog.text, BACK)
    until(lambda: pair.count("outages of the layer") == 2, BACK)
    redis_server("CONFIG", "SET", "requirepass", "")
    redis_server.password = None
    pair.whole()
    pair.exact()


def test_rights_that_are_taken_away_are_logged(pair, redis_server, caplog):
    """Publishes that Redis refuses are counted, here and there."""
    redis_server("ACL", "SETUSER", "default", "-publish")
    pair.send(3)
    until(lambda: pair.count("publishes that Redis refused") >= 6)
    assert len(re.findall("has not published", caplog.text)) == 2
    redis_server("ACL", "SETUSER", "default", "+publish")
    pair.whole()
    pair.exact()
    assert pair.missed(0) >= 3 and pair.missed(1) >= 3


def test_something_else_than_redis_is_like_none(start, caplog):
    """An HTTP server, or one that says nothing."""
    port = free_port()
    with contextlib.closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", port))
        silent.listen()
        began = time.monotonic()
        layer = start(f"redis://127.0.0.1:{port}")
        layer.add(ROOM, RecordingMember())
        assert time.monotonic() - began < 20
    assert layer.stats()["outages of the layer"] == 1
    assert encode("a") == b"*1\r\n$1\r\na\r\n"


# Names.


def test_processes_are_named_and_channels_prefixed(start, redis_server):
    """As CLIENT LIST and PUBSUB CHANNELS show; prefixes keep applications apart."""
    urls = ["?prefix=a", "?prefix=b", "/3?prefix=a", "/0", ""]
    layers = [start(f"redis://127.0.0.1:{redis_server.port}{url}") for url in urls]
    members = [RecordingMember() for _ in layers]
    for layer, member in zip(layers, members, strict=True):
        layer.add(ROOM, member)
    for number, layer in enumerate(layers):
        layer.send(ROOM, text(number))
    until(lambda: len(members[3].texts) == len(members[4].texts) == 2)
    gevent.sleep(0.05)
    assert [m.texts for m in members[:3]] == [["0"], ["1"], ["2"]]
    assert len(redis_server.clients()) == 2 * len(layers)
    assert redis_server("PUBSUB", "NUMSUB", "a:g:room").startswith(b"*2")


def test_a_hub_that_was_busy_loses_no_connection(pair):
    """What has come meanwhile counts, though it is late."""
    for _ in range(2):
        pair.send(5)
        for layer in pair.layers:
            layer.probe()
        gevent.sleep(0)
        time.sleep(5)
        pair.send(5)
        gevent.sleep(0.6)
    pair.exact()
    assert pair.missed(0) == pair.missed(1) == 0
    assert pair.count("outages of the layer") == pair.count("deaf listeners") == 0
    assert pair.count("publishes lost with the connection") == 0


def test_processes_that_do_not_hear_now_are_unavailable_and_then_gone(
    pair, redis_server
):
    """Who has just sent a probe may come back; nobody waits for an answer."""
    one, other = pair.layers
    name = other.new_channel(pair.members[1])
    other.probe()
    until(lambda: one._exchange.accounts.heard_lately(other.origin))
    other._bus.unsubscribe([f"p:{other.origin}"])
    until(lambda: redis_server.listeners(f"test:p:{other.origin}") == 0)
    began = time.monotonic()
    with pytest.raises(LayerUnavailable):
        one.add_channel(group_topic("a"), name)
    one.send_channel(name, text("lost"))
    until(lambda: one.stats().get("lost publishes") == 1)
    one._exchange.accounts._alive.clear()
    with pytest.raises(ConnectionEnded):
        one.add_channel(group_topic("a"), name)
    one.discard_channel(group_topic("a"), name)
    one.send_channel(name, text("lost"))
    until(lambda: one.stats().get("sent to channels that have gone") == 1)
    assert time.monotonic() - began < 20


def test_late_confirmations_are_gaps(start, redis_server, proxy):
    """A join that nobody waited for is announced when it holds."""
    one = start(redis_server.url().replace(str(redis_server.port), str(proxy.port)))
    member = RecordingMember(listens=("layer.gap",))
    one._bus.subscribe(["g:other"], 5)
    redis_server.signal(signal.SIGSTOP)
    assert one._bus.subscribe(["g:room"], 0.05) is False
    one.add(ROOM, member)
    redis_server.signal(signal.SIGCONT)
    until(lambda: member.events, BACK)
    assert member.events == [{"type": "layer.gap", "missed": None, "group": "room"}]
    assert "outages of the layer" not in one.stats()


@pytest.mark.parametrize("where", ["answered", "gap"])
def test_what_nobody_has_expected_is_logged_and_ends_one_connection(
    pair, redis_server, monkeypatch, caplog, where
):
    """Another one is made, as after any failure."""
    failures = []

    def fail(*args):
        monkeypatch.undo()
        failures.append(args)
        raise ZeroDivisionError("nobody has expected this")

    monkeypatch.setattr(RedisBus, where, fail)
    if where == "gap":
        redis_server("CLIENT", "KILL", "TYPE", "pubsub")
    else:
        pair.send()
    until(lambda: failures, BACK)
    pair.whole()
    pair.exact()
    assert "nobody has expected this" in caplog.text


class Pretender:
    """
    A server that answers every command with the same.

    Args:
        said: What it says for each; ``None`` ends the connection.

    """

    def __init__(self, said):
        self._said = said
        self._server = StreamServer(("127.0.0.1", 0), self._serve)
        self._server.start()
        self.url = f"redis://127.0.0.1:{self._server.server_port}"

    def _serve(self, sock, address):
        with contextlib.suppress(OSError):
            while (heard := sock.recv(65536)) and self._said is not None:
                sock.sendall(self._said * heard.count(b"*"))

    def close(self):
        """End it."""
        self._server.stop(timeout=1)


@pytest.mark.parametrize(
    "said",
    [
        *(None, b"\x00\xffgarbage\r\n", b"+OK\r\n", b":1\r\n", b"$-1\r\n"),
        *(b"*1\r\n" * 10_000, b"$99999999999\r\n", b"*-7\r\n", b"*0\r\n"),
        b"*3\r\n$9\r\nsubscribe\r\n$5\r\nwrong\r\n:1\r\n",
        b"*3\r\n$7\r\nmessage\r\n:1\r\n:2\r\n",
    ],
)
def test_what_is_no_redis_is_an_outage(start, said, caplog):
    """Whatever it says: members here hear each other, and the log says why."""
    pretender = Pretender(said)
    layer, member = start(pretender.url), RecordingMember()
    layer.add(ROOM, member)
    layer.send(ROOM, text("hello"))
    assert member.texts == ["hello"]
    until(lambda: "no connection to Redis" in caplog.text)
    layer.close()
    pretender.close()
    assert "Traceback" not in caplog.text
