"""Each row of the table in docs/security.md, over a socket."""

import re
from pathlib import Path

import pytest

from greenchannels import gsgi
from tests.servers.strictness import CHUNKED, GET, HOST, POST, ROWS

PAGE = Path(__file__).parents[2] / "docs" / "security.md"

#: Comes behind each wire: what an attacker wants to be taken for a request.
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Recorder:
    """A consumer that reads its request to the end and notes how far it came."""

    def __init__(self):
        self.begun, self.complete = [], []

    def __call__(self, scope, receive, send):
        assert scope["type"] == "http", "others are not supported"
        self.begun.append(scope)
        body = b""
        while (event := receive())["type"] == "http.request":
            body += event["body"]
            if not event.get("more_body"):
                self.complete.append((scope, body, event.get("trailers")))
                break
        send({"type": "http.response.start", "status": 200, "headers": []})
        send({"type": "http.response.body", "body": b"served\n"})


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def running(serve, recorder):
    return serve([gsgi("/<path:rest>", recorder), gsgi("/", recorder)])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_server_refuses(row, running, recorder):
    """With the row's status, once; the connection ends; nothing is served."""
    for wire in row.wires:
        client = running.client()
        client.send(wire + SMUGGLED)
        answer = client.response()
        assert (answer.status, wire) == (row.status, wire)
        assert answer["connection"] == "close"
        assert (client.rest(), wire) == (b"", wire)
        client.close()
        assert recorder.complete == []
        assert row.in_body or recorder.begun == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_server_refuses_behind_a_good_request(row, running, recorder):
    """The good one is served, the bad one refused, what follows ignored."""
    wire = row.wires[0]
    client = running.client()
    client.send(POST + b"Content-Length: 2\r\n\r\nab" + wire + SMUGGLED)
    assert client.response().body == b"served\n"
    answer = client.response()
    assert answer.status == row.status
    assert answer["connection"] == "close"
    assert client.rest() == b""
    assert [body for _, body, _ in recorder.complete] == [b"ab"]


def test_the_page_has_the_same_rows():
    """Name, status and source, in the same order; and each says why."""
    lines = re.findall(
        r"^\| (.+?) \| (\d{3}) \| (.+?) \| (.+?) \|$", PAGE.read_text(), re.M
    )
    assert [(name, int(status), source) for name, status, source, _ in lines] == [
        (row.name, row.status, row.source) for row in ROWS
    ]
    assert all(why.strip() for *_, why in lines)


def test_every_row_has_requests_of_its_own():
    """So that none of the tests above is empty."""
    assert all(row.wires for row in ROWS)
    assert len({row.name for row in ROWS}) == len(ROWS)


# -- What is accepted although it looks odd


def served(running, recorder, wire):
    """Send a wire and return what the consumer got."""
    client = running.client()
    client.send(wire)
    assert client.response().body == b"served\n"
    scope, body, trailers = recorder.complete[-1]
    return scope, body, list(trailers or [])


def test_the_authority_of_a_target_replaces_another_host(running, recorder):
    """RFC 9112, section 3.2.2: Host is ignored, not a reason to refuse."""
    wire = b"GET http://b:80/x HTTP/1.1\r\nHost: localhost\r\n\r\n"
    scope, _, _ = served(running, recorder, wire)
    assert scope["headers"] == [(b"host", b"b:80")]
    assert scope["path"] == "/x"


def test_names_with_underscores_pass_if_they_shadow_none(running, recorder):
    """They are in the scope; hosted WSGI applications do not see them."""
    scope, _, _ = served(running, recorder, GET + b"X_User: a\r\nx_user: b\r\n\r\n")
    assert scope["headers"][1:] == [(b"x_user", b"a"), (b"x_user", b"b")]


def test_one_empty_line_before_a_request_is_ignored(running, recorder):
    """Old clients send it behind a body (RFC 9112, section 2.2)."""
    assert served(running, recorder, b"\r\n" + GET + b"\r\n")[1] == b""


def test_extensions_are_ignored_and_trailers_kept_apart(running, recorder):
    """Neither becomes a header; trailers about authentication are dropped."""
    chunks = (
        b'2;a;b="c"\r\nab\r\n0;z\r\nX-Sum: 1\r\nAuthorization: x\r\nHost: y\r\n\r\n'
    )
    scope, body, trailers = served(running, recorder, CHUNKED + chunks)
    assert body == b"ab"
    assert scope["headers"] == [
        (b"host", b"localhost"),
        (b"transfer-encoding", b"chunked"),
    ]
    assert trailers == [(b"x-sum", b"1")]


def test_http_1_0_needs_no_host(running, recorder):
    """And its connection ends."""
    client = running.client()
    client.send(b"GET / HTTP/1.0\r\n\r\n" + SMUGGLED)
    assert b"served" in client.rest()
    assert len(recorder.complete) == 1
    assert HOST not in client.data
