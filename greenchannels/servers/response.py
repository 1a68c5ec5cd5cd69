"""
The response's half of an exchange: framing, and the way to the transport.

Which framing it gets (RFC 9112, section 6) is decided when the body begins: from
what the consumer said of its length, or from what it has handed over.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NoReturn

import gevent

from ..errors import ConnectionBroken
from ..net.reactor import ONE_TURN
from ..options import OWN_BUFFER
from ..types import Headers
from ..wire.http1 import LAST_CHUNK, encode_chunk
from ..wire.response import encode_fields, encode_status_line, join_response
from .request_body import RequestBody

if TYPE_CHECKING:
    pass

#: Statuses whose responses have no body (RFC 9110, section 6.4.1).
NO_BODY = frozenset({204, 304})

#: Pieces of a body after which others get a turn.
PIECES_AT_A_TIME = 16

#: Bytes of a body nobody reads that are discarded to keep the connection.
MAX_DISCARDED = 64 * 1024

#: Fields that say how the message is framed, or that are ours to add.
_OURS = frozenset(
    (b"connection", b"content-length", b"date", b"keep-alive", b"transfer-encoding")
)


class ResponseError(RuntimeError):
    """A consumer sent what makes no response."""


class Response(RequestBody):
    """
    Sends what the consumer answers.

    Whoever is it as well says by ``_finish`` what follows a complete response.
    """

    #: Whether ``write_file`` leaves a file to the kernel, or to TLS.
    sends_files = True

    #: Whether the connection has gone.
    _ended = False
    _start: tuple[int, Headers, str | None] | None = None
    #: Whether bytes follow the head; known once it has been encoded.
    _has_body = False
    _chunked = False
    _trailers = False
    #: Body bytes that Content-Length still promises; ``None`` without.
    _left: int | None = None
    _sent = 0
    _pieces = 0
    #: Whether the server has answered in the consumer's place.
    _refused = False

    def _finish(self) -> None:
        """The response is complete, or never will be."""
        raise NotImplementedError

    def begin(
        self,
        status: int,
        headers: Headers,
        reason: str | None = None,
        *,
        trailers: bool = False,
    ) -> None:
        """
        Say how the response begins; nothing is sent before its body.

        Args:
            status: From 200 to 999.
            headers: Names in lower case.
            reason: The phrase; ``None`` for the usual one.
            trailers: Whether ``send_trailers`` will be called.

        """
        if self._ended or self._refused:
            self._check_alive()
        if not 200 <= status <= 999:
            raise ResponseError(f"{status} is no final status")
        if self._start is not None:
            raise ResponseError("the response has been started already")
        self._start = (status, headers, reason)
        self._trailers = trailers

    def take_back(self) -> None:
        """
        Forget what ``begin`` said: another response is to be sent.

        Raises:
            ResponseError: If some of it has been sent.

        """
        if self._status:
            raise ResponseError("the response has been sent already")
        self._start = None

    @property
    def begun(self) -> bool:
        """Whether the head has been sent."""
        return self._status != 0

    def write(self, data: bytes, more: bool) -> None:
        """Send a piece of the body; blocks while 64 KiB wait for the peer."""
        transport = self.connection.transport
        if transport.ended or self._finished or self._start is None:
            self._refuse_to_write()
        if not more and not self._status and self._send_whole(data):
            return
        output = b"" if self._status else self._encode_start(len(data), more)
        if self._has_body:
            if self._chunked:
                output += self._encode_chunk(data, more)
            else:
                if self._left is not None:
                    self._left -= len(data)
                    if self._left < 0:
                        raise ResponseError("the body is longer than it was said to be")
                output += data
        self._status = self._start[0]
        self._sent += len(data)
        waiting = transport.push(output) if output else 0
        if not more and not self._trailers:
            self._end_body()
        if waiting > OWN_BUFFER:
            self._wait_for_room()
        if more:
            self._pieces += 1
            if self._pieces % PIECES_AT_A_TIME == 0:
                gevent.sleep(ONE_TURN)  # or who never stops would stop all others

    @property
    def wants_body(self) -> bool:
        """Whether what is written of a body goes anywhere: not for HEAD."""
        return self._has_body or not self._status

    def write_out(self) -> None:
        """Let what has been written leave now, unless it is all; never blocks."""
        if self._left != 0:
            self.connection.transport.write_now()

    def _send_whole(self, data: bytes) -> bool:
        """Send the whole response at once, if nothing about it is special."""
        output = self._encode_plainly(len(data), data)
        if output is None:
            return False
        self._sent = len(data)
        waiting = self.connection.transport.push(output)
        self._finish()
        if waiting > OWN_BUFFER:
            self._wait_for_room()
        return True

    def _encode_plainly(self, length: int, data: bytes) -> bytes | None:
        """Return head and data of a response about which nothing is special."""
        assert self._start is not None
        status, headers, reason = self._start
        if (
            not self._keep_alive
            or not self.body_complete
            or self._server.draining
            or self._trailers
            or status in NO_BODY
            or self.request.method == "HEAD"
            or self.request.http_version != "1.1"
        ):
            return None
        line, date = encode_status_line(status, reason), self._server.date_field()
        output = join_response(line, headers, date, length, data)
        if output is not None:
            self._status, self._has_body = status, True
            self._left = length - len(data)
        return output

    def _wait_for_room(self) -> None:
        transport = self.connection.transport
        transport.write_now()
        while transport.own > OWN_BUFFER and not transport.closed:
            transport.wait_for_progress()

    def write_file(
        self, file: Any, offset: int | None, count: int | None, more: bool
    ) -> None:
        """
        Send a part of a file; blocks until the kernel has taken all of it.

        Args:
            file: An object with ``fileno()``; it stays the caller's.
            offset: Where to begin; ``None`` for its present position.
            count: How many bytes; ``None`` for the rest.
            more: Whether more of the body follows.

        """
        ended = self.connection.transport.ended
        if ended or self._finished or self._start is None:
            self._refuse_to_write()
        fd = file.fileno()
        start, size = file_part(fd, offset, count)
        if (
            not more
            and not self._status
            and size
            and self._send_whole_file(fd, start, size)
        ):
            return
        output = b"" if self._status else self._encode_start(size, more)
        if self._has_body and size:
            if self._left is not None and size > self._left:
                raise ResponseError("the file is longer than Content-Length says")
            head = b"%x\r\n" % size if self._chunked else b""
            self._status = self._start[0]
            sent = self.connection.transport.send_file(output + head, fd, start, size)
            self._sent += sent
            if self._left is not None:
                self._left -= sent
            if sent < size:
                self._refuse_short_file()
            output = b"\r\n" if self._chunked else b""
        self._status = self._start[0]
        if output:
            self.connection.transport.push(output)
        if not more:
            if self._chunked and self._has_body and not self._trailers:
                self.connection.transport.push(LAST_CHUNK)
            if not self._trailers:
                self._end_body()

    def _send_whole_file(self, fd: int, start: int, size: int) -> bool:
        output = self._encode_plainly(size, b"")
        if output is None:
            return False
        self._sent = self.connection.transport.send_file(output, fd, start, size)
        self._left = size - self._sent
        if self._left:
            self._refuse_short_file()
        self._finish()
        return True

    def _refuse_short_file(self) -> NoReturn:
        self._check_alive()
        raise ResponseError("the file has shrunk while it was sent")

    def _check_alive(self) -> None:
        if self._ended or self.connection.transport.ended:
            raise ConnectionBroken(reason="the peer has gone", source=self)
        if self._refused:
            raise ConnectionBroken(reason="the request has been refused", source=self)

    def _refuse_to_write(self) -> NoReturn:
        self._check_alive()
        if self._start is None:
            raise ResponseError("a body needs http.response.start first")
        raise ResponseError("the response is complete")

    def _end_body(self) -> None:
        if self._left and self._has_body:
            raise ResponseError(f"{self._left} promised bytes were not sent")
        self._finish()

    def send_trailers(self, fields: Headers) -> None:
        """Send the fields behind a chunked body, if ``begin`` announced them."""
        if not self._trailers or not self._status:
            raise ResponseError("trailers were not announced, or come before the body")
        if self.connection.transport.ended or self._finished:
            self._refuse_to_write()
        if self._chunked and self._has_body:
            lines = encode_fields(fields)
            self.connection.transport.push(b"0\r\n%b\r\n" % lines)
        self._end_body()

    def _encode_chunk(self, data: bytes, more: bool) -> bytes:
        chunk = encode_chunk(data)
        return chunk if more or self._trailers else chunk + LAST_CHUNK

    def _encode_start(self, size: int, more: bool) -> bytes:
        """Return the head; decide how the body's end is told (section 6.3)."""
        assert self._start is not None
        status, headers, reason = self._start
        fields = []
        close = False
        date, length = self._server.date_field(), None
        for field in headers:
            name = field[0]
            if name not in _OURS:
                fields.append(field)
            elif name == b"content-length":
                length = field[1]
            elif name == b"date":
                fields.append(field)
                date = b""
            elif name == b"connection":
                close = close or b"close" in field[1].lower()
        line = encode_status_line(status, reason)
        lines = encode_fields(fields)
        self._has_body = status not in NO_BODY and self.request.method != "HEAD"
        framing = self._frame_fields(status, length, size, more)
        connection = b""
        if close or not self._is_plain:
            connection = self._connection_field(close)
        return b"%b%b%b%b%b\r\n" % (line, lines, framing, connection, date)

    def _frame_fields(
        self, status: int, length: bytes | None, size: int, more: bool
    ) -> bytes:
        if status in NO_BODY:
            if length is not None and status == 304:
                return b"content-length: %d\r\n" % int(length)
            return b""
        more = more or self._trailers
        if length is not None:
            if not length.isdigit():
                raise ResponseError(f"{length!r} is no Content-Length")
            self._left = int(length)
        elif not more:
            self._left = size
        elif self.request.http_version == "1.1":
            self._chunked = True
            return b"transfer-encoding: chunked\r\n"
        else:
            self._keep_alive = False
            return b""
        return b"content-length: %d\r\n" % self._left

    @property
    def _is_plain(self) -> bool:
        """Whether the connection goes on, and the peer expects nothing else."""
        return (
            self._keep_alive
            and self.body_complete
            and self.request.http_version == "1.1"
            and not self._server.draining
        )

    def _connection_field(self, close: bool) -> bytes:
        """Return what the head says of the connection; most say nothing."""
        if close or (not self.body_complete and not self._can_discard()):
            self._keep_alive = False
        if not self._keep_alive or self._server.draining:
            return b"connection: close\r\n"
        if self.request.http_version == "1.0":
            return b"connection: keep-alive\r\n"
        return b""

    def _can_discard(self) -> bool:
        """
        Return whether the rest of the body is small, and surely comes.

        Else it cannot be told from the next request unless it is read to its
        end, which may never be.
        """
        length = self.request.content_length
        if length is None or self._continue:
            return False
        return length - self._body_received <= MAX_DISCARDED


def file_part(fd: int, offset: int | None, count: int | None) -> tuple[int, int]:
    """Return where a part of an open file begins, and its size."""
    start = os.lseek(fd, 0, os.SEEK_CUR) if offset is None else offset
    if count is None:
        count = max(0, os.fstat(fd).st_size - start)
    return start, count
