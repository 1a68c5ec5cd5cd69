"""
What the server refuses, as bytes: the rows of docs/security.md.

A row is one line of the table there and has many spellings of its fault.
"""

from dataclasses import dataclass

HOST = b"Host: localhost\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST
POST = b"POST / HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    status: int
    #: "9112 6.3": the RFC and its section, or "-" for a rule of our own.
    source: str
    wires: list
    #: Whether the fault is in the body, so that a consumer may have begun.
    in_body: bool = False


def fields(*lines, start=POST):
    """Return requests that have one of these among their fields."""
    return [start + line + b"\r\n\r\n" for line in lines]


def values(name, *some):
    """Return requests that have a field with one of these values."""
    return fields(*[name + b": " + value for value in some])


def starts(*lines, more=HOST):
    """Return requests that begin with one of these lines."""
    return [line + b"\r\n" + more + b"\r\n" for line in lines]


def hosts(*some):
    """Return requests for one of these hosts."""
    return [b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n" for host in some]


def chunks(*some):
    """Return chunked requests with one of these bodies, which end in good ones."""
    return [CHUNKED + each + b"1\r\na\r\n0\r\n\r\n" for each in some]


def trailers(*some):
    """Return chunked requests with one of these lines behind the chunks."""
    return [CHUNKED + b"1\r\na\r\n0\r\n" + each + b"\r\n\r\n" for each in some]


#: All but tab, CR and LF; the last two are rows of their own.
CONTROL = [*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F]

ROWS = [
    # Where a body ends.
    Row(
        "Content-Length beside Transfer-Encoding",
        400,
        "9112 6.1",
        fields(
            b"Content-Length: 5\r\nTransfer-Encoding: chunked",
            b"Transfer-Encoding: chunked\r\nContent-Length: 5",
            b"Transfer-Encoding: chunked\r\nContent-Length: 0",
            b"Transfer-Encoding: gzip\r\nContent-Length: 5",
        ),
    ),
    Row(
        "several Content-Length fields, equal ones too",
        400,
        "9112 6.3",
        fields(
            b"Content-Length: 5\r\nContent-Length: 6",
            b"Content-Length: 5\r\nContent-Length: 5",
            b"Content-Length: 0\r\nA: b\r\ncontent-length: 5",
        ),
    ),
    Row(
        "a Content-Length that is a list, equal elements too",
        400,
        "9112 6.3",
        values(b"Content-Length", b"5, 5", b"5,6", b"5,", b",5"),
    ),
    Row(
        "a Content-Length that is not ASCII digits: a sign, blanks, a prefix, `_`",
        400,
        "9110 8.6",
        values(
            b"Content-Length",
            *(b"", b"+5", b"-5", b"5 5", b"0x5", b"5_0", b"5.0", b"5;", b"a", b"\xb2"),
            *("٥".encode(), "５".encode()),
        ),
    ),
    Row(
        "a Content-Length of more than 18 digits",
        413,
        "9110 15.5.14",
        values(b"Content-Length", b"1" * 19, b"0" * 40, b"9" * 5000),
    ),
    Row(
        "a Transfer-Encoding that does not end in chunked",
        400,
        "9112 6.3",
        values(
            b"Transfer-Encoding",
            *(b"", b"gzip", b"identity", b"x", b"chunked, gzip", b"chunked, identity"),
            *(b"chunked;q=1", b"xchunked", b"chunkedx", b'"chunked"', b"\xa0chunked"),
            *(b"chunked\r\nTransfer-Encoding: gzip", b"chunked,", b"ch unked"),
        ),
    ),
    Row(
        "chunked named twice",
        400,
        "9112 6.1",
        values(
            b"Transfer-Encoding",
            *(b"chunked, chunked", b"chunked\r\nTransfer-Encoding: chunked"),
        ),
    ),
    Row(
        "an empty element before chunked",
        400,
        "9110 5.6.1",
        values(b"Transfer-Encoding", b", chunked", b"\r\nTransfer-Encoding: chunked"),
    ),
    Row(
        "another transfer coding before chunked",
        501,
        "9112 6.1",
        values(b"Transfer-Encoding", b"gzip, chunked", b"identity, chunked"),
    ),
    Row(
        "Transfer-Encoding in HTTP/1.0",
        400,
        "9112 6.1",
        starts(b"POST / HTTP/1.0", more=HOST + b"Transfer-Encoding: chunked\r\n"),
    ),
    Row(
        "a chunk size that is not hexadecimal digits",
        400,
        "9112 7.1",
        chunks(
            *(b"\r\n", b"-1\r\na\r\n", b"+1\r\na\r\n", b"0x1\r\na\r\n", b"g\r\n"),
            *(b"1_0\r\n", b" 1\r\na\r\n", b"1 \r\na\r\n", b"\t1\r\na\r\n", b"\xb2\r\n"),
            *(b"1,1\r\na\r\n", b"1\0\r\na\r\n", b"1\x0b\r\na\r\n"),
        ),
        in_body=True,
    ),
    Row(
        "a chunk size of more than 15 digits",
        400,
        "9112 7.1",
        chunks(b"0" * 15 + b"1\r\na\r\n", b"1" + b"0" * 16 + b"1\r\na\r\n"),
        in_body=True,
    ),
    Row(
        "a malformed chunk extension",
        400,
        "9112 7.1.1",
        chunks(
            *(b"1;\r\na\r\n", b"1;a=\r\na\r\n", b'1;a="b\r\na\r\n', b"1 ;a\r\na\r\n"),
            *(b"1; a\r\na\r\n", b"1;a;\r\na\r\n", b'1;a="\0"\r\na\r\n'),
            *(b'1;a="\x85"\r\na\r\n', b"1;a=b c\r\na\r\n", b"1;(\r\na\r\n"),
        ),
        in_body=True,
    ),
    Row(
        "a chunk's size line of more than 256 bytes",
        400,
        "9112 7.1.1",
        chunks(b"1;" + b"a" * 256 + b"\r\na\r\n"),
        in_body=True,
    ),
    Row(
        "a chunk that is longer or shorter than its size",
        400,
        "9112 7.1",
        chunks(b"1\r\nab\r\n", b"3\r\na\r\n", b"1\r\na0\r\n\r\n", b"1\r\n\r\n"),
        in_body=True,
    ),
    Row(
        "a bare CR or LF in or behind a chunk's lines",
        400,
        "9112 2.2",
        chunks(
            *(b"1\na\r\n", b"1\ra\r\n", b"1\r\r\na\r\n", b"1;a\nb\r\na\r\n"),
            *(b"1;a\rb\r\na\r\n", b"1\r\na\n", b"1\r\na\r", b"1\r\na\n\r\n"),
        ),
        in_body=True,
    ),
    Row(
        "a malformed trailer: folded, a blank before the colon, bare CR or LF, control",
        400,
        "9112 7.1.2",
        trailers(
            *(
                b": b",
                b"a",
                b"a : b",
                b" a: b",
                b"a: b\r\n c",
                b"a: b\n",
                b"a: b\rc: d",
            ),
            *(b"a: \0", b"a: \x0b", b"a: \x7f", b"a: \x85", b"\xe9: a", b"a: b\nc: d"),
        ),
        in_body=True,
    ),
    Row(
        "Content-Length or Transfer-Encoding in trailers",
        400,
        "9110 6.5.1",
        trailers(
            *(b"Content-Length: 1", b"Transfer-Encoding: chunked"),
            *(b"content_length: 5", b"A: b\r\nTRANSFER_ENCODING: x"),
        ),
        in_body=True,
    ),
    # Lines and fields.
    Row(
        "a folded field (obs-fold)",
        400,
        "9112 5.2",
        fields(b"A: b\r\n c", b"A: b\r\n\tc", b"A:\r\n b", b"A: b\r\n \r\nC: d"),
    ),
    Row(
        "a blank before the first field",
        400,
        "9112 2.2",
        starts(
            b"GET / HTTP/1.1\r\n A: b",
            b"GET / HTTP/1.1\r\n\tTransfer-Encoding: chunked",
        ),
    ),
    Row(
        "a blank between a field's name and its colon",
        400,
        "9112 5.1",
        fields(
            *(b"A : b", b"Content-Length : 5", b"Transfer-Encoding\t: chunked"),
            b"Transfer-Encoding\x0b: chunked",
        ),
    ),
    Row(
        "a bare LF in a head",
        400,
        "9112 2.2",
        [
            *starts(b"GET / HTTP/1.1\nA: b", b"GET /\n HTTP/1.1", b"\nGET / HTTP/1.1"),
            *fields(b"A: b\nC: d", b"A: b\n", b"\nA: b", b"A\n: b", b"A: b\n c"),
            b"GET / HTTP/1.1\nHost: localhost\n\n",
            GET + b"\n",
        ],
    ),
    Row(
        "a bare CR in a head",
        400,
        "9112 2.2",
        [
            *starts(b"GET / HTTP/1.1\rA: b", b"GET /\r HTTP/1.1", b"\rGET / HTTP/1.1"),
            *starts(b"GET / HTTP/1.1\r"),
            *fields(b"A: b\rC: d", b"A: b\r", b"\rA: b", b"A\r: b", b"A: \r"),
            GET + b"\r\r\n",
        ],
    ),
    Row(
        "a control byte in a value: 0x00-0x08, 0x0b, 0x0c, 0x0e-0x1f, 0x7f",
        400,
        "9110 5.5",
        [
            wire
            for c in CONTROL
            for wire in fields(b"A: b%cc" % c, b"Content-Length: %c5" % c)
        ],
    ),
    Row(
        "0x85 in a value, inside UTF-8 too",
        400,
        "-",
        fields(b"A: b\x85Content-Length: 5", "A: \u0085".encode(), "A: Å".encode()),
    ),
    Row(
        "a field without a name or a colon, or with a name that is no token",
        400,
        "9110 5.1",
        fields(
            *(b": a", b"a", b"(a): b", b"a b: c", b"a@b: c", b"\xe9: a", b'"a": b'),
            *(b"a\0: b", b"a/b: c", b"a\x7f: b"),
        ),
    ),
    Row(
        "a name with `_` that with `-` is another one's, or one that others act upon",
        400,
        "-",
        fields(
            *(
                b"Content_Length: 5",
                b"Content_Type: a/b",
                b"Transfer_Encoding: chunked",
            ),
            *(
                b"Transfer-Encoding_: chunked\r\nTransfer_Encoding-: x",
                b"HOST_: a\r\nHOST-: b",
            ),
            *(
                b"X_Forwarded_For: 1.2.3.4",
                b"X-Forwarded_Proto: https",
                b"X_Real_IP: 1",
            ),
            *(b"Remote_User: root", b"Proxy_Authorization: a", b"Sec_WebSocket_Key: a"),
            *(
                b"X-User: a\r\nX_User: b",
                b"X_User: b\r\nx-user: a",
                b"a_b-c: d\r\na-b_c: d",
            ),
        ),
    ),
    # Where a request goes.
    Row("no Host in HTTP/1.1", 400, "9112 3.2", [b"GET / HTTP/1.1\r\n\r\n"]),
    Row(
        "several Host fields, equal ones too",
        400,
        "9112 3.2",
        fields(b"Host: localhost", b"A: b\r\nHOST: x"),
    ),
    Row(
        "a malformed Host",
        400,
        "9112 3.2",
        hosts(
            *(b"a b", b"a/b", b"u@a", b"a,b:c", b"a:b", b"a:1:2", b"a:123456", b"a?b"),
            *(
                b"\xe9",
                b"[::1",
                b"::1",
                b"[]",
                b"[a]",
                b"[::1]a",
                b"[fe80::1%1]",
                b"a%",
            ),
            *(b"a\\b", b"<a>", b"http://a"),
        ),
    ),
    Row(
        "a malformed target, or of a form that is not the method's",
        400,
        "9112 3.2",
        starts(
            *(b"GET a HTTP/1.1", b"GET * HTTP/1.1", b"GET a:80 HTTP/1.1"),
            *(b"OPTIONS ** HTTP/1.1", b"GET http:///a HTTP/1.1", b"GET ?a HTTP/1.1"),
            *(b"GET http://u@a/ HTTP/1.1", b"GET ftp://a/ HTTP/1.1"),
            *(
                b"GET http://:80/ HTTP/1.1",
                b"GET http:/a HTTP/1.1",
                b"GET \\a HTTP/1.1",
            ),
            *(b"GET http://a:b/ HTTP/1.1", b"GET http://[::1/ HTTP/1.1"),
        ),
    ),
    Row(
        "a control byte, a blank, a `#` or other than ASCII in a target",
        400,
        "9112 3.2",
        starts(
            *(b"GET /a b HTTP/1.1", b"GET /\t HTTP/1.1", b"GET /\0 HTTP/1.1"),
            *(b"GET /\x0b HTTP/1.1", b"GET /\x1f HTTP/1.1", b"GET /\x7f HTTP/1.1"),
            *(b"GET /\x85 HTTP/1.1", "GET /é HTTP/1.1".encode(), b"GET /a#b HTTP/1.1"),
        ),
    ),
    Row(
        "a path that is not UTF-8 when decoded",
        400,
        "-",
        starts(b"GET /%ff HTTP/1.1", b"GET /%c3 HTTP/1.1", b"GET /%ed%a0%80 HTTP/1.1"),
    ),
    # The request line.
    Row(
        "a malformed request line",
        400,
        "9112 3",
        starts(
            *(b"GET  / HTTP/1.1", b"GET /  HTTP/1.1", b"GET\t/ HTTP/1.1", b"GET /"),
            *(b" GET / HTTP/1.1", b"GET / HTTP/1.1 ", b"GET / http/1.1", b"/ HTTP/1.1"),
            *(
                b"GET / HTTP/11",
                b"GET / HTTP/1.10",
                b"GET / HTTP/1,1",
                b"GET / HTTP 1.1",
            ),
            *(b"G(T / HTTP/1.1", b"\xe9 / HTTP/1.1", b"GET / X/1.1", b"GET HTTP/1.1"),
            *(b"\x16\x03\x01\x02", b"GET\0/ HTTP/1.1"),
        ),
    ),
    Row(
        "more than one empty line before a request",
        400,
        "9112 2.2",
        [b"\r\n\r\n" + GET + b"\r\n", b"\r\n \r\n" + GET + b"\r\n"],
    ),
    Row(
        "another version of HTTP",
        505,
        "9110 15.6.6",
        starts(
            *(
                b"GET / HTTP/0.9",
                b"GET / HTTP/1.2",
                b"GET / HTTP/2.0",
                b"GET / HTTP/9.9",
            ),
            b"PRI * HTTP/2.0",
        ),
    ),
    Row(
        "a method that nobody knows, or in small letters",
        501,
        "9110 9.1",
        starts(b"FOO / HTTP/1.1", b"get / HTTP/1.1", b"GETT / HTTP/1.1"),
    ),
    Row("CONNECT", 501, "9110 9.3.6", starts(b"CONNECT a:80 HTTP/1.1")),
    Row(
        "a method of another protocol",
        400,
        "9110 9.1",
        starts(b"DESCRIBE / HTTP/1.1", b"ANNOUNCE / HTTP/1.1"),
    ),
    # Limits.
    Row(
        "a request line over its limit",
        414,
        "9112 3",
        [*starts(b"GET /" + b"a" * 8192 + b" HTTP/1.1"), b"G" * 9000],
    ),
    Row(
        "a head over its limit, or more fields than allowed",
        431,
        "6585 5",
        [
            *fields(b"A: " + b"b" * 65536, b"\r\n".join([b"A: b"] * 100)),
            GET + b"A: " + b"b" * 65536,
        ],
    ),
    Row(
        "a Content-Length over the body's limit",
        413,
        "9110 15.5.14",
        values(b"Content-Length", b"%d" % (16 * 1024 * 1024 + 1)),
    ),
    Row(
        "chunks over the body's limit",
        413,
        "9110 15.5.14",
        chunks(b"1000001\r\n", b"7FFFFFFF\r\n", b"FFFFFFFFFFFFFFF\r\n"),
        in_body=True,
    ),
    Row(
        "trailers over the head's limits",
        431,
        "6585 5",
        trailers(b"A: " + b"b" * 65536, b"\r\n".join([b"A: b"] * 101)),
        in_body=True,
    ),
]
