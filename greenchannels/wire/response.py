"""
Responses as bytes: heads, chunks and dates (RFC 9110 and 9112).

What is sent is checked to be one head, whatever an application put into it. Which
fields a response needs, and whether it has a body, is the caller's business.
"""

from __future__ import annotations

import datetime
import functools
import http

from ..errors import LocalProtocolError
from .grammar import Headers, check_headers

#: Ends a chunked body.
LAST_CHUNK = b"0\r\n\r\n"

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
    fields = list(headers)
    check_headers(fields)
    line = _status_line(status, reason)
    return b"".join([line, *[b"%b: %b\r\n" % field for field in fields], b"\r\n"])


@functools.lru_cache(maxsize=256)
def _status_line(status: int, reason: str | None) -> bytes:
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
