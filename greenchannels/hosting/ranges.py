"""
Ranges of bytes: what a Range field asks for, and answers in several parts.

Source: RFC 9110, section 14. Where the RFC leaves a choice: malformed ranges, more
than ``MAX_RANGES``, and all ranges of what is empty are ignored, so that the whole is
sent with 200; ranges that overlap or touch each other are joined.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import TypeAlias

#: Ranges that are answered in parts; a request with more gets the whole.
MAX_RANGES = 16

#: More digits make no length, and a longer field no ranges.
_MAX_DIGITS = 100
_MAX_LENGTH = 4096

_NUMBER = rb"[0-9]{1,%d}+" % _MAX_DIGITS
_RANGE = re.compile(rb"(%b)-(%b)?|-(%b)" % (_NUMBER, _NUMBER, _NUMBER))

#: First byte, and one behind the last.
Range: TypeAlias = tuple[int, int]


def read_ranges(value: bytes, size: int) -> list[Range] | None:
    """
    Return what a Range field asks for.

    Args:
        value: Of the field.
        size: Of the representation, in bytes.

    Returns:
        The ranges that there are, within ``size``: in the order asked for, or in
        that of the bytes if some have been joined; none of them if they cannot be
        satisfied; ``None`` if the field is to be ignored.

    """
    unit, equals, ranges = value.partition(b"=")
    if unit.lower() != b"bytes" or not equals or not size or len(value) > _MAX_LENGTH:
        return None
    asked = [text for each in ranges.split(b",") if (text := each.strip(b" \t"))]
    if not 0 < len(asked) <= MAX_RANGES:
        return None
    found = []
    for text in asked:
        match = _RANGE.fullmatch(text)
        if match is None:
            return None
        first, last, suffix = match.groups()
        if suffix is not None:
            start, stop = max(size - int(suffix), 0), size
        else:
            start, stop = int(first), size if last is None else int(last) + 1
            if stop <= start and last is not None:
                return None
        if start < size:
            found.append((start, min(stop, size)))
    return _joined(found)


def _joined(ranges: list[Range]) -> list[Range]:
    """Return ``ranges`` with those joined that overlap or touch each other."""
    joined: list[Range] = []
    for start, stop in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], stop))
        else:
            joined.append((start, stop))
    return ranges if len(joined) == len(ranges) else joined


def content_range(part: Range, size: int) -> bytes:
    """Return the value of Content-Range (section 14.4)."""
    return b"bytes %d-%d/%d" % (part[0], part[1] - 1, size)


@dataclass(frozen=True, slots=True)
class Multipart:
    """
    A body of type multipart/byteranges (section 14.6).

    Attributes:
        content_type: Of the whole.
        length: Of the whole, in bytes.
        parts: What comes before each range, and the range.
        end: What comes behind the last.

    """

    content_type: bytes
    length: int
    parts: list[tuple[bytes, Range]]
    end: bytes


def make_multipart(ranges: list[Range], size: int, content_type: bytes) -> Multipart:
    """
    Return the frame of an answer with several ranges.

    Args:
        ranges: What is answered.
        size: Of the representation, in bytes.
        content_type: Of the representation.

    """
    # Nobody can put into a file what is decided upon only now.
    boundary = secrets.token_hex(16).encode()
    parts = [
        (
            b"\r\n--%b\r\ncontent-type: %b\r\ncontent-range: %b\r\n\r\n"
            % (boundary, content_type, content_range(each, size)),
            each,
        )
        for each in ranges
    ]
    end = b"\r\n--%b--\r\n" % boundary
    length = sum(len(head) + stop - start for head, (start, stop) in parts) + len(end)
    kind = b"multipart/byteranges; boundary=" + boundary
    return Multipart(kind, length, parts, end)
