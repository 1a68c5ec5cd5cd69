"""
HTTP/1.1 connections (RFC 9110, RFC 9112): requests in order, one consumer each.

A connection reads heads and bodies in the hub and runs each request's consumer
in a greenlet. Requests that come ahead of their turn wait in the connection,
and reading stops meanwhile. A WebSocket handshake hands the transport over.
"""

from __future__ import annotations

import logging
from http.client import responses
from typing import TYPE_CHECKING, Any

from ..net.clock import Alarm
from ..net.transport import Transport
from ..wire.http1 import BodyChunk, Request, RequestEnd, RequestParser, encode_head
from .exchange import Exchange

if TYPE_CHECKING:
    from .server import Server

#: Body bytes that wait for the consumer before reading stops.
MAX_WAITING_BODY = 64 * 1024

logger = logging.getLogger("greenchannels.http")


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
        "_closing",
        "_exchange",
        "_parser",
        "_scope",
        "_server",
        "_waiting",
        "_waiting_body",
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
        self._waiting: list[Any] = []
        self._waiting_body = 0
        self._exchange: Exchange | None = None
        self._closing = False
        self._alarm: Alarm | None = None
        self._set_alarm(server.options.timeouts.head_timeout, self._head_too_slow)

    # Bytes from the peer. Hub only.

    def data_received(self, buffer: bytearray, size: int) -> None:
        """Parse, and do what can be done now."""
        if self._closing:
            return
        parser = self._parser
        self._waiting.extend(parser.receive_data(bytes(memoryview(buffer)[:size])))
        self._go_on()
        if self._exchange is None and not self._closing and parser.in_head:
            self._set_head_alarm()

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
        self._set_alarm(None, None)
        self._waiting.clear()
        self._closing = True
        if self._exchange is not None:
            self._exchange.connection_lost()
            self._exchange = None
        self._server.connection_gone(self.transport)

    def _go_on(self) -> None:
        """Hand out what waits, as far as the current request allows."""
        waiting = self._waiting
        while waiting and not self._closing:
            event = waiting[0]
            if isinstance(event, Request):
                if self._exchange is not None:
                    break
                waiting.pop(0)
                self._begin(event)
                if event.upgrade:
                    return
            elif self._exchange is None:
                waiting.pop(0)  # the rest of a body that nobody reads
            else:
                waiting.pop(0)
                self._give(event)
        if self._closing:
            return
        error = self._parser.error
        if error is not None and not waiting and self._exchange is None:
            self._refuse(error.hint, error.reason)
        elif error is not None and not waiting and self._body_is_coming:
            assert self._exchange is not None
            self._exchange.refuse(error.hint)
        else:
            self._regulate()

    @property
    def _body_is_coming(self) -> bool:
        return self._exchange is not None and not self._exchange.body_complete

    def _give(self, event: Any) -> None:
        """Pass a piece of the body to the consumer."""
        assert self._exchange is not None
        if isinstance(event, BodyChunk):
            self._exchange.body_received(event.data)
        elif isinstance(event, RequestEnd):
            self._set_alarm(None, None)
            self._exchange.body_ended()

    def _regulate(self) -> None:
        """Read on, unless the consumer has enough to do."""
        exchange = self._exchange
        ahead = bool(self._waiting)
        full = exchange is not None and exchange.waiting_body > MAX_WAITING_BODY
        if ahead or full:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def body_taken(self) -> None:
        """The consumer has read some of the body: there is room again."""
        if not self._closing:
            self._regulate()

    # Requests.

    def _begin(self, request: Request) -> None:
        """Start serving a request."""
        self._set_alarm(None, None)
        if request.upgrade:
            self._hand_over(request)
            return
        timeout = self._server.options.timeouts.body_timeout
        if request.content_length or request.chunked:
            self._set_alarm(timeout, self._body_too_slow)
        self._exchange = Exchange(self._server, self, request)
        self._exchange.start()

    def _hand_over(self, request: Request) -> None:
        """Let the WebSocket side have the connection."""
        trailing = self._parser.trailing
        self._closing = True  # for this protocol; the transport goes on
        self._server.open_websocket(
            self.transport, request, trailing, self.client, self._scope
        )

    def exchange_ended(self, keep_alive: bool) -> None:
        """The response has been sent: close, or take the next request."""
        self._exchange = None
        if self._closing:
            return
        if not keep_alive or self._server.draining:
            self._close()
            return
        self._set_alarm(self._server.options.timeouts.keep_alive, self._close)
        self._server.reactor.loop.run_callback(self._next)

    def _next(self) -> None:
        """Go on with what came meanwhile. Hub only."""
        if self._closing:
            return
        self._go_on()
        if self._exchange is None and not self._closing and self._parser.in_head:
            self._set_head_alarm()

    @property
    def busy(self) -> bool:
        """Whether a request is being served."""
        return self._exchange is not None

    # Limits and the end.

    def _set_alarm(self, delay: float | None, callback: Any) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if delay is not None:
            self._alarm = self._server.reactor.clock.call_later(delay, callback)

    def _set_head_alarm(self) -> None:
        """A head has begun: it must end soon, however slowly its bytes come."""
        if self._alarm is None or self._alarm.callback != self._head_too_slow:
            timeout = self._server.options.timeouts.head_timeout
            self._set_alarm(timeout, self._head_too_slow)

    def _head_too_slow(self) -> None:
        self._alarm = None
        if self._parser.in_head:
            self._refuse(408, "the head took too long")
        else:
            self._close()

    def _body_too_slow(self) -> None:
        self._alarm = None
        if self._exchange is not None:
            self._exchange.refuse(408)

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
        self._set_alarm(None, None)
        self._closing = True
        self._waiting.clear()
        self.transport.close(linger=True)

    def close_if_idle(self) -> None:
        """Close unless a request is being served or read; for the drain."""
        if self._exchange is None and not self._closing and not self._parser.in_head:
            self._close()

    def abort(self) -> None:
        """Close now."""
        self.transport.abort()
