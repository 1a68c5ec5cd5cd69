"""The opening handshake: who decides it, how, and what happens if nobody does."""

import gevent
import pytest
from gevent.event import Event
from gevent.queue import Queue

from greenchannels import (
    ConnectionEnded,
    Group,
    Limits,
    LocalProtocolError,
    Timeouts,
    http,
    static,
    websocket,
)
from tests.servers.harness import (
    BINARY,
    MS,
    TEXT,
    Closed,
    encode_masked,
    frames,
    handshake,
    request,
    until,
)


def echo(socket):
    """Send back what comes."""
    for message in socket:
        socket.send(message)


@pytest.mark.parametrize(
    "first",
    [
        lambda socket: socket.receive(),
        lambda socket: socket.send("x"),
        lambda socket: next(iter(socket)),
        lambda socket: next(socket.events()),
        lambda socket: socket.receive_json(),
        lambda socket: next(socket.json()),
        lambda socket: socket.send_json("x"),
        lambda socket: socket.flush(),
        lambda socket: socket.wait(),
        lambda socket: socket.accept(),
    ],
    ids=[
        "receive",
        "send",
        "iter",
        "events",
        "receive_json",
        "json",
        "send_json",
        "flush",
        "wait",
        "accept",
    ],
)
def test_a_function_accepts_when_it_first_receives_or_sends(serve, first):
    """There is no 101 before, and one after."""
    go = Event()

    def consumer(socket):
        go.wait()
        first(socket)
        socket.wait()

    peer = serve(consumer).peer()
    peer.handshake()
    assert peer.silent()
    go.set()
    assert peer.response().status == 101


def test_the_101_has_what_the_rfc_asks_for(serve):
    """Upgrade, Connection, the right answer to the key, and no body."""
    answer = serve(echo).peer().open()
    assert answer["upgrade"].lower() == "websocket"
    assert answer["connection"].lower() == "upgrade"
    assert not answer.get("content-length") and not answer.get("transfer-encoding")
    assert not answer.get("sec-websocket-protocol")
    assert not answer.get("sec-websocket-extensions")


def test_a_consumer_can_refuse_with_status_headers_and_body(serve):
    """What it says is what the peer reads."""

    def consumer(socket):
        socket.reject(402, "pay first", [("X-Price", "3"), (b"content-type", b"a/b")])

    answer = serve(consumer).refused()
    assert (answer.status, answer.body) == (402, b"pay first")
    assert answer["x-price"] == "3" and answer["content-type"] == "a/b"
    assert answer["connection"] == "close"


@pytest.mark.parametrize("status", [401, 404, 429, 503, 499, 302])
def test_any_status_can_refuse_without_a_body(serve, status):
    """Also one that no registry knows."""
    answer = serve(lambda socket: socket.reject(status)).refused()
    assert answer.status == status


@pytest.mark.parametrize("status", [101, 100, 99, 600, 1000])
def test_a_status_that_cannot_refuse_is_an_error(serve, status):
    """The peer is told 500, and the programmer why."""
    errors = Queue()

    def consumer(socket):
        try:
            socket.reject(status)
        except ValueError as error:
            errors.put(error)
            raise

    assert serve(consumer).refused().status == 500
    assert str(status) in str(errors.get(timeout=1))


def test_a_refused_connection_is_closed(serve):
    """After the answer comes the end of the stream, not a reset."""
    peer = serve(lambda socket: socket.reject()).peer()
    peer.handshake()
    assert peer.response().status == 403
    assert peer.ended() == "closed"


def test_a_refusal_arrives_although_the_peer_sent_frames_already(serve):
    """Closing with unread bytes would reset the connection and lose the answer."""

    def consumer(socket):
        gevent.sleep(20 * MS)
        socket.reject(401, b"no")

    peer = serve(consumer).peer()
    peer.send(handshake() + frames("early", "words"))
    gevent.sleep(40 * MS)
    peer.send(frames("late words"))
    assert peer.response().body == b"no"


def test_a_function_that_returns_before_accepting_refuses_with_403(serve):
    """Nothing said is no."""
    assert serve(lambda socket: None).refused().status == 403


def test_a_function_that_raises_before_accepting_refuses_with_500(serve, caplog):
    """The log has the traceback, the peer has not."""

    def consumer(socket):
        raise LookupError("the secret cause")

    answer = serve(consumer).refused()
    assert answer.status == 500
    assert b"secret" not in answer.body
    (record,) = [r for r in caplog.records if r.exc_info]
    assert record.exc_info[0] is LookupError
    assert record.levelname == "ERROR"


def test_nobody_waits_for_a_decision_for_ever(serve, caplog):
    """503 after accept_timeout, and a line in the log."""
    ended = Queue()

    def consumer(socket):
        try:
            gevent.sleep(10)
        finally:
            ended.put(socket.close_code)

    running = serve(
        consumer,
        timeouts=Timeouts(accept_timeout=50 * MS),
        limits=Limits(stop_timeout=50 * MS),
    )
    assert running.refused().status == 503
    assert "not decided" in caplog.text
    assert ended.get(timeout=2) is not None


def test_a_decision_after_its_time_is_too_late(serve):
    """accept raises ConnectionEnded, which is no error of the consumer's."""
    errors = Queue()

    def consumer(socket):
        gevent.sleep(150 * MS)
        try:
            socket.accept()
        except ConnectionEnded as error:
            errors.put(error)
            raise

    running = serve(consumer, timeouts=Timeouts(accept_timeout=30 * MS))
    assert running.refused().status == 503
    assert errors.get(timeout=2).code == 1006


def test_a_function_that_returns_after_accepting_closes_with_1000(serve):
    """Its work is done."""
    peer = serve(lambda socket: socket.accept()).open()
    assert peer.closing() == Closed(1000)
    assert peer.ended() == "closed"


@pytest.mark.parametrize(
    "error", [ValueError("broken"), SystemExit(3), gevent.Timeout(), TimeoutError()]
)
def test_a_function_that_raises_after_accepting_closes_with_1011(serve, caplog, error):
    """The log has the traceback, and the reason on the wire says nothing of it."""

    def consumer(socket):
        socket.accept()
        raise error

    peer = serve(consumer).open()
    closed = peer.closing()
    assert closed.code == 1011 and "broken" not in closed.reason
    (record,) = [r for r in caplog.records if r.exc_info]
    assert record.exc_info[1] is error


def test_closing_before_accepting_refuses(serve):
    """close() is reject()."""
    assert serve(lambda socket: socket.close(4000, "no")).refused().status == 403


def test_what_accept_is_given_goes_on_the_wire(serve):
    """The subprotocol and the fields, also as bytes."""

    def consumer(socket):
        socket.accept("chat.v2", [("X-Room", "hall"), (b"set-cookie", b"a=1; b")])
        socket.wait()

    answer = serve(consumer).peer().open(subprotocols=["chat.v1", "chat.v2"])
    assert answer["sec-websocket-protocol"] == "chat.v2"
    assert answer["x-room"] == "hall"
    assert answer["set-cookie"] == "a=1; b"


def test_a_subprotocol_that_was_not_offered_is_an_error(serve):
    """ValueError; the handshake can still be accepted without."""
    errors = Queue()

    def consumer(socket):
        try:
            socket.accept("soap")
        except ValueError as error:
            errors.put(error)
        socket.accept()
        socket.wait()

    answer = serve(consumer).peer().open(subprotocols=["chat"])
    assert not answer.get("sec-websocket-protocol")
    assert "soap" in str(errors.get(timeout=1))


def test_the_route_chooses_the_first_of_its_subprotocols_that_is_offered(serve):
    """The route's order counts, not the peer's; none in common is none."""
    running = serve([websocket("/", echo, subprotocols=["v3", "v2", "v1"])])
    answer = running.peer().open(subprotocols=["v1", "v2"])
    assert answer["sec-websocket-protocol"] == "v2"
    answer = running.peer().open(subprotocols=["v9"])
    assert not answer.get("sec-websocket-protocol")
    assert not running.peer().open().get("sec-websocket-protocol")


def test_the_socket_tells_what_the_peer_offers(serve):
    """In its order, from one field or several."""
    seen = Queue()

    def consumer(socket):
        seen.put(socket.subprotocols)
        socket.accept()
        socket.wait()

    running = serve(consumer)
    running.open(subprotocols=["b", "a"])
    assert seen.get(timeout=1) == ["b", "a"]
    headers = [("Sec-WebSocket-Protocol", "c"), ("Sec-WebSocket-Protocol", "d, ,e")]
    running.open(headers=headers)
    assert seen.get(timeout=1) == ["c", "d", "e"]
    running.open()
    assert seen.get(timeout=1) == []


@pytest.mark.parametrize(
    "fields",
    [
        [("X-A", "b\r\nX-Evil: 1")],
        [("X-A\r\nX-Evil", "1")],
        [("X-A", "b\x00")],
        [("", "b")],
        [("X A", "b")],
        [("Sec-WebSocket-Accept", "x")],
        [("Connection", "close")],
        [("Content-Length", "5")],
        [("Sec-WebSocket-Extensions", "permessage-deflate")],
    ],
)
def test_headers_cannot_be_smuggled_into_the_101(serve, fields):
    """LocalProtocolError; the peer is told 500 and sees nothing of it."""
    errors = Queue()

    def consumer(socket):
        try:
            socket.accept(headers=fields)
        except LocalProtocolError as error:
            errors.put(error)
            raise

    answer = serve(consumer).refused()
    assert answer.status == 500
    assert not answer.get("x-evil")
    assert errors.get(timeout=1)


def test_headers_cannot_be_smuggled_into_a_refusal(serve):
    """The same rule for reject."""

    def consumer(socket):
        socket.reject(401, headers=[("X-A", "b\r\nX-Evil: 1")])

    answer = serve(consumer).refused()
    assert answer.status == 500
    assert not answer.get("x-evil")


def test_a_handshake_is_decided_once(serve):
    """RuntimeError for whoever accepts or refuses after accepting."""
    errors = Queue()

    def consumer(socket):
        socket.accept()
        for again in (socket.accept, socket.reject):
            try:
                again()
            except RuntimeError as error:
                errors.put(error)
        socket.wait()

    serve(consumer).open()
    assert errors.get(timeout=1) and errors.get(timeout=1)


def test_after_a_refusal_nothing_can_be_sent_or_received(serve):
    """ConnectionEnded, and the consumer ends without a traceback."""
    errors = Queue()

    def consumer(socket):
        socket.reject()
        for late in (lambda: socket.send("x"), socket.receive, socket.accept):
            try:
                late()
            except (ConnectionEnded, RuntimeError) as error:
                errors.put(error)
        assert list(socket) == []
        errors.put("iterated")

    assert serve(consumer).refused().status == 403
    assert [errors.get(timeout=1) for _ in range(4)][-1] == "iterated"


def test_frames_sent_before_the_101_wait_and_arrive(serve):
    """Some clients do not wait; nothing of it is lost, nothing out of order."""
    go = Event()

    def consumer(socket):
        go.wait()
        echo(socket)

    peer = serve(consumer).peer()
    peer.send(handshake() + frames("behind the head", b"\x00" * 300)[:-7])
    gevent.sleep(10 * MS)
    peer.send(frames("behind the head", b"\x00" * 300)[-7:] + frames("later"))
    assert peer.silent()
    go.set()
    assert peer.response().status == 101
    assert [peer.hear() for _ in range(3)] == [
        "behind the head",
        b"\x00" * 300,
        "later",
    ]


def test_frames_sent_before_the_101_are_bounded(serve):
    """The server reads a little and then lets TCP push back; all of it arrives."""
    go = Event()
    total = Queue()

    def consumer(socket):
        go.wait()
        total.put(sum(len(socket.receive()) for _ in range(400)))

    running = serve(consumer)
    peer = running.peer()
    peer.handshake()
    sender = gevent.spawn(peer.sock.sendall, frames(*[b"x" * 10_000] * 400))
    gevent.sleep(50 * MS)
    (socket,) = running.server.sockets
    assert len(socket._opening.peer_sent) < 1024 * 1024
    go.set()
    assert total.get(timeout=5) == 4_000_000
    sender.join(timeout=2)
    assert sender.successful()


def test_a_ping_before_the_101_is_answered_after_it(serve):
    """Behind the 101, not before."""
    go = Event()

    def consumer(socket):
        go.wait()
        socket.accept()
        socket.wait()

    peer = serve(consumer).peer()
    peer.send(handshake() + encode_masked(9, b"there?", b"abcd"))
    assert peer.silent()
    go.set()
    assert peer.response().status == 101
    frame = peer.next()
    assert (frame.opcode, frame.payload) == (10, b"there?")


def test_a_peer_that_leaves_before_the_decision_ends_the_socket(serve):
    """accept raises ConnectionEnded with 1006."""
    errors = Queue()

    def consumer(socket):
        gevent.sleep(50 * MS)
        try:
            socket.accept()
        except ConnectionEnded as error:
            errors.put(error.code)
            raise

    peer = serve(consumer).peer()
    peer.handshake()
    gevent.sleep(10 * MS)
    peer.close()
    assert errors.get(timeout=2) == 1006


def test_what_groups_send_before_the_101_comes_right_after_it(serve):
    """In order, text and bytes, before what the consumer sends afterwards."""
    go, joined = Event(), Event()

    def consumer(socket):
        socket.join("early")
        joined.set()
        go.wait()
        socket.accept()
        socket.send("own")
        socket.wait()

    peer = serve(consumer).peer()
    peer.handshake()
    joined.wait(1)
    for n in range(5):
        Group("early").send(f"{n}")
    Group("early").send(b"bytes")
    assert peer.silent()
    go.set()
    assert peer.response().status == 101
    assert [peer.hear() for _ in range(7)] == [*"01234", b"bytes", "own"]


def test_events_before_the_101_reach_a_consumer_that_iterates_over_events(serve):
    """They wait in the inbox like those that come later."""
    go, joined, seen = Event(), Event(), Queue()

    def consumer(socket):
        socket.join("early")
        joined.set()
        go.wait()
        for event in socket.events():
            seen.put(event)

    peer = serve(consumer).peer()
    peer.handshake()
    joined.wait(1)
    Group("early").send({"type": "one"})
    Group("early").send({"type": "two"})
    go.set()
    assert peer.response().status == 101
    assert seen.get(timeout=1) == {"type": "one"}
    assert seen.get(timeout=1) == {"type": "two"}


@pytest.mark.parametrize(
    "message", ["x" * 4000, b"x" * 4000, {"type": "e", "x": "x" * 99}]
)
def test_too_much_group_data_before_the_101_refuses_with_503(serve, message):
    """The bounds are those of a socket that reads too slowly."""
    joined = Event()

    def consumer(socket):
        socket.join("early")
        joined.set()
        gevent.sleep(1)

    running = serve(
        consumer,
        limits=Limits(max_write_buffer=10_000, max_inbox=20, stop_timeout=10 * MS),
    )
    peer = running.peer()
    peer.handshake()
    joined.wait(1)
    for _ in range(30):
        Group("early").send(message)
    assert peer.response().status == 503
    assert sum(running.counters.values()) == 1


def test_one_message_before_the_101_fits_whatever_its_size(serve):
    """Limits are tested before adding."""
    go, joined = Event(), Event()

    def consumer(socket):
        socket.join("early")
        joined.set()
        go.wait()
        socket.accept()
        socket.wait()

    peer = serve(consumer, limits=Limits(max_write_buffer=1000)).peer()
    peer.handshake()
    joined.wait(1)
    Group("early").send("x" * 10_000)
    go.set()
    assert peer.response().status == 101
    assert peer.hear() == "x" * 10_000


def test_the_101_is_never_dropped_with_what_a_slow_member_has_not_read(serve):
    """What overflows right behind it closes with 1013, as a WebSocket."""
    go, joined = Event(), Event()

    def consumer(socket):
        socket.join("early")
        joined.set()
        go.wait()
        socket.accept()
        for _ in range(100):
            Group("early").send("x" * 10_000)
        socket.wait()

    limits = Limits(max_write_buffer=20_000)
    running = serve(consumer, limits=limits, send_buffer=16384)
    peer = running.peer(receive_buffer=16384)
    peer.handshake()
    joined.wait(1)
    go.set()
    assert peer.response().status == 101
    assert peer.closing().code == 1013


def test_what_is_kept_before_the_101_is_sent_after_it(serve):
    """What the bounds let in then is not too much a moment later."""
    go, joined = Event(), Event()

    def consumer(socket):
        socket.join("early")
        joined.set()
        go.wait()
        socket.accept()
        socket.wait()

    peer = serve(consumer, limits=Limits(max_write_buffer=1000)).peer()
    peer.handshake()
    joined.wait(1)
    for n in range(900):
        Group("early").send(f"{n % 10}")
    go.set()
    assert peer.response().status == 101
    assert [peer.hear() for _ in range(900)] == [f"{n % 10}" for n in range(900)]


def test_a_user_is_closed_before_its_101_as_well(serve):
    """A logout that comes while the handshake is decided is not forgotten."""
    from greenchannels import User

    go, joined = Event(), Event()

    def consumer(socket):
        socket.user = 7
        joined.set()
        go.wait()
        socket.accept()
        socket.wait()

    peer = serve(consumer).peer()
    peer.handshake()
    joined.wait(1)
    User(7).close(4001, "logout")
    go.set()
    answer = peer.response()
    if answer.status == 101:
        assert peer.closing() == Closed(4001, "logout")
    else:
        assert answer.status == 403


# Origin.


def test_no_origin_is_not_a_browser_and_allowed(serve):
    """So is the page of the host that was asked for."""
    running = serve(echo)
    running.open(host="example.org")
    running.open(headers=[("Origin", "http://example.org")], host="example.org")
    running.open(headers=[("Origin", "https://example.org")], host="example.org")
    running.open(headers=[("Origin", "http://localhost:81")], host="localhost:81")


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://example.org.evil.example",
        "http://example.org:81",
        "null",
        "",
        "http://",
        "file://",
        "http://evil.example#example.org",
        "http://evil.example/example.org",
        "http://example.org@evil.example",
        "chrome-extension://example.org",
        "not a url",
        "http://[",
    ],
)
def test_a_page_of_another_origin_is_refused_and_both_are_logged(serve, caplog, origin):
    """403, without running the consumer."""

    def consumer(socket):
        raise AssertionError("must not run")

    answer = serve(consumer).refused(headers=[("Origin", origin)], host="example.org")
    assert answer.status == 403
    (record,) = [r for r in caplog.records if "origin" in r.getMessage()]
    assert repr(origin) in record.getMessage()
    assert "'example.org'" in record.getMessage()


def test_origin_patterns_of_the_server_and_of_the_route_let_others_in(serve):
    """The route's stand beside the server's; the asked host stays allowed."""
    running = serve(
        [websocket("/a", echo, origins=["https://b.example"]), websocket("/c", echo)],
        origins=(".d.example",),
    )
    running.open("/a", [("Origin", "https://b.example")])
    running.open("/a", [("Origin", "https://x.d.example")])
    running.open("/a", [("Origin", "http://localhost")])
    running.open("/c", [("Origin", "https://d.example:444")])
    for path, origin in [
        ("/a", "http://b.example"),
        ("/c", "https://b.example"),
        ("/c", "https://xd.example"),
    ]:
        assert running.refused(path, [("Origin", origin)]).status == 403


def test_a_forwarded_host_counts_only_from_a_trusted_proxy(serve):
    """Anybody can send X-Forwarded-Host."""
    headers = [("Origin", "https://public.example")]
    headers.append(("X-Forwarded-Host", "public.example"))
    assert serve(echo).refused(headers=headers).status == 403
    running = serve(echo, proxies=("127.0.0.0/8",))
    running.open(headers=headers)
    assert serve(echo, proxies=("10.0.0.0/8",)).refused(headers=headers).status == 403


# Requests that are no handshakes, and paths that nothing serves.


def without(name):
    """Return a handshake without one of its fields."""
    lines = handshake().split(b"\r\n")
    return b"\r\n".join(x for x in lines if not x.lower().startswith(name))


@pytest.mark.parametrize(
    "data, status",
    [
        (handshake("/nowhere"), 404),
        (handshake("/page"), 404),
        (handshake("/files/a.txt"), 404),
        (handshake().replace(b": 13", b": 8"), 426),
        (without(b"sec-websocket-version"), 426),
        (without(b"sec-websocket-key"), 400),
        (handshake(headers=[("Sec-WebSocket-Key", "again")]), 400),
        (handshake().replace(b"Key: ", b"Key: x"), 400),
        (handshake().replace(b"GET", b"POST"), 405),
        (handshake(headers=[("Content-Length", "3")]) + b"abc", 400),
        (handshake(headers=[("Sec-WebSocket-Protocol", "a b")]), 400),
        (handshake(host="a b"), 400),
        (without(b"host"), 400),
        (request("/"), 404),
        (request("/", "POST", body=b"x"), 404),
    ],
)
def test_what_is_no_handshake_is_refused(serve, tmp_path, data, status):
    """With the status that says why; the connection then ends."""
    (tmp_path / "a.txt").write_text("a")
    routing = [
        websocket("/", echo),
        http("/page", lambda r: "page"),
        static("/files", str(tmp_path)),
    ]
    client = serve(routing).client()
    client.send(data)
    answer = client.response()
    assert answer.status == status
    if status == 426:
        assert answer["sec-websocket-version"] == "13"
    if status == 405:
        assert answer["allow"] == "GET"


def test_a_handshake_by_http_1_0_is_an_ordinary_request(serve):
    """There is no upgrade in HTTP/1.0."""
    client = serve([websocket("/", echo), http("/", lambda r: "page")]).client()
    client.send(handshake().replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert client.response().body == b"page"


def test_one_path_serves_pages_and_sockets(serve):
    """Handshakes skip http routes, requests skip websocket routes."""
    running = serve([http("/", lambda r: "page"), websocket("/", echo)])
    assert running.get().body == b"page"
    peer = running.open()
    peer.say("x")
    assert peer.hear() == "x"


def test_a_handshake_may_follow_requests_on_the_same_connection(serve):
    """Pipelined, with frames behind it."""
    running = serve([http("/", lambda r: "page"), websocket("/", echo)])
    peer = running.peer()
    peer.send(request() + request() + handshake() + frames("x"))
    assert peer.response().body == b"page"
    assert peer.response().body == b"page"
    assert peer.response().status == 101
    assert peer.hear() == "x"


def test_the_request_of_the_handshake_is_there_to_read(serve):
    """Path, fields, query, headers, cookies, client, scope."""
    seen = Queue()

    def consumer(socket, room):
        seen.put(
            (
                socket.path,
                room,
                socket.params,
                socket.query.getlist("a"),
                socket.headers["X-THING"],
                socket.cookies["c"],
                socket.client[0],
                socket.scope["type"],
                socket.session,
                socket.user,
                socket.state,
            )
        )
        socket.wait()

    running = serve([websocket("/chat/<room>", consumer)])
    headers = [("x-thing", "y"), ("Cookie", "b=1; c=2")]
    running.open("/chat/caf%C3%A9?a=1&a=%20", headers)
    assert seen.get(timeout=1) == (
        "/chat/café",
        "café",
        {"room": "café"},
        ["1", " "],
        "y",
        "2",
        "127.0.0.1",
        "websocket",
        None,
        None,
        {},
    )


def test_the_client_behind_a_trusted_proxy_is_the_one_it_names(serve):
    """The last address that is not trusted itself."""
    seen = Queue()

    def consumer(socket):
        seen.put((socket.client[0], socket.scope["scheme"], socket.scope["server"]))
        socket.wait()

    running = serve(consumer, proxies=("127.0.0.1", "10.0.0.0/8"))
    running.open(
        headers=[
            ("X-Forwarded-For", "6.6.6.6, 203.0.113.9, 10.1.1.1"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "public.example"),
        ]
    )
    assert seen.get(timeout=1) == ("203.0.113.9", "wss", ("public.example", 443))


def test_the_head_may_come_a_byte_at_a_time(serve):
    """And the first frame with it."""
    peer = serve(echo).peer()
    for byte in handshake() + frames("x"):
        peer.send(bytes([byte]))
        gevent.sleep(0)
    assert peer.response().status == 101
    assert peer.hear() == "x"


def test_a_socket_says_what_happened_in_its_repr(serve):
    """Its path, for those who read logs."""
    seen = Queue()

    def consumer(socket):
        seen.put(repr(socket))
        socket.wait()

    serve([websocket("/a/b", consumer)]).open("/a/b")
    assert "/a/b" in seen.get(timeout=1)


def test_handshakes_are_answered_while_another_consumer_thinks(serve):
    """One greenlet each."""
    running = serve(
        [websocket("/slow", lambda s: gevent.sleep(9)), websocket("/", echo)]
    )
    running.peer().handshake("/slow")
    peer = running.open()
    peer.frame(TEXT, b"x")
    assert peer.hear() == "x"
    peer.frame(BINARY, b"x")
    assert peer.hear() == b"x"
    assert until(lambda: len(running.server.sockets) == 2)


def test_ipv6_is_served(serve):
    """Addresses in brackets are compared, and clients have theirs."""
    seen = []

    def consumer(socket):
        seen.append((socket.client, socket.headers["host"]))
        for message in socket:
            socket.send(message)

    running = serve(consumer, host="::1")
    host = f"[::1]:{running.address[1]}"
    peer = running.open("/", [("Origin", f"http://{host}")], host=host)
    peer.say("x")
    assert peer.hear() == "x"
    assert seen == [(peer.sock.getsockname()[:2], host)]
    refused = running.refused("/", [("Origin", "http://[::2]")], host=host)
    assert refused.status == 403
    assert f"[::1]:{peer.sock.getsockname()[1]}" in running.access.getvalue()
