"""SyncConsumer: events to handlers, applications, groups and channels."""

import contextvars

import pytest
from gevent.event import Event

from greenchannels import Channel, ConfigurationError, Group, websocket
from greenchannels.consumer import StopConsumer, SyncConsumer
from greenchannels.generic.websocket import (
    JsonWebsocketConsumer,
    WebsocketConsumer,
    WebsocketDemultiplexer,
)
from tests.generic.hosts import Notes, errors
from tests.servers.harness import Closed, until


class Raw(SyncConsumer):
    """Speaks events."""

    def websocket_connect(self, event):
        self.send({"type": "websocket.accept"})

    def websocket_receive(self, event):
        self.send({**event, "type": "websocket.send"})


class Noting(WebsocketConsumer):
    """Says what its handlers get."""

    groups = ("all",)

    def note(self, event):
        self.send(event["text"])

    def receive(self, text_data=None, bytes_data=None):
        self.send("receive " + text_data)

    def _secret(self, event):
        self.send("secret")

    def secret(self, event):
        self.send("no secret")

    attribute = "not a handler"


def tell(running, group, event):
    """Send an event to a group, from outside of any consumer."""
    running.server._context.run(Group(group).send, event)


# Events of the connection.


def test_a_raw_consumer_speaks_events(host):
    """Connect, receive and disconnect, as GSGI has them."""
    notes = Notes()

    class Consumer(Raw):
        def dispatch(self, message):
            notes.append(message)
            super().dispatch(message)

    peer = host(Consumer).open()
    peer.say("text", b"bytes")
    assert [peer.hear(), peer.hear()] == ["text", b"bytes"]
    peer.send_close(3000, "why")
    notes.wait(
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": "text"},
        {"type": "websocket.receive", "bytes": b"bytes"},
        {"type": "websocket.disconnect", "code": 3000, "reason": "why"},
    )


def test_a_raw_consumer_accepts_with_all_that_the_event_has(host):
    """Subprotocol and headers; and closes with code and reason."""

    class Consumer(SyncConsumer):
        def websocket_connect(self, event):
            headers = [(b"x", b"y")]
            accept = {"type": "websocket.accept", "subprotocol": "a"}
            self.send({**accept, "headers": headers})
            self.send({"type": "websocket.close", "code": 4000, "reason": "bye"})

    peer = host(Consumer).peer()
    answer = peer.open(subprotocols=["a"])
    assert (answer["sec-websocket-protocol"], answer["x"]) == ("a", "y")
    assert peer.closing() == Closed(4000, "bye")


@pytest.mark.parametrize("status", [403, 402])
def test_a_raw_consumer_refuses(host, status):
    """With websocket.close: 403; or with a response of its own."""
    notes = Notes()

    class Consumer(SyncConsumer):
        def websocket_connect(self, event):
            if status == 403:
                self.send({"type": "websocket.close"})
                return
            start = {"type": "websocket.http.response.start", "status": 402}
            self.send({**start, "headers": []})
            self.send({"type": "websocket.http.response.body", "body": b"pay"})

        def websocket_disconnect(self, event):
            notes.append(event)

    answer = host(Consumer).refused()
    assert answer.status == status
    assert status == 403 or answer.body == b"pay"
    notes.wait({"type": "websocket.disconnect", "code": 1006, "reason": ""})


def test_a_raw_consumer_needs_no_handler_for_the_connection(host):
    """Without websocket_connect nothing is decided; events may do that."""
    notes = Notes()

    class Consumer(SyncConsumer):
        def __init__(self):
            notes.append(self)

        def let_in(self, event):
            self.send({"type": "websocket.accept"})

    running = host(Consumer)
    peer = running.peer()
    peer.handshake()
    until(lambda: notes and hasattr(notes[0], "_socket"))
    name = notes[0].channel_name
    running.server._context.run(Channel(name).send, {"type": "let.in"})
    assert peer.response().status == 101
    peer.say("dropped")
    peer.send_close()
    until(lambda: not running.server.sockets)


def test_an_event_that_a_websocket_cannot_send_is_an_error(host, caplog):
    """1011 and a traceback."""

    class Consumer(Raw):
        def websocket_receive(self, event):
            self.send({"type": "http.response.start", "status": 200})

    peer = host(Consumer).open()
    peer.say("go")
    assert peer.closing() == Closed(1011)
    assert "cannot send 'http.response.start'" in caplog.text


def test_stop_consumer_is_where_channels_has_it(host):
    """greenchannels.consumer, beside SyncConsumer."""

    class Consumer(Raw):
        def websocket_receive(self, event):
            raise StopConsumer

    peer = host(Consumer).open()
    peer.say("stop")
    assert peer.closing() == Closed(1000)


# Events of groups and channels.


def test_the_type_of_an_event_names_its_handler(host):
    """With "." as "_"."""

    class Chat(WebsocketConsumer):
        groups = ["all"]

        def chat_message_new(self, event):
            assert event == {"type": "chat.message_new", "text": "hello"}
            self.send(event["text"])

    running = host(Chat)
    peer = running.open()
    tell(running, "all", {"type": "chat.message_new", "text": "hello"})
    assert peer.hear() == "hello"


RESERVED = [
    *("websocket.connect", "websocket.receive", "websocket.disconnect"),
    *("send", "receive", "close", "connect", "disconnect", "accept", "dispatch"),
    *("spawn", "as.asgi", "base.send", "socket.opened", "socket_closed", "scope"),
    *("channel.layer", "groups", "params", "receive.json", "bad.message"),
]
REFUSED = ["_secret", ".secret", "__init__", "._", "unknown", "attribute", "", "."]


@pytest.mark.parametrize("kind", REFUSED + RESERVED)
def test_events_call_no_other_method(host, caplog, kind):
    """Nothing with "_", no attribute, none of the base classes'; the socket lives."""
    running = host(Noting)
    peer = running.open()
    host.rest()
    tell(running, "all", {"type": kind, "text": "spoofed", "code": 4000})
    tell(running, "all", {"type": "note", "text": "alive"})
    assert peer.hear() == "alive"
    assert running.counters["events without a handler"] == 1
    assert f"an event {kind!r} was dropped: " in caplog.text


def test_unknown_types_are_warned_of_once_a_route(host, caplog):
    """And counted each time; the consumer lives."""
    running = host(Noting)
    peers = [running.open() for _ in range(3)]
    for _ in range(5):
        tell(running, "all", {"type": "unknown"})
    tell(running, "all", {"type": "note", "text": "alive"})
    assert [peer.hear() for peer in peers] == ["alive"] * 3
    assert running.counters["events without a handler"] == 15
    assert len(errors(caplog)) == 1


def test_each_member_gets_an_event_of_its_own(host):
    """A handler that changes it changes nobody else's."""

    class Chat(WebsocketConsumer):
        groups = ["all"]

        def note(self, event):
            event["list"].append(1)
            self.send(str(len(event["list"])))

    running = host(Chat)
    peers = [running.open() for _ in range(3)]
    tell(running, "all", {"type": "note", "list": []})
    assert [peer.hear() for peer in peers] == ["1"] * 3


def test_messages_and_events_come_in_order(host):
    """One inbox, one handler at a time."""
    notes, go = Notes(), Event()

    class Chat(WebsocketConsumer):
        groups = ["all"]

        def receive(self, text_data=None, bytes_data=None):
            notes.append(text_data)
            go.wait()

        def note(self, event):
            notes.append(event["n"])

    running = host(Chat)
    peer = running.open()
    peer.say("0")
    notes.wait("0")
    for n in range(1, 9):
        tell(running, "all", {"type": "note", "n": n})
    go.set()
    notes.wait("0", *range(1, 9))


# Groups and channels by Channels' names.


def test_the_channel_layer_has_channels_methods(host):
    """group_add, group_send, group_discard, send."""

    class Chat(WebsocketConsumer):
        def receive(self, text_data=None, bytes_data=None):
            layer, name = self.channel_layer, self.channel_name
            event = {"type": "note", "text": text_data}
            if text_data == "add":
                layer.group_add("all", name)
            if text_data == "discard":
                layer.group_discard("all", name)
            if text_data == "self":
                layer.send(name, event)
            else:
                layer.group_send("all", event)
                self.send("done")

        def note(self, event):
            self.send(event["text"])

    running = host(Chat)
    peer = running.open()
    peer.say("nobody")
    assert peer.hear() == "done"
    peer.say("add")
    assert sorted([peer.hear(), peer.hear()]) == ["add", "done"]
    peer.say("discard")
    assert peer.hear() == "done"
    peer.say("self")
    assert peer.hear() == "self"


def test_the_channel_layer_adds_others_by_name(host):
    """Any channel of this process; one that has gone is an error."""
    names = Notes()

    class Chat(WebsocketConsumer):
        def connect(self):
            names.append(self.channel_name)
            self.accept()

        def receive(self, text_data=None, bytes_data=None):
            for name in names:
                self.channel_layer.group_add("all", name)
            self.channel_layer.group_send("all", {"type": "note"})

        def note(self, event):
            self.send("hello")

    running = host(Chat)
    ann, bob = running.open(), running.open()
    until(lambda: len(names) == 2)
    ann.say("go")
    assert [ann.hear(), bob.hear()] == ["hello", "hello"]


def test_groups_are_left_in_disconnect_without_harm(host, caplog):
    """As most code for Channels does, although it is not needed."""
    notes = Notes()

    class Chat(WebsocketConsumer):
        def connect(self):
            self.name = self.channel_name
            self.channel_layer.group_add("all", self.channel_name)
            self.accept()

        def disconnect(self, code):
            self.channel_layer.group_discard("all", self.channel_name)
            self.channel_layer.group_discard("all", self.name)
            self.channel_layer.group_send("all", {"type": "gone"})
            notes.append("done")

    host(Chat).open().send_close()
    notes.wait("done")
    assert errors(caplog) == []


# Applications.


def test_as_asgi_gives_each_connection_an_object(host):
    """With the keywords, and nothing shared."""
    notes = Notes()

    class Chat(WebsocketConsumer):
        def __init__(self, greeting, **kwargs):
            super().__init__(**kwargs)
            self.greeting = greeting
            notes.append(id(self))

        def connect(self):
            self.accept()
            self.send(self.greeting)

    application = Chat.as_asgi(greeting="hello")
    assert application.consumer_class is Chat
    assert application.consumer_initkwargs == {"greeting": "hello"}
    assert "Chat" in repr(application) and application.__name__ == "Chat"
    running = host(application)
    peers = [running.open(), running.open()]
    assert [peer.hear() for peer in peers] == ["hello", "hello"]
    assert len(set(notes)) == 2


def test_a_class_may_stand_without_as_asgi(host):
    """websocket() takes both."""
    assert host(Raw).open()


@pytest.mark.parametrize("thing", [int, "Raw", None])
def test_no_other_class_may_stand_there(thing):
    """It could not be told from a mistake."""
    with pytest.raises(ConfigurationError):
        websocket("/", thing)


def test_no_other_scope_is_served():
    """HTTP is for views."""
    with pytest.raises(ValueError, match="Raw cannot serve 'http'"):
        Raw.as_asgi()({"type": "http"}, None, None)


def test_what_it_knows_may_be_replaced(host):
    """scope and channel_name are no fixed properties: tests set them."""
    consumer = Noting()
    consumer.scope = {"type": "websocket", "user": "ann"}
    consumer.channel_name = "a.channel"
    assert consumer.scope["user"] == "ann"
    assert consumer.channel_name == "a.channel"
    assert "not connected" in repr(consumer)
    assert Noting.scope.__doc__.startswith("The GSGI scope")


def test_an_object_is_shown_with_its_path(host):
    """Without what a terminal would take for commands."""
    notes = Notes()

    class Chat(WebsocketConsumer):
        def connect(self):
            notes.append(repr(self))

    peer = host(Chat, "/<room>").peer()
    peer.handshake("/a%1bb")
    until(lambda: notes)
    assert notes[0].startswith("<Chat /a") and "\x1b" not in notes[0]


@pytest.mark.parametrize(
    "name",
    [
        *("SyncConsumer", "WebsocketConsumer", "JsonWebsocketConsumer"),
        "WebsocketDemultiplexer",
    ],
)
def test_the_names_are_where_channels_has_them(name):
    """greenchannels.generic.websocket."""
    found = {
        each.__name__: each
        for each in (
            *(SyncConsumer, WebsocketConsumer, JsonWebsocketConsumer),
            WebsocketDemultiplexer,
        )
    }
    module = __import__("greenchannels.generic.websocket", fromlist=[name])
    assert getattr(module, name) is found[name]
    assert found[name].channel_layer_alias == "default"


# Contexts.

VALUE = contextvars.ContextVar("VALUE", default="unset")


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_context_belongs_to_a_connection(host, concurrency):
    """What connect sets, its own handlers see, disconnect too, and nobody else."""
    notes = Notes()

    class Chat(WebsocketConsumer):
        groups = ["all"]
        max_concurrency = concurrency

        def connect(self):
            notes.append(VALUE.get())
            VALUE.set(self.params["name"])
            self.accept()

        def receive(self, text_data=None, bytes_data=None):
            self.spawn(lambda: self.send(f"{VALUE.get()} in a child"))

        def note(self, event):
            self.send(VALUE.get())

        def disconnect(self, code):
            notes.append(VALUE.get())

    running = host(Chat, "/<name>")
    ann, bob = running.open("/ann"), running.open("/bob")
    tell(running, "all", {"type": "note"})
    for peer, name in ((ann, "ann"), (bob, "bob")):
        assert peer.hear() == name
        peer.say("go")
        assert peer.hear() == f"{name} in a child"
    ann.send_close()
    notes.wait("unset", "unset", "ann")
    bob.send_close()
    notes.wait("unset", "unset", "ann", "bob")
    assert VALUE.get() == "unset"


def test_a_handlers_context_lasts(host):
    """What one handler sets, the next one of the same connection sees."""

    class Chat(WebsocketConsumer):
        def receive(self, text_data=None, bytes_data=None):
            self.send(VALUE.get())
            VALUE.set(text_data)

    running = host(Chat)
    ann, bob = running.open(), running.open()
    for text, before in (("1", "unset"), ("2", "1"), ("3", "2")):
        for peer in (ann, bob):
            peer.say(text)
            assert peer.hear() == before
