"""The field that negotiates extensions: RFC 6455, section 9.1."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenchannels.errors import RemoteProtocolError
from greenchannels.wire.extensions import Extension, read_extensions

DEFLATE = "permessage-deflate"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([b"permessage-deflate"], [Extension(DEFLATE)]),
        (
            [b"permessage-deflate; client_max_window_bits"],
            [Extension(DEFLATE, (("client_max_window_bits", None),))],
        ),
        ([b"a;b=c"], [Extension("a", (("b", "c"),))]),
        ([b" \ta ;\tb = c ; d\t"], [Extension("a", (("b", "c"), ("d", None)))]),
        ([b'a;b="c"'], [Extension("a", (("b", "c"),))]),
        ([b'a;b= "\\c1\\5"'], [Extension("a", (("b", "c15"),))]),
        (
            [b"a, b;c ,d"],
            [Extension("a"), Extension("b", (("c", None),)), Extension("d")],
        ),
        ([b"a;b", b"c"], [Extension("a", (("b", None),)), Extension("c")]),
        ([b", ,a,\t,b,"], [Extension("a"), Extension("b")]),
        ([b"", b"a"], [Extension("a")]),
        ([b"a;b=1;b=2"], [Extension("a", (("b", "1"), ("b", "2")))]),
        ([b"!#$%&'*+-.^_`|~0Az"], [Extension("!#$%&'*+-.^_`|~0Az")]),
    ],
)
def test_offers_come_in_the_order_of_the_client(values, expected):
    """With their parameters, of one line or of several."""
    assert read_extensions(values) == tuple(expected)


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b" ", b",", b", ,", b"a b", b"a;", b"a; ;b", b"a;b=", b"a;b=,", b";a"),
        *(b"a;=b", b"a=b", b"=", b"a;b=c=d", b"a;b c", b"a;b=c d", b'"a"', b'a;"b"'),
        *(b'a;b="', b'a;b=""', b'a;b="c d"', b'a;b="c', b'a;b="c\\"', b'a;b="c;d"'),
        *(b'a;b="c,d"', b'a;b="c"d', b"a/b", b"a;b=(c)", b"\xff", b"a;b=\xc3\xa9"),
        *(b'a;b="c\\"d"', b"a,b;", b"a;b\x0b=c"),
    ],
)
def test_what_breaks_the_grammar_is_refused_with_400(value):
    """Also what is quoted but no token, and a list of nothing."""
    with pytest.raises(RemoteProtocolError) as caught:
        read_extensions([value])
    assert caught.value.hint == 400
    assert caught.value.reason == "Sec-WebSocket-Extensions is malformed"


tokens = st.text("abc-_09", min_size=1, max_size=4)
extensions = st.builds(
    Extension,
    tokens,
    st.lists(st.tuples(tokens, st.none() | tokens), max_size=3).map(tuple),
)


@given(
    st.lists(extensions, min_size=1, max_size=4),
    st.sampled_from(["", " ", "\t "]),
    st.booleans(),
)
def test_what_is_written_is_read(offers, blank, quoted):
    """However it is spelled."""
    quote = '"' if quoted else ""
    parts = []
    for offer in offers:
        text = offer.name
        for name, value in offer.parameters:
            text += f"{blank};{blank}{name}"
            if value is not None:
                text += f"{blank}={blank}{quote}{value}{quote}"
        parts.append(text)
    line = f"{blank},{blank}".join(parts).encode()
    assert read_extensions([line]) == tuple(offers)


@given(st.lists(st.text('a,;= "\\\t', max_size=20).map(str.encode), min_size=1))
def test_any_characters_are_read_or_refused(values):
    """Nothing else is raised, and what is read has names."""
    try:
        found = read_extensions(values)
    except RemoteProtocolError as error:
        assert error.hint == 400
    else:
        assert found
        assert all(each.name for each in found)


@pytest.mark.parametrize(
    "value",
    [
        b"a;b=" + b'"c' * 20_000,
        b"a" * 60_000 + b"/",
        b"a;" + b" " * 60_000,
        b"a;b" * 20_000 + b"=",
        b"," * 60_000,
        b'a;b="' + b"\\c" * 30_000,
    ],
)
def test_long_nonsense_is_refused_in_no_time(value):
    """Nothing is tried twice: a head has up to 64 KiB."""
    start = time.process_time()
    with pytest.raises(RemoteProtocolError):
        read_extensions([value])
    assert time.process_time() - start < 1.0
