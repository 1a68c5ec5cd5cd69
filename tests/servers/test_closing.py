"""The closing handshake, and ends without one."""

import time

import gevent
import pytest
from gevent.event import Event
from gevent.queue import Queue

from greenchannels import Limits, Timeouts
from tests.servers.harness import (
    BINARY,
    CLOSE,
    MASK,
    MS,
    PING,
    TEXT,
    Closed,
    encode_masked,
    frames,
    handshake,
    request,
    until,
)


def waiting(socket):
    """Accept and wait for the peer to go."""
    socket.accept()
    socket.wait()


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1011, 1012, 3000, 4999, None])
def test_a_close_frame_is_answered_with_the_same_code(serve, code):
    """And then the server ends the connection."""
    peer = serve(waiting).open()
    peer.send_close(code, "" if code is None else "why")
    answer = peer.next()
    assert answer.opcode == CLOSE
    assert answer.payload == (b"" if code is None else code.to_bytes(2, "big"))
    assert peer.ended() == "closed"


@pytest.mark.parametrize(
    "payload, code",
    [
        (b"\x03", 1002),
        *[(n.to_bytes(2, "big"), 1002) for n in (0, 999, 1004, 1005, 1006, 1015)],
        *[(n.to_bytes(2, "big"), 1002) for n in (1016, 2999, 5000, 65535)],
        (b"\x03\xe8\xff", 1007),
    ],
)
def test_a_bad_close_frame_breaks_the_rules(serve, payload, code):
    """What may not be sent is not answered in kind."""
    seen = Queue()

    def consumer(socket):
        socket.accept()
        socket.wait()
        seen.put(socket.close_code)

    peer = serve(consumer).open()
    peer.frame(CLOSE, payload)
    assert peer.closing().code == code
    assert seen.get(timeout=1) == code


def test_a_peer_that_does_not_answer_our_close_is_reset(serve):
    """After close_timeout; its consumer did not wait for that."""
    seen = Queue()

    def consumer(socket):
        socket.accept()
        socket.close(4000)
        seen.put("over")

    running = serve(consumer, timeouts=Timeouts(close_timeout=100 * MS))
    peer = running.open()
    start = time.monotonic()
    assert seen.get(timeout=1) == "over"
    until(lambda: not running.server.consumers)
    assert running.server.connections
    assert peer.hear() == Closed(4000)
    assert peer.ended() == "reset"
    assert 90 * MS < time.monotonic() - start < 1.0


def test_a_peer_that_keeps_talking_does_not_postpone_its_end(serve):
    """The close timeout is not an idle timeout."""

    def consumer(socket):
        socket.accept()
        socket.close()

    peer = serve(consumer, timeouts=Timeouts(close_timeout=100 * MS)).open()
    with pytest.raises(OSError):
        for _ in range(200):
            peer.say("bla")
            peer.frame(PING, b"?")
            gevent.sleep(10 * MS)


def test_what_comes_after_our_close_is_discarded(serve):
    """Also much of it: reading goes on, so that the peer can reach its close frame."""
    seen = []

    def consumer(socket):
        socket.accept()
        socket.close(4000)
        seen.extend(socket)

    running = serve(consumer)
    peer = running.open()
    assert peer.hear() == Closed(4000)
    sender = gevent.spawn(peer.send, frames(*[b"x" * 100_000] * 60))
    sender.join(timeout=5)
    assert sender.successful()
    peer.frame(PING, b"not answered")
    peer.frame(CLOSE, b"\x0f\xa0")
    assert peer.rest() == b""
    assert seen == []
    until(lambda: not running.server.connections)


def test_a_broken_rule_after_our_close_ends_the_connection(serve):
    """There is nothing left to say."""

    def consumer(socket):
        socket.accept()
        socket.close(4000)

    running = serve(consumer)
    peer = running.open()
    assert peer.hear() == Closed(4000)
    peer.send(b"\xff\xff\xff\xff")
    assert peer.rest(seconds=1) == b""


def test_what_comes_behind_a_close_frame_is_ignored(serve):
    """Nothing may come there (RFC 6455, section 5.5.1)."""
    seen = Queue()

    def consumer(socket):
        seen.put([*socket])

    peer = serve(consumer).open()
    peer.send(frames("a") + encode_masked(CLOSE, b"\x03\xe8", MASK) + frames("b"))
    assert peer.closing() == Closed(1000)
    assert seen.get(timeout=1) == ["a"]


def test_an_answer_to_what_came_just_before_a_close_frame_arrives(serve):
    """In one segment with it: the consumer has its turn first."""

    def consumer(socket):
        for message in socket:
            socket.send(message)

    peer = serve(consumer).open()
    peer.send(frames("a", "b") + encode_masked(CLOSE, b"\x03\xe8", MASK))
    assert [peer.hear(), peer.hear()] == ["a", "b"]
    assert peer.hear() == Closed(1000)


def test_both_ends_may_close_at_once(serve):
    """The peer's close frame, sent before it saw ours, is the answer."""
    go = Event()

    def consumer(socket):
        socket.accept()
        go.wait()
        socket.close(4000)

    running = serve(consumer)
    peer = running.open()
    go.set()
    peer.send_close(3000)
    assert peer.hear().code in (4000, 3000)
    assert peer.ended() == "closed"
    until(lambda: not running.server.connections)


def test_a_socket_ends_in_time_although_its_consumer_does_not(serve):
    """One that blocks for ever holds nothing but itself."""

    def consumer(socket):
        socket.accept()
        gevent.sleep(60)

    running = serve(consumer, limits=Limits(stop_timeout=None))
    peer = running.open()
    peer.send_close(1001)
    assert peer.closing() == Closed(1001)
    assert peer.ended() == "closed"
    until(lambda: not running.server.sockets and not running.server.connections)
    assert len(running.server.consumers) == 1


@pytest.mark.parametrize("leave", ["reset", "close", "half_close"])
@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HT",
        handshake()[:-2],
        handshake(),
        handshake() + frames("x" * 200)[:50],
        handshake() + frames("x") + encode_masked(TEXT, b"a", MASK, fin=False),
        handshake() + frames("x") + encode_masked(CLOSE, b"\x03\xe8", MASK),
        request("/"),
        request("/", "POST", body=b"x" * 1000)[:-500],
    ],
    ids=[
        "nothing",
        "half-line",
        "half-head",
        "head",
        "half-frame",
        "fragment",
        "close",
        "request",
        "body",
    ],
)
def test_a_peer_may_leave_in_any_phase(serve, caplog, leave, sent):
    """Nothing is left behind, and nothing is logged as an error."""

    def consumer(socket):
        for message in socket:
            socket.send(message)

    running = serve(consumer)
    for delay in (0, 5 * MS):
        peer = running.peer()
        if sent:
            peer.send(sent)
        gevent.sleep(delay)
        getattr(peer, leave)()
        until(lambda: not running.server.connections)
        until(lambda: not running.server.consumers)
    assert [r for r in caplog.records if r.levelname in ("WARNING", "ERROR")] == []


def test_a_reset_while_the_server_writes_is_no_error(serve, caplog):
    """The send that meets it ends like any other."""

    def consumer(socket):
        while True:
            socket.send(b"x" * 10_000)

    running = serve(consumer)
    for delay in (0, 1, 5, 20):
        peer = running.open()
        gevent.sleep(delay * MS)
        peer.reset()
        until(lambda: not running.server.consumers)
    assert [r for r in caplog.records if r.levelname in ("WARNING", "ERROR")] == []


def test_close_frames_reach_a_peer_that_reads_late(serve):
    """What was sent before comes first, however long it takes."""

    def consumer(socket):
        socket.send(b"x" * 500_000)
        socket.close(4000, "late")

    running = serve(consumer, send_buffer=16384)
    peer = running.peer(receive_buffer=16384)
    peer.open()
    gevent.sleep(50 * MS)
    assert peer.hear() == b"x" * 500_000
    assert peer.closing() == Closed(4000, "late")


def test_a_fragment_too_many_after_close_is_discarded(serve):
    """Data in closing state may be in fragments, with a close frame in between."""

    def consumer(socket):
        socket.accept()
        socket.close(4000)

    running = serve(consumer)
    peer = running.open()
    assert peer.hear() == Closed(4000)
    peer.frame(BINARY, b"a", fin=False)
    peer.frame(CLOSE, b"\x0f\xa0")
    assert peer.ended() == "closed"
    until(lambda: not running.server.connections)
