"""What HTTP's modules share: RFC 9110, section 5."""

import importlib.util
import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenchannels.errors import LocalProtocolError
from greenchannels.wire import grammar
from greenchannels.wire.grammar import FIELD_LINE, TOKEN, check_headers, read_list

try:
    from greenchannels.wire import _speedups
except ImportError:
    _speedups = None


@pytest.mark.parametrize("byte", range(256))
def test_a_token_has_the_characters_of_the_rfc(byte):
    """Section 5.6.2, in the pattern and in the check."""
    character = bytes((byte,))
    good = character.isalnum() or character in b"!#$%&'*+-.^_`|~"
    assert bool(TOKEN.fullmatch(character)) is good
    if good:
        check_headers([(character, b"")])
    else:
        with pytest.raises(LocalProtocolError, match="name is not a token"):
            check_headers([(b"a", b""), (b"a" + character, b"")])


@pytest.mark.parametrize("byte", range(256))
def test_a_value_has_no_control_characters_but_tabs(byte):
    """Section 5.5, when it is read and when it is sent; 0x85 only when sent."""
    value = b"a" + bytes((byte,)) + b"b"
    good = byte == 9 or (byte >= 32 and byte != 127)
    assert bool(re.fullmatch(FIELD_LINE, b"n:" + value + b"\r\n")) is (
        good and byte != 0x85
    )
    if good:
        check_headers([(b"n", value)])
    else:
        with pytest.raises(LocalProtocolError, match="value has control characters"):
            check_headers([(b"n", value), (b"n", b"")])


def test_a_header_has_a_name():
    """An empty one is none."""
    with pytest.raises(LocalProtocolError, match="name is not a token"):
        check_headers([(b"", b"a")])
    check_headers([])


@pytest.mark.parametrize(
    ("values", "elements"),
    [
        ([], []),
        ([b""], []),
        ([b" , ,\t"], []),
        ([b"a"], [b"a"]),
        ([b"a,b , c"], [b"a", b"b", b"c"]),
        ([b"a", b"b,", b"", b"c d"], [b"a", b"b", b"c d"]),
    ],
)
def test_a_list_is_split_at_its_commas(values, elements):
    """Over all lines of the field, without empty elements."""
    assert read_list(values) == elements


def in_both(name):
    """Return a function in Python and in C, as test parameters."""
    return [
        pytest.param(getattr(grammar, f"pure_{name}"), id="pure"),
        pytest.param(
            getattr(_speedups, name, None),
            id="c",
            marks=pytest.mark.skipif(
                _speedups is None,
                reason="greenchannels.wire._speedups has not been built",
            ),
        ),
    ]


READERS = in_both("read_fields")

START = b"GET / HTTP/1.1\r\n"

GOOD_FIELDS = [
    (b"\r\n", []),
    (b"A: b\r\n\r\n", [(b"a", b"b")]),
    (b"A:b\r\nC-D:\r\n\r\n", [(b"a", b"b"), (b"c-d", b"")]),
    (b"X: \t b \t c\t \r\n\r\n", [(b"x", b"b \t c")]),
    (b"!#$%&'*+-.^_`|~0Z: \xe9:\r\n\r\n", [(b"!#$%&'*+-.^_`|~0z", b"\xe9:")]),
]

BAD_FIELDS = [
    b"",
    b"\r",
    b"\n",
    b"A: b",
    b"A: b\r\n",
    b"A: b\r\n\r\n\r\n",
    b"A: b\r\n\r\nX",
    b": b\r\n\r\n",
    b"A b\r\n\r\n",
    b"A : b\r\n\r\n",
    b" A: b\r\n\r\n",
    b"A: b\r\n c\r\n\r\n",
    b"A: b\n\r\n",
    b"A: b\rc\r\n\r\n",
    b"A: b\x00\r\n\r\n",
    b"A: \x7f\r\n\r\n",
    b"A: \x0b\r\n\r\n",
    b"A: \x85\r\n\r\n",
    b"A: \xc3\x85\r\n\r\n",
    b"\xe9: b\r\n\r\n",
    b"A\r\n\r\n",
]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("fields, expected", GOOD_FIELDS)
def test_fields_are_names_in_lower_case_and_bare_values(read, fields, expected):
    """Blanks around a value are not part of it (section 5.5)."""
    assert read(START + fields, len(START)) == expected


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("fields", BAD_FIELDS)
def test_a_malformed_line_makes_no_fields_at_all(read, fields):
    """Nothing is repaired."""
    assert read(START + fields, len(START)) is None


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("start", [-1, len(START) + 1])
def test_fields_begin_within_the_head(read, start):
    """Anything else is our own mistake."""
    with pytest.raises(ValueError):
        read(START, start)


HEAD_READERS = in_both("read_head")
KNOWN = frozenset((b"host", b"cookie"))


@pytest.mark.parametrize("read", HEAD_READERS)
def test_a_head_is_taken_apart(read):
    """With the values of the fields that are asked for, line by line."""
    head = b"GET /a?b HTTP/1.1\r\nCookie: c\r\nX:\r\nHOST: d \r\ncookie:e\r\n\r\n"
    headers = [(b"cookie", b"c"), (b"x", b""), (b"host", b"d"), (b"cookie", b"e")]
    fields = {b"cookie": [b"c", b"e"], b"host": [b"d"]}
    assert read(head, KNOWN) == ("GET", b"/a?b", True, headers, fields, False)
    assert read(b"M-X * HTTP/1.0\r\n_:\r\n\r\n", KNOWN) == (
        *("M-X", b"*", False, [(b"_", b"")], {}),
        True,
    )


@pytest.mark.parametrize("read", HEAD_READERS)
@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"GET", b"GET /", b"GET / ", b" / HTTP/1.1", b"GET  HTTP/1.1"),
        *(b"GET / HTTP/1.2", b"GET / HTTP/2.0", b"GET / HTTP/1.", b"GET / HTTP/11"),
        *(b"GET / http/1.1", b"GET / HTTP/1.1 ", b"GET /  HTTP/1.1", b"G(T / HTTP/1.1"),
        *(b"GET /# HTTP/1.1", b"GET /\xe9 HTTP/1.1", b"GET /\x7f HTTP/1.1"),
        *(b"GET /\t HTTP/1.1", b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\n"),
        *(b"\r\nGET / HTTP/1.1", b"GET / HTTP/1.1\r\n a: b", b"GET / HTTP/1.1\r\na:\0"),
    ],
)
def test_a_malformed_line_makes_no_head_at_all(read, line):
    """The request's or a field's."""
    assert read(line + b"\r\n\r\n", KNOWN) is None
    assert read(line, KNOWN) is None


@pytest.mark.skipif(_speedups is None, reason="nothing to compare")
@pytest.mark.parametrize("arguments", [(), (b"",), ("", KNOWN), (b"", [b"a"])])
def test_the_c_reader_refuses_other_arguments(arguments):
    """It relies on their types."""
    with pytest.raises(TypeError):
        _speedups.read_head(*arguments)


pieces = st.one_of(
    st.sampled_from(
        [
            *(b"GET / HTTP/1.1\r\n", b"A: b\r\n", b"Host:", b"a_b:", b"\r\n\r\n"),
            *(b":", b" ", b"\t", b"\r\n", b"\r", b"\n", b"\xe9", b"\x85", b"\0", b"#"),
        ]
    ),
    st.binary(min_size=1, max_size=1),
)
nearly_heads = st.one_of(
    st.binary(max_size=60),
    st.lists(pieces, max_size=20).map(b"".join),
    st.lists(pieces, max_size=6).map(
        lambda some: b"GET / HTTP/1.1\r\n" + b"".join(some) + b"\r\n\r\n"
    ),
)


@pytest.mark.skipif(_speedups is None, reason="nothing to compare")
@given(nearly_heads)
@settings(max_examples=500)
def test_c_and_pure_python_read_the_same(data):
    """Whatever the bytes are."""
    assert _speedups.read_fields(data, 0) == grammar.pure_read_fields(data, 0)
    assert _speedups.read_head(data, KNOWN) == grammar.pure_read_head(data, KNOWN)


@pytest.mark.skipif(_speedups is None, reason="nothing to compare")
@pytest.mark.parametrize("byte", range(256))
def test_c_and_pure_python_allow_the_same_bytes(byte):
    """In method, target, version, name and value."""
    good = b"GET /a HTTP/1.1\r\nab: cd\r\n\r\n"
    for at in range(len(good)):
        for width in (0, 1):
            head = good[:at] + bytes((byte,)) + good[at + width :]
            expected = grammar.pure_read_head(head, KNOWN)
            assert _speedups.read_head(head, KNOWN) == expected


def test_without_the_extension_pure_python_reads_the_fields(monkeypatch):
    """As after an installation without a compiler."""
    monkeypatch.setitem(sys.modules, "greenchannels.wire._speedups", None)
    spec = importlib.util.find_spec("greenchannels.wire.grammar")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.read_fields is module.pure_read_fields
    assert module.read_head is module.pure_read_head
