"""
The request's half of an exchange: its body, from the connection to the consumer.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from gevent import getcurrent

from ..errors import ConnectionBroken
from ..types import Event
from ..wire.http1 import Request, RequestEnd

if TYPE_CHECKING:
    from .http import HTTPConnection
    from .server import Server

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class RequestBody:
    """
    Takes a body from the hub and gives it to the consumer's greenlet.

    Args:
        server: For its hub, and to know whether it drains.
        connection: Where the request came from.
        request: The request.

    """

    # No slots: most of these stay as they are, and a default costs nothing.

    #: Whether the whole body has come.
    body_complete = True
    #: Bytes of the body that wait for the consumer.
    waiting_body = 0

    _body: list[bytes] = []  # replaced, never changed, here
    _body_received = 0
    _end: RequestEnd | None = None
    _end_told = False
    #: Whether the peer waits for a 100 before it sends the body.
    _continue = False
    #: Whether the peer sends no more.
    _gone = False
    #: Whether the response is complete, or never will be.
    _finished = False
    #: The status of a response that has been begun to be sent, else 0.
    _status = 0
    _waiter: Any = None
    _waking = False

    def __init__(
        self, server: Server, connection: HTTPConnection, request: Request
    ) -> None:
        self._server = server
        self.connection = connection
        self.request = request
        #: Whether the connection outlives this.
        self._keep_alive = request.keep_alive
        if server.access_log.enabled:
            self._started_at = time.monotonic()
        if request.content_length or request.chunked:
            self.body_complete = False
            self._body = []
            self._continue = request.expects_continue

    # From the connection. Hub only.

    def body_received(self, data: bytes) -> None:
        """A piece of the body has come."""
        self._body_received += len(data)
        if not self._finished:
            self._body.append(data)
            self.waiting_body += len(data)
            self._wake()

    def body_ended(self, end: RequestEnd) -> None:
        """The body is complete."""
        self.body_complete = True
        self._end = end
        self._wake()

    @property
    def is_to_end(self) -> bool:
        """Whether a response that goes on and on is asked to come to its end."""
        return self._status != 0 and self._server.draining

    def _wake(self) -> None:
        if self._waiter is not None and not self._waking:
            self._waking = True
            self._server.reactor.loop.run_callback(self._switch)

    def _switch(self) -> None:
        self._waking = False
        if self._waiter is not None:
            self._waiter.switch()

    # From the consumer's greenlet.

    def receive(self) -> Event:
        """Return the next event of the request; blocks."""
        data = b"" if self._end_told else self._next_piece()
        if data:
            more = not self.body_complete
            self._end_told = not more
            return self._request_event(data, more)
        if self.body_complete and not self._end_told and not self._finished:
            self._end_told = True
            return self._request_event(b"", False)
        while not (self._gone or self._finished or self.is_to_end):
            self._wait()
        return {"type": "http.disconnect"}

    def _request_event(self, data: bytes, more: bool) -> Event:
        event: Event = {"type": "http.request", "body": data, "more_body": more}
        if not more and self._end is not None and self._end.trailers:
            event["trailers"] = self._end.trailers
        return event

    def read(self) -> bytes:
        """
        Return the next piece of the body, nothing at its end; blocks.

        Raises:
            ConnectionBroken: If the peer went away before the end, or the response
                is complete.

        """
        data = self._next_piece()
        if not data and not self.body_complete:
            reason = "the response has ended" if self._finished else "the peer has gone"
            raise ConnectionBroken(reason=reason, source=self)
        return data

    def _next_piece(self) -> bytes:
        """Return what has come of the body, after waiting for some of it."""
        if self._continue:
            self._continue = False
            if not self._body and not self._status:
                self.connection.transport.push(CONTINUE)
        while not (self._body or self.body_complete or self._gone or self._finished):
            self._wait()
        body = self._body
        if not body:
            return b""
        data = body[0] if len(body) == 1 else b"".join(body)
        body.clear()
        self.waiting_body = 0
        self.connection.body_taken()
        return data

    def _wait(self) -> None:
        if self._waiter is not None:
            raise RuntimeError("another greenlet is receiving from this request")
        self._waiter = getcurrent()
        try:
            self._server.reactor.hub.switch()
        finally:
            self._waiter = None
