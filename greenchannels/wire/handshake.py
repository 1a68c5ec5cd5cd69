"""
The opening handshake of WebSockets, in the server's role (RFC 6455, section 4).

Checks a request that ``http1.py`` has read, and makes the answer that accepts it.
Refusing is an ordinary HTTP response; Origin is policy: neither is done here.
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Collection
from dataclasses import dataclass

from ..errors import LocalProtocolError, RemoteProtocolError
from .extensions import Extension, read_extensions
from .grammar import TOKEN, read_list
from .request import Fields, Request
from .response import encode_head

#: The version of the protocol (section 4.1), to be named in a 426 as well.
VERSION = b"13"

#: Appended to the key (section 1.3).
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

#: What the answer says by itself, or must not say (RFC 9110, section 8.6).
_RESERVED = frozenset(
    (
        b"connection",
        b"content-length",
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
        b"sec-websocket-protocol",
        b"transfer-encoding",
        b"upgrade",
    )
)

#: The answer, when there is nothing more to say.
_ACCEPT = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n"
)


@dataclass(slots=True)
class Handshake:
    """
    What a client asks for. Not frozen, only because that costs time.

    Attributes:
        key: The value of ``Sec-WebSocket-Key``.
        subprotocols: What it offers to speak, in its order of preference.
        extensions: What extensions it offers, in its order of preference.

    """

    key: bytes
    subprotocols: tuple[str, ...]
    extensions: tuple[Extension, ...] = ()


def accept_key(key: bytes) -> bytes:
    """Return the answer to a ``Sec-WebSocket-Key`` (section 4.2.2, step 5.4)."""
    digest = hashlib.sha1(key + _GUID, usedforsecurity=False).digest()
    return binascii.b2a_base64(digest, newline=False)


def read_handshake(request: Request) -> Handshake:
    """
    Return what the client asks for (section 4.2.1).

    Duplicates among the subprotocols, which section 4.1 forbids, are accepted.

    Raises:
        RemoteProtocolError: If the request is not a handshake. The hint is the
            status to answer: 405 for another method than GET, 426 for another
            version (the answer then names ours), else 400.

    """
    fields = request.fields
    if request.method != "GET":
        raise RemoteProtocolError("a handshake's method is GET", 405)
    if request.http_version != "1.1":
        raise RemoteProtocolError("a handshake needs HTTP/1.1", 400)
    _check_token(fields, b"connection", b"upgrade")
    _check_token(fields, b"upgrade", b"websocket")
    if fields.get(b"sec-websocket-version") != [VERSION]:
        raise RemoteProtocolError("the WebSocket version is 13", 426)
    if request.content_length or request.chunked:
        raise RemoteProtocolError("a handshake has no body", 400)
    offered = fields.get(b"sec-websocket-extensions")
    extensions = () if offered is None else read_extensions(offered)
    return Handshake(_read_key(fields), _read_subprotocols(fields), extensions)


def encode_accept(
    key: bytes,
    subprotocol: str | None = None,
    headers: Collection[tuple[bytes, bytes]] = (),
    extension: bytes | None = None,
) -> bytes:
    """
    Return the response that accepts a handshake (section 4.2.2).

    Args:
        key: The client's key.
        subprotocol: What will be spoken; the caller has checked that the client
            offers it.
        headers: More headers.
        extension: What is answered to the offered extensions, if anything.

    Raises:
        LocalProtocolError: If the subprotocol is not a token, a header is
            malformed, or it is one that the handshake itself sets.

    """
    if subprotocol is None and not headers:
        value = accept_key(key)
        if extension is not None:
            value += b"\r\nSec-WebSocket-Extensions: " + extension
        return _ACCEPT % value
    fields = [
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Accept", accept_key(key)),
    ]
    if subprotocol is not None:
        value = subprotocol.encode("ascii", "replace")
        if not TOKEN.fullmatch(value):
            raise LocalProtocolError("the subprotocol is not a token", 500)
        fields.append((b"Sec-WebSocket-Protocol", value))
    if extension is not None:
        fields.append((b"Sec-WebSocket-Extensions", extension))
    for name, value in headers:
        if name.lower() in _RESERVED:
            text = name.decode("latin-1")
            raise LocalProtocolError(f"{text} is not for accept()", 500)
        fields.append((name, value))
    return encode_head(101, fields)


def _check_token(fields: Fields, name: bytes, token: bytes) -> None:
    """Check that a list field has an element, in any case."""
    values = fields.get(name, ())
    if len(values) == 1 and values[0].lower() == token:
        return
    if token not in [each.lower() for each in read_list(values)]:
        text = f"{name.decode().capitalize()} does not contain {token.decode()}"
        raise RemoteProtocolError(text, 400)


def _read_key(fields: Fields) -> bytes:
    """Return the key: there is one, of 16 bytes in base64 (section 4.1)."""
    keys = fields.get(b"sec-websocket-key", ())
    if len(keys) != 1:
        raise RemoteProtocolError("a handshake has one Sec-WebSocket-Key", 400)
    try:
        nonce = binascii.a2b_base64(keys[0], strict_mode=True)
    except binascii.Error:
        nonce = b""
    if len(nonce) != 16:
        raise RemoteProtocolError("Sec-WebSocket-Key is not 16 bytes", 400)
    return keys[0]


def _read_subprotocols(fields: Fields) -> tuple[str, ...]:
    """Return the offered subprotocols, which are tokens (section 4.1)."""
    offered = fields.get(b"sec-websocket-protocol")
    if offered is None:
        return ()
    names = read_list(offered)
    if not all(map(TOKEN.fullmatch, names)):
        raise RemoteProtocolError("a subprotocol is not a token", 400)
    return tuple(name.decode() for name in names)
