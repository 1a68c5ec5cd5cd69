"""``environ["wsgi.websocket"]``: applications of gevent-websocket, unchanged."""

import gc
import subprocess
import sys
import weakref

import gevent
import pytest
from flask import Flask, request
from geventwebsocket import Resource, WebSocketApplication, WebSocketError
from geventwebsocket.protocols.base import BaseProtocol
from werkzeug.exceptions import NotFound
from werkzeug.routing import Map, Rule

from greenchannels import Group, Limits, include, wsgi
from greenchannels.hosting.wsgi_websocket import WebSocketHost
from tests.hosting.hosts import hello
from tests.servers.harness import MS, PING, PONG, Closed, until


def behind_middleware(path, app):
    """Return a route whose application is reached through other callables."""

    def between(inner):
        return lambda scope, receive, send: inner(
            scope, lambda: receive(), lambda event: send(event)
        )

    return include("", [wsgi(path, app, websocket=True)], middleware=[between])


HOSTS = [lambda path, app: wsgi(path, app, websocket=True), behind_middleware]


@pytest.fixture(params=HOSTS, ids=["direct", "behind_middleware"])
def host(request, serve):
    """A function that serves an application, in each of the ways."""
    return lambda app, path="/", **options: serve([request.param(path, app)], **options)


def echo(environ, start_response):
    """Send back what comes, as the package's own example does."""
    ws = environ["wsgi.websocket"]
    while True:
        message = ws.receive()
        if message is None:
            break
        ws.send(message)


def running_with(function):
    """Return an application that gives its socket to a function."""

    def app(environ, start_response):
        function(environ["wsgi.websocket"])
        return []

    return app


def test_messages_come_and_go(host):
    """Text is str; binary is bytearray, as the package has it."""
    types = []

    def app(ws):
        while (message := ws.receive()) is not None:
            types.append(type(message))
            ws.send(message)

    peer = host(running_with(app)).open()
    for message in ("text ä", b"bytes", "", b"", "x" * 70_000, b"y" * 70_000):
        peer.say(message)
        assert peer.hear() == message
    assert types == [str, bytearray] * 3


def test_the_packages_example_of_an_echo_runs(host):
    """It ends when the peer has left."""
    running = host(echo)
    peer = running.open()
    peer.say("one", "two", b"three")
    assert [peer.hear() for _ in range(3)] == ["one", "two", b"three"]
    peer.send_close(1000)
    assert peer.closing().code == 1000
    until(lambda: not running.server.consumers)


def test_the_environ_is_that_of_a_request(host):
    """With the socket in it until the application has ended."""
    found = []

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        found.append(environ)
        keys = ("SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "REQUEST_METHOD")
        keys += ("wsgi.url_scheme", "HTTP_X_A", "HTTP_UPGRADE")
        keys += ("wsgi.websocket_version",)
        ws.send("|".join(environ[key] for key in keys))
        ws.send(repr(environ["wsgi.input"].read()))
        ws.send("|".join(str(s) for s in (ws.path, ws.origin, ws.protocol, ws.version)))

    headers = [("X-A", "1"), ("Origin", "http://localhost")]
    running = host(app, "/ws")
    peer = running.open("/ws/%C3%A4?q=1", headers, subprotocols=("a", "b"))
    assert peer.hear() == "/ws|/\xc3\xa4|q=1|GET|http|1|websocket|13"
    assert peer.hear() == "b''"
    assert peer.hear() == "/\xc3\xa4|http://localhost|a, b|13"
    assert peer.closing().code == 1000
    until(lambda: not running.server.consumers)
    assert found[0]["wsgi.websocket"] is None


def test_requests_that_are_no_handshakes_are_ordinary(host):
    """On the same path, by the same application."""

    def app(environ, start_response):
        if "wsgi.websocket" in environ:
            return echo(environ, start_response)
        return hello(environ, start_response)

    running = host(app)
    assert running.get().body == b"hello"
    peer = running.open()
    peer.say("x")
    assert peer.hear() == "x"
    assert running.get(method="POST", body=b"x").body == b"hello"


def test_a_wsgi_route_serves_sockets_only_if_asked_to(serve):
    """Else the handshake goes on to later routes."""
    running = serve(
        [include("/a", [wsgi("/", hello)]), wsgi("/", echo, websocket=True)]
    )
    assert running.get("/a").body == b"hello"
    peer = running.open("/a")
    peer.say("x")
    assert peer.hear() == "x"
    assert serve([wsgi("/", hello)]).refused().status == 404


def test_the_origin_rule_applies(host):
    """The handshake is refused before the application knows of it."""
    called = []
    running = host(lambda environ, start_response: called.append(1))
    assert running.refused(headers=[("Origin", "http://evil.example")]).status == 403
    assert called == []


def test_what_the_application_returns_is_dropped(host):
    """Also a whole response, and nothing at all."""
    for result in (None, [], [b"body"], iter([b"a", b"b"])):

        def app(environ, start_response, result=result):
            write = start_response("404 Not Found", [("X-A", "1")])
            if write is not None:
                write(b"data")
            return result

        assert host(app).open().hear() == Closed(1000)


def test_a_generator_runs_to_its_end_and_is_closed(host):
    """Some applications do all their work there."""
    calls = []

    class Body:
        def __iter__(self):
            self.ws.send("from the body")
            yield b"dropped"
            calls.append(self.ws.receive())

        def close(self):
            calls.append("closed")

    def app(environ, start_response):
        body = Body()
        body.ws = environ["wsgi.websocket"]
        return body

    peer = host(app).open()
    assert peer.hear() == "from the body"
    peer.say("x")
    assert peer.hear() == Closed(1000)
    assert calls == ["x", "closed"]


@pytest.mark.parametrize("error", [KeyError("a secret"), WebSocketError("a secret")])
def test_an_exception_closes_with_1011(host, caplog, error):
    """And its traceback is in the log."""

    def app(ws):
        ws.send("x")
        raise error

    peer = host(running_with(app)).open()
    assert peer.hear() == "x"
    assert peer.closing().code == 1011
    assert "a secret" in caplog.text


def test_an_application_that_fails_to_choose_a_protocol_refuses(host, caplog):
    """The handshake had not been accepted: 500."""

    class App:
        def app_protocol(self, path):
            raise KeyError("a secret")

    def call(self, environ, start_response):
        raise AssertionError("it is not called")

    App.__call__ = call
    assert host(App()).refused().status == 500
    assert "a secret" in caplog.text


# The end.


def test_the_end_is_none_once_and_then_an_error(host):
    """What came before the peer's close is received."""
    found = []

    def app(ws):
        gevent.sleep(5 * MS)
        found.extend([ws.receive(), ws.closed, ws.receive(), ws.closed])
        with pytest.raises(WebSocketError, match="^Connection is already closed$"):
            ws.receive()
        with pytest.raises(WebSocketError, match="^Socket is dead$"):
            ws.send("x")
        ws.close()
        found.append("end")

    peer = host(running_with(app)).open()
    peer.say("last")
    peer.send_close(4000)
    assert peer.closing().code == 4000
    until(lambda: found == ["last", False, None, True, "end"])


def test_a_broken_connection_is_the_end_too(host):
    """``receive`` returns ``None``."""
    found = []
    peer = host(running_with(lambda ws: found.extend([ws.receive(), ws.closed]))).open()
    peer.reset()
    until(lambda: found == [None, True])


def test_sending_to_a_peer_that_has_gone_is_an_error(host):
    """An ``OSError``; the one who receives still hears of the end by ``None``."""
    errors, found = [], []

    def app(ws):
        try:
            while True:
                ws.send("x")
                gevent.sleep(MS)
        except OSError as error:
            errors.append(error)
        found.extend([ws.closed, ws.receive(), ws.closed])

    peer = host(running_with(app)).open()
    peer.hear()
    peer.reset()
    until(lambda: len(found) == 3)
    assert type(errors[0]) is WebSocketError and str(errors[0]) == "Socket is dead"
    assert found == [False, None, True]


def test_an_application_need_not_handle_the_end(host, caplog):
    """An error of a socket that has ended is no failure."""
    calls = []

    def app(ws):
        try:
            while True:
                ws.receive()
        finally:
            calls.append("left")

    peer = host(running_with(app)).open()
    peer.send_close()
    until(lambda: calls == ["left"])
    gevent.sleep(0)
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    "arguments, code, reason",
    [
        ((), 1000, ""),
        ((4001,), 4001, ""),
        ((4001, "ä reason"), 4001, "ä reason"),
        ((4001, b"bytes"), 4001, "bytes"),
        ((4001, b"\xff"), 4001, "\ufffd"),
        ((1000, None), 1000, ""),
        ((1000, "ä" * 100), 1000, "ä" * 61),
        ((1005,), 1000, ""),
        ((7, "odd"), 1000, "odd"),
    ],
)
def test_an_application_closes(host, arguments, code, reason):
    """With a code and a reason, corrected if they may not be sent."""
    found = []

    def app(ws):
        ws.close(*arguments)
        found.append(ws.closed)
        ws.close()
        with pytest.raises(WebSocketError):
            ws.receive()

    peer = host(running_with(app)).open()
    assert peer.closing() == Closed(code, reason)
    until(lambda: found == [True])


def test_the_drain_ends_sockets(host):
    """As all others: 1012."""
    running = host(echo)
    peer = running.open()
    stopping = gevent.spawn(running.server.stop, 2.0)
    assert peer.closing().code == 1012
    stopping.join()


def test_an_application_that_waits_elsewhere_is_killed_after_the_end(serve):
    """It never asks its socket again."""
    calls = []

    def app(ws):
        ws.send("x")
        try:
            gevent.sleep(60)
        finally:
            calls.append("left")

    routing = [wsgi("/", running_with(app), websocket=True)]
    peer = serve(routing, limits=Limits(stop_timeout=10 * MS)).open()
    peer.hear()
    peer.reset()
    until(lambda: calls == ["left"])


# What is sent.


@pytest.mark.parametrize(
    "arguments, heard",
    [
        (("text",), "text"),
        ((b"bytes",), b"bytes"),
        ((bytearray(b"array"),), b"array"),
        ((memoryview(b"view"),), b"view"),
        (("text", False), "text"),
        ((b"bytes", True), b"bytes"),
        ((b"t\xc3\xa4xt", False), "täxt"),
        ((5, False), "5"),
        ((None, False), ""),
    ],
)
def test_the_type_says_what_is_sent_unless_it_is_asked_for(host, arguments, heard):
    """Text or binary."""
    peer = host(running_with(lambda ws: ws.send(*arguments))).open()
    assert peer.hear() == heard


@pytest.mark.parametrize("arguments", [(None,), (5,), ("text", True), ([1.5],)])
def test_what_is_not_made_of_bytes_is_not_sent(host, arguments):
    """The socket stays open."""

    def app(ws):
        with pytest.raises(TypeError):
            ws.send(*arguments)
        ws.send("open")

    assert host(running_with(app)).open().hear() == "open"


def test_frames_of_a_kind_are_sent(host):
    """Pings are the server's own business, and are taken without a word."""

    def app(ws):
        ws.send_frame("text", ws.OPCODE_TEXT)
        ws.send_frame(b"binary", ws.OPCODE_BINARY)
        ws.send_frame("", ws.OPCODE_PING)
        ws.send_frame(b"", ws.OPCODE_PONG)
        with pytest.raises(ValueError):
            ws.send_frame(b"", 3)
        ws.send_frame("bye", ws.OPCODE_CLOSE)
        with pytest.raises(WebSocketError):
            ws.send_frame("", ws.OPCODE_PING)

    peer = host(running_with(app)).open()
    assert [peer.hear(), peer.hear()] == ["text", b"binary"]
    assert peer.closing() == Closed(1000, "bye")


def test_pings_are_answered_while_the_application_is_busy(host):
    """It never sees one."""
    peer = host(running_with(lambda ws: ws.send(ws.receive()))).open()
    peer.frame(PING, b"x")
    frame = peer.next()
    assert (frame.opcode, frame.payload) == (PONG, b"x")
    peer.say("y")
    assert peer.hear() == "y"


def test_events_of_groups_are_no_messages(serve):
    """They are for consumers that ask for events; text reaches the peer."""

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        scope = environ["greenchannels.scope"]
        socket = scope["extensions"]["greenchannels"]["socket"]
        with Group("g").joined(socket) as group:
            group.send({"type": "something"})
            group.send("to all")
            ws.send(ws.receive())

    peer = serve([wsgi("/", app, websocket=True)]).open()
    assert peer.hear() == "to all"
    peer.say("x")
    assert peer.hear() == "x"


# Resource, and what leads to others.


class Chat(WebSocketApplication):
    """The package's example of a broadcast."""

    calls = []

    def on_open(self):
        """Note it."""
        self.calls.append(("open", self.ws.path))

    def on_message(self, message):
        """Send it to all."""
        self.calls.append(("message", message))
        if message is None:
            return
        current = self.ws.handler.active_client
        for client in list(self.ws.handler.server.clients.values()):
            who = "you" if client is current else "somebody"
            client.ws.send(f"{who}: {message}")

    def on_close(self, reason):
        """Note it."""
        self.calls.append(("close", reason))


@pytest.fixture
def calls(monkeypatch):
    """What ``Chat`` was called with."""
    monkeypatch.setattr(Chat, "calls", [])
    return Chat.calls


def test_the_packages_resource_and_applications_run(host, calls):
    """``on_open``, ``on_message``, ``on_close``, and a broadcast to all clients."""
    running = host(Resource([("/chat", Chat), ("/.*", hello)]))
    assert running.get("/other").body == b"hello"
    one, two = running.open("/chat"), running.open("/chat")
    one.say("hi")
    assert (one.hear(), two.hear()) == ("you: hi", "somebody: hi")
    one.send_close()
    until(lambda: ("close", None) in calls)
    two.say("alone")
    assert two.hear() == "you: alone"
    opened, message, last = ("open", "/chat"), ("message", "hi"), ("message", None)
    assert calls[:5] == [opened, opened, message, last, ("close", None)]


def test_applications_that_echo_without_more_run(host, caplog):
    """The class's own ``on_message``, which sends back even the end."""
    peer = host(Resource([("/", WebSocketApplication)])).open()
    peer.say("x")
    assert peer.hear() == "x"
    peer.send_close()
    assert peer.closing().code == 1000
    gevent.sleep(0)
    assert not [record for record in caplog.records if record.exc_info]


def test_a_resource_without_an_application_for_the_path_fails(host, caplog):
    """1011: the handshake had been accepted before it was asked."""
    peer = host(Resource([("/chat", Chat)])).open("/other")
    assert peer.closing().code == 1011
    assert "No apps defined" in caplog.text


class Speaking(BaseProtocol):
    """A subprotocol."""

    PROTOCOL_NAME = "speaking"


class Speaker(WebSocketApplication):
    """An application of that subprotocol."""

    protocol_class = Speaking

    def on_open(self):
        """Show that the protocol leads to server and handler."""
        protocol = self.protocol
        assert protocol.handler is self.ws.handler
        assert protocol.server is self.ws.handler.server


@pytest.mark.parametrize(
    "offered, chosen",
    [(("other", "speaking"), ["speaking"]), (("speaking2",), []), ((), [])],
)
def test_the_subprotocol_is_the_applications_if_it_is_offered(host, offered, chosen):
    """As a whole name: the package takes a part of one, too."""
    running = host(Resource([("/", Speaker)]))
    peer = running.peer()
    answer = peer.open(subprotocols=offered)
    assert answer.get("sec-websocket-protocol") == chosen
    peer.say("x")
    assert peer.hear() == "x"


def test_a_socket_leads_to_its_handler_and_its_server(host):
    """By the ways that applications take."""
    found = []

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        handler = ws.handler
        assert ws.stream.handler is handler and handler.websocket is ws
        assert handler.environ is ws.environ is environ
        assert handler.application is handler.server.application is app
        assert handler.active_client.ws is ws
        assert handler.active_client.address == handler.client_address
        assert handler.server.clients == {handler.client_address: handler.active_client}
        assert ws.logger is handler.logger is handler.server.logger
        assert ws.current_app.on_close("reason") is None
        host, port = handler.client_address
        ws.send(f"{host}:{port}")
        found.append(handler)
        ws.receive()

    peer = host(app).open()
    host, port = peer.sock.getsockname()
    assert peer.hear() == f"{host}:{port}"
    peer.send_close()
    until(lambda: found[0].websocket is None)
    assert found[0].server.clients == {}


def test_the_applications_current_app_hears_of_the_end(host):
    """If it has one: the package's way before it had ``handle``."""

    class App:
        def __init__(self):
            self.current_app = self
            self.reasons = []

        def on_close(self, reason):
            self.reasons.append(reason)

        def __call__(self, environ, start_response):
            ws = environ["wsgi.websocket"]
            assert ws.current_app is self
            assert ws.receive() is None
            for call in (ws.receive, lambda: ws.send("x")):
                with pytest.raises(WebSocketError):
                    call()
            ws.close()
            self.reasons.append("end")

    app = App()
    peer = host(app).open()
    peer.reset()
    until(lambda: app.reasons[-1:] == ["end"])
    closed = "Connection is already closed"
    assert app.reasons == [
        *("Connection closed", closed, closed, "Socket is dead", closed, "end"),
    ]


def test_every_socket_is_a_client_of_its_own():
    """Also those that have no address, or that of another."""
    app_clients = []

    def app(environ, start_response):
        handler = environ["wsgi.websocket"].handler
        app_clients.append(dict(handler.server.clients))
        if len(app_clients) < 4:
            connect(addresses[len(app_clients)])

    addresses = [None, None, ("1.2.3.4", 0), ("1.2.3.4", 0)]
    host = WebSocketHost(app)

    def connect(address):
        scope = {
            "type": "websocket",
            "path": "/",
            "scheme": "ws",
            "http_version": "1.1",
            "query_string": b"",
            "headers": [],
            "subprotocols": [],
            "client": address,
        }
        host(scope, lambda: {"type": "websocket.connect"}, lambda event: None)

    connect(addresses[0])
    assert [len(clients) for clients in app_clients] == [1, 2, 3, 4]
    assert {name for name, _ in app_clients[-1]} == {"", "1.2.3.4"}
    assert host.server.clients == {}


def test_a_socket_host_serves_nothing_else():
    """A raw GSGI server that gives it something else is told so."""
    with pytest.raises(ValueError, match="http"):
        WebSocketHost(echo)({"type": "http"}, None, None)
    assert "echo" in repr(WebSocketHost(echo))


def test_an_ended_socket_is_not_kept(serve):
    """Neither by the server nor by a list of clients."""
    kept = []

    def app(environ, start_response):
        kept.append(weakref.ref(environ["wsgi.websocket"]))
        return echo(environ, start_response)

    running = serve([wsgi("/", app, websocket=True)])
    for _ in range(3):
        peer = running.open()
        peer.say("x")
        peer.hear()
        peer.reset()
    until(lambda: not running.server.consumers)
    gc.collect()
    assert [ref() for ref in kept] == [None] * 3


# Other people's programs.


class FlaskSockets:
    """A dispatcher as flask-sockets has it: routes for sockets beside Flask's."""

    def __init__(self, app):
        self.url_map = Map()
        self.wsgi_app, self.app = app.wsgi_app, app
        app.wsgi_app = self

    def route(self, rule):
        """Register a function for a path."""

        def decorator(function):
            self.url_map.add(Rule(rule, endpoint=function, websocket=True))
            return function

        return decorator

    def __call__(self, environ, start_response):
        adapter = self.url_map.bind_to_environ(environ)
        try:
            handler, values = adapter.match()
            ws = environ["wsgi.websocket"]
        except (NotFound, KeyError):
            return self.wsgi_app(environ, start_response)
        with self.app.app_context(), self.app.request_context(environ):
            handler(ws, **values)
            return []


def test_flask_with_routes_for_sockets_runs(host):
    """Flask's request is there in the function."""
    app = Flask(__name__)
    sockets = FlaskSockets(app)

    @app.route("/page")
    def page():
        return "a page"

    @sockets.route("/chat/<room>")
    def chat(ws, room):
        while not ws.closed:
            message = ws.receive()
            if message is not None:
                ws.send(f"{room} {request.args['q']} {request.path} {message}")

    running = host(app, "/app")
    assert running.get("/app/page").body == b"a page"
    peer = running.open("/app/chat/lobby?q=1")
    peer.say("x")
    assert peer.hear() == "lobby 1 /chat/lobby x"
    peer.send_close()
    until(lambda: not running.server.consumers)


WITHOUT = """
import sys
sys.modules["geventwebsocket"] = None
from greenchannels import wsgi
from greenchannels.hosting.wsgi_sockets import OwnError, WebSocketError
wsgi("/", lambda environ, start_response: [], websocket=True)
print(WebSocketError is OwnError, issubclass(WebSocketError, OSError))
"""


def test_the_package_need_not_be_installed():
    """Then the exception is one of our own."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["True", "True"], done.stderr


def test_the_package_is_imported_only_where_sockets_are_asked_for():
    """Others do not pay for it."""
    code = "import greenchannels as g, sys; g.wsgi('/', print); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert "greenchannels" in done.stdout.split()
    assert "geventwebsocket" not in done.stdout.split()
