"""The GSGI scopes of requests: dicts as in ASGI 3 (www 2.5)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from ..options import HTTPLimits, ServerOptions
from ..types import Scope
from ..wire.grammar import read_list
from ..wire.http1 import Request, RequestParser
from .proxies import Headers, Peer

#: For heads that have been within their limits once already.
NO_LIMITS = HTTPLimits(None, None, None, None)

#: ASGI's extensions that responses may use.
HTTP_EXTENSIONS: dict[str, dict[str, Any]] = {
    "http.response.trailers": {},
    "http.response.zerocopysend": {},
}

ASGI = {"version": "3.0", "spec_version": "2.5"}


def http_scope(request: Request, peer: Peer, options: ServerOptions) -> Scope:
    """Return the scope of an HTTP request."""
    scope = _common(request, peer, options.root_path)
    scope["type"] = "http"
    scope["method"] = request.method
    scope["scheme"] = "https" if peer.secure else "http"
    scope["extensions"] = {
        "greenchannels": {
            "debug": options.debug,
            "max_body_in_memory": options.http.max_body_in_memory,
            "multiprocess": options.multiprocess,
        },
        **HTTP_EXTENSIONS,
    }
    return scope


def websocket_scope(
    head: bytes, peer_of: Callable[[Headers], Peer], socket: Any, root_path: str = ""
) -> Scope:
    """
    Return the scope of a handshake.

    Args:
        head: The request's head as it was received.
        peer_of: Says who the peer is, from the header fields.
        socket: The server's socket, for groups behind middleware.
        root_path: The prefix of all paths.

    """
    request = RequestParser(NO_LIMITS).receive_data(head)[0]
    assert isinstance(request, Request), "the head has been parsed before"
    put_below(request, root_path)
    peer = peer_of(request.headers)
    scope = _common(request, peer, root_path)
    scope["type"] = "websocket"
    scope["scheme"] = "wss" if peer.secure else "ws"
    offered = [v for n, v in request.headers if n == b"sec-websocket-protocol"]
    scope["subprotocols"] = [name.decode("latin-1") for name in read_list(offered)]
    scope["extensions"] = {
        "websocket.http.response": {},
        "greenchannels": {"socket": socket},
    }
    return scope


@functools.lru_cache(maxsize=256)
def split_host(host: str, secure: bool) -> tuple[str, int] | None:
    """Return the name and the port of a Host field, or of what stands for it."""
    name, _, port = host.rpartition(":")
    if not name or not port.isdecimal():
        name, port = host.removesuffix(":"), "443" if secure else "80"
    return (name, int(port)) if name else None


def put_below(request: Request, root_path: str) -> None:
    """
    Have a request's path begin with ``root_path``, as ASGI says.

    A proxy may have removed it or not: a path that begins with it stays.
    """
    path = request.path
    if path.startswith("/") and not (path + "/").startswith(root_path + "/"):
        request.path = root_path + path
        request.raw_path = quote(root_path).encode() + request.raw_path


def _common(request: Request, peer: Peer, root_path: str) -> dict[str, Any]:
    return {
        "asgi": dict(ASGI),
        "http_version": request.http_version,
        "path": request.path,
        "raw_path": request.raw_path,
        "query_string": request.query_string,
        "root_path": root_path,
        "headers": request.headers,
        "client": peer.client,
        "server": split_host(peer.host, peer.secure),
        "state": {},
    }
