"""The compression middleware: what is compressed, for whom, and what never is."""

import gzip
import os
import sys
import zlib

import gevent
import pytest
from gevent.event import Event
from werkzeug.wrappers import Response

from greenchannels import (
    Compression,
    ConfigurationError,
    EventStream,
    gsgi,
    http,
    include,
    static,
    websocket,
    wsgi,
)
from greenchannels.hosting.compression import WHOLE
from tests.servers.harness import MS, PATIENCE, request, until

TEXT = "A sentence that comes often. " * 100
GZIP = [("Accept-Encoding", "gzip")]


def around(*routes, **options):
    """Return a routing with the middleware around it."""
    return [include("", routes, middleware=[Compression(**options)])]


def text(body=TEXT, status=200, **headers):
    """Return a view that returns a text with these headers."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return http("/", lambda request: (body, status, fields))


def raw(*events, path="/"):
    """Return a route whose consumer sends these events."""

    def consumer(scope, receive, send):
        if scope["type"] != "http":
            raise ValueError("no lifespan")
        for event in events:
            send(event)

    return gsgi(path, consumer)


def start(status=200, **headers):
    """Return the beginning of a response of text."""
    fields = {"content-type": "text/plain", **headers}
    return {
        "type": "http.response.start",
        "status": status,
        "headers": [
            (name.replace("_", "-").encode(), value.encode())
            for name, value in fields.items()
        ],
    }


def body(data=b"", more=False):
    """Return a piece of a body."""
    return {"type": "http.response.body", "body": data, "more_body": more}


def is_plain(answer):
    """Return whether a response has not been compressed."""
    return not answer.get("content-encoding")


def varies(answer):
    """Return the elements of Vary, in lower case."""
    return [v.strip().lower() for v in ",".join(answer.get("vary")).split(",") if v]


@pytest.fixture
def no_brotli(monkeypatch):
    """As if the package ``brotli`` were not installed."""
    monkeypatch.setitem(sys.modules, "brotli", None)


# What is compressed.


def test_a_text_is_compressed_for_who_wants_it(serve):
    """With a length of its own, and a word to caches."""
    answer = serve(around(text())).get(headers=GZIP)
    assert answer["content-encoding"] == "gzip"
    assert answer["content-length"] == str(len(answer.body))
    assert varies(answer) == ["accept-encoding"]
    assert gzip.decompress(answer.body).decode() == TEXT
    assert len(answer.body) < len(TEXT) / 10


def test_who_does_not_want_it_gets_the_text(serve):
    """Caches are told all the same."""
    answer = serve(around(text())).get()
    assert is_plain(answer) and answer.body.decode() == TEXT
    assert varies(answer) == ["accept-encoding"]


def test_brotli_is_taken_when_it_is_installed(serve):
    """It is smaller than gzip, and what a browser asks for."""
    brotli = pytest.importorskip("brotli")
    headers = [("Accept-Encoding", "gzip, deflate, br, zstd")]
    answer = serve(around(text())).get(headers=headers)
    assert answer["content-encoding"] == "br"
    assert brotli.decompress(answer.body).decode() == TEXT


def test_without_brotli_there_is_gzip(serve, no_brotli):
    """Though the client would rather have the other."""
    headers = [("Accept-Encoding", "br, gzip;q=0.5")]
    answer = serve(around(text())).get(headers=headers)
    assert answer["content-encoding"] == "gzip"


@pytest.mark.parametrize(
    "accepted, coding",
    [
        ("gzip", "gzip"),
        ("GZIP", "gzip"),
        ("x-gzip", "gzip"),
        ("gzip;q=0.001", "gzip"),
        ("deflate, gzip;q=1.0, *;q=0.5", "gzip"),
        ("*", "gzip"),
        ("*;q=0.1", "gzip"),
        ("identity;q=0, *", "gzip"),
        ("identity;q=0.5, gzip;q=0.8", "gzip"),
        ("br;q=0.9, gzip", "gzip"),
        ("", None),
        ("identity", None),
        ("deflate", None),
        ("gzip;q=0", None),
        ("gzip;q=0.000", None),
        ("*;q=0", None),
        ("gzip;q=0, *", None),
        ("identity, gzip;q=0.5", None),
        ("gzip;q=2", None),
        ("gzip;q=x", None),
        ("identity;q=0", None),
    ],
)
def test_accept_encoding_decides(serve, no_brotli, accepted, coding):
    """Weights, the star, and identity (RFC 9110, section 12.5.3)."""
    answer = serve(around(text())).get(headers=[("Accept-Encoding", accepted)])
    assert answer.get("content-encoding") == ([coding] if coding else [])
    if coding is None:
        assert answer.body.decode() == TEXT


@pytest.mark.parametrize(
    "accepted, is_required",
    [
        ("identity;q=0, gzip", True),
        ("gzip, Identity ; Q=0.0", True),
        ("gzip, *;q=0", True),
        ("gzip, *;q=0, identity", False),
        ("gzip, identity;q=0.1, *;q=0", False),
        ("gzip, identity;q=0.01", False),
        ("gzip, *;q=0.5", False),
        ("gzip", False),
    ],
)
def test_who_refuses_identity_gets_what_is_small_compressed_too(
    serve, accepted, is_required
):
    """Whatever its type."""
    headers = [("Accept-Encoding", accepted)]
    running = serve(around(text("small", content_type="image/png")))
    answer = running.get(headers=headers)
    assert is_plain(answer) != is_required
    if is_required:
        assert gzip.decompress(answer.body) == b"small"
        assert varies(answer) == ["accept-encoding"]


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "TEXT/HTML; charset=utf-8",
        "application/json",
        "application/problem+json",
        "application/javascript",
        "image/svg+xml",
        "application/wasm",
    ],
)
def test_types_that_shrink_are_compressed(serve, kind):
    """Whatever stands behind the semicolon."""
    answer = serve(around(text(content_type=kind))).get(headers=GZIP)
    assert answer["content-encoding"] == "gzip" and answer["content-type"] == kind


@pytest.mark.parametrize(
    "kind",
    ["image/png", "application/zip", "application/octet-stream", "video/mp4", "font"],
)
def test_types_that_do_not_shrink_are_left_alone(serve, kind):
    """And do not vary."""
    answer = serve(around(text(content_type=kind))).get(headers=GZIP)
    assert is_plain(answer) and not varies(answer)


def test_the_types_may_be_said(serve):
    """Instead of the usual ones."""
    routing = around(
        http("/text", lambda r: TEXT),
        http("/own", lambda r: (TEXT, {"Content-Type": "application/vnd.own"})),
        types=["application/vnd.*"],
    )
    running = serve(routing)
    assert is_plain(running.get("/text", headers=GZIP))
    assert not is_plain(running.get("/own", headers=GZIP))
    assert is_plain(serve(around(text(), types=[])).get(headers=GZIP))


@pytest.mark.parametrize("size, is_compressed", [(1023, False), (1024, True)])
def test_what_is_small_is_left_alone(serve, size, is_compressed):
    """Below 1 KiB, unless another size is said."""
    answer = serve(around(text("x" * size))).get(headers=GZIP)
    assert is_plain(answer) != is_compressed
    answer = serve(around(text("x" * size), min_size=0)).get(headers=GZIP)
    assert not is_plain(answer)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Encoding": "br"},
        {"Cache_Control": "public, no-transform"},
        {"Cache_Control": "No-Transform"},
        {"Content_Digest": "sha-256=:eA==:"},
    ],
    ids=repr,
)
def test_what_says_so_is_left_alone(serve, headers):
    """Encoded already, not to be transformed, or signed."""
    answer = serve(around(text(**headers))).get(headers=GZIP)
    assert answer.body.decode() == TEXT and not varies(answer)


@pytest.mark.parametrize("status", [204, 205, 206, 304])
def test_statuses_of_no_body_or_a_part_are_left_alone(serve, status):
    """Their fields, too."""
    running = serve(around(raw(start(status, etag='"a"'), body())))
    answer = running.get(headers=GZIP)
    assert answer.status == status and is_plain(answer) and not varies(answer)
    assert answer["etag"] == '"a"'


def test_an_error_page_is_compressed_as_well(serve):
    """A status says nothing of the size."""
    answer = serve(around(text(status=404))).get(headers=GZIP)
    assert answer.status == 404 and gzip.decompress(answer.body).decode() == TEXT


@pytest.mark.parametrize(
    "before, after",
    [
        ("Cookie", ["cookie", "accept-encoding"]),
        ("cookie, ACCEPT-ENCODING", ["cookie", "accept-encoding"]),
        ("*", ["*"]),
    ],
)
def test_vary_is_merged(serve, before, after):
    """One field, nothing twice."""
    running = serve(around(text(Vary=before)))
    for headers in ((), GZIP):
        answer = running.get(headers=headers)
        assert varies(answer) == after and len(answer.get("vary")) == 1


def test_several_lines_of_vary_become_one(serve):
    """And keep what each said."""
    head = start()
    head["headers"] += [(b"vary", b"a"), (b"vary", b"b")]
    answer = serve(around(raw(head, body(TEXT.encode())))).get(headers=GZIP)
    assert varies(answer) == ["a", "b", "accept-encoding"]


# Validators.


@pytest.mark.parametrize(
    "etag, compressed", [('"a"', 'W/"a"'), ('W/"a"', 'W/"a"')], ids=["strong", "weak"]
)
def test_an_etag_becomes_weak(serve, etag, compressed):
    """The bytes are others, what they say is the same."""
    running = serve(around(text(ETag=etag)))
    assert running.get(headers=GZIP)["etag"] == compressed
    assert running.get()["etag"] == etag


def test_who_asks_again_is_told_304_with_the_etag_that_it_has(serve):
    """Weak for who had it compressed, strong for the others."""

    def view(request):
        response = Response(TEXT, mimetype="text/plain")
        response.add_etag()
        return response.make_conditional(request)

    running = serve(around(http("/", view)))
    for headers in (GZIP, []):
        etag = running.get(headers=headers)["etag"]
        asked = [*headers, ("If-None-Match", etag)]
        answer = running.get(headers=asked)
        assert (answer.status, answer["etag"]) == (304, etag)
        assert (varies(answer) != []) == bool(headers)


def test_a_compressed_response_offers_no_ranges(serve):
    """They would be of other bytes."""
    running = serve(around(text(Accept_Ranges="bytes")))
    assert not running.get(headers=GZIP).get("accept-ranges")
    assert running.get()["accept-ranges"] == "bytes"


# HEAD.


@pytest.mark.parametrize("body", [TEXT, "small"], ids=["large", "small"])
@pytest.mark.parametrize("headers", [GZIP, []], ids=["gzip", "plain"])
def test_head_has_the_fields_of_get(serve, body, headers):
    """But for a length that only compressing would tell."""
    running = serve(around(text(body, ETag='"a"', Accept_Ranges="bytes")))
    client = running.client()
    client.send(request("/", "HEAD", headers) + request("/", "GET", headers))
    head, get = client.response(method="HEAD"), client.response()
    fields = dict(get.headers)
    if get.get("content-encoding"):
        del fields["content-length"]
        assert not head.get("content-length")
    told = {n: v for n, v in head.headers if n != "transfer-encoding"}
    for each in (told, fields):
        each.pop("date")
    assert told == fields


def test_a_body_that_is_sent_for_head_counts_as_gets(serve):
    """The server drops it."""
    head = serve(around(raw(start(), body(TEXT.encode())))).get(
        method="HEAD", headers=GZIP
    )
    assert head["content-encoding"] == "gzip"
    small = serve(around(raw(start(), body(b"x")))).get(method="HEAD", headers=GZIP)
    assert is_plain(small)


def test_head_of_an_unknown_length_promises_nothing(serve):
    """A generator's, unless streams are compressed."""
    view = http("/", lambda r: iter([TEXT]))
    assert is_plain(serve(around(view)).get(method="HEAD", headers=GZIP))
    answer = serve(around(view, streams=True)).get(method="HEAD", headers=GZIP)
    assert answer["content-encoding"] == "gzip"


# Large bodies and pieces.


@pytest.mark.parametrize("size", [WHOLE, WHOLE + 1, 20 * WHOLE])
@pytest.mark.parametrize("coding", ["gzip", "br"])
def test_a_large_body_is_sent_in_pieces(serve, size, coding):
    """Without a length; what fits is sent with one."""
    if coding == "br":
        brotli = pytest.importorskip("brotli")
    decompress = gzip.decompress if coding == "gzip" else brotli.decompress
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    running = serve(around(raw(start(), body(data))))
    answer = running.get(headers=[("Accept-Encoding", coding)])
    assert answer["content-encoding"] == coding
    assert bool(answer.get("content-length")) == (size <= WHOLE)
    assert decompress(answer.body) == data


def test_pieces_of_a_known_length_are_compressed(serve):
    """As files come: the length is told by chunks instead."""
    pieces = [bytes([65 + n]) * 10_000 for n in range(20)]
    events = [body(piece, True) for piece in pieces]
    running = serve(around(raw(start(content_length="200000"), *events, body())))
    answer = running.get(headers=GZIP)
    assert not answer.get("content-length")
    assert gzip.decompress(answer.body) == b"".join(pieces)
    # One stream, not flushed at each piece.
    assert len(answer.body) < 1000


def test_http_1_0_gets_a_body_that_ends_with_the_connection(serve):
    """It knows no chunks."""
    data = b"x" * (WHOLE + 1)
    answer = serve(around(raw(start(), body(data)))).get(headers=GZIP, version="1.0")
    assert not answer.get("content-length") and not answer.get("transfer-encoding")
    assert gzip.decompress(answer.body) == data


@pytest.mark.parametrize(
    "length, sizes", [(5000, [2000, 2000]), (3000, [2000, 2000]), (5000, [2000])]
)
def test_a_body_of_another_length_than_said_is_cut(serve, caplog, length, sizes):
    """The server cannot see it any more, and a short file looks like a whole one."""
    events = [body(b"x" * size, True) for size in sizes]
    events[-1]["more_body"] = False
    running = serve(around(raw(start(content_length=str(length)), *events)))
    client = running.client()
    client.send(request("/", "GET", GZIP))
    if len(sizes) == 1:
        assert client.response().status == 500
    else:
        # It ends with neither a last chunk nor the end of the gzip stream.
        assert b"0\r\n\r\n" not in ending(client)
    assert "not as long as Content-Length" in caplog.text


def ending(client):
    """Return all that comes until a connection is closed or reset."""
    found = b""
    try:
        while True:
            data = client.sock.recv(65536)
            if not data:
                return found
            found += data
    except OSError:
        return found


def test_other_requests_are_served_while_a_large_body_is_compressed(serve):
    """Compressing gives I/O its turn after each of some hundred slices."""
    data = bytes(range(256)) * 64 * 1024
    running = serve(
        [
            *around(raw(start(), body(data), path="/large")),
            http("/small", lambda r: "small"),
        ]
    )
    large, small = running.client(), running.client()
    large.send(request("/large", "GET", GZIP))
    reading = gevent.spawn(large.response, seconds=60)
    served = 0
    while not reading.ready():
        small.send(request("/small"))
        assert small.response(seconds=60).body == b"small"
        served += 1
    assert gzip.decompress(reading.get().body) == data
    assert served > 20


def test_a_peer_that_does_not_read_stops_the_compressing(serve):
    """So memory stays bounded; when it has left, the consumer ends."""
    reached, ended = [0], []

    def consumer(scope, receive, send):
        if scope["type"] != "http":
            raise ValueError("no lifespan")
        try:
            send(start(content_length="1000000000"))
            for _ in range(100_000):
                reached[0] += 1
                send(body(os.urandom(10_000), True))
        finally:
            ended.append(1)

    running = serve(around(gsgi("/", consumer)), send_buffer=8192)
    client = running.client(receive_buffer=4096)
    client.send(request("/", "GET", GZIP))

    def stands_still():
        before = reached[0]
        gevent.sleep(50 * MS)
        return before and before == reached[0]

    until(stands_still)
    assert reached[0] < 1000
    client.reset()
    until(lambda: ended)


# Streams.


def test_streams_are_left_alone(serve):
    """A generator, an event stream: the head says neither coding nor Vary."""
    routing = around(
        http("/generator", lambda r: iter([TEXT, TEXT])),
        http("/events", lambda r: EventStream([TEXT])),
    )
    running = serve(routing)
    answer = running.get("/generator", headers=GZIP)
    assert is_plain(answer) and answer.body.decode() == TEXT * 2 and not varies(answer)
    answer = running.get("/events", headers=[("Accept-Encoding", "gzip, identity;q=0")])
    assert is_plain(answer) and answer.body.decode() == f"data: {TEXT}\n\n"


def test_event_streams_are_left_alone_among_other_streams(serve):
    """They are compressed when they are named."""
    routes = (
        http("/generator", lambda r: iter([TEXT, TEXT])),
        http("/events", lambda r: EventStream([TEXT])),
    )
    running = serve(around(*routes, streams=True))
    answer = running.get("/generator", headers=GZIP)
    assert gzip.decompress(answer.body).decode() == TEXT * 2
    assert is_plain(running.get("/events", headers=GZIP))
    running = serve(around(*routes, streams=True, types=["text/event-stream"]))
    answer = running.get("/events", headers=GZIP)
    assert gzip.decompress(answer.body).decode() == f"data: {TEXT}\n\n"
    assert is_plain(running.get("/generator", headers=GZIP))


@pytest.mark.parametrize("coding", ["gzip", "br"])
def test_a_piece_of_a_stream_can_be_read_at_once(serve, coding):
    """It is flushed, though small; the head does not wait for the first one."""
    if coding == "br":
        reader = pytest.importorskip("brotli").Decompressor().process
    else:
        reader = zlib.decompressobj(31).decompress
    gates = [Event() for _ in range(3)]

    def consumer(scope, receive, send):
        if scope["type"] != "http":
            raise ValueError("no lifespan")
        send(start())
        send(body(b"", True))
        for n, gate in enumerate(gates):
            assert gate.wait(PATIENCE)
            send(body(b"piece %d" % n, True))
        send(body(b"end"))

    running = serve(around(gsgi("/", consumer), streams=True))
    client = running.client()
    client.send(request("/", "GET", [("Accept-Encoding", coding)]))
    assert b"content-encoding: %b" % coding.encode() in client.read_until(b"\r\n\r\n")

    def piece():
        size = int(client.read_until(b"\r\n"), 16)
        return reader(client.read(size + 2)[:-2]) if size else None

    for n, gate in enumerate(gates):
        gate.set()
        found = b""
        while len(found) < 7:
            found += piece()
        assert found == b"piece %d" % n
    assert piece() == b"end"


# What stands between.


def test_sockets_and_lifespans_pass_through(serve):
    """The socket stays the server's own."""

    def consumer(socket):
        socket.send(type(socket).__name__)
        socket.wait()

    running = serve(around(websocket("/", consumer)))
    assert running.open().hear() == "ServerSocket"


def test_a_hosted_application_and_files_are_compressed(serve, tmp_path):
    """Flask's responses and static files: the middleware sees events alone."""
    flask = pytest.importorskip("flask").Flask(__name__)
    flask.add_url_rule("/hello", view_func=lambda: TEXT)
    (tmp_path / "file.txt").write_text(TEXT)
    running = serve(around(static("/files", tmp_path), wsgi("/app", flask)))
    for path in ("/app/hello", "/files/file.txt"):
        answer = running.get(path, headers=GZIP)
        assert answer["content-encoding"] == "gzip"
        assert gzip.decompress(answer.body).decode() == TEXT
        assert running.get(path).body.decode() == TEXT


def test_a_part_of_a_file_is_left_alone(serve, tmp_path):
    """Its bytes are those of the file."""
    (tmp_path / "file.txt").write_text(TEXT)
    running = serve(around(static("/", tmp_path)))
    answer = running.get("/file.txt", headers=[*GZIP, ("Range", "bytes=0-1999")])
    assert answer.status == 206 and is_plain(answer)
    assert answer.body.decode() == TEXT[:2000]


def test_what_would_pass_by_unseen_is_not_offered(serve):
    """The scope is a copy; that of others keeps it."""
    seen = []

    def offer(inner):
        def consumer(scope, receive, send):
            extensions = {"http.response.zerocopysend": {}, "x": {}}
            scope = {**scope, "extensions": extensions}
            inner(scope, receive, send)
            seen.append(sorted(scope["extensions"]))

        return consumer

    def consumer(scope, receive, send):
        if scope["type"] != "http":
            raise ValueError("no lifespan")
        seen.append(sorted(scope["extensions"]))
        send(start())
        send(body())

    middleware = [offer, Compression()]
    running = serve([include("", [gsgi("/", consumer)], middleware=middleware)])
    assert running.get().status == 200
    assert seen == [["x"], ["http.response.zerocopysend", "x"]]


def test_one_compression_is_enough(serve):
    """The outer one sees that it is done."""
    routing = [include("", around(text()), middleware=[Compression()])]
    answer = serve(routing).get(headers=GZIP)
    assert gzip.decompress(answer.body).decode() == TEXT


def test_a_consumer_that_fails_is_answered_with_500(serve, caplog):
    """Also after it began: its head had not been sent."""

    def consumer(scope, receive, send):
        if scope["type"] == "http":
            send(start())
        raise ValueError("no")

    running = serve(around(gsgi("/", consumer)))
    assert running.get(headers=GZIP).status == 500


@pytest.mark.parametrize("options", [{"min_size": -1}, {"types": "text/plain"}])
def test_options_that_make_no_sense_are_refused(options):
    """At once, not at the first request."""
    with pytest.raises(ConfigurationError):
        Compression(**options)


def test_trailers_come_behind_a_compressed_body(serve):
    """Which is then sent in chunks, however short it is."""

    def consumer(scope, receive, send):
        if scope["type"] != "http":
            raise ValueError("HTTP only")
        kind = (b"content-type", b"text/plain")
        start = {"type": "http.response.start", "status": 200, "headers": [kind]}
        send({**start, "trailers": True})
        send({"type": "http.response.body", "body": b"x" * 5000})
        send({"type": "http.response.trailers", "headers": [(b"x-sum", b"7")]})

    running = serve([include("", [gsgi("/", consumer)], [Compression()])])
    client = running.client()
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
    head = client.read_until(b"\r\n\r\n")
    assert b"content-encoding: gzip\r\n" in head
    assert b"transfer-encoding: chunked\r\n" in head
    assert client.read_until(b"\r\n\r\n").endswith(b"0\r\nx-sum: 7\r\n\r\n")
