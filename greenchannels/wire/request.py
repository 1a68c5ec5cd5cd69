"""
What the head of an HTTP request means (RFC 9110, sections 5 to 10; RFC 9112).

The head's lines are known to be well-formed: ``http1.py`` has checked them. Here
it is decided what they say about target, host, body and connection, and where
they contradict each other the request is refused, never repaired.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from ..errors import RemoteProtocolError
from .field_names import check_underscores
from .grammar import Fields, Head, read_fields, read_list

__all__ = ["KNOWN", "Fields", "Request", "parse_headers", "read_request"]

#: Fields that a server must understand, and those of a WebSocket's handshake.
KNOWN = frozenset(
    (
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"origin",
        b"sec-websocket-extensions",
        b"sec-websocket-key",
        b"sec-websocket-protocol",
        b"sec-websocket-version",
        b"transfer-encoding",
        b"upgrade",
    )
)

#: A Content-Length with more digits is too big for anything.
_MAX_DIGITS = 18

#: Host and authority without user information (RFC 3986, section 3.2); what is
#: between brackets is checked further.
_HOST = re.compile(
    rb"(?:\[([0-9A-Fa-f:.]++)\]|(?:[0-9A-Za-z._~!$&'()*+,;=-]++|%[0-9A-Fa-f]{2})*+)"
    rb"(?::[0-9]{0,5})?"
)
_ABSOLUTE = re.compile(rb"https?://([^/?]++)([^?]*+)(.*+)", re.IGNORECASE)


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


def read_request(head: bytes, parts: Head) -> Request:
    """
    Return what a head means whose lines are well-formed.

    Args:
        head: The head as received.
        parts: What ``read_head`` made of it, with the ``KNOWN`` fields.

    Raises:
        RemoteProtocolError: 400, 413 for a length beyond all limits, or 501 for a
            method or transfer coding that is not implemented.

    """
    method, target, is_1_1, headers, fields, underscored = parts
    if method == "CONNECT":
        raise RemoteProtocolError("CONNECT is not supported", 501)
    if underscored:
        check_underscores([name for name, _ in headers])
    hosts = fields.get(b"host", ())
    if len(hosts) != 1:
        if hosts or is_1_1:  # section 3.2
            raise RemoteProtocolError("a request has one Host", 400)
    elif not (_is_host if len(hosts[0]) < 256 else _is_host.__wrapped__)(hosts[0]):
        raise RemoteProtocolError("malformed Host", 400)
    if target.startswith(b"/"):
        raw_path, _, query_string = target.partition(b"?")
    else:
        authority, raw_path, query_string = _read_other_target(method, target)
        if authority is not None:
            headers = _replace_host(headers, authority)
            fields[b"host"] = [authority]
    content_length, chunked = None, False
    if b"content-length" in fields or b"transfer-encoding" in fields:
        content_length, chunked = _read_framing(fields, is_1_1)
    connection = _read_tokens(fields, b"connection") if b"connection" in fields else ()
    has_body = chunked or bool(content_length)
    return Request(  # by position: keywords would cost half a microsecond
        method,
        target,
        _decode_path(raw_path) if b"%" in raw_path else raw_path.decode(),
        raw_path,
        query_string,
        "1.1" if is_1_1 else "1.0",
        headers,
        fields,
        head,
        # RFC 9112, section 9.3.
        b"close" not in connection and (is_1_1 or b"keep-alive" in connection),
        is_1_1 and b"upgrade" in connection and _wants_websocket(fields),
        content_length,
        chunked,
        has_body and is_1_1 and _expects_continue(fields),
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


def _read_tokens(fields: Fields, name: bytes) -> list[bytes]:
    """Return the elements of a list field in lower case."""
    values = fields.get(name)
    if values is None:
        return []
    if len(values) == 1 and values[0].isalpha():
        return [values[0].lower()]
    return [each.lower() for each in read_list(values)]


@functools.lru_cache(maxsize=256)
def _is_host(host: bytes) -> bool:
    """Tell whether this is a name or an address, and perhaps a port."""
    match = _HOST.fullmatch(host)
    if match is None or match[1] is None:
        return match is not None
    try:
        ipaddress.IPv6Address(match[1].decode())
    except ValueError:
        return False
    return True


def _read_other_target(method: str, target: bytes) -> tuple[bytes | None, bytes, bytes]:
    """Return authority, path and query of a target without a slash (section 3.2)."""
    if target == b"*" and method == "OPTIONS":
        return None, target, b""
    match = _ABSOLUTE.fullmatch(target)
    if match is None or not _is_host(match[1]) or match[1].startswith(b":"):
        raise RemoteProtocolError("malformed request target", 400)
    return match[1], match[2] or b"/", match[3][1:]


def _decode_path(raw_path: bytes) -> str:
    """Decode %XX; what only looks like it is left alone, as everybody does."""
    try:
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
    """Return a body's length and whether it is chunked (section 6.3)."""
    if b"transfer-encoding" in fields:
        if b"content-length" in fields or not is_1_1:
            raise RemoteProtocolError("Transfer-Encoding is not allowed here", 400)
        _check_codings(fields[b"transfer-encoding"])
        return None, True
    lengths = fields[b"content-length"]
    if len(lengths) > 1 or not lengths[0].isdigit():
        raise RemoteProtocolError("malformed Content-Length", 400)
    if len(lengths[0]) > _MAX_DIGITS:
        raise RemoteProtocolError("the body is too big", 413)
    return int(lengths[0]), False


def _check_codings(values: list[bytes]) -> None:
    """Check that a body is chunked and nothing else (section 6.1)."""
    value = b",".join(values).lower()
    if value == b"chunked":
        return
    codings = [each.strip(b" \t") for each in value.split(b",")]
    if codings[-1] != b"chunked" or codings.count(b"chunked") > 1:
        raise RemoteProtocolError("the last transfer coding must be chunked", 400)
    if b"" in codings:
        raise RemoteProtocolError("malformed Transfer-Encoding", 400)
    raise RemoteProtocolError("transfer codings are not supported", 501)


def _wants_websocket(fields: Fields) -> bool:
    return b"websocket" in _read_tokens(fields, b"upgrade")


def _expects_continue(fields: Fields) -> bool:
    """Tell whether a 100 is awaited; other expectations are ignored."""
    return b"100-continue" in _read_tokens(fields, b"expect")
