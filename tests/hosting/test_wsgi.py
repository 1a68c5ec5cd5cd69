"""WSGI applications over real connections: PEP 3333, to the letter."""

import contextvars
import itertools
import os
import select
import sys
import time

import gevent
import pytest
from gevent.event import Event
from gevent.local import local

from greenchannels import Timeouts, include, wsgi
from greenchannels.errors import ConfigurationError
from greenchannels.hosting.wsgi import WSGIHost, read_status
from tests.hosting.hosts import (
    HOSTS,
    PLAIN,
    behind_middleware,
    hello,
    noting,
    stays,
    validated,
)
from tests.servers.harness import MS, request, until


@pytest.fixture(params=HOSTS, ids=lambda each: each.__name__)
def host(request, serve):
    """A function that serves an application, in each of the ways."""
    return lambda app, path="/", **options: serve([request.param(path, app)], **options)


@pytest.fixture
def checked(serve):
    """A function that serves an application under wsgiref's validator."""
    return lambda app, path="/", **options: serve([validated(path, app)], **options)


def answering(*pieces, status="200 OK", headers=PLAIN):
    """Return an application that answers so."""

    def app(environ, start_response):
        start_response(status, list(headers))
        return list(pieces)

    return app


def generating(*pieces, status="200 OK", headers=PLAIN):
    """Return an application that yields its answer, and then what it begins with."""

    def app(environ, start_response):
        start_response(status, list(headers))
        yield from pieces

    return app


def cut(client):
    """Return all that comes before the connection is cut."""
    received = bytearray()
    try:
        while data := client.sock.recv(65536):
            received += data
    except OSError:
        pass
    return bytes(client.data + received)


class Body:
    """An iterable that notes how often it was closed."""

    def __init__(self, pieces):
        self._pieces = iter(pieces)
        self.closed = 0

    def __iter__(self):
        return self

    def __next__(self):
        return next(self._pieces)

    def close(self):
        """Count."""
        self.closed += 1


def returning(body, headers=PLAIN, status="200 OK"):
    """Return an application that returns this very object."""

    def app(environ, start_response):
        start_response(status, list(headers))
        return body

    return app


# The environ.


def show(environ, start_response):
    """Answer with what stands in the environ, but for objects."""
    start_response("200 OK", PLAIN)
    return [
        repr({k: v for k, v in environ.items() if type(v) in (str, bool, tuple)})
        .encode("unicode-escape")
        .replace(b"\\\\", b"\\")
    ]


def shown(answer):
    """Return the environ that ``show`` has answered with."""
    assert answer.status == 200, answer
    return eval(answer.body.decode())  # what this very test has made


def test_the_environ_has_what_pep_3333_asks_for(host):
    """Native strings, and nothing that is not asked for."""
    running = host(show)
    headers = [("Content-Type", "a/b"), ("X-One", "1"), ("User-Agent", "x")]
    found = shown(running.get("/p?q=%20&r", "POST", headers, b"body"))
    port = found.pop("REMOTE_PORT")
    assert port.isdigit()
    assert found == {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/p",
        "QUERY_STRING": "q=%20&r",
        "CONTENT_TYPE": "a/b",
        "CONTENT_LENGTH": "4",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "localhost",
        "HTTP_X_ONE": "1",
        "HTTP_USER_AGENT": "x",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }


def test_the_environ_is_a_dict_of_the_applications_own(serve):
    """It may be changed, and no other request sees it."""
    found = []

    def app(environ, start_response):
        found.append((type(environ), environ.get("mine")))
        environ["mine"] = 1
        return hello(environ, start_response)

    client = serve([wsgi("/", app)]).client()
    client.send(request() * 2)
    assert client.response().body == client.response().body == b"hello"
    assert found == [(dict, None)] * 2


@pytest.mark.parametrize(
    "route, path, script_name, path_info",
    [
        ("/", "/", "", "/"),
        ("/", "/a", "", "/a"),
        ("/", "/a//b/", "", "/a//b/"),
        ("/prefix", "/prefix", "/prefix", ""),
        ("/prefix", "/prefix/", "/prefix", "/"),
        ("/prefix", "/prefix/a", "/prefix", "/a"),
        ("/prefix/", "/prefix", "/prefix", ""),
        ("/prefix/", "/prefix/a", "/prefix", "/a"),
        ("/a", "/a/a", "/a", "/a"),
        ("/a", "/a/a/a", "/a", "/a/a"),
        ("/<name>", "/ann", "/ann", ""),
        ("/<name>", "/ann/x/y", "/ann", "/x/y"),
        ("/u/<int:id>/w", "/u/12/w/x", "/u/12/w", "/x"),
        ("/", "/%C3%A4%20b", "", "/ä b"),
        ("/ä", "/%C3%A4/%E2%82%AC", "/ä", "/€"),
        ("/", "/a%2Fb%3Fc%25", "", "/a/b?c%"),
        ("/", "http://localhost/abs?x", "", "/abs"),
    ],
)
def test_the_path_is_told_in_two_parts(host, route, path, script_name, path_info):
    """What led to the application, and the rest: bytes as characters."""
    found = shown(host(show, route).get(path))
    assert found["SCRIPT_NAME"].encode("latin-1").decode() == script_name
    assert found["PATH_INFO"].encode("latin-1").decode() == path_info


@pytest.mark.parametrize("path", ["/prefixed", "/prefi", "/", "/a/prefix"])
def test_a_prefix_ends_where_a_part_of_the_path_does(host, path):
    """Nothing else leads to the application."""
    assert host(show, "/prefix").get(path).status == 404


@pytest.mark.parametrize("options", [{}, {"root_path": "/root"}])
def test_included_prefixes_and_the_root_path_are_part_of_the_script_name(
    serve, options
):
    """In the order in which they stand, whatever is between."""
    routing = [
        include(
            "/one/", [include("/<two>", [validated("/x", show), validated("/", show)])]
        )
    ]
    running = serve(routing, **options)
    root = options.get("root_path", "")
    for path, script_name, path_info in [
        ("/one/2/x/y", "/one/2/x", "/y"),
        ("/one/2/y", "/one/2", "/y"),
        (root + "/one/2/y", "/one/2", "/y"),
    ]:
        found = shown(running.get(path))
        assert found["SCRIPT_NAME"] == root + script_name
        assert found["PATH_INFO"] == path_info


def test_fields_sent_several_times_are_joined(host):
    """Cookies with a semicolon."""
    headers = [("X-A", "1"), ("Cookie", "a=1"), ("x-a", "2"), ("Cookie", "b=2")]
    found = shown(host(show).get(headers=headers))
    assert (found["HTTP_X_A"], found["HTTP_COOKIE"]) == ("1,2", "a=1; b=2")


def test_a_field_with_an_underscore_passes_for_no_other(host):
    """It is left out, and beside the one it resembles it is refused."""
    running = host(show)
    found = shown(running.get(headers=[("X_Thing", "evil")]))
    assert not [key for key in found if "THING" in key]
    headers = [("X_Thing", "evil"), ("X-Thing", "true")]
    assert running.get(headers=headers).status == 400


def test_values_are_bytes_as_characters(host):
    """UTF-8 is not decoded."""
    found = shown(host(show).get(headers=[("X-A", "\xc3\xa4")]))
    assert found["HTTP_X_A"] == "\xc3\xa4"


def test_no_field_passes_for_a_variable_of_cgi(host):
    """Nor for the content's type and length."""
    names = ("Request-Method", "Script-Name", "Remote-Addr", "HTTP-Host", "wsgi.input")
    found = shown(host(show).get(headers=[(name, "evil") for name in names]))
    assert found["REQUEST_METHOD"] == "GET" and found["REMOTE_ADDR"] == "127.0.0.1"
    assert found["HTTP_HOST"] == "localhost"
    assert "CONTENT_TYPE" not in found and "CONTENT_LENGTH" not in found


@pytest.mark.parametrize(
    "field, name, port",
    [
        ("example.com:81", "example.com", "81"),
        ("[::1]:82", "[::1]", "82"),
        ("[::1]", "[::1]", "80"),
    ],
)
def test_the_servers_name_is_what_the_client_asked_for(host, field, name, port):
    """With its port."""
    client = host(show).client()
    client.send(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % field.encode())
    found = shown(client.response())
    assert (found["SERVER_NAME"], found["SERVER_PORT"]) == (name, port)


def test_a_request_without_host_has_a_server_all_the_same(host):
    """In HTTP/1.0 it need not have one."""
    client = host(show).client()
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    found = shown(client.response())
    assert found["SERVER_NAME"] == "localhost" and found["SERVER_PORT"] == "80"
    assert found["SERVER_PROTOCOL"] == "HTTP/1.0"


def test_the_error_stream_can_be_written_to(host, capsys):
    """It is the process's own."""

    def app(environ, start_response):
        errors = environ["wsgi.errors"]
        errors.write("one ä\n")
        errors.writelines(["two\n"])
        errors.flush()
        return hello(environ, start_response)

    assert host(app).get().body == b"hello"
    assert "one ä\ntwo\n" in capsys.readouterr().err


@pytest.mark.parametrize("app", [None, "x", 5, [hello]])
def test_what_cannot_be_called_is_no_application(app):
    """Said when the routing is made."""
    with pytest.raises(ConfigurationError):
        wsgi("/", app)


def test_a_host_serves_nothing_but_http():
    """A raw GSGI server that gives it something else is told so."""
    with pytest.raises(ValueError, match="lifespan"):
        WSGIHost(hello)({"type": "lifespan"}, None, None)


def test_a_host_says_whose_it_is():
    """In a log."""
    assert "hello" in repr(WSGIHost(hello))


# Bodies.


@pytest.mark.parametrize(
    "body",
    [
        [b"a", b"b", b"c"],
        (b"ab", b"c"),
        [b"abc"],
        [b"", b"abc", b""],
        {b"abc": 1},
    ],
    ids=repr,
)
def test_any_iterable_is_a_body(host, body):
    """Its pieces, one after the other."""
    answer = host(returning(body)).get()
    assert (answer.status, answer.body) == (200, b"abc")
    assert answer["content-type"] == "text/plain"


@pytest.mark.parametrize("make", [list, tuple, iter, lambda body: Body(body)])
def test_an_empty_body_is_a_response(host, make):
    """With a length of nothing, and the connection goes on."""
    client = host(lambda e, s: returning(make([]))(e, s)).client()
    for _ in range(2):
        client.send(request())
        answer = client.response()
        assert (answer.status, answer.body) == (200, b"")


def test_a_list_has_a_length(serve):
    """It is complete: nothing has to be chunked."""
    answer = serve([wsgi("/", answering(b"ab", b"c"))]).get()
    assert answer["content-length"] == "3"
    assert not answer.get("transfer-encoding")


def test_a_body_of_unknown_length_is_chunked(host):
    """And the connection goes on."""
    client = host(generating(b"ab", b"", b"c")).client()
    for _ in range(2):
        client.send(request())
        answer = client.response()
        assert answer["transfer-encoding"] == "chunked"
        assert answer.body == b"abc"


def test_a_body_of_unknown_length_ends_with_the_connection_in_http_1_0(host):
    """Whatever was asked for."""
    client = host(generating(b"ab", b"c")).client()
    client.send(request(version="1.0", headers=[("Connection", "keep-alive")]))
    answer = client.response()
    assert answer.body == b"abc" and answer["connection"] == "close"
    assert not answer.get("transfer-encoding")


def test_a_connection_of_http_1_0_is_kept_if_that_is_asked_for(host):
    """When the length is known."""
    client = host(answering(b"abc", headers=[*PLAIN, ("Content-Length", "3")])).client()
    for _ in range(2):
        client.send(request(version="1.0", headers=[("Connection", "keep-alive")]))
        answer = client.response()
        assert (answer.body, answer["connection"]) == (b"abc", "keep-alive")


def test_the_applications_length_stands(host):
    """Once."""
    answer = host(generating(b"ab", b"c", headers=[*PLAIN, ("Content-Length", "3")]))
    answer = answer.get()
    assert (answer.body, answer["content-length"]) == (b"abc", "3")
    assert not answer.get("transfer-encoding")


@pytest.mark.parametrize("make", [answering, generating])
def test_a_body_shorter_than_said_cuts_the_connection(host, caplog, make):
    """The client must not take it for whole."""
    client = host(make(b"abc", headers=[*PLAIN, ("Content-Length", "4")])).client()
    client.send(request() * 2)
    received = cut(client)
    assert received == b"" or received.endswith(b"\r\n\r\nabc")
    assert any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("make", [answering, generating])
def test_a_body_longer_than_said_is_not_sent_beyond(host, caplog, make):
    """What is too much would be taken for the next response."""
    headers = [*PLAIN, ("Content-Length", "3")]
    client = host(make(b"abc", b"HTTP/1.1 200 OK\r\n\r\n", headers=headers)).client()
    client.send(request() * 2)
    assert cut(client).count(b"HTTP/1.1") <= 1
    assert any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("length", ["", "x", "-3", "3, 3", "0x3", "3.0"])
@pytest.mark.parametrize("make", [answering, generating])
def test_a_length_that_is_none_is_an_error(serve, caplog, make, length):
    """500, as for any other bad field."""
    app = make(b"abc", headers=[*PLAIN, ("Content-Length", length)])
    answer = serve([wsgi("/", app)]).get()
    assert answer.status == 500 and answer.body != b"abc"
    assert any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("make", [answering, generating])
def test_head_has_the_fields_and_no_body(host, make):
    """And the connection goes on."""
    headers = [*PLAIN, ("Content-Length", "3")]
    client = host(make(b"abc", headers=headers)).client()
    client.send(request(method="HEAD") + request())
    assert client.response(method="HEAD")["content-length"] == "3"
    assert client.response().body == b"abc"


def test_head_of_a_list_has_its_length(serve):
    """As GET would have it."""
    answer = serve([wsgi("/", answering(b"abc"))]).get(method="HEAD")
    assert answer["content-length"] == "3"


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("pieces", [[], [b"body"]])
def test_some_statuses_have_no_body(serve, status, pieces):
    """Whatever the application says."""
    running = serve([wsgi("/", answering(*pieces, status=status, headers=[]))])
    client = running.client()
    client.send(request() * 2)
    for _ in range(2):
        answer = client.response()
        assert answer.status == int(status[:3])
        assert not answer.get("content-length")
        assert not answer.get("transfer-encoding")
    assert client.silent()


def test_the_phrase_is_the_applications(serve):
    """A client may show it."""
    running = serve([wsgi("/", answering(status="299 Fine, thank you"))])
    assert running.get().head.startswith(b"HTTP/1.1 299 Fine, thank you\r\n")


def test_a_field_may_be_sent_several_times(host):
    """Cookies must be."""
    cookies = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("set-cookie", "c=3")]
    answer = host(answering(b"x", headers=[*PLAIN, *cookies])).get()
    assert answer.get("set-cookie") == ["a=1", "b=2", "c=3"]


def test_fields_of_the_connection_are_the_servers(host):
    """What the application says of the framing is not believed."""
    headers = [
        *PLAIN,
        ("Transfer-Encoding", "chunked"),
        ("Connection", "keep-alive, X-Thing"),
        ("Keep-Alive", "timeout=500"),
    ]
    client = host(answering(b"abc", headers=headers)).client()
    client.send(request() * 2)
    for _ in range(2):
        answer = client.response()
        assert answer.body == b"abc"
        assert not answer.get("keep-alive") and not answer.get("connection")


def test_an_application_may_close_the_connection(host):
    """By the field that says so."""
    client = host(answering(b"abc", headers=[*PLAIN, ("Connection", "close")])).client()
    client.send(request())
    answer = client.response()
    assert (answer["connection"], answer.body) == ("close", b"abc")
    assert client.ended() == "closed"


def test_a_date_is_added_unless_there_is_one(host):
    """One, never two."""
    assert host(hello).get().get("date")
    dated = answering(b"x", headers=[*PLAIN, ("Date", "Thu, 01 Jan 1970 00:00:00 GMT")])
    assert host(dated).get().get("date") == ["Thu, 01 Jan 1970 00:00:00 GMT"]


BAD_HEADERS = [
    [("X-A", "a\r\nX-Evil: 1")],
    [("X-A", "a\nX-Evil: 1")],
    [("X-A", "a\rX-Evil: 1")],
    [("X-A\r\nX-Evil", "1")],
    [("X-A: 1\r\nX-Evil", "1")],
    [("X A", "1")],
    [("", "1")],
    [("X-A:", "1")],
    [("X-\xe4", "1")],
    [("X-A", "a\0b")],
    [("X-A", "a\x0bb")],
    [("X-A", "a\x1fb")],
    [("X-A", "a\x7fb")],
    [("X-A", "€")],
    [("X-€", "1")],
    [("X-A", 1)],
    [("X-A", None)],
    [("X-A", b"1")],
    [(b"X-A", "1")],
    [("X-A",)],
    [("X-A", "1", "2")],
    ["X-A: 1"],
    [None],
    None,
]


@pytest.mark.parametrize("headers", BAD_HEADERS, ids=repr)
@pytest.mark.parametrize("way", [wsgi, behind_middleware])
def test_bad_fields_are_an_error_and_inject_nothing(serve, caplog, way, headers):
    """500, and the traceback in the log."""

    def app(environ, start_response):
        start_response("200 OK", headers)
        return [b"body"]

    answer = serve([way("/", app)]).get()
    assert answer.status == 500 and b"body" not in answer.body
    assert not answer.get("x-evil") and not answer.get("x-a")
    assert any(record.exc_info for record in caplog.records)


BAD_STATUSES = [
    *("", "OK", "200OK", "20 OK", "2000 OK", "-20 OK", "abc OK", "100 Continue"),
    *("101 Switching Protocols", "200 OK\r\nX-Evil: 1", "200 OK\nX-Evil: 1"),
    *("200 OK\0", " 200 OK", "\u0662\u0660\u0660 OK", 200, b"200 OK", None, ["200 OK"]),
]


@pytest.mark.parametrize("status", BAD_STATUSES, ids=repr)
def test_bad_statuses_are_an_error_and_inject_nothing(serve, caplog, status):
    """500, and the traceback in the log."""

    def app(environ, start_response):
        start_response(status, [])
        return [b"body"]

    answer = serve([wsgi("/", app)]).get()
    assert answer.status == 500 and not answer.get("x-evil")
    assert any(record.exc_info for record in caplog.records)


def test_a_status_is_a_number_and_a_phrase():
    """The phrase may be missing."""
    assert read_status("404 Not Found") == (404, "Not Found")
    assert read_status("404") == read_status("404 ") == (404, "")


BAD_BODIES = [
    *("text", b"bytes", None, 5, ["text"], [b"a", "text"], [bytearray(b"x")], [None]),
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=repr)
def test_a_body_is_of_bytes(serve, caplog, body):
    """500 as long as nothing has been sent, and the traceback in the log."""
    answer = serve([wsgi("/", returning(body))]).get()
    assert answer.status == 500
    assert any(record.exc_info for record in caplog.records)


def test_a_piece_of_text_among_bytes_cuts_the_response(host, caplog):
    """It has begun, but it must not seem complete."""
    client = host(generating(b"abc", "text")).client()
    client.send(request())
    assert not cut(client).endswith(b"0\r\n\r\n")
    assert any(record.exc_info for record in caplog.records)


# start_response and write.


def test_write_sends_what_it_is_given(host):
    """Before what is returned."""

    def app(environ, start_response):
        write = start_response("200 OK", PLAIN)
        write(b"one ")
        write(b"")
        write(b"two ")
        return [b"three"]

    assert host(app).get().body == b"one two three"


def test_what_is_written_arrives_before_more_is_made(host):
    """Nothing is kept back."""
    goes_on = Event()

    def app(environ, start_response):
        write = start_response("200 OK", PLAIN)
        write(b"first")
        goes_on.wait()
        return []

    client = host(app).client()
    client.send(request())
    client.read_until(b"first")
    goes_on.set()
    client.read_until(b"0\r\n\r\n")


@pytest.mark.parametrize("data", ["text", None, 5])
def test_write_takes_bytes(serve, data):
    """Nothing else."""

    def app(environ, start_response):
        start_response("200 OK", PLAIN)(data)

    assert serve([wsgi("/", app)]).get().status == 500


def test_write_after_the_end_is_an_error(serve):
    """Of whoever kept it."""
    kept = []

    def app(environ, start_response):
        kept.append(start_response("200 OK", PLAIN))
        return [b"x"]

    running = serve([wsgi("/", app)])
    assert running.get().body == b"x"
    with pytest.raises(RuntimeError):
        kept[0](b"y")


def test_start_response_is_called_once(serve, caplog):
    """Unless there was an error."""

    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        start_response("404 Not Found", PLAIN)
        return [b"x"]

    assert serve([wsgi("/", app)]).get().status == 500
    assert "twice" in caplog.text


def test_an_error_before_the_head_replaces_the_response(host):
    """By ``exc_info``: the head had not been sent."""

    def app(environ, start_response):
        start_response("200 OK", [*PLAIN, ("X-First", "1")])
        try:
            raise KeyError("a")
        except KeyError:
            start_response("503 Sorry", PLAIN, sys.exc_info())
        return [b"sorry"]

    answer = host(app).get()
    assert (answer.status, answer.body) == (503, b"sorry")
    assert not answer.get("x-first")


def test_exc_info_may_come_with_the_first_call(host):
    """There is nothing to take back."""

    def app(environ, start_response):
        try:
            raise KeyError("a")
        except KeyError:
            start_response("503 Sorry", PLAIN, sys.exc_info())
        return [b"sorry"]

    assert host(app).get().status == 503


def test_an_error_behind_the_head_is_raised_again(host, caplog):
    """It is too late for another response: this one is cut."""
    goes_on = Event()

    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        yield b"begun"
        goes_on.wait()
        try:
            raise KeyError("the very error")
        except KeyError:
            start_response("500 Oh", PLAIN, sys.exc_info())
        yield b"never"

    client = host(app).client()
    client.send(request())
    assert client.read_until(b"begun").startswith(b"HTTP/1.1 200 ")
    goes_on.set()
    assert cut(client) in (b"", b"\r\n")
    assert "the very error" in caplog.text


def test_a_generator_calls_start_response_when_it_is_asked_for_a_piece(host):
    """That is late, and early enough."""

    def app(environ, start_response):
        start_response("201 Created", PLAIN)
        yield b"made"

    answer = host(app).get()
    assert (answer.status, answer.body) == (201, b"made")


@pytest.mark.parametrize("body", [[b"x"], [], iter([b"x"]), iter([])], ids=repr)
def test_a_body_without_start_response_is_an_error(serve, caplog, body):
    """Nobody knows what it is."""
    assert serve([wsgi("/", lambda environ, start_response: body)]).get().status == 500
    assert "did not call start_response" in caplog.text


# Applications that fail.


def test_an_application_may_fail_before_its_head(host, caplog):
    """500, the traceback in the log and not in the answer."""

    def app(environ, start_response):
        raise KeyError("a secret")

    answer = host(app).get()
    assert answer.status == 500 and b"secret" not in answer.body
    assert "a secret" in caplog.text


def test_an_application_may_fail_behind_start_response(host, caplog):
    """The head has not been sent: 500."""

    def app(environ, start_response):
        start_response("200 OK", [*PLAIN, ("X-A", "1")])
        raise KeyError("a secret")

    answer = host(app).get()
    assert answer.status == 500 and not answer.get("x-a")
    assert "a secret" in caplog.text


@pytest.mark.parametrize("pieces, status", [(0, 500), (1, 200), (3, 200)])
def test_an_application_may_fail_in_its_body(host, caplog, pieces, status):
    """What has begun is cut; what has not is answered with 500."""
    goes_on = Event()

    def broken():
        yield from itertools.repeat(b"piece", pieces)
        goes_on.wait()
        raise KeyError("a secret")

    body = Body(broken())
    client = host(returning(body)).client()
    client.send(request())
    if pieces:
        until(lambda: client.data.count(b"piece") == pieces or client._more(1))
    goes_on.set()
    received = cut(client)
    assert received.startswith(b"HTTP/1.1 %d " % status)
    assert received.count(b"\r\npiece\r\n") == pieces
    if status == 200:
        assert not received.endswith(b"0\r\n\r\n")
    assert "a secret" in caplog.text
    until(lambda: body.closed == 1)


def test_an_application_may_fail_behind_its_body(host, caplog):
    """The client has all it was promised."""

    def app(environ, start_response):
        start_response("200 OK", [*PLAIN, ("Content-Length", "3")])
        yield b"abc"
        raise KeyError("a secret")

    assert host(app).get().body == b"abc"
    until(lambda: "a secret" in caplog.text)


def test_an_application_may_fail_in_close(host, caplog):
    """That is noted, and the server goes on."""

    class Failing(Body):
        def close(self):
            super().close()
            raise KeyError("a secret")

    body = Failing([b"abc"])
    running = host(returning(body))
    assert running.get().body == b"abc"
    until(lambda: "a secret" in caplog.text)
    assert body.closed == 1


@pytest.mark.parametrize("error", [SystemExit, gevent.Timeout])
def test_no_exception_of_an_application_ends_the_server(serve, caplog, error):
    """Not even those that are no ``Exception``."""

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/fail":
            raise error
        return hello(environ, start_response)

    running = serve([wsgi("/", app)])
    assert running.get("/fail").status == 500
    assert running.get().body == b"hello"


def test_a_killed_application_leaves_as_if_it_had_failed(serve):
    """Its ``finally`` runs, its body is closed, and the client is told."""
    calls, greenlets = [], []

    def app(environ, start_response):
        greenlets.append(gevent.getcurrent())
        with noting(calls, "left"):
            gevent.sleep(60)

    running = serve([wsgi("/", app), wsgi("/", hello)])
    client = running.client()
    client.send(request())
    until(lambda: greenlets)
    greenlets[0].kill()
    assert client.response().status == 500
    assert calls == ["left"]


def test_the_drain_kills_an_application_that_blocks_for_ever(host):
    """At the end of its time; what it holds is released."""
    calls = []

    def endless():
        with noting(calls, "left"):
            yield b"begun"
            Event().wait()

    body = endless()
    running = host(returning(body))
    client = running.client()
    client.send(request())
    client.read_until(b"begun")
    running.server.stop(0.2)
    assert calls == ["left"]
    assert client.ended() in ("closed", "reset")


def test_an_application_that_waits_for_its_body_is_killed_when_it_comes_too_late(host):
    """408 for the client."""
    calls = []

    def app(environ, start_response):
        with noting(calls, "left"):
            environ["wsgi.input"].read(10)

    client = host(app, timeouts=Timeouts(body_timeout=50 * MS)).client()
    client.send(request(method="POST", headers=[("Content-Length", "10")]) + b"x")
    assert client.response().status == 408
    until(lambda: calls == ["left"])


# Bodies are closed, and sent as they come.


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", ["200 OK", "204 No Content"])
def test_a_body_is_closed_once(serve, method, status):
    """When it has been sent."""
    body = Body([b"a", b"b"])
    running = serve([wsgi("/", returning(body, headers=[], status=status))])
    running.get(method=method)
    until(lambda: body.closed == 1)
    gevent.sleep(0)
    assert body.closed == 1


def test_a_body_is_closed_when_start_response_was_never_called(serve):
    """However wrong it is."""
    body = Body([b"a"])
    assert serve([wsgi("/", lambda e, s: body)]).get().status == 500
    until(lambda: body.closed == 1)


def test_a_body_is_closed_when_the_client_leaves(host):
    """The next piece finds out."""
    body = Body(iter(lambda: gevent.sleep(MS) or b"piece", None))
    client = host(returning(body)).client()
    client.send(request())
    client.read_until(b"piece")
    assert body.closed == 0
    client.reset()
    until(lambda: body.closed == 1)


def test_a_body_is_closed_when_the_client_left_before_its_head(host):
    """``start_response`` does not fail: nothing would close the body then."""
    body, goes_on, begun = Body([b"x"] * 3), Event(), Event()

    def app(environ, start_response):
        begun.set()
        goes_on.wait()
        return returning(body)(environ, start_response)

    running = host(app)
    client = running.client()
    client.send(request())
    begun.wait()
    client.reset()
    until(lambda: not running.server.connections)
    goes_on.set()
    until(lambda: body.closed == 1)


def test_a_client_that_leaves_is_no_error(host, caplog):
    """It is not noted as one."""
    body = Body(iter(lambda: gevent.sleep(MS) or b"piece", None))
    client = host(returning(body)).client()
    client.send(request())
    client.read_until(b"piece")
    client.reset()
    until(lambda: body.closed == 1)
    gevent.sleep(0)
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("headers", [PLAIN, [*PLAIN, ("Content-Length", "9")]])
def test_each_piece_arrives_before_the_next_is_made(host, headers):
    """Whether or not the length is known."""
    turns, made = [Event() for _ in range(3)], []

    def app(environ, start_response):
        start_response("200 OK", headers)
        for number, turn in enumerate(turns):
            turn.wait()
            made.append(number)
            yield b"<%d>" % number

    client = host(app).client()
    client.send(request())
    for number, turn in enumerate(turns):
        assert len(made) == number
        turn.set()
        client.read_until(b"<%d>" % number)


def test_a_client_that_does_not_read_holds_up_the_application(host):
    """Its memory does not grow."""
    made = [0]

    def pieces():
        for number in range(10_000):
            made[0] = number
            yield b"x" * 64 * 1024

    running = host(lambda e, s: returning(pieces())(e, s), send_buffer=64 * 1024)
    client = running.client(receive_buffer=64 * 1024)
    client.send(request())
    client.read_until(b"\r\n\r\n")
    until(lambda: stays(lambda: made[0]))
    assert made[0] < 200
    client.reset()


def test_ten_thousand_pipelined_requests_are_answered_in_order(serve):
    """Each by its own application's call."""

    def app(environ, start_response):
        body = environ["QUERY_STRING"].encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        if len(body) % 2:
            gevent.sleep(0)
        return [body]

    client = serve([wsgi("/", app)]).client()
    sending = gevent.spawn(
        client.send, b"".join(request(f"/?{n}") for n in range(10_000))
    )
    for n in range(10_000):
        assert client.response().body == b"%d" % n
    sending.get()
    assert client.silent(MS)


def test_a_context_is_of_one_request(serve):
    """What one leaves in a ``ContextVar`` no other finds."""
    variable = contextvars.ContextVar("variable", default=b"nothing")

    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        found = variable.get()
        variable.set(b"something")
        return [found]

    client = serve([wsgi("/", app)]).client()
    client.send(request() * 3)
    assert [client.response().body for _ in range(3)] == [b"nothing"] * 3


def test_a_greenlet_local_may_outlive_a_request(serve):
    """Greenlets are used again: pools of connections by greenlet stay small."""
    values = local()

    def app(environ, start_response):
        values.count = getattr(values, "count", 0) + 1
        start_response("200 OK", PLAIN)
        return [b"%d" % values.count]

    client = serve([wsgi("/", app)]).client()
    for expected in (b"1", b"2", b"3"):
        client.send(request())
        assert client.response().body == expected


def test_requests_at_a_time_have_greenlets_of_their_own(host):
    """One that blocks holds up no other."""
    goes_on = Event()

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/slow":
            goes_on.wait()
        return hello(environ, start_response)

    running = host(app)
    slow = running.client()
    slow.send(request("/slow"))
    assert running.get("/fast").body == b"hello"
    goes_on.set()
    assert slow.response().body == b"hello"


def test_a_piece_arrives_although_the_application_lets_nobody_else_run(checked):
    """It computes on, without a switch: the piece must have left before."""
    received = []

    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        for number in range(3):
            yield b"piece %d" % number
            received.append(arrived(b"piece %d" % number))

    def arrived(piece):
        """Read what has come without giving the hub a turn."""
        end, data = time.monotonic() + 1, b""
        while piece not in data and time.monotonic() < end:
            if select.select([fd], [], [], 0.1)[0]:
                data += os.read(fd, 4096)
        return piece in data

    client = checked(app).client()
    fd = client.sock.fileno()
    client.send(request())
    until(lambda: len(received) == 3)
    assert received == [True, True, True]
