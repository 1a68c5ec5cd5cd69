"""
The grammar of HTTP that several modules check against (RFC 9110, section 5).

The patterns accept what the RFCs say and nothing more: recipients that repair a
malformed message, each in its own way, make request smuggling possible.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias

from ..errors import LocalProtocolError

Headers = Iterable[tuple[bytes, bytes]]

#: Values by the name of their field: one list for each name, one value a line.
Fields: TypeAlias = dict[bytes, list[bytes]]

#: Method, target, whether the version is 1.1 (else 1.0), the fields as they came,
#: the values of those that were asked for, whether a name has an underscore.
Head: TypeAlias = tuple[str, bytes, bool, list[tuple[bytes, bytes]], Fields, bool]

#: One character of a token (section 5.6.2).
TOKEN_CHARACTER = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"

#: What a value is made of (section 5.5), but for 0x85: whoever reads it as Latin-1
#: has a line break there (NEL). UTF-8 uses that byte too, and loses it.
VALUE_CHARACTERS = rb"\t\x20-\x7e\x80-\x84\x86-\xff"

#: A field line with its end; obsolete folding is not part of it (section 5.5).
FIELD_LINE = TOKEN_CHARACTER + rb"++:[%b]*+\r\n" % VALUE_CHARACTERS

#: Method, target (RFC 3986, without a fragment) and the version's name.
START = TOKEN_CHARACTER + rb"++ [\x21\x22\x24-\x7e]++ HTTP/"

#: A request line with its end (RFC 9112, section 3).
REQUEST_LINE = START + rb"1\.[01]\r\n"

_REQUEST_LINE = re.compile(REQUEST_LINE)
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


def pure_read_head(head: bytes, known: frozenset[bytes], /) -> Head | None:
    """
    Take a request's head apart.

    Args:
        head: From the request line to the empty line.
        known: The fields whose values are wanted by name.

    Returns:
        Its parts, or ``None`` if a line is malformed.

    """
    line = _REQUEST_LINE.match(head)
    headers = None if line is None else pure_read_fields(head, line.end())
    if line is None or headers is None:
        return None
    method, target, version = line[0].split(b" ")
    fields: Fields = {}
    for name, value in headers:
        if name in known:
            fields.setdefault(name, []).append(value)
    is_1_1 = version == b"HTTP/1.1\r\n"
    underscored = any(b"_" in name for name, _ in headers)
    return method.decode(), target, is_1_1, headers, fields, underscored


if TYPE_CHECKING:
    from ._speedups import read_fields as read_fields
    from ._speedups import read_head as read_head
else:
    try:
        from ._speedups import read_fields, read_head
    except ImportError:
        read_fields, read_head = pure_read_fields, pure_read_head
