"""Groups over real sockets: order, faults, and members who do not read."""

import json
import random
import resource
import threading

import gevent
import pytest
from gevent.event import Event

from greenchannels import (
    Channel,
    ConfigurationError,
    Group,
    Limits,
    MessageTooLarge,
    Timeouts,
    User,
    http,
    stats,
)
from tests.servers.harness import MS, Closed, no_leaks, request, serve, until

__all__ = ["no_leaks", "serve"]

KIB = 1024


def member(socket):
    """Be in the group "g", and say so."""
    with Group("g").joined(socket):
        socket.send("in")
        socket.wait()


def joined(running, count, **options):
    """Return so many members of the group "g"."""
    peers = []
    for _ in range(count):
        peers.append(running.peer(**options))
        peers[-1].handshake()
    for peer in peers:
        assert peer.response().status == 101
        assert peer.hear() == "in"
    return peers


def test_every_member_gets_everything_in_order(serve):
    """Text, bytes and JSON, from outside of any consumer."""
    peers = joined(serve(member), 20)
    for n in range(50):
        Group("g").send(f"{n}")
        Group("g").send(b"%d" % n)
        Group("g").send_json({"n": n})
    for peer in peers:
        for n in range(50):
            assert [peer.hear() for _ in range(3)] == [
                f"{n}",
                b"%d" % n,
                f'{{"n":{n}}}',
            ]


def test_a_group_is_its_name(serve):
    """Equal names are equal groups, in dicts and sets."""
    assert Group("a") == Group("a") != Group("b")
    assert len({Group("a"), Group("a"), Group("b")}) == 2
    assert repr(Group("a")) == "Group('a')"
    assert Group("a").name == "a"


@pytest.mark.parametrize(
    "name", ["", "x" * 201, "a\n", "a\x00", "ä" * 101, "\x7f", "\ud800"]
)
def test_a_name_that_is_none_is_refused(name):
    """Control characters, too long, or nothing."""
    with pytest.raises(ValueError, match="name"):
        Group(name)


@pytest.mark.parametrize(
    "name", ["room 1", "blog.ä", "a/b?c#d", "x" * 200, "🙂", "u:1"]
)
def test_any_other_text_is_a_name(serve, name):
    """Nothing has to be escaped."""

    def consumer(socket):
        socket.accept()
        with Group(name).joined(socket) as group:
            group.send("here")

    assert serve(consumer).open().hear() == "here"


def test_no_group_name_reaches_a_user(serve):
    """Users have a space of names of their own."""

    def consumer(socket):
        socket.user = 1
        socket.send("in")
        socket.wait()

    peer = serve(consumer).open()
    assert peer.hear() == "in"
    for name in ("u:1", "1", "user:1", "g:1"):
        Group(name).send("x")
    assert peer.silent()
    User(1).send("y")
    assert peer.hear() == "y"


def test_what_does_not_travel_is_refused_where_it_is_sent(serve):
    """With a word on what to use instead."""
    serve(member)
    with pytest.raises(ValueError, match="send_json"):
        Group("g").send({"no": "type"})
    with pytest.raises(TypeError):
        Group("g").send(5)
    with pytest.raises(TypeError):
        Group("g").send({"type": "x", "what": object()})
    with pytest.raises(MessageTooLarge):
        Group("g").send("x" * (1024 * KIB + 1))


def test_a_send_where_no_server_runs_is_refused():
    """Never into an empty memory."""
    for target in (Group("g"), User(1), Channel("a!1")):
        with pytest.raises(ConfigurationError, match="no server runs"):
            target.send("x")


def test_two_servers_in_one_process_do_not_share_groups(serve):
    """A consumer's sends go to its own server; elsewhere nobody can know."""

    def consumer(socket):
        with Group("g").joined(socket) as group:
            socket.send("in")
            for message in socket:
                group.send(message)

    one, other = serve(consumer).open(), serve(consumer).open()
    assert [one.hear(), other.hear()] == ["in", "in"]
    one.say("one")
    other.say("other")
    assert [one.hear(), other.hear()] == ["one", "other"]
    with pytest.raises(ConfigurationError, match="several servers"):
        Group("g").send("x")


def test_an_event_is_a_copy_for_each_member(serve):
    """What one consumer changes no other sees, nor does the sender's dict matter."""

    def consumer(socket):
        socket.join("g")
        socket.send("in")
        for event in socket.events():
            event["list"].append(1)
            socket.send_json(event["list"])

    peers = joined(serve(consumer), 3)
    event = {"type": "e", "list": []}
    Group("g").send(event)
    event["list"].append("later")
    assert [peer.hear() for peer in peers] == ["[1]"] * 3


def test_native_threads_may_send(serve):
    """They hand the message to the hub."""
    from gevent.monkey import get_original

    peer = joined(serve(member), 1)[0]
    start_thread = get_original("_thread", "start_new_thread")
    for n in range(20):
        start_thread(Group("g").send, (f"{n}",))
    heard = {peer.hear() for _ in range(20)}
    assert heard == {str(n) for n in range(20)}
    assert threading.active_count() >= 1


def test_a_reset_in_the_middle_of_a_broadcast_disturbs_nobody_else(serve, caplog):
    """Some leave before their turn, some after."""
    running = serve(member)
    peers = joined(running, 60)
    rng = random.Random(1)
    staying = peers[::2]
    leaving = peers[1::2]
    rng.shuffle(leaving)
    for n in range(30):
        Group("g").send(f"{n}" + "x" * 5000)
        leaving.pop().reset()
        Group("g").send(f"{n}!")
        if n % 3 == 0:
            gevent.sleep(0)
    for peer in staying:
        for n in range(30):
            assert peer.hear() == f"{n}" + "x" * 5000
            assert peer.hear() == f"{n}!"
    until(lambda: len(running.server.sockets) == 30)
    assert [r for r in caplog.records if r.levelname in ("WARNING", "ERROR")] == []


def test_members_come_and_go_during_broadcasts(serve):
    """Whoever was in from before the first to after the last has all of them."""

    def consumer(socket):
        for message in socket:
            if message == "in":
                socket.join("g")
            elif message == "out":
                socket.leave("g")
            socket.send(message)

    running = serve(consumer)
    constant, changing = running.open(), [running.open() for _ in range(10)]
    constant.say("in")
    assert constant.hear() == "in"

    def change():
        for n in range(200):
            peer = changing[n % 10]
            peer.say("in" if n // 10 % 2 == 0 else "out")
            gevent.sleep(0)

    changer = gevent.spawn(change)
    for n in range(300):
        Group("g").send(f"{n}")
        gevent.sleep(0)
    changer.join()
    assert [constant.hear() for _ in range(300)] == [f"{n}" for n in range(300)]


def read_all(peer, count, bad):
    """Read so many messages, and note the first that is out of order."""
    for n in range(count):
        message = peer.hear(seconds=60)
        if message[:8] != b"%08d" % n:
            bad.append((n, message))
            return


def test_a_member_that_never_reads_is_cut_and_the_others_do_not_notice(serve):
    """A broadcast to 1,000: 999 get all of it in order, memory is bounded."""
    limits = Limits(max_write_buffer=256 * KIB)
    running = serve(
        member,
        limits=limits,
        send_buffer=64 * KIB,
        timeouts=Timeouts(close_timeout=300 * MS),
    )
    (slow,) = joined(running, 1, receive_buffer=4 * KIB)
    (slow_socket,) = running.server.sockets
    peers = joined(running, 999)
    assert len(running.server.sockets) == 1000
    bad, size, count = [], 4 * KIB, 120
    readers = [gevent.spawn(read_all, peer, count, bad) for peer in peers]
    highest = 0
    for n in range(count):
        Group("g").send(b"%08d" % n + bytes(size - 8))
        transport = slow_socket.transport
        highest = max(highest, transport.own + transport.shared)
        if n % 4 == 3:
            gevent.sleep(10 * MS)
            until(
                lambda: (
                    not any(
                        s.transport.queue
                        for s in running.server.sockets - {slow_socket}
                    )
                )
            )
    gevent.joinall(readers, timeout=60)
    assert all(reader.successful() for reader in readers)
    assert bad == []
    assert slow_socket.close_code == 1013
    assert highest <= 256 * KIB + size + 14
    assert running.counters["closed for being slow"] == 1
    until(lambda: len(running.server.connections) == 999)
    assert slow.ended() == "reset"


def test_a_large_broadcast_is_finished_although_its_sender_has_gone(serve):
    """Once begun, whatever happens."""

    def consumer(socket):
        with Group("g").joined(socket) as group:
            socket.send("in")
            for message in socket:
                group.send(message)
                return

    running = serve(consumer)
    peers = joined(running, 1300)
    peers[0].say("begun")
    for peer in peers:
        assert peer.hear() == "begun"
    assert peers[0].closing() == Closed(1000)


def connect_and_leave(running, count):
    """Connect and leave in all the ways there are, so many times."""
    for n in range(count):
        peer = running.peer()
        running.clients.clear()
        peer.open("/")
        assert peer.hear() == "in"
        if n % 4 == 0:
            peer.send_close()
            peer.closing()
        elif n % 4 == 1:
            peer.reset()
        elif n % 4 == 2:
            peer.half_close()
        peer.close()
    until(lambda: not running.server.connections and not running.server.consumers)


def resident():
    """Return how much memory this process has, in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize(
    "count", [2000, pytest.param(20_000, marks=pytest.mark.slow)], ids=str
)
def test_many_connections_in_a_row_leave_nothing_behind(serve, count):
    """Memory after a second identical round is what it was after the first."""
    running = serve(member)
    connect_and_leave(running, count)
    first = resident()
    growth = []
    for _ in range(3):
        connect_and_leave(running, count)
        growth.append(resident() / first - 1)
        if growth[-1] <= 0.01:
            break
        first = resident()
    assert growth[-1] <= 0.01, growth
    assert running.server.layer.stats().get("groups") == 0
    assert not running.server.sockets


def test_a_consumer_hears_its_groups_while_it_computes_and_waits(serve):
    """A group's message goes to the wire whatever the consumer does."""
    go = Event()

    def consumer(socket):
        socket.join("g")
        socket.send("in")
        go.wait()

    (peer,) = joined(serve(consumer), 1)
    Group("g").send("now")
    assert peer.hear() == "now"
    go.set()


def test_a_view_may_return_what_the_layer_counted(serve):
    """In any code of a server; outside of all it is an error that says so."""
    running = serve([http("/stats", lambda request: stats())])
    client = running.client()
    client.send(request("/stats"))
    found = json.loads(client.response().body)
    assert found["groups"] == 0
    assert found["slow"] == found["rates"] == {}
    client.close()
    assert stats()["groups"] == 0
    running.server.close()
    with pytest.raises(ConfigurationError):
        stats()
