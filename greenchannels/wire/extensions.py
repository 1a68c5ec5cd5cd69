"""
The field that negotiates extensions: Sec-WebSocket-Extensions (RFC 6455, 9.1).

Only its grammar; what an extension and its parameters mean is the business of that
extension's own module, as ``deflate.py``.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from ..errors import RemoteProtocolError
from .grammar import TOKEN_CHARACTER

#: Longest value, in bytes, that is remembered.
MAX_USUAL = 256

#: Blanks may stand around separators: RFC 2616, whose notation section 9.1 uses, has
#: them implied (its section 2.1).
_BLANKS = rb"[ \t]*+"
_TOKEN = rb"%b++" % TOKEN_CHARACTER
#: What is quoted must be a token as well, once its escapes have been taken out.
_QUOTED = rb'"(?:\\?%b)++"' % TOKEN_CHARACTER
_VALUE = rb"=%b(?:%b|%b)%b" % (_BLANKS, _TOKEN, _QUOTED, _BLANKS)
_PARAMETER = rb";%b%b%b(?:%b)?+" % (_BLANKS, _TOKEN, _BLANKS, _VALUE)
_EXTENSION = rb"%b(%b)%b((?:%b)*+)" % (_BLANKS, _TOKEN, _BLANKS, _PARAMETER)

#: An element of the list, which may be empty (RFC 2616, section 2.1), and its end.
_ELEMENT = re.compile(rb"(?:%b|%b)(?:,|\Z)" % (_EXTENSION, _BLANKS))

#: A parameter of what is known to be well-formed.
_PARAMETERS = re.compile(rb";[ \t]*([^;= \t]+)[ \t]*(?:=[ \t]*([^; \t]+))?")


@dataclass(frozen=True, slots=True)
class Extension:
    """
    An extension that is offered.

    Attributes:
        name: Its name, as it came.
        parameters: Names and values, in order; a value may be ``None``.

    """

    name: str
    parameters: tuple[tuple[str, str | None], ...] = ()


def read_extensions(values: list[bytes]) -> tuple[Extension, ...]:
    """
    Return the extensions that a client offers, best first.

    Args:
        values: The values of all its lines, at least one.

    Raises:
        RemoteProtocolError: 400, if they break the grammar or name none.

    """
    value = b",".join(values)
    return _read_usual(value) if len(value) <= MAX_USUAL else _read(value)


def _read(value: bytes) -> tuple[Extension, ...]:
    found: list[Extension] = []
    end = 0
    while end < len(value):
        match = _ELEMENT.match(value, end)
        if match is None:
            raise RemoteProtocolError("Sec-WebSocket-Extensions is malformed", 400)
        end = match.end()
        if match[1] is not None:
            found.append(Extension(match[1].decode(), _read_parameters(match[2])))
    if not found:
        raise RemoteProtocolError("Sec-WebSocket-Extensions is malformed", 400)
    return tuple(found)


#: Browsers all say the same, and so do most programs.
_read_usual = functools.lru_cache(maxsize=64)(_read)


def _read_parameters(text: bytes) -> tuple[tuple[str, str | None], ...]:
    return tuple(
        (name.decode(), re.sub(rb'[\\"]', b"", value).decode() if value else None)
        for name, value in _PARAMETERS.findall(text)
    )
