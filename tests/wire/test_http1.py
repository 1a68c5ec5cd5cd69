"""Requests as bytes arrive: RFC 9112."""

import gc
import weakref

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenchannels.options import HTTPLimits
from greenchannels.wire import http1
from greenchannels.wire.http1 import (
    NEXT_STATES,
    BodyChunk,
    Request,
    RequestEnd,
    RequestParser,
    State,
    encode_chunk,
    encode_head,
    http_date,
    parse_headers,
)

LIMITS = HTTPLimits(max_request_line=60, max_head=300, max_headers=8, max_body=40)
GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST /p HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
WEBSOCKET = GET + b"Upgrade: websocket\r\nConnection: Upgrade\r\n"


def feed(parser, wire, size=1 << 20):
    events = []
    for i in range(0, len(wire), size):
        events += parser.receive_data(wire[i : i + size])
    return events


def joined(events):
    """Return the events with the pieces of each body made one."""
    result = []
    for event in events:
        if isinstance(event, BodyChunk) and isinstance(result[-1], BodyChunk):
            assert event.data
            result[-1] = BodyChunk(result[-1].data + event.data)
        else:
            result.append(event)
    return result


def short(event):
    """Return what a table says of an event."""
    if isinstance(event, Request):
        return f"{event.method} {event.target.decode()}"
    return event.data if isinstance(event, BodyChunk) else "end"


def outcome(parser, events):
    error = parser.error and (parser.error.hint, parser.error.reason)
    return joined(events), error, parser.state, parser.in_head, parser.trailing


HEAD_400 = (400, "malformed header field")
LINE_400 = (400, "malformed request line")
LINE_414 = (414, "the request line is too long")
HEAD_431 = (431, "the head is too long")

#: Name: wire, events, error, state.
CASES = {
    "nothing": (b"", [], None, State.HEAD),
    "get": (GET + b"\r\n", ["GET /", "end"], None, State.HEAD),
    "incomplete": (GET, [], None, State.HEAD),
    "half a line": (b"GE", [], None, State.HEAD),
    "an empty line before": (
        b"\r\n" + GET + b"\r\n\r\n",
        ["GET /", "end"],
        None,
        State.HEAD,
    ),
    "an empty line before each": (
        (b"\r\n" + GET + b"\r\n") * 2,
        ["GET /", "end"] * 2,
        None,
        State.HEAD,
    ),
    "two empty lines before": (b"\r\n\r\n" + GET, [], LINE_400, State.FAILED),
    "three empty lines before": (b"\r\n" * 3 + GET, [], LINE_400, State.FAILED),
    "pipelined": (
        GET + b"\r\n" + POST + b"Content-Length: 2\r\n\r\nab" + GET + b"\r\nG",
        ["GET /", "end", "POST /p", b"ab", "end", "GET /", "end"],
        None,
        State.HEAD,
    ),
    "no body": (
        POST + b"Content-Length: 0\r\n\r\n",
        ["POST /p", "end"],
        None,
        State.HEAD,
    ),
    "an incomplete body": (
        POST + b"Content-Length: 3\r\n\r\nab",
        ["POST /p", b"ab"],
        None,
        State.BODY,
    ),
    "chunks": (
        CHUNKED + b"2;x=y\r\nab\r\n1\r\nc\r\n0\r\nT: u\r\n\r\n" + GET + b"\r\n",
        ["POST /p", b"abc", "end", "GET /", "end"],
        None,
        State.HEAD,
    ),
    "trailers are not headers": (
        CHUNKED + b"0\r\nConnection: close\r\nHost: b\r\n\r\n" + GET + b"\r\n",
        ["POST /p", "end", "GET /", "end"],
        None,
        State.HEAD,
    ),
    "incomplete chunks": (CHUNKED + b"2\r\na", ["POST /p", b"a"], None, State.CHUNKS),
    "malformed chunks": (
        CHUNKED + b"2\r\nab\r\nx\r\n" + GET,
        ["POST /p", b"ab"],
        (400, "malformed chunk size"),
        State.FAILED,
    ),
    "chunks too big": (
        CHUNKED + b"28\r\n" + b"a" * 40 + b"\r\n1\r\na",
        ["POST /p", b"a" * 40],
        (413, "the body is too big"),
        State.FAILED,
    ),
    "body too big": (
        POST + b"Content-Length: 41\r\n\r\n" + b"a" * 41,
        [],
        (413, "the body is too big"),
        State.FAILED,
    ),
    "the biggest body": (
        POST + b"Content-Length: 40\r\n\r\n" + b"a" * 40,
        ["POST /p", b"a" * 40, "end"],
        None,
        State.HEAD,
    ),
    "body enormous": (
        POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n",
        [],
        (413, "the body is too big"),
        State.FAILED,
    ),
    "close": (
        GET + b"Connection: close\r\n\r\n" + GET + b"\r\n",
        ["GET /", "end"],
        None,
        State.ENDED,
    ),
    "close behind a body": (
        POST + b"Content-Length: 2\r\nConnection: close\r\n\r\nab" + GET + b"\r\n",
        ["POST /p", b"ab", "end"],
        None,
        State.ENDED,
    ),
    "close behind chunks": (
        POST
        + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\na\r\n0\r\n\r\n"
        + GET
        + b"\r\n",
        ["POST /p", b"a", "end"],
        None,
        State.ENDED,
    ),
    "HTTP/1.0": (b"GET / HTTP/1.0\r\n\r\n" + GET, ["GET /", "end"], None, State.ENDED),
    "HTTP/1.0 kept alive": (
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2,
        ["GET /", "end"] * 2,
        None,
        State.HEAD,
    ),
    "websocket": (WEBSOCKET + b"\r\n", ["GET /"], None, State.UPGRADED),
    "websocket with a body": (
        WEBSOCKET + b"Content-Length: 2\r\n\r\n",
        ["GET /"],
        None,
        State.UPGRADED,
    ),
    "websocket behind a request": (
        GET + b"\r\n" + WEBSOCKET + b"\r\n",
        ["GET /", "end", "GET /"],
        None,
        State.UPGRADED,
    ),
    "another protocol": (
        (
            POST
            + b"Upgrade: h2c\r\nConnection: Upgrade\r\nUPGRADE:x\r\n"
            + b"Content-Length: 2\r\n\r\nab"
        )
        * 2,
        ["POST /p", b"ab", "end"] * 2,
        None,
        State.HEAD,
    ),
    "another protocol in chunks": (
        POST
        + b"Connection: Upgrade\r\nTransfer-Encoding: chunked\r\nUpgrade: TLS/1.0\r\n"
        + b"\r\n1\r\na\r\n0\r\n\r\n"
        + GET
        + b"\r\n",
        ["POST /p", b"a", "end", "GET /", "end"],
        None,
        State.HEAD,
    ),
    "any byte above 127": (
        GET + b"A: \xff\xc3\xa9\x84\x86\r\n\r\n",
        ["GET /", "end"],
        None,
        State.HEAD,
    ),
    "the longest request line": (
        b"GET /" + b"a" * 46 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        ["GET /" + "a" * 46, "end"],
        None,
        State.HEAD,
    ),
    "a longer request line": (
        b"GET /" + b"a" * 47 + b" HTTP/1.1\r\n",
        [],
        LINE_414,
        State.FAILED,
    ),
    "a request line without end": (b"a" * 63, [], LINE_414, State.FAILED),
    "a request line at the limit, not complete": (b"a" * 62, [], None, State.HEAD),
    "the most fields": (
        GET + b"A: b\r\n" * 7 + b"\r\n",
        ["GET /", "end"],
        None,
        State.HEAD,
    ),
    "more fields": (
        GET + b"A: b\r\n" * 8,
        [],
        (431, "too many header fields"),
        State.FAILED,
    ),
    "the longest head": (
        GET + b"A: " + b"b" * (300 - len(GET) - 7) + b"\r\n\r\n",
        ["GET /", "end"],
        None,
        State.HEAD,
    ),
    "a longer head": (
        GET + b"A: " + b"b" * (300 - len(GET) - 6) + b"\r\n\r\n",
        [],
        HEAD_431,
        State.FAILED,
    ),
    "a field without end": (GET + b"A: " + b"b" * 300, [], HEAD_431, State.FAILED),
    "an unknown method": (
        b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n",
        [],
        (501, "method is unknown"),
        State.FAILED,
    ),
    "a method in small letters": (
        b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
        [],
        (501, "method is unknown"),
        State.FAILED,
    ),
    "CONNECT": (
        b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        [],
        (501, "CONNECT is not supported"),
        State.FAILED,
    ),
    "unknown coding": (
        POST + b"Transfer-Encoding: x\r\n\r\n",
        [],
        (400, "the last transfer coding must be chunked"),
        State.FAILED,
    ),
    "chunks and length": (
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
        [],
        (400, "Transfer-Encoding is not allowed here"),
        State.FAILED,
    ),
    "another coding": (
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        [],
        (501, "transfer codings are not supported"),
        State.FAILED,
    ),
    "a shadow": (
        POST + b"Content_Length: 1\r\n\r\n",
        [],
        (400, "a field's name shadows another"),
        State.FAILED,
    ),
    "two lengths": (
        POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        [],
        (400, "malformed Content-Length"),
        State.FAILED,
    ),
    "no host": (
        b"GET / HTTP/1.1\r\n\r\n",
        [],
        (400, "a request has one Host"),
        State.FAILED,
    ),
    "what only llhttp refuses": (
        b"DESCRIBE / HTTP/1.1\r\nHost: a\r\n\r\n",
        [],
        (400, "malformed head: Invalid method for HTTP/x.x request"),
        State.FAILED,
    ),
}
for version in (b"0.9", b"1.2", b"2.0", b"3.0"):
    CASES[f"HTTP/{version.decode()}"] = (
        b"GET / HTTP/" + version + b"\r\n",
        [],
        (505, "HTTP version is not supported"),
        State.FAILED,
    )
for line in (
    b"GET /\r\n",
    b"GET / HTTP/1.1\n",
    b"GET / HTTP/1.1 \r\n",
    b"GET  / HTTP/1.1\r\n",
    b" GET / HTTP/1.1\r\n",
    b"GET\t/ HTTP/1.1\r\n",
    b"GET / http/1.1\r\n",
    b"GET / HTTP/11\r\n",
    b"GET / HTTP/1.1\r\r\n",
    b"GET /a b HTTP/1.1\r\n",
    b"GET /\0 HTTP/1.1\r\n",
    b"GET /\x7f HTTP/1.1\r\n",
    b"GET /\xc3\xa9 HTTP/1.1\r\n",
    b"GET /a#b HTTP/1.1\r\n",
    b"G@T / HTTP/1.1\r\n",
    b"/ HTTP/1.1\r\n",
    b"\x16\x03\x01\x02\n",
    b"\rGET / HTTP/1.1\r\n",
):
    CASES[f"line {line!r}"] = (line, [], LINE_400, State.FAILED)
for field in (
    b"A: b\n",
    b"A: b\rc\r\n",
    b"A : b\r\n",
    b" A: b\r\n",
    b"A: b\r\n c\r\n",
    b"A\r\n",
    b": b\r\n",
    b"A@: b\r\n",
    b"\xc3: b\r\n",
    b"A: \0\r\n",
    b"A: \x0b\r\n",
    b"A: \x7f\r\n",
    b"A: \xc3\x85\r\n",
    b"\r\r\n",
    b"\n",
):
    CASES[f"field {field!r}"] = (GET + field, [], HEAD_400, State.FAILED)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100, 1000])
@pytest.mark.parametrize("case", CASES)
def test_bytes_become_requests_however_they_are_cut(case, size):
    """The table, in pieces."""
    wire, events, error, state = CASES[case]
    parser = RequestParser(LIMITS)
    seen, *rest = outcome(parser, feed(parser, wire, size))
    assert [short(event) for event in seen] == events
    assert rest[:2] == [error, state]
    assert parser.trailing == b""


@pytest.mark.parametrize("case", [c for c in CASES if CASES[c][2] or CASES[c][3]])
def test_what_follows_is_a_request_or_ignored(case):
    """As the state says; behind an upgrade it is kept."""
    wire, events, error, state = CASES[case]
    parser = RequestParser(LIMITS)
    more = b"\r\n" if case == "incomplete" else GET + b"\r\n"
    seen, now, after, _, trailing = outcome(parser, feed(parser, wire + more))
    if state is State.UPGRADED:
        assert trailing == more
    elif state in (State.ENDED, State.FAILED):
        assert ([short(event) for event in seen], now, after) == (events, error, state)
    elif parser.in_head or error != now or state is not State.HEAD:
        assert "incomplete" in case or wire[-1:] in b"GEa" or "longest" in case
    else:
        assert [short(event) for event in seen] == [*events, "GET /", "end"]


@pytest.mark.parametrize(
    ("wire", "in_head"),
    [
        (b"", False),
        (b"\r", True),
        (b"\r\n", False),
        (b"\r\nG", True),
        (b"G", True),
        (GET, True),
        (GET + b"\r\n", False),
        (GET + b"\r\nG", True),
        (CHUNKED, False),
        (WEBSOCKET + b"\r\nabc", False),
        (b"\0\r\n", False),
    ],
)
def test_in_head_is_between_a_heads_first_byte_and_its_end(wire, in_head):
    """For the timeout of the head."""
    parser = RequestParser(LIMITS)
    feed(parser, wire, 1)
    assert parser.in_head is in_head


def test_a_head_without_end_is_cut_off_at_the_limit():
    """Not a byte later, and nothing of it is kept."""
    for limits, start, byte, allowed, hint in (
        (HTTPLimits(), b"", b"a", 8192 + 2, 414),
        (HTTPLimits(), GET, b"a", 65536 - len(GET), 431),
        (HTTPLimits(max_request_line=None, max_head=50), b"", b"a", 52, 414),
    ):
        parser = RequestParser(limits)
        feed(parser, start + byte * allowed)
        assert parser.error is None
        assert parser.in_head
        feed(parser, byte)
        assert parser.error.hint == hint
        assert not parser.in_head


def test_no_limits_mean_none():
    """``None`` for each."""
    parser = RequestParser(HTTPLimits(None, None, None, None, None))
    wire = b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 1000
    events = feed(parser, wire + b"Content-Length: 99999999999999999\r\n\r\n", 5000)
    assert parser.error is None
    assert [type(event) for event in events] == [Request]
    assert len(events[0].headers) == 1002


def test_what_comes_behind_an_upgrade_is_kept():
    """In ``trailing``, as it arrives."""
    parser = RequestParser(LIMITS)
    events = feed(parser, WEBSOCKET + b"\r\n\x81\x80abcd")
    assert [type(event) for event in events] == [Request]
    assert events[0].upgrade
    assert feed(parser, b"efg") == []
    assert parser.trailing == b"\x81\x80abcdefg"


def test_trailers_come_with_the_end_of_their_request():
    """And with no other; those that are too late to be believed are left out."""
    wire = CHUNKED + b"0\r\nX-Sum: 1\r\nCookie: a\r\nx-sum:2\r\n\r\n"
    for size in (1, 1000):
        events = feed(RequestParser(LIMITS), wire + GET + b"\r\n", size)
        assert [type(e) for e in events] == [Request, RequestEnd] * 2
        assert events[1].trailers == ((b"x-sum", b"1"), (b"x-sum", b"2"))
        assert events[3].trailers == RequestEnd().trailers == ()
        assert events[0].headers == [
            (b"host", b"a"),
            (b"transfer-encoding", b"chunked"),
        ]


def test_an_empty_line_is_ignored_however_it_comes():
    """With the request, before it, in two pieces, before the next one."""
    for pieces in (
        [b"\r\n" + GET + b"\r\n"],
        [b"\r\n", GET + b"\r\n"],
        [b"\r", b"\n" + GET + b"\r\n"],
        [b"\r", b"\n", GET, b"\r\n"],
    ):
        parser = RequestParser(LIMITS)
        for _ in range(2):
            events = [e for piece in pieces for e in parser.receive_data(piece)]
            assert [type(event) for event in events] == [Request, RequestEnd]


def test_headers_can_be_made_of_the_head_again():
    """The same as llhttp has found, upgrade, folding of names and all."""
    for fields in (
        b"",
        b"A:b\r\na: \t c \t\r\nB:\r\nC:  \r\nd: e  f\r\n",
        b"Upgrade: h2c\r\nConnection: Upgrade\r\n",
    ):
        request = feed(RequestParser(LIMITS), b"\r\n" + GET + fields + b"\r\n")[0]
        assert request.head == GET + fields + b"\r\n"
        assert parse_headers(request.head) == request.headers
    request = feed(RequestParser(LIMITS), GET.replace(b"/ ", b"http://b ") + b"\r\n")[0]
    assert parse_headers(request.head) == request.headers == [(b"host", b"b")]


def test_both_parsers_must_agree_on_the_body(monkeypatch):
    """If they do not, a request might be hidden in what one takes for a body."""
    read = http1.read_request

    def overlook(head, parts):
        request = read(head, parts)
        request.content_length = None
        return request

    monkeypatch.setattr(http1, "read_request", overlook)
    parser = RequestParser(LIMITS)
    assert feed(parser, POST + b"Content-Length: 2\r\n\r\nab") == []
    assert parser.error.reason == "the end of the request is in doubt"


def test_a_parser_goes_without_the_garbage_collector():
    """A connection's memory is free as soon as it ends."""

    class Sub(RequestParser):
        __slots__ = ("__weakref__",)

    gc.disable()
    try:
        parser = Sub(LIMITS)
        feed(parser, CHUNKED)
        gone = weakref.ref(parser)
        del parser
        assert gone() is None
    finally:
        gc.enable()


def test_every_state_is_in_the_table():
    """And those at the end lead nowhere."""
    assert set(NEXT_STATES) == set(State)
    for state in (State.UPGRADED, State.ENDED, State.FAILED):
        assert NEXT_STATES[state] == frozenset()


def test_responses_are_made_here_too():
    """One import for servers."""
    assert encode_head(204, ()).startswith(b"HTTP/1.1 204 No Content\r\n")
    assert encode_chunk(b"a") + http1.LAST_CHUNK == b"1\r\na\r\n0\r\n\r\n"
    assert http_date(0).endswith(b"GMT")


# -- Any bytes at all

names = st.sampled_from(["A", "x-y", "Cookie", "Accept", "!#$%&'*+-.^_`|~0z"])
values = st.text('ab,;=" \té\xff', max_size=10)
hosts = st.sampled_from(["Host: a", "HOST:a:80 ", "host:"])
CONTROL = [
    "Connection: close",
    "Connection: keep-alive, Upgrade",
    "Upgrade: h2c",
    "Upgrade: websocket",
    "Expect: 100-continue",
]


@st.composite
def requests(draw):
    """Return a request that breaks no rule."""
    method = draw(st.sampled_from(["GET", "POST", "DELETE", "M-SEARCH"]))
    target = draw(st.sampled_from(["/", "/a%20?b", "http://b/", "http://b:1?x"]))
    lines = [f"{method} {target} HTTP/1.1", draw(hosts)]
    for name, value in draw(st.lists(st.tuples(names, values), max_size=4)):
        lines.append(f"{name}:{value}")
    lines += draw(st.lists(st.sampled_from(CONTROL), max_size=2, unique=True))
    parts = draw(st.lists(st.binary(max_size=9), max_size=3))
    body = b"".join(parts)
    framing = draw(st.sampled_from(["length", "chunks", "none"]))
    if framing == "length":
        lines.append(f"Content-Length: {len(body)}")
    elif framing == "chunks":
        lines.append("Transfer-Encoding: chunked")
        body = b"".join(map(encode_chunk, parts)) + http1.LAST_CHUNK
    else:
        body = b""
    lines[1:] = draw(st.permutations(lines[1:]))
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


@st.composite
def changed_requests(draw):
    """Return requests with a few bytes changed, cut out or put in."""
    wire = bytearray(b"".join(draw(st.lists(requests(), min_size=1, max_size=3))))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(wire) - 1))
        new = draw(
            st.sampled_from([b"", b"\r", b"\n", b"\r\n", b" ", b":", b"\0", b"1"])
        )
        wire[at : at + draw(st.integers(0, 2))] = new
    return bytes(wire)


garbage = st.text("GET / HTTP/1.0\r\n:a\0", max_size=60).map(str.encode)
wires = st.one_of(
    st.lists(requests(), max_size=3).map(b"".join),
    changed_requests(),
    st.binary(max_size=50),
    garbage,
)


def llhttp_refuses(wire):
    parser = httptools.HttpRequestParser(object())
    try:
        parser.feed_data(wire)
    except httptools.HttpParserUpgrade:
        return False
    except httptools.HttpParserError:
        return True
    return False


@given(wires, st.lists(st.integers(0, 400), max_size=8), st.booleans())
@settings(max_examples=500)
def test_cuts_do_not_change_what_comes_out(wire, cuts, limited):
    """Valid, changed or random bytes; nothing raises."""
    limits = LIMITS if limited else HTTPLimits()
    places = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    whole = RequestParser(limits)
    expected = outcome(whole, feed(whole, wire))
    cut = RequestParser(limits)
    events = []
    for a, b in zip(places, places[1:], strict=False):
        events += cut.receive_data(wire[a:b])
    assert outcome(cut, events) == expected
    bytewise = RequestParser(limits)
    assert outcome(bytewise, feed(bytewise, wire, 1)) == expected
    for event in expected[0]:
        if isinstance(event, Request):
            assert parse_headers(event.head) == event.headers


@given(requests())
def test_what_is_valid_is_accepted_by_both_parsers(wire):
    """The strict one is not stricter than the RFCs, nor llhttp than it."""
    parser = RequestParser(HTTPLimits())
    events = feed(parser, wire)
    assert parser.error is None
    assert events[0].upgrade or events[-1] == RequestEnd()
    assert not llhttp_refuses(wire)


@given(wires)
@settings(max_examples=500)
def test_what_llhttp_refuses_is_refused(wire):
    """Each request that comes out has been seen by both."""
    parser = RequestParser(HTTPLimits())
    for event in feed(parser, wire):
        if isinstance(event, Request):
            assert not llhttp_refuses(event.head)


@pytest.mark.parametrize(
    ("head", "sent", "left"),
    [
        (b"", b"", 0),
        (b"Content-Length: 10\r\n", b"", 10),
        (b"Content-Length: 10\r\n", b"1234", 6),
        (b"Content-Length: 10\r\n", b"1234567890", 0),
        (b"Transfer-Encoding: chunked\r\n", b"", 0),
        (b"Transfer-Encoding: chunked\r\n", b"a\r\n1234", 6),
        (b"Transfer-Encoding: chunked\r\n", b"a\r\n1234567890\r\n", 0),
        (b"Transfer-Encoding: chunked\r\n", b"1\r\na\r\n0\r\n\r\n", 0),
    ],
)
def test_a_parser_knows_how_much_of_a_body_is_to_come(head, sent, left):
    """Of one whose length was told, or of a chunk."""
    parser = RequestParser(HTTPLimits())
    parser.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n" + sent)
    assert parser.error is None
    assert parser.body_left == left
