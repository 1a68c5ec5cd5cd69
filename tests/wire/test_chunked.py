"""Chunked bodies: RFC 9112, section 7.1."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenchannels.errors import RemoteProtocolError
from greenchannels.wire.chunked import MAX_SIZE_LINE, ChunkedDecoder
from greenchannels.wire.response import LAST_CHUNK, encode_chunk

#: Name: wire, body, what is behind it (None: it is incomplete), error.
CASES = {
    "nothing": (b"", b"", None, None),
    "empty": (b"0\r\n\r\n", b"", b"", None),
    "one chunk": (b"3\r\nabc\r\n0\r\n\r\n", b"abc", b"", None),
    "capital and small": (
        b"A\r\n0123456789\r\na\r\n\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n",
        b"0123456789" + b"\r\n" * 5,
        b"",
        None,
    ),
    "zeros": (b"0003\r\nabc\r\n000\r\n\r\n", b"abc", b"", None),
    "something behind": (b"1\r\na\r\n0\r\n\r\nGET", b"a", b"GET", None),
    "extensions": (
        b'1;a;b=c;d="e;\\"f\\\\\xe9"\r\nx\r\n0;last\r\n\r\n',
        b"x",
        b"",
        None,
    ),
    "trailers": (b"0\r\nA: b\r\nC:\r\n\r\n\r\n", b"", b"\r\n", None),
    "the most trailers": (b"0\r\n" + b"A:\r\n" * 9 + b"\r\n", b"", b"", None),
    "more trailers": (
        b"0\r\n" + b"A:\r\n" * 10,
        b"",
        None,
        (431, "too many trailers"),
    ),
    "a trailer with a length": (
        b"0\r\nContent-Length: 0\r\n",
        b"",
        None,
        (400, "a trailer cannot say where the body ends"),
    ),
    "a trailer with a coding": (
        b"0\r\nTRANSFER_ENCODING: chunked\r\n",
        b"",
        None,
        (400, "a trailer cannot say where the body ends"),
    ),
    "NEL in a trailer": (
        b"0\r\nA: \xc3\x85\r\n",
        b"",
        None,
        (400, "malformed trailer"),
    ),
    "NEL in an extension": (
        b'1;a="\x85"\r\n',
        b"",
        None,
        (400, "malformed chunk size"),
    ),
    "NEL behind a backslash": (
        b'1;a="\\\x85"\r\n',
        b"",
        None,
        (400, "malformed chunk size"),
    ),
    "cut in a size": (b"1", b"", None, None),
    "cut in a chunk": (b"3\r\nab", b"ab", None, None),
    "cut behind a chunk": (b"2\r\nab\r", b"ab", None, None),
    "cut in a trailer": (b"0\r\nA: b\r", b"", None, None),
    "no size": (b"\r\n", b"", None, (400, "malformed chunk size")),
    "only an extension": (b";a\r\n", b"", None, (400, "malformed chunk size")),
    "negative": (b"-1\r\n", b"", None, (400, "malformed chunk size")),
    "prefix": (b"0x1\r\n", b"", None, (400, "malformed chunk size")),
    "underscore": (b"1_0\r\n", b"", None, (400, "malformed chunk size")),
    "space before": (b" 1\r\n", b"", None, (400, "malformed chunk size")),
    "space behind": (b"1 \r\n", b"", None, (400, "malformed chunk size")),
    "space before an extension": (
        b"1 ;a\r\n",
        b"",
        None,
        (400, "malformed chunk size"),
    ),
    "no name": (b"1;\r\n", b"", None, (400, "malformed chunk size")),
    "no value": (b"1;a=\r\n", b"", None, (400, "malformed chunk size")),
    "quote left open": (b'1;a="b\r\n', b"", None, (400, "malformed chunk size")),
    "bare LF": (b"1\na", b"", None, (400, "malformed chunk size")),
    "bare CR": (b"1;a\rb\r\n", b"", None, (400, "malformed chunk size")),
    "16 digits": (b"1" * 16 + b"\r\n", b"", None, (400, "malformed chunk size")),
    "15 digits": (b"1" * 15 + b"\r\n", b"", None, (413, "the body is too big")),
    "a long size": (
        b"1;" + b"a" * MAX_SIZE_LINE,
        b"",
        None,
        (400, "a chunk's size line is too long"),
    ),
    "longer than its size": (
        b"1\r\nab\r\n",
        b"a",
        None,
        (400, "a chunk is longer than its size"),
    ),
    "LF behind a chunk": (
        b"1\r\na\n0\r\n\r\n",
        b"a",
        None,
        (400, "a chunk is longer than its size"),
    ),
    "CR and no LF": (
        b"1\r\na\rb",
        b"a",
        None,
        (400, "a chunk is longer than its size"),
    ),
    "too big": (b"65\r\n", b"", None, (413, "the body is too big")),
    "too big by its last chunk": (
        b"64\r\n" + b"a" * 100 + b"\r\n1\r\n",
        b"a" * 100,
        None,
        (413, "the body is too big"),
    ),
    "trailer without a name": (b"0\r\n: b\r\n", b"", None, (400, "malformed trailer")),
    "trailer with a bare LF": (b"0\r\nA: b\n", b"", None, (400, "malformed trailer")),
    "folded trailer": (b"0\r\nA: b\r\n c\r\n", b"", None, (400, "malformed trailer")),
    "a long trailer": (
        b"0\r\n" + b"a" * 51,
        b"",
        None,
        (431, "the trailers are too long"),
    ),
    "long trailers": (
        b"0\r\n" + b"a: b\r\n" * 8 + b"a: b",
        b"",
        None,
        (431, "the trailers are too long"),
    ),
}


def decode(wire, size):
    """Return body, what is behind it, and the error."""
    decoder, pieces, rest = ChunkedDecoder(100, 50, 9), [], b""
    for i in range(0, len(wire), size):
        try:
            rest += decoder.receive_data(wire[i : i + size], pieces)
        except RemoteProtocolError as error:
            return b"".join(pieces), None, (error.hint, error.reason)
        assert decoder.done or not rest
    assert b"" not in pieces
    return b"".join(pieces), rest if decoder.done else None, None


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize("case", CASES)
def test_chunks_become_a_body_however_they_are_cut(case, size):
    """The table, in pieces."""
    wire, *expected = CASES[case]
    assert decode(wire, size) == tuple(expected)


def test_no_limit_means_none():
    """``None`` for both."""
    decoder, pieces = ChunkedDecoder(None, None, None), []
    wire = b"FFFFF\r\n" + bytes(0xFFFFF) + b"\r\n0\r\n" + b"a: b\r\n" * 20000 + b"\r\nx"
    assert decoder.receive_data(wire, pieces) == b"x"
    assert sum(map(len, pieces)) == 0xFFFFF


FORBIDDEN = (
    *("Host", "Connection", "Keep-Alive", "TE", "Trailer", "Upgrade", "Expect"),
    *("Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "Remote-User"),
    *("Content-Type", "Content-Encoding", "content_range", "X-Forwarded-For"),
    *("X_Forwarded_Host", "Forwarded", "X-Real-IP", "Cache-Control", "If-Match"),
    *("Range", "Sec-WebSocket-Key"),
)


def test_trailers_are_kept_but_for_those_that_come_too_late():
    """RFC 9110, section 6.5.1; names in lower case, however the bytes are cut."""
    forbidden = "".join(f"{name}: x\r\n" for name in FORBIDDEN).encode()
    wire = b"0\r\nX-Sum: \t1 2\t\r\n" + forbidden + b"y_z:\r\nx-sum: 3\r\n\r\n"
    for size in (1, 7, 1000):
        decoder = ChunkedDecoder(None, None, None)
        for i in range(0, len(wire), size):
            assert decoder.receive_data(wire[i : i + size], []) == b""
        assert decoder.done
        assert decoder.trailers == [(b"x-sum", b"1 2"), (b"y_z", b""), (b"x-sum", b"3")]


@given(st.lists(st.binary(max_size=30)), st.integers(1, 40))
def test_what_is_encoded_is_decoded(parts, size):
    """Any body, in any pieces."""
    wire = b"".join(map(encode_chunk, parts)) + LAST_CHUNK + b"rest"
    body, rest, error = decode(wire, size)
    if sum(map(len, parts)) <= 100:
        assert (body, rest, error) == (b"".join(parts), b"rest", None)
    else:
        assert error == (413, "the body is too big")


@given(st.text('0123aAfF\r\n;="x: \\', max_size=40).map(str.encode), st.integers(1, 9))
def test_cuts_do_not_change_what_comes_out(wire, size):
    """Garbage too."""
    assert decode(wire, size) == decode(wire, 1000)
