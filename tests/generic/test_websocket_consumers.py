"""WebsocketConsumer and JsonWebsocketConsumer, as Channels 4 documents them."""

import json

import pytest
from gevent.event import Event

from greenchannels import (
    Channel,
    ConfigurationError,
    Group,
    LocalProtocolError,
    Timeouts,
)
from greenchannels.exceptions import AcceptConnection, DenyConnection, StopConsumer
from greenchannels.generic.websocket import (
    JsonWebsocketConsumer,
    WebsocketConsumer,
)
from tests.generic.hosts import MODES, Notes, errors
from tests.servers.harness import BINARY, TEXT, Closed, until


class Echo(WebsocketConsumer):
    """Says everything again."""

    def receive(self, text_data=None, bytes_data=None):
        self.send(text_data=text_data, bytes_data=bytes_data)


# The handshake.


def test_a_consumer_without_connect_accepts(host):
    """As in Channels."""
    peer = host(Echo).open()
    peer.say("text", b"bytes")
    assert [peer.hear(), peer.hear()] == ["text", b"bytes"]


def test_accept_takes_a_subprotocol_and_headers(host):
    """Both reach the wire."""

    class Chat(WebsocketConsumer):
        def connect(self):
            assert self.scope["subprotocols"] == ["a", "b"]
            self.accept(subprotocol="b", headers=[(b"x-room", b"tea")])

    answer = host(Chat).peer().open(subprotocols=["a", "b"])
    assert answer["sec-websocket-protocol"] == "b"
    assert answer["x-room"] == "tea"


def test_accept_takes_its_arguments_by_position(host):
    """``accept("b")``."""

    class Chat(WebsocketConsumer):
        def connect(self):
            self.accept("b")

    answer = host(Chat).peer().open(subprotocols=["a", "b"])
    assert answer["sec-websocket-protocol"] == "b"


def test_a_subprotocol_that_was_not_offered_fails(host, caplog):
    """500, and the traceback is logged."""

    class Chat(WebsocketConsumer):
        def connect(self):
            self.accept("c")

    assert host(Chat).refused().status == 500
    assert "did not offer" in caplog.text


def test_accepting_twice_is_an_error(host, caplog):
    """Of the consumer."""

    class Chat(WebsocketConsumer):
        def connect(self):
            self.accept()
            self.accept()

    assert host(Chat).open().closing() == Closed(1011)
    assert "accepted already" in caplog.text


@pytest.mark.parametrize("how", ["close", "deny"])
def test_connect_refuses(host, caplog, how):
    """By close or DenyConnection: 403, and disconnect hears 1006."""
    notes = Notes()

    class Chat(WebsocketConsumer):
        def connect(self):
            if how == "deny":
                raise DenyConnection
            self.close()

        def disconnect(self, code):
            notes.append(code)

    assert host(Chat).refused().status == 403
    notes.wait(1006)
    assert errors(caplog) == []


def test_close_with_a_code_before_accepting_refuses(host):
    """Channels' code is not for HTTP: 403 as well."""

    class Chat(WebsocketConsumer):
        def connect(self):
            self.close(code=4001, reason="no")

    assert host(Chat).refused().status == 403


def test_connect_may_raise_accept_connection(host, caplog):
    """And the socket is open."""

    class Chat(Echo):
        def connect(self):
            raise AcceptConnection

    peer = host(Chat).open()
    peer.say("hello")
    assert peer.hear() == "hello"
    assert errors(caplog) == []


@pytest.mark.parametrize("how", ["accept", "send", "socket"])
def test_accept_connection_after_accepting_changes_nothing(host, caplog, how):
    """However it was accepted: the socket is open, and nothing is logged."""

    class Chat(Echo):
        def connect(self):
            if how == "send":
                self.send("welcome")
            else:
                (self if how == "accept" else self.socket).accept()
            raise AcceptConnection

    peer = host(Chat).open()
    if how == "send":
        assert peer.hear() == "welcome"
    peer.say("hello")
    assert peer.hear() == "hello"
    assert errors(caplog) == []


def test_accept_connection_hides_no_error_of_an_accept(host, caplog):
    """Only that the handshake has been accepted is none."""

    class Chat(Echo):
        def accept(self, subprotocol=None, headers=None):
            raise RuntimeError("of the consumer")

        def connect(self):
            raise AcceptConnection

    assert host(Chat).refused().status == 500
    assert "of the consumer" in caplog.text
    assert "AcceptConnection" not in caplog.text


def test_deny_connection_after_accepting_closes(host, caplog):
    """With 1000: there is no handshake left to refuse. Nothing is logged."""
    notes = Notes()

    class Chat(Echo):
        def connect(self):
            self.accept()
            raise DenyConnection

        def disconnect(self, code):
            notes.append(code)

    assert host(Chat).open().closing() == Closed(1000)
    notes.wait(1000)
    assert errors(caplog) == []


def test_a_consumer_refuses_with_a_status_of_its_own(host):
    """By the socket behind: reject."""

    class Chat(WebsocketConsumer):
        def connect(self):
            self.socket.reject(401, "who?", [("x", "y")])

    answer = host(Chat).refused()
    assert (answer.status, answer.body, answer["x"]) == (401, b"who?", "y")


def test_a_send_accepts_what_is_undecided(host):
    """As with a function's socket: nothing is lost."""

    class Chat(WebsocketConsumer):
        def connect(self):
            self.send("welcome")

    assert host(Chat).open().hear() == "welcome"


# Messages.


def test_receive_gets_text_or_bytes_by_name(host):
    """One of the two is None, or not given."""
    notes = Notes()

    class Chat(WebsocketConsumer):
        def receive(self, text_data=None, bytes_data=None):
            notes.append((text_data, bytes_data))

    peer = host(Chat).open()
    peer.say("text", b"bytes", "", b"")
    notes.wait(("text", None), (None, b"bytes"), ("", None), (None, b""))


def test_send_takes_text_then_bytes_and_empty_ones(host):
    """Text comes first if both are given; empty is not nothing."""

    class Chat(WebsocketConsumer):
        def receive(self, text_data=None, bytes_data=None):
            self.send(text_data="text", bytes_data=b"bytes")
            self.send("positional")
            self.send(bytes_data=b"bytes")
            self.send(text_data="")
            self.send(bytes_data=b"")

    peer = host(Chat).open()
    peer.say("go")
    heard = [peer.next() for _ in range(5)]
    assert [(f.opcode, f.payload) for f in heard] == [
        (TEXT, b"text"),
        (TEXT, b"positional"),
        (BINARY, b"bytes"),
        (TEXT, b""),
        (BINARY, b""),
    ]


def test_send_of_nothing_is_an_error(host):
    """ValueError, before anything is sent."""
    notes = Notes()

    class Chat(WebsocketConsumer):
        def receive(self, text_data=None, bytes_data=None):
            try:
                self.send()
            except ValueError as error:
                notes.append(str(error))

    peer = host(Chat).open()
    peer.say("go")
    notes.wait("send takes text_data or bytes_data")


@pytest.mark.parametrize(("close", "code"), [(True, 1000), (4000, 4000)])
def test_send_may_close_behind_the_message(host, close, code):
    """With 1000, or a code."""

    class Chat(WebsocketConsumer):
        def receive(self, text_data=None, bytes_data=None):
            self.send(text_data="bye", close=close)

    peer = host(Chat).open()
    peer.say("go")
    assert peer.hear() == "bye"
    assert peer.closing() == Closed(code)


@pytest.mark.parametrize(
    ("arguments", "closed"),
    [
        ({}, Closed(1000)),
        ({"code": None}, Closed(1000)),
        ({"code": True}, Closed(1000)),
        ({"code": 4123}, Closed(4123)),
        ({"code": 4123, "reason": "why"}, Closed(4123, "why")),
        ({"reason": "why"}, Closed(1000, "why")),
    ],
)
def test_close_has_a_code_and_a_reason(host, arguments, closed):
    """Both reach the wire, and disconnect."""
    notes = Notes()

    class Chat(WebsocketConsumer):
        def receive(self, text_data=None, bytes_data=None):
            self.close(**arguments)
            self.close(4999)  # changes nothing

        def disconnect(self, code):
            notes.append(code)

    peer = host(Chat).open()
    peer.say("go", "not heard")
    assert peer.closing() == closed
    notes.wait(closed.code)


def test_close_with_a_code_that_may_not_be_sent_is_an_error(host):
    """1006 is for ends without a close frame."""
    notes = Notes()

    class Chat(WebsocketConsumer):
        def receive(self, text_data=None, bytes_data=None):
            try:
                self.close(1006)
            except LocalProtocolError:
                notes.append("refused")

    peer = host(Chat).open()
    peer.say("go")
    notes.wait("refused")


@pytest.mark.parametrize(
    ("code", "seen"), [(1000, 1000), (3999, 3999), (None, 1005), ("reset", 1006)]
)
def test_disconnect_gets_the_code(host, code, seen):
    """1005 without one, 1006 without a close frame."""
    notes = Notes()

    class Chat(WebsocketConsumer):
        def disconnect(self, code):
            notes.append(code)

    peer = host(Chat).open()
    host.rest()
    if code == "reset":
        peer.reset()
    else:
        peer.send_close(code)
    notes.wait(seen)


def test_stop_consumer_ends_the_connection(host, caplog):
    """With 1000, no traceback, and disconnect."""
    notes = Notes()

    class Chat(WebsocketConsumer):
        def receive(self, text_data=None, bytes_data=None):
            notes.append(text_data)
            raise StopConsumer

        def disconnect(self, code):
            notes.append(code)
            raise StopConsumer  # as Channels' own code does

    peer = host(Chat).open()
    peer.say("stop", "not heard")
    assert peer.closing() == Closed(1000)
    notes.wait("stop", 1000)
    assert errors(caplog) == []


def test_stop_consumer_before_accepting_refuses(host, caplog):
    """403."""
    notes = Notes()

    class Chat(WebsocketConsumer):
        def connect(self):
            raise StopConsumer

        def disconnect(self, code):
            notes.append(code)

    assert host(Chat).refused().status == 403
    notes.wait(1006)
    assert errors(caplog) == []


# The events of the connection.


def test_the_events_may_be_overridden_with_super(host):
    """websocket_connect, websocket_receive, websocket_disconnect."""
    notes = Notes()

    class Chat(Echo):
        def websocket_connect(self, message):
            notes.append(message)
            super().websocket_connect(message)

        def websocket_receive(self, message):
            notes.append(message)
            super().websocket_receive(message)

        def websocket_disconnect(self, message):
            notes.append(message)
            super().websocket_disconnect(message)

        def disconnect(self, code):
            notes.append(code)

    peer = host(Chat).open()
    peer.say("text", b"bytes")
    assert [peer.hear(), peer.hear()] == ["text", b"bytes"]
    peer.send_close(3000, "why")
    notes.wait(
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": "text"},
        {"type": "websocket.receive", "bytes": b"bytes"},
        {"type": "websocket.disconnect", "code": 3000, "reason": "why"},
        3000,
    )


def test_a_mixin_may_override_the_events(host):
    """It need not be a consumer itself."""
    notes = Notes()

    class Noting:
        def websocket_receive(self, message):
            notes.append(message["text"])
            super().websocket_receive(message)

    class Chat(Noting, Echo):
        pass

    peer = host(Chat).open()
    peer.say("text")
    assert peer.hear() == "text"
    assert notes == ["text"]


def test_base_send_sends_an_event(host):
    """What Channels' own send is made of."""

    class Chat(WebsocketConsumer):
        def receive(self, text_data=None, bytes_data=None):
            self.base_send({"type": "websocket.send", "text": "raw"})
            self.base_send({"type": "websocket.close", "code": 4001, "reason": "r"})

    peer = host(Chat).open()
    peer.say("go")
    assert peer.hear() == "raw"
    assert peer.closing() == Closed(4001, "r")


# Groups and scope.


def test_groups_are_joined_before_connect_and_left_before_disconnect(host):
    """With the fields of the path in their names."""
    notes = Notes()

    class Chat(WebsocketConsumer):
        groups = ["chat.{room}", "all"]

        def connect(self):
            notes.append(sorted(self.socket.member.memberships))
            self.accept()

        def disconnect(self, code):
            notes.append(self.socket.member.memberships)

    running = host(Chat, "/<room>")
    peer = running.open("/tea")
    notes.wait(["g:all", "g:chat.tea"])
    send = Group("chat.tea").send
    running.server._context.run(send, "hello")
    assert peer.hear() == "hello"
    peer.send_close()
    notes.wait(["g:all", "g:chat.tea"], None)


def test_what_a_group_sends_while_connecting_is_kept(host):
    """A member is one from before connect."""

    class Chat(WebsocketConsumer):
        groups = ["all"]

        def connect(self):
            self.channel_layer.group_send("all", {"type": "note", "text": "early"})
            self.accept()
            self.send("accepted")

        def note(self, event):
            self.send(event["text"])

    peer = host(Chat).open()
    assert [peer.hear(), peer.hear()] == ["accepted", "early"]


def test_groups_with_an_unknown_field_fail(host, caplog):
    """The routing is refused; middleware might add it, so there it is 500."""

    class Chat(WebsocketConsumer):
        groups = ["chat.{room}"]

    if host.mode == "direct":
        with pytest.raises(ConfigurationError, match="no field <room>"):
            host(Chat)
    else:
        assert host(Chat).refused().status == 500
        assert "KeyError" in caplog.text


@pytest.mark.parametrize("room", ["x" * 300, "a%07b"])
def test_a_path_that_makes_no_name_of_a_group_is_404(host, caplog, room):
    """Too long, or with control characters; nothing is logged but by the consumer."""
    notes = Notes()

    class Chat(WebsocketConsumer):
        groups = ["chat.{room}"]

        def connect(self):
            notes.append("connect")

        def disconnect(self, code):
            notes.append(code)

    assert host(Chat, "/<room>").refused(f"/{room}").status == 404
    notes.wait(1006)
    assert errors(caplog) == []


def test_a_group_that_can_never_be_is_an_error(host, caplog):
    """When an object names it: 500. Of a class it is seen before."""

    class Chat(WebsocketConsumer):
        def __init__(self):
            self.groups = ["a\x07b"]

    assert host(Chat).refused().status == 500
    assert "not a name for a group" in caplog.text


def test_the_scope_has_the_route(host):
    """As Channels' URLRouter has it; params is short for it."""
    notes = Notes()

    class Chat(WebsocketConsumer):
        def connect(self):
            notes.append(self.scope["type"])
            notes.append(self.scope["path"])
            notes.append(self.scope["url_route"]["kwargs"])
            notes.append(self.params)
            self.accept()

    host(Chat, "/<int:n>/<word>").open("/7/x")
    notes.wait("websocket", "/7/x", {"n": 7, "word": "x"}, {"n": 7, "word": "x"})


def test_what_is_put_into_the_scope_stays(host):
    """At any depth, at once or later, by whoever holds a part of it."""

    class Chat(WebsocketConsumer):
        def connect(self):
            self.accept()
            if self.params["how"] == "top":
                self.scope["mine"] = 1
            elif self.params["how"] == "nested":
                self.scope["url_route"]["mine"] = 1
            elif self.params["how"] == "deep":
                self.scope["extensions"]["greenchannels"]["mine"] = 1
            elif self.params["how"] == "held":
                self.held = self.scope
            else:
                self.held = self.scope["url_route"]

        def receive(self, text_data=None, bytes_data=None):
            if hasattr(self, "held"):
                self.held["mine"] = 1
            parts = (
                self.scope,
                self.scope["url_route"],
                self.scope["extensions"]["greenchannels"],
            )
            self.send(str(sum(part.get("mine", 0) for part in parts)))

    running = host(Chat, "/<how>")
    for how in ("top", "nested", "deep", "held", "held nested"):
        peer = running.open(f"/{how.replace(' ', '%20')}")
        host.rest()
        peer.say("go")
        assert (how, peer.hear()) == (how, "1")


def test_the_scope_is_the_same_whenever_it_is_asked_for(host):
    """In each handler, disconnect too."""
    notes = Notes()

    class Chat(WebsocketConsumer):
        def connect(self):
            notes.append(dict(self.scope))
            self.accept()

        def receive(self, text_data=None, bytes_data=None):
            notes.append(dict(self.scope))

        def disconnect(self, code):
            notes.append(dict(self.scope))

    peer = host(Chat, "/<name>").open("/ann?a=b")
    host.rest()
    peer.say("go")
    peer.send_close()
    until(lambda: len(notes) == 3)
    assert notes[0] == notes[1] == notes[2]
    assert notes[0]["query_string"] == b"a=b"


def test_middleware_fills_the_scope(host):
    """What it hands on is the consumer's."""

    def logged_in(inner):
        def consumer(scope, receive, send):
            inner({**scope, "user": "ann"}, receive, send)

        return consumer

    class Chat(WebsocketConsumer):
        def connect(self):
            self.accept()
            self.send(self.scope["user"] + str(self.socket.user))

    middleware = (logged_in, *MODES[host.mode])
    assert host(Chat, middleware=middleware).open().hear() == "annann"


def test_channel_name_reaches_the_consumer(host):
    """From anywhere, until its end."""
    names = Notes()

    class Chat(WebsocketConsumer):
        def connect(self):
            names.append(self.channel_name)
            self.accept()

        def chat_message(self, event):
            self.send(event["text"])

    running = host(Chat)
    peer = running.open()
    running.server._context.run(
        Channel(names[0]).send, {"type": "chat.message", "text": "hello"}
    )
    assert peer.hear() == "hello"


# Handshakes that nobody decides.


def test_an_undecided_handshake_is_refused_with_503(host):
    """After accept_timeout; disconnect runs."""
    notes = Notes()

    class Chat(WebsocketConsumer):
        def connect(self):
            notes.append("connect")

        def disconnect(self, code):
            notes.append(code)

    running = host(Chat, timeouts=Timeouts(accept_timeout=0.05))
    assert running.refused().status == 503
    notes.wait("connect", 1006)


def test_another_handler_may_decide_the_handshake(host):
    """An event's, until accept_timeout."""
    notes = Notes()

    class Chat(Echo):
        def connect(self):
            notes.append(self.channel_name)

        def let_in(self, event):
            self.accept(event["subprotocol"])

    running = host(Chat)
    peer = running.peer()
    peer.handshake(subprotocols=["a"])
    until(lambda: notes)
    running.server._context.run(
        Channel(notes[0]).send, {"type": "let.in", "subprotocol": "a"}
    )
    assert peer.response()["sec-websocket-protocol"] == "a"
    peer.say("hello")
    assert peer.hear() == "hello"


def test_a_child_may_decide_the_handshake(host):
    """While connect has returned long since."""
    go = Event()

    class Chat(Echo):
        def connect(self):
            self.spawn(self.later)

        def later(self):
            go.wait()
            self.accept()

    peer = host(Chat).peer()
    peer.handshake()
    assert peer.silent()
    go.set()
    assert peer.response().status == 101
    peer.say("hello")
    assert peer.hear() == "hello"


# JSON.


class JsonEcho(JsonWebsocketConsumer):
    """Says everything again."""

    def receive_json(self, content, **kwargs):
        self.send_json(content)


@pytest.mark.parametrize(
    "content", [{"a": [1, 2.5, None, True]}, [], "text", 7, None, "\u20ac"]
)
def test_json_comes_and_goes(host, content):
    """Any JSON value, scalars too."""
    peer = host(JsonEcho).open()
    peer.say(json.dumps(content))
    assert json.loads(peer.hear()) == content


def test_send_json_may_close(host):
    """As send."""

    class Chat(JsonWebsocketConsumer):
        def receive_json(self, content, **kwargs):
            self.send_json(content, close=4000)

    peer = host(Chat).open()
    peer.say("[1]")
    assert peer.hear() == "[1]"
    assert peer.closing() == Closed(4000)


def test_json_may_be_coded_differently(host):
    """By encode_json and decode_json."""

    class Chat(JsonEcho):
        @classmethod
        def decode_json(cls, text_data):
            return json.loads(text_data)["in"]

        @classmethod
        def encode_json(cls, content):
            return json.dumps({"out": content}, indent=1)

    peer = host(Chat).open()
    peer.say('{"in": 1}')
    assert peer.hear() == '{\n "out": 1\n}'


def test_receive_may_hand_on_keywords(host):
    """Channels' receive passes them to receive_json."""
    notes = Notes()

    class Chat(JsonWebsocketConsumer):
        def receive(self, text_data=None, bytes_data=None, **kwargs):
            super().receive(text_data, bytes_data, extra=1, **kwargs)

        def receive_json(self, content, **kwargs):
            notes.append((content, kwargs))

    host(Chat).open().say("[]")
    notes.wait(([], {"extra": 1}))


BAD = ["", "{", "nonsense", '{"a": 1', "[" * 100_000, b"{}", b"\xff"]


@pytest.mark.parametrize("message", BAD, ids=lambda m: repr(m[:9]))
def test_bad_json_closes_with_1007(host, caplog, message):
    """Binary too; no traceback, and disconnect runs."""
    notes = Notes()

    class Chat(JsonEcho):
        def disconnect(self, code):
            notes.append(code)

    peer = host(Chat).open()
    peer.say(message, "[1]")
    assert peer.closing() == Closed(1007, "not JSON")
    notes.wait(1007)
    assert errors(caplog) == []


@pytest.mark.parametrize("message", BAD, ids=lambda m: repr(m[:9]))
def test_bad_json_may_be_answered(host, message):
    """By bad_message; the consumer lives."""

    class Chat(JsonEcho):
        def bad_message(self, error):
            assert isinstance(error, ValueError | RecursionError)
            self.send_json({"error": "what?"})

    peer = host(Chat).open()
    peer.say(message, "[1]")
    assert peer.hear() == '{"error":"what?"}'
    assert peer.hear() == "[1]"


def test_what_a_decoder_of_ones_own_refuses_is_a_bad_message(host):
    """Any ValueError of decode_json."""

    class Chat(JsonEcho):
        @classmethod
        def decode_json(cls, text_data):
            raise ValueError("never")

    peer = host(Chat).open()
    peer.say("[1]")
    assert peer.closing() == Closed(1007, "not JSON")


def test_a_value_error_of_the_handler_is_no_bad_message(host, caplog):
    """It is a failure: 1011 and a traceback."""

    class Chat(JsonWebsocketConsumer):
        def receive_json(self, content, **kwargs):
            raise ValueError("of the handler")

    peer = host(Chat).open()
    peer.say("[1]")
    assert peer.closing() == Closed(1011)
    assert "of the handler" in caplog.text


def test_what_has_no_form_in_json_is_an_error(host, caplog):
    """TypeError out of send_json, before anything is sent."""

    class Chat(JsonWebsocketConsumer):
        def receive_json(self, content, **kwargs):
            self.send_json(object())

    peer = host(Chat).open()
    peer.say("[1]")
    assert peer.closing() == Closed(1011)
    assert "JSON has no form for object" in caplog.text
