"""Two servers that share groups over ``ipc://``, with their sockets and consumers."""

import os
import tempfile

import pytest

from greenchannels import Channel, Group, websocket
from greenchannels.errors import ConfigurationError, ConnectionEnded
from greenchannels.generic.websocket import WebsocketConsumer
from greenchannels.layers.registry import make_layer
from greenchannels.testing import Client
from tests.servers.harness import no_leaks

__all__ = ["no_leaks"]

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def clients():
    """Return a function that opens two clients of one routing, joined over ipc."""
    with tempfile.TemporaryDirectory(prefix="gc-") as above:
        url = f"ipc://{os.path.join(above, 'app')}"
        opened = []

        def open_clients(*routing):
            for _ in range(2):
                client = Client(list(routing), layer=make_layer(url))
                client.open()
                opened.append(client)
            return opened

        yield open_clients
        for client in opened:
            client.close()


def chat(socket):
    """Send what comes to all in the room."""
    with Group("room").joined(socket) as group:
        for text in socket:
            group.send(text)


def test_members_of_all_servers_hear_each_other(clients):
    """Who has joined hears what is sent anywhere after that, in order."""
    one, other = clients(websocket("/", chat))
    with one.websocket("/") as a, other.websocket("/") as b:
        for number in range(20):
            a.send(f"a{number}")
            assert a.receive() == b.receive() == f"a{number}"
            b.send(f"b{number}")
            assert a.receive() == b.receive() == f"b{number}"


def test_sockets_of_other_servers_are_reached_and_added_by_name(clients):
    """As those of this one; those that have gone are no members."""

    def consumer(socket):
        socket.send(socket.channel_name)
        for text in socket:
            command, _, name = text.partition(" ")
            try:
                if command == "tell":
                    Channel(name).send("told")
                elif command == "add":
                    Group("made by name").add(name)
                elif command == "discard":
                    Group("made by name").discard(name)
                Group("made by name").send("news")
                socket.send("done")
            except (ConnectionEnded, ConfigurationError) as error:
                socket.send(type(error).__name__)

    one, other = clients(websocket("/", consumer))
    with one.websocket("/") as a:
        a.receive()
        with other.websocket("/") as b:
            name = b.receive()
            a.send(f"tell {name}")
            assert a.receive() == "done" and b.receive() == "told"
            a.send(f"add {name}")
            assert a.receive() == "done" and b.receive() == "news"
            a.send(f"discard {name}")
            assert a.receive() == "done"
            b.nothing()
        a.send(f"tell {name}")
        assert a.receive() == "done"
        a.send(f"add {name}")
        assert a.receive() == "ConnectionEnded"
        a.send(f"discard {name}")
        assert a.receive() == "done"
        a.send("add 1-ab!1")
        assert a.receive() == "ConfigurationError"


def test_consumers_that_listen_are_told_of_gaps(clients, caplog):
    """Handlers by the name, and those that take events; others are not bothered."""

    class Listens(WebsocketConsumer):
        groups = ["room"]

        def layer_gap(self, event):
            self.send(f"{event['group']}: {event['missed']}")

    class Does_not(WebsocketConsumer):
        groups = ["room"]

    def takes_events(socket):
        with Group("room").joined(socket):
            for event in socket.events():
                socket.send_json(event) if isinstance(event, dict) else None
                if isinstance(event, str):
                    socket.send(event)

    one, other = clients(
        websocket("/listens", Listens.as_asgi()),
        websocket("/does-not", Does_not.as_asgi()),
        websocket("/events", takes_events),
        websocket("/chat", chat),
    )
    paths = ("/listens", "/does-not", "/events", "/chat")
    sockets = [other.websocket(path) for path in paths]
    with sockets[0] as a, sockets[1] as b, sockets[2] as c, sockets[3] as d:
        c.send("ready")
        assert c.receive() == "ready"
        d.send("joined")
        for socket in (a, b, c, d):
            assert socket.receive() == "joined"
        layer = one.server.layer
        bus = layer._bus
        publish, bus.publish = bus.publish, lambda topic, data: True
        one.server._context.run(Group("room").send, "lost")
        bus.publish = publish
        layer.probe()
        assert a.receive() == "room: 1"
        gap = {"type": "layer.gap", "missed": 1, "group": "room"}
        assert c.receive_json() == gap
        for socket in (a, b, c, d):
            socket.nothing()
        counters = other.server.layer.stats()
        assert counters["messages missed"] == 1
        assert "events without a listener" not in counters
        assert "events without a handler" not in counters
    assert caplog.text.count("1 messages of 1 topics") == 1
