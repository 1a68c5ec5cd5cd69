"""Pings: who is cut, who is not, and when the clock stands still."""

import time

import gevent
import pytest
from gevent.event import Event
from gevent.queue import Queue

from greenchannels import Timeouts
from tests.servers.harness import MS, PING, PONG, TEXT, Closed, frames, until

#: Quick enough for a test, slow enough for a busy machine.
TIMES = Timeouts(ping_interval=60 * MS, ping_timeout=100 * MS)


def waiting(socket):
    """Accept and wait for the peer to go."""
    socket.accept()
    socket.wait()


def test_a_silent_peer_is_pinged_at_every_interval(serve):
    """As long as it answers it stays."""
    peer = serve(waiting, timeouts=TIMES).open()
    start = time.monotonic()
    for _ in range(5):
        frame = peer.next()
        assert frame.opcode == PING
        peer.frame(PONG, frame.payload)
    assert time.monotonic() - start > 5 * 60 * MS * 0.9


def test_a_half_open_peer_is_cut_after_the_ping_timeout(serve):
    """With a reset, and its consumer learns 1006."""
    seen = Queue()

    def consumer(socket):
        socket.accept()
        socket.wait()
        seen.put((socket.close_code, socket.close_reason))

    peer = serve(consumer, timeouts=TIMES).open()
    start = time.monotonic()
    code, reason = seen.get(timeout=2)
    assert code == 1006 and "ping" in reason
    assert 150 * MS < time.monotonic() - start < 1600 * MS
    assert peer.ended() == "reset"


def test_iteration_ends_when_a_half_open_peer_is_cut(serve):
    """For a consumer in the middle of its loop."""
    seen = Queue()

    def consumer(socket):
        seen.put([*socket])

    serve(consumer, timeouts=TIMES).open().say("once")
    assert seen.get(timeout=2) == ["once"]


def test_a_peer_that_talks_without_answering_pings_is_not_cut(serve):
    """Every byte is a sign of life."""
    peer = serve(waiting, timeouts=TIMES).open()
    for _ in range(25):
        peer.frame(TEXT, b"x")
        gevent.sleep(20 * MS)
    pings = []
    while not peer.silent(5 * MS):
        pings.append(peer.next().opcode)
    assert set(pings) == {PING} and len(pings) >= 3


def test_a_peer_in_the_middle_of_a_large_message_is_not_cut(serve):
    """It cannot answer before its frame has ended."""

    def consumer(socket):
        socket.send(f"{len(socket.receive())}")

    peer = serve(consumer, timeouts=TIMES).peer()
    peer.handshake()
    peer.response()
    data = frames(b"x" * 3000)
    for start in range(0, len(data), 100):
        peer.send(data[start : start + 100])
        gevent.sleep(15 * MS)
    while (frame := peer.next()).opcode == PING:
        pass
    assert frame.payload == b"3000"


def test_the_clock_stands_still_while_reading_is_paused(serve):
    """The pong is in the kernel's buffer, and the consumer's slowness is ours."""
    go = Event()

    def consumer(socket):
        socket.accept()
        go.wait(5)
        for message in socket:
            if message == "last":
                socket.send("still here")

    running = serve(consumer, timeouts=TIMES)
    peer = running.open()
    peer.send(frames(*["x"] * 500))
    (socket,) = running.server.sockets
    until(lambda: not socket.transport.reading)
    gevent.sleep(400 * MS)
    assert running.server.sockets
    go.set()
    peer.say("last")
    while (frame := peer.next()).opcode == PING:
        peer.frame(PONG, frame.payload)
    assert frame.payload == b"still here"


def test_a_peer_that_reads_slowly_is_not_cut_for_its_pongs(serve):
    """While bytes move or cannot move, the write timeout watches."""

    def consumer(socket):
        for _ in range(60):
            socket.send(bytes(4096))
        socket.send("end")

    running = serve(consumer, timeouts=TIMES, send_buffer=16384)
    peer = running.peer(receive_buffer=16384)
    peer.open()
    heard = 0
    while heard < 60:
        frame = peer.next()
        heard += frame.opcode != PING
        gevent.sleep(10 * MS)
    while (frame := peer.next()).opcode == PING:
        pass
    assert frame.payload == b"end"


@pytest.mark.parametrize(
    "timeouts",
    [Timeouts(ping_interval=None), Timeouts(ping_interval=30 * MS, ping_timeout=None)],
)
def test_keepalive_can_be_switched_off(serve, timeouts):
    """No pings at all, or pings that need no answer."""
    peer = serve(waiting, timeouts=timeouts).open()
    gevent.sleep(200 * MS)
    if timeouts.ping_interval is None:
        assert peer.silent()
    else:
        assert peer.next().opcode == PING
    peer.send_close()
    assert peer.frame(PONG) is None
    while (frame := peer.next()).opcode == PING:
        pass
    assert frame.payload == Closed(1000).code.to_bytes(2, "big")


def test_an_unasked_pong_is_ignored(serve):
    """RFC 6455, section 5.5.3."""

    def consumer(socket):
        for message in socket:
            socket.send(message)

    peer = serve(consumer).open()
    peer.frame(PONG, b"unasked")
    peer.say("x")
    assert peer.hear() == "x"


def test_a_ping_is_answered_while_the_consumer_is_busy(serve):
    """With its payload; also between the fragments of a message."""
    go = Event()

    def consumer(socket):
        socket.accept()
        go.wait()
        socket.send(socket.receive())

    peer = serve(consumer).open()
    peer.frame(TEXT, b"a", fin=False)
    for n in range(3):
        peer.frame(PING, b"%d" % n)
        frame = peer.next()
        assert (frame.opcode, frame.payload) == (PONG, b"%d" % n)
    peer.frame(0, b"b")
    go.set()
    assert peer.hear() == "ab"


def test_no_ping_is_sent_before_the_101_or_after_the_close(serve):
    """Only an open socket is kept alive."""

    def consumer(socket):
        gevent.sleep(150 * MS)
        socket.accept()
        socket.close()

    peer = serve(
        consumer, timeouts=Timeouts(ping_interval=30 * MS, close_timeout=150 * MS)
    ).peer()
    peer.handshake()
    assert peer.response().status == 101
    assert peer.hear() == Closed(1000)
    assert peer.ended() == "reset"
    assert not peer.data
