"""
WSGI applications as consumers (PEP 3333).

``serve`` runs one over the server's own exchange; as a GSGI consumer, with
middleware between, it speaks events. What the application sends goes out as it
comes: only a list, which is complete, is sent in one piece.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from ..errors import ConnectionBroken, ConnectionEnded
from ..types import Receive, Scope, Send
from .environ import environ_of
from .responders import BLOCK, EventResponder, Responder

Application: TypeAlias = Callable[[dict[str, Any], Any], Iterable[bytes]]

#: Bytes of a body that ``wsgi.input`` reads ahead.
READ_AHEAD = 64 * 1024


class WSGIHost:
    """Serve HTTP requests by a WSGI application."""

    def __init__(self, app: Application) -> None:
        self.app = app

    def __repr__(self) -> str:
        return f"WSGIHost({self.app!r})"

    def serve(self, responder: Responder, environ: dict[str, Any]) -> None:
        """Run the application for one request; blocks."""
        environ["wsgi.file_wrapper"] = FileWrapper
        call = Call(responder)
        result = self.app(environ, call.start_response)
        try:
            call.send(result)
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request behind middleware."""
        if scope["type"] != "http":
            raise ValueError(f"a WSGI application cannot serve {scope['type']!r}")
        responder = EventResponder(receive, send)
        self.serve(responder, environ_of(scope, open_body(responder)))


class BodyCut(ConnectionBroken, ConnectionResetError):
    """
    The peer went away before the end of its body.

    An ``OSError``, too, since that is what frameworks expect of a file.
    """

    def __init__(self, error: ConnectionBroken) -> None:
        super().__init__(error.code, error.reason, source=error.source)
        self.errno = errno.ECONNRESET


def open_body(responder: Responder) -> io.BufferedReader:
    """Return a request's body as a file; reading blocks until it has come."""
    return io.BufferedReader(_Body(responder), READ_AHEAD)


class _Body(io.RawIOBase):
    """The pieces of a body, one after the other."""

    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._piece:
            try:
                self._piece = memoryview(self._responder.read())
            except ConnectionBroken as error:
                raise BodyCut(error) from error
        size = min(len(buffer), len(self._piece))
        buffer[:size] = self._piece[:size]
        self._piece = self._piece[size:]
        return size


class FileWrapper:
    """
    A file as a response's body (PEP 3333, "Optional Platform-Specific File Handling").

    Args:
        file: Anything with ``read(size)``; closed with the response.
        block_size: Bytes that are read at a time.

    """

    def __init__(self, file: Any, block_size: int = BLOCK) -> None:
        self.file = file
        self.block_size = block_size

    def __iter__(self) -> Iterator[bytes]:
        """Return itself, so that whoever closes the iterator closes the file."""
        return self

    def __next__(self) -> bytes:
        """Return the next block of the file."""
        data: bytes = self.file.read(self.block_size)
        if not data:
            raise StopIteration
        return data

    # Werkzeug sends ranges through these.

    def seekable(self) -> bool:
        """Return whether ``seek`` works."""
        seekable = getattr(self.file, "seekable", None)
        return seekable is not None and bool(seekable())

    def seek(self, *args: Any) -> Any:
        """Move in the file."""
        return self.file.seek(*args)

    def tell(self) -> Any:
        """Return where the file stands."""
        return self.file.tell()

    def close(self) -> None:
        """Close the file."""
        close = getattr(self.file, "close", None)
        if close is not None:
            close()

    def plain_file(self) -> Any:
        """Return the file if its descriptor has the very bytes that it reads."""
        file = self.file
        if type(file).__module__ == "tempfile":
            file = getattr(file, "file", file)
        raw = getattr(file, "raw", file)
        if type(raw) is io.FileIO and type(file) in _PLAIN_FILES and not file.closed:
            found = os.fstat(file.fileno())
            # Not pipes, nor those of /proc, whose size is none.
            if stat.S_ISREG(found.st_mode) and found.st_size:
                return file
        return None


_PLAIN_FILES = (io.FileIO, io.BufferedReader, io.BufferedRandom)


@functools.lru_cache(maxsize=256)
def read_status(status: str) -> tuple[int, str]:
    """
    Return the number and the phrase of a WSGI status.

    Raises:
        ValueError: If it is not like "200 OK".

    """
    number, _, phrase = status.partition(" ")
    if len(number) != 3 or not number.isascii() or not number.isdigit():
        raise ValueError(f"a status is a number and a phrase, not {status!r}")
    if number < "200":
        raise ValueError(f"{status!r} is no final status")
    return int(number), phrase.strip()


class Call:
    """
    One call of an application.

    Args:
        responder: Where its response goes.

    """

    __slots__ = ("_fields", "_responder", "_started")

    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self._started = False

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        """Say how the response begins; return ``write``."""
        if exc_info:
            try:
                if self._responder.begun:
                    raise exc_info[1].with_traceback(exc_info[2])
                if self._started:
                    self._responder.take_back()
            finally:
                exc_info = None
        elif self._started:
            raise RuntimeError("start_response was called twice, without exc_info")
        number, phrase = read_status(status)
        fields = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in headers
        ]
        self._fields = fields
        self._started = True
        try:
            self._responder.begin(number, fields, phrase)
        except ConnectionEnded:
            # Let it be found by the first write: an application that fails here
            # has returned nothing yet whose ``close`` would be called.
            return self.write
        return self.write

    def write(self, data: bytes) -> None:
        """Send a piece of the body, now."""
        self._check(data)
        if data:
            self._responder.write(data, more=True)
            # It must not wait for the application to let others run.
            self._responder.write_out()

    def send(self, result: Iterable[bytes]) -> None:
        """Send what the application returned."""
        if type(result) in (list, tuple):
            if self._started and len(result) == 1 and type(result[0]) is bytes:  # type: ignore[arg-type, index]
                self._responder.write(result[0], more=False)  # type: ignore[index]
                return
            for data in result:
                self._check(data)
            self._check(b"")
            self._responder.write(b"".join(result), more=False)
            return
        if type(result) is FileWrapper:
            self._send_file(result)
            return
        for data in result:
            self.write(data)
            if not self._responder.wants_body:
                break  # HEAD: it may go on for ever
        self._check(b"")
        self._responder.write(b"", more=False)

    def _send_file(self, result: FileWrapper) -> None:
        """Send a file's rest, but no more than Content-Length says."""
        self._check(b"")
        left = None if self._responder.begun else self._content_length()
        file = result.plain_file()
        if file is not None:
            self._responder.write_file(file, file.tell(), left, more=False)
            return
        for data in result:
            self.write(data if left is None else data[:left])
            if left is not None:
                left = max(0, left - len(data))
                if not left:
                    break
        self._responder.write(b"", more=False)

    def _content_length(self) -> int | None:
        for name, value in self._fields:
            if name == b"content-length" and value.isdigit():
                return int(value)
        return None

    def _check(self, data: bytes) -> None:
        if not isinstance(data, bytes):
            raise TypeError(f"a WSGI body is of bytes, not {type(data).__name__}")
        if not self._started:
            raise RuntimeError("the application did not call start_response")
