"""
One HTTP request and its response, as GSGI's ``receive`` and ``send``.

The consumer's greenlet reads the body and writes the response here; framing
(RFC 9112, section 6) is decided from what the consumer says.
"""

from __future__ import annotations

import logging
import time
import traceback
from typing import TYPE_CHECKING, Any

import gevent
from gevent import Greenlet, GreenletExit, getcurrent

from ..errors import ConnectionBroken, ConnectionEnded
from ..options import OWN_BUFFER
from ..sockets import printable
from ..types import Event
from ..wire.http1 import LAST_CHUNK, Request, encode_chunk, encode_head

if TYPE_CHECKING:
    from .http import HTTPConnection
    from .server import Server

#: Statuses whose responses have no body (RFC 9110, section 6.4.1).
NO_BODY = frozenset({204, 304})

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

logger = logging.getLogger("greenchannels.http")


class ResponseError(RuntimeError):
    """A consumer sent events that make no response."""


class Exchange:
    """
    A request that is being served.

    Args:
        server: For the layer, the access log and the date.
        connection: Where it came from and the response goes.
        request: The request.

    """

    __slots__ = (
        "_body",
        "_body_read",
        "_chunked",
        "_connection",
        "_continue",
        "_ended",
        "_finished",
        "_gone",
        "_greenlet",
        "_keep_alive",
        "_left",
        "_request",
        "_sent",
        "_server",
        "_start",
        "_started_at",
        "_status",
        "_waiter",
        "body_complete",
        "waiting_body",
    )

    def __init__(
        self, server: Server, connection: HTTPConnection, request: Request
    ) -> None:
        self._server = server
        self._connection = connection
        self._request = request
        self._body: list[bytes] = []
        self.waiting_body = 0
        self.body_complete = not (request.content_length or request.chunked)
        self._body_read = False
        self._continue = request.expects_continue and not self.body_complete
        self._gone = False
        self._ended = False
        self._finished = False
        self._waiter: Any = None
        self._start: Event | None = None
        self._status = 0
        self._chunked = False
        #: Body bytes that Content-Length still promises; ``None`` without.
        self._left: int | None = None
        self._keep_alive = request.keep_alive
        self._sent = 0
        self._started_at = time.monotonic()
        self._greenlet: Greenlet[..., Any] | None = None

    def __repr__(self) -> str:
        return f"<{self._request.method} {printable(self._request.path)}>"

    @property
    def client(self) -> Any:
        """The connection's own address."""
        return self._connection.client

    def start(self) -> None:
        """Run the consumer in a greenlet."""
        self._greenlet = self._server.spawn(Exchange._run, self)
        self._greenlet.start()

    # From the connection. Hub only.

    def body_received(self, data: bytes) -> None:
        """A piece of the body has come."""
        if not self._finished:
            self._body.append(data)
            self.waiting_body += len(data)
            self._wake()

    def body_ended(self) -> None:
        """The body is complete."""
        self.body_complete = True
        self._wake()

    def peer_gone(self) -> None:
        """The peer will send no more; a consumer that reads hears of it."""
        self._gone = True
        self._keep_alive = False
        self._wake()

    def connection_lost(self) -> None:
        """Nobody will read the response: what is sent is dropped."""
        self._gone = self._ended = True
        self._wake()

    def refuse(self, status: int) -> None:
        """Answer instead of the consumer, if it has not begun to; then close."""
        self._keep_alive = False
        if self._start is None and not self._ended:
            self._answer_plainly(status)
            self._finish()
        elif not self._finished:
            self._connection.abort()
        if self._greenlet is not None:
            self._greenlet.kill(GreenletExit, block=False)

    def kill(self) -> None:
        """Kill the consumer; never blocks."""
        if self._greenlet is not None:
            self._greenlet.kill(GreenletExit, block=False)

    def _wake(self) -> None:
        if self._waiter is not None:
            self._server.reactor.loop.run_callback(self._switch)

    def _switch(self) -> None:
        if self._waiter is not None:
            self._waiter.switch()

    # The consumer's greenlet.

    def _run(self) -> None:
        try:
            self._server.serve_http(self._request, self)
        except ConnectionEnded as error:
            if error.source is not self:
                self._failed()
        except (Exception, gevent.Timeout, SystemExit):
            self._failed()
        finally:
            self._greenlet = None
            if not self._finished:
                self._incomplete()

    def _failed(self) -> None:
        path = printable(self._request.path)
        logger.exception("%s %s: the consumer failed", self._request.method, path)
        if self._start is None:
            debug = self._server.options.debug
            self._answer_plainly(500, traceback.format_exc() if debug else "")
            self._finish()

    def _incomplete(self) -> None:
        """The consumer ended without a whole response."""
        if self._ended or self._gone and self._start is None:
            self._finish()
        elif self._start is None:
            logger.error("%r: the consumer sent no response", self)
            self._answer_plainly(500)
            self._finish()
        else:
            self._connection.abort()

    def receive(self) -> Event:
        """Return the next event of the request; blocks."""
        if self._continue and self._start is None:
            self._continue = False
            self._connection.transport.push(CONTINUE)
        while not self._body and not self.body_complete and not self._gone:
            self._wait()
        if self._body:
            data = b"".join(self._body)
            self._body.clear()
            self.waiting_body = 0
            self._connection.body_taken()
            self._body_read = self.body_complete
            more = not self.body_complete
            return {"type": "http.request", "body": data, "more_body": more}
        if self.body_complete and not self._body_read and not self._finished:
            self._body_read = True
            return {"type": "http.request", "body": b"", "more_body": False}
        while not self._gone and not self._finished:
            self._wait()
        return {"type": "http.disconnect"}

    def _wait(self) -> None:
        if self._waiter is not None:
            raise RuntimeError("another greenlet is receiving from this request")
        self._waiter = getcurrent()
        try:
            self._server.reactor.hub.switch()
        finally:
            self._waiter = None

    def send(self, event: Event) -> None:
        """
        Take an event of the response; blocks while 64 KiB wait for the peer.

        Raises:
            ConnectionBroken: If the peer has gone.

        """
        if self._ended:
            raise ConnectionBroken(reason="the peer has gone", source=self)
        kind = event["type"]
        if kind == "http.response.start":
            if self._start is not None:
                raise ResponseError("the response has been started already")
            self._start = event
        elif kind == "http.response.body":
            if self._start is None:
                raise ResponseError("a body needs http.response.start first")
            if self._finished:
                raise ResponseError("the response is complete")
            self._send_body(event.get("body", b""), event.get("more_body", False))
        else:
            raise ResponseError(f"an HTTP response cannot send {kind!r}")

    def _send_body(self, data: bytes, more: bool) -> None:
        transport = self._connection.transport
        output = b""
        if not self._status:
            output = self._encode_start(len(data), more)
        if self._has_body():
            output += self._frame(data, more)
        self._sent += len(data)
        if output:
            transport.push(output)
        if not more:
            if self._left and self._has_body():
                raise ResponseError(f"{self._left} promised bytes were not sent")
            self._finish()
        if transport.own > OWN_BUFFER:
            transport.write_now()
        while transport.own > OWN_BUFFER and not transport.closed:
            transport.wait_for_progress()

    def _has_body(self) -> bool:
        return self._request.method != "HEAD" and self._status not in NO_BODY

    def _frame(self, data: bytes, more: bool) -> bytes:
        """Return ``data`` as the response's framing has it."""
        if self._chunked:
            framed = encode_chunk(data) if data else b""
            return framed if more else framed + LAST_CHUNK
        if self._left is not None:
            if len(data) > self._left:
                raise ResponseError("the body is longer than Content-Length says")
            self._left -= len(data)
        return data

    def _encode_start(self, size: int, more: bool) -> bytes:
        """Return the head; decide how the body's end is told (section 6.3)."""
        assert self._start is not None
        status: int = self._start["status"]
        headers = [
            (bytes(n).lower(), bytes(v)) for n, v in self._start.get("headers", ())
        ]
        names = {name for name, _ in headers}
        if b"transfer-encoding" in names:
            headers = [(n, v) for n, v in headers if n != b"transfer-encoding"]
        if status in NO_BODY:
            headers = [(n, v) for n, v in headers if n != b"content-length"]
        elif b"content-length" in names:
            self._left = int(dict(headers)[b"content-length"])
        elif not more:
            headers.append((b"content-length", str(size).encode()))
            self._left = size
        elif self._request.http_version == "1.1":
            self._chunked = True
            headers.append((b"transfer-encoding", b"chunked"))
        else:
            self._keep_alive = False
        if b"date" not in names:
            headers.append((b"date", self._server.http_date()))
        head = encode_head(status, self._with_connection(headers))
        self._status = status
        return head

    def _with_connection(
        self, headers: list[tuple[bytes, bytes]]
    ) -> list[tuple[bytes, bytes]]:
        """Return ``headers`` with what becomes of the connection."""
        if any(n == b"connection" and b"close" in v.lower() for n, v in headers):
            self._keep_alive = False
        if self._server.draining or not self.body_complete:
            # A body that is still coming cannot be told from the next request
            # unless it is read to its end, which may never be.
            self._keep_alive = self._keep_alive and self.body_complete
        kept = [(n, v) for n, v in headers if n != b"connection"]
        if not self._keep_alive or self._server.draining:
            kept.append((b"connection", b"close"))
        elif self._request.http_version == "1.0":
            kept.append((b"connection", b"keep-alive"))
        return kept

    def _answer_plainly(self, status: int, text: str = "") -> None:
        """Send a short response of our own; closes the connection."""
        self._keep_alive = False
        self._start = {"status": status}
        self._status = status
        if not self._ended:
            headers = [(b"content-type", b"text/plain; charset=utf-8")] if text else []
            data = self._server.refusal(status, headers, text.encode())
            if self._request.method == "HEAD":
                data = data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
            self._connection.transport.push(data)

    def _finish(self) -> None:
        """The response is complete, or never will be."""
        if self._finished:
            return
        self._finished = True
        self._wake()
        if self._server.access_log.enabled:
            self._server.access_log.request(
                self._server.peer_address(self.client, self._request),
                self._request,
                self._status,
                self._sent,
                time.monotonic() - self._started_at,
            )
        self._connection.exchange_ended(self._keep_alive and self.body_complete)
