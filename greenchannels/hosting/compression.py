"""
Compressed responses (RFC 9110, section 8.4), by a middleware.

It sees GSGI events alone, so it stands around views, WSGI applications, files and
consumers alike. Compressing is work for the processor, and is done in the hub's
thread: in slices of about a millisecond, with a turn of the hub between two. A pool
of threads would cost each response two switches between threads, and win only where
other cores are idle: further workers are what uses those.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fnmatch import translate

import gevent

from ..errors import ConfigurationError, LocalProtocolError
from ..types import Consumer, Event, Receive, Scope, Send
from .codings import wanted_codings
from .compressors import Compressor, find_compressors

#: Bytes of a body below which compressing costs more than it saves.
MIN_SIZE = 1024

#: Bytes compressed in one go: a millisecond.
SLICE = 32 * 1024

#: Seconds to sleep between slices: zero would run other greenlets, but no I/O.
PAUSE = 1e-6

#: Bytes of a body up to which it is sent as one, with its Content-Length.
WHOLE = 256 * 1024

#: What shrinks; ``*`` stands for anything. An event stream is none of "text/*".
TYPES = (
    *("text/*", "*+json", "*+xml", "*+text", "application/json", "application/xml"),
    *("application/javascript", "application/x-javascript", "application/wasm"),
    *("application/x-ndjson", "application/x-sh", "application/x-tar"),
    *("font/ttf", "font/otf", "image/bmp", "image/x-icon", "image/vnd.microsoft.icon"),
)

EVENT_STREAM = "text/event-stream"

#: Statuses without a body, or with a part of one.
UNTOUCHED = frozenset({204, 205, 206, 304})

#: Extensions by which a body would pass by unseen.
BYPASSES = frozenset({"http.response.zerocopysend", "http.response.pathsend"})

#: Fields whose values hold for the bytes as they are.
_DIGESTS = frozenset((b"content-digest", b"repr-digest", b"digest", b"content-md5"))

_NO_IDENTITY = re.compile(
    rb"(?:^|,)[ \t]*(identity|\*)[ \t]*;[ \t]*q=0(?:\.0*)?[ \t]*(?=,|$)", re.IGNORECASE
)
_IDENTITY = re.compile(rb"(?:^|,)[ \t]*identity[ \t]*(?:[;,]|$)", re.IGNORECASE)

Headers = list[tuple[bytes, bytes]]


class Compression:
    """
    A middleware that compresses HTTP responses, for clients that want it.

    It takes gzip, and brotli if the package ``brotli`` is installed. It leaves
    alone what is small, does not shrink, is compressed already, is a part of
    something, or says ``Cache-Control: no-transform``. Strong ETags become weak,
    since the bytes are others (section 8.8.3.3). ``send`` blocks as long as
    compressing takes, in slices; other greenlets run meanwhile.

    Read about BREACH in ``docs/http.md`` before compressing pages that hold both
    secrets and what a request sent.

    Args:
        min_size: Bytes below which nothing is compressed.
        types: Content types that shrink; ``*`` stands for anything.
        streams: Compress responses of unknown length as well, and send each
            piece at once. For event streams ``types`` must name
            "text/event-stream" too.

    Raises:
        ConfigurationError: If ``min_size`` is negative or ``types`` a str.

    """

    def __init__(
        self,
        *,
        min_size: int = MIN_SIZE,
        types: Iterable[str] = TYPES,
        streams: bool = False,
    ) -> None:
        if min_size < 0:
            raise ConfigurationError(f"min_size must not be negative, not {min_size}")
        if isinstance(types, str):
            raise ConfigurationError(f"types is a list, as [{types!r}]")
        self.min_size = min_size
        self.streams = streams
        names = [each.lower() for each in types]
        self._event_streams = EVENT_STREAM in names
        self._types = re.compile("|".join(map(translate, names)) or r"(?!)")
        self.compressors = find_compressors()

    def __call__(self, inner: Consumer) -> Consumer:
        """Return ``inner`` with its HTTP responses compressed."""

        def consumer(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                send = Outgoing(self, scope, send).send
                scope = _without_bypasses(scope)
            inner(scope, receive, send)

        return consumer

    def choose(self, accepted: bytes | None) -> str | None:
        """Return the coding that ``Accept-Encoding`` asks for, or ``None``."""
        for name in wanted_codings(accepted):
            if name in self.compressors:
                return name
        return None

    def takes(self, content_type: bytes, *, is_required: bool) -> bool:
        """
        Return whether bodies of a type are compressed.

        Args:
            content_type: The field's value.
            is_required: Whether the client takes nothing else.

        """
        name = content_type.partition(b";")[0].strip().lower().decode("latin-1")
        if name == EVENT_STREAM:
            return self._event_streams
        return is_required or self._types.fullmatch(name) is not None


def _without_bypasses(scope: Scope) -> Scope:
    extensions = scope.get("extensions") or {}
    if BYPASSES.isdisjoint(extensions):
        return scope
    kept = {name: each for name, each in extensions.items() if name not in BYPASSES}
    return {**scope, "extensions": kept}


def refuses_identity(accepted: bytes) -> bool:
    """Return whether a client takes no response that is not encoded."""
    names = {match[1].lower() for match in _NO_IDENTITY.finditer(accepted)}
    return b"identity" in names or (b"*" in names and not _IDENTITY.search(accepted))


class Outgoing:
    """
    One response on its way: its head is kept until the body says what it is.

    Args:
        compression: What the middleware was told.
        scope: Of the request.
        send: Takes the events.

    """

    def __init__(self, compression: Compression, scope: Scope, send: Send) -> None:
        values = [v for n, v in scope["headers"] if n == b"accept-encoding"]
        accepted = b",".join(values) if values else None
        self._compression = compression
        self._coding = compression.choose(accepted)
        self._is_required = accepted is not None and refuses_identity(accepted)
        self._is_head = scope["method"] == "HEAD"
        self._held = [v for n, v in scope["headers"] if n == b"if-none-match"]
        self._send = send
        self._start: Event | None = None
        self._compressor: Compressor | None = None
        self._is_live = False
        #: Bytes compressed since the hub had a turn.
        self._since_pause = 0
        #: Body bytes that the consumer's Content-Length still promises.
        self._left: int | None = None

    def send(self, event: Event) -> None:
        """Take an event of the consumer's; blocks while it is compressed."""
        kind = event["type"]
        if kind == "http.response.start":
            self._start = event
        elif kind != "http.response.body":
            self._give_up()
            self._send(event)
        else:
            if self._start is not None:
                self._begin(event)
            if self._compressor is None:
                self._send(event)
            else:
                self._send_compressed(event)

    def _give_up(self) -> None:
        """Let the head go as it is."""
        if self._start is not None:
            start, self._start = self._start, None
            self._send(start)

    # The head.

    def _begin(self, event: Event) -> None:
        """Decide, now that the body begins, and send the head."""
        start = self._start
        assert start is not None
        headers = [(bytes(n).lower(), bytes(v)) for n, v in start.get("headers", ())]
        size = self._left = _content_length(headers)
        if size is None and not event.get("more_body", False):
            data = event.get("body", b"")
            # Who answers HEAD need not make the body to say how long it is.
            size = len(data) if data or not self._is_head else None
        if start["status"] == 304:
            headers = self._as_held(headers)
        elif not self._may_vary(start["status"], headers) or self._is_too_small(size):
            pass
        elif self._coding is None:
            headers = _merge_vary(headers)
        else:
            self._is_live = size is None
            maker = self._compression.compressors[self._coding]
            self._compressor = maker(self._is_live)
            headers = _encoded_headers(headers, self._coding)
        self._start = {**start, "headers": headers}
        if self._compressor is None:
            self._give_up()

    def _may_vary(self, status: int, headers: Headers) -> bool:
        """Return whether some client would get this response compressed."""
        names = {name for name, _ in headers}
        if status < 200 or status in UNTOUCHED or names & _DIGESTS:
            return False
        if b"content-encoding" in names or _is_not_to_be_transformed(headers):
            return False
        found = [value for name, value in headers if name == b"content-type"]
        content_type = found[-1] if found else b""
        return self._compression.takes(content_type, is_required=self._is_required)

    def _is_too_small(self, size: int | None) -> bool:
        """Return whether the size, or that nobody knows it, forbids it."""
        if size is None:
            return not self._compression.streams
        return size < self._compression.min_size and not self._is_required

    def _as_held(self, headers: Headers) -> Headers:
        """Return the head of a 304 with the weak ETag that the client has of us."""
        held = b",".join(self._held)
        for i, (name, value) in enumerate(headers):
            if name == b"etag" and b"W/" + value in held:
                return _merge_vary(
                    [*headers[:i], (name, b"W/" + value), *headers[i + 1 :]]
                )
        return headers

    # The body.

    def _send_compressed(self, event: Event) -> None:
        data, more = event.get("body", b""), event.get("more_body", False)
        self._count(len(data), more)
        if self._is_head:
            self._send_head(event, more)
        elif self._start is not None and not more and self._fits(data):
            body = b"".join(self._pieces(data, more))
            assert self._start is not None
            length = (b"content-length", b"%d" % len(body))
            self._start["headers"].append(length)
            self._give_up()
            self._send({**event, "body": body})
        else:
            self._give_up()
            if not data and more:
                self._send(event)  # somebody wants the head to go
            for piece in self._pieces(data, more):
                self._send({**event, "body": piece, "more_body": True})
            if not more:
                self._send({**event, "body": b""})

    def _fits(self, data: bytes) -> bool:
        """Whether a whole body can be sent as one, with its length."""
        assert self._start is not None
        return len(data) <= WHOLE and not self._start.get("trailers", False)

    def _send_head(self, event: Event, more: bool) -> None:
        """Send what a GET's response would begin with; its length is not known."""
        if self._start is not None:
            self._give_up()
            self._send({**event, "body": b"", "more_body": True})
        if not more:
            self._send({**event, "body": b""})

    def _pieces(self, data: bytes, more: bool) -> Iterator[bytes]:
        """Yield what ``data`` becomes, slice by slice."""
        compressor = self._compressor
        assert compressor is not None
        view = memoryview(data)
        for start in range(0, len(data), SLICE):
            if self._since_pause >= SLICE:
                self._since_pause = 0
                gevent.sleep(PAUSE)
            part = view[start : start + SLICE]
            self._since_pause += len(part)
            piece = compressor.compress(part)
            if piece:
                yield piece
        if not more:
            yield compressor.finish()
        elif self._is_live and data:
            yield compressor.flush()

    def _count(self, size: int, more: bool) -> None:
        """Check the Content-Length, which the server does not see."""
        if self._left is None or self._is_head:
            return
        self._left -= size
        if self._left < 0 or (self._left and not more):
            raise LocalProtocolError("the body is not as long as Content-Length", 500)


def _content_length(headers: Headers) -> int | None:
    found = [value for name, value in headers if name == b"content-length"]
    return int(found[0]) if found else None


def _is_not_to_be_transformed(headers: Headers) -> bool:
    values = [value for name, value in headers if name == b"cache-control"]
    return b"no-transform" in b",".join(values).lower()


def _merge_vary(headers: Headers) -> Headers:
    """Return ``headers`` with Accept-Encoding in Vary (section 12.5.5)."""
    values = [value for name, value in headers if name == b"vary"]
    elements = [each.strip() for each in b",".join(values).split(b",") if each.strip()]
    if any(each.lower() in (b"*", b"accept-encoding") for each in elements):
        return headers
    vary = (b"vary", b", ".join([*elements, b"Accept-Encoding"]))
    return [*(field for field in headers if field[0] != b"vary"), vary]


def _encoded_headers(headers: Headers, coding: str) -> Headers:
    """Return the head of the compressed response."""
    kept: Headers = []
    for name, value in headers:
        if name == b"etag" and not value.startswith(b"W/"):
            value = b"W/" + value
        # A range would be one of other bytes than these.
        if name not in (b"content-length", b"accept-ranges"):
            kept.append((name, value))
    return [*_merge_vary(kept), (b"content-encoding", coding.encode())]
