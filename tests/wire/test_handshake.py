"""The opening handshake: RFC 6455, section 4."""

import pytest

from greenchannels.errors import LocalProtocolError, RemoteProtocolError
from greenchannels.options import HTTPLimits
from greenchannels.wire.extensions import Extension
from greenchannels.wire.handshake import (
    Handshake,
    accept_key,
    encode_accept,
    read_handshake,
)
from greenchannels.wire.http1 import RequestParser

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # section 1.3
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

FIELDS = {
    "Host": "a",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY.decode(),
    "Sec-WebSocket-Version": "13",
}


def request(line="GET / HTTP/1.1", more="", **changes):
    """Return a request, with fields changed, or left out by ``None``."""
    changes = {name.replace("_", "-"): value for name, value in changes.items()}
    fields = [f"{n}: {v}\r\n" for n, v in (FIELDS | changes).items() if v is not None]
    parser = RequestParser(HTTPLimits())
    events = parser.receive_data((f"{line}\r\n" + "".join(fields) + more).encode())
    events += parser.receive_data(b"\r\n")
    assert parser.error is None
    return events[0]


def test_the_answer_to_a_key_is_that_of_the_rfc():
    """Section 1.3."""
    assert accept_key(KEY) == ACCEPT


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"Upgrade": "WebSocket"},
        {"Upgrade": "h2c, websocket"},
        {"Connection": "keep-alive, upgrade"},
        {"Connection": "keep-alive", "more": "Connection: UPGRADE\r\n"},
        {"Content_Length": "0"},
        {"line": "GET http://b/?x HTTP/1.1"},
    ],
)
def test_a_handshake_is_read(changes):
    """In all its spellings."""
    assert read_handshake(request(**changes)) == Handshake(KEY, ())


@pytest.mark.parametrize(
    ("status", "reason", "changes"),
    [
        (405, "a handshake's method is GET", {"line": "POST / HTTP/1.1"}),
        (405, "a handshake's method is GET", {"line": "HEAD / HTTP/1.1"}),
        (400, "a handshake needs HTTP/1.1", {"line": "GET / HTTP/1.0"}),
        (400, "Connection does not contain upgrade", {"Connection": None}),
        (400, "Connection does not contain upgrade", {"Connection": "keep-alive"}),
        (400, "Upgrade does not contain websocket", {"Upgrade": None}),
        (400, "Upgrade does not contain websocket", {"Upgrade": "websockets"}),
        (426, "the WebSocket version is 13", {"Sec_WebSocket_Version": None}),
        (426, "the WebSocket version is 13", {"Sec_WebSocket_Version": "8"}),
        (426, "the WebSocket version is 13", {"Sec_WebSocket_Version": "13, 8"}),
        (
            426,
            "the WebSocket version is 13",
            {"more": "Sec-WebSocket-Version: 13\r\n"},
        ),
        (400, "a handshake has no body", {"Content_Length": "1"}),
        (400, "a handshake has no body", {"Transfer_Encoding": "chunked"}),
        (400, "a handshake has one Sec-WebSocket-Key", {"Sec_WebSocket_Key": None}),
        (
            400,
            "a handshake has one Sec-WebSocket-Key",
            {"more": f"Sec-WebSocket-Key: {KEY.decode()}\r\n"},
        ),
        (400, "Sec-WebSocket-Key is not 16 bytes", {"Sec_WebSocket_Key": ""}),
        (400, "Sec-WebSocket-Key is not 16 bytes", {"Sec_WebSocket_Key": "YWJj"}),
        (400, "Sec-WebSocket-Key is not 16 bytes", {"Sec_WebSocket_Key": "abc"}),
        (
            400,
            "Sec-WebSocket-Key is not 16 bytes",
            {"Sec_WebSocket_Key": "!" + KEY.decode()},
        ),
        (400, "a subprotocol is not a token", {"Sec_WebSocket_Protocol": "a, b c"}),
        (400, "a subprotocol is not a token", {"Sec_WebSocket_Protocol": "é"}),
        (
            400,
            "Sec-WebSocket-Extensions is malformed",
            {"Sec_WebSocket_Extensions": "permessage-deflate; a="},
        ),
    ],
)
def test_what_is_not_a_handshake_is_refused(status, reason, changes):
    """With the status to answer."""
    with pytest.raises(RemoteProtocolError) as caught:
        read_handshake(request(**changes))
    assert (caught.value.hint, caught.value.reason) == (status, reason)


def test_subprotocols_come_in_the_order_of_the_client():
    """From several lines; empty elements are nothing."""
    asked = request(
        Sec_WebSocket_Protocol="chat, v2.chat",
        more="sec-websocket-protocol: ,\tmqtt ,\r\n",
    )
    assert read_handshake(asked).subprotocols == ("chat", "v2.chat", "mqtt")


def test_extensions_come_in_the_order_of_the_client():
    """From several lines, in any spelling of the name."""
    asked = request(
        Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits",
        more="SEC-websocket-EXTENSIONS: x;a=1\r\n",
    )
    assert read_handshake(asked).extensions == (
        Extension("permessage-deflate", (("client_max_window_bits", None),)),
        Extension("x", (("a", "1"),)),
    )


def test_the_acceptance_is_a_101():
    """The three fields of section 4.2.2, then those that were asked for."""
    expected = (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n"
    )
    assert encode_accept(KEY) == expected + b"\r\n"
    assert encode_accept(KEY, "chat") == (
        expected + b"Sec-WebSocket-Protocol: chat\r\n\r\n"
    )
    assert encode_accept(KEY, headers=[(b"Set-Cookie", b"a=1"), (b"X", b"")]) == (
        expected + b"Set-Cookie: a=1\r\nX: \r\n\r\n"
    )


def test_the_acceptance_names_the_extension():
    """With a subprotocol or headers, and without."""
    start = encode_accept(KEY)[:-2]
    line = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
    extension = b"permessage-deflate"
    assert encode_accept(KEY, extension=extension) == start + line + b"\r\n"
    assert encode_accept(KEY, "chat", [(b"X", b"y")], extension) == (
        start + b"Sec-WebSocket-Protocol: chat\r\n" + line + b"X: y\r\n\r\n"
    )


@pytest.mark.parametrize("subprotocol", ["", "a b", "a,b", "é", "a\r\nX: y", "?"])
def test_a_subprotocol_is_a_token(subprotocol):
    """LocalProtocolError otherwise."""
    with pytest.raises(LocalProtocolError, match="the subprotocol is not a token"):
        encode_accept(KEY, subprotocol)


@pytest.mark.parametrize(
    "name",
    [
        b"upgrade",
        b"Connection",
        b"Content-Length",
        b"Sec-WebSocket-Accept",
        b"SEC-WEBSOCKET-EXTENSIONS",
        b"Sec-WebSocket-Protocol",
        b"Transfer-Encoding",
    ],
)
def test_the_handshakes_own_fields_are_not_overridden(name):
    """Nor may a 101 announce a body."""
    with pytest.raises(LocalProtocolError, match="is not for accept"):
        encode_accept(KEY, headers=[(name, b"x")])


@pytest.mark.parametrize(
    "header",
    [(b"", b"x"), (b"a b", b"x"), (b"a:", b"x"), (b"a", b"x\r\nB: y"), (b"a", b"\0")],
)
def test_headers_cannot_break_the_response(header):
    """LocalProtocolError, with a 500 to answer."""
    with pytest.raises(LocalProtocolError) as caught:
        encode_accept(KEY, headers=[header])
    assert caught.value.hint == 500
