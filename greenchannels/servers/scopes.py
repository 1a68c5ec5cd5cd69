"""The GSGI scopes of requests: dicts as in ASGI 3 (www 2.5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..options import HTTPLimits, ServerOptions
from ..types import Scope
from ..wire.grammar import read_list
from ..wire.http1 import Request, RequestParser
from .proxies import Headers, Peer

#: For heads that have been within their limits once already.
NO_LIMITS = HTTPLimits(None, None, None, None)

ASGI = {"version": "3.0", "spec_version": "2.5"}


def http_scope(request: Request, peer: Peer, options: ServerOptions) -> Scope:
    """Return the scope of an HTTP request."""
    scope = _common(request, peer)
    scope["type"] = "http"
    scope["method"] = request.method
    scope["scheme"] = "https" if peer.secure else "http"
    scope["extensions"] = {
        "greenchannels": {
            "debug": options.debug,
            "max_body_in_memory": options.http.max_body_in_memory,
        }
    }
    return scope


def websocket_scope(
    head: bytes, peer_of: Callable[[Headers], Peer], socket: Any
) -> Scope:
    """
    Return the scope of a handshake.

    Args:
        head: The request's head as it was received.
        peer_of: Says who the peer is, from the header fields.
        socket: The server's socket, for groups behind middleware.

    """
    request = RequestParser(NO_LIMITS).receive_data(head)[0]
    assert isinstance(request, Request), "the head has been parsed before"
    peer = peer_of(request.headers)
    scope = _common(request, peer)
    scope["type"] = "websocket"
    scope["scheme"] = "wss" if peer.secure else "ws"
    offered = [v for n, v in request.headers if n == b"sec-websocket-protocol"]
    scope["subprotocols"] = [name.decode("latin-1") for name in read_list(offered)]
    scope["extensions"] = {
        "websocket.http.response": {},
        "greenchannels": {"socket": socket},
    }
    return scope


def _common(request: Request, peer: Peer) -> dict[str, Any]:
    host, _, port = peer.host.rpartition(":")
    if not host or not port.isdecimal():
        host, port = peer.host, "443" if peer.secure else "80"
    return {
        "asgi": dict(ASGI),
        "http_version": request.http_version,
        "path": request.path,
        "raw_path": request.raw_path,
        "query_string": request.query_string,
        "root_path": "",
        "headers": request.headers,
        "client": peer.client,
        "server": (host, int(port)) if host else None,
        "state": {},
    }
