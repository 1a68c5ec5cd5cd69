"""GSGI as docs/gsgi.md has it: raw consumers, middleware, lifespans."""

from contextlib import contextmanager

import gevent
import pytest
from gevent.event import Event
from gevent.queue import Queue

from greenchannels import (
    ConnectionClosed,
    ConnectionEnded,
    Group,
    Limits,
    Server,
    Timeouts,
    gsgi,
    http,
    lifespan,
    websocket,
)
from greenchannels.servers.lifespan import LifespanFailed
from tests.servers.harness import MS, Closed, request, until


def sockets_only(consumer):
    """Return a consumer that knows no scope but those of WebSockets."""

    def outer(scope, receive, send):
        if scope["type"] != "websocket":
            raise ValueError(f"no {scope['type']} here")
        consumer(scope, receive, send)

    return outer


def requests_only(consumer):
    """Return a consumer that knows no scope but those of requests."""

    def outer(scope, receive, send):
        if scope["type"] != "http":
            raise ValueError(f"no {scope['type']} here")
        consumer(scope, receive, send)

    return outer


# WebSockets.


def test_a_raw_consumer_speaks_events(serve):
    """Connect, accept, receive, send, disconnect as often as asked."""
    seen = Queue()

    @sockets_only
    def consumer(scope, receive, send):
        seen.put(receive())
        send(
            {"type": "websocket.accept", "subprotocol": "b", "headers": [(b"x", b"y")]}
        )
        for _ in range(2):
            event = receive()
            seen.put(event)
            send({**event, "type": "websocket.send"})
        for _ in range(3):
            seen.put(receive())

    peer = serve([gsgi("/", consumer)]).peer()
    answer = peer.open(subprotocols=["a", "b"])
    assert answer["sec-websocket-protocol"] == "b" and answer["x"] == "y"
    assert seen.get(timeout=1) == {"type": "websocket.connect"}
    peer.say("text", b"bytes")
    assert [peer.hear(), peer.hear()] == ["text", b"bytes"]
    assert seen.get(timeout=1) == {"type": "websocket.receive", "text": "text"}
    assert seen.get(timeout=1) == {"type": "websocket.receive", "bytes": b"bytes"}
    peer.send_close(3000, "why")
    for _ in range(3):
        assert seen.get(timeout=1) == {
            "type": "websocket.disconnect",
            "code": 3000,
            "reason": "why",
        }


@pytest.mark.parametrize(
    "leave, code", [("send_close", 1000), ("reset", 1006), ("close", 1006)]
)
def test_after_the_end_a_send_raises_and_that_is_no_error(serve, caplog, leave, code):
    """ConnectionEnded; if it leaves the consumer the end is normal."""
    seen = Queue()

    @sockets_only
    def consumer(scope, receive, send):
        receive()
        send({"type": "websocket.accept"})
        seen.put(receive()["code"])
        try:
            send({"type": "websocket.send", "text": "late"})
        except ConnectionEnded as error:
            seen.put(error.code)
            raise

    running = serve([gsgi("/", consumer)])
    getattr(running.open(), leave)()
    assert [seen.get(timeout=1), seen.get(timeout=1)] == [code, code]
    until(lambda: not running.server.consumers)
    assert [r for r in caplog.records if r.levelname != "INFO"] == []


@pytest.mark.parametrize(
    "events, status, body",
    [
        ([], 403, None),
        ([{"type": "websocket.close"}], 403, None),
        ([{"type": "websocket.close", "code": 4000, "reason": "x"}], 403, None),
        (
            [
                {"type": "websocket.http.response.start", "status": 402},
                {"type": "websocket.http.response.body", "body": b"pay"},
            ],
            402,
            b"pay",
        ),
        (
            [
                {
                    "type": "websocket.http.response.start",
                    "status": 401,
                    "headers": [(b"www-authenticate", b"x")],
                },
                {
                    "type": "websocket.http.response.body",
                    "body": b"a",
                    "more_body": True,
                },
                {"type": "websocket.http.response.body", "body": b"b"},
            ],
            401,
            b"ab",
        ),
        ([{"type": "websocket.no.such.event"}], 500, None),
        ([{"type": "websocket.http.response.start", "status": 402}], 403, None),
    ],
)
def test_a_raw_consumer_refuses_with_the_response_of_its_choice(
    serve, events, status, body
):
    """A close before accepting is 403."""

    @sockets_only
    def consumer(scope, receive, send):
        receive()
        for event in events:
            send(event)

    answer = serve([gsgi("/", consumer)]).refused()
    assert answer.status == status
    if body is not None:
        assert answer.body == body
    if status == 401:
        assert answer["www-authenticate"] == "x"


def test_a_raw_consumer_that_only_receives_accepts_nothing(serve):
    """receive() blocks until somebody decides; then it is too late."""
    seen = Queue()

    @sockets_only
    def consumer(scope, receive, send):
        receive()
        seen.put(receive())

    running = serve([gsgi("/", consumer)], timeouts=Timeouts(accept_timeout=40 * MS))
    assert running.refused().status == 503
    assert seen.get(timeout=1)["type"] == "websocket.disconnect"


def test_an_event_before_the_decision_decides_nothing(serve):
    """A raw consumer that receives one may still refuse."""
    waiting = Event()

    @sockets_only
    def consumer(scope, receive, send):
        receive()
        scope["extensions"]["greenchannels"]["socket"].join("g")
        waiting.set()
        assert receive() == {"type": "verdict", "ok": False}
        send({"type": "websocket.http.response.start", "status": 402})
        send({"type": "websocket.http.response.body", "body": b"no"})

    peer = serve([gsgi("/", consumer)]).peer()
    peer.handshake()
    waiting.wait(1)
    gevent.sleep(5 * MS)
    Group("g").send({"type": "verdict", "ok": False})
    assert peer.response().status == 402


def test_events_of_groups_come_among_the_others(serve):
    """As the dicts that were sent."""
    seen = Queue()

    @sockets_only
    def consumer(scope, receive, send):
        receive()
        send({"type": "websocket.accept"})
        scope["extensions"]["greenchannels"]["socket"].join("g")
        send({"type": "websocket.send", "text": "in"})
        while (event := receive())["type"] != "websocket.disconnect":
            seen.put(event)

    peer = serve([gsgi("/", consumer)]).open()
    assert peer.hear() == "in"
    peer.say("one")
    assert seen.get(timeout=1)["text"] == "one"
    Group("g").send({"type": "two"})
    assert seen.get(timeout=1) == {"type": "two"}
    Group("g").send("past the consumer")
    assert peer.hear() == "past the consumer"
    assert seen.empty()


def test_what_a_raw_consumer_does_decides_how_its_socket_ends(serve, caplog):
    """Returning 1000, raising 1011, closing what it says."""

    @sockets_only
    def consumer(scope, receive, send):
        receive()
        send({"type": "websocket.accept"})
        how = scope["path"][1:]
        if how == "raise":
            raise LookupError
        if how == "close":
            send({"type": "websocket.close", "code": 4000, "reason": "own"})

    running = serve([gsgi("/<path:how>", consumer)])
    assert running.open("/return").closing() == Closed(1000)
    assert running.open("/close").closing() == Closed(4000, "own")
    assert not caplog.records or all(r.levelname == "INFO" for r in caplog.records)
    assert running.open("/raise").closing().code == 1011


def test_the_scope_of_a_socket_is_that_of_asgi(serve):
    """www 2.5, and what docs/gsgi.md adds."""
    seen = Queue()

    @sockets_only
    def consumer(scope, receive, send):
        seen.put(scope)

    running = serve([gsgi("/a/<x>", consumer)])
    running.refused("/a/%C3%A4?q=%20", [("X-Y", "z")], subprotocols=["s"])
    scope = seen.get(timeout=1)
    assert scope["type"] == "websocket"
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.5"}
    assert scope["http_version"] == "1.1"
    assert scope["scheme"] == "ws"
    assert scope["path"] == "/a/ä"
    assert scope["raw_path"] == b"/a/%C3%A4"
    assert scope["query_string"] == b"q=%20"
    assert scope["root_path"] == ""
    assert (b"x-y", b"z") in scope["headers"]
    assert scope["client"][0] == "127.0.0.1"
    assert isinstance(scope["client"][1], int)
    assert scope["server"] == ("localhost", 80)
    assert scope["subprotocols"] == ["s"]
    assert scope["state"] == {}
    assert scope["url_route"] == {"args": (), "kwargs": {"x": "ä"}}
    assert scope["extensions"]["websocket.http.response"] == {}
    assert scope["extensions"]["greenchannels"]["socket"].path == "/a/ä"


def test_two_greenlets_may_not_receive_at_once(serve):
    """RuntimeError for the second, before and after accepting."""
    seen = Queue()

    @sockets_only
    def consumer(scope, receive, send):
        receive()
        for _ in range(2):
            child = gevent.spawn(receive)
            gevent.sleep(2 * MS)
            try:
                receive()
            except RuntimeError as error:
                seen.put(str(error))
            child.kill()
            if scope["path"] == "/":
                send({"type": "websocket.accept"})
                scope["path"] = "accepted"
        receive()

    serve([gsgi("/", consumer)]).open()
    assert "another greenlet" in seen.get(timeout=1)
    assert "another greenlet" in seen.get(timeout=1)


# Middleware.


def test_middleware_can_change_what_passes(serve):
    """In both directions; groups go past it."""

    def shouting(inner):
        def consumer(scope, receive, send):
            def upper():
                event = receive()
                if "text" in event:
                    event["text"] = event["text"].upper()
                return event

            def twice(event):
                send(event)
                if event["type"] == "websocket.send":
                    send(event)

            inner(scope, upper, twice)

        return consumer

    def echo(socket):
        socket.join("g")
        for message in socket:
            socket.send(message)

    peer = serve([websocket("/", echo, middleware=[shouting])]).open()
    peer.say("quiet")
    assert [peer.hear(), peer.hear()] == ["QUIET", "QUIET"]
    Group("g").send("as it is")
    assert peer.hear() == "as it is"


def test_middleware_can_refuse_before_the_function_is_called(serve):
    """With close, or with a response."""

    def closed(inner):
        return lambda scope, receive, send: send({"type": "websocket.close"})

    def paid(inner):
        def consumer(scope, receive, send):
            send({"type": "websocket.http.response.start", "status": 402})
            send({"type": "websocket.http.response.body"})

        return consumer

    def consumer(socket):
        raise AssertionError("must not run")

    for middleware, status in ((closed, 403), (paid, 402)):
        running = serve([websocket("/", consumer, middleware=[middleware])])
        assert running.refused().status == status
        running.stop()


def test_middleware_that_raises_refuses_with_500_or_closes_with_1011(serve, caplog):
    """Before accepting, and after."""

    def failing(inner):
        def consumer(scope, receive, send):
            if scope["path"] == "/late":
                inner(scope, receive, send)
            raise LookupError("in the middle")

        return consumer

    def consumer(socket):
        socket.accept()
        socket.receive()

    routing = [websocket("/<path:x>", lambda s, x: consumer(s), middleware=[failing])]
    running = serve(routing)
    assert running.refused("/early").status == 500
    peer = running.open("/late")
    peer.say("x")
    assert peer.closing().code in (1000, 1011)
    assert "in the middle" in caplog.text


def test_a_function_between_may_be_refused_by_its_middleware(serve):
    """Its accept goes nowhere; the middleware has refused."""
    seen = Queue()

    def gate(inner):
        def consumer(scope, receive, send):
            def guarded(event):
                if event["type"] == "websocket.accept":
                    send({"type": "websocket.close"})
                else:
                    send(event)

            inner(scope, receive, guarded)

        return consumer

    def consumer(socket):
        try:
            socket.receive()
        except ConnectionEnded:
            seen.put("ended")
            raise

    assert serve([websocket("/", consumer, middleware=[gate])]).refused().status == 403
    assert seen.get(timeout=1) == "ended"


def test_a_function_between_can_refuse_with_status_and_body(serve):
    """As one that has the server's own socket."""

    def between(inner):
        return lambda scope, receive, send: inner(scope, lambda: receive(), send)

    def consumer(socket):
        socket.reject(402, "pay", {"X-Price": "3"})

    answer = serve([websocket("/", consumer, middleware=[between])]).refused()
    assert (answer.status, answer.body, answer["x-price"]) == (402, b"pay", "3")


# Requests.


def test_a_raw_consumer_of_requests_gets_the_body_in_events(serve):
    """Then it waits for the peer to go, or the response to be complete."""
    seen = Queue()

    @requests_only
    def consumer(scope, receive, send):
        body, more = b"", True
        while more:
            event = receive()
            assert event["type"] == "http.request"
            body, more = body + event["body"], event["more_body"]
        send({"type": "http.response.start", "status": 201, "headers": [(b"x", b"y")]})
        send({"type": "http.response.body", "body": body})
        seen.put(receive())
        seen.put(receive())

    answer = serve([gsgi("/", consumer)]).get("/", "PUT", body=b"x" * 5000)
    assert (answer.status, answer["x"], answer.body) == (201, "y", b"x" * 5000)
    assert seen.get(timeout=1) == seen.get(timeout=1) == {"type": "http.disconnect"}


def test_a_consumer_that_waits_hears_that_the_peer_has_gone(serve):
    """Long polling ends when nobody waits for it."""
    seen = Queue()

    @requests_only
    def consumer(scope, receive, send):
        receive()
        seen.put(receive())

    running = serve([gsgi("/", consumer)])
    client = running.client()
    client.send(request())
    gevent.sleep(10 * MS)
    assert seen.empty()
    client.close()
    assert seen.get(timeout=1) == {"type": "http.disconnect"}


@pytest.mark.parametrize(
    "events",
    [
        [],
        [{"type": "http.response.body", "body": b"x"}],
        [{"type": "websocket.send", "text": "x"}],
    ],
)
def test_a_consumer_that_sends_no_response_is_answered_for_with_500(
    serve, caplog, events
):
    """And the log says so."""

    @requests_only
    def consumer(scope, receive, send):
        for event in events:
            send(event)

    assert serve([gsgi("/", consumer)]).get().status == 500
    assert [r for r in caplog.records if r.levelname == "ERROR"]


def test_the_scope_of_a_request_is_that_of_asgi(serve):
    """www 2.5."""
    seen = Queue()

    @requests_only
    def consumer(scope, receive, send):
        seen.put(scope)

    serve([gsgi("/<x>", consumer)]).get("/a%20b?c", "PATCH")
    scope = seen.get(timeout=1)
    assert scope["type"] == "http"
    assert scope["method"] == "PATCH"
    assert scope["scheme"] == "http"
    assert (scope["path"], scope["raw_path"]) == ("/a b", b"/a%20b")
    assert scope["query_string"] == b"c"
    assert (b"host", b"localhost") in scope["headers"]
    assert scope["url_route"]["kwargs"] == {"x": "a b"}


# Lifespans.


def test_lifespans_are_entered_in_order_and_left_in_reverse():
    """Before anything is accepted, and after the drain."""
    order = []

    def named(name):
        @contextmanager
        def manager():
            order.append(f"enter {name}")
            yield
            order.append(f"leave {name}")

        return manager

    server = Server([lifespan(named("a")), http("/", print), lifespan(named("b"))])
    assert order == []
    server.start()
    assert order == ["enter a", "enter b"]
    server.stop()
    assert order == ["enter a", "enter b", "leave b", "leave a"]


def test_a_lifespan_that_fails_leaves_those_before_it():
    """The server has not started, and nothing of it is left."""
    order = []

    @contextmanager
    def good():
        order.append("enter")
        try:
            yield
        finally:
            order.append("leave")

    @contextmanager
    def bad():
        raise LookupError("no database")
        yield

    server = Server([lifespan(good), lifespan(bad)])
    with pytest.raises(LookupError, match="no database"):
        server.start()
    assert order == ["enter", "leave"]
    assert not server.layer.started


def test_what_a_lifespan_sets_consumers_see(serve):
    """Context variables, and groups that it may use."""
    import contextvars

    name = contextvars.ContextVar("name", default="unset")

    @contextmanager
    def manager():
        name.set("set")
        Group("g").send("nobody is there yet")
        yield

    running = serve([lifespan(manager), http("/", lambda r: name.get())])
    assert running.get().body == b"set"
    assert running.get().body == b"set"


def with_lifespan(order, state=None, fail=None):
    """Return a raw consumer that supports the lifespan scope."""

    def consumer(scope, receive, send):
        if scope["type"] == "lifespan":
            assert receive() == {"type": "lifespan.startup"}
            order.append("startup")
            if fail == "startup":
                send({"type": "lifespan.startup.failed", "message": "no database"})
                return
            scope["state"].update(state or {})
            send({"type": "lifespan.startup.complete"})
            if fail == "between":
                raise LookupError
            assert receive() == {"type": "lifespan.shutdown"}
            order.append("shutdown")
            if fail == "shutdown":
                send({"type": "lifespan.shutdown.failed", "message": "too late"})
            else:
                send({"type": "lifespan.shutdown.complete"})
        else:
            order.append(scope["state"])
            scope["state"]["changed"] = True
            send({"type": "http.response.start", "status": 204, "headers": []})
            send({"type": "http.response.body"})

    return consumer


def test_a_raw_consumer_gets_the_lifespan_scope(serve):
    """Each request has a shallow copy of its state."""
    order = []
    running = serve([gsgi("/", with_lifespan(order, {"pool": 1}))])
    assert order == ["startup"]
    for _ in range(2):
        assert running.get().status == 204
    running.stop()
    assert order[0] == "startup" and order[-1] == "shutdown"
    assert [each["pool"] for each in order[1:-1]] == [1, 1]
    assert order[1] is not order[2]


def test_a_startup_that_fails_stops_the_start():
    """With its message."""
    server = Server([gsgi("/", with_lifespan([], fail="startup"))])
    with pytest.raises(LifespanFailed, match="no database"):
        server.start()


@pytest.mark.parametrize("fail", ["between", "shutdown"])
def test_a_lifespan_that_fails_later_is_logged(serve, caplog, fail):
    """The server serves, and ends."""
    running = serve([gsgi("/", with_lifespan([], fail=fail))])
    assert running.get().status == 204
    running.stop()
    assert [r for r in caplog.records if r.levelname == "ERROR"]


def raising(scope, receive, send):
    """Know nothing."""
    raise NotImplementedError


def returning(scope, receive, send):
    """Do nothing."""


def answering_otherwise(scope, receive, send):
    """Take everything for a WebSocket."""
    receive()
    send({"type": "websocket.accept"})
    receive()


@pytest.mark.parametrize("consumer", [raising, returning, answering_otherwise])
def test_a_consumer_that_supports_no_lifespan_is_served_all_the_same(
    serve, caplog, consumer
):
    """No error in the log, no greenlet that waits for ever."""
    running = serve([gsgi("/", consumer), http("/page", lambda r: "page")])
    assert running.get("/page").body == b"page"
    assert [r for r in caplog.records if r.levelname != "INFO"] == []


def test_a_consumer_that_ends_after_its_socket_is_not_killed(serve):
    """It has stop_timeout to say its goodbyes."""
    seen = Queue()

    def consumer(socket):
        socket.accept()
        try:
            while True:
                socket.receive()
        except ConnectionClosed:
            gevent.sleep(50 * MS)
            seen.put("goodbye")

    serve(consumer, limits=Limits(stop_timeout=2)).open().send_close()
    assert seen.get(timeout=2) == "goodbye"
