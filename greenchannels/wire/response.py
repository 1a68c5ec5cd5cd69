"""
Responses as bytes: heads, chunks and dates (RFC 9110 and 9112).

What is sent is checked to be one head, whatever an application put into it. Which
fields a response needs, and whether it has a body, is the caller's business.
"""

from __future__ import annotations

import datetime
import functools
import http
from typing import TYPE_CHECKING

from ..errors import LocalProtocolError
from .grammar import Headers, check_headers

#: Ends a chunked body.
LAST_CHUNK = b"0\r\n\r\n"

#: Fields that say how a message is framed, or when it was made.
FRAMING = frozenset((b"connection", b"date", b"keep-alive", b"transfer-encoding"))

_DAYS = (b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun")
_MONTHS = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


def encode_head(status: int, headers: Headers, reason: str | None = None) -> bytes:
    """
    Return the head of a response.

    Args:
        status: From 100 to 999.
        headers: Names and values, as they are to be sent.
        reason: The phrase; ``None`` for the usual one.

    Raises:
        LocalProtocolError: If any of it would not be one well-formed head.

    """
    return encode_status_line(status, reason) + encode_fields(list(headers)) + b"\r\n"


def encode_fields(fields: list[tuple[bytes, bytes]]) -> bytes:
    """
    Return field lines.

    Raises:
        LocalProtocolError: If any of it would not be one well-formed line.

    """
    lines = join_fields(fields)
    if lines is None:
        if all(len(field) == 2 for field in fields):
            check_headers(fields)
        raise LocalProtocolError("headers are pairs of bytes", 500)
    return lines


def pure_join_fields(fields: list[tuple[bytes, bytes]], /) -> bytes | None:
    """Return field lines, or ``None`` if one would not be well-formed."""
    try:
        check_headers(fields)
        return b"".join([b"%b: %b\r\n" % field for field in fields])
    except (LocalProtocolError, TypeError, ValueError):
        return None  # malformed, or no pairs of bytes at all


def pure_join_response(
    line: bytes,
    fields: list[tuple[bytes, bytes]],
    date: bytes,
    length: int,
    body: bytes,
    /,
) -> bytes | None:
    """
    Return a response whose length is told, or the beginning of one.

    Args:
        line: The first one, with its end.
        fields: Names in lower case, and values.
        date: The line of the Date field.
        length: Bytes of the whole body.
        body: What is sent of it with the head.

    Returns:
        The response; ``None`` if a field is not well-formed, or says by itself
        how the message is framed, when it was made, or another length.

    """
    lines = pure_join_fields(fields)
    if lines is None or any(name in FRAMING for name, _ in fields):
        return None
    told = b"content-length: %d\r\n" % length
    found = [value for name, value in fields if name == b"content-length"]
    if found:
        if found != [told[16:-2]]:
            return None
        told = b""
    return b"%b%b%b%b\r\n%b" % (line, lines, told, date, body)


if TYPE_CHECKING:
    join_fields, join_response = pure_join_fields, pure_join_response
else:
    try:
        from ._speedups import join_fields, join_response
    except ImportError:
        join_fields, join_response = pure_join_fields, pure_join_response


@functools.lru_cache(maxsize=256)
def encode_status_line(status: int, reason: str | None = None) -> bytes:
    """
    Return the first line of a response.

    Raises:
        LocalProtocolError: If it would not be one well-formed line.

    """
    if not 100 <= status <= 999:
        raise LocalProtocolError(f"{status} is not a status", 500)
    if reason is None:
        known = status in http.HTTPStatus._value2member_map_
        reason = http.HTTPStatus(status).phrase if known else ""
    if not reason.isascii() or not (reason.isprintable()):
        raise LocalProtocolError("the reason phrase has control characters", 500)
    return b"HTTP/1.1 %d %b\r\n" % (status, reason.encode())


def encode_chunk(data: bytes) -> bytes:
    """Return a chunk; nothing for no data, since that would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def http_date(seconds: float) -> bytes:
    """
    Return a time as HTTP writes it (RFC 9110, section 5.6.7).

    Args:
        seconds: Since the epoch.

    """
    when = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return b"%b, %02d %b %d %02d:%02d:%02d GMT" % (
        _DAYS[when.weekday()],
        when.day,
        _MONTHS[when.month - 1],
        when.year,
        when.hour,
        when.minute,
        when.second,
    )
