"""
Our parser beside h11 and llhttp.

Whatever ours lets reach a consumer, the others must read as well: the same method,
target, fields, body and trailers, from the same bytes. Ours may refuse more, never
less, and never read anything differently.

Where the others have rules of their own they are helped: h11 refuses an empty line
before a request and writes "chunked" in small letters, and llhttp takes what follows
an Upgrade for another protocol.
"""

import re
from dataclasses import dataclass, field

import h11
import httptools

from greenchannels.options import HTTPLimits
from greenchannels.wire.http1 import BodyChunk, Request, RequestEnd, RequestParser

ABSOLUTE = re.compile(rb"(?i)https?://([^/?]*)")

#: What trailers must not hold (RFC 9110, section 6.5.1): names, and beginnings of some.
NOT_IN_TRAILERS = {
    *(b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding"),
    *(b"upgrade", b"expect", b"host", b"max-forwards", b"cache-control", b"pragma"),
    *(b"range", b"authorization", b"cookie", b"set-cookie", b"origin", b"via"),
    *(b"forwarded", b"x-real-ip", b"x-client-ip", b"true-client-ip", b"auth-type"),
    *(b"path-info", b"script-name", b"x-csrftoken", b"x-http-method-override"),
}
FAMILIES_NOT_IN_TRAILERS = (
    *(b"content-", b"if-", b"sec-", b"proxy-", b"remote-", b"x-remote-"),
    *(b"x-forwarded-", b"x-original-", b"x-accel-"),
)


@dataclass
class Seen:
    """What a parser makes of the first request in some bytes."""

    start: tuple = ()
    headers: list = field(default_factory=list)
    body: bytes = b""
    trailers: list = field(default_factory=list)
    ended: bool = False
    #: Bytes up to its end.
    size: int = 0
    error: str = ""


def with_small_codings(headers):
    """Return fields with the values of Transfer-Encoding in lower case."""
    return [
        (bytes(n), bytes(v.lower() if n == b"transfer-encoding" else v))
        for n, v in headers
    ]


def see_with_h11(wire):
    """Return what h11 makes of the first request."""
    seen = Seen()
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(wire)
    try:
        while not seen.ended:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                version = event.http_version.decode()
                seen.start = (event.method.decode(), bytes(event.target), version)
                seen.headers = with_small_codings(event.headers)
            elif isinstance(event, h11.Data):
                seen.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                seen.trailers = with_small_codings(event.headers)
                seen.ended = True
            else:
                break
    except h11.RemoteProtocolError as error:
        seen.error = str(error)
    seen.size = len(wire) - len(connection.trailing_data[0])
    return seen


class _Callbacks:
    """Collects what llhttp finds."""

    def __init__(self):
        self.seen, self.url, self.in_head = Seen(), b"", True

    def on_url(self, url):
        self.url += url

    def on_header(self, name, value):
        fields = self.seen.headers if self.in_head else self.seen.trailers
        fields += with_small_codings([(name.lower(), value.strip(b" \t"))])

    def on_headers_complete(self):
        self.in_head = False

    def on_body(self, data):
        self.seen.body += data

    def on_message_complete(self):
        self.seen.ended = True


def see_with_llhttp(wire):
    """Return what llhttp makes of the first request, byte by byte."""
    callbacks = _Callbacks()
    parser, seen = httptools.HttpRequestParser(callbacks), callbacks.seen
    try:
        for seen.size in range(1, len(wire) + 1):
            parser.feed_data(wire[seen.size - 1 : seen.size])
            if seen.ended:
                break
    except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
        seen.error = f"{type(error).__name__} {error}"
    if not callbacks.in_head:
        method, version = parser.get_method().decode(), parser.get_http_version()
        seen.start = (method, callbacks.url, version)
    return seen


def without_upgrade(wire):
    """Return the wire with another name for Upgrade fields."""
    return re.sub(rb"(?i)\nupgrade(?=:)", rb"\nXpgrade", wire)


def pieces_of(wire, cuts):
    """Return the wire in pieces, cut at thousandths of its length."""
    places = sorted({0, len(wire), *(cut * len(wire) // 1000 for cut in cuts)})
    return [wire[a:b] for a, b in zip(places, places[1:], strict=False)]


def read(pieces):
    """Return what our parser lets through: requests as dicts, and its error."""
    parser, found = RequestParser(HTTPLimits()), []
    for piece in pieces:
        for event in parser.receive_data(piece):
            if isinstance(event, Request):
                found.append({"request": event, "body": b"", "end": None})
            elif isinstance(event, BodyChunk):
                found[-1]["body"] += event.data
            else:
                assert isinstance(event, RequestEnd)
                found[-1]["end"] = event
    return found, parser.error and str(parser.error), parser.trailing, parser.in_head


def expected_headers(request, headers):
    """Return the fields as ours has them: the target's authority is the Host."""
    match = ABSOLUTE.match(request.target)
    if match is None:
        return headers
    if any(name == b"host" for name, _ in headers):
        return [(n, match[1] if n == b"host" else v) for n, v in headers]
    return [*headers, (b"host", match[1])]


def is_no_trailer(name):
    """Tell whether ours leaves a field out of trailers (RFC 9110, section 6.5.1)."""
    name = name.replace(b"_", b"-")
    return name in NOT_IN_TRAILERS or name.startswith(FAMILIES_NOT_IN_TRAILERS)


def check_request(found, refused, seen, who):
    """Check one request that ours lets through, perhaps without its end."""
    request = found["request"]
    assert seen.start, f"{who} refuses: {seen.error}"
    assert (request.method, request.target, request.http_version) == seen.start, who
    headers = with_small_codings(request.headers)
    assert headers == expected_headers(request, seen.headers), who
    if request.upgrade:
        return
    if found["end"] is None:
        assert seen.body.startswith(found["body"]), who
        assert refused or not seen.ended, f"{who} sees an end"
        return
    assert seen.ended, f"{who} sees no end: {seen.error}"
    assert found["body"] == seen.body, who
    late = [each for each in seen.trailers if each not in found["end"].trailers]
    assert all(is_no_trailer(name) for name, _ in late), who
    kept = [each for each in seen.trailers if not is_no_trailer(each[0])]
    assert list(found["end"].trailers) == kept, who


def check_boundary(parser, wire, size, who):
    """Check that ours ends a request with the very same byte."""
    before = parser.receive_data(wire[: size - 1])
    assert not any(isinstance(event, RequestEnd) for event in before), who
    last = parser.receive_data(wire[size - 1 : size])
    assert [type(event) for event in last[-1:]] == [RequestEnd], who
    assert not parser.in_head, who


def compare(wire, see, who):
    """Check all requests of a wire against another parser; return how many."""
    found, error, _, _ = read([wire])
    parser = RequestParser(HTTPLimits())
    for n, each in enumerate(found):
        if wire.startswith(b"\r\n"):
            parser.receive_data(wire[:2])
            wire = wire[2:]
        seen = see(wire)
        refused = error is not None and n == len(found) - 1
        check_request(each, refused, seen, who)
        if each["end"] is not None:
            check_boundary(parser, wire, seen.size, who)
            wire = wire[seen.size :]
    return len(found)


def check(wire, cuts):
    """
    Check one wire; return how many requests of it reach a consumer.

    Raises:
        AssertionError: If another parser disagrees about one of them, or if it
            matters how the bytes arrive.

    """
    assert read(pieces_of(wire, cuts)) == read([wire]), "cuts change what comes out"
    plain = without_upgrade(wire)
    compare(plain, see_with_llhttp, "llhttp")
    return compare(wire, see_with_h11, "h11")
