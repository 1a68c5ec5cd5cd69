"""HTTP: requests beside h11 and llhttp, heads in C and Python, responses."""

import functools

from greenchannels.errors import LocalProtocolError, RemoteProtocolError
from greenchannels.options import HTTPLimits
from greenchannels.wire import http1
from greenchannels.wire.chunked import ChunkedDecoder
from greenchannels.wire.grammar import (
    TOKEN,
    check_headers,
    pure_read_fields,
    pure_read_head,
    read_fields,
    read_head,
    read_list,
)
from greenchannels.wire.http1 import BodyChunk, Request, RequestParser
from greenchannels.wire.request import KNOWN
from greenchannels.wire.response import (
    encode_chunk,
    encode_head,
    join_fields,
    join_response,
    pure_join_fields,
    pure_join_response,
)
from tests.fuzz import oracles
from tests.fuzz.source import Source, text_of

#: Statuses that a request may be refused with.
REFUSALS = {400, 413, 414, 431, 501, 505}


def requests(data):
    """
    What reaches a consumer is read by others as well, and limits hold.

    The others are h11, llhttp, and our parser with the parts of it that are in C
    replaced by those in Python.
    """
    source = Source(data)
    limits = HTTPLimits(
        max_request_line=source.choice([None, 16, 100]),
        max_head=source.choice([None, 40, 200]),
        max_headers=source.choice([None, 0, 1, 3]),
        max_body=source.choice([None, 0, 3, 100]),
    )
    cutter = Source(source.bytes(3))
    wire = source.rest()
    pieces = cutter.pieces(wire)
    oracles.check(wire, [n * 97 % 1000 for n in range(len(data) % 7)])
    found = read(limits, [wire])
    assert read(limits, pieces) == found
    assert read(limits, [wire[i : i + 1] for i in range(len(wire))]) == found
    original, http1.read_head = http1.read_head, pure_read_head
    try:
        assert read(limits, [wire]) == found
    finally:
        http1.read_head = original
    for request, body, _ in found[0]:
        check_limits(limits, request, body)
    assert all(request.keep_alive for request, _, _ in found[0][:-1])
    assert found[1] is None or found[1][1] in REFUSALS


def read(limits, pieces):
    """Return the requests of a wire, what is wrong with it, and what trails it."""
    parser, found = RequestParser(limits), []
    for piece in pieces:
        for event in parser.receive_data(piece):
            if isinstance(event, Request):
                found.append([event, b"", None])
            elif isinstance(event, BodyChunk):
                assert event.data
                found[-1][1] += event.data
            else:
                assert found[-1][2] is None
                found[-1][2] = event
    error = parser.error and (str(parser.error), parser.error.hint)
    return found, error, parser.trailing, parser.state


def check_limits(limits, request, body):
    """Check that a request is within its limits."""
    line = request.head.partition(b"\r\n")[0]
    count = request.head.count(b"\r\n") - 2
    for limit, size in (
        (limits.max_request_line, len(line)),
        (limits.max_head, len(request.head)),
        (limits.max_headers, count),
        (limits.max_body, len(body)),
    ):
        assert limit is None or size <= limit
    assert request.content_length is None or len(body) <= request.content_length


def heads(data):
    """C and Python take heads and fields apart in the same way."""
    source = Source(data)
    start, wire = source.byte(), source.rest()
    for head in wire, wire + b"\r\n\r\n", b"GET / HTTP/1.1\r\n" + wire + b"\r\n\r\n":
        assert read_head(head, KNOWN) == pure_read_head(head, KNOWN)
        assert outcome(read_fields, head, start) == outcome(
            pure_read_fields, head, start
        )


def outcome(function, *args):
    """Return what a function returns, or raises of what it may raise."""
    try:
        return function(*args)
    except ValueError as error:
        return type(error), str(error)


def chunked(data):
    """Chunks come off within their limits, however they are cut; also our own."""
    source = Source(data)
    limits = (
        source.choice([None, 0, 5, 300]),
        source.choice([None, 2, 30]),
        source.choice([None, 0, 2]),
    )
    pieces = Source(source.bytes(3))
    wire = source.rest()
    parts = pieces.pieces(wire)
    whole = decode_chunks(limits, [wire])
    assert decode_chunks(limits, parts) == whole
    body, _, trailers, rest, error = whole
    assert limits[0] is None or len(body) <= limits[0]
    assert limits[2] is None or len(trailers) <= limits[2]
    assert error is not None or wire.endswith(rest)
    assert error is None or error[1] in (400, 413, 431)
    sent = b"".join(map(encode_chunk, parts)) + http1.LAST_CHUNK
    found = decode_chunks((None, None, None), [sent + wire])
    assert found == (wire, True, [], wire, None)


def decode_chunks(limits, parts):
    """Return the body, whether it has ended, trailers, the rest, the error."""
    decoder, pieces, rest, error = ChunkedDecoder(*limits), [], b"", None
    for part in parts:
        if decoder.done:
            rest += part
            continue
        try:
            rest = decoder.receive_data(part, pieces)
        except RemoteProtocolError as caught:
            error = (str(caught), caught.hint)
            break
    assert decoder.done or not rest
    return b"".join(pieces), decoder.done, decoder.trailers, rest, error


def grammar(data):
    """Lists and tokens, and what may be sent as a header."""
    values = data.split(b"\n")
    found = read_list(values)
    assert found == read_list([b",".join(values)])
    for each in found:
        assert each and b"," not in each and each == each.strip(b" \t")
    pairs = list(zip(values[::2], values[1::2], strict=False))
    try:
        check_headers(pairs)
    except LocalProtocolError as error:
        assert error.hint == 500
        return
    lines = b"".join(b"%b: %b\r\n" % pair for pair in pairs)
    assert len(lines.splitlines()) == len(pairs) or b"\x85" in lines
    assert all(TOKEN.fullmatch(name) for name, _ in pairs)


def responses(data):
    """Whatever an application sends is one head, in C and in Python, or refused."""
    source = Source(data)
    status = source.number(1100)
    reason = text_of(source.some()) if source.flag() else None
    length, date = source.number(300), b"date: now\r\n"
    names = [b"content-length", b"connection", b"a", b"Set-Cookie"]
    fields = []
    while source.more and len(fields) < 8:
        name = source.choice(names) if source.flag() else source.some()
        fields.append((name, source.some()))
    lines = join_fields(fields)
    assert lines == pure_join_fields(fields)
    check_lines(lines, fields)
    try:
        head = encode_head(status, fields, reason)
    except LocalProtocolError:
        head = None
    if head is not None:
        first, _, rest = head.partition(b"\r\n")
        assert first.startswith(b"HTTP/1.1 %d " % status) and b"\n" not in first
        assert rest == lines + b"\r\n"
    join = functools.partial(join_response, b"HTTP/1.1 200 OK\r\n")
    pure = functools.partial(pure_join_response, b"HTTP/1.1 200 OK\r\n")
    whole = join(fields, date, length, b"body")
    assert whole == pure(fields, date, length, b"body")
    if whole is not None:
        head, _, body = whole.partition(b"\r\n\r\n")
        assert body == b"body"
        lines = head.lower().split(b"\r\n")
        lengths = [each for each in lines if each.startswith(b"content-length:")]
        assert lengths == [b"content-length: %d" % length]


def check_lines(lines, fields):
    """Check that field lines say what was put in, and nothing else."""
    if lines is None:
        return
    assert b"\0" not in lines
    assert lines.count(b"\n") == lines.count(b"\r") == len(fields)
    found = [line.split(b": ", 1) for line in lines.split(b"\r\n")[:-1]]
    assert [tuple(each) for each in found] == fields
