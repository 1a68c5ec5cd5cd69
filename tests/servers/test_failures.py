"""The engine's own failures: they end one connection, with words, and no other."""

import gevent
import pytest

from greenchannels import Timeouts, http, websocket
from greenchannels.servers.http import HTTPConnection
from greenchannels.servers.websocket import ServerSocket
from greenchannels.wire.frames import CLOSE
from greenchannels.wire.websocket import WebSocketProtocol
from tests.servers.harness import PING, TEXT, Closed, request, until


def echo(socket):
    """Send back what comes."""
    for message in socket:
        socket.send(message)


@pytest.fixture
def failing(no_leaks):
    """A method to put in place of one that is to fail; that it does is expected."""

    def fail(*_):
        raise LookupError("a bug")

    yield fail
    assert any("LookupError: a bug" in text for text in no_leaks.found)
    no_leaks.found.clear()


def test_a_callback_that_fails_closes_its_connection_with_1011(
    serve, failing, monkeypatch
):
    """The consumer hears of it; other connections do not."""
    seen = []

    def consumer(socket):
        for message in socket:
            socket.send(message)
        seen.append((socket.close_code, type(socket)))

    running = serve(consumer)
    other, peer = running.open(), running.open()
    peer.say("before")
    assert peer.hear() == "before"
    with monkeypatch.context() as patch:
        patch.setattr(ServerSocket, "_take_controls", failing)
        peer.frame(PING, b"x")
        assert peer.hear() == Closed(1011)
    peer.send_close(1011)
    assert peer.ended() == "closed"
    assert until(lambda: seen) == [(1011, ServerSocket)]
    other.say("still here")
    assert other.hear() == "still here"


def test_one_that_fails_again_is_cut(serve, failing, monkeypatch):
    """When there are no words left."""
    running = serve(echo)
    peer = running.open()
    with monkeypatch.context() as patch:
        patch.setattr(ServerSocket, "_take_controls", failing)
        peer.frame(PING)
        assert peer.hear() == Closed(1011)
        peer.frame(CLOSE, b"\x03\xf3")
        assert peer.ended() in ("closed", "reset")
    until(lambda: not running.server.connections)


def test_an_alarm_that_fails_closes_its_connection_with_1011(
    serve, failing, monkeypatch
):
    """Alarms are the connection's own."""
    monkeypatch.setattr(WebSocketProtocol, "ping", failing, raising=True)
    running = serve(echo, timeouts=Timeouts(ping_interval=0.05))
    assert running.open().closing().code == 1011


def test_what_fails_before_the_101_is_a_500(serve, failing, monkeypatch):
    """While the consumer still decides."""
    running = serve(lambda socket: gevent.sleep(1))
    peer = running.peer()
    peer.handshake()
    until(lambda: running.server.sockets)
    with monkeypatch.context() as patch:
        patch.setattr(ServerSocket, "_data_received_otherwise", failing)
        peer.frame(TEXT, b"early")
        assert peer.response().status == 500


def test_what_fails_between_requests_is_a_500(serve, failing, monkeypatch):
    """And the connection ends."""
    running = serve([http("/", lambda request: "page"), websocket("/ws", echo)])
    client = running.client()
    client.send(request())
    assert client.response().body == b"page"
    with monkeypatch.context() as patch:
        patch.setattr(HTTPConnection, "_serve_whole", failing)
        client.send(request())
        answer = client.response()
    assert (answer.status, answer["connection"]) == (500, "close")
    assert b"a bug" not in answer.body
    client.half_close()
    assert client.ended() == "closed"


def test_what_fails_while_a_request_is_served_ends_the_connection(
    serve, failing, monkeypatch
):
    """Its response may be half sent."""
    started = []

    def view(request):
        started.append(request)
        gevent.sleep(10)

    running = serve([http("/", view)])
    client = running.client()
    client.send(request())
    until(lambda: started)
    with monkeypatch.context() as patch:
        patch.setattr(HTTPConnection, "_go_on", failing)
        client.send(b"G")
        assert client.ended() in ("closed", "reset")
