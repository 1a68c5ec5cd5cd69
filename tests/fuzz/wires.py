"""
Strategies that make nearly valid requests: what smuggling is tried with.

Requests are put together from good and bad lines, framed well or not quite, joined,
changed in a few bytes, and followed by garbage.
"""

from hypothesis import strategies as st

START_LINES = [
    *(b"GET / HTTP/1.1", b"POST /p HTTP/1.1", b"PUT /a/b?c=d&e HTTP/1.1"),
    *(b"POST / HTTP/1.0", b"GET http://b:1/x HTTP/1.1", b"HEAD http://b?q HTTP/1.0"),
    *(b"OPTIONS * HTTP/1.1", b"DELETE //a//%2e HTTP/1.1", b"M-SEARCH /%zz HTTP/1.1"),
    *(b"PATCH HTTPS://[::1]:8/ HTTP/1.1", b"GET /a|b{c} HTTP/1.1"),
]

ODD_START_LINES = [
    *(b"GET  / HTTP/1.1", b"GET /a b HTTP/1.1", b" GET / HTTP/1.1", b"GET / HTTP/1.1 "),
    *(b"GET\t/ HTTP/1.1", b"GET / HTTP/1.2", b"GET / HTTP/2.0", b"GET /", b"GET /a#b"),
    *(b"get / HTTP/1.1", b"CONNECT a:1 HTTP/1.1", b"GET a HTTP/1.1", b"GET *"),
    *(b"GET http://u@b/ HTTP/1.1", b"GET /\xc3\xa9 HTTP/1.1", b"PRI * HTTP/2.0"),
    *(b"DESCRIBE / HTTP/1.1", b"GET / HTTP/01.1", b"GET http:///x HTTP/1.1", b""),
]

FIELDS = [
    *(b"Accept: */*", b"X-Y:", b"Cookie: a=b; c", b"A:\t b \t", b"a_b: c", b"A: \xff"),
    *(b"Connection: close", b"Connection: keep-alive", b"Connection: x, Upgrade"),
    *(b"Upgrade: websocket", b"Upgrade: h2c", b"Expect: 100-continue"),
    *(b"Content-Type: text/plain", b"TE: trailers", b"Trailer: X"),
]

ODD_FIELDS = [
    *(b"Content-Length: 3", b"Content-Length: 0", b"Content-Length: 03"),
    *(b"Content-Length: 3, 3", b"Content-Length: +3", b"Content-Length: 3 3"),
    *(b"Content-Length : 3", b"Content-Length: 0x3", b"Content-Length: \xb3"),
    *(b"Content-Length:", b"Content_Length: 9", b"Content-Length: 1_0"),
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: Chunked"),
    *(b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked, identity"),
    *(b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked, chunked"),
    *(b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding: , chunked"),
    *(b"Transfer-Encoding:\tchunked\t", b"Transfer-Encoding : chunked"),
    *(b"Transfer-Encoding: chunked;q=1", b"Transfer_Encoding: chunked"),
    *(b"Transfer-Encoding: xchunked", b"Transfer-Encoding: \xa0chunked"),
    *(b"Host: b", b"Host: a b", b"Host: u@a", b"X_Forwarded_For: 1", b"a-b: c"),
    *(
        b" folded",
        b"\tfolded: 1",
        b"no colon",
        b": no name",
        b"A: b\rC: d",
        b"A: b\nC: d",
    ),
    *(b"A: \0", b"A: \x0b\x0c", b"A: \x1c\x1d\x1e", b"A: \x85", b"A: \x7f", b"\xe9: 1"),
]

SIZES = [b"%x", b"%X", b"00%x", b"%x;a", b'%x;a=b;c="d;\\""', b"%x;a=1"]
ODD_SIZES = [
    *(b"0x%x", b"%x ", b" %x", b"+%x", b"-%x", b"%x;", b"%x;a=", b"%x ;a", b"%x_0"),
    *(b'%x;a="b', b"%x;a\rb", b"%x;a\nb", b"1%x", b"", b"%xg", b"%x\t", b"%x;a=\x85"),
]
TRAILERS = [b"X: y", b"x-sum:\t1 ", b"Cookie: a", b"Host: b", b"Connection: close"]
ODD_TRAILERS = [
    *(b"Content-Length: 5", b"Transfer-Encoding: chunked", b" a: b", b"a : b", b"a"),
    *(b"Content_Length: x", b"a: \0", b"a: b\rc", b"a: b\nc", b": a", b"a: \x85"),
]

LINE_ENDS = [b"\n", b"\r", b"\r\r\n", b"\r\n ", b"\r\n\t", b"\0\r\n", b" \r\n", b"\n\r"]
PIECES = [
    *(
        b"",
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n\r\n",
        b" ",
        b"\t",
        b":",
        b"\0",
        b"\x0b",
        b"\x85",
    ),
    *(
        b"0",
        b"1",
        b"9",
        b"a",
        b",",
        b";",
        b"_",
        b"-",
        b"+",
        b"\xff",
        b'"',
        b"\x7f",
        b"#",
    ),
]


def mostly(good, odd, times=12):
    """Return a strategy for one of ``good``, less often one of ``odd``."""
    return st.sampled_from([*(good * (1 + times * len(odd) // len(good))), *odd])


start_lines = mostly(START_LINES, ODD_START_LINES)
line_ends = mostly([b"\r\n"], LINE_ENDS)
fields = st.lists(
    st.one_of(st.sampled_from(FIELDS), mostly(FIELDS, ODD_FIELDS, 3)), max_size=4
)
hosts = mostly([b"Host: a", b"HOST:a:80 "], [b"", b"Host:", b"Host: a\r\nHost: a"])
bodies = st.sampled_from(
    [
        b"",
        b"abc",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"0\r\n\r\n",
        b"\r\n",
        b"\xff\0",
    ]
)
sizes = mostly(SIZES, ODD_SIZES)
trailers = st.lists(mostly(TRAILERS, ODD_TRAILERS), max_size=2)
off_by = mostly([0], [1, -1, 2, 40])


@st.composite
def chunked_bodies(draw):
    """Return chunks with extensions and trailers, some of them malformed."""
    parts = []
    for body in [*draw(st.lists(bodies.filter(len), max_size=2)), b""]:
        spelled = draw(sizes)
        size = max(0, len(body) + draw(off_by)) if body else 0
        parts += [spelled.replace(b"%x", b"%x" % size).replace(b"%X", b"%X" % size)]
        parts += [draw(line_ends), body, draw(line_ends) if body else b""]
    for trailer in draw(trailers):
        parts += [trailer, draw(line_ends)]
    return b"".join([*parts, draw(line_ends)])


@st.composite
def messages(draw):
    """Return a request, most often a valid one."""
    lines = [draw(hosts), *draw(fields)]
    framing = draw(st.sampled_from(["none", "length", "chunks"]))
    body = b""
    if framing == "length":
        body = draw(bodies)
        lines.append(b"Content-Length: %d" % max(0, len(body) + draw(off_by)))
    elif framing == "chunks":
        body = draw(chunked_bodies())
        lines.append(b"Transfer-Encoding: chunked")
    if draw(st.booleans()):
        lines = draw(st.permutations(lines))
    end = draw(line_ends)
    head = [draw(start_lines), b"\r\n", *[each + end for each in lines if each]]
    return b"".join([*head, draw(line_ends), body])


@st.composite
def wires(draw):
    """Return a few pipelined requests, changed in a few places, and garbage."""
    some = draw(st.lists(messages(), min_size=1, max_size=3))
    wire = bytearray(draw(st.sampled_from([b"", b"", b"\r\n"])).join([b"", *some]))
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3]))):
        at = draw(st.integers(0, len(wire)))
        wire[at : at + draw(st.integers(0, 2))] = draw(st.sampled_from(PIECES))
    return bytes(wire) + draw(st.sampled_from([b"", b"", b"GET", b"\r\n", b"\0\xff"]))


#: Where a wire is cut into what single reads return, in thousandths of it.
cuts = st.lists(st.integers(0, 1000), max_size=4)
