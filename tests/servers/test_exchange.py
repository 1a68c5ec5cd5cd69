"""Requests and responses over GSGI: bodies, files, trailers, keep-alive."""

import gevent
import pytest
from gevent.event import Event

from greenchannels import HTTPLimits, Timeouts, gsgi, http
from greenchannels.servers.response import MAX_DISCARDED
from tests.servers.harness import request, until

HELLO = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def http_only(consumer, path="/"):
    """Return a routing for a consumer that serves no lifespan."""

    def guarded(scope, receive, send):
        if scope["type"] != "http":
            raise ValueError("HTTP only")
        consumer(scope, receive, send)

    return [gsgi(path, guarded)]


def start(send, status=200, headers=(), **more):
    """Begin a response."""
    event = {"type": "http.response.start", "status": status, "headers": headers}
    send(event | more)


def body(send, data=b"", more=False):
    """Send a piece of one."""
    send({"type": "http.response.body", "body": data, "more_body": more})


def ignoring(scope, receive, send):
    """Answer without a look at the request's body."""
    start(send)
    body(send, b"ignored")


def test_pipelined_requests_are_answered_in_order(serve):
    """Ten thousand of them, in one write."""
    served = []

    def view(request):
        served.append(request.args["n"])
        return request.args["n"]

    client = serve([http("/", view)]).client()
    lines = [b"GET /?n=%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(10_000)]
    sender = gevent.spawn(client.sock.sendall, b"".join(lines))
    for n in range(10_000):
        assert client.response(seconds=30).body == b"%d" % n
    sender.get()
    assert len(served) == 10_000


def test_other_connections_are_served_while_one_pipelines(serve):
    """A turn of the hub begins a bounded number of requests."""
    order = []
    running = serve([http("/<who>", lambda request, who: order.append(who) or "x")])
    greedy, modest = running.client(), running.client()
    greedy.send(HELLO.replace(b"/ ", b"/greedy ") * 300)
    modest.send(HELLO.replace(b"/ ", b"/modest "))
    assert modest.response().status == 200
    assert order.index("modest") < 250
    for _ in range(300):
        greedy.response()


def test_a_small_body_that_nobody_reads_is_discarded(serve):
    """And the connection goes on."""
    client = serve(http_only(ignoring)).client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
    answer = client.response()
    assert answer.body == b"ignored"
    assert not answer.get("connection")
    client.send(b"67890" + HELLO)
    assert client.response().body == b"ignored"


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: %d\r\n" % (MAX_DISCARDED + 6),
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 10\r\nExpect: 100-continue\r\n",
    ],
)
def test_a_body_that_may_be_long_or_never_come_ends_the_connection(serve, head):
    """Once the answer is out; none of it is taken for a request."""
    client = serve(http_only(ignoring)).client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n1")
    answer = client.response()
    assert answer.body == b"ignored"
    assert answer["connection"] == "close"
    client.send(HELLO)
    client.half_close()
    assert client.rest() == b""


def test_a_discarded_body_must_come_in_time(serve):
    """The body timeout goes on after the response."""
    running = serve(http_only(ignoring), timeouts=Timeouts(body_timeout=0.1))
    client = running.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
    assert client.response().body == b"ignored"
    assert client.rest() == b""


def test_trailers_of_a_request_come_with_the_end_of_its_body(serve):
    """Beside the body, never among the headers."""
    seen = []

    def consumer(scope, receive, send):
        while (event := receive())["type"] == "http.request":
            seen.append(event)
            if not event["more_body"]:
                break
        start(send)
        body(send)

    client = serve(http_only(consumer)).client()
    client.send(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n"
    )
    assert client.response().status == 200
    assert b"".join(event["body"] for event in seen) == b"abc"
    assert [tuple(each) for each in seen[-1]["trailers"]] == [(b"x-sum", b"7")]
    assert all("trailers" not in event for event in seen[:-1])


def test_trailers_of_a_response_follow_its_chunks(serve):
    """ASGI's extension http.response.trailers."""

    def consumer(scope, receive, send):
        assert "http.response.trailers" in scope["extensions"]
        start(send, headers=[(b"Trailer", b"X-Sum")], trailers=True)
        body(send, b"abc", more=True)
        body(send, b"def")
        send({"type": "http.response.trailers", "headers": [(b"X-Sum", b"9")]})

    client = serve(http_only(consumer)).client()
    client.send(HELLO)
    head = client.read_until(b"\r\n\r\n")
    assert b"transfer-encoding: chunked\r\n" in head
    rest = client.read_until(b"\r\n\r\n")
    assert rest == b"3\r\nabc\r\n3\r\ndef\r\n0\r\nx-sum: 9\r\n\r\n"
    client.send(HELLO)
    assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "events",
    [
        [{"type": "http.response.trailers", "headers": []}],
        [
            {"type": "http.response.start", "status": 200},
            {"type": "http.response.trailers", "headers": []},
        ],
        [
            {"type": "http.response.start", "status": 200},
            {"type": "http.response.start", "status": 200},
        ],
        [{"type": "http.response.body", "body": b""}],
        [{"type": "http.response.start", "status": 99}, {"type": "http.response.body"}],
        [{"type": "websocket.accept"}],
        [
            {"type": "http.response.start", "status": 200, "headers": [(b"a b", b"")]},
            {"type": "http.response.body"},
        ],
        [
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", b"1x")],
            },
            {"type": "http.response.body"},
        ],
    ],
)
def test_events_that_make_no_response_are_a_500(serve, events, caplog):
    """The log says what was wrong."""

    def consumer(scope, receive, send):
        for event in events:
            send(event)

    assert serve(http_only(consumer)).get().status == 500
    assert "the consumer failed" in caplog.text


@pytest.fixture
def big(tmp_path):
    """A file that no socket's buffer holds."""
    path = tmp_path / "big"
    path.write_bytes(bytes(range(256)) * 40_000)
    return path


def file_consumer(path, *, offset=None, count=None, length=None, more=False):
    """Return a consumer that sends a part of a file."""

    def consumer(scope, receive, send):
        assert "http.response.zerocopysend" in scope["extensions"]
        headers = [] if length is None else [(b"content-length", b"%d" % length)]
        start(send, headers=headers)
        with path.open("rb") as file:
            event = {"type": "http.response.zerocopysend", "file": file}
            event |= {"offset": offset, "count": count, "more_body": more}
            send({name: value for name, value in event.items() if value is not None})
        if more:
            body(send, b"the end")

    return consumer


@pytest.mark.parametrize(
    ("offset", "count"), [(None, None), (0, 7), (5, 1_000_000), (10_239_990, None)]
)
@pytest.mark.parametrize("more", [False, True])
def test_a_part_of_a_file_is_sent_by_the_kernel(serve, big, offset, count, more):
    """All of it, framed like any other body, and the connection goes on."""
    consumer = file_consumer(big, offset=offset, count=count, more=more)
    client = serve(http_only(consumer)).client()
    data = big.read_bytes()[offset or 0 :][:count]
    for _ in range(2):
        client.send(HELLO)
        answer = client.response()
        assert answer.body == data + (b"the end" if more else b"")
        assert bool(answer.get("transfer-encoding")) == more


def test_a_file_is_not_sent_for_a_head_request(serve, big):
    """Its length is."""
    answer = serve(http_only(file_consumer(big))).get(method="HEAD")
    assert answer["content-length"] == str(big.stat().st_size)


def test_a_file_that_is_shorter_than_promised_cuts_the_connection(serve, big, caplog):
    """The peer can tell that something is missing."""
    consumer = file_consumer(big, offset=10_239_990, count=50)
    client = serve(http_only(consumer)).client()
    client.send(HELLO)
    assert b"content-length: 50\r\n" in client.read_until(b"\r\n\r\n")
    with pytest.raises((EOFError, ConnectionResetError)):
        client.read(50)
    assert "the file has shrunk" in caplog.text


def test_a_file_that_is_longer_than_promised_is_not_sent(serve, big, caplog):
    """Nothing goes out that the peer would take for the next response."""
    assert serve(http_only(file_consumer(big, length=5))).get().status == 500
    assert "longer than Content-Length says" in caplog.text


def test_a_client_that_stops_reading_a_file_is_cut(serve, big):
    """After the write timeout; the consumer hears of it."""
    ended = Event()
    inner = file_consumer(big)

    def consumer(scope, receive, send):
        try:
            inner(scope, receive, send)
        finally:
            ended.set()

    running = serve(http_only(consumer), timeouts=Timeouts(write_timeout=0.2))
    client = running.client(receive_buffer=4096)
    client.send(HELLO)
    assert ended.wait(10)
    until(lambda: not running.server.connections)


def test_a_client_that_leaves_during_a_file_ends_its_consumer(serve, big):
    """Without a traceback."""
    ended = Event()
    inner = file_consumer(big)

    def consumer(scope, receive, send):
        try:
            inner(scope, receive, send)
        finally:
            ended.set()

    client = serve(http_only(consumer)).client(receive_buffer=4096)
    client.send(HELLO)
    client.read(1000)
    client.reset()
    assert ended.wait(10)


def test_several_clients_get_files_side_by_side(serve, big):
    """A slow one holds up nobody."""
    running = serve(http_only(file_consumer(big)))
    slow = running.client(receive_buffer=4096)
    slow.send(HELLO)
    slow.read(100)
    for _ in range(3):
        assert running.get().body == big.read_bytes()


def test_what_is_pipelined_behind_a_refused_body_is_never_served(serve):
    """It may be the body's rest."""
    served = []
    running = serve(
        [http("/", lambda request: served.append(1) or "x", methods=["GET", "POST"])],
        http=HTTPLimits(max_body=10),
    )
    client = running.client()
    client.send(request(method="POST", body=b"x" * 11) + HELLO)
    assert client.response().status == 413
    client.half_close()
    assert client.rest() == b""
    assert served == []


def test_a_head_that_begins_behind_a_request_must_end_in_time(serve):
    """Although the connection might rest much longer between two requests."""
    running = serve(
        [http("/", lambda request: "page")],
        timeouts=Timeouts(head_timeout=0.1, keep_alive=60.0),
    )
    client = running.client()
    client.send(HELLO + HELLO[:10])
    assert client.response().body == b"page"
    assert client.response().status == 408


def test_a_request_behind_one_that_waits_is_served_when_its_turn_comes(serve):
    """It came while the first was being served."""
    go = Event()

    def view(request):
        if request.path == "/slow":
            go.wait()
        return request.path

    client = serve([http("/<name>", lambda request, name: view(request))]).client()
    client.send(HELLO.replace(b"/ ", b"/slow "))
    client.send(HELLO.replace(b"/ ", b"/fast "))
    assert client.silent()
    go.set()
    assert [client.response().body for _ in range(2)] == [b"/slow", b"/fast"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("leaves", [True, False])
def test_a_consumer_that_never_stops_sending_stops_nobody_else(serve, method, leaves):
    """It ends when its peer has gone; until then others have their turns."""
    ended = Event()

    def consumer(scope, receive, send):
        if scope["path"] == "/other":
            start(send)
            body(send, b"other")
            return
        start(send)
        try:
            while True:
                body(send, b"x" * 100, more=True)
        finally:
            ended.set()

    running = serve(http_only(consumer, "/<name>"))
    client = running.client()
    client.send(request("/endless", method))
    client.read_until(b"\r\n\r\n")
    reader = gevent.spawn(client.ended, 30)
    for _ in range(3):
        assert running.get("/other").body == b"other"
    if leaves:
        reader.kill()
        client.reset()
    else:
        client.half_close()
        running.server.connections[next(iter(running.server.connections))].abort()
    assert ended.wait(10)
    reader.kill()


def test_tiny_chunks_do_not_hold_up_others(serve):
    """They are parsed a few thousand at a time."""
    seen = []

    def consumer(scope, receive, send):
        if scope["method"] == "POST":
            while (event := receive())["more_body"]:
                seen.append(len(event["body"]))
            seen.append(len(event["body"]))
        start(send)
        body(send, str(sum(seen)).encode())

    running = serve(http_only(consumer))
    client, other = running.client(), running.client()
    client.send(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"1\r\na\r\n" * 40_000
    )
    other.send(HELLO)
    assert int(other.response().body) < 40_000
    client.send(b"0\r\n\r\n")
    assert client.response(seconds=30).body == b"40000"


@pytest.mark.parametrize("status", [100, 101, 199, 0, 1000])
def test_no_consumer_sends_an_interim_status_as_its_answer(serve, status):
    """The client would wait for another one."""

    def consumer(scope, receive, send):
        start(send, status)
        body(send, b"x")

    assert serve(http_only(consumer)).get().status == 500


@pytest.mark.parametrize("data", [bytearray(b"abcd"), memoryview(b"abcd").cast("H")])
@pytest.mark.parametrize("more", [False, True])
def test_bodies_may_be_other_buffers(serve, data, more):
    """They count by their bytes."""

    def consumer(scope, receive, send):
        start(send)
        body(send, data, more)
        if more:
            body(send)

    assert serve(http_only(consumer)).get().body == b"abcd"


@pytest.mark.parametrize(
    "rest", [b"zz\r\n", b"5\r\nab"], ids=["malformed", "stalled for too long"]
)
def test_a_refused_body_ends_its_consumer_quietly(serve, rest, caplog):
    """It is the peer's fault: there is no traceback."""
    ended = Event()

    def consumer(scope, receive, send):
        try:
            while receive()["type"] == "http.request":
                pass
            start(send)
            body(send)
        finally:
            ended.set()

    running = serve(http_only(consumer), timeouts=Timeouts(body_timeout=0.1))
    client = running.client()
    client.send(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + rest
    )
    assert client.response().status in (400, 408)
    assert ended.wait(5)
    gevent.sleep(0)
    assert "Traceback" not in caplog.text


def test_a_response_that_is_cut_is_in_the_access_log(serve):
    """With what was sent of it."""

    def consumer(scope, receive, send):
        start(send)
        body(send, b"abc", more=True)
        raise LookupError("half way")

    running = serve(http_only(consumer))
    client = running.client()
    client.send(HELLO)
    client.ended()
    assert '"GET / HTTP/1.1" 200 3' in running.access.getvalue()
