"""
The grammar of HTTP that several modules check against (RFC 9110, section 5).

The patterns accept what the RFCs say and nothing more: recipients that repair a
malformed message, each in its own way, make request smuggling possible.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..errors import LocalProtocolError

Headers = Iterable[tuple[bytes, bytes]]

#: One character of a token (section 5.6.2).
TOKEN_CHARACTER = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"

#: A field line with its end; obsolete folding is not part of it (section 5.5).
FIELD_LINE = TOKEN_CHARACTER + rb"++:[\t\x20-\x7e\x80-\xff]*+\r\n"

_FIELDS = re.compile(rb"(?:%b)*+\r\n" % FIELD_LINE)
_FIELD = re.compile(rb"([^:\r]++):([^\r]*+)\r\n")

TOKEN = re.compile(TOKEN_CHARACTER + rb"++")
_NOT_TOKEN = re.compile(rb"[^!#$%&'*+\-.^_`|~0-9A-Za-z]")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def check_headers(headers: list[tuple[bytes, bytes]]) -> None:
    """
    Check names and values that are to be sent.

    Raises:
        LocalProtocolError: If a name is not a token or a value has control
            characters, line breaks above all.

    """
    # Both rules are about single characters, so one look at all of them will do.
    names = [name for name, _ in headers]
    if not all(names) or _NOT_TOKEN.search(b"".join(names)):
        raise LocalProtocolError("a header's name is not a token", 500)
    if _CONTROL.search(b"".join([value for _, value in headers])):
        raise LocalProtocolError("a header's value has control characters", 500)


def read_list(values: Iterable[bytes]) -> list[bytes]:
    """
    Return the elements of a comma-separated field.

    Empty elements are left out (section 5.6.1.2). Not for fields whose elements
    may hold quoted commas.

    Args:
        values: The values of all its lines.

    """
    elements = [each.strip(b" \t") for each in b",".join(values).split(b",")]
    return [each for each in elements if each]


def pure_read_fields(head: bytes, start: int, /) -> list[tuple[bytes, bytes]] | None:
    """
    Return the fields of a head, names in lower case, values without blanks around.

    Args:
        head: A head, with the empty line that ends it.
        start: Where its first field line begins.

    Returns:
        The fields, or ``None`` if a line is malformed.

    Raises:
        ValueError: If ``start`` is outside of ``head``.

    """
    if not 0 <= start <= len(head):
        raise ValueError("start is outside of the head")
    if _FIELDS.fullmatch(head, start) is None:
        return None
    fields = _FIELD.findall(head, start)
    return [(name.lower(), value.strip(b" \t")) for name, value in fields]


if TYPE_CHECKING:
    from ._speedups import read_fields as read_fields
else:
    try:
        from ._speedups import read_fields
    except ImportError:
        read_fields = pure_read_fields
