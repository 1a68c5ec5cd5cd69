"""The PROXY protocol's headers: what they say, however they come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenchannels.errors import RemoteProtocolError
from greenchannels.wire.proxy_protocol import (
    MAX_V1,
    MAX_V2,
    ProxyHeader,
    ProxyHeaderParser,
    crc32c,
)

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
TCP4 = bytes([1, 2, 3, 4, 9, 9, 9, 9]) + (51000).to_bytes(2, "big") + b"\x00\x50"
TCP6 = bytes.fromhex("20010db8" + "00" * 11 + "01") + bytes(16) + b"\x12\x34\x00\x50"

LOCAL = ProxyHeader(True, None)
NOBODY = ProxyHeader(False, None)


def v2(block=b"", *, command=0x21, family=0x11, size=None):
    """Return a header of version 2."""
    size = len(block) if size is None else size
    return SIGNATURE + bytes([command, family]) + size.to_bytes(2, "big") + block


def tlv(kind, value):
    """Return a TLV."""
    return bytes([kind]) + len(value).to_bytes(2, "big") + value


def with_checksum(block, *, wrong=0):
    """Return a header whose last TLV is its checksum."""
    blank = v2(block + tlv(3, bytes(4)))
    return blank[:-4] + (crc32c(blank) ^ wrong).to_bytes(4, "big")


GOOD = [
    (b"PROXY TCP4 1.2.3.4 9.9.9.9 51000 80\r\n", ("1.2.3.4", 51000)),
    (b"PROXY TCP4 255.255.255.255 0.0.0.0 65535 0\r\n", ("255.255.255.255", 65535)),
    (b"PROXY TCP6 2001:DB8::1 ::1 4660 80\r\n", ("2001:db8::1", 4660)),
    (
        b"PROXY TCP6 "
        + b" ".join([b":".join([b"ffff"] * 8)] * 2)
        + b" 65535 65535\r\n",
        (":".join(["ffff"] * 8), 65535),
    ),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff::1 what ever \xff \r \n\r\n", None),
    (b"PROXY UNKNOWN " + b"x" * (MAX_V1 - 16) + b"\r\n", None),
    (v2(TCP4), ("1.2.3.4", 51000)),
    (v2(TCP6, family=0x21), ("2001:db8::1", 4660)),
    (v2(TCP4 + tlv(1, b"h2") + tlv(0x20, b"")), ("1.2.3.4", 51000)),
    (with_checksum(TCP4 + tlv(2, b"name")), ("1.2.3.4", 51000)),
    (v2(TCP4 + tlv(4, bytes(MAX_V2 - 16 - 12 - 3))), ("1.2.3.4", 51000)),
    (v2(b"", family=0x00), None),
    (v2(b"anything at all", family=0x00), None),
    (v2(b"anything at all", family=0x10), None),
    (v2(TCP4, family=0x12), None),
    (v2(TCP6 + tlv(5, b"x"), family=0x22), None),
    (v2(b"/run/s".ljust(216, b"\0"), family=0x31), None),
    (v2(bytes(216), family=0x32), None),
]
GOOD = [(data, ProxyHeader(False, source)) for data, source in GOOD]
GOOD += [
    (v2(command=0x20, family=0), LOCAL),
    (v2(TCP4, command=0x20), LOCAL),
    (v2(b"no address", command=0x20, family=0xFF), LOCAL),
]

BAD = [
    b"GET / HTTP/1.1\r\n",
    b"\x16\x03\x01\x02\x00",
    b"\r\n\r\nGET",
    b"proxy TCP4 1.2.3.4 9.9.9.9 1 2\r\n",
    b"PROXYTCP4 1.2.3.4 9.9.9.9 1 2\r\n",
    b"PROXY \r\n",
    b"PROXY  TCP4 1.2.3.4 9.9.9.9 1 2\r\n",
    b"PROXY TCP4 1.2.3.4 9.9.9.9 1\r\n",
    b"PROXY TCP4 1.2.3.4 9.9.9.9 1 2 \r\n",
    b"PROXY TCP4 1.2.3.4 9.9.9.9 1 2 3\r\n",
    b"PROXY TCP4 1.2.3.4  9.9.9.9 1 2\r\n",
    b"PROXY TCP4 1.2.3.4\t9.9.9.9 1 2\r\n",
    b"PROXY TCP5 1.2.3.4 9.9.9.9 1 2\r\n",
    b"PROXY UDP4 1.2.3.4 9.9.9.9 1 2\r\n",
    b"PROXY UNKNOWN2\r\n",
    b"PROXY TCP4 1.2.3 9.9.9.9 1 2\r\n",
    b"PROXY TCP4 1.2.3.256 9.9.9.9 1 2\r\n",
    b"PROXY TCP4 01.2.3.4 9.9.9.9 1 2\r\n",
    b"PROXY TCP4 1.2.3.4 example.org 1 2\r\n",
    b"PROXY TCP4 ::1 ::1 1 2\r\n",
    b"PROXY TCP4 1.2.3.\xff 9.9.9.9 1 2\r\n",
    b"PROXY TCP6 1.2.3.4 9.9.9.9 1 2\r\n",
    b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
    b"PROXY TCP6 [::1] ::1 1 2\r\n",
    b"PROXY TCP4 1.2.3.4 9.9.9.9 01 2\r\n",
    b"PROXY TCP4 1.2.3.4 9.9.9.9 65536 2\r\n",
    b"PROXY TCP4 1.2.3.4 9.9.9.9 +1 2\r\n",
    b"PROXY TCP4 1.2.3.4 9.9.9.9 -1 2\r\n",
    b"PROXY TCP4 1.2.3.4 9.9.9.9 1 x\r\n",
    b"PROXY TCP4 1.2.3.4 9.9.9.9 1 2\n" + b"x" * MAX_V1,
    b"PROXY UNKNOWN " + b"x" * (MAX_V1 - 15) + b"\r\n",
    v2(TCP4, command=0x11),
    v2(TCP4, command=0x22),
    v2(TCP4, command=0x31),
    v2(TCP4, family=0x13),
    v2(TCP4, family=0x41),
    v2(TCP4[:-1]),
    v2(TCP4, family=0x21),
    v2(bytes(215), family=0x31),
    v2(TCP4 + b"\x01"),
    v2(TCP4 + b"\x01\x00"),
    v2(TCP4 + b"\x01\x00\x05abcd"),
    with_checksum(TCP4, wrong=1),
    v2(TCP4 + tlv(3, b"abc")),
    v2(TCP4 + tlv(4, bytes(MAX_V2 - 16 - 12 - 3 + 1))),
    v2(b"", size=0xFFFF),
]


def parse(data, sizes):
    """Return what a header says, and what is left; the error's text if it is bad."""
    parser, start = ProxyHeaderParser(), 0
    sizes = [*sizes, len(data)]
    while start < len(data) and parser.header is None:
        piece = data[start : start + (sizes.pop(0) if len(sizes) > 1 else sizes[0])]
        try:
            taken = parser.receive_data(piece)
        except RemoteProtocolError as error:
            assert error.hint == 400
            return str(error)
        assert 0 < taken <= len(piece)
        assert taken == len(piece) or parser.header is not None
        start += taken
    return parser.header, data[start:]


@pytest.mark.parametrize("rest", [b"", b"\x16\x03", b"GET / HTTP/1.1\r\n\r\n"])
@pytest.mark.parametrize("data, says", GOOD)
def test_a_header_says_who_the_client_is(data, says, rest):
    """And nothing behind it is taken, whole or byte by byte."""
    assert parse(data + rest, []) == (says, rest)
    assert parse(data + rest, [1] * len(data + rest)) == (says, rest)


@pytest.mark.parametrize("data", BAD)
def test_a_malformed_header_is_refused(data):
    """Whole or byte by byte."""
    assert "PROXY header" in parse(data, [])
    assert parse(data, [1] * len(data)) == parse(data, [])


@pytest.mark.parametrize("data, says", GOOD)
def test_a_header_that_is_not_complete_says_nothing(data, says):
    """However much of it there is."""
    for end in range(1, len(data)):
        assert parse(data[:end], []) == (None, b"")


def test_the_checksum_is_the_standards():
    """RFC 9260 has no vector; RFC 3720, appendix B.4, has."""
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


HEADERS = st.sampled_from([data for data, _ in GOOD] + BAD)
MUTATED = st.builds(
    lambda data, at, byte: data[: at % len(data)] + byte + data[at % len(data) + 1 :],
    HEADERS,
    st.integers(0, 5000),
    st.binary(max_size=3),
)
GARBAGE = st.builds(
    bytes.__add__,
    st.sampled_from(
        [b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11"]
    ),
    st.binary(max_size=300),
)


@given(HEADERS | MUTATED | GARBAGE, st.lists(st.integers(1, 40), max_size=60))
def test_slicing_changes_nothing(data, sizes):
    """The same header, rest or error; never any other exception."""
    assert parse(data, sizes) == parse(data, [])
