"""The client in the server's process."""

import logging

import gevent
import pytest

from greenchannels import (
    ConnectionBroken,
    ConnectionClosed,
    Group,
    HandshakeRefused,
    User,
    http,
    lifespan,
    websocket,
)
from greenchannels.testing import Client, Rejected
from greenchannels.testing.leaks import LeakCheck


@pytest.fixture(autouse=True)
def no_leaks():
    """Fail on what a client leaves."""
    check = LeakCheck()
    yield
    assert check.find() == []


def echo(socket):
    """Send back what comes."""
    for message in socket:
        socket.send(message)


def chat(socket):
    """Pass on what comes to all."""
    socket.join("room")
    for message in socket:
        Group("room").send(message)


def whoami(socket):
    """Say who the user is."""
    socket.send_json([socket.user, socket.scope.get("user")])
    socket.wait()


def test_text_and_binary_come_back_as_they_were():
    """Types and sizes are kept."""
    with Client([websocket("/", echo)]) as client, client.websocket("/") as ws:
        for message in ("grün", b"\x00\xff", "", "x" * 100_000):
            ws.send(message)
            assert ws.receive() == message


def test_json_goes_both_ways():
    """As text."""
    with Client([websocket("/", echo)]) as client, client.websocket("/") as ws:
        ws.send_json({"a": [1, None]})
        assert ws.receive_json() == {"a": [1, None]}


def test_two_clients_in_a_group_hear_each_other():
    """Both have joined when entering returns, so nothing must be waited for."""
    with (
        Client([websocket("/", chat)]) as client,
        client.websocket("/") as one,
        client.websocket("/") as two,
    ):
        one.send("hello")
        assert one.receive() == two.receive() == "hello"
        Group("room").send("from outside")
        assert one.receive() == two.receive() == "from outside"


@pytest.mark.parametrize("middleware", [(), (lambda c: lambda s, r, w: c(s, r, w),)])
def test_a_user_counts_from_the_start(middleware):
    """In the scope, as the socket's user, and for ``User(id)``."""
    routing = [websocket("/", whoami, middleware=middleware)]
    with Client(routing) as client, client.websocket("/", user="ann") as ws:
        assert ws.receive_json() == ["ann", "ann"]
        User("ann").send("for you")
        assert ws.receive() == "for you"


def test_without_a_user_there_is_nobody():
    """Not even after somebody."""
    with Client([websocket("/", whoami)]) as client:
        with client.websocket("/", user="ann"):
            pass
        with client.websocket("/") as ws:
            assert ws.receive_json() == [None, None]


def test_another_origin_is_refused(caplog):
    """As in production; the own one is not."""
    with Client([websocket("/", echo)]) as client:
        with client.websocket("/", origin="http://localhost"):
            pass
        with pytest.raises(Rejected) as caught:
            client.websocket("/", origin="https://evil.example").__enter__()
        assert caught.value.status == 403


def test_a_refusal_tells_status_headers_and_body():
    """And entering raises it."""

    def refuse(socket):
        socket.reject(418, "no coffee", [("X-Why", "teapot")])

    with Client([websocket("/", refuse)]) as client:
        with pytest.raises(Rejected, match="418 b'no coffee'") as caught:
            client.websocket("/").__enter__()
        assert caught.value.headers["x-why"] == "teapot"
        assert caught.value.body == b"no coffee"
        with pytest.raises(Rejected) as caught:
            client.websocket("/nowhere").__enter__()
        assert caught.value.status == 404
        client.settle()


def test_a_handshake_without_an_answer_times_out():
    """The consumer is killed when the client closes."""
    routing = [websocket("/", lambda socket: gevent.sleep(60))]
    with (
        Client(routing, timeout=0.02) as client,
        pytest.raises(TimeoutError, match="the handshake of /"),
    ):
        client.websocket("/").__enter__()


def test_a_consumer_that_fails_closes_with_1011(caplog):
    """What it sent before arrives."""

    def fail(socket):
        socket.send("before")
        raise ValueError("on purpose")

    with Client([websocket("/", fail)]) as client, client.websocket("/") as ws:
        assert ws.receive() == "before"
        for _ in range(2):
            with pytest.raises(ConnectionClosed) as caught:
                ws.receive()
        assert (caught.value.code, ws.close_code) == (1011, 1011)
        with pytest.raises(ConnectionClosed):
            ws.send("late")


def test_the_server_closes_with_code_and_reason():
    """Both reach the client."""

    def leave(socket):
        socket.accept()
        socket.close(4000, "enough")

    with Client([websocket("/", leave)]) as client, client.websocket("/") as ws:
        with pytest.raises(ConnectionClosed, match="4000 enough"):
            ws.receive()
        assert (ws.close_code, ws.close_reason) == (4000, "enough")


@pytest.mark.parametrize("code", [1000, 4001, None])
def test_the_client_closes_with_code_and_reason(code):
    """Both reach the consumer; leaving the block waits for its end."""
    ends = []

    def note(socket):
        socket.wait()
        gevent.sleep(0.01)
        ends.append((socket.close_code, socket.close_reason))

    with Client([websocket("/", note)]) as client, client.websocket("/") as ws:
        ws.close(code, "bye" if code else "")
        with pytest.raises(ConnectionClosed):
            ws.send("late")
    assert ends == [(code or 1005, "bye" if code else "")]


def test_leaving_closes_with_1000():
    """As a page does."""
    ends = []

    def note(socket):
        socket.wait()
        ends.append(socket.close_code)

    with Client([websocket("/", note)]) as client:
        with client.websocket("/"):
            pass
        assert ends == [1000]
        client.settle()


def test_a_broken_connection_is_told_from_a_closed_one():
    """1006, without a close frame."""
    with Client([websocket("/", echo)]) as client, client.websocket("/") as ws:
        for transport in tuple(client.server.connections):
            transport.abort()
        with pytest.raises(ConnectionBroken):
            ws.receive()
        assert ws.close_code == 1006


def test_nothing_comes_or_it_is_shown():
    """The message and the end as well."""
    with Client([websocket("/", echo)]) as client, client.websocket("/") as ws:
        ws.nothing()
        ws.send("surprise")
        with pytest.raises(AssertionError, match="'surprise' came"):
            ws.nothing()
        ws.close(4000)
        with pytest.raises(AssertionError, match="it ended: 4000"):
            ws.nothing()


def test_receiving_times_out():
    """And the socket can still be used."""
    with Client([websocket("/", echo)]) as client, client.websocket("/") as ws:
        with pytest.raises(TimeoutError, match="no message of / in 0.01 s"):
            ws.receive(0.01)
        ws.send("still here")
        assert ws.receive() == "still here"


def test_a_subprotocol_is_chosen_and_headers_are_seen():
    """Of the 101."""

    def accept(socket):
        socket.accept(headers=[("X-Room", socket.headers["x-wanted"])])
        socket.wait()

    routing = [websocket("/", accept, subprotocols=["b", "a"])]
    with (
        Client(routing) as client,
        client.websocket("/", subprotocols=["a"], headers=[("X-Wanted", "5")]) as ws,
    ):
        assert (ws.subprotocol, ws.headers["X-ROOM"]) == ("a", "5")


def test_settling_waits_until_all_has_happened():
    """After it, what was sent has been worked on and delivered."""
    seen = []

    def slow(socket):
        socket.join("room")
        for message in socket:
            gevent.sleep(0.03)
            seen.append(message)
            Group("room").send(message)

    with (
        Client([websocket("/", slow)]) as client,
        client.websocket("/") as one,
        client.websocket("/") as two,
    ):
        one.send("a")
        one.send("b")
        client.settle()
        assert seen == ["a", "b"]
        assert [two.receive(0), two.receive(0)] == ["a", "b"]
        client.settle()


def stuck(socket):
    """Never wait for input."""
    socket.accept()
    gevent.sleep(60)


def test_settling_names_the_consumer_that_does_not_wait():
    """And where it is."""
    with (
        Client([websocket("/stuck", stuck)], timeout=0.02) as client,
        client.websocket("/stuck"),
        pytest.raises(TimeoutError, match=r"/stuck.* in stuck .*test_client"),
    ):
        client.settle(0.05)


def test_settling_names_a_request_that_does_not_end():
    """By its path."""

    def hang(request):
        gevent.sleep(60)

    with Client([http("/hang", hang)], timeout=0.02) as client:
        with pytest.raises(TimeoutError, match="GET /hang"):
            client.get("/hang")
        with pytest.raises(TimeoutError, match="GET /hang.* in .*hang"):
            client.settle(0.05)


def about(scope, receive, send):
    """Answer with the request."""
    body = b""
    while (event := receive())["type"] == "http.request":
        body += event.get("body", b"")
        if not event.get("more_body"):
            break
    query = scope["query_string"]
    text = b"|".join([scope["method"].encode(), query, body])
    kind = dict(scope["headers"]).get(b"content-type", b"none")
    send({"type": "http.response.start", "status": 200, "headers": [(b"x-was", kind)]})
    for part in (text[:3], text[3:]):
        send({"type": "http.response.body", "body": part, "more_body": True})
    send({"type": "http.response.body"})


@pytest.mark.parametrize(
    ("method", "options", "text", "kind"),
    [
        ("GET", {"query": {"a": 1, "b": ["x", "y z"]}}, "GET|a=1&b=x&b=y+z|", "none"),
        ("POST", {"json": {"a": 1}}, 'POST||{"a":1}', "application/json"),
        (
            "POST",
            {"data": {"a": "ü"}},
            "POST||a=%C3%BC",
            "application/x-www-form-urlencoded",
        ),
        (
            "PUT",
            {"body": b"raw", "headers": {"Content-Type": "x/y"}},
            "PUT||raw",
            "x/y",
        ),
    ],
)
def test_requests_say_what_they_are_told(method, options, text, kind):
    """Query, JSON, forms, bodies; the chunked response is put together."""
    with Client(about) as client:
        response = client.request(method, "/", **options)
        assert (response.status, response.text) == (200, text)
        assert response.headers["X-Was"] == kind
        client.settle()


def test_get_and_post_give_responses():
    """Of views as well, and of paths that are not there."""
    routing = [
        http("/json", lambda request: {"a": 1}),
        http("/post", lambda request: request.get_data(as_text=True), methods=["POST"]),
    ]
    with Client(routing) as client:
        assert client.get("/json").json() == {"a": 1}
        assert client.post("/post", body=b"hi").text == "hi"
        assert client.get("/post").status == 405
        assert client.get("/nowhere").status == 404
        assert client.request("HEAD", "/json").body == b""


def test_lifespans_run_around():
    """Entered by open, left by close; closing twice is no error."""
    steps = []

    def enter():
        steps.append("in")
        yield
        steps.append("out")

    from contextlib import contextmanager

    client = Client([lifespan(contextmanager(enter)), websocket("/", echo)])
    with client:
        assert steps == ["in"]
    assert steps == ["in", "out"]
    client.close()
    with pytest.raises(RuntimeError, match="not open"):
        client.get("/")


def test_closing_the_client_ends_open_sockets(caplog):
    """A consumer that waits ends; nothing stays."""
    caplog.set_level(logging.ERROR)
    client = Client([websocket("/", echo)])
    client.open()
    ws = client.websocket("/").__enter__()
    client.close()
    assert not client.server.consumers
    with pytest.raises((ConnectionBroken, HandshakeRefused)):
        ws.send("x")
