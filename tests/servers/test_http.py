"""HTTP/1.1 as the server speaks it: order, framing, limits, and the end."""

import contextlib
import time

import gevent
import pytest
from gevent.event import Event
from gevent.queue import Queue

from greenchannels import HTTPLimits, Timeouts, gsgi, http
from tests.servers.harness import MS, patience, request, until


def page(request):
    """Say which page it is."""
    return f"page {request.path}"


def size(request):
    """Say how large the body is."""
    return f"{request.method} {len(request.get_data())}"


ROUTES = [
    http("/size", size, methods=["POST", "PUT"]),
    http("/<path:rest>", lambda r, rest: page(r)),
    http("/", page),
]


def test_a_connection_serves_many_requests(serve):
    """Keep-alive is the default of HTTP/1.1."""
    client = serve(ROUTES).client()
    for n in range(5):
        client.send(request(f"/{n}"))
        answer = client.response()
        assert (answer.status, answer.body) == (200, f"page /{n}".encode())
        assert answer["content-length"] == "7"
        assert not answer.get("connection")
        assert answer["date"].endswith("GMT")


def test_pipelined_requests_are_answered_in_order(serve):
    """Although the first takes longest."""
    served = []

    def slow_first(request, rest):
        gevent.sleep(30 * MS if rest == "0" else 0)
        served.append(rest)
        return rest

    client = serve([http("/<path:rest>", slow_first)]).client()
    client.send(b"".join(request(f"/{n}") for n in range(20)))
    assert [client.response().body for _ in range(20)] == [b"%d" % n for n in range(20)]
    assert served == [str(n) for n in range(20)]


def test_pipelined_requests_with_bodies_are_kept_apart(serve):
    """Content-Length and chunked, whole and byte by byte."""
    chunked = request("/size", "PUT", [("Transfer-Encoding", "chunked")])
    chunked += b"3\r\nabc\r\n1;x=y\r\nd\r\n0\r\nTrailer: x\r\n\r\n"
    data = request("/size", "POST", body=b"x" * 10) + chunked + request("/a")
    running = serve(ROUTES)
    for step in (len(data), 1):
        client = running.client()
        for start in range(0, len(data), step):
            client.send(data[start : start + step])
            gevent.sleep(0)
        assert client.response().body == b"POST 10"
        assert client.response().body == b"PUT 4"
        assert client.response().body == b"page /a"


def test_reading_stops_while_requests_wait_their_turn(serve):
    """A peer cannot fill the memory with requests that it sends ahead."""
    go = Event()

    def wait(request, rest):
        go.wait()
        return "x"

    client = serve([http("/<path:rest>", wait)]).client()
    sender = gevent.spawn(client.sock.sendall, request("/x") * 300_000)
    gevent.sleep(50 * MS)
    assert not sender.ready()
    sender.kill()
    go.set()


def test_head_has_the_head_of_get_and_no_body(serve):
    """The next response follows at once."""
    client = serve(ROUTES).client()
    client.send(request("/abc", "HEAD") + request("/abc") + request("/nowhere", "HEAD"))
    head = client.response(method="HEAD")
    answer = client.response()
    assert head["content-length"] == answer["content-length"] == "9"
    assert head["content-type"] == answer["content-type"]
    assert client.response(method="HEAD").status == 200


def test_head_of_errors_has_no_body_either(serve):
    """404, 405, 500."""

    def fail(request):
        raise ValueError

    running = serve([http("/post", page, methods=["POST"]), http("/fail", fail)])
    for path, status in [("/none", 404), ("/post", 405), ("/fail", 500)]:
        client = running.client()
        client.send(request(path, "HEAD", [("Connection", "close")]))
        assert client.response(method="HEAD").status == status
        assert client.rest() == b""


def test_http_1_0_closes_unless_asked_to_keep_the_connection(serve):
    """And is told that it is kept."""
    running = serve(ROUTES)
    client = running.client()
    client.send(request("/a", version="1.0"))
    answer = client.response()
    assert answer.body == b"page /a" and answer["connection"] == "close"
    assert client.rest() == b""
    client = running.client()
    keep = [("Connection", "keep-alive")]
    client.send(request("/a", headers=keep, version="1.0") * 2)
    assert client.response()["connection"] == "keep-alive"
    assert client.response().body == b"page /a"
    client = running.client()
    client.send(b"GET /a HTTP/1.0\r\n\r\n")
    assert client.response().body == b"page /a"


def test_connection_close_ends_after_its_response(serve):
    """Whatever was pipelined behind it."""
    client = serve(ROUTES).client()
    client.send(request("/a", headers=[("Connection", "close")]) + request("/b"))
    answer = client.response()
    assert answer["connection"] == "close"
    assert client.rest() == b""


def test_a_stream_is_chunked_for_1_1_and_ended_by_closing_for_1_0(serve):
    """Because its length is not known."""

    def stream(request):
        yield "a"
        yield ""
        yield b"b" * 1000

    running = serve([http("/", stream)])
    client = running.client()
    client.send(request() * 2)
    for _ in range(2):
        answer = client.response()
        assert answer["transfer-encoding"] == "chunked"
        assert answer.body == b"a" + b"b" * 1000
    client = running.client()
    client.send(request(version="1.0", headers=[("Connection", "keep-alive")]))
    answer = client.response()
    assert not answer.get("transfer-encoding")
    assert answer.body == b"a" + b"b" * 1000


def test_a_stream_arrives_as_it_is_made(serve):
    """Each piece when it was yielded."""
    go = Event()

    def stream(request):
        yield "first"
        go.wait()
        yield "second"

    client = serve([http("/", stream)]).client()
    client.send(request())
    client.read_until(b"first\r\n")
    assert client.silent(20 * MS)
    go.set()
    assert client.read_until(b"second")


def test_a_stream_that_fails_half_way_cuts_the_connection(serve, caplog):
    """The peer must not take the part for the whole."""
    go = Event()

    def stream(request):
        yield "half"
        go.wait()
        raise ValueError("half way")

    running = serve([http("/", stream)])
    client = running.client()
    client.send(request())
    client.read_until(b"half\r\n")
    go.set()
    with contextlib.suppress(ConnectionResetError):
        assert b"0\r\n\r\n" not in client.rest()
    assert "half way" in caplog.text


@pytest.mark.parametrize("sent", [4, 6])
def test_a_body_that_is_not_as_long_as_promised_cuts_the_connection(
    serve, caplog, sent
):
    """Too short or too long."""

    def consumer(scope, receive, send):
        headers = [(b"content-length", b"5")]
        send({"type": "http.response.start", "status": 200, "headers": headers})
        send({"type": "http.response.body", "body": b"x" * sent})

    client = serve([gsgi("/", consumer)]).client()
    client.send(request())
    with contextlib.suppress(ConnectionResetError):
        assert b"xxxxxx" not in client.rest()
    assert caplog.records


#: Pieces of a stream that no test reads to its end.
ENDLESS = 5000


def endless(made):
    """Return a view whose stream goes on and on, and counts its pieces."""

    def stream(request):
        for n in range(ENDLESS):
            made[0] = n + 1
            yield "x" * 10_000

    return stream


@pytest.mark.parametrize("leave", ["reset", "close"])
def test_a_peer_that_leaves_ends_the_stream(serve, leave):
    """One without an end would never let the hub go on."""
    made = [0]
    running = serve([http("/", endless(made))], send_buffer=16384)
    client = running.client(receive_buffer=16384)
    client.send(request())
    client.read(100_000)
    getattr(client, leave)()
    until(lambda: not running.server.consumers)
    assert made[0] < 100


def test_a_slow_reader_blocks_the_stream_and_is_cut(serve):
    """Memory is bounded, and write_timeout ends it."""
    made = [0]
    running = serve(
        [http("/", endless(made))],
        send_buffer=16384,
        timeouts=Timeouts(write_timeout=200 * MS),
    )
    client = running.client(receive_buffer=16384)
    client.send(request())
    gevent.sleep(50 * MS)
    assert made[0] < 100
    until(lambda: not running.server.consumers, seconds=2)
    assert made[0] < 100
    assert not running.server.connections


# Limits.


@pytest.mark.parametrize(
    "data, status",
    [
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"x" * 65536 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 100 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 16777217\r\n\r\n", 413),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 9" + b"9" * 30 + b"\r\n\r\n",
            413,
        ),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: \x00\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /%ff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", 400),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: cow\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ],
)
def test_a_request_that_breaks_a_rule_or_a_limit_is_refused(serve, data, status):
    """With the status that says which, and the connection ends."""
    running = serve(ROUTES)
    client = running.client()
    client.send(data)
    answer = client.response()
    assert answer.status == status
    assert answer["connection"] == "close"
    assert client.ended() == "closed"


def test_what_came_before_a_bad_request_is_answered(serve):
    """Then the refusal, in order."""
    client = serve(ROUTES).client()
    client.send(request("/a") + request("/b") + b"nonsense\r\n\r\n" + request("/c"))
    assert client.response().body == b"page /a"
    assert client.response().body == b"page /b"
    assert client.response().status == 400
    assert client.rest() == b""


def test_a_head_of_the_limit_passes_and_a_byte_more_does_not(serve):
    """64 KiB, counted with its last line."""
    running = serve(ROUTES)
    start = b"GET /a HTTP/1.1\r\nHost: a\r\nA: "
    room = 64 * 1024 - len(start) - len(b"\r\n\r\n")
    for extra, status in ((0, 200), (1, 431)):
        client = running.client()
        client.send(start + b"x" * (room + extra) + b"\r\n\r\n")
        assert client.response().status == status


def test_a_head_that_never_ends_is_refused_at_the_limit(serve):
    """Not only when it is complete."""
    client = serve(ROUTES, http=HTTPLimits(max_head=1000)).client()
    client.send(b"GET /a HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 60)
    assert client.silent()
    client.send(b"A" * 1000)
    assert client.response().status == 431


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\n"])
def test_a_stalled_head_is_not_waited_for_for_ever(serve, sent):
    """408 if it has begun, and the end in any case."""
    running = serve(ROUTES, timeouts=Timeouts(head_timeout=80 * MS))
    client = running.client()
    if sent:
        client.send(sent)
        assert client.response().status == 408
    assert client.rest() == b""


def test_a_head_that_trickles_in_has_no_more_time(serve):
    """A byte now and then does not help (slowloris)."""
    running = serve(ROUTES, timeouts=Timeouts(head_timeout=100 * MS, keep_alive=9))
    for first in (b"", request("/a")):
        client = running.client()
        if first:
            client.send(first)
            assert client.response().status == 200
        start = time.monotonic()
        with pytest.raises((OSError, EOFError)):
            for byte in request("/" + "x" * 1000):
                client.send(bytes([byte]))
                gevent.sleep(10 * MS)
                if not client.silent(1 * MS):
                    assert client.response().status == 408
                    client.read(1)
        assert time.monotonic() - start < 1.5


def test_an_idle_connection_is_closed_after_its_keep_alive(serve):
    """Quietly."""
    client = serve(ROUTES, timeouts=Timeouts(keep_alive=60 * MS)).client()
    client.send(request("/a"))
    assert client.response().status == 200
    assert client.rest(seconds=1) == b""


def test_a_body_over_the_limit_is_refused_before_it_comes(serve):
    """413 for the announcement; the view never runs."""
    ran = []
    running = serve(
        [http("/", lambda r: ran.append(1) or "x", methods=["POST"])],
        http=HTTPLimits(max_body=1000),
    )
    client = running.client()
    client.send(request("/", "POST", [("Content-Length", "1001")]))
    assert client.response().status == 413
    assert not ran
    assert running.get("/", "POST", body=b"x" * 1000).status == 200


def test_a_chunked_body_over_the_limit_is_refused_when_it_gets_there(serve):
    """413, at once, although nobody could know before."""
    running = serve(ROUTES, http=HTTPLimits(max_body=1000))
    client = running.client()
    client.send(request("/size", "POST", [("Transfer-Encoding", "chunked")]))
    client.send(b"1f4\r\n" + b"x" * 500 + b"\r\n")
    gevent.sleep(5 * MS)
    client.send(b"1f5\r\n" + b"x" * 501 + b"\r\n0\r\n\r\n")
    assert client.response(seconds=1).status == 413


def test_a_malformed_chunk_is_refused(serve):
    """400, at once."""
    client = serve(ROUTES).client()
    client.send(request("/size", "POST", [("Transfer-Encoding", "chunked")]))
    gevent.sleep(5 * MS)
    client.send(b"xyz\r\n")
    assert client.response(seconds=1).status == 400


def test_a_body_that_stalls_is_not_waited_for_for_ever(serve):
    """408 after body_timeout."""
    running = serve(ROUTES, timeouts=Timeouts(body_timeout=80 * MS))
    client = running.client()
    client.send(request("/size", "POST", [("Content-Length", "10")]) + b"abc")
    assert client.response().status == 408
    assert client.rest() == b""
    until(lambda: not running.server.consumers)


def test_a_large_body_arrives_whole(serve):
    """More than is kept in memory, and more than is read ahead."""
    running = serve(ROUTES)
    client = running.client()
    body = bytes(3 * 2**20)
    with patience():
        sender = gevent.spawn(client.sock.sendall, request("/size", "POST", body=body))
        assert client.response().body == b"POST 3145728"
        sender.join()


def test_reading_stops_while_a_body_waits_for_its_consumer(serve):
    """TCP pushes back."""
    go, held = Event(), []

    def consumer(scope, receive, send):
        assert scope["type"] == "http"
        go.wait()
        while (event := receive())["more_body"]:
            held.append(len(event["body"]))
        send({"type": "http.response.start", "status": 204, "headers": []})
        send({"type": "http.response.body"})

    client = serve([gsgi("/", consumer)]).client()
    body = bytes(12 * 2**20)
    sender = gevent.spawn(client.sock.sendall, request("/", "POST", body=body))
    gevent.sleep(100 * MS)
    assert not sender.ready()
    go.set()
    assert client.response().status == 204
    sender.join(timeout=1)
    assert max(held) <= 2**20


def test_a_client_that_waits_for_100_gets_it_when_the_body_is_wanted(serve):
    """And not when the answer comes without."""

    def consumer(scope, receive, send):
        if scope["path"] == "/read":
            receive()
        send({"type": "http.response.start", "status": 200, "headers": []})
        send({"type": "http.response.body", "body": b"x"})

    running = serve([gsgi("/read", consumer), gsgi("/ignore", consumer)])
    headers = [("Expect", "100-continue"), ("Content-Length", "3")]
    client = running.client()
    client.send(request("/read", "POST", headers))
    assert client.response().status == 100
    client.send(b"abc")
    assert client.response().status == 200
    client = running.client()
    client.send(request("/ignore", "POST", headers))
    answer = client.response()
    assert answer.status == 200 and answer["connection"] == "close"


def test_a_client_that_half_closes_gets_its_answer(serve):
    """An early end of its stream is no reason not to."""
    client = serve(ROUTES).client()
    client.send(request("/a"))
    client.half_close()
    assert client.response().body == b"page /a"
    assert client.rest() == b""


def test_a_body_cut_short_is_not_served(serve):
    """The view does not run on half a body."""
    ran = []
    running = serve([http("/", lambda r: ran.append(1) or "x", methods=["POST"])])
    client = running.client()
    client.send(request("/", "POST", body=b"x" * 100)[:-50])
    client.half_close()
    client.ended()
    until(lambda: not running.server.connections)
    assert not ran


def test_a_request_that_nobody_waits_for_still_ends(serve):
    """The view runs on; its answer goes nowhere, and no error is logged."""
    done = Queue()

    def slow(request):
        gevent.sleep(30 * MS)
        done.put(1)
        return "x" * 100_000

    running = serve([http("/", slow)])
    client = running.client()
    client.send(request())
    gevent.sleep(5 * MS)
    client.reset()
    assert done.get(timeout=1)
    until(lambda: not running.server.connections and not running.server.consumers)


def test_a_view_that_fails_is_answered_with_500(serve, caplog):
    """The log has the traceback, the browser has not; the next request is served."""

    def fail(request):
        raise LookupError("the secret cause")

    running = serve([http("/", fail)])
    answer = running.get()
    assert answer.status == 500
    assert b"secret" not in answer.body and b"Traceback" not in answer.body
    (record,) = [r for r in caplog.records if r.exc_info]
    assert record.exc_info[0] is LookupError
    assert running.get().status == 500


def test_headers_cannot_be_smuggled_into_a_response(serve):
    """500, and nothing of what the view tried."""

    def consumer(scope, receive, send):
        headers = [(b"x-a", b"b\r\nX-Evil: 1")]
        send({"type": "http.response.start", "status": 200, "headers": headers})
        send({"type": "http.response.body", "body": b"x"})

    running = serve([gsgi("/", consumer)])
    client = running.client()
    client.send(request())
    with contextlib.suppress(ConnectionResetError):
        assert b"X-Evil" not in client.rest()


def test_the_access_log_has_a_line_for_each_request(serve):
    """Client, request line, status, size, seconds; what peers write is escaped."""
    running = serve(ROUTES)
    answer = running.get('/a%0d%0aforged?q="x"')
    assert answer.status == 200
    client = running.client()
    client.send(b"nonsense\r\n\r\n")
    client.response()
    until(lambda: running.access.getvalue().count("\n") == 2)
    first, second = running.access.getvalue().splitlines()
    assert first.startswith("127.0.0.1:")
    assert '"GET /a%0d%0aforged?q=\\x22x\\x22 HTTP/1.1" 200 15 0.0' in first
    assert ' "-" 400 ' in second


def test_the_access_log_names_the_client_that_a_trusted_proxy_names(serve):
    """For requests as for sockets and refusals."""
    running = serve(
        [*ROUTES],
        proxies=("127.0.0.1",),
    )
    headers = [("X-Forwarded-For", "203.0.113.9")]
    running.get("/a", headers=headers)
    running.refused("/nowhere", headers)
    until(lambda: running.access.getvalue().count("\n") == 2)
    lines = running.access.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == ["203.0.113.9"] * 2


def test_a_request_sees_the_world_through_its_trusted_proxy(serve):
    """Scheme, host and client of what the browser asked for."""

    def show(request):
        return [request.url, request.remote_addr, request.is_secure]

    headers = [
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Forwarded-Proto", "https"),
    ]
    running = serve([http("/", show)], proxies=("127.0.0.1",))
    answer = running.get("/?a=b", headers=headers)
    assert answer.body == b'["https://localhost/?a=b","203.0.113.9",true]'
    answer = serve([http("/", show)]).get("/?a=b", headers=headers)
    assert answer.body == b'["http://localhost/?a=b","127.0.0.1",false]'
