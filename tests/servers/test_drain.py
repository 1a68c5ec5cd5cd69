"""The drain: everybody is told, nobody is waited for for ever."""

import contextlib
import time

import gevent
import pytest
from gevent.event import Event
from gevent.queue import Queue

from greenchannels import Timeouts, gsgi, http, websocket
from tests.servers.harness import MS, Client, Closed, handshake, request, until


def waiting(socket):
    """Accept and wait for the peer to go."""
    socket.accept()
    socket.wait()


def stopping(running, timeout=2.0):
    """Start to drain, and return the greenlet that does."""
    greenlet = gevent.spawn(running.server.stop, timeout)
    until(lambda: running.server.draining)
    return greenlet


def test_sockets_are_told_1012_and_the_server_ends_when_they_have_gone(serve):
    """Long before its time is over, if they answer."""
    seen = Queue()

    def consumer(socket):
        socket.accept()
        socket.wait()
        seen.put(socket.close_code)

    running = serve(consumer)
    peers = [running.open() for _ in range(50)]
    start = time.monotonic()
    drain = stopping(running, 20.0)
    for peer in peers:
        assert peer.closing().code == 1012
        assert peer.ended() == "closed"
    drain.join(timeout=5)
    assert drain.successful()
    assert time.monotonic() - start < 5
    assert [seen.get(timeout=1) for _ in peers] == [1012] * 50


def test_sockets_that_do_not_answer_are_reset(serve):
    """At 70 % of the time; the whole drain ends within it."""
    running = serve(waiting)
    peers = [running.open() for _ in range(5)]
    start = time.monotonic()
    drain = stopping(running, 1.0)
    drain.join(timeout=3)
    taken = time.monotonic() - start
    assert drain.successful()
    assert 0.65 < taken < 1.3
    for peer in peers:
        assert peer.hear() == Closed(1012, "restarting")
        assert peer.ended() == "reset"


def test_consumers_that_do_not_end_are_killed(serve):
    """At 80 % of the time."""
    seen = Queue()

    def consumer(socket):
        socket.accept()
        try:
            gevent.sleep(60)
        finally:
            seen.put(time.monotonic())

    running = serve(consumer)
    peer = running.open()
    start = time.monotonic()
    drain = stopping(running, 1.0)
    assert peer.closing().code == 1012
    killed = seen.get(timeout=2)
    drain.join(timeout=2)
    assert 0.75 < killed - start < 1.3
    assert drain.successful()


def test_a_consumer_that_resists_its_kill_does_not_stop_the_end(serve):
    """The drain's bound holds whatever user code does."""
    stop = Event()

    def consumer(socket):
        socket.accept()
        while not stop.is_set():
            with contextlib.suppress(gevent.GreenletExit):
                stop.wait()

    running = serve(consumer)
    running.open()
    start = time.monotonic()
    drain = stopping(running, 0.5)
    drain.join(timeout=5)
    stop.set()
    assert drain.successful()
    assert time.monotonic() - start < 2.5


def test_requests_in_flight_finish(serve):
    """Their connections then close; idle ones close at once; none is accepted."""
    go = Event()

    def slow(request):
        go.wait()
        return "finished"

    running = serve([http("/slow", slow), http("/", lambda r: "page")])
    busy, idle, fresh = running.client(), running.client(), running.client()
    busy.send(request("/slow"))
    idle.send(request("/"))
    assert idle.response().status == 200
    drain = stopping(running, 5.0)
    assert idle.rest() == b""
    assert fresh.rest() == b""
    idle.close()
    fresh.close()
    with pytest.raises(OSError):
        Client(running.address)
    go.set()
    answer = busy.response()
    assert answer.body == b"finished"
    assert answer["connection"] == "close"
    assert busy.rest() == b""
    busy.close()
    drain.join(timeout=3)
    assert drain.successful()


def test_a_request_that_has_come_when_the_drain_begins_is_served(serve):
    """On a new connection and on an idle one; their connections then close."""
    running = serve([http("/", lambda r: "page")])
    fresh, idle = running.client(), running.client()
    idle.send(request())
    assert idle.response().body == b"page"
    until(lambda: len(running.server.connections) == 2)
    for client in (fresh, idle):
        client.sock.send(request())  # into the kernel: the server has had no turn
    drain = gevent.spawn(running.server.stop, 20.0)
    for client in (fresh, idle):
        answer = client.response()
        assert (answer.body, answer["connection"]) == (b"page", "close")
        assert client.rest() == b""
        client.close()
    drain.join(timeout=10)
    assert drain.successful()


@pytest.mark.parametrize("head_timeout", [10.0, None])
def test_a_new_connection_has_a_moment_for_its_first_request(serve, head_timeout):
    """It is served; a handshake is refused with 503."""
    routing = [http("/", lambda r: "page"), websocket("/", waiting)]
    running = serve(routing, timeouts=Timeouts(head_timeout=head_timeout))
    client, peer = running.client(), running.peer()
    until(lambda: len(running.server.connections) == 2)
    drain = stopping(running, 20.0)
    gevent.sleep(20 * MS)  # more than the two turns in which idle ones are read
    client.send(request())
    peer.handshake()
    answer = client.response()
    assert (answer.body, answer["connection"]) == (b"page", "close")
    assert peer.response().status == 503
    client.close()
    peer.close()
    drain.join(timeout=10)
    assert drain.successful()


def test_who_has_just_come_is_told_if_other_processes_go_on(serve):
    """It becomes a socket, which ends at once: coming again, it finds another one."""
    routing = [http("/", lambda r: "page"), websocket("/", waiting)]
    running = serve(routing, multiprocess=True)
    client, peer, idle = running.client(), running.peer(), running.peer()
    idle.send(request())
    assert idle.response().status == 200
    until(lambda: len(running.server.connections) == 3)
    drain = gevent.spawn(running.server.stop, 20.0)
    gevent.sleep(20 * MS)
    client.send(request())
    peer.open()
    assert client.response().body == b"page"
    assert peer.closing().code == 1012
    assert peer.ended() == "closed"
    idle.close()
    drain.join(timeout=10)
    assert drain.successful()


def test_silent_connections_are_closed_when_their_moment_is_over(serve):
    """Which is a small part of the drain; idle ones have none."""
    go = Event()

    def slow(request):
        go.wait()
        return "finished"

    running = serve([http("/slow", slow), http("/", lambda r: "page")])
    busy, idle, silent = (running.client() for _ in range(3))
    busy.send(request("/slow"))
    idle.send(request())
    assert idle.response().body == b"page"
    until(lambda: len(running.server.connections) == 3)
    start = time.monotonic()
    drain = stopping(running, 60.0)
    assert idle.rest() == b""
    assert silent.rest() == b""
    assert time.monotonic() - start < 5
    go.set()
    assert busy.response().body == b"finished"
    for client in (busy, idle, silent):
        client.close()
    drain.join(timeout=10)
    assert drain.successful()


def test_requests_that_do_not_finish_are_cut(serve):
    """The bound holds for them too."""

    def slow(request):
        gevent.sleep(60)

    running = serve([http("/", slow)])
    client = running.client()
    client.send(request())
    gevent.sleep(5 * MS)
    drain = stopping(running, 0.5)
    assert client.ended() in ("reset", "closed")
    drain.join(timeout=2)
    assert drain.successful()


def test_an_undecided_handshake_is_refused_with_503(serve):
    """A client that is told 503 comes again, one that is told 403 does not."""

    def consumer(socket):
        gevent.sleep(60)

    running = serve(consumer)
    peer = running.peer()
    peer.handshake()
    until(lambda: running.server.sockets)
    drain = stopping(running, 0.5)
    assert peer.response().status == 503
    drain.join(timeout=2)


def test_a_handshake_on_an_open_connection_is_refused_with_503(serve):
    """It was accepted before the drain began, and spoke after."""
    go = Event()

    def slow(request):
        go.wait()
        return "page"

    running = serve([http("/", slow), websocket("/", waiting)])
    behind, late = running.peer(), running.peer()
    behind.send(request() + handshake())
    late.send(handshake()[:20])
    gevent.sleep(10 * MS)
    drain = stopping(running, 2.0)
    late.send(handshake()[20:])
    assert late.response().status == 503
    go.set()
    assert behind.response().status == 200
    drain.join(timeout=4)


def test_a_slow_consumer_may_say_goodbye_in_its_own_time(serve):
    """It gets to its finally before the drain's time is over."""
    seen = Queue()

    def consumer(socket):
        socket.accept()
        try:
            socket.wait()
        finally:
            gevent.sleep(100 * MS)
            seen.put("cleaned up")

    running = serve(consumer)
    peer = running.open()
    drain = stopping(running, 2.0)
    peer.closing()
    drain.join(timeout=3)
    assert seen.get(timeout=1) == "cleaned up"


@pytest.mark.parametrize(
    ("timeout", "least", "bound"),
    [
        pytest.param(30.0, 6, 40.0, id="1000 a second: half of the time allows it"),
        pytest.param(2.0, 1, 20.0, id="all by half of the time, which is faster"),
    ],
)
def test_a_thousand_sockets_a_second_are_told(serve, timeout, least, bound):
    """At a pace, so that they do not all come back at once; none is reset."""
    running = serve(waiting, timeouts=Timeouts(ping_interval=None))
    peers = [running.open() for _ in range(1500)]
    start = time.monotonic()

    def told(peer):
        return peer.closing(bound).code, round((time.monotonic() - start) / 0.02)

    readers = [gevent.spawn(told, peer) for peer in peers]
    drain = stopping(running, timeout)
    gevent.joinall(readers, timeout=bound)
    found = [reader.get(block=False) for reader in readers]
    assert [code for code, _ in found] == [1012] * 1500
    assert len({batch for _, batch in found}) >= least
    assert time.monotonic() - start < bound
    drain.join(timeout=bound)
    assert drain.successful()


def test_a_drain_of_no_time_ends_at_once(serve):
    """Zero is a time."""
    running = serve(waiting)
    running.open()
    start = time.monotonic()
    running.server.stop(0)
    assert time.monotonic() - start < 2


def test_responses_that_stream_are_asked_to_end(serve):
    """Long before they would be cut; the peer gets the end of the body."""

    def stream(scope, receive, send):
        if scope["type"] != "http":
            raise ValueError("HTTP only")
        while receive()["type"] != "http.request":
            pass
        send({"type": "http.response.start", "status": 200, "headers": []})
        send({"type": "http.response.body", "body": b"first", "more_body": True})
        assert receive()["type"] == "http.disconnect"
        send({"type": "http.response.body", "body": b"last"})

    running = serve([gsgi("/", stream)])
    client = running.client()
    client.send(request())
    client.read_until(b"first\r\n")
    drain = stopping(running, 20.0)
    assert client.read_until(b"0\r\n\r\n") == b"4\r\nlast\r\n0\r\n\r\n"
    client.half_close()
    assert client.ended() == "closed"
    drain.join(timeout=10)
    assert drain.successful()
