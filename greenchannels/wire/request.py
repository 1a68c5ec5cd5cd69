"""
What the head of an HTTP request means (RFC 9110, sections 5 to 10; RFC 9112).

The head's lines are known to be well-formed: ``http1.py`` has checked them. Here
it is decided what they say about target, host, body and connection, and where
they contradict each other the request is refused, never repaired.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

from ..errors import RemoteProtocolError
from .grammar import read_fields, read_list

#: Fields that a server must understand, and those of a WebSocket's handshake.
_KNOWN = frozenset(
    (
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"origin",
        b"sec-websocket-key",
        b"sec-websocket-protocol",
        b"sec-websocket-version",
        b"transfer-encoding",
        b"upgrade",
    )
)

#: Transfer codings of IANA's registry.
_CODINGS = frozenset(
    (b"chunked", b"compress", b"deflate", b"gzip", b"x-compress", b"x-gzip")
)

#: A Content-Length with more digits is too big for anything.
_MAX_DIGITS = 18

#: Host and authority without user information (RFC 3986, section 3.2).
_HOST = re.compile(
    rb"(?:\[[0-9A-Za-z.:%~_-]++\]|[0-9A-Za-z._~!$&'()*+,;=%-]*+)(?::[0-9]*+)?"
)
_ABSOLUTE = re.compile(rb"https?://([^/?]++)([^?]*+)(.*+)", re.IGNORECASE)

#: Values by the name of their field.
Fields: TypeAlias = dict[bytes, list[bytes]]


@dataclass(slots=True)
class Request:
    """
    The head of a request; its body follows as further events.

    Not frozen, only because that costs a microsecond a request.

    Attributes:
        method: GET, POST and so on.
        target: The request target as sent.
        path: Its path, percent-decoded.
        raw_path: Its path as sent.
        query_string: What follows the question mark.
        http_version: "1.0" or "1.1".
        headers: Names in lower case, and values. If the target names an
            authority, Host is that (RFC 9112, section 3.2.2).
        fields: The values of those fields that the server itself looks at, by
            name: one list for each name, one value for each line.
        head: The head as received; ``parse_headers`` makes ``headers`` of it.
        keep_alive: Whether the connection may go on after the response.
        upgrade: Whether it asks for the WebSocket protocol.
        content_length: The length of the body; ``None`` if it has none or is
            chunked.
        chunked: Whether the body is chunked.
        expects_continue: Whether the client waits for a 100 before its body.

    """

    method: str
    target: bytes
    path: str
    raw_path: bytes
    query_string: bytes
    http_version: str
    headers: list[tuple[bytes, bytes]]
    fields: Fields
    head: bytes
    keep_alive: bool
    upgrade: bool
    content_length: int | None
    chunked: bool
    expects_continue: bool

    @property
    def has_body(self) -> bool:
        """Whether a body follows that is not empty, or chunked."""
        return self.chunked or bool(self.content_length)


def read_request(head: bytes, headers: list[tuple[bytes, bytes]]) -> Request:
    """
    Return what a head means whose lines are well-formed.

    Args:
        head: The head as received.
        headers: Its fields; names in lower case.

    Raises:
        RemoteProtocolError: 400, or 501 for a method or transfer coding that is
            not implemented.

    """
    line, _, _ = head.partition(b"\r\n")
    method, target, protocol = line.split(b" ")
    if method == b"CONNECT":
        raise RemoteProtocolError("CONNECT is not supported", 501)
    is_1_1 = protocol.endswith(b"1")
    fields = _select(headers)
    _check_host(fields, required=is_1_1)
    authority, raw_path, query_string = _read_target(method, target)
    if authority is not None:
        headers = _replace_host(headers, authority)
        fields[b"host"] = [authority]
    content_length, chunked = _read_framing(fields, is_1_1)
    connection = _read_tokens(fields, b"connection")
    has_body = chunked or bool(content_length)
    return Request(  # by position: keywords would cost half a microsecond
        method.decode(),
        target,
        _decode_path(raw_path),
        raw_path,
        query_string,
        "1.1" if is_1_1 else "1.0",
        headers,
        fields,
        head,
        _keeps_alive(connection, is_1_1),
        is_1_1 and b"upgrade" in connection and _wants_websocket(fields),
        content_length,
        chunked,
        is_1_1 and has_body and _expects_continue(fields),
    )


def parse_headers(head: bytes) -> list[tuple[bytes, bytes]]:
    """
    Return the ``headers`` of the ``Request`` that had this ``head``.

    So that a connection that lives for days needs to keep but one object.
    """
    line_end = head.index(b"\r\n")
    headers = read_fields(head, line_end + 2)
    assert headers is not None, "the head has been checked"
    _, target, _ = head[:line_end].split(b" ")
    match = _ABSOLUTE.fullmatch(target)
    return headers if match is None else _replace_host(headers, match[1])


def _select(headers: list[tuple[bytes, bytes]]) -> Fields:
    """Return the values of the fields that are known here."""
    fields: Fields = {}
    for name, value in headers:
        if name in _KNOWN:
            fields.setdefault(name, []).append(value)
    return fields


def _read_tokens(fields: Fields, name: bytes) -> list[bytes]:
    """Return the elements of a list field in lower case."""
    values = fields.get(name)
    if values is None:
        return []
    if len(values) == 1 and values[0].isalpha():
        return [values[0].lower()]
    return [each.lower() for each in read_list(values)]


def _check_host(fields: Fields, *, required: bool) -> None:
    """Check that there is one Host, or none if it is not required (section 3.2)."""
    hosts = fields.get(b"host", ())
    if len(hosts) > 1 or (required and not hosts):
        raise RemoteProtocolError("a request has one Host", 400)
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise RemoteProtocolError("malformed Host", 400)


def _read_target(method: bytes, target: bytes) -> tuple[bytes | None, bytes, bytes]:
    """Return authority, path and query of a target (section 3.2)."""
    authority = None
    if target == b"*" and method == b"OPTIONS":
        return None, target, b""
    if not target.startswith(b"/"):
        match = _ABSOLUTE.fullmatch(target)
        if match is None or not _HOST.fullmatch(match[1]):
            raise RemoteProtocolError("malformed request target", 400)
        authority = match[1]
        target = (match[2] or b"/") + match[3]
    raw_path, _, query_string = target.partition(b"?")
    return authority, raw_path, query_string


def _decode_path(raw_path: bytes) -> str:
    """Decode %XX; what only looks like it is left alone, as everybody does."""
    try:
        if b"%" not in raw_path:
            return raw_path.decode()
        return unquote_to_bytes(raw_path).decode()
    except UnicodeDecodeError:
        raise RemoteProtocolError("the path is not UTF-8", 400) from None


def _replace_host(
    headers: list[tuple[bytes, bytes]], host: bytes
) -> list[tuple[bytes, bytes]]:
    """Return headers with another Host, at the place of the old one or the end."""
    if any(name == b"host" for name, _ in headers):
        return [(n, host if n == b"host" else value) for n, value in headers]
    return [*headers, (b"host", host)]


def _read_framing(fields: Fields, is_1_1: bool) -> tuple[int | None, bool]:
    """Return the body's length and whether it is chunked (section 6.3)."""
    lengths = fields.get(b"content-length")
    if b"transfer-encoding" in fields:
        if lengths or not is_1_1:
            raise RemoteProtocolError("Transfer-Encoding is not allowed here", 400)
        _check_codings(_read_tokens(fields, b"transfer-encoding"))
        return None, True
    if lengths is None:
        return None, False
    if len(lengths) > 1 or not lengths[0].isdigit():
        raise RemoteProtocolError("malformed Content-Length", 400)
    if len(lengths[0]) > _MAX_DIGITS:
        raise RemoteProtocolError("the body is too big", 413)
    return int(lengths[0]), False


def _check_codings(codings: list[bytes]) -> None:
    """Check that a body is chunked and nothing else (section 6.1)."""
    if not _CODINGS.issuperset(codings):
        raise RemoteProtocolError("unknown transfer coding", 501)
    if codings[-1:] != [b"chunked"] or codings.count(b"chunked") > 1:
        raise RemoteProtocolError("the last transfer coding must be chunked", 400)
    if len(codings) > 1:
        raise RemoteProtocolError("transfer codings are not supported", 501)


def _keeps_alive(connection: list[bytes], is_1_1: bool) -> bool:
    """Tell whether the connection outlives the request (section 9.3)."""
    return b"close" not in connection and (is_1_1 or b"keep-alive" in connection)


def _wants_websocket(fields: Fields) -> bool:
    return b"websocket" in _read_tokens(fields, b"upgrade")


def _expects_continue(fields: Fields) -> bool:
    """Tell whether a 100 is awaited; other expectations are ignored."""
    return b"100-continue" in _read_tokens(fields, b"expect")
