"""
One HTTP request and its response.

The consumer's greenlet reads the body and writes the response here, as GSGI's
``receive`` and ``send`` or, without the dicts, by ``read``, ``begin``, ``write``
and ``write_file``. Reading is in ``request_body.py``, writing in ``response.py``.
"""

from __future__ import annotations

import errno
import logging
import time
import traceback
from typing import TYPE_CHECKING, Any

import gevent

from ..errors import ConnectionEnded
from ..text import printable
from ..types import Event, Headers
from .response import Response, ResponseError

if TYPE_CHECKING:
    pass

#: The status for a consumer that failed, by the error's number.
_STATUS_OF_ERRNO = {errno.ENOSPC: 507, errno.EDQUOT: 507}

logger = logging.getLogger("greenchannels.http")


class Exchange(Response):
    """
    A request that is being served; the task of a worker.

    Args:
        server: For the routing, the access log and the date.
        connection: Where it came from and the response goes.
        request: The request.

    """

    def __repr__(self) -> str:
        return f"<{self.request.method} {printable(self.request.path)}>"

    @property
    def client(self) -> Any:
        """The connection's own address."""
        return self.connection.client

    # From the connection. Hub only.

    def peer_gone(self) -> None:
        """The peer will send no more; a consumer that reads hears of it."""
        self._gone = True
        self._keep_alive = False
        self._wake()

    def ask_to_end(self) -> None:
        """The server drains: a consumer that waits for the peer to go need not."""
        if self.is_to_end:
            self._wake()

    def connection_lost(self) -> None:
        """Nobody will read the response: what is sent is dropped."""
        self._gone = self._ended = True
        self._wake()

    def refuse(self, status: int) -> None:
        """Answer instead of the consumer, if it has not begun to; then close."""
        self._keep_alive = False
        self._refused = True
        if not self._status and not self._ended:
            self._answer_plainly(status)
            self._finish()
        elif not self._finished:
            self.connection.abort()
        self._server.workers.kill(self)

    # The consumer's greenlet.

    def __call__(self) -> None:
        """Run the consumer; blocks until it has ended."""
        try:
            self._server.requests.serve(self.request, self)
        except ConnectionEnded as error:
            if error.source is not self:
                self._failed(error)
        except (Exception, gevent.Timeout, SystemExit) as error:
            self._failed(error)
        finally:
            if not self._finished:
                self._incomplete()

    def _failed(self, error: BaseException) -> None:
        path = printable(self.request.path)
        logger.exception("%s %s: the consumer failed", self.request.method, path)
        if not self._status and not self._finished:
            debug = self._server.options.debug
            status = 500
            if isinstance(error, OSError) and error.errno is not None:
                status = _STATUS_OF_ERRNO.get(error.errno, 500)
            self._answer_plainly(status, traceback.format_exc() if debug else "")
            self._finish()

    def _incomplete(self) -> None:
        """The consumer ended without a whole response."""
        if self._ended or (self._gone and self._start is None):
            self._finish()
        elif not self._status:
            logger.error("%r: the consumer sent no response", self)
            self._answer_plainly(500)
            self._finish()
        elif not self._has_body or self._left == 0:
            self._finish()  # the peer has all it was promised
        else:
            self._keep_alive = False
            self.connection.transport.write_now()
            self.connection.abort()
            self._finish()

    def send(self, event: Event) -> None:
        """
        Take an event of the response; blocks while 64 KiB wait for the peer.

        Raises:
            ConnectionBroken: If the peer has gone.

        """
        kind = event["type"]
        if kind == "http.response.start":
            trailers = bool(event.get("trailers", False))
            self.begin(event["status"], _fields(event), trailers=trailers)
        elif kind == "http.response.body":
            body = event.get("body", b"")
            if type(body) is not bytes:
                body = bytes(body)  # len() would count a memoryview's items
            self.write(body, event.get("more_body", False))
        elif kind == "http.response.zerocopysend":
            self.write_file(
                event["file"],
                event.get("offset"),
                event.get("count"),
                event.get("more_body", False),
            )
        elif kind == "http.response.trailers":
            if event.get("more_trailers", False):
                raise ResponseError("trailers come in one event")
            self.send_trailers(_fields(event))
        else:
            raise ResponseError(f"an HTTP response cannot send {kind!r}")

    def _answer_plainly(self, status: int, text: str = "") -> None:
        """Send a short response of our own; closes the connection."""
        self._keep_alive = False
        self._start = (status, [], None)
        self._status = status
        if not self._ended:
            headers = [(b"content-type", b"text/plain; charset=utf-8")] if text else []
            data = self._server.refusal(status, headers, text.encode())
            if self.request.method == "HEAD":
                data = data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
            self.connection.transport.push(data)

    def _finish(self) -> None:
        """The response is complete, or never will be."""
        if self._finished:
            return
        self._finished = True
        if self._waiter is not None:
            self._wake()
        if self._server.access_log.enabled:
            self._server.access_log.request(
                self._server.peer_address(self.client, self.request),
                self.request,
                self._status,
                self._sent,
                time.monotonic() - self._started_at,
            )
        self.connection.exchange_ended(self._keep_alive)


def _fields(event: Event) -> Headers:
    """Return an event's headers, with names in lower case."""
    fields = event.get("headers", ())
    if type(fields) is list and all([type(v) is bytes for _, v in fields]):
        return [(name.lower(), value) for name, value in fields]
    return [(bytes(name).lower(), bytes(value)) for name, value in fields]
