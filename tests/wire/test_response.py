"""Responses as bytes: RFC 9110 and 9112."""

import importlib.util
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenchannels.errors import LocalProtocolError
from greenchannels.wire.response import (
    FRAMING,
    LAST_CHUNK,
    encode_chunk,
    encode_fields,
    encode_head,
    http_date,
    join_fields,
    join_response,
    pure_join_fields,
    pure_join_response,
)


def test_a_head_is_its_lines():
    """In the order given."""
    headers = [(b"Content-Type", b"text/plain"), (b"X", b"\xe9\t"), (b"x", b"")]
    assert encode_head(200, headers) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX: \xe9\t\r\nx: \r\n\r\n"
    )
    assert encode_head(200, iter(headers)) == encode_head(200, headers)


@pytest.mark.parametrize(
    ("status", "reason", "line"),
    [
        (100, None, b"HTTP/1.1 100 Continue"),
        (404, None, b"HTTP/1.1 404 Not Found"),
        (431, None, b"HTTP/1.1 431 Request Header Fields Too Large"),
        (299, None, b"HTTP/1.1 299 "),
        (999, None, b"HTTP/1.1 999 "),
        (200, "Fine", b"HTTP/1.1 200 Fine"),
        (200, "", b"HTTP/1.1 200 "),
    ],
)
def test_a_status_has_its_usual_phrase_or_the_one_given(status, reason, line):
    """Or none, where there is none."""
    assert encode_head(status, (), reason) == line + b"\r\n\r\n"


@pytest.mark.parametrize("status", [0, 99, 1000, -200])
def test_a_status_has_three_digits(status):
    """LocalProtocolError otherwise."""
    with pytest.raises(LocalProtocolError, match=f"{status} is not a status"):
        encode_head(status, ())


@pytest.mark.parametrize("reason", ["a\r\nX: y", "a\n", "\0", "é", "a\tb"])
def test_a_phrase_is_printable_ascii(reason):
    """It cannot break the head."""
    with pytest.raises(LocalProtocolError, match="reason phrase"):
        encode_head(200, (), reason)


@pytest.mark.parametrize(
    "header", [(b"a b", b""), (b"a\r\nb", b""), (b"a", b"b\r\nc: d"), (b"a", b"b\nc")]
)
def test_headers_cannot_break_the_head(header):
    """LocalProtocolError, with a 500 to answer."""
    with pytest.raises(LocalProtocolError) as caught:
        encode_head(200, [(b"good", b"1"), header])
    assert caught.value.hint == 500


def test_chunks_have_their_size_in_hexadecimal():
    """And no data is no chunk, for an empty one would be the last."""
    assert encode_chunk(b"a" * 26) == b"1a\r\n" + b"a" * 26 + b"\r\n"
    assert encode_chunk(memoryview(b"ab")) == b"2\r\nab\r\n"
    assert encode_chunk(b"") == b""
    assert LAST_CHUNK == b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("seconds", "date"),
    [
        (0, b"Thu, 01 Jan 1970 00:00:00 GMT"),
        (784111777, b"Sun, 06 Nov 1994 08:49:37 GMT"),
        (951782400.9, b"Tue, 29 Feb 2000 00:00:00 GMT"),
        (4102444799, b"Thu, 31 Dec 2099 23:59:59 GMT"),
    ],
)
def test_dates_are_written_as_http_does(seconds, date):
    """RFC 9110, section 5.6.7, in no locale's words."""
    assert http_date(seconds) == date


BOTH_FIELDS = pytest.mark.parametrize("join", [join_fields, pure_join_fields])
BOTH_RESPONSES = pytest.mark.parametrize("join", [join_response, pure_join_response])
LINE, DATE = b"HTTP/1.1 200 OK\r\n", b"date: now\r\n"


@BOTH_FIELDS
def test_fields_are_joined(join):
    """A line each."""
    assert join([]) == b""
    assert join([(b"a", b""), (b"b-c", b"\td \xe9")]) == b"a: \r\nb-c: \td \xe9\r\n"


@BOTH_FIELDS
@pytest.mark.parametrize(
    "field",
    [
        *[(b"", b""), (b"a ", b""), (b"a:", b""), (b"a\0", b""), (b"\xe9", b"")],
        *[
            (b"a", b"\n"),
            (b"a", b"\r"),
            (b"a", b"\0"),
            (b"a", b"\x7f"),
            (b"a", b"\x1f"),
        ],
        *[("a", b"b"), (b"a", "b"), (b"a",), (b"a", b"b", b"c"), None],
    ],
)
def test_a_field_that_is_none_is_not_joined(join, field):
    """Whatever an application hands over."""
    assert join([(b"good", b"1"), field]) is None


@BOTH_RESPONSES
@pytest.mark.parametrize("fields", [[], [(b"content-length", b"5")]])
def test_a_whole_response_has_the_length_of_its_body(join, fields):
    """Once, whether the application gave it or not."""
    expected = LINE + b"a: b\r\ncontent-length: 5\r\n" + DATE + b"\r\nhello"
    assert join(LINE, [(b"a", b"b"), *fields], DATE, 5, b"hello") == expected


@BOTH_RESPONSES
@pytest.mark.parametrize(
    "fields",
    [
        *[[(name, b"")] for name in sorted(FRAMING)],
        *[[(b"content-length", b)] for b in (b"4", b"55", b"05", b"+5", b"", b"x")],
        [(b"content-length", b"5"), (b"content-length", b"5")],
        [(b"a", b"\r\n")],
    ],
)
def test_what_is_not_plain_is_not_joined(join, fields):
    """It needs a closer look."""
    assert join(LINE, fields, DATE, 5, b"hello") is None


FIELDS = st.lists(
    st.tuples(
        st.sampled_from([b"a", b"content-length", b"date", b"connectio", b"a\n", b""])
        | st.binary(max_size=3),
        st.sampled_from([b"5", b"0", b"05", b"x\r\ny: z"]) | st.binary(max_size=3),
    ),
    max_size=4,
)


@given(
    fields=FIELDS,
    length=st.sampled_from([0, 5, 2**40]),
    body=st.sampled_from([b"", b"hello"]),
)
def test_both_join_the_same(fields, length, body):
    """The accelerator and its substitute."""
    assert join_fields(fields) == pure_join_fields(fields)
    arguments = LINE, fields, DATE, length, body
    assert join_response(*arguments) == pure_join_response(*arguments)


def test_fields_of_other_types_are_an_error_of_the_caller():
    """Not one of the connection."""
    with pytest.raises(LocalProtocolError):
        encode_fields([(b"a", b"b", b"c")])


def test_without_the_extension_python_takes_its_place(monkeypatch):
    """As on a machine without a compiler."""
    name = "greenchannels.wire.response"
    monkeypatch.setitem(sys.modules, "greenchannels.wire._speedups", None)
    spec = importlib.util.find_spec(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.join_fields is module.pure_join_fields
    assert module.join_response is module.pure_join_response
