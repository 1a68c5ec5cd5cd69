"""
Requests: which consumer serves one, and what it is given.

An application of WSGI gets its environ and a folder its file without the dicts of
GSGI between, where no middleware wants them.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from ..hosting.environ import make_environ
from ..hosting.wsgi import open_body
from ..routing import Match, NoMatch, path_below, refuse, scope_of
from ..types import Scope
from ..wire.http1 import Request
from .exchange import Exchange
from .proxies import Peer
from .scopes import http_scope, put_below, split_host

if TYPE_CHECKING:
    from .server import Server


class Requests:
    """
    Serve HTTP requests by the routing of a server.

    Args:
        server: The server.

    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._options = server.options
        self._router = server.router
        self._proxies = server.proxies

    def serve(self, request: Request, exchange: Exchange) -> None:
        """Run the consumer of one request, in its greenlet."""
        path = request.path
        if self._options.root_path:
            path = route_path(request, self._options.root_path)
        match = self._router.find("http", request.method, path)
        if type(match) is NoMatch:
            refuse(self._scope(request, exchange), exchange.send, match)
            return
        assert type(match) is Match
        route = match.route
        if not route.direct:
            scope = scope_of(self._scope(request, exchange), match)
            route.consumer(scope, exchange.receive, exchange.send)
        elif route.kind == "wsgi":
            route.target.serve(exchange, self._environ(request, exchange, match))
        else:
            route.target.serve(
                exchange, request.method, request.headers, match.rest, match.file
            )

    def _scope(self, request: Request, exchange: Exchange) -> Scope:
        scope = http_scope(request, self._peer(request, exchange), self._options)
        self._server.lifespan.add_state(scope)
        transport = exchange.connection.transport
        if transport.secure:
            scope["extensions"]["tls"] = transport.describe_tls()
        return scope

    def _environ(
        self, request: Request, exchange: Exchange, match: Match
    ) -> dict[str, Any]:
        peer = self._peer(request, exchange)
        script_name = request.path.removesuffix(match.rest)
        return make_environ(
            method=request.method,
            script_name=script_name,
            path_info=match.rest,
            query_string=request.query_string,
            http_version=request.http_version,
            scheme="https" if peer.secure else "http",
            server=split_host(peer.host, peer.secure) or ("localhost", None),
            client=peer.client,
            headers=request.headers,
            body=io.BytesIO() if exchange.body_complete else open_body(exchange),
            multiprocess=self._options.multiprocess,
        )

    def _peer(self, request: Request, exchange: Exchange) -> Peer:
        secure, client = exchange.connection.transport.secure, exchange.client
        if self._options.proxies:
            return self._proxies.peer(client, request.headers, secure)
        hosts = request.fields.get(b"host")
        host = hosts[0].decode("latin-1") if hosts else ""
        return Peer((client[0], client[1]) if client else None, secure, host)


def route_path(request: Request, root_path: str) -> str:
    """Return the path that routes match: without the prefix of all."""
    if not root_path:
        return request.path
    put_below(request, root_path)
    return path_below(request.path, root_path)
