"""
HTTP/1.1 in the server's role: bytes in, requests out, and back (RFC 9112).

Two parsers read each head. Our grammar says whether it is what the RFCs allow, to
the letter, and takes it apart; llhttp, through httptools, reads it as well and has
to accept it and to agree on whether a body follows. Where a body ends is counted
here, so that the next request's head is checked before llhttp sees it.

Deviations, all to the strict side: one request line and field per CRLF, a bare LF
or CR is refused (RFC 9112, section 2.2, would allow to recognize the former), as
are obsolete folding, transfer codings other than chunked, and repeated
Content-Length fields even if they are the same.

What comes does not depend on how the bytes were cut: nothing is checked before
its line, or the limit, has been reached.
"""

from __future__ import annotations

import enum
import re
import sys
from dataclasses import dataclass
from typing import TypeAlias

import httptools

from ..errors import RemoteProtocolError
from ..options import HTTPLimits
from .chunked import ChunkedDecoder
from .grammar import FIELD_LINE, TOKEN_CHARACTER, read_fields
from .request import Request, parse_headers, read_request
from .response import LAST_CHUNK, encode_chunk, encode_head, http_date

__all__ = [
    "LAST_CHUNK",
    "BodyChunk",
    "Event",
    "Request",
    "RequestEnd",
    "RequestParser",
    "State",
    "encode_chunk",
    "encode_head",
    "http_date",
    "parse_headers",
]

#: Method, target (RFC 3986, without a fragment) and version.
_START = TOKEN_CHARACTER + rb"++ [\x21\x22\x24-\x7e]++ HTTP/"
_REQUEST_LINE = _START + rb"1\.[01]\r\n"
_ANY_VERSION = re.compile(_START + rb"[0-9]\.[0-9]\r\n")
_GOOD_REQUEST_LINE = re.compile(_REQUEST_LINE)
_GOOD_FIELD_LINE = re.compile(FIELD_LINE)


@dataclass(frozen=True, slots=True)
class BodyChunk:
    """A piece of a request's body; never empty."""

    data: bytes


@dataclass(frozen=True, slots=True)
class RequestEnd:
    """The request is complete. Does not follow one that asks for an upgrade."""


Event: TypeAlias = Request | BodyChunk | RequestEnd


class State(enum.StrEnum):
    """What a parser takes input for."""

    HEAD = "head"
    BODY = "body"
    CHUNKS = "chunked body"
    #: A request asked for another protocol: input is ``trailing``.
    UPGRADED = "upgraded"
    #: The connection ends after this request: input is ignored.
    ENDED = "ended"
    #: The peer broke a rule: input is ignored.
    FAILED = "failed"


#: Where each state may lead.
NEXT_STATES: dict[State, frozenset[State]] = {
    State.HEAD: frozenset(State),
    State.BODY: frozenset((State.BODY, State.HEAD, State.ENDED)),
    State.CHUNKS: frozenset((State.CHUNKS, State.HEAD, State.ENDED, State.FAILED)),
    State.UPGRADED: frozenset(),
    State.ENDED: frozenset(),
    State.FAILED: frozenset(),
}


class _Collector:
    """What llhttp calls. Does not know its parser: a cycle would outlive both."""

    __slots__ = ("complete",)

    def __init__(self) -> None:
        self.complete = False

    def on_message_complete(self) -> None:
        self.complete = True


class RequestParser:
    """
    Turn bytes, however they are cut, into requests.

    Args:
        limits: Sizes and counts. A limit on the head applies while the head is
            still incomplete, one on the body as soon as its length is announced.

    Attributes:
        state: What input is taken for. To be read only.
        error: ``None``, or how the peer broke a rule; ``hint`` is the status to
            answer. To be read only.
        trailing: What came behind a request that asks for an upgrade.

    """

    __slots__ = (
        "_buffer",
        "_checked",
        "_chunks",
        "_collector",
        "_keep_alive",
        "_limits",
        "_lines",
        "_llhttp",
        "_max_head",
        "_max_headers",
        "_max_line",
        "_remaining",
        "_searched",
        "_skipped",
        "error",
        "state",
        "trailing",
    )

    def __init__(self, limits: HTTPLimits) -> None:
        self.state = State.HEAD
        self.error: RemoteProtocolError | None = None
        self.trailing = b""
        self._limits = limits
        self._max_head = _or_no_limit(limits.max_head)
        self._max_headers = _or_no_limit(limits.max_headers)
        # Without a limit of its own a request line may fill the head.
        self._max_line = min(_or_no_limit(limits.max_request_line), self._max_head)
        self._keep_alive = True
        self._remaining = 0  # of a body with Content-Length
        self._chunks: ChunkedDecoder | None = None
        self._begin_head()
        self._start_llhttp()

    @property
    def in_head(self) -> bool:
        """Whether some bytes of a head have come, but not its end."""
        return self.state is State.HEAD and len(self._buffer) > 0

    def receive_data(self, data: bytes) -> list[Event]:
        """
        Take input; return what it completes, in order.

        Never raises for what a peer sends: if that breaks a rule, ``error`` is
        set, the events before it are returned, and all later input is ignored,
        as it is behind a request after which the connection ends.
        """
        events: list[Event] = []
        try:
            while data:
                data = self._read(data, events)
        except RemoteProtocolError as error:
            self.error = error
            self._buffer = bytearray()
            self._chunks = None
            self._advance(State.FAILED)
        return events

    def _read(self, data: bytes, events: list[Event]) -> bytes:
        """Take the beginning of ``data`` as the state says; return the rest."""
        if self.state is State.HEAD:
            return self._read_head(data, events)
        if self.state is State.BODY:
            return self._read_body(data, events)
        if self._chunks is not None:
            return self._read_chunks(data, self._chunks, events)
        if self.state is State.UPGRADED:
            self.trailing += data
        return b""

    def _advance(self, state: State) -> None:
        """Move to another state. The only writer of ``state``."""
        assert state in NEXT_STATES[self.state]
        self.state = state

    def _begin_head(self) -> None:
        """Be ready for the first byte of a head."""
        self._buffer = bytearray()  # an incomplete head
        self._searched = 0  # from where its end may be
        self._checked = 0  # lines before this are checked
        self._lines = 0  # so many of them
        self._skipped = False  # an empty line before the request line

    def _read_head(self, data: bytes, events: list[Event]) -> bytes:
        whole: bytes | bytearray = data
        if self._buffer:
            self._buffer += data
            whole = self._buffer
        if whole.startswith(b"\r\n") and not self._skipped:
            # One empty line before a request is ignored (section 2.2).
            self._begin_head()
            self._skipped = True
            return bytes(whole[2:])
        end = whole.find(b"\r\n\r\n", self._searched) + 4
        if end < 4:
            if not self._buffer:
                self._buffer += data
            self._check_lines(self._buffer)
            self._searched = max(0, len(whole) - 3)
            return b""
        head = bytes(whole[:end])
        line_end = head.index(b"\r\n") + 2
        headers = read_fields(head, line_end)
        if headers is None or not self._is_plain(head, line_end, len(headers)):
            self._check_lines(head)
            raise AssertionError("a malformed head has a malformed line")
        self._begin_head()
        self._begin_request(self._parse_head(head, headers), events)
        return bytes(whole[end:])

    def _is_plain(self, head: bytes, line_end: int, lines: int) -> bool:
        """Tell whether the request line is well-formed and no limit is exceeded."""
        return (
            _GOOD_REQUEST_LINE.fullmatch(head, 0, line_end) is not None
            and len(head) <= self._max_head
            and line_end - 2 <= self._max_line
            and lines <= self._max_headers
        )

    def _check_lines(self, data: bytes | bytearray) -> None:
        """Check the lines that are complete, and the limits on the one that is not."""
        while True:
            end = data.find(b"\n", max(self._checked, self._searched)) + 1
            size = end or len(data)
            if self._lines == 0 and size > self._max_line + 2:
                raise RemoteProtocolError("the request line is too long", 414)
            if self._lines > 0 and size > self._max_head:
                raise RemoteProtocolError("the head is too long", 431)
            if not end:
                return
            self._check_line(bytes(data[self._checked : end]))
            self._checked = end
            self._lines += 1

    def _check_line(self, line: bytes) -> None:
        if self._lines == 0:
            if not _GOOD_REQUEST_LINE.fullmatch(line):
                if _ANY_VERSION.fullmatch(line):
                    raise RemoteProtocolError("HTTP version is not supported", 505)
                raise RemoteProtocolError("malformed request line", 400)
        else:  # not the empty line: a head that has it and is well-formed is plain
            if self._lines > self._max_headers:
                raise RemoteProtocolError("too many header fields", 431)
            if not _GOOD_FIELD_LINE.fullmatch(line):
                raise RemoteProtocolError("malformed header field", 400)

    def _start_llhttp(self) -> None:
        self._collector = _Collector()
        self._llhttp = httptools.HttpRequestParser(self._collector)

    def _parse_head(self, head: bytes, headers: list[tuple[bytes, bytes]]) -> Request:
        """Say what a head means; llhttp has to agree on whether a body follows."""
        request = read_request(head, headers)
        plain = head
        if b"upgrade" in request.fields and (request.has_body or not request.upgrade):
            # It would take what follows for the other protocol, whichever that is.
            plain = _without_upgrade(head)
        self._collector.complete = False
        try:
            self._llhttp.feed_data(plain)
        except httptools.HttpParserInvalidMethodError:
            raise RemoteProtocolError("method is unknown", 501) from None
        except httptools.HttpParserUpgrade:
            pass  # a handshake: what follows is not for this parser
        except httptools.HttpParserError as error:
            raise RemoteProtocolError(f"malformed head: {error}", 400) from None
        if self._collector.complete == request.has_body:
            raise RemoteProtocolError("the end of the request is in doubt", 400)
        return request

    def _begin_request(self, request: Request, events: list[Event]) -> None:
        """Add a request to the events; expect its body."""
        length, max_body = request.content_length or 0, self._limits.max_body
        if max_body is not None and length > max_body:
            raise RemoteProtocolError("the body is too big", 413)
        events.append(request)
        self._keep_alive = request.keep_alive
        if request.upgrade:
            self._advance(State.UPGRADED)
        elif request.chunked:
            self._chunks = ChunkedDecoder(max_body, self._limits.max_head)
            self._advance(State.CHUNKS)
        elif length:
            self._remaining = length
            self._advance(State.BODY)
        else:
            self._end_request(events)

    def _end_request(self, events: list[Event]) -> None:
        events.append(RequestEnd())
        self._advance(State.HEAD if self._keep_alive else State.ENDED)

    def _read_body(self, data: bytes, events: list[Event]) -> bytes:
        piece = data[: self._remaining]
        self._llhttp.feed_data(piece)
        self._remaining -= len(piece)
        events.append(BodyChunk(piece))
        if self._remaining == 0:
            self._end_request(events)
        return data[len(piece) :]

    def _read_chunks(
        self, data: bytes, chunks: ChunkedDecoder, events: list[Event]
    ) -> bytes:
        pieces: list[bytes] = []
        try:
            data = chunks.receive_data(data, pieces)
        finally:
            events += map(BodyChunk, pieces)
        if chunks.done:
            self._llhttp.feed_data(LAST_CHUNK)  # which has not seen the others
            self._chunks = None
            self._end_request(events)
        return data


def _without_upgrade(head: bytes) -> bytes:
    """Return a well-formed head without its Upgrade fields."""
    lower, parts, start = head.lower(), [], 0
    while (line := lower.find(b"\r\nupgrade:", start)) >= 0:
        parts.append(head[start:line])
        start = lower.index(b"\r\n", line + 2)
    return b"".join([*parts, head[start:]])


def _or_no_limit(limit: int | None) -> int:
    return sys.maxsize if limit is None else limit
