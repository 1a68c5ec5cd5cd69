"""Forwarded and X-Forwarded-For: the hops that they name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenchannels.wire.forwarded import (
    UNKNOWN_HOP,
    Hop,
    read_forwarded,
    read_node,
    read_x_forwarded_for,
)


@pytest.mark.parametrize(
    "text, node",
    [
        ("192.0.2.1", ("192.0.2.1", 0)),
        ("192.0.2.1:47011", ("192.0.2.1", 47011)),
        ("192.0.2.1:0", ("192.0.2.1", 0)),
        ("192.0.2.1:_port", ("192.0.2.1", 0)),
        ("[2001:DB8::1]", ("2001:db8::1", 0)),
        ("[2001:db8::1]:4711", ("2001:db8::1", 4711)),
        ("2001:db8::1", ("2001:db8::1", 0)),
        ("::ffff:192.0.2.1", ("::ffff:c000:201", 0)),
    ],
)
def test_a_node_is_an_address_and_maybe_a_port(text, node):
    """RFC 7239, section 6, and IPv6 as X-Forwarded-For has it."""
    found = read_node(text)
    assert found == node or text.startswith("::ffff") and "192.0.2.1" in found[0]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "unknown",
            "_hidden",
            "_SEVKISEK:80",
            "localhost",
            "192.0.2",
            "999.1.1.1",
        ),
        *("192.0.2.1:", "192.0.2.1:65536", "192.0.2.1:123456", "192.0.2.1:x"),
        *("[192.0.2.1]", "[2001:db8::1", "[::1]x", "[]", "fe80::1%eth0", "[fe80::1%1]"),
        *("1.2.3.4 ", " 1.2.3.4", "1.2.3.4\n", "01.2.3.4", "\u0661.2.3.4", "::1:80:"),
    ],
)
def test_what_is_no_address_is_not_known(text):
    """Never an exception, and never the text itself."""
    assert read_node(text) == ("", 0)


@pytest.mark.parametrize(
    "values, hops",
    [
        ([], []),
        (["", " , ,"], []),
        (["192.0.2.1"], [Hop("192.0.2.1")]),
        (["192.0.2.1:1,\t::1 ", "_x"], [Hop("192.0.2.1", 1), Hop("::1"), Hop()]),
    ],
)
def test_x_forwarded_for_is_a_list_of_nodes(values, hops):
    """Over all its lines."""
    assert read_x_forwarded_for(values) == hops


@pytest.mark.parametrize(
    "values, hops",
    [
        ([], []),
        ([""], []),
        ([" , ,;, "], []),
        (["for=192.0.2.60"], [Hop("192.0.2.60")]),
        (
            ["for=192.0.2.60;proto=http;by=203.0.113.43"],
            [Hop("192.0.2.60", 0, "http")],
        ),
        (['For="[2001:db8:cafe::17]:4711"'], [Hop("2001:db8:cafe::17", 4711)]),
        (
            ["for=192.0.2.43, for=198.51.100.17 ; HOST=a.example", "for=unknown"],
            [Hop("192.0.2.43"), Hop("198.51.100.17", host="a.example"), Hop()],
        ),
        (['for="_gazonk";proto=https'], [Hop(proto="https")]),
        (
            ['for="192.0.2.1:80"; host="a.example:8\\0"'],
            [Hop("192.0.2.1", 80, "", "a.example:80")],
        ),
        (['host="a,b;c=d";;for=1.2.3.4;'], [Hop("1.2.3.4", host="a,b;c=d")]),
        (["proto=https"], [Hop(proto="https")]),
        (['for=""'], [Hop()]),
        (["for=1.2.3.4;x=y,"], [Hop("1.2.3.4")]),
    ],
)
def test_forwarded_is_a_list_of_elements(values, hops):
    """RFC 7239, section 4: any order, any case, quoted or not, over all its lines."""
    assert read_forwarded(values) == hops


@pytest.mark.parametrize(
    "value",
    [
        *("for", "for=", "=1.2.3.4", "for =1.2.3.4", "for= 1.2.3.4", "for=1.2.3.4 x"),
        *("for=[::1]", "for=::1", "for=1.2.3.4:80", 'for="1.2.3.4', 'for=1.2.3.4"'),
        *('for="1.2.3.4"x', "for=1.2.3.4;for=5.6.7.8", "for=1.2.3.4;FOR=1.2.3.4"),
        *("for=1.2.3.4;proto=http;proto=https", "for=1.2.3.4, \xff", 'for="\\', "\\"),
    ],
)
def test_a_malformed_line_is_a_hop_that_is_not_known(value):
    """Other lines keep their meaning."""
    assert read_forwarded([value]) == [UNKNOWN_HOP]
    assert read_forwarded(["for=9.9.9.9", value, "for=8.8.8.8"]) == [
        Hop("9.9.9.9"),
        UNKNOWN_HOP,
        Hop("8.8.8.8"),
    ]


def test_a_long_line_takes_no_long_time():
    """Blanks, quotes and separators by the ten thousands; minutes if it were square."""
    for piece in (" ", "\t;", ",", '"', "\\", 'a="', "for=1.2.3.4,", "a=b;"):
        read_forwarded([piece * 16_000 + "\x01"])
        read_x_forwarded_for([piece * 16_000])


PIECES = st.lists(
    st.sampled_from(
        [*("for", "proto", "host", "=", ";", ",", '"', "\\", " ", "1.2.3.4", "[::1]")]
        + ["unknown", "_x", ":80", "https"]
    )
    | st.text(st.characters(max_codepoint=255), max_size=3),
    max_size=30,
).map("".join)


@given(st.lists(PIECES, max_size=3))
def test_nothing_raises(values):
    """What comes out are hops, of addresses or of nothing."""
    for hop in read_forwarded(values) + read_x_forwarded_for(values):
        assert read_node(hop.address) == (hop.address, 0)
        assert 0 <= hop.port <= 65535
