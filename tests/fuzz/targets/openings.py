"""The opening handshake."""

import base64
import hashlib

from greenchannels.errors import LocalProtocolError, RemoteProtocolError
from greenchannels.options import HTTPLimits
from greenchannels.wire.grammar import TOKEN
from greenchannels.wire.handshake import encode_accept, read_handshake
from greenchannels.wire.http1 import Request, RequestParser
from tests.fuzz.source import Source, text_of

START = b"GET /chat HTTP/1.1\r\nHost: a\r\n"


def handshake(data):
    """What is accepted is a handshake to the letter; what is answered is one head."""
    source = Source(data)
    subprotocol = text_of(source.some()) or None
    name, value = source.some(), source.some()
    parser = RequestParser(HTTPLimits())
    events = parser.receive_data(START + source.rest() + b"\r\n\r\n")
    if not events or not isinstance(events[0], Request):
        return
    request = events[0]
    try:
        found = read_handshake(request)
    except RemoteProtocolError as error:
        assert error.hint in (400, 405, 426)
        return
    upgrades = [v.lower() for n, v in request.headers if n == b"upgrade"]
    assert b"websocket" in b",".join(upgrades)
    assert request.headers.count((b"sec-websocket-version", b"13")) == 1
    assert len(base64.b64decode(found.key, validate=True)) == 16
    assert all(TOKEN.fullmatch(each.encode()) for each in found.subprotocols)
    try:
        answer = encode_accept(
            found.key, subprotocol, [(name, value)] if name or value else ()
        )
    except LocalProtocolError:
        return
    check_accept(answer, found.key, subprotocol, bool(name or value))


def check_accept(answer, key, subprotocol, more):
    """Check that an answer is one head that accepts the key."""
    lines = answer.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 101 Switching Protocols"
    assert lines[-2:] == [b"", b""] and b"" not in lines[:-2]
    assert not any(b"\r" in line or b"\n" in line for line in lines)
    guid = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key + guid).digest())
    assert b"Sec-WebSocket-Accept: " + accept in lines
    assert len(lines) == 6 + (subprotocol is not None) + more
