"""
Event streams: a view's answer that goes on (WHATWG HTML, section 9.2).

The request's own greenlet runs the source. While it is an iterable, a second one
watches the peer and sends heartbeats; the stream of a group has nothing else to
wait for, and does both itself.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from gevent import Greenlet

from ..errors import ConfigurationError
from ..groups import Group
from ..options import MIB
from ..text import printable
from ..types import Event, Receive, Scope, Send
from ..wire.sse import encode_event
from .events import encode_item, encoders_for
from .lines import TOO_SLOW, Feed, Line, StreamOver

if TYPE_CHECKING:
    from werkzeug.wrappers import Request

#: Seconds of silence before a comment, as the standard advises (section 9.2.7).
DEFAULT_HEARTBEAT = 15.0

#: Bytes from a group that wait for a peer before it is cut.
MAX_BUFFER = 1 * MIB

#: Fields of every stream's response; a view may say otherwise.
HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}

logger = logging.getLogger("greenchannels.stream")


def last_event_id(request: Request) -> str | None:
    """Return the id of the last event that a browser which comes back has had."""
    value: str = request.headers.get("Last-Event-ID", "")
    # UTF-8 (section 9.2.3), which WSGI hands on as Latin-1.
    return value.encode("latin-1", "replace").decode("utf-8", "replace") or None


class EventStream:
    """
    Server-sent events, as the answer of an ``http`` view.

    Each item of ``source`` is an event: a str, a dict or list as JSON, or a
    ``ServerSentEvent``; ``None`` is none. A ``Group`` sends all that is sent to
    it: text as it is, events as JSON, bytes in Base64. An iterable's ``close``
    is called when it has ended, has failed, or the peer has left.

    Args:
        source: An iterable, which may block; or a ``Group``.
        first: Items before those of ``source``; with a group they are asked for
            once it has been joined, so that nothing falls in between.
        convert: A function of each item that returns what to send instead. For a
            group it gets a str, bytes or dict, and is called once for a process
            and a message, not once for a peer.
        retry: Seconds after which a browser that lost the stream comes back; by
            default what the browser likes.
        heartbeat: Seconds of silence before a comment is sent; ``None`` for none.
        max_buffer: Bytes from a group that wait for a peer that reads too slowly;
            beyond, it is cut. ``None`` for no limit.

    Raises:
        TypeError: If ``source`` is neither.
        ValueError: If a number makes no sense.

    """

    def __init__(
        self,
        source: Iterable[Any] | Group,
        *,
        first: Iterable[Any] = (),
        convert: Callable[[Any], Any] | None = None,
        retry: float | None = None,
        heartbeat: float | None = DEFAULT_HEARTBEAT,
        max_buffer: int | None = MAX_BUFFER,
    ) -> None:
        if not isinstance(source, Group):
            _check_iterable(source)
        _check_iterable(first)
        for name, value in (("heartbeat", heartbeat), ("max_buffer", max_buffer)):
            if value is not None and not value > 0:
                raise ConfigurationError(f"{name} is positive or None, not {value}")
        self.source = source
        self._first = first
        self._convert = convert
        self._heartbeat = heartbeat
        self._max_buffer = max_buffer
        self._opening = b"" if retry is None else encode_event(None, retry=retry)

    def __repr__(self) -> str:
        return f"EventStream({self.source!r})"

    def close(self) -> None:
        """Close a source that nobody is going to run."""
        for each in (self._first, self.source):
            if not isinstance(each, Group):
                _close(each)

    def serve(self, start: Event, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Send the response; blocks until the source has ended or the peer has left.

        Args:
            start: The event "http.response.start".
            scope: Of a request whose body has been read.
            receive: GSGI's, as ``send``.
            send: What takes the events.

        Raises:
            ConnectionEnded: If the peer has left before the end was sent.

        """
        line = Line(start, receive, send, self._heartbeat)
        try:
            if isinstance(self.source, Group):
                self._follow(self.source, line)
            else:
                line.open(self._opening)
                self._tell(self._first, line)
                self._tell(self.source, line)
        except StreamOver as over:
            if over.line is not line:
                raise
        finally:
            line.close()
        if line.failure is not None:
            raise line.failure
        if line.over == TOO_SLOW:
            path = printable(scope["path"])
            logger.warning("%s: an event stream is cut: it is read too slowly", path)
            return  # before the end of the body, so the server cuts the connection
        send({"type": "http.response.body", "body": b""})

    def _tell(self, source: Any, line: Line) -> None:
        """Send an event for each item, while another greenlet watches the peer."""
        if isinstance(source, tuple) and not source:
            return  # needs no watcher
        convert = self._convert
        watcher: Greenlet[[], None] = Greenlet(line.watch)
        watcher.gr_context = contextvars.copy_context()
        watcher.name = f"watcher of {self!r}"
        iterator = iter(source)
        watcher.start()
        try:
            with line.worked():
                for item in iterator:
                    data = encode_item(item if convert is None else convert(item))
                    if data:
                        line.send(data)
        finally:
            try:
                watcher.kill()
            finally:
                _close(iterator)
                if source is not iterator:
                    _close(source)

    def _follow(self, group: Group, line: Line) -> None:
        """Send what is sent to ``group``."""
        feed = Feed(line, self._max_buffer, encoders_for(self._convert))
        try:
            group.add(feed)
            line.open(self._opening)
            self._tell(self._first, line)
            with line.worked():
                while line.wait():
                    for piece in feed.take():
                        line.send(piece)
        finally:
            group.discard(feed)
            if line.over == TOO_SLOW:
                feed.count_dropped()


def _check_iterable(source: Any) -> None:
    text = isinstance(source, str | bytes | bytearray | memoryview | dict)
    if text or not hasattr(source, "__iter__"):
        raise TypeError(
            "an event stream is made of an iterable of events, as a list or a"
            f" generator that was called, or of a Group; not of {source!r}"
        )


def _close(source: Any) -> None:
    """Close an iterable or iterator that can be closed."""
    close = getattr(source, "close", None)
    if close is not None:
        close()
