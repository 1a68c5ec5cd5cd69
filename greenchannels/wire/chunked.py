"""
The chunked transfer coding (RFC 9112, section 7.1), as bytes arrive.

llhttp decodes chunks too, but httptools does not tell where a chunked body ends
within its input; to a parser that looks at the next request before llhttp does,
that is the one thing that matters. Extensions are checked and ignored. Trailers are
kept apart from the headers, those that must not be believed there are dropped
(RFC 9110, section 6.5.1), and those that would say where the body ends are refused.
"""

from __future__ import annotations

import enum
import re

from ..errors import RemoteProtocolError
from .field_names import FRAMING, is_meaningful
from .grammar import TOKEN_CHARACTER, VALUE_CHARACTERS, read_fields

#: Longest line with a chunk's size and extensions, in bytes. The latter are
#: hardly ever used.
MAX_SIZE_LINE = 256

_QUOTED = rb'"(?:(?!["\\])[%b]|\\[%b])*+"' % (VALUE_CHARACTERS, VALUE_CHARACTERS)
_EXTENSION = rb";%b++(?:=(?:%b++|%b))?" % (TOKEN_CHARACTER, TOKEN_CHARACTER, _QUOTED)
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:%b)*+\r\n" % _EXTENSION)


class _State(enum.Enum):
    """What comes next."""

    SIZE = "a chunk's size"
    DATA = "a chunk's data"
    DATA_END = "the line break behind it"
    TRAILERS = "trailers or the empty line that ends them"
    DONE = "nothing"


class ChunkedDecoder:
    """
    Take the chunks off a body.

    Args:
        max_body: Longest body, in bytes (413 as soon as a size announces more).
        max_trailers: Longest trailers, in bytes (431).
        max_fields: Most of them (431).

    Attributes:
        trailers: What is behind the last chunk; names in lower case.

    """

    __slots__ = (
        "_fields_left",
        "_line",
        "_max_body",
        "_max_trailers",
        "_remaining",
        "_state",
        "trailers",
    )

    def __init__(
        self, max_body: int | None, max_trailers: int | None, max_fields: int | None
    ) -> None:
        self._max_body = max_body
        self._max_trailers = max_trailers
        self._fields_left = max_fields
        self.trailers: list[tuple[bytes, bytes]] = []
        self._state = _State.SIZE
        self._line = b""  # an incomplete line
        self._remaining = 0  # of the current chunk

    @property
    def done(self) -> bool:
        """Whether the body has come to its end."""
        return self._state is _State.DONE

    @property
    def left(self) -> int:
        """Bytes that the current chunk still lacks."""
        return self._remaining

    def receive_data(self, data: bytes, pieces: list[bytes]) -> bytes:
        """
        Decode ``data``; return what is behind the end of the body.

        Args:
            data: The next bytes.
            pieces: Where the pieces of the body are added.

        Raises:
            RemoteProtocolError: 400, 413 or 431. The pieces before it have been
                added.

        """
        while data and self._state is not _State.DONE:
            if self._state is _State.DATA:
                data = self._read_data(data, pieces)
            elif self._state is _State.DATA_END:
                data = self._read_data_end(data)
            elif self._state is _State.SIZE:
                data = self._read_size(data)
            else:
                data = self._read_trailer(data)
        return data

    def _read_line(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the line, up to what has come of it, and what is behind it."""
        end = data.find(b"\n") + 1 or len(data)
        line = self._line + data[:end]
        self._line = b"" if line.endswith(b"\n") else line
        return line, data[end:]

    def _read_size(self, data: bytes) -> bytes:
        line, rest = self._read_line(data)
        if len(line) > MAX_SIZE_LINE:
            raise RemoteProtocolError("a chunk's size line is too long", 400)
        if self._line:
            return rest
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise RemoteProtocolError("malformed chunk size", 400)
        size = int(match[1], 16)
        if self._max_body is not None:
            self._max_body -= size
            if self._max_body < 0:
                raise RemoteProtocolError("the body is too big", 413)
        self._remaining = size
        self._state = _State.DATA if size else _State.TRAILERS
        return rest

    def _read_data(self, data: bytes, pieces: list[bytes]) -> bytes:
        piece = data[: self._remaining]
        pieces.append(piece)
        self._remaining -= len(piece)
        if self._remaining == 0:
            self._state = _State.DATA_END
        return data[len(piece) :]

    def _read_data_end(self, data: bytes) -> bytes:
        size = 2 - len(self._line)
        self._line += data[:size]
        if not b"\r\n".startswith(self._line):
            raise RemoteProtocolError("a chunk is longer than its size", 400)
        if len(self._line) == 2:
            self._line = b""
            self._state = _State.SIZE
        return data[size:]

    def _read_trailer(self, data: bytes) -> bytes:
        line, rest = self._read_line(data)
        if self._max_trailers is not None and len(line) > self._max_trailers:
            raise RemoteProtocolError("the trailers are too long", 431)
        if self._line:
            return rest
        if line == b"\r\n":
            self._state = _State.DONE
        else:
            self._add_trailer(line)
        return rest

    def _add_trailer(self, line: bytes) -> None:
        fields = read_fields(line + b"\r\n", 0)
        if fields is None:
            raise RemoteProtocolError("malformed trailer", 400)
        if self._max_trailers is not None:
            self._max_trailers -= len(line)
        if self._fields_left is not None:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise RemoteProtocolError("too many trailers", 431)
        name = fields[0][0]
        if name.replace(b"_", b"-") in FRAMING:
            raise RemoteProtocolError("a trailer cannot say where the body ends", 400)
        if not is_meaningful(name):
            self.trailers += fields
