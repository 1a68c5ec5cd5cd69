"""The body of a request as a WSGI application reads it: ``wsgi.input``."""

import gc
import os

import gevent
import pytest
from gevent.event import Event

from greenchannels import HTTPLimits, wsgi
from greenchannels.hosting.wsgi import BodyCut, EventResponder
from tests.hosting.hosts import HOSTS, PLAIN, hello, noting, stays, validated
from tests.servers.harness import request, until

MIB = 1024 * 1024


@pytest.fixture(params=HOSTS, ids=lambda each: each.__name__)
def host(request, serve):
    """A function that serves an application, in each of the ways."""
    return lambda app, path="/", **options: serve([request.param(path, app)], **options)


@pytest.fixture
def checked(serve):
    """A function that serves an application under wsgiref's validator."""
    return lambda app, path="/", **options: serve([validated(path, app)], **options)


def reading(function):
    """Return an application that answers with what it has read so."""

    def app(environ, start_response):
        found = function(environ["wsgi.input"])
        start_response("200 OK", PLAIN)
        return [repr(found).encode()]

    return app


LINES = b"one\ntwo\n\nlast"

READS = [
    (lambda f: f.read(100), LINES),
    (lambda f: [f.read(3), f.read(1), f.read(100), f.read(100)], None),
    (lambda f: [f.read(0), f.read(len(LINES)), f.read(1)], [b"", LINES, b""]),
    (lambda f: f.readline(), b"one\n"),
    (lambda f: [f.readline() for _ in range(5)], None),
    (lambda f: [f.readline(2), f.readline(100)], [b"on", b"e\n"]),
    (lambda f: f.readlines(), [b"one\n", b"two\n", b"\n", b"last"]),
    (lambda f: f.readlines(1)[:1], [b"one\n"]),
    (lambda f: list(f), [b"one\n", b"two\n", b"\n", b"last"]),
    (lambda f: [next(iter(f)), f.read(100)], [b"one\n", b"two\n\nlast"]),
]
READS[1] = (READS[1][0], [b"one", b"\n", b"two\n\nlast", b""])
READS[4] = (READS[4][0], [b"one\n", b"two\n", b"\n", b"last", b""])


@pytest.mark.parametrize("read, expected", READS)
@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_body_is_read_as_a_file(checked, read, expected, size, chunked):
    """However it comes, and never beyond its end."""
    client = checked(reading(read)).client()
    pieces = [LINES[i : i + size] for i in range(0, len(LINES), size)]
    if chunked:
        head = request(method="POST", headers=[("Transfer-Encoding", "chunked")])
        wire = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
        wire.append(b"0\r\n\r\n")
    else:
        field = ("Content-Length", str(len(LINES)))
        head, wire = request(method="POST", headers=[field]), pieces
    client.send(head)
    for piece in wire[:-1]:
        client.send(piece)
        gevent.sleep(0)
    client.send(wire[-1] + request(method="POST", body=b"next"))
    assert client.response().body == repr(expected).encode()
    assert client.response().status == 200  # what followed was no part of it


@pytest.mark.parametrize(
    "read",
    [
        lambda f: f.read(),
        lambda f: f.read(-1),
        lambda f: f.read(None),
        lambda f: bytes(bytearray(LINES)) if f.readinto(bytearray(100)) else b"",
        lambda f: b"".join(iter(lambda: f.read1(5), b"")),
    ],
)
def test_a_body_has_the_methods_of_any_binary_file(serve, read):
    """Also those that PEP 3333 does not ask for."""
    answer = serve([wsgi("/", reading(read))]).get(method="POST", body=LINES)
    assert answer.body == repr(LINES).encode()


@pytest.mark.parametrize("read", [lambda f: f.read(10), lambda f: f.readline()])
def test_no_body_is_at_its_end_at_once(host, read):
    """Reading does not wait."""
    running = host(reading(read))
    assert running.get().body == b"b''"
    answer = running.get(method="POST", headers=[("Content-Length", "0")])
    assert answer.body == b"b''"


@pytest.mark.parametrize("coding", [[], [("Transfer-Encoding", "chunked")]])
def test_an_application_is_told_whether_a_body_without_length_has_an_end(host, coding):
    """If it is chunked: some frameworks read none else."""

    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        return [repr(environ.get("wsgi.input_terminated", False)).encode()]

    client = host(app).client()
    client.send(request(method="POST", headers=coding) + b"0\r\n\r\n" * len(coding))
    assert client.response().body == (b"True" if coding else b"False")


def test_reading_waits_for_what_has_not_come(host):
    """It blocks this request, and no other."""
    seen = []

    def app(environ, start_response):
        if environ["REQUEST_METHOD"] == "POST":
            seen.append(environ["wsgi.input"].read(3))
            seen.append(environ["wsgi.input"].read(3))
        return hello(environ, start_response)

    running = host(app)
    client = running.client()
    client.send(request(method="POST", headers=[("Content-Length", "6")]) + b"abc")
    until(lambda: seen == [b"abc"])
    assert running.get().body == b"hello"
    client.send(b"def")
    assert client.response().body == b"hello"
    assert seen == [b"abc", b"def"]


@pytest.mark.parametrize("leave", ["close", "reset", "half_close"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_body_that_breaks_off_is_an_error_for_its_reader(host, leave, chunked):
    """An ``OSError``, as for any file; it does not wait for ever."""
    errors, begun = [], Event()

    def app(environ, start_response):
        begun.set()
        try:
            environ["wsgi.input"].read(10)
        except OSError as error:
            errors.append(error)
            raise

    client = host(app).client()
    field = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", "10")
    start = b"5\r\nabc" if chunked else b"abc"
    client.send(request(method="POST", headers=[field]) + start)
    begun.wait()
    getattr(client, leave)()
    until(lambda: errors)
    assert isinstance(errors[0], BodyCut) and isinstance(errors[0], ConnectionError)
    assert "gone" in str(errors[0])


def test_a_body_that_breaks_off_is_not_noted_as_a_failure(checked, caplog):
    """The client's leaving is no fault of the application's."""
    begun, calls = Event(), []

    def app(environ, start_response):
        begun.set()
        with noting(calls, "left"):
            environ["wsgi.input"].read(10)

    client = checked(app).client()
    client.send(request(method="POST", headers=[("Content-Length", "10")]))
    begun.wait()
    client.close()
    until(lambda: calls)
    gevent.sleep(0)
    assert not [record for record in caplog.records if record.exc_info]


def resident():
    """Return the bytes of memory that this process has in use."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_large_upload_takes_no_memory(checked, chunked):
    """200 MB go through as they are read."""
    size, block = 200 * MIB, b"x" * MIB
    found = []

    def app(environ, start_response):
        total = 0
        while data := environ["wsgi.input"].read(256 * 1024):
            total += len(data)
            found.append(resident())
        start_response("200 OK", PLAIN)
        return [b"%d" % total]

    client = checked(app, http=HTTPLimits(max_body=None)).client()
    gc.collect()
    before = resident()
    if chunked:
        client.send(request(method="POST", headers=[("Transfer-Encoding", "chunked")]))
        block = b"%x\r\n%b\r\n" % (len(block), block)
    else:
        client.send(request(method="POST", headers=[("Content-Length", str(size))]))
    for _ in range(size // MIB):
        client.send(block)
    if chunked:
        client.send(b"0\r\n\r\n")
    assert client.response().body == b"%d" % size
    assert max(found) - before < 30 * MIB


def test_an_upload_that_is_not_read_is_not_taken(host):
    """The client is held up by TCP."""
    goes_on = Event()

    def app(environ, start_response):
        goes_on.wait()
        total = 0
        while data := environ["wsgi.input"].read(MIB):
            total += len(data)
        start_response("200 OK", PLAIN)
        return [b"%d" % total]

    size = 64 * MIB
    client = host(app, http=HTTPLimits(max_body=None)).client()
    client.send(request(method="POST", headers=[("Content-Length", str(size))]))
    sent = [0]

    def send():
        while sent[0] < size:
            sent[0] += client.sock.send(b"x" * min(MIB, size - sent[0]))

    sending = gevent.spawn(send)
    until(lambda: sent[0] and stays(lambda: sent[0]))
    assert sent[0] < 32 * MIB  # what the kernel's buffers hold, at most
    goes_on.set()
    assert client.response(seconds=30).body == b"%d" % size
    sending.get()


def test_a_small_body_that_nobody_reads_does_not_end_the_connection(host):
    """It is discarded."""
    client = host(hello).client()
    body = b"GET /evil HTTP/1.1\r\n\r\n" * 100
    for _ in range(2):
        client.send(request(method="POST", body=body))
        answer = client.response()
        assert answer.body == b"hello" and not answer.get("connection")


def test_a_large_body_that_nobody_reads_ends_the_connection(host):
    """The client has got its answer before."""
    running = host(hello)
    client = running.client()
    head = request(method="POST", headers=[("Content-Length", str(10 * MIB))])
    client.send(head + b"x" * MIB)
    answer = client.response()
    assert (answer.body, answer["connection"]) == (b"hello", "close")
    assert client.ended() in ("closed", "reset")


def test_a_client_that_sends_a_large_body_to_the_end_gets_its_answer(host):
    """Though nobody reads it: it must not be lost with the connection."""
    client = host(hello).client()
    client.send(request(method="POST", headers=[("Content-Length", str(4 * MIB))]))
    for _ in range(4):
        try:
            client.sock.sendall(b"x" * MIB)
        except OSError:
            break
    assert client.response().body == b"hello"


EXPECT = ("Expect", "100-continue")


def test_a_client_that_expects_to_be_asked_is_asked_when_the_body_is_read(host):
    """Once."""

    def app(environ, start_response):
        stream = environ["wsgi.input"]
        data = stream.read(1) + stream.read(10)
        start_response("200 OK", PLAIN)
        return [data]

    client = host(app).client()
    client.send(request(method="POST", headers=[EXPECT, ("Content-Length", "3")]))
    assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"abc")
    assert client.response().body == b"abc"


def test_a_client_that_expects_to_be_asked_is_not_asked_for_nothing(host):
    """An application that reads no body answers at once."""
    client = host(hello).client()
    client.send(request(method="POST", headers=[EXPECT, ("Content-Length", "3")]))
    answer = client.response()
    assert (answer.status, answer.body) == (200, b"hello")


def test_one_greenlet_at_a_time_reads_a_body(serve):
    """A second is told so, and the first goes on."""
    errors, begun = [], Event()

    def second(stream):
        begun.wait()
        try:
            stream.read(10)
        except RuntimeError as error:
            errors.append(error)

    def app(environ, start_response):
        other = gevent.spawn(second, environ["wsgi.input"])
        begun.set()
        data = environ["wsgi.input"].read(10)
        other.join()
        start_response("200 OK", PLAIN)
        return [data]

    client = serve([wsgi("/", app)]).client()
    client.send(request(method="POST", headers=[("Content-Length", "3")]))
    until(lambda: errors)
    client.send(b"abc")
    assert client.response().body == b"abc"


def test_the_responder_of_events_reads_on_behind_empty_ones():
    """They are not the end of the body."""
    events = [
        {"type": "http.request", "body": b"", "more_body": True},
        {"type": "http.request", "body": b"a", "more_body": True},
        {"type": "http.request"},
    ]
    responder = EventResponder(lambda: events.pop(0), None)
    assert (responder.read(), responder.read(), responder.read()) == (b"a", b"", b"")
