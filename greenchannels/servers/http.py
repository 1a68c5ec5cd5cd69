"""
HTTP/1.1 connections (RFC 9110, RFC 9112): requests in order, one consumer each.

A connection reads heads and bodies in the hub and runs each request's consumer
in a greenlet. What comes ahead of its turn waits, and reading stops meanwhile. A
WebSocket handshake hands the transport over.
"""

from __future__ import annotations

import enum
import logging
import time
from http.client import responses
from typing import TYPE_CHECKING, Any

from ..net.clock import Alarm
from ..net.transport import Transport
from ..wire.http1 import (
    BodyChunk,
    Event,
    Request,
    RequestEnd,
    RequestParser,
    State,
    encode_head,
)
from .exchange import Exchange

if TYPE_CHECKING:
    from .server import Server

#: Body bytes that wait for the consumer before reading stops.
MAX_WAITING_BODY = 64 * 1024

#: Bytes of heads, or of chunks, that are parsed at a time: a buffer full of small
#: ones would keep the hub for tens of milliseconds.
HEADS_AT_A_TIME = 8 * 1024

#: What parsing as many bytes of chunks takes of a turn, in requests.
COST_OF_CHUNKS = 32

#: Requests of one connection that are begun in one turn of the hub.
REQUESTS_PER_TURN = 32

logger = logging.getLogger("greenchannels.http")


class Awaited(enum.Enum):
    """What a connection waits for, for a limited time."""

    HEAD = "the end of a head"
    BODY = "the end of a body"
    REQUEST = "another request"


def phrase(status: int) -> str:
    """Return what a status is called."""
    return responses.get(status, "Refused")


def plain_response(
    status: int,
    headers: list[tuple[bytes, bytes]],
    body: bytes,
    date: bytes,
) -> bytes:
    """Return a whole response that ends its connection."""
    if not body and status >= 400:
        body = phrase(status).encode() + b"\n"
        if not any(name.lower() == b"content-type" for name, _ in headers):
            headers = [*headers, (b"content-type", b"text/plain; charset=utf-8")]
    fixed = [
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        (b"date", date),
    ]
    names = {name for name, _ in fixed}
    kept = [(n, v) for n, v in headers if n.lower() not in names]
    return encode_head(status, [*kept, *fixed]) + body


class HTTPConnection:
    """
    One HTTP/1.1 connection; a stream protocol over its transport.

    Args:
        server: Runs the consumers.
        transport: The connection.
        client: The peer's address.
        scope: What goes into the scope of a WebSocket beside the request.

    """

    __slots__ = (
        "_alarm",
        "_alarm_due",
        "_awaited",
        "_closing",
        "_due",
        "_events",
        "_exchange",
        "_parser",
        "_scope",
        "_server",
        "_unparsed",
        "_working",
        "client",
        "transport",
    )

    def __init__(
        self,
        server: Server,
        transport: Transport,
        client: Any,
        scope: dict[str, Any] | None = None,
    ) -> None:
        self._server = server
        self.transport = transport
        self.client = client
        self._scope = scope
        self._parser = RequestParser(server.options.http)
        #: Bytes that have come and wait for the parser.
        self._unparsed = b""
        #: What they have become and waits for its turn; the next one last.
        self._events: list[Event] = []
        self._exchange: Exchange | None = None
        self._closing = False
        #: Whether ``_go_on`` is at work further up the stack.
        self._working = False
        self._alarm: Alarm | None = None
        self._alarm_due = self._due = 0.0
        self._awaited: Awaited | None = None
        self._wait_for(Awaited.HEAD, server.options.timeouts.head_timeout)
        self._awaited = Awaited.HEAD  # without a timeout, too: see close_if_idle

    def __repr__(self) -> str:
        return f"<HTTP connection of {self.client}>"

    # Bytes from the peer. Hub only.

    def data_received(self, buffer: bytearray, size: int) -> None:
        """Parse, and do what can be done now."""
        if self._closing:
            return
        data = bytes(memoryview(buffer)[:size])
        if self._exchange or self._events or self._unparsed or size > HEADS_AT_A_TIME:
            self._unparsed += data
            self._go_on()
            return
        events = self._parser.receive_data(data)
        if len(events) == 2 and type(events[0]) is Request and not self._parser.error:
            # All there is to most of what comes: one request, and its end.
            end = events[1]
            if type(end) is RequestEnd:
                self._serve_whole(events[0])
                return
        events.reverse()
        self._events = events
        self._go_on()

    def _serve_whole(self, request: Request) -> None:
        """Serve a request without a body behind which nothing has come."""
        self._awaited = None
        exchange = self._exchange = Exchange(self._server, self, request)
        self._working = True
        try:
            self._server.workers.run(exchange)
        finally:
            self._working = False
        if not self._closing and self._parser.in_head:
            self._settle()

    def eof_received(self) -> None:
        """The peer sends no more; it may still read an answer."""
        if self._exchange is None:
            self.transport.close()
        else:
            self._exchange.peer_gone()

    def write_progress(self) -> None:
        """Do nothing: senders wait in the transport."""

    def callback_failed(self, error: Exception) -> None:
        """Answer 500 unless a request is being answered, and close."""
        logger.error("%r failed in the hub", self, exc_info=error)
        if self._exchange is None and not self._closing:
            self._refuse(500, "the server failed")
        else:
            self.transport.fail(error)

    def connection_lost(self, error: Exception | None) -> None:
        """The socket has been closed."""
        self._let_go()
        if self._exchange is not None:
            self._exchange.connection_lost()
            self._exchange = None
        self._server.connection_gone(self.transport)

    def _go_on(self) -> None:
        """Hand out what has come, as far as the current request allows."""
        if self._working:
            return  # a request that was begun further up the stack has ended
        self._working = True
        try:
            self._hand_out()
        finally:
            self._working = False
        if not self._closing:
            self._settle()

    def _hand_out(self) -> None:
        left = REQUESTS_PER_TURN
        while not self._closing:
            if not self._events:
                if left <= 0 and self._unparsed:
                    self._server.reactor.next_turn(self._next)
                    return
                if self._parser.state is State.CHUNKS:
                    left -= COST_OF_CHUNKS
                if not self._parse():
                    return
            if type(self._events[-1]) is not Request:
                self._give(self._events.pop())
            elif self._exchange is not None:
                return
            elif left <= 0:
                self._server.reactor.next_turn(self._next)
                return
            else:
                left -= 1
                self._begin(self._events.pop())  # type: ignore[arg-type]

    def _parse(self) -> bool:
        """Parse some of what has come; return whether that made an event."""
        parser = self._parser
        while self._unparsed and not self._events and parser.error is None:
            data = self._unparsed
            size = max(HEADS_AT_A_TIME, parser.body_left)
            self._unparsed = data[size:]
            data = data[:size]
            self._events = parser.receive_data(data)
            self._events.reverse()
        return bool(self._events)

    def _settle(self) -> None:
        """Nothing more can be handed out now: refuse, wait, or read on."""
        exchange, parser = self._exchange, self._parser
        if parser.error is not None and not self._events:
            if exchange is None:
                self._refuse(parser.error.hint, parser.error.reason)
            elif not exchange.body_complete:
                exchange.refuse(parser.error.hint)
            return
        if exchange is None and parser.in_head and self._awaited is not Awaited.HEAD:
            self._wait_for(Awaited.HEAD, self._server.options.timeouts.head_timeout)
        self._regulate()

    def _regulate(self) -> None:
        """Read on, unless the consumer has enough to do."""
        exchange = self._exchange
        ahead = self._events or self._unparsed
        if ahead or (exchange and exchange.waiting_body > MAX_WAITING_BODY):
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def _give(self, event: Event) -> None:
        """Pass a piece of the body to the consumer, if it still wants it."""
        exchange = self._exchange
        if type(event) is BodyChunk:
            if exchange is not None:
                exchange.body_received(event.data)
        elif type(event) is RequestEnd:
            if exchange is not None:
                self._awaited = None
                exchange.body_ended(event)
            else:
                self._wait_for_request()

    def body_taken(self) -> None:
        """The consumer has read some of the body: there is room again."""
        if not self._closing:
            self._regulate()

    # Requests.

    def _begin(self, request: Request) -> None:
        """Start serving a request; its consumer may have ended on return."""
        self._awaited = None
        if request.upgrade:
            self._hand_over(request)
            return
        exchange = self._exchange = Exchange(self._server, self, request)
        if request.content_length or request.chunked:
            self._wait_for(Awaited.BODY, self._server.options.timeouts.body_timeout)
        elif self._events:  # its end: the consumer need not be told of it later
            self._events.pop()
        self._server.workers.run(exchange)

    def _hand_over(self, request: Request) -> None:
        """Let the WebSocket side have the connection."""
        trailing = self._parser.trailing + self._unparsed
        self._let_go()  # for this protocol; the transport goes on
        self._server.admission.open_websocket(
            self.transport, request, trailing, self.client, self._scope
        )

    def exchange_ended(self, keep_alive: bool) -> None:
        """The response has been sent: close, or take the next request."""
        exchange, self._exchange = self._exchange, None
        if self._closing:
            return
        if not keep_alive or self._server.draining:
            self._close()
            return
        if exchange is not None and exchange.body_complete:
            timeout = self._server.options.timeouts.keep_alive
            self._awaited = None if timeout is None else Awaited.REQUEST
            if timeout is not None:
                self._due = time.monotonic() + timeout
                if self._alarm is None or self._due < self._alarm_due:
                    self._set_alarm(timeout)
        if not self._working:
            self._server.reactor.loop.run_callback(self._next)

    def _next(self) -> None:
        """Go on with what came meanwhile. Hub only."""
        if not self._closing:
            try:
                self._go_on()
            except Exception as error:
                self.callback_failed(error)

    @property
    def fresh(self) -> bool:
        """Whether nothing has been asked for since it was accepted."""
        return self._awaited is Awaited.HEAD and self._exchange is None

    @property
    def busy(self) -> bool:
        """Whether a request is being served."""
        return self._exchange is not None

    # Limits and the end.

    def _wait_for(self, awaited: Awaited, timeout: float | None) -> None:
        """Have ``_too_slow`` called unless what is awaited comes in time."""
        if timeout is None:
            self._awaited = None
            return
        self._awaited = awaited
        self._due = time.monotonic() + timeout
        if self._alarm is None or self._due < self._alarm_due:
            self._set_alarm(timeout)

    def _wait_for_request(self) -> None:
        self._wait_for(Awaited.REQUEST, self._server.options.timeouts.keep_alive)

    def _set_alarm(self, delay: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_due = self._due
        self._alarm = self._server.reactor.clock.call_later(delay, self._on_alarm)

    def _on_alarm(self) -> None:
        """Look whether something is due: most alarms have been moved."""
        self._alarm = None
        if self._awaited is None:
            return
        left = self._due - time.monotonic()
        if left > 0:
            self._set_alarm(left)
            return
        try:
            self._too_slow()
        except Exception as error:
            self.callback_failed(error)

    def _too_slow(self) -> None:
        """What was awaited has not come."""
        awaited, self._awaited = self._awaited, None
        if awaited is Awaited.BODY and self._exchange is not None:
            self._exchange.refuse(408)
        elif awaited is Awaited.HEAD and self._parser.in_head:
            self._refuse(408, "the head took too long")
        else:
            self._close()

    def _refuse(self, status: int, reason: str) -> None:
        """Answer a request that cannot be served, and close."""
        logger.info("refused with %d: %s", status, reason)
        self._server.access_log.refused(self.client, status)
        body = f"{phrase(status)}: {reason}\n".encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        date = self._server.http_date()
        self.transport.push(plain_response(status, headers, body, date))
        self._close()

    def _close(self) -> None:
        self._let_go()
        self.transport.close(linger=True)

    def _let_go(self) -> None:
        """This protocol takes and does nothing more."""
        self._closing = True
        self._awaited = None
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._events.clear()
        self._unparsed = b""

    def close_if_idle(self, *, fresh: bool) -> None:
        """
        Close unless a request is being served or read; for the drain.

        Args:
            fresh: Whether also if nothing of a request has ever come.

        """
        if self._exchange is not None or self._closing:
            return
        if self._parser.in_head or self._events or self._unparsed:
            return
        # A head that has not begun is awaited since the connection was accepted.
        if fresh or self._awaited is not Awaited.HEAD:
            self._close()

    def ask_to_end(self) -> None:
        """A response that goes on and on is to come to its end; for the drain."""
        if self._exchange is not None:
            self._exchange.ask_to_end()

    def abort(self) -> None:
        """Close now."""
        self.transport.abort()
