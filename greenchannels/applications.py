"""
A routing as a WSGI application (PEP 3333): what gunicorn and its like are given.

``greenchannels.gunicorn.Worker`` finds the routing on it and serves all of it by its
own server. Any other WSGI server calls it. If that runs on gevent, the connections of
WebSockets are taken over (``handover.py``); elsewhere HTTP routes work and sockets do
not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from gevent.event import Event as Signal

from .handover import find_handover, serves_by_gevent
from .options import ServerOptions, check_options
from .routing import Match, Router
from .stock import Guests
from .types import Event, Scope

#: Bytes of a request's body that are read at a time.
READ_SIZE = 64 * 1024

#: What a client is told that wants a WebSocket from a server that has none.
NO_SOCKETS = b"This server cannot serve WebSockets.\n"

logger = logging.getLogger("greenchannels.server")

StartResponse = Callable[..., Callable[[bytes], object]]


class Application:
    """
    A routing that WSGI servers can call.

    Args:
        routing: A list of routes, a ``Router``, or one GSGI consumer.
        options: For our own server.

    Attributes:
        router: The routing.
        options: What our own server is told; ``None`` for the defaults.

    Raises:
        ConfigurationError: If routing or options are wrong.

    """

    def __init__(self, routing: Any, options: ServerOptions | None = None) -> None:
        self.router = routing if isinstance(routing, Router) else Router(routing)
        self.options = None if options is None else check_options(options)
        self._guests = Guests(self.router, self.options)
        self._warned = False

    def __repr__(self) -> str:
        return f"Application({self.router!r})"

    def __call__(
        self, environ: dict[str, Any], start_response: StartResponse
    ) -> Iterable[bytes]:
        """
        Serve a request over WSGI.

        Blocks until its response has been sent, or its WebSocket has been closed.
        """
        guest = None
        if serves_by_gevent(environ, start_response):
            guest = self._guests.here(environ)
        if environ.get("HTTP_UPGRADE", "").lower() == "websocket":
            handover = find_handover(environ, start_response)
            if guest is None or handover is None:
                return self._refuse_socket(start_response)
            return handover.serve(guest, environ)
        call = _Call(environ, start_response)
        try:
            self.router(_scope_of(environ), call.receive, call.send)
        finally:
            call.over.set()
        return []

    def app_protocol(self, path: str) -> str | None:
        """Return the subprotocol to speak at a path, for gevent-websocket."""
        match = self.router.find("websocket", "GET", path)
        subprotocols = match.route.subprotocols if isinstance(match, Match) else ()
        return subprotocols[0] if subprotocols else None

    def _refuse_socket(self, start_response: StartResponse) -> Iterable[bytes]:
        if not self._warned:
            self._warned = True
            logger.error(
                "a WebSocket is refused with 501: this WSGI server cannot serve it;"
                " gunicorn can, with -k greenchannels.gunicorn.Worker or -k gevent"
            )
        length = str(len(NO_SOCKETS))
        headers = [("Content-Type", "text/plain"), ("Content-Length", length)]
        start_response("501 Not Implemented", headers)
        return [NO_SOCKETS]


def application(routing: Any, *, options: ServerOptions | None = None) -> Application:
    """
    Return ``routing`` as a WSGI application, for gunicorn and its like.

    Args:
        routing: A list of routes, a ``Router``, or one GSGI consumer.
        options: For ``greenchannels.gunicorn.Worker``; what gunicorn itself is told
            of connections, of the time to stop and of proxies goes before.

    Raises:
        ConfigurationError: If routing or options are wrong.

    """
    return Application(routing, options)


class _Call:
    """The GSGI side of one WSGI call: ``receive`` and ``send``."""

    def __init__(self, environ: dict[str, Any], start_response: StartResponse) -> None:
        self._start_response = start_response
        self._write: Callable[[bytes], object] | None = None
        self._input = environ["wsgi.input"]
        length = environ.get("CONTENT_LENGTH", "")
        self._left: int | None = int(length) if length.isdecimal() else 0
        if not length and environ.get("wsgi.input_terminated"):
            self._left = None
        self._body_ended = False
        #: Set when the request has been served.
        self.over = Signal()

    def receive(self) -> Event:
        """Return a piece of the body; after it block until the request is over."""
        if self._body_ended:
            self.over.wait()
            return {"type": "http.disconnect"}
        size = READ_SIZE if self._left is None else min(READ_SIZE, self._left)
        data = self._input.read(size) if size else b""
        if self._left is not None:
            self._left -= len(data)
        self._body_ended = not data or self._left == 0
        more = not self._body_ended
        return {"type": "http.request", "body": data, "more_body": more}

    def send(self, event: Event) -> None:
        """Take a part of the response; blocks while the server does."""
        if event["type"] == "http.response.start":
            self._write = self._start_response(
                _status_line(event["status"]),
                [
                    (n.decode("latin-1"), v.decode("latin-1"))
                    for n, v in event["headers"]
                ],
            )
        elif event["type"] == "http.response.body":
            assert self._write is not None, "a body needs http.response.start first"
            self._write(bytes(event.get("body", b"")))
        else:
            raise ValueError(f"WSGI cannot send {event['type']!r}")


def _status_line(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} Unknown"


def _scope_of(environ: dict[str, Any]) -> Scope:
    """Return the GSGI scope of a request, as far as its environ tells."""
    root_path, below = (
        environ.get(key, "").encode("latin-1").decode("utf-8", "replace")
        for key in ("SCRIPT_NAME", "PATH_INFO")
    )
    path, port = root_path + (below or "/"), environ.get("REMOTE_PORT") or "0"
    client = environ.get("REMOTE_ADDR")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": environ["SERVER_PROTOCOL"].partition("/")[2],
        "method": environ["REQUEST_METHOD"],
        "scheme": environ["wsgi.url_scheme"],
        "path": path,
        "raw_path": quote(path).encode(),
        "query_string": environ.get("QUERY_STRING", "").encode("latin-1"),
        "root_path": root_path,
        "headers": _headers_of(environ),
        "client": (client, int(port)) if client else None,
        "server": (environ["SERVER_NAME"], int(environ["SERVER_PORT"] or 80)),
        "state": {},
        "extensions": {
            "greenchannels": {"multiprocess": environ.get("wsgi.multiprocess", False)}
        },
    }


def _headers_of(environ: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    found = []
    for key, value in environ.items():
        if key in ("CONTENT_TYPE", "CONTENT_LENGTH") and value:
            name = key
        elif key.startswith("HTTP_"):
            name = key[5:]
        else:
            continue
        name = name.replace("_", "-").lower()
        found.append((name.encode("latin-1"), str(value).encode("latin-1")))
    return found
