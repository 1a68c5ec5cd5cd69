"""
WebSockets that have come to another WSGI server: how to get their connections.

A WSGI server on gevent calls an application in the connection's own greenlet and can
be asked for the socket: gunicorn's ``gevent`` worker, ``gevent.pywsgi`` with gunicorn
or without, and gevent-websocket's handler, which has answered the handshake by then.
Each has its own place for the socket and for what it has read ahead, and its own way
to be told that the connection is none of its business any more.
"""

from __future__ import annotations

import ssl
import struct
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .close_codes import INTERNAL_ERROR, POLICY_VIOLATION, TRY_LATER
from .hosting.heads import Environ, address_of, as_answered, head_of, scope_of
from .net.relay import Relay
from .servers.guest import GuestServer
from .wire.frames import CLOSE, encode_control

#: Bytes of an answer's head, at most: our own.
MAX_ANSWER = 256 * 1024


@dataclass(slots=True)
class Handover:
    """
    A connection that can be taken over.

    Attributes:
        sock: A socket of gevent's.
        received: What the other server has read of it behind the request's head.
        answered: Whether the client has its 101 already.
        subprotocol: Which one that named.
        end: Tells the other server that the connection has been dealt with, and
            returns what it takes for a response.

    """

    sock: Any
    received: bytes
    end: Callable[[], Iterable[bytes]]
    answered: bool = False
    subprotocol: str | None = None

    def serve(self, guest: GuestServer, environ: Environ) -> Iterable[bytes]:
        """Have a server serve the connection; blocks until it has been closed."""
        head = head_of(environ)
        if self.answered:
            head = as_answered(head, self.subprotocol)
        received = head + self.received
        address, scope = address_of(environ), scope_of(environ)
        if not self.answered and not isinstance(self.sock, ssl.SSLSocket):
            guest.serve(self.sock, received, address, scope)
            return self.end()
        relay = Relay(self.sock, _read_answer if self.answered else None)
        relay.start()
        try:
            guest.serve(relay.far, received, address, scope)
        finally:
            relay.finish()
        return self.end()


def serves_by_gevent(environ: Environ, start_response: Any) -> bool:
    """Whether the server that calls us has a greenlet for each request."""
    return (
        _handler_of(start_response) is not None
        or environ.get("wsgi.websocket") is not None
        or _is_socket(environ.get("gunicorn.socket"))
        or _is_socket(environ.get("gunicorn.sock"))
    )


def find_handover(environ: Environ, start_response: Any) -> Handover | None:
    """
    Return how to take over the connection of a request, if that can be done.

    The streams of an HTTP/2 connection share a socket, which is never taken.
    """
    if environ.get("HTTP_VERSION") == "2" or "HTTP/2" in environ["SERVER_PROTOCOL"]:
        return None
    upgraded = environ.get("wsgi.websocket")
    if upgraded is not None:
        found = _handler_of(getattr(upgraded.handler, "start_response", None))
        return _from_gevent_websocket(upgraded) if found is not None else None
    handler = _handler_of(start_response)
    if handler is not None:
        return _from_pywsgi(handler)
    sock = environ.get("gunicorn.socket")
    return _from_gunicorn(sock, environ) if _is_socket(sock) else None


def _is_socket(sock: Any) -> bool:
    """Whether it is one of gevent's: reading it blocks a greenlet, not the hub."""
    module = sys.modules.get("gevent.socket")
    return module is not None and isinstance(sock, module.socket)


def _handler_of(start_response: Any) -> Any:
    """Return pywsgi's handler, whose method ``start_response`` is, if it is that."""
    module = sys.modules.get("gevent.pywsgi")
    handler = getattr(start_response, "__self__", None)
    return handler if module and isinstance(handler, module.WSGIHandler) else None


def _from_gunicorn(sock: Any, environ: Environ) -> Handover:
    """gunicorn's worker ``gevent``."""
    reader = getattr(environ["wsgi.input"], "reader", None)
    unreader = getattr(reader, "unreader", None)
    received = b"" if unreader is None else _take_buffered(unreader)

    def end() -> Iterable[bytes]:
        raise StopIteration  # which it takes for: closed, and nothing to log

    return Handover(sock, received, end)


def _take_buffered(unreader: Any) -> bytes:
    """Return what gunicorn has read behind a request; its older versions do not."""
    taken: bytes
    if hasattr(unreader, "take_buffered"):
        taken = unreader.take_buffered()
    else:
        taken = unreader.buf.getvalue()
    return taken


def _from_pywsgi(handler: Any) -> Handover:
    """``gevent.pywsgi``, and gunicorn's worker ``gevent_pywsgi``."""
    received = _read_ahead(handler.rfile, handler.socket)

    def end() -> Iterable[bytes]:
        handler.close_connection = True
        handler.log_request = _log_nothing  # it would say that nothing was answered
        return []

    return Handover(handler.socket, received, end)


def _from_gevent_websocket(upgraded: Any) -> Handover:
    """The handler and the worker of gevent-websocket."""
    handler = upgraded.handler
    received = _read_ahead(handler.rfile, handler.socket)

    def end() -> Iterable[bytes]:
        upgraded.closed = True  # so that it sends no close frame of its own
        return []

    subprotocol = None
    for name, value in getattr(handler, "response_headers", ()):
        if _text(name).lower() == "sec-websocket-protocol":
            subprotocol = _text(value)
    return Handover(handler.socket, received, end, True, subprotocol)


def _text(name: str | bytes) -> str:
    return name.decode("latin-1") if isinstance(name, bytes) else str(name)


def _log_nothing() -> None:
    pass


def _read_ahead(stream: Any, sock: Any) -> bytes:
    """Return what a buffered stream holds of a socket; never blocks."""
    timeout = sock.gettimeout()
    sock.settimeout(0)
    try:
        found: bytes = stream.peek(1) or b""
    except (OSError, ValueError):
        found = b""
    sock.settimeout(timeout)
    return found


# The answer, when there has been one.


def _read_answer(near: Any) -> bytes:
    """
    Read how our server answers a handshake; return what the client is told.

    It has its 101, so a refusal becomes a close frame. Blocks until the consumer has
    decided.
    """
    answer = b""
    while (end := answer.find(b"\r\n\r\n") + 4) < 4 and len(answer) < MAX_ANSWER:
        data = near.recv(MAX_ANSWER)
        if not data:
            return b""
        answer += data
    status = int(answer.split(b" ", 2)[1])
    if status == 101:
        return answer[end:]
    while near.recv(MAX_ANSWER):
        pass  # the page that explains it
    code = INTERNAL_ERROR if status == 500 else POLICY_VIOLATION
    if status == 503:
        code = TRY_LATER
    reason = f"refused with {status}".encode()
    return encode_control(CLOSE, struct.pack("!H", code) + reason)
