"""
One connection of a test client: a socket pair whose other end the server has.

It moves bytes and reads HTTP responses (RFC 9112, section 6.3); what
WebSockets say is in ``websockets.py``. Errors of the socket are end of stream:
a reset says no more to a test.
"""

from __future__ import annotations

import _socket
import contextlib
import fcntl
import termios
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import gevent
import gevent.socket
import msgspec

from ..errors import ConnectionBroken

if TYPE_CHECKING:
    from werkzeug.datastructures import Headers

    from ..net.transport import Transport
    from ..servers.server import Server

#: Header fields as a test gives them.
Fields: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]

#: Bytes asked of the kernel at once.
CHUNK = 256 * 1024


class Response:
    """
    An HTTP response.

    Attributes:
        status: The status code.
        headers: The fields; names in any case.
        body: The body, chunks put together.

    """

    def __init__(self, status: int, headers: Headers, body: bytes = b"") -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def __repr__(self) -> str:
        return f"<Response {self.status} {self.body[:80]!r}>"

    @property
    def text(self) -> str:
        """The body as UTF-8 text."""
        return self.body.decode()

    def json(self) -> Any:
        """Return the body decoded as JSON."""
        return msgspec.json.decode(self.body)


class Link:
    """
    A connection to ``server``; its other end is served at once.

    Args:
        server: A started server of this hub.
        number: What the server takes for the peer's port.
        scope: What the server puts into the scope of a WebSocket.

    """

    def __init__(
        self, server: Server, number: int, scope: dict[str, Any] | None = None
    ) -> None:
        ours, theirs = _socket.socketpair()
        theirs.setblocking(False)
        self._sock: Any = gevent.socket.socket(fileno=ours.detach())
        self._data = bytearray()
        self.closed = False
        self.at_end = False
        address = ("127.0.0.1", number)
        self.transport: Transport = server.connect(theirs, address, scope)

    def send(self, data: bytes) -> None:
        """
        Send all of ``data``; blocks while the server does not read.

        Raises:
            ConnectionBroken: If the server has closed.

        """
        try:
            self._sock.sendall(data)
        except TimeoutError:
            raise  # the caller's: a pair of sockets has no timeout of its own
        except OSError as error:
            raise ConnectionBroken(1006, str(error), source=self) from error

    def receive(self) -> bytes:
        """Return some bytes, blocking for them; none at the end."""
        if self._data:
            found = bytes(self._data)
            self._data.clear()
            return found
        try:
            data: bytes = self._sock.recv(CHUNK)
        except TimeoutError:
            raise
        except OSError:
            data = b""
        self.at_end = not data
        return data

    def close(self) -> None:
        """Close this end."""
        self.closed = True
        self._sock.close()

    @property
    def in_flight(self) -> bool:
        """Whether one end has not yet seen what the other did."""
        transport = self.transport
        if self.closed:
            return not transport.closed
        if transport.closed:
            return not self.at_end
        return _unread(self._sock.fileno()) + _unread(transport.fd) > 0

    # HTTP.

    def response(self, method: str = "GET") -> Response:
        """
        Return the next response that is final or 101; blocks.

        Raises:
            ConnectionBroken: If the server closes before its end.

        """
        response = self._head()
        while response.status < 200 and response.status != 101:
            response = self._head()
        if method != "HEAD" and response.status not in (101, 204, 304):
            response.body = self._body(response.headers)
        return response

    def _head(self) -> Response:
        from werkzeug.datastructures import Headers

        lines = self._read_until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        headers = Headers()
        for line in lines[1:-2]:
            name, _, value = line.partition(":")
            headers.add(name, value.strip())
        return Response(int(lines[0].split(" ")[1]), headers)

    def _body(self, headers: Headers) -> bytes:
        if "chunked" in headers.get("transfer-encoding", ""):
            return b"".join(self._chunks())
        size = headers.get("content-length")
        if size is not None:
            return self._read(int(size))
        return b"".join(iter(self.receive, b""))

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self._read_until(b"\r\n").partition(b";")[0], 16):
            yield self._read(size)
            self._read(2)
        while self._read_until(b"\r\n") != b"\r\n":
            pass

    def _read_until(self, end: bytes) -> bytes:
        while end not in self._data:
            self._more()
        return self._read(self._data.index(end) + len(end))

    def _read(self, size: int) -> bytes:
        while len(self._data) < size:
            self._more()
        found = bytes(self._data[:size])
        del self._data[:size]
        return found

    def _more(self) -> None:
        have = bytes(self._data)
        self._data.clear()
        data = self.receive()
        self._data += have + data
        if not data:
            raise ConnectionBroken(1006, f"closed after {have!r}", source=self)


@contextlib.contextmanager
def at_most(seconds: float | None, what: str) -> Iterator[None]:
    """Raise the builtin ``TimeoutError`` if the block takes longer."""
    error = TimeoutError(f"{what} took over {seconds} s")
    with gevent.Timeout(seconds, error):
        yield


def encode_request(
    method: str, target: str, defaults: Fields, headers: Fields, body: bytes = b""
) -> bytes:
    """Return a request; ``headers`` replace ``defaults`` of the same name."""
    given = _pairs(headers)
    names = {name.lower() for name, _ in given}
    fields = [(n, v) for n, v in _pairs(defaults) if n.lower() not in names] + given
    lines = [f"{method} {target} HTTP/1.1", *(f"{n}: {v}" for n, v in fields)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def _pairs(fields: Fields) -> list[tuple[str, str]]:
    return list(fields.items() if isinstance(fields, Mapping) else fields)


def _unread(fd: int) -> int:
    """Return how many bytes the kernel keeps for ``fd``."""
    answer = fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0")
    return int.from_bytes(answer, "little")
