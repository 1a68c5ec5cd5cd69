"""WebsocketDemultiplexer: several consumers over one WebSocket."""

import json

import gevent
import pytest
from gevent.event import Event

from greenchannels import Channel, Group, Limits
from greenchannels.exceptions import AcceptConnection, DenyConnection
from greenchannels.generic.demultiplexer import envelope
from greenchannels.generic.websocket import (
    JsonWebsocketConsumer,
    WebsocketConsumer,
    WebsocketDemultiplexer,
)
from tests.generic.hosts import Notes, errors
from tests.servers.harness import Closed, until


class Echo(JsonWebsocketConsumer):
    """Says everything again."""

    def receive_json(self, content, **kwargs):
        self.send_json(content)


class Upper(Echo):
    """Says it louder."""

    def receive_json(self, content, **kwargs):
        self.send_json(content.upper())


class Both(WebsocketDemultiplexer):
    """Two streams."""

    consumers = {"echo": Echo, "upper": Upper.as_asgi()}


def frame(stream, payload):
    """Return a text for a stream."""
    return json.dumps({"stream": stream, "payload": payload})


def heard(peer):
    """Return stream and payload of the next text."""
    found = json.loads(peer.hear())
    assert set(found) == {"stream", "payload"}
    return found["stream"], found["payload"]


def demultiplexer(**streams):
    """Return a demultiplexer of these consumers."""
    return type("Several", (WebsocketDemultiplexer,), {"consumers": streams})


def noting(notes, name, **methods):
    """Return a consumer that notes its life under a name."""

    def connect(self):
        notes.append((name, "connect"))
        self.accept()

    def disconnect(self, code):
        notes.append((name, code))

    common = {"connect": connect, "disconnect": disconnect}
    return type(name, (Echo,), {**common, **methods})


@pytest.mark.parametrize("payload", ["a", {"b": [1]}, [], None, 7, "\u20ac"])
def test_a_payload_goes_to_its_stream_and_back(host, payload):
    """In the same envelope; any JSON."""
    peer = host(Both).open()
    peer.say(frame("echo", payload))
    assert heard(peer) == ("echo", payload)


def test_streams_do_not_mix(host):
    """Each consumer speaks in its own; one comes by as_asgi."""
    peer = host(Both).open()
    for n in range(5):
        peer.say(frame("upper", f"a{n}"), frame("echo", f"a{n}"))
        assert heard(peer) == ("upper", f"A{n}")
        assert heard(peer) == ("echo", f"a{n}")


def test_as_asgi_hands_on_keywords(host):
    """To the consumer of each connection."""

    class Greeter(Echo):
        def __init__(self, word):
            self.word = word

        def receive_json(self, content, **kwargs):
            self.send_json(self.word)

    several = demultiplexer(
        a=Greeter.as_asgi(word="hello"), b=Greeter.as_asgi(word="bye")
    )
    peer = host(several.as_asgi()).open()
    peer.say(frame("b", 0), frame("a", 0))
    assert [heard(peer), heard(peer)] == [("b", "bye"), ("a", "hello")]


def test_a_stream_that_an_object_names_needs_a_json_consumer_too(host, caplog):
    """It is seen at the connection: 500, and the log names the stream."""

    class Late(WebsocketDemultiplexer):
        def __init__(self):
            self.consumers = {"bad": WebsocketConsumer}
            super().__init__()

    assert host(Late).refused().status == 500
    assert "the stream 'bad' needs a JsonWebsocketConsumer" in caplog.text


def test_accept_connection_after_accepting_changes_nothing(host, caplog):
    """In a stream as elsewhere."""

    class Sure(Echo):
        def connect(self):
            self.accept()
            raise AcceptConnection

    peer = host(demultiplexer(sure=Sure, echo=Echo)).open()
    peer.say(frame("sure", 1))
    assert heard(peer) == ("sure", 1)
    assert errors(caplog) == []


def test_a_stream_is_told_of_drops_if_it_has_a_method_for_it(host):
    """As a consumer with a socket of its own; the others are not."""
    told, busy, go = Notes(), Notes(), Event()

    class Told(Echo):
        groups = ["all"]

        def receive_json(self, content, **kwargs):
            busy.append("busy")
            go.wait()

        def note(self, event):
            pass

        def layer_dropped(self, event):
            told.append(event)

    several = demultiplexer(told=Told.as_asgi(), echo=Echo)
    running = host(several, slow="drop", limits=Limits(max_inbox=2))
    running.open().say(frame("told", 1))
    busy.wait("busy")
    for _ in range(5):
        running.server._context.run(Group("all").send, {"type": "note"})
    go.set()
    told.wait({"type": "layer.dropped", "frames": 0, "events": 3, "policy": "drop"})


def test_no_streams_at_all(host):
    """It accepts, and no frame has a stream."""
    peer = host(demultiplexer()).open()
    peer.say(frame("echo", 1))
    assert peer.closing() == Closed(1007, "not a frame of a stream")


# The handshake.


def test_it_accepts_when_all_have_accepted(host):
    """With the first subprotocol, and all headers."""
    names = Notes()

    class Late(Echo):
        def connect(self):
            names.append(self.channel_name)

        def let_in(self, event):
            self.accept("b", {"x-late": "1"}.items())
            self.send_json("late")

    class Eager(Echo):
        def connect(self):
            self.accept(headers=[("x-eager", "1")])
            self.send_json("early")

    running = host(demultiplexer(late=Late, eager=Eager))
    peer = running.peer()
    peer.handshake(subprotocols=["a", "b"])
    until(lambda: names)
    assert peer.silent()
    running.server._context.run(Channel(names[0]).send, {"type": "let.in"})
    answer = peer.response()
    assert answer.status == 101
    assert answer["sec-websocket-protocol"] == "b"
    assert (answer["x-late"], answer["x-eager"]) == ("1", "1")
    assert [heard(peer), heard(peer)] == [("eager", "early"), ("late", "late")]


@pytest.mark.parametrize("how", ["close", "deny", "reject"])
def test_one_refusal_refuses(host, caplog, how):
    """The streams behind it are not asked; those that were hear of the end."""
    notes = Notes()

    def refuse(self):
        notes.append(("second", "connect"))
        if how == "deny":
            raise DenyConnection
        self.close() if how == "close" else self.socket.reject(403)

    running = host(
        demultiplexer(
            first=noting(notes, "first"),
            second=noting(notes, "second", connect=refuse),
            third=noting(notes, "third"),
        )
    )
    assert running.refused().status == 403
    notes.wait(
        *[(name, "connect") for name in ("first", "second")],
        *[(name, 1006) for name in ("first", "second")],
    )
    until(lambda: not running.server.sockets)
    assert errors(caplog) == []


def test_connect_of_a_stream_raises(host, caplog):
    """500; those that were asked hear of the end."""
    notes = Notes()

    def fail(self):
        raise KeyError("in connect")

    running = host(
        demultiplexer(
            first=noting(notes, "first"), second=noting(notes, "second", connect=fail)
        )
    )
    assert running.refused().status == 500
    notes.wait(("first", "connect"), ("first", 1006), ("second", 1006))
    assert "in connect" in caplog.text


def test_a_stream_accepts_once(host, caplog):
    """Twice is an error of its consumer."""

    class Twice(Echo):
        def connect(self):
            self.accept()
            self.accept()

    assert host(demultiplexer(a=Twice, b=Echo)).refused().status == 500
    assert "accepted already" in caplog.text


# Bad frames.

BAD = [
    *("", "nonsense", "7", "null", '"text"', "true", "[]", '["stream", "payload"]'),
    *("{}", '{"stream": "echo"}', '{"payload": 1}', '{"stream": "no", "payload": 1}'),
    *('{"stream": null, "payload": 1}', '{"stream": ["echo"], "payload": 1}'),
    *('{"stream": {"a": 1}, "payload": 1}', '{"stream": 7, "payload": {}}'),
    *(b"", b'{"stream": "echo", "payload": 1}', b"\xff\xfe"),
]


@pytest.mark.parametrize("bad", BAD, ids=repr)
def test_a_bad_frame_closes_with_1007(host, caplog, bad):
    """It is no failure of ours: no traceback. All streams hear of the end."""
    notes = Notes()
    running = host(demultiplexer(echo=noting(notes, "a"), other=noting(notes, "b")))
    peer = running.open()
    peer.say(bad, frame("echo", "not heard"))
    assert peer.closing() == Closed(1007, "not a frame of a stream")
    notes.wait(("a", "connect"), ("b", "connect"), ("a", 1007), ("b", 1007))
    assert errors(caplog) == []


@pytest.mark.parametrize("bad", BAD, ids=repr)
def test_a_bad_frame_may_be_answered(host, bad):
    """By bad_message of the demultiplexer; it lives."""

    class Patient(Both):
        def bad_message(self, error):
            assert isinstance(error, ValueError)
            self.socket.send_json({"error": "what?"})

    peer = host(Patient).open()
    peer.say(bad, frame("echo", 1))
    assert json.loads(peer.hear()) == {"error": "what?"}
    assert heard(peer) == ("echo", 1)


def test_more_keys_do_no_harm(host):
    """A frame may have an id for its sender's own use."""
    peer = host(Both).open()
    peer.say('{"id": 7, "stream": "echo", "payload": 1}')
    assert heard(peer) == ("echo", 1)


def test_only_json_text_is_put_in_an_envelope(host, caplog):
    """A stream's own encoder that makes something else is an error."""

    class Broken(Echo):
        @classmethod
        def encode_json(cls, content):
            return "{"

    peer = host(demultiplexer(a=Broken)).open()
    peer.say(frame("a", 1))
    assert peer.closing() == Closed(1011)
    with pytest.raises(ValueError):
        envelope("a", '1}, {"stream": "b"')
    assert json.loads(envelope('"', "[1]")) == {"stream": '"', "payload": [1]}


def test_a_stream_carries_no_bytes(host, caplog):
    """TypeError, in the consumer."""

    class Binary(Echo):
        def receive_json(self, content, **kwargs):
            self.send(bytes_data=b"1")

    peer = host(demultiplexer(a=Binary)).open()
    peer.say(frame("a", 1))
    assert peer.closing() == Closed(1011)
    assert "a stream carries JSON text" in caplog.text


# Events.


def test_an_event_goes_to_every_stream_that_has_a_handler(host):
    """To each a copy of its own; a stream without one is passed over."""

    def note(self, event):
        event["list"].append(self.scope["path"])
        self.send_json(len(event["list"]))
        event.clear()

    streams = {
        "a": type("A", (Echo,), {"groups": ["all"], "note": note}),
        "b": Echo,
        "c": type("C", (Echo,), {"note": note}),
    }
    running = host(demultiplexer(**streams))
    peer = running.open()
    running.server._context.run(Group("all").send, {"type": "note", "list": []})
    assert [heard(peer)[0], heard(peer)[0]] == ["a", "c"]


def test_the_demultiplexer_may_have_handlers_too(host):
    """It comes first."""

    class Chat(Both):
        groups = ["all"]
        consumers = {"a": type("A", (Echo,), {"note": lambda s, e: s.send_json(2)})}

        def note(self, event):
            self.socket.send("1")

    running = host(Chat)
    peer = running.open()
    running.server._context.run(Group("all").send, {"type": "note"})
    assert peer.hear() == "1"
    assert heard(peer) == ("a", 2)


def test_an_event_that_no_stream_takes_is_counted(host, caplog):
    """And warned of; the demultiplexer lives."""

    class Chat(Both):
        groups = ["all"]

    running = host(Chat)
    peer = running.open()
    for kind in ("unknown", "_secret", "receive.json", "group.send", "streams"):
        running.server._context.run(Group("all").send, {"type": kind})
    peer.say(frame("echo", 1))
    assert heard(peer) == ("echo", 1)
    until(lambda: running.counters["events without a handler"] == 5)


def test_group_send_puts_an_envelope_around(host):
    """For members everywhere: it need not be a consumer who sends."""

    class Chat(Both):
        groups = ["all"]

    running = host(Chat)
    peers = [running.open(), running.open()]
    running.server._context.run(Chat.group_send, "all", "echo", {"a": 1})
    assert [heard(peer) for peer in peers] == [("echo", {"a": 1})] * 2


# What a stream's consumer can do.


def test_a_stream_knows_its_connection(host):
    """Scope, parameters, channel name, groups, children, user."""
    seen = []

    class Curious(Echo):
        groups = ["room.{room}"]

        def connect(self):
            self.accept()
            self.socket.user = "ann"
            self.channel_layer.group_add("more", self.channel_name)

        def receive_json(self, content, **kwargs):
            member = self.socket.member
            seen.append((self.params, self.scope["path"], self.socket.stream))
            seen.append((sorted(member.memberships), member.user))
            self.spawn(self.send_json, "from a child").join()

    running = host(demultiplexer(curious=Curious), "/<room>")
    peer = running.open("/tea")
    peer.say(frame("curious", 1))
    assert heard(peer) == ("curious", "from a child")
    assert seen[0] == ({"room": "tea"}, "/tea", "curious")
    groups, user = seen[1]
    assert groups == ["g:more", "g:room.tea", "u:ann"]
    if host.mode != "wrapped":
        assert user == "ann"


def test_a_stream_closes_the_socket(host):
    """There is one socket; all streams hear of it."""
    notes = Notes()

    def leave(self, content, **kwargs):
        self.send_json("bye", close=4000)

    several = demultiplexer(
        a=noting(notes, "a", receive_json=leave), b=noting(notes, "b")
    )
    peer = host(several).open()
    peer.say(frame("a", 1))
    assert heard(peer) == ("a", "bye")
    assert peer.closing() == Closed(4000)
    notes.wait(("a", "connect"), ("b", "connect"), ("a", 4000), ("b", 4000))


@pytest.mark.parametrize(
    "error", [KeyError("ouch"), gevent.Timeout(1), SystemExit(1)], ids=repr
)
def test_disconnect_goes_to_all_even_if_one_raises(host, caplog, error):
    """Which is logged."""
    notes = Notes()

    def fail(self, code):
        notes.append(("a", code))
        raise error

    several = demultiplexer(a=noting(notes, "a", disconnect=fail), b=noting(notes, "b"))
    host(several).open().send_close(3000)
    notes.wait(("a", "connect"), ("b", "connect"), ("a", 3000), ("b", 3000))
    assert errors(caplog) == ["/: the stream 'a' failed"]


def test_a_stream_that_raises_ends_all(host, caplog):
    """1011: there is one socket."""
    notes = Notes()

    def fail(self, content, **kwargs):
        raise KeyError("ouch")

    several = demultiplexer(
        a=noting(notes, "a", receive_json=fail), b=noting(notes, "b")
    )
    peer = host(several).open()
    peer.say(frame("a", 1))
    assert peer.closing() == Closed(1011)
    notes.wait(("a", "connect"), ("b", "connect"), ("a", 1011), ("b", 1011))


def test_a_slow_stream_delays_the_others(host):
    """One handler of a socket at a time; max_concurrency lifts that."""
    go, notes = Event(), Notes()

    class Slow(Echo):
        def receive_json(self, content, **kwargs):
            notes.append("slow")
            go.wait()
            self.send_json("slow")

    several = demultiplexer(slow=Slow, echo=Echo)
    several.max_concurrency = 2
    peer = host(several).open()
    peer.say(frame("slow", 1))
    notes.wait("slow")
    peer.say(frame("echo", 1))
    assert heard(peer) == ("echo", 1)
    go.set()
    assert heard(peer) == ("slow", "slow")
