"""What happens when one end is slower than the other: bounds, pauses, no losses."""

import gevent
import pytest
from gevent.event import Event
from gevent.queue import Queue

from greenchannels import ConnectionBroken, ConnectionClosed, Group, Limits, Timeouts
from tests.servers.harness import (
    BINARY,
    CLOSE,
    MASK,
    MS,
    PING,
    PONG,
    TEXT,
    Closed,
    Frame,
    encode_masked,
    frames,
    until,
)

KIB = 1024
MIB = 1024 * KIB

#: Small kernel buffers, so that little is enough to fill them.
SMALL = 16 * KIB


def only_socket(running):
    """Return the server's one socket."""
    (socket,) = running.server.sockets
    return socket


# The consumer is slow.


@pytest.mark.parametrize("count", [1, 99, 100, 101, 199, 200, 201, 1000, 5000])
def test_many_tiny_frames_in_one_segment_all_arrive_in_order(serve, count):
    """Nothing is lost where reading pauses and goes on."""
    seen = []

    def consumer(socket):
        for message in socket:
            seen.append(message)
            if len(seen) % 37 == 0:
                gevent.sleep(0)

    peer = serve(consumer).open()
    peer.send(frames(*map(str, range(count))))
    peer.send_close(1000)
    assert peer.closing() == Closed(1000)
    until(lambda: len(seen) == count)
    assert seen == [str(n) for n in range(count)]


@pytest.mark.parametrize("count", [99, 100, 101, 250])
@pytest.mark.parametrize("control", [PING, CLOSE])
def test_a_control_frame_behind_many_messages_is_answered(serve, count, control):
    """Although no readiness event comes for what has been read already."""

    def consumer(socket):
        for _ in range(count):
            socket.receive()
        socket.send("all")
        socket.wait()

    peer = serve(consumer).open()
    payload = b"\x0b\xb8" if control == CLOSE else b"behind"
    peer.send(frames(*map(str, range(count))) + encode_masked(control, payload, MASK))
    found = sorted([peer.next(), peer.next()], key=lambda frame: frame.opcode)
    assert found == [
        Frame(TEXT, b"all"),
        Frame(CLOSE if control == CLOSE else PONG, payload),
    ]


def test_a_consumer_that_never_receives_stops_the_reading(serve):
    """The inbox is bounded by messages; TCP pushes back; all arrives in the end."""
    go, seen = Event(), []

    def consumer(socket):
        socket.accept()
        go.wait()
        for message in socket:
            seen.append(message)

    running = serve(consumer)
    peer = running.open()
    count = 250_000  # more than the kernel takes at both ends
    data = frames(*[f"{n:060d}" for n in range(count)])
    sender = gevent.spawn(peer.sock.sendall, data)
    gevent.sleep(100 * MS)
    socket = only_socket(running)
    assert not sender.ready()
    assert not socket.transport.reading
    assert len(socket._inbox) <= 100
    go.set()
    sender.join(timeout=30)
    assert sender.successful()
    until(lambda: len(seen) == count, 30)
    assert seen == [f"{n:060d}" for n in range(count)]


def test_the_inbox_is_bounded_by_bytes_too(serve):
    """A few large messages fill it; the next are left to TCP."""
    go, seen = Event(), []

    def consumer(socket):
        socket.accept()
        go.wait()
        for message in socket:
            seen.append(len(message))

    running = serve(consumer)
    peer = running.open()
    sender = gevent.spawn(peer.sock.sendall, frames(*[b"x" * 300 * KIB] * 40))
    gevent.sleep(100 * MS)
    socket = only_socket(running)
    assert not sender.ready()
    assert not socket.transport.reading
    assert sum(map(len, socket._inbox)) <= 1 * MIB + 300 * KIB
    go.set()
    sender.join(timeout=5)
    until(lambda: len(seen) == 40)
    assert set(seen) == {300 * KIB}


def test_a_consumer_that_takes_one_at_a_time_keeps_the_bounds(serve):
    """The inbox never holds more, however slowly it is emptied."""
    highest = []

    def consumer(socket):
        for _ in socket:
            highest.append(len(socket._inbox))
            gevent.sleep(0)

    running = serve(consumer, limits=Limits(max_inbox=10))
    peer = running.open()
    for _ in range(20):
        peer.send(frames(*["x"] * 50))
        gevent.sleep(0)
    until(lambda: len(highest) == 1000)
    assert max(highest) <= 10


def test_a_broken_rule_behind_many_messages_is_found_after_them(serve):
    """The consumer gets what was right, then the end."""
    seen = Queue()

    def consumer(socket):
        socket.accept()
        gevent.sleep(20 * MS)
        seen.put(len([*socket]))
        seen.put(socket.close_code)

    peer = serve(consumer).open()
    peer.send(frames(*["x"] * 300) + encode_masked(3, b"", MASK))
    assert peer.closing().code == 1002
    assert seen.get(timeout=1) == 300
    assert seen.get(timeout=1) == 1002


def test_closing_while_reading_is_paused_finds_the_peers_close(serve):
    """The peer's close frame was read long ago and waits behind its messages."""

    def consumer(socket):
        socket.receive()
        gevent.sleep(20 * MS)
        socket.close(4000)

    running = serve(consumer, timeouts=Timeouts(close_timeout=2.0))
    peer = running.open()
    peer.send(frames(*["x"] * 300) + encode_masked(CLOSE, b"\x03\xe8", MASK))
    assert peer.next().opcode == CLOSE
    assert peer.ended(seconds=1.0) == "closed"


def test_a_chatty_peer_does_not_make_its_consumer_deaf_to_groups(serve):
    """Events have an inbox of their own."""
    go, seen, joined = Event(), [], Event()

    def consumer(socket):
        socket.join("g")
        for event in socket.events():
            joined.set()
            go.wait()
            seen.append(event)

    running = serve(consumer)
    peer = running.open()
    peer.send(frames(*["chat"] * 1000))
    joined.wait(1)
    for n in range(99):
        Group("g").send({"type": "e", "n": n})
    go.set()
    until(lambda: len(seen) == 1099)
    assert [e["n"] for e in seen if isinstance(e, dict)] == [*range(99)]


# The peer is slow.


def flood(socket, done, size=4 * KIB, count=500):
    """Send ``count`` messages, and note how far it got."""
    for n in range(count):
        socket.send(n.to_bytes(4, "big") + bytes(size - 4))
        done[0] = n + 1


def test_send_blocks_while_the_peer_does_not_read_and_then_goes_on(serve):
    """Above 64 KiB of its own bytes; nothing is lost, nothing out of order."""
    done = [0]

    def consumer(socket):
        flood(socket, done)
        socket.send("end")

    running = serve(consumer, send_buffer=SMALL)
    peer = running.peer(receive_buffer=SMALL)
    peer.open()
    gevent.sleep(50 * MS)
    blocked_at = done[0]
    assert 0 < blocked_at < 500
    transport = only_socket(running).transport
    assert 64 * KIB < transport.own <= 64 * KIB + 4 * KIB + 14
    gevent.sleep(20 * MS)
    assert done[0] == blocked_at
    for n in range(500):
        message = peer.hear()
        assert message[:4] == n.to_bytes(4, "big") and len(message) == 4 * KIB
    assert peer.hear() == "end"


def test_one_large_message_fits_whatever_the_limit(serve):
    """It is written as the peer reads; send returns when little is left."""
    seen = Queue()

    def consumer(socket):
        socket.send(b"x" * 3 * MIB)
        seen.put(socket.transport.own)
        socket.send("end")

    running = serve(consumer, send_buffer=SMALL)
    peer = running.peer(receive_buffer=SMALL)
    peer.open()
    gevent.sleep(20 * MS)
    assert seen.empty()
    assert peer.hear() == b"x" * 3 * MIB
    assert peer.hear() == "end"
    assert seen.get(timeout=1) <= 64 * KIB


@pytest.mark.parametrize("how", ["kill", "gevent timeout"])
def test_a_send_that_is_interrupted_leaves_the_socket_usable(serve, how):
    """The message was queued whole; nobody waits any more, and others can send."""
    interrupted, go = Event(), Event()

    def consumer(socket):
        socket.accept()
        if how == "kill":
            child = socket.spawn(flood, socket, [0])
            gevent.sleep(20 * MS)
            child.kill()
        else:
            with gevent.Timeout(20 * MS, False):
                flood(socket, [0])
        assert socket.transport._waiters is None
        interrupted.set()
        go.wait()
        socket.send("after")
        socket.wait()

    running = serve(consumer, send_buffer=SMALL)
    peer = running.peer(receive_buffer=SMALL)
    peer.open()
    assert interrupted.wait(2)
    go.set()
    received = 0
    while (message := peer.hear()) != "after":
        assert message[:4] == received.to_bytes(4, "big") and len(message) == 4 * KIB
        received += 1
    assert received >= 17


def test_two_greenlets_may_block_in_send_at_once(serve):
    """Both go on, and each one's messages stay in order."""

    def consumer(socket):
        socket.accept()
        children = [
            socket.spawn(
                lambda who=who: [socket.send(f"{who}{n:04000}") for n in range(100)]
            )
            for who in "ab"
        ]
        gevent.joinall(children)

    running = serve(consumer, send_buffer=SMALL)
    peer = running.peer(receive_buffer=SMALL)
    peer.open()
    gevent.sleep(20 * MS)
    heard = [peer.hear() for _ in range(200)]
    for who in "ab":
        assert [m for m in heard if m[0] == who] == [
            f"{who}{n:04000}" for n in range(100)
        ]


@pytest.mark.parametrize("leave", ["reset", "close", "send_close", "own close"])
def test_a_blocked_send_ends_with_the_socket(serve, leave):
    """By ConnectionEnded, promptly."""
    seen = Queue()

    def consumer(socket):
        socket.accept()
        if leave == "own close":
            socket.spawn(lambda: gevent.sleep(30 * MS) or socket.close(4000))
        try:
            flood(socket, [0])
        except (ConnectionBroken, ConnectionClosed) as error:
            seen.put(error.code)
            raise

    running = serve(
        consumer, send_buffer=SMALL, timeouts=Timeouts(close_timeout=100 * MS)
    )
    peer = running.peer(receive_buffer=SMALL)
    peer.open()
    gevent.sleep(20 * MS)
    if leave != "own close":
        getattr(peer, leave)()
    code = seen.get(timeout=1)
    assert code == {"send_close": 1000, "own close": 4000}.get(leave, 1006)


def test_flush_returns_when_the_kernel_has_taken_everything(serve):
    """Not before."""
    seen = Queue()

    def consumer(socket):
        socket.send(b"x" * 60 * KIB)
        seen.put("sent")
        socket.flush()
        seen.put(len(socket.transport.queue))

    running = serve(consumer, send_buffer=4 * KIB)
    peer = running.peer(receive_buffer=4 * KIB)
    peer.open()
    assert seen.get(timeout=1) == "sent"
    gevent.sleep(20 * MS)
    assert seen.empty()
    assert len(peer.hear()) == 60 * KIB
    assert seen.get(timeout=1) == 0


def test_flush_waits_only_for_what_was_sent_before_it(serve):
    """What groups add meanwhile does not hold it up for ever."""
    seen = Queue()

    def chatter():
        while True:
            Group("g").send(b"y" * 8 * KIB)
            gevent.sleep(1 * MS)

    def consumer(socket):
        socket.join("g")
        socket.send(b"x" * 60 * KIB)
        socket.spawn(chatter)
        socket.flush()
        seen.put("flushed")

    running = serve(consumer, send_buffer=4 * KIB)
    peer = running.peer(receive_buffer=4 * KIB)
    peer.open()
    reader = gevent.spawn(peer.rest)
    assert seen.get(timeout=3) == "flushed"
    reader.kill()


def test_flush_ends_with_the_socket(serve):
    """By ConnectionEnded."""
    seen = Queue()

    def consumer(socket):
        socket.send(b"x" * 60 * KIB)
        try:
            socket.flush()
        except ConnectionBroken as error:
            seen.put(error.code)
            raise

    running = serve(consumer, send_buffer=4 * KIB)
    peer = running.peer(receive_buffer=4 * KIB)
    peer.open()
    gevent.sleep(10 * MS)
    peer.reset()
    assert seen.get(timeout=1) == 1006


def test_groups_have_the_room_above_what_a_socket_sends_itself(serve):
    """Neither starves the other: the socket's own 64 KiB leave groups theirs."""
    joined = Event()

    def consumer(socket):
        socket.join("g")
        joined.set()
        flood(socket, [0], count=100)
        socket.wait()

    running = serve(consumer, send_buffer=SMALL)
    peer = running.peer(receive_buffer=SMALL)
    peer.open()
    gevent.sleep(20 * MS)
    for n in range(200):
        Group("g").send(f"{n}".rjust(4 * KIB))
        gevent.sleep(0)
    heard = [peer.hear() for _ in range(300)]
    assert [m.strip() for m in heard if isinstance(m, str)] == [
        f"{n}" for n in range(200)
    ]
    assert sum(isinstance(m, bytes) for m in heard) == 100


def test_a_slow_member_is_closed_with_1013_and_what_waits_is_dropped(serve, caplog):
    """A half-sent frame stays whole, and the close frame comes right after it."""

    def consumer(socket):
        socket.join("g")
        socket.send("in")
        socket.wait()

    running = serve(
        consumer, send_buffer=SMALL, limits=Limits(max_write_buffer=128 * KIB)
    )
    slow = running.peer(receive_buffer=SMALL)
    slow.open()
    fast = running.open()
    assert [slow.hear(), fast.hear()] == ["in", "in"]
    for n in range(200):
        Group("g").send(n.to_bytes(4, "big") + bytes(10 * KIB))
        assert fast.hear()[:4] == n.to_bytes(4, "big")
    numbers = []
    while not isinstance(message := slow.hear(), Closed):
        numbers.append(int.from_bytes(message[:4], "big"))
        assert len(message) == 10 * KIB + 4
    assert message == Closed(1013, "too slow")
    assert numbers == [*range(len(numbers))] and len(numbers) < 100
    assert running.counters["closed for being slow"] == 1
    dropped = running.counters["frames dropped for slow members"]
    assert 0 < dropped <= 200 - len(numbers)
    assert "1013" in caplog.text
    slow.frame(CLOSE, b"\x03\xf5")
    assert slow.ended() == "closed"
    assert fast.silent()


def test_a_slow_member_that_stays_silent_is_reset(serve):
    """After the close timeout; meanwhile its memory is bounded."""

    def consumer(socket):
        socket.join("g")
        socket.send("in")
        socket.wait()

    running = serve(
        consumer,
        send_buffer=SMALL,
        limits=Limits(max_write_buffer=64 * KIB),
        timeouts=Timeouts(close_timeout=60 * MS),
    )
    slow = running.peer(receive_buffer=SMALL)
    slow.open()
    slow.hear()
    (transport,) = running.server.connections
    for _ in range(30):
        Group("g").send(bytes(10 * KIB))
        gevent.sleep(0)
        assert transport.own + transport.shared <= 64 * KIB + 11 * KIB
    until(lambda: not running.server.connections, seconds=1)
    assert slow.ended() == "reset"


def test_a_peer_that_takes_no_byte_is_cut(serve):
    """After write_timeout, whatever the consumer does."""
    seen = Queue()

    def consumer(socket):
        try:
            flood(socket, [0])
        finally:
            seen.put(socket.close_code)

    running = serve(
        consumer, send_buffer=SMALL, timeouts=Timeouts(write_timeout=100 * MS)
    )
    peer = running.peer(receive_buffer=SMALL)
    peer.open()
    assert seen.get(timeout=1) == 1006
    assert peer.ended() == "reset"


def test_a_peer_that_takes_bytes_slowly_is_not_cut(serve):
    """Any progress counts."""

    def consumer(socket):
        flood(socket, [0], count=60)
        socket.send("end")

    running = serve(
        consumer, send_buffer=SMALL, timeouts=Timeouts(write_timeout=300 * MS)
    )
    peer = running.peer(receive_buffer=SMALL)
    peer.open()
    for _ in range(60):
        assert len(peer.hear()) == 4 * KIB
        gevent.sleep(15 * MS)
    assert peer.hear() == "end"


# Pings that nobody reads the answers of.


def test_a_flood_of_pings_without_reading_stays_bounded(serve):
    """The server stops reading when its pongs do not go out."""

    def consumer(socket):
        socket.accept()
        socket.wait()

    running = serve(consumer, send_buffer=SMALL)
    peer = running.peer(receive_buffer=SMALL)
    peer.open()
    ping = encode_masked(PING, b"x" * 125, MASK)
    sender = gevent.spawn(peer.sock.sendall, ping * 100_000)
    highest = 0
    for _ in range(50):
        gevent.sleep(4 * MS)
        highest = max(highest, only_socket(running).transport.own)
    assert 64 * KIB < highest < 1 * MIB
    assert not sender.ready()
    sender.kill()


def test_a_flood_of_pings_is_answered_once_the_answers_are_read(serve):
    """Every one, in order, and messages go on afterwards."""

    def consumer(socket):
        for message in socket:
            socket.send(message)

    running = serve(consumer, send_buffer=SMALL)
    peer = running.peer(receive_buffer=SMALL)
    peer.open()
    data = b"".join(
        encode_masked(PING, n.to_bytes(4, "big") + bytes(121), MASK)
        for n in range(20_000)
    )
    sender = gevent.spawn(peer.sock.sendall, data + frames("last"))
    gevent.sleep(50 * MS)
    for n in range(20_000):
        frame = peer.next()
        assert frame.opcode == PONG and frame.payload[:4] == n.to_bytes(4, "big")
    assert peer.hear() == "last"
    sender.join(timeout=1)


def test_many_pings_at_once_do_not_stop_the_reading(serve):
    """Although the kernel takes all the answers in one go."""

    def consumer(socket):
        for message in socket:
            socket.send(message)

    peer = serve(consumer, send_buffer=4 * MIB).peer(receive_buffer=4 * MIB)
    peer.open()
    peer.send(encode_masked(PING, bytes(125), MASK) * 1500)
    for _ in range(1500):
        assert peer.next().opcode == PONG
    peer.say("still there?")
    assert peer.hear(seconds=1) == "still there?"


def test_a_message_of_the_largest_size_passes_both_ways(serve):
    """Through small buffers, in many reads."""

    def consumer(socket):
        for message in socket:
            socket.send(message)

    running = serve(consumer, send_buffer=SMALL)
    peer = running.peer(receive_buffer=SMALL)
    peer.open()
    payload = bytes(range(256)) * 4 * KIB
    sender = gevent.spawn(peer.frame, BINARY, payload)
    assert peer.hear() == payload
    sender.join(timeout=1)


def test_a_consumer_that_never_stops_sending_stops_nobody_else(serve):
    """Although its peer takes everything at once."""

    def consumer(socket):
        if socket.receive() == "flood":
            while True:
                socket.send(b"x" * 10_000)
        socket.send("other")
        socket.wait()

    running = serve(consumer)
    flooded, other = running.open(), running.open()
    flooded.say("flood")
    reader = gevent.spawn(flooded.ended, 30)
    for _ in range(3):
        gevent.sleep(MS)
    other.say("hello")
    assert other.hear() == "other"
    reader.kill()
