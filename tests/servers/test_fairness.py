"""One peer, however hostile, leaves others their turns."""

import zlib

import gevent
import pytest

from greenchannels import Group, Limits, Rate, websocket
from greenchannels.generic.websocket import WebsocketConsumer
from tests.servers.harness import (
    MASK,
    MS,
    PING,
    PONG,
    TEXT,
    Frame,
    encode_masked,
    until,
)

OFFER = (("Sec-WebSocket-Extensions", "permessage-deflate"),)

#: A MiB of the same letter, as permessage-deflate has it.
BOMB = zlib.compressobj(9, zlib.DEFLATED, -15)
BOMB = (BOMB.compress(b"a" * 2**20) + BOMB.flush(zlib.Z_SYNC_FLUSH))[:-4]


def echo(socket):
    """Return each message."""
    for message in socket:
        socket.send(message)


def counting(kind, handled):
    """Return a consumer that notes the size of each message."""

    def function(socket):
        for message in socket:
            handled.append(len(message))

    class Class(WebsocketConsumer):
        def receive(self, text_data=None, bytes_data=None):
            handled.append(len(text_data))

    return {"function": function, "class": Class}[kind]


@pytest.mark.parametrize("kind", ["function", "class"])
def test_many_messages_in_one_piece_are_handled_in_turns(serve, kind):
    """Whoever sends one message meanwhile has its answer long before the last."""
    handled = []
    running = serve([websocket("/", counting(kind, handled)), websocket("/echo", echo)])
    flood, other = running.open(), running.open("/echo")
    many = 20_000
    flood.send(encode_masked(TEXT, b"x", MASK) * many)
    until(lambda: handled)
    other.say("hello")
    assert other.hear() == "hello"
    assert len(handled) < many
    until(lambda: len(handled) == many, 30)


@pytest.mark.parametrize("kind", ["function", "class"])
def test_many_bombs_in_one_piece_are_inflated_in_turns(serve, kind):
    """From one connection or from several; none is lost."""
    handled = []
    limits = Limits(max_message=2**20)
    routing = [
        websocket("/", counting(kind, handled), limits=limits),
        websocket("/echo", echo),
    ]
    running = serve(routing)
    floods = [running.open(headers=OFFER) for _ in range(4)]
    other = running.open("/echo")
    for flood in floods:
        flood.send(encode_masked(TEXT, BOMB, MASK, rsv=4) * 50)
    until(lambda: handled)
    other.say("hello")
    assert other.hear() == "hello"
    assert len(handled) < 200
    until(lambda: len(handled) == 200, 60)
    assert set(handled) == {2**20}


def test_what_a_rate_drops_is_decoded_in_turns(serve):
    """It is inflated before it is dropped."""
    limits = Limits(rates=(Rate(messages=1, per=1000, action="drop"),))
    handled = []
    routing = [
        websocket("/", counting("function", handled), limits=limits),
        websocket("/echo", echo),
    ]
    running = serve(routing)
    flood, other = running.open(headers=OFFER), running.open("/echo")
    flood.send(encode_masked(TEXT, BOMB, MASK, rsv=4) * 100)
    until(lambda: handled)

    def dropped():
        found = running.server.layer.stats()["rates"].get("/", {})
        return found.get("dropped", 0)

    other.say("hello")
    assert other.hear() == "hello"
    assert dropped() < 99
    until(lambda: dropped() == 99, 60)


@pytest.mark.parametrize("kind", ["function", "class"])
def test_events_do_not_keep_a_socket_from_its_peer(serve, kind):
    """More of them than it can handle; the peer's messages and pings come through."""
    received, seen = [], []

    def function(socket):
        with Group("feed").joined(socket):
            for message in socket.events():
                if isinstance(message, dict):
                    seen.append(message)
                    gevent.sleep(2 * MS)
                else:
                    received.append(message)

    class Class(WebsocketConsumer):
        groups = ("feed",)

        def receive(self, text_data=None, bytes_data=None):
            received.append(text_data)

        def news(self, event):
            seen.append(event)
            gevent.sleep(2 * MS)

    target = {"function": function, "class": Class}[kind]
    limits = Limits(max_inbox_bytes=50_000)
    running = serve([websocket("/", target, slow="drop", limits=limits)])
    peer = running.open()
    until(lambda: running.server.layer.stats()["groups"])

    def feed():
        while True:
            Group("feed").send({"type": "news"})
            gevent.sleep(1 * MS)

    feeding = gevent.spawn(feed)
    try:
        until(lambda: len(seen) > 10)
        for _ in range(20):
            peer.say("y" * 10_000)
        until(lambda: len(received) == 20)
        peer.frame(PING, b"hi")
        assert peer.next() == Frame(PONG, b"hi")
    finally:
        feeding.kill()
