"""
HTTP/1.1 in the server's role: bytes in, requests out, and back (RFC 9112).

Two parsers read each head. Our grammar says whether it is what the RFCs allow, to
the letter, and takes it apart; llhttp, through httptools, reads it as well and has
to accept it and to agree on whether a body follows. Where a body ends is counted
here, so that the next request's head is checked before llhttp sees it.

Deviations, all to the strict side: one request line and field per CRLF, a bare LF
or CR is refused (RFC 9112, section 2.2, would allow to recognize the former), as
are obsolete folding, transfer codings other than chunked, and repeated
Content-Length fields even if they are the same. docs/security.md has them all.

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
from .grammar import FIELD_LINE, REQUEST_LINE, START, Head, read_head
from .request import KNOWN, Request, parse_headers, read_request
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

_ANY_VERSION = re.compile(START + rb"[0-9]\.[0-9]\r\n")
_GOOD_REQUEST_LINE = re.compile(REQUEST_LINE)
_GOOD_FIELD_LINE = re.compile(FIELD_LINE)
_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class BodyChunk:
    """A piece of a request's body; never empty."""

    data: bytes


@dataclass(frozen=True, slots=True)
class RequestEnd:
    """
    The request is complete. Does not follow one that asks for an upgrade.

    Attributes:
        trailers: Fields behind a chunked body; names in lower case. None that are
            about framing, routing or authentication (RFC 9110, section 6.5.1).

    """

    trailers: tuple[tuple[bytes, bytes], ...] = ()


#: Of all requests without trailers.
_END = RequestEnd()

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


class _Callbacks:
    """What llhttp calls. Does not know its parser: a cycle would outlive both."""

    __slots__ = ("on_message_complete",)

    def __init__(self, incomplete: list[bool]) -> None:
        # Not even a frame is needed to note it.
        self.on_message_complete = incomplete.clear


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
        "_incomplete",
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

    @property
    def body_left(self) -> int:
        """Bytes that the body, or its current chunk, still lacks."""
        return self._remaining if self._chunks is None else self._chunks.left

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
                if self.state is State.HEAD:
                    data = self._read_head(data, events)
                else:
                    data = self._read(data, events)
        except RemoteProtocolError as error:
            self.error = error
            self._buffer = bytearray()
            self._chunks = None
            self._advance(State.FAILED)
        return events

    def _read(self, data: bytes, events: list[Event]) -> bytes:
        """Take the beginning of ``data`` as the state says; return the rest."""
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
        if self._buffer:
            self._buffer += data
            if self._buffer.find(_HEAD_END, self._searched) < 0:
                return self._check_buffer()
            data = bytes(self._buffer)
        end = data.find(_HEAD_END, self._searched) + 4
        if end < 4:
            self._buffer += data
            return self._check_buffer()
        head = data[:end]
        parts = read_head(head, KNOWN)
        if parts is None or not self._is_within_limits(end, parts):
            return self._refuse_head(data)
        if self._buffer or self._skipped:
            self._begin_head()
        self._begin_request(self._parse_head(head, parts), events)
        return data[end:]

    def _is_within_limits(self, size: int, parts: Head) -> bool:
        if size > self._max_line:  # else the line and the head are shorter, too
            line = len(parts[0]) + len(parts[1]) + len("  HTTP/1.1")
            if size > self._max_head or line > self._max_line:
                return False
        return len(parts[3]) <= self._max_headers

    def _refuse_head(self, data: bytes) -> bytes:
        """Find what is wrong, unless it is an empty line before a head."""
        self._buffer = bytearray(data)
        rest = self._check_buffer()
        if not rest:
            raise AssertionError("a malformed head has a malformed line")
        return rest

    def _check_buffer(self) -> bytes:
        """Check what has come of a head; return what is behind an empty line."""
        buffer = self._buffer
        if buffer.startswith(b"\r\n") and not self._skipped:
            # One empty line before a request is ignored (section 2.2).
            self._begin_head()
            self._skipped = True
            return bytes(buffer[2:])
        self._check_lines(buffer)
        self._searched = max(0, len(buffer) - 3)
        return b""

    def _check_lines(self, data: bytearray) -> None:
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
        #: Empty when llhttp has seen the end of a request.
        self._incomplete: list[bool] = []
        self._llhttp = httptools.HttpRequestParser(_Callbacks(self._incomplete))

    def _parse_head(self, head: bytes, parts: Head) -> Request:
        """Say what a head means; llhttp has to agree on whether a body follows."""
        request = read_request(head, parts)
        has_body = request.chunked or request.content_length or False
        plain = head
        if b"upgrade" in request.fields and (has_body or not request.upgrade):
            # It would take what follows for the other protocol, whichever that is.
            plain = _without_upgrade(head)
        self._incomplete.append(True)
        try:
            self._llhttp.feed_data(plain)
        except httptools.HttpParserInvalidMethodError:
            raise RemoteProtocolError("method is unknown", 501) from None
        except httptools.HttpParserUpgrade:
            pass  # a handshake: what follows is not for this parser
        except httptools.HttpParserError as error:
            raise RemoteProtocolError(f"malformed head: {error}", 400) from None
        if (not self._incomplete) == bool(has_body):
            raise RemoteProtocolError("the end of the request is in doubt", 400)
        return request

    def _begin_request(self, request: Request, events: list[Event]) -> None:
        """Add a request to the events; expect its body."""
        self._keep_alive = request.keep_alive
        length = request.content_length
        if not (length or request.chunked or request.upgrade):
            events.append(request)
            self._end_request(_END, events)
            return
        max_body = self._limits.max_body
        if max_body is not None and (length or 0) > max_body:
            raise RemoteProtocolError("the body is too big", 413)
        events.append(request)
        if request.upgrade:
            self._advance(State.UPGRADED)
        elif length:
            self._remaining = length
            self._advance(State.BODY)
        else:
            limits = self._limits
            self._chunks = ChunkedDecoder(max_body, limits.max_head, limits.max_headers)
            self._advance(State.CHUNKS)

    def _end_request(self, end: RequestEnd, events: list[Event]) -> None:
        events.append(end)
        if not self._keep_alive:
            self._advance(State.ENDED)
        elif self.state is not State.HEAD:
            self._advance(State.HEAD)

    def _read_body(self, data: bytes, events: list[Event]) -> bytes:
        piece = data[: self._remaining]
        self._llhttp.feed_data(piece)
        self._remaining -= len(piece)
        events.append(BodyChunk(piece))
        if self._remaining == 0:
            self._end_request(_END, events)
        return data[len(piece) :]

    def _read_chunks(
        self, data: bytes, chunks: ChunkedDecoder, events: list[Event]
    ) -> bytes:
        pieces: list[bytes] = []
        try:
            data = chunks.receive_data(data, pieces)
        finally:
            if pieces:
                whole = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                events.append(BodyChunk(whole))
        if chunks.done:
            self._llhttp.feed_data(LAST_CHUNK)  # which has not seen the others
            self._chunks = None
            trailers = chunks.trailers
            self._end_request(RequestEnd(tuple(trailers)) if trailers else _END, events)
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
