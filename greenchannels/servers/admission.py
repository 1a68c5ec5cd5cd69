"""
Admission: which handshakes become sockets (RFC 6455, section 4.2).

What is no handshake, goes nowhere, comes from a foreign page, or comes too late is
refused here; the rest is the consumer's to accept or reject.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ..errors import RemoteProtocolError
from ..net.transport import Transport
from ..routing import Match, NoMatch, Route
from ..security.origin import check_pattern, origin_allowed
from ..text import printable
from ..wire.handshake import read_handshake
from ..wire.http1 import Request
from .bursts import BurstSocket
from .endpoint import Endpoint
from .opening import Opening
from .rates import Rates
from .requests import route_path
from .websocket import ServerSocket

if TYPE_CHECKING:
    from .server import Server

logger = logging.getLogger("greenchannels.server")


class Admission:
    """
    Turn handshakes into sockets of a server.

    Args:
        server: The server.

    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._options = server.options
        self._proxies = server.proxies
        self._origins = tuple(map(check_pattern, server.options.origins))
        self._endpoints: dict[int, Endpoint] = {}
        self._rates = Rates(server)

    def open_websocket(
        self,
        transport: Transport,
        request: Request,
        trailing: bytes,
        client: Any,
        scope: dict[str, Any] | None = None,
    ) -> None:
        """Start serving a handshake, or refuse it. Called in the hub."""
        try:
            handshake = read_handshake(request)
        except RemoteProtocolError as error:
            self._refuse(transport, request, client, error.hint, str(error))
            return
        path = route_path(request, self._options.root_path)
        match = self._server.router.find("websocket", "GET", path)
        if isinstance(match, NoMatch):
            self._refuse(transport, request, client, 404)
        elif not self._origin_allowed(request, match.route, client, transport.secure):
            self._refuse(transport, request, client, 403)
        elif self._server.draining:
            self._refuse(transport, request, client, 503)
        else:
            opening = Opening(request, handshake, trailing)
            socket = self._socket(transport, opening, match, client)
            if scope:
                socket.extend_scope(scope)
            self._server.run_socket(socket, match)

    def _socket(
        self, transport: Transport, opening: Opening, match: Match, client: Any
    ) -> ServerSocket:
        """Return the socket for a route: with a greenlet of its own, or in bursts."""
        route = match.route
        server, endpoint, params = self._server, self._endpoint(route), match.params
        if route.handlers is None or not route.direct:
            return ServerSocket(server, transport, opening, endpoint, params, client)
        return BurstSocket(
            server, transport, opening, endpoint, params, client, route.handlers
        )

    def _endpoint(self, route: Route) -> Endpoint:
        found = self._endpoints.get(id(route))
        if found is None:
            limits = route.limits or self._options.limits
            deflate = self._options.deflate if route.deflate is None else route.deflate
            found = self._endpoints[id(route)] = Endpoint.make(
                route.path,
                limits,
                self._options.timeouts,
                route.subprotocols,
                self._rates.of_route(route.path, limits.rates),
                deflate or None,
                slow=route.slow,
                announce_drops=route.announce_drops,
            )
        return found

    def _origin_allowed(
        self, request: Request, route: Route, client: Any, secure: bool
    ) -> bool:
        """Apply the Origin rule, and log whom it refuses."""
        found = request.fields.get(b"origin")
        if found is None:
            return True
        origin = found[-1]
        scheme = b"https" if secure else b"http"
        if origin == b"%b://%b" % (scheme, request.fields[b"host"][-1]):
            return True
        peer = self._proxies.peer(client, request.headers, secure)
        text = origin.decode("latin-1")
        # Over TLS a page that somebody on the way could have changed is not ours.
        other = secure and peer.secure and not text.startswith("https:")
        host = "" if other else peer.host
        patterns = self._origins + (route.origins or ())
        if origin_allowed(text, host=host, patterns=patterns):
            return True
        logger.warning(
            "%s: refused with 403: the page is of origin %r and asked for host %r;"
            " --origin allows others",
            printable(request.path),
            text,
            peer.host,
        )
        return False

    def _refuse(
        self,
        transport: Transport,
        request: Request,
        client: Any,
        status: int,
        reason: str = "",
    ) -> None:
        headers = [(b"sec-websocket-version", b"13")] if status == 426 else []
        if status == 405:
            headers.append((b"allow", b"GET"))
        body = f"{reason}\n".encode() if reason else b""
        address = self._server.peer_address(client, request)
        self._server.access_log.reject(address, request.path, status)
        transport.push(self._server.refusal(status, headers, body))
        transport.close(linger=True)
