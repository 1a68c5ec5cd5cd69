"""What happens to sockets that take less than groups send: policies, counts, bounds."""

import gc
import itertools
import os
import socket as stdlib_socket

import gevent
import pytest
from gevent.event import Event

from greenchannels import (
    Channel,
    ConfigurationError,
    ConnectionBroken,
    Group,
    Limits,
    Server,
    ServerOptions,
    Timeouts,
    gsgi,
    http,
    websocket,
)
from greenchannels.generic.websocket import WebsocketConsumer
from greenchannels.net.backlog import SharedFrame
from greenchannels.servers import relief
from greenchannels.wire.frames import PING, PONG, encode_control
from tests.servers.harness import MS, Closed, request, until

KIB = 1024
MIB = 1024 * KIB

#: Small kernel buffers, so that little is enough to fill them.
SMALL = 8 * KIB

#: What may wait for a peer in most of these tests.
LIMIT = 64 * KIB

#: Bytes of a numbered message.
SIZE = 2 * KIB


def member(socket, group="g"):
    """A consumer that is in a group."""
    with Group(group).joined(socket):
        socket.send("in")
        socket.wait()


def numbered(n, size=SIZE):
    """Return message number ``n``."""
    return b"%08d" % n + bytes(size - 8)


def numbers(messages):
    """Return the numbers of messages."""
    return [int(message[:8]) for message in messages if isinstance(message, bytes)]


def start(serve, policy, consumer=member, *, limits=None, **options):
    """Return a server whose one route has a policy."""
    return serve(
        [websocket("/", consumer, slow=policy, **options)],
        limits=limits or Limits(max_write_buffer=LIMIT),
        send_buffer=SMALL,
    )


def stalled(running, path="/"):
    """Return a client that has joined and reads nothing from now on."""
    peer = running.peer(receive_buffer=SMALL)
    peer.open(path)
    assert peer.hear() == "in"
    return peer


def slow_counts(running, route="/"):
    """Return what the server counted for a route."""
    return running.server.layer.stats()["slow"].get(route, {})


def send_all(count, group="g", size=SIZE, first=0):
    """Send numbered messages, with turns of the hub between."""
    for n in range(first, first + count):
        Group(group).send(numbered(n, size))
        if n % 10 == 0:
            gevent.sleep(0)


def hear_until(peer, last):
    """Return what a client hears until the message ``last``."""
    heard = []
    while (message := peer.hear()) != last:
        heard.append(message)
    return heard


def wait_until_empty(running):
    """Wait until nothing waits for any peer."""
    until(lambda: not any(t.queue for t in running.server.connections))


def read_on(running, peers):
    """Return what each of stalled clients hears, up to a last message for all."""
    drained = []

    def read(peer):
        drained.append(hear_until(peer, "read"))
        return drained[-1] + hear_until(peer, "last")

    for socket in running.server.sockets:
        gevent.spawn(socket.send, "read")  # waits for room, if there is none
    readers = [gevent.spawn(read, peer) for peer in peers]
    until(lambda: len(drained) == len(peers))
    wait_until_empty(running)
    Group("g").send("last")
    gevent.joinall(readers, timeout=10, raise_error=True)
    return [reader.value for reader in readers]


# Frames.


def test_drop_loses_the_newest_and_counts_what_clients_miss(serve):
    """What waits when the buffer is full arrives; what comes later does not."""
    running = start(serve, "drop")
    peers = [stalled(running) for _ in range(3)]
    send_all(300)
    assert all(
        s.transport.own + s.transport.shared <= LIMIT + SIZE + 4
        for s in running.server.sockets
    )
    heard = [numbers(messages) for messages in read_on(running, peers)]
    for each in heard:
        assert each == list(range(len(each)))
        assert 0 < len(each) < 300
    missed = sum(300 - len(each) for each in heard)
    assert slow_counts(running) == {"policy": "drop", "frames dropped": missed}
    assert running.counters["frames dropped for slow members"] == missed
    assert not running.counters["closed for being slow"]


def test_latest_keeps_the_newest_and_counts_what_it_replaced(serve):
    """In the order in which they were sent."""
    running = start(serve, "latest")
    peers = [stalled(running) for _ in range(3)]
    send_all(300)
    heard = [numbers(messages) for messages in read_on(running, peers)]
    for each in heard:
        assert each == sorted(set(each))
        assert each[-1] == 299
        assert len(each) < 300
    missed = sum(300 - len(each) for each in heard)
    assert slow_counts(running) == {"policy": "latest", "frames replaced": missed}


def test_latest_keeps_the_newest_of_each_group(serve):
    """And of each channel: one cannot push another out."""

    def consumer(socket):
        for name in ("g", "a", "b", "c"):
            Group(name).add(socket)
        socket.send(socket.channel_name)
        socket.wait()

    running = start(serve, "latest", consumer)
    peer = running.peer(receive_buffer=SMALL)
    peer.open()
    channel = Channel(peer.hear())
    for n in range(0, 400, 4):
        Group("a").send(numbered(n))
        Group("b").send(numbered(n + 1))
        if n == 200:
            Group("c").send(numbered(n + 2))
        channel.send(numbered(n + 3))
    (messages,) = read_on(running, [peer])
    heard = numbers(messages)
    assert heard == sorted(set(heard))
    assert set(heard) >= {396, 397, 202, 399}
    assert slow_counts(running)["frames replaced"] == 301 - len(heard)


def test_latest_drops_what_finds_no_room_and_keeps_what_waits_of_its_group(serve):
    """Many groups with one message each: there is nothing to replace."""

    def consumer(socket):
        for n in range(100):
            Group(f"g{n}").add(socket)
        member(socket)

    running = start(serve, "latest", consumer)
    peer = stalled(running)
    for n in range(100):
        Group(f"g{n}").send(numbered(n))
    dropped = slow_counts(running)["frames dropped"]
    last = 99 - dropped  # the last that found room
    assert len(only_transport(running).queue) > 10 < last
    # Without what it replaces there is room.
    Group(f"g{last}").send(numbered(150, 2 * SIZE))
    assert slow_counts(running)["frames dropped"] == dropped
    # There is not, but it is no larger than what it replaces.
    Group(f"g{last - 1}").send(numbered(151))
    assert slow_counts(running)["frames dropped"] == dropped
    # It is larger: what waits is better than nothing.
    Group(f"g{last - 2}").send(numbered(152, SIZE + 1))
    assert slow_counts(running)["frames dropped"] == dropped + 1
    (messages,) = read_on(running, [peer])
    heard = numbers(messages)
    assert heard[-3:] == [last - 2, 150, 151]
    counts = slow_counts(running)
    assert len(heard) + counts["frames dropped"] + counts["frames replaced"] == 103


def only_transport(running):
    """Return the connection of the server's one socket."""
    (socket,) = running.server.sockets
    return socket.transport


@pytest.mark.parametrize("policy", ["drop", "latest"])
def test_a_half_sent_frame_stays_whole(serve, policy):
    """Also when newer ones of its group come: it cannot be taken back."""
    running = start(serve, policy)
    peer = stalled(running)
    Group("g").send(numbered(0, 500 * KIB))
    until(lambda: only_transport(running).blocked)
    send_all(100, first=1)
    (messages,) = read_on(running, [peer])
    assert messages[0] == numbered(0, 500 * KIB)
    heard = numbers(messages)
    assert heard == ([0] if policy == "drop" else [0, *heard[1:]])
    counts = slow_counts(running)
    lost = counts.get("frames dropped", 0) + counts.get("frames replaced", 0)
    assert len(heard) + lost == 101


@pytest.mark.parametrize("policy", ["drop", "latest"])
def test_frames_of_the_consumer_are_never_dropped(serve, policy):
    """However many of groups are around them; all keep their order."""
    done = Event()

    def consumer(socket):
        with Group("g").joined(socket):
            socket.send("in")
            for n in range(200):
                socket.send(f"own {n}")
                Group("g").send(numbered(n))
            done.set()
            socket.wait()

    running = start(serve, policy, consumer)
    peer = stalled(running)
    assert done.wait(5)
    (messages,) = read_on(running, [peer])
    assert [m for m in messages if isinstance(m, str)] == [
        f"own {n}" for n in range(200)
    ]
    heard = numbers(messages)
    assert heard == sorted(set(heard)) and len(heard) < 200
    # A message stands behind the own one that was sent before it.
    for before, after in itertools.pairwise(messages):
        if isinstance(before, str) and isinstance(after, bytes):
            assert int(before.split()[1]) == int(after[:8])


@pytest.mark.parametrize("policy", ["drop", "latest"])
def test_equal_frames_of_the_consumer_and_of_groups_are_told_apart(serve, policy):
    """Although their bytes are the same."""

    def consumer(socket):
        for name in ("g", "h"):
            Group(name).add(socket)
        socket.send("in")
        for _ in range(5):
            socket.send(numbered(1))
        socket.wait()

    running = start(serve, policy, consumer)
    peer = stalled(running)
    for _ in range(200):
        Group("g").send(numbered(1))
        Group("h").send(numbered(1))
    (messages,) = read_on(running, [peer])
    counts = slow_counts(running)
    lost = counts.get("frames dropped", 0) + counts.get("frames replaced", 0)
    assert len(messages) + lost == 405
    assert len(messages) >= 5


def test_close_counts_all_that_the_client_misses(serve):
    """What waited, and the message that did not fit."""
    running = start(serve, "close")
    peer = stalled(running)
    (socket,) = running.server.sockets
    sent = 0
    while socket.close_code is None:
        Group("g").send(numbered(sent))
        sent += 1
        assert sent < 1000
    heard = []
    while not isinstance(message := peer.hear(), Closed):
        heard.append(message)
    assert message == Closed(1013, "too slow")
    heard = numbers(heard)
    assert heard == list(range(len(heard)))
    assert slow_counts(running) == {
        "policy": "close",
        "sockets closed": 1,
        "frames dropped": sent - len(heard),
    }


def test_close_counts_nothing_that_was_no_message_of_a_group(serve):
    """Neither what the consumer has sent itself nor the answers to pings."""
    running = start(serve, "close")
    peer = stalled(running)
    (socket,) = running.server.sockets
    sent = 0
    while not socket.transport.unsent:
        Group("g").send(numbered(sent))
        sent += 1
        gevent.sleep(0)
    socket.send("own")
    for _ in range(20):
        peer.frame(PING, b"asked")
    pong = encode_control(PONG, b"asked")
    until(lambda: b"".join(socket.transport.unsent).count(pong) == 20)
    while socket.close_code is None:
        Group("g").send(numbered(sent))
        sent += 1
        assert sent < 1000
    heard = numbers(hear_until(peer, Closed(1013, "too slow")))
    assert heard == list(range(len(heard)))
    assert slow_counts(running) == {
        "policy": "close",
        "sockets closed": 1,
        "frames dropped": sent - len(heard),
    }


@pytest.mark.parametrize("policy", ["drop", "latest"])
def test_compressed_frames_are_the_policys_too(serve, policy):
    """They know their group, and count once for all who get the same."""
    running = start(serve, policy)
    peers = [running.peer(receive_buffer=SMALL) for _ in range(5)]
    for peer in peers:
        peer.open(headers=[("Sec-WebSocket-Extensions", "permessage-deflate")])
        assert peer.hear() == "in"
    topics, bits = set(), set()
    for _ in range(400):
        Group("g").send(os.urandom(SIZE).hex())
        gevent.sleep(0)
        for socket in running.server.sockets:
            topics.update(frame.topic for frame in socket.transport.unsent)
            bits.update(frame[0] >> 4 & 7 for frame in socket.transport.unsent)
    assert topics == {"g:g"}
    assert bits == {4}  # all are compressed
    backlog = running.server.reactor.backlog
    assert 0 < backlog.shared < 2 * (LIMIT + SIZE + 100)
    what = {"drop": "frames dropped", "latest": "frames replaced"}[policy]
    assert slow_counts(running)[what] > 500


@pytest.mark.parametrize("policy", ["close", "drop", "latest"])
def test_a_peer_that_reads_loses_nothing(serve, policy):
    """However much is sent in one turn of the hub."""
    running = start(serve, policy)
    peer = stalled(running)
    for n in range(0, 200, 10):
        send_all(10, first=n)
        heard = numbers(peer.hear() for _ in range(10))
        assert heard == list(range(n, n + 10))
    assert running.server.layer.stats()["slow"] == {}


@pytest.mark.parametrize("policy", ["close", "drop", "latest"])
def test_without_limits_everything_waits(serve, policy):
    """``None`` means it."""
    go, seen = Event(), []

    def consumer(socket):
        with Group("g").joined(socket):
            socket.send("in")
            go.wait()
            for event in socket.events():
                seen.append(event["n"])

    limits = Limits(max_write_buffer=None, max_inbox=None, max_inbox_bytes=None)
    running = start(serve, policy, consumer, limits=limits)
    peer = stalled(running)
    for n in range(1000):
        Group("g").send(numbered(n, 4 * KIB))
        Group("g").send({"type": "n", "n": n, "more": "x" * KIB})
    assert only_transport(running).shared > 3 * MIB
    go.set()
    assert numbers(peer.hear() for _ in range(1000)) == list(range(1000))
    until(lambda: len(seen) == 1000)
    assert seen == list(range(1000))
    assert running.server.layer.stats()["slow"] == {}


def test_a_stall_is_logged_once_with_what_it_cost(serve, caplog):
    """Not once a message; the next stall is another."""
    running = start(serve, "drop")
    peer = stalled(running)
    for stall in (1, 2):
        before = slow_counts(running).get("frames dropped", 0)
        send_all(300)
        read_on(running, [peer])
        dropped = slow_counts(running)["frames dropped"] - before
        lines = [r.getMessage() for r in caplog.records if "slow" in r.getMessage()]
        assert len(lines) == 2 * stall
        assert "policy 'drop'" in lines[-2]
        assert f"{dropped} frames dropped" in lines[-1]


def test_a_stall_that_ends_with_the_socket_is_logged_then(serve, caplog):
    """With what it cost."""
    running = start(serve, "drop")
    peer = stalled(running)
    send_all(300)
    peer.reset()
    until(lambda: not running.server.connections)
    dropped = slow_counts(running)["frames dropped"]
    assert f"lost for being slow: {dropped} frames dropped" in caplog.text


def test_counts_are_kept_by_route(serve):
    """Each with its policy."""
    running = serve(
        [
            websocket("/drop/<name>", lambda s, name: member(s), slow="drop"),
            websocket("/latest", member, slow="latest"),
            websocket("/close", member),
            websocket("/idle", member, slow="drop"),
        ],
        limits=Limits(max_write_buffer=LIMIT),
        send_buffer=SMALL,
        timeouts=Timeouts(close_timeout=100 * MS),
    )
    for path in ("/drop/a", "/drop/b", "/latest", "/close"):
        stalled(running, path)
    send_all(200)
    found = running.server.layer.stats()["slow"]
    assert {route: counts["policy"] for route, counts in found.items()} == {
        "/drop/<name>": "drop",
        "/latest": "latest",
        "/close": "close",
    }
    assert found["/close"]["sockets closed"] == 1
    assert set(found["/drop/<name>"]) == {"policy", "frames dropped"}
    total = sum(counts.get("frames dropped", 0) for counts in found.values())
    assert running.counters["frames dropped for slow members"] == total


# Events.


def listener(go, seen, name="g"):
    """Return a consumer that takes its events once it may."""

    def consumer(socket):
        with Group(name).joined(socket):
            socket.send("in")
            go.wait()
            for event in socket.events():
                seen.append(event)

    return consumer


def event(n, **more):
    """Return event number ``n``."""
    return {"type": "n", "n": n, **more}


FEW = Limits(max_inbox=10)


def test_drop_loses_events_that_find_the_inbox_full(serve):
    """The oldest arrive, and what is sent when there is room again."""
    go, seen = Event(), []
    running = start(serve, "drop", listener(go, seen), limits=FEW)
    running.open()
    until(lambda: Group("g") and running.server.layer.stats()["groups"])
    for n in range(30):
        Group("g").send(event(n))
    assert slow_counts(running) == {"policy": "drop", "events dropped": 20}
    go.set()
    until(lambda: len(seen) == 10)
    Group("g").send(event(30))
    until(lambda: len(seen) == 11)
    assert [e["n"] for e in seen] == [*range(10), 30]
    assert running.counters["events dropped for slow members"] == 20


def test_latest_replaces_events_by_those_of_the_same_group(serve):
    """Others stay, in order; messages of the peer between them stay, too."""
    go, seen = Event(), []

    def consumer(socket):
        with Group("g").joined(socket), Group("h").joined(socket):
            socket.send("in")
            go.wait()
            for each in socket.events():
                seen.append(each if isinstance(each, str) else each["n"])

    running = start(serve, "latest", consumer, limits=FEW)
    peer = running.open()
    assert peer.hear() == "in"
    (socket,) = running.server.sockets
    Group("h").send(event(-1))
    peer.say("between")
    until(lambda: len(socket._inbox) == 2)
    for n in range(30):
        Group("g").send(event(n))
    go.set()
    until(lambda: seen and seen[-1] == 29)
    assert seen[:2] == [-1, "between"]
    got = seen[2:]
    assert got == sorted(got) and len(got) < 30
    replaced = 30 - len(got)
    assert slow_counts(running) == {"policy": "latest", "events replaced": replaced}


def test_latest_drops_events_that_find_no_room(serve):
    """Those of many groups, and one that is larger than what it could replace."""
    go, seen = Event(), []

    def consumer(socket):
        for n in range(30):
            Group(f"g{n}").add(socket)
        listener(go, seen)(socket)

    limits = Limits(max_inbox=10, max_inbox_bytes=4 * KIB)
    running = start(serve, "latest", consumer, limits=limits)
    assert running.open().hear() == "in"
    for n in range(30):
        Group(f"g{n}").send(event(n))
    assert slow_counts(running)["events dropped"] == 20
    Group("g5").send(event(105))  # in place of another
    Group("g6").send(event(106, more="x" * 5 * KIB))  # there is room in bytes
    Group("g7").send(event(107, more="x" * 5 * KIB))  # there is none any more
    assert slow_counts(running)["events dropped"] == 21
    assert slow_counts(running)["events replaced"] == 2
    go.set()
    until(lambda: len(seen) == 10)
    assert [e["n"] for e in seen] == [0, 1, 2, 3, 4, 7, 8, 9, 105, 106]


def test_close_counts_the_events_that_the_consumer_misses(serve):
    """What waited, and the one that did not fit."""
    go, seen = Event(), []
    running = start(serve, "close", listener(go, seen), limits=FEW)
    peer = running.open()
    assert peer.hear() == "in"
    for n in range(30):
        Group("g").send(event(n))
    assert peer.closing() == Closed(1013, "too slow")
    go.set()
    assert slow_counts(running) == {
        "policy": "close",
        "sockets closed": 1,
        "events dropped": 11,
    }
    until(lambda: not running.server.connections)
    assert seen == []


@pytest.mark.parametrize(
    ("policy", "status"), [("close", 503), ("drop", 101), ("latest", 101)]
)
def test_events_before_the_decision_are_the_policys_too(serve, policy, status):
    """It can close nothing yet: "close" refuses."""
    go, seen = Event(), []

    def consumer(socket):
        Group("g").add(socket)
        go.wait()
        for each in socket.events():
            seen.append(each["n"])

    running = start(serve, policy, consumer, limits=FEW)
    peer = running.peer()
    peer.handshake()
    until(lambda: running.server.layer.stats()["groups"])
    for n in range(30):
        Group("g").send(event(n))
    go.set()
    assert peer.response().status == status
    counts = slow_counts(running)
    if policy == "close":
        assert counts == {"policy": "close", "sockets closed": 1}
    else:
        until(lambda: seen)
        lost = counts.get("events dropped", 0) + counts.get("events replaced", 0)
        until(lambda: len(seen) + lost == 30)
        assert seen[-1] == (9 if policy == "drop" else 29)


# Telling the consumer.


def test_a_consumer_is_told_of_dropped_events_behind_what_waits(serve):
    """Once, with all that was dropped until it took the news; then from zero."""
    go, seen = Event(), []
    consumer = listener(go, seen)
    running = start(serve, "drop", consumer, limits=FEW, announce_drops=True)
    assert running.open().hear() == "in"
    for n in range(30):
        Group("g").send(event(n))
    go.set()
    until(lambda: len(seen) == 11)
    assert [e.get("n") for e in seen[:10]] == list(range(10))
    news = {"type": "layer.dropped", "frames": 0, "events": 20, "policy": "drop"}
    assert seen[10] == news
    Group("g").send(event(30))
    until(lambda: len(seen) == 12)
    assert seen[11] == event(30)


def test_the_news_takes_no_room_in_the_inbox(serve):
    """As many events fit, and as many messages of the peer."""
    go, seen = Event(), []
    consumer = listener(go, seen)
    running = start(serve, "drop", consumer, limits=FEW, announce_drops=True)
    peer = running.open()
    assert peer.hear() == "in"
    (socket,) = running.server.sockets
    for n in range(12):
        Group("g").send(event(n))
    # One is taken: there is room for one, although the news waits, too.
    assert socket._receive_any() == event(0)
    Group("g").send(event(12))
    Group("g").send(event(13))
    peer.say(*map(str, range(10)))
    until(lambda: len(socket._inbox) == 21)
    go.set()
    until(lambda: len(seen) == 21)
    assert [e["n"] for e in seen[:9]] == list(range(1, 10))
    assert seen[9] == {
        "type": "layer.dropped",
        "frames": 0,
        "events": 3,
        "policy": "drop",
    }
    assert seen[10] == event(12)
    assert seen[11:] == list(map(str, range(10)))
    assert slow_counts(running)["events dropped"] == 3


def test_a_consumer_is_told_of_dropped_frames_when_the_peer_reads(serve):
    """Not before; and it may then send what was missed."""
    seen = []

    def consumer(socket):
        with Group("g").joined(socket):
            socket.send("in")
            for each in socket.events():
                seen.append(each)
                socket.send("told")

    running = start(serve, "drop", consumer, announce_drops=True)
    peer = stalled(running)
    send_all(300)
    gevent.sleep(20 * MS)
    assert seen == []
    heard = numbers(hear_until(peer, "told"))
    dropped = slow_counts(running)["frames dropped"]
    assert seen == [
        {"type": "layer.dropped", "frames": dropped, "events": 0, "policy": "drop"}
    ]
    assert len(heard) + dropped == 300


def test_nothing_is_announced_that_nobody_asked_for(serve):
    """Nor that latest has replaced: what is newer arrives."""
    seen = []

    def consumer(socket):
        with Group("g").joined(socket):
            socket.send("in")
            for each in socket.events():
                seen.append(each)

    running = serve(
        [
            websocket("/unasked", consumer, slow="drop"),
            websocket("/latest", consumer, slow="latest", announce_drops=True),
        ],
        limits=Limits(max_write_buffer=LIMIT),
        send_buffer=SMALL,
    )
    peers = [stalled(running, "/unasked"), stalled(running, "/latest")]
    send_all(300)
    read_on(running, peers)
    assert slow_counts(running, "/unasked")["frames dropped"] > 0
    assert slow_counts(running, "/latest")["frames replaced"] > 0
    assert seen == []


def test_a_consumer_that_takes_no_events_is_not_told(serve, caplog):
    """It is said in the log; its messages come as they did."""
    seen = []

    def consumer(socket):
        with Group("g").joined(socket):
            socket.send("in")
            for message in socket:
                seen.append(message)

    running = start(serve, "drop", consumer, announce_drops=True)
    peer = stalled(running)
    send_all(300)
    read_on(running, [peer])
    peer.say("hello")
    until(lambda: seen == ["hello"])
    assert "'layer.dropped' was dropped" in caplog.text


def test_gsgi_consumers_are_told_as_well(serve):
    """The event comes out of receive."""
    seen = []

    def consumer(scope, receive, send):
        if scope["type"] != "websocket":
            raise ValueError
        assert receive()["type"] == "websocket.connect"
        Group("g").add(scope["extensions"]["greenchannels"]["socket"])
        send({"type": "websocket.accept"})
        send({"type": "websocket.send", "text": "in"})
        while (got := receive())["type"] != "websocket.disconnect":
            seen.append(got)
            send({"type": "websocket.send", "text": "told"})

    running = serve(
        [gsgi("/", consumer, slow="drop", announce_drops=True)],
        limits=Limits(max_write_buffer=LIMIT),
        send_buffer=SMALL,
    )
    peer = stalled(running)
    send_all(300)
    heard = numbers(hear_until(peer, "told"))
    assert seen == [
        {
            "type": "layer.dropped",
            "frames": 300 - len(heard),
            "events": 0,
            "policy": "drop",
        }
    ]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("handles", [False, True])
def test_a_class_based_consumer_is_told_if_it_has_a_method_for_it(
    serve, wrapped, handles
):
    """In bursts, and behind middleware."""
    seen = []

    class Feed(WebsocketConsumer):
        groups = ["g"]

        def connect(self):
            self.accept()
            self.send("in")

    class Told(Feed):
        def layer_dropped(self, event):
            seen.append(event)
            self.send("told")

    def middleware(inner):
        return lambda scope, receive, send: inner(
            scope, lambda: receive(), lambda event: send(event)
        )

    running = serve(
        [
            websocket(
                "/",
                Told if handles else Feed,
                slow="drop",
                middleware=[middleware] if wrapped else [],
            )
        ],
        limits=Limits(max_write_buffer=LIMIT),
        send_buffer=SMALL,
    )
    peer = stalled(running)
    send_all(300)
    if not handles:
        heard = read_on(running, [peer])[0]
        assert "told" not in heard
        return
    heard = numbers(hear_until(peer, "told"))
    news = {"type": "layer.dropped", "events": 0, "policy": "drop"}
    assert seen == [news | {"frames": 300 - len(heard)}]


# The bound of the process.


def in_group(socket, name):
    """A consumer that is in a group of its own."""
    member(socket, name)


@pytest.fixture
def crowd(serve):
    """A function that starts a server with a small bound for all connections."""

    def crowd(bound, *, consumer=in_group, routes=(), **options):
        return serve(
            [websocket("/<name>", consumer, slow="drop"), *routes],
            limits=Limits(max_write_buffer=None),
            send_buffer=SMALL,
            max_total_buffer=bound,
            **options,
        )

    return crowd


def test_the_largest_buffers_are_cut_when_too_much_waits(crowd, caplog):
    """Until nine tenths of the bound are left; the others live on and lose nothing."""
    ends = {}

    def consumer(socket, name):
        try:
            member(socket, name)
            socket.receive()
        except ConnectionBroken as error:
            ends[name] = (error.code, error.reason)
            raise

    running = crowd(1 * MIB, consumer=consumer)
    peers = {name: stalled(running, f"/{name}") for name in "abc"}
    send_all(50, "a")
    send_all(200, "b")
    send_all(150, "c")
    backlog = running.server.reactor.backlog
    assert 512 * KIB < backlog.total < 1 * MIB
    while not ends:
        send_all(1, "c")
    assert ends == {"c": (1006, "too much waits in this process")}
    assert peers["c"].ended() == "reset"
    assert backlog.total < 0.9 * MIB
    assert numbers(peers["a"].hear() for _ in range(50)) == list(range(50))
    assert numbers(peers["b"].hear() for _ in range(200)) == list(range(200))
    assert slow_counts(running, "/<name>") == {"policy": "drop", "connections cut": 1}
    assert running.counters["connections cut for memory"] == 1
    assert "cut with" in caplog.text
    wait_until_empty(running)
    until(lambda: backlog.total == 0)


def test_own_frames_and_responses_count_too(crowd):
    """A connection that serves no socket is cut as well."""

    def consumer(socket, name):
        socket.send("in")
        socket.send(bytes(400 * KIB))
        socket.wait()

    running = crowd(
        1 * MIB,
        consumer=consumer,
        routes=[http("/page/large", lambda request: bytes(700 * KIB))],
    )
    peer = stalled(running, "/a")
    client = running.client(receive_buffer=SMALL)
    client.send(request("/page/large"))
    until(lambda: running.counters["connections cut for memory"])
    assert running.server.layer.stats()["slow"] == {
        "HTTP": {"policy": None, "connections cut": 1}
    }
    assert peer.hear() == bytes(400 * KIB)
    until(lambda: running.server.reactor.backlog.total == 0)


def test_a_broadcast_that_waits_at_many_is_counted_once(crowd):
    """A hundred members that stall over the same megabyte are one megabyte."""
    running = crowd(2 * MIB)
    peers = [stalled(running, "/g") for _ in range(100)]
    send_all(500, "g")
    backlog = running.server.reactor.backlog
    assert sum(s.transport.shared for s in running.server.sockets) > 50 * MIB
    assert 0.5 * MIB < backlog.total < 1.1 * MIB
    assert not running.counters["connections cut for memory"]
    for peer in peers:
        peer.reset()
    until(lambda: not running.server.connections)
    assert backlog.total == 0


def test_what_is_cut_comes_from_those_for_whom_most_waits(crowd, monkeypatch, caplog):
    """Many at once, in slices; one line of the log for all, and one for the rest."""
    monkeypatch.setattr(relief, "SLICE_TIME", 0.0001)
    monkeypatch.setattr(relief, "PAUSE", 50 * MS)
    running = crowd(1 * MIB)
    names = [f"n{n}" for n in range(30)]
    for name in names:
        stalled(running, f"/{name}")
    for n, name in enumerate(names):
        # Later ones have more; all are below the bound together.
        send_all(4 + n // 2, name, size=SIZE + n)
    backlog = running.server.reactor.backlog
    assert backlog.total < 1 * MIB
    while backlog.total <= 1 * MIB:
        for name in names:
            Group(name).send(numbered(99, 4 * KIB))
        gevent.sleep(0)
    until(lambda: running.counters["connections cut for memory"])
    until(lambda: backlog.total <= 0.9 * MIB and not backlog.over)
    cut = running.counters["connections cut for memory"]
    until(lambda: len(running.server.sockets) == 30 - cut)
    left = {s.params["name"] for s in running.server.sockets}
    assert left == set(names[: 30 - cut])
    until(lambda: f"{cut - 1} more connections were cut" in caplog.text)
    assert caplog.text.count("cut with") == 1


def test_members_that_share_what_waits_are_not_cut_for_what_others_hold(crowd):
    """Cutting one of them frees nothing, however long its queue is."""

    def consumer(socket, name):
        socket.send("in")
        with Group(name).joined(socket):
            for message in socket:
                socket.send(bytes(int(message)))

    running = crowd(2 * MIB, consumer=consumer)
    members = [stalled(running, "/g") for _ in range(10)]
    send_all(300, "g")  # at each of them more than at any of the others
    others = [stalled(running, "/other") for _ in range(12)]
    for peer in others:
        peer.say(str(250 * KIB))
    backlog = running.server.reactor.backlog
    until(lambda: running.counters["connections cut for memory"])
    until(lambda: not backlog.over)
    assert 0 < backlog.total <= 2 * MIB
    left = [s.params["name"] for s in running.server.sockets]
    assert left.count("g") == 10
    assert 0 < left.count("other") < 12
    for peer in members:
        assert numbers(peer.hear() for _ in range(300)) == list(range(300))


def test_far_above_the_bound_cutting_does_not_wait_for_a_turn(crowd, monkeypatch):
    """Below it comes in slices; the connections are put in order once for all."""
    totals, sorts = [], []
    go_on, by_weight = relief.Relief._go_on, relief.Relief._by_weight

    def watched(self):
        go_on(self)
        totals.append(self._backlog.total)

    def counted(self):
        sorts.append(1)
        return by_weight(self)

    monkeypatch.setattr(relief, "SLICE_TIME", 0)
    monkeypatch.setattr(relief.Relief, "_go_on", watched)
    monkeypatch.setattr(relief.Relief, "_by_weight", counted)
    running = crowd(1 * MIB)
    names = [f"n{n}" for n in range(40)]
    for name in names:
        stalled(running, f"/{name}")
    for name in names:
        Group(name).send(bytes(100 * KIB))
    backlog = running.server.reactor.backlog
    assert backlog.total > 3 * MIB
    until(lambda: totals and not backlog.over)
    assert totals[0] <= 1.25 * MIB
    assert len(totals) > 1 and totals == sorted(totals, reverse=True)
    assert 0 < totals[-1] <= 0.9 * MIB
    assert len(sorts) == 1


def test_a_bound_of_nothing_is_refused():
    """``None`` is no bound; zero would cut everything."""
    with pytest.raises(ConfigurationError, match="max_total_buffer"):
        Server([], options=ServerOptions(max_total_buffer=0))
    assert Server([], options=ServerOptions(max_total_buffer=None))


def test_without_a_bound_everything_waits(crowd):
    """As much as the routes allow."""
    running = crowd(None)
    stalled(running, "/g")
    send_all(100, "g", size=MIB)
    assert running.server.reactor.backlog.total > 90 * MIB
    assert not running.counters["connections cut for memory"]


def test_peers_that_read_are_not_cut_for_what_was_sent_in_one_turn(crowd):
    """It is written first; then there is nothing to cut."""
    running = crowd(1 * MIB)
    peers = []
    for _ in range(3):
        peers.append(running.peer(receive_buffer=4 * MIB))
        peers[-1].open("/g")
        assert peers[-1].hear() == "in"
    for socket in running.server.sockets:
        set_send_buffer(socket.transport, 4 * MIB)
    for n in range(1000):
        Group("g").send(numbered(n))
    assert running.server.reactor.backlog.total > 1 * MIB
    for peer in peers:
        assert numbers(peer.hear() for _ in range(1000)) == list(range(1000))
    assert not running.counters["connections cut for memory"]
    assert not running.server.reactor.backlog.over


def set_send_buffer(transport, size):
    """Let the kernel take more for one connection."""
    sock = stdlib_socket.socket(fileno=os.dup(transport.fd))
    sock.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_SNDBUF, size)
    sock.close()


def test_cutting_goes_on_when_what_waits_belongs_to_nobody(crowd, monkeypatch):
    """It looks again after a while, and does not burn the time between."""
    monkeypatch.setattr(relief, "PAUSE", 50 * MS)
    running = crowd(1 * MIB)
    peer = stalled(running, "/g")
    backlog = running.server.reactor.backlog
    held = SharedFrame(bytes(2 * MIB))
    backlog.hold(held)
    gevent.sleep(0)
    assert backlog.over
    assert not running.counters["connections cut for memory"]  # nothing waits for it
    Group("g").send("hello")
    assert peer.hear() == "hello"
    del held
    until(lambda: not backlog.over)


# All of it at once.


def resident():
    """Return the bytes of this process that are in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def count_bytes(peer, total):
    """Read so many bytes, and nothing else."""
    left = total - len(peer.data)
    while left > 0:
        left -= len(peer.sock.recv(256 * KIB))
    assert left == 0


def storm(serve, members, stalls, count, *, seconds):
    """
    Broadcast to many of whom some do not read, and check all that is promised.

    A third of those that stall has each policy.
    """
    policies = ("close", "drop", "latest")
    limits = Limits(max_write_buffer=LIMIT)
    running = serve(
        [websocket(f"/{name}", member, slow=name) for name in policies],
        limits=limits,
        timeouts=Timeouts(write_timeout=None, close_timeout=None, ping_interval=None),
        send_buffer=SMALL,
    )
    slow = {name: [] for name in policies}
    for n in range(stalls):
        name = policies[n % 3]
        slow[name].append(stalled(running, f"/{name}"))
    backlog, sockets = running.server.reactor.backlog, set(running.server.sockets)
    fast = [running.open("/drop") for _ in range(members - stalls)]
    for peer in fast:
        assert peer.hear() == "in"
    gc.collect()
    before = resident()
    frame = len(numbered(0)) + 4
    readers = [gevent.spawn(count_bytes, peer, count * frame) for peer in fast]
    highest = 0
    for n in range(count):
        Group("g").send(numbered(n))
        gevent.sleep(0)
        highest = max(highest, backlog.total)
        if n % 8 == 7:
            until(lambda: nothing_waits(running, sockets))
    gevent.joinall(readers, timeout=seconds, raise_error=True)
    assert all(reader.successful() for reader in readers)
    grown = resident() - before
    # Each policy keeps what fits of the same messages, and "latest" other ones.
    assert highest < 4 * (LIMIT + frame) + 8 * frame
    assert grown < 32 * MIB
    check_storm(running, slow, count)


def nothing_waits(running, slow):
    """Say whether the members that read have been given everything."""
    return not any(s.transport.queue for s in running.server.sockets - slow)


def check_storm(running, slow, count):
    """Compare what stalled clients hear in the end with the counts."""
    found = running.server.layer.stats()["slow"]
    assert set(found) == {"/close", "/drop", "/latest"}
    closed = len(slow["close"])
    assert found["/close"]["sockets closed"] == closed
    for peer in slow["close"]:
        assert peer.closing() == Closed(1013, "too slow")
    heard = [numbers(m) for m in read_on(running, slow["drop"] + slow["latest"])]
    dropping, latest = heard[: len(slow["drop"])], heard[len(slow["drop"]) :]
    assert all(each == list(range(len(each))) for each in dropping)
    missed = sum(count - len(each) for each in dropping)
    assert found["/drop"] == {"policy": "drop", "frames dropped": missed}
    assert all(each == sorted(set(each)) and each[-1] == count - 1 for each in latest)
    missed = sum(count - len(each) for each in latest)
    assert found["/latest"] == {"policy": "latest", "frames replaced": missed}
    until(lambda: running.server.reactor.backlog.total == 0)


def test_a_storm_against_members_that_stall_stays_within_its_bounds(serve):
    """100 of 1,000; the others get everything, and the counts are what they missed."""
    storm(serve, 1000, 100, 150, seconds=60)


@pytest.mark.slow
def test_a_long_storm_stays_within_its_bounds(serve):
    """A minute of it."""
    storm(serve, 1000, 100, 5000, seconds=600)
