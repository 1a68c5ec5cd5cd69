"""
The server: connections, consumers, and the order of starting and stopping.

It owns the reactor, the layer and the listeners; it gives each connection an
HTTP protocol, each handshake a socket, and each request a greenlet in a copy of
its own context. Its drain is in ``drain.py``, its lifespan in ``lifespan.py``.
"""

from __future__ import annotations

import contextvars
import io
import logging
from _socket import socket as RawSocket
from collections.abc import Callable
from email.utils import formatdate
from time import time
from typing import Any

import gevent
from gevent import Greenlet, getcurrent

from ..errors import ConnectionEnded, RemoteProtocolError
from ..hosting.environ import make_environ
from ..hosting.wsgi import open_body
from ..layers.layer import Layer
from ..layers.registry import CURRENT, make_layer, start_layer, stop_layer
from ..net.certificates import Certificates
from ..net.handshakes import Handshakes
from ..net.listener import Listener, OnConnection
from ..net.reactor import Reactor
from ..net.transport import Transport
from ..options import ServerOptions, check_options
from ..routing import Match, NoMatch, Route, Router, path_below, refuse, scope_of
from ..security.origin import check_pattern, origin_allowed
from ..text import printable
from ..types import Scope
from ..wire.handshake import read_handshake
from ..wire.http1 import Request
from .access import AccessLog
from .endpoint import Endpoint
from .exchange import Exchange
from .http import HTTPConnection, plain_response
from .lifespan import LifespanRunner
from .opening import Opening
from .proxies import Peer, TrustedProxies
from .proxy_header import ProxyHeaders
from .scopes import http_scope, put_below, split_host, websocket_scope
from .websocket import ServerSocket
from .workers import Workers

logger = logging.getLogger("greenchannels.server")


class Consumer(Greenlet):  # type: ignore[type-arg]
    """The greenlet that runs a consumer; its first argument says whose."""

    #: Its name says where it comes from; walking the stack for each costs 1 us.
    spawning_stack_limit = 0

    @property
    def name(self) -> str:
        """What is shown of it: made when asked for, since most never are."""
        return f"consumer of {self.args[0]!r}"


class Server:
    """
    Serve a routing on the hub of this thread.

    ``start`` it, give it connections by ``listen`` or ``connect``, and ``stop``
    it. Works in patched and unpatched processes.

    Args:
        routing: A list of routes, a ``Router``, or one GSGI consumer.
        options: Limits, timeouts, trust.
        layer: The groups and channels; by default a memory layer of its own.
        access_log: Where requests are noted; by default nowhere.

    Raises:
        ConfigurationError: If routing or options are wrong.

    """

    def __init__(
        self,
        routing: Any,
        *,
        options: ServerOptions | None = None,
        layer: Layer | None = None,
        access_log: AccessLog | None = None,
    ) -> None:
        self.options = check_options(options or ServerOptions())
        self.router = routing if isinstance(routing, Router) else Router(routing)
        self.layer = layer if layer is not None else make_layer("memory://")
        self.access_log = access_log or AccessLog()
        self.reactor: Reactor
        self.workers: Workers
        self.listeners: list[Listener] = []
        #: Every connection, with the protocol that serves it.
        self.connections: dict[Transport, HTTPConnection | ServerSocket] = {}
        self.sockets: set[ServerSocket] = set()
        self.draining = False
        self._proxies = TrustedProxies(self.options.proxies)
        self._proxy_headers: ProxyHeaders | None = None
        #: Whether accepting pauses, at the limit.
        self._full = False
        self._origins = tuple(map(check_pattern, self.options.origins))
        self._endpoints: dict[int, Endpoint] = {}
        self._lifespan = LifespanRunner(self.router)
        self._context = contextvars.Context()
        self._consumers: set[Greenlet[..., Any]] = set()
        self._date = (0, b"")

    # Starting and stopping.

    def start(self) -> None:
        """
        Start the layer and enter the routing's lifespans; blocks while they do.

        Raises:
            Exception: Whatever a lifespan raised; nothing is left started.

        """
        self.reactor = Reactor()
        self.workers = Workers(self.reactor.hub, self._context)
        if self.options.proxy_protocol:
            timeout = self.options.timeouts.head_timeout
            self._proxy_headers = ProxyHeaders(
                self.reactor, self._proxies, timeout, self._regulate_accepting
            )
        start_layer(self.layer, self.reactor)
        self._context.run(CURRENT.set, self.layer)
        try:
            self._lifespan.start(self._context)
        except BaseException:
            stop_layer(self.layer)
            self.reactor.close()
            raise

    def listen(self, sock: RawSocket, tls: Certificates | None = None) -> Listener:
        """
        Accept connections of a listening, non-blocking raw socket.

        Args:
            sock: The socket; owned by the server from now on.
            tls: Encrypts the connections; by default they are not encrypted.

        """
        accept = self._serve if tls is None else self._serve_with(tls)
        if self._proxy_headers is not None:
            accept = self._proxy_headers.before(accept)
        listener = Listener(self.reactor, sock, accept)
        self.listeners.append(listener)
        listener.start()
        return listener

    def _serve_with(self, tls: Certificates) -> OnConnection:
        """Return what serves each connection of a TLS listener."""
        handshakes = Handshakes(
            self.reactor,
            tls,
            counters=self.layer.counters,
            plain_answer=lambda: self.refusal(400, [], b"This port speaks HTTPS.\n"),
        )
        timeout = self.options.timeouts.write_timeout

        def serve(fd: int, address: Any) -> None:
            transport = handshakes.transport(fd, address, write_timeout=timeout)
            self._begin(transport, address)

        return serve

    def connect(
        self, sock: Any, address: Any, scope: dict[str, Any] | None = None
    ) -> Transport:
        """
        Serve a connected, non-blocking raw socket; never blocks.

        It sends no PROXY header, whatever the options say.

        Args:
            sock: The socket; owned by the server from now on.
            address: The peer's address.
            scope: What to put into the scopes of its WebSockets, such as a user.

        """
        return self._serve(sock.detach(), address, scope)

    def _serve(
        self, fd: int, address: Any, scope: dict[str, Any] | None = None
    ) -> Transport:
        transport = Transport(
            self.reactor, fd, write_timeout=self.options.timeouts.write_timeout
        )
        self._begin(transport, address, scope)
        return transport

    def _begin(
        self, transport: Transport, address: Any, scope: dict[str, Any] | None = None
    ) -> None:
        """Serve a connection that has just come."""
        client = address if isinstance(address, tuple) else None
        connection = HTTPConnection(self, transport, client, scope)
        self.connections[transport] = connection
        self._regulate_accepting()
        transport.start(connection)

    def _regulate_accepting(self) -> None:
        """Pause at the limit of connections, and go on below it."""
        limit = self.options.max_connections
        if limit is None:
            return
        count = len(self.connections) + len(self._proxy_headers or ())
        if count >= limit and not self._full:
            self._full = True
            logger.warning("accepting pauses: %d connections", count)
            for listener in self.listeners:
                listener.pause()
        elif count < limit and self._full and not self.draining:
            self._full = False
            for listener in self.listeners:
                listener.start()

    def connection_gone(self, transport: Transport) -> None:
        """A transport has closed its socket. Called in the hub."""
        self.connections.pop(transport, None)
        self._regulate_accepting()

    def stop(self, timeout: float | None = None) -> None:
        """
        Drain: stop accepting, let requests and sockets end, then end them.

        Blocks until all has ended, at most ``timeout`` seconds plus what
        lifespans take to leave.

        Args:
            timeout: Seconds; by default ``options.drain``.

        """
        from .drain import Drain

        self._cut_those_without_header()
        Drain(self, self.options.drain if timeout is None else timeout).run()
        self.close()

    def close(self) -> None:
        """End what is left at once, and leave the lifespans. Blocks for them."""
        self._cut_those_without_header()
        for listener in self.listeners:
            listener.close()
        for transport in tuple(self.connections):
            transport.abort()
        consumers = list(self.consumers)
        self.workers.close()
        gevent.killall(consumers, block=False)
        gevent.joinall(consumers, timeout=1.0)
        gevent.sleep(0)
        try:
            self._lifespan.stop()
        finally:
            stop_layer(self.layer)
            self.reactor.close()

    def _cut_those_without_header(self) -> None:
        """Begin to drain with the connections that have not said who they are."""
        self.draining = True
        if self._proxy_headers is not None:
            self._proxy_headers.close()

    @property
    def consumers(self) -> frozenset[Greenlet[..., Any]]:
        """The greenlets that run consumers now."""
        # One that was killed before it began never said that it ended.
        self._consumers = {each for each in self._consumers if not each.dead}
        return frozenset(self._consumers | self.workers.busy)

    # Consumers.

    def _spawn(self, function: Callable[..., Any], *args: Any) -> Greenlet[..., Any]:
        """Return a greenlet, not started, in a copy of the server's context."""
        greenlet: Greenlet[..., Any] = Consumer(function, *args)
        greenlet.gr_context = self._context.copy()
        self._consumers.add(greenlet)
        return greenlet

    def serve_http(self, request: Request, exchange: Exchange) -> None:
        """Run the consumer of one HTTP request, in its greenlet."""
        match = self.router.find("http", request.method, self._route_path(request))
        if type(match) is Match and match.route.direct:
            self._serve_wsgi(request, exchange, match)
            return
        peer = self._peer(exchange, request)
        scope = http_scope(request, peer, self.options)
        self._lifespan.add_state(scope)
        transport = exchange.connection.transport
        if transport.secure:
            scope["extensions"]["tls"] = transport.describe_tls()
        if isinstance(match, NoMatch):
            refuse(scope, exchange.send, match)
        else:
            consumer = match.route.consumer
            consumer(scope_of(scope, match), exchange.receive, exchange.send)

    def _serve_wsgi(self, request: Request, exchange: Exchange, match: Match) -> None:
        """Run a WSGI application without the dicts of GSGI between."""
        peer = self._peer(exchange, request)
        script_name = request.path.removesuffix(match.rest)
        environ = make_environ(
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
        )
        match.route.target.serve(exchange, environ)

    def _route_path(self, request: Request) -> str:
        """Return the path that routes match: without the prefix of all."""
        root_path = self.options.root_path
        if not root_path:
            return request.path
        put_below(request, root_path)
        return path_below(request.path, root_path)

    def _peer(self, exchange: Exchange, request: Request) -> Peer:
        secure, client = exchange.connection.transport.secure, exchange.client
        if self.options.proxies:
            return self._proxies.peer(client, request.headers, secure)
        hosts = request.fields.get(b"host")
        host = hosts[0].decode("latin-1") if hosts else ""
        return Peer((client[0], client[1]) if client else None, secure, host)

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
        match = self.router.find("websocket", "GET", self._route_path(request))
        if isinstance(match, NoMatch):
            self._refuse(transport, request, client, 404)
        elif not self._origin_allowed(request, match.route, client, transport.secure):
            self._refuse(transport, request, client, 403)
        elif self.draining:
            self._refuse(transport, request, client, 503)
        else:
            socket = ServerSocket(
                self,
                transport,
                Opening(request, handshake, trailing),
                self._endpoint(match.route),
                match.params,
                client,
            )
            if scope:
                socket.extend_scope(scope)
            self._run_websocket(socket, match)

    def _run_websocket(self, socket: ServerSocket, match: Match) -> None:
        self.connections[socket.transport] = socket
        self.sockets.add(socket)
        socket.transport.start(socket)
        greenlet = self._spawn(self._consume, socket, match)
        socket.run_started(greenlet)
        greenlet.start()

    def _consume(self, socket: ServerSocket, match: Match) -> None:
        """Run a socket's consumer, and end the socket as its end says."""
        failed = True
        try:
            if match.route.direct:
                match.route.target(socket, **socket.params)
            else:
                scope = scope_of(socket.scope, match)
                port = socket.gsgi
                match.route.consumer(scope, port.receive, port.send)
            failed = False
        except ConnectionEnded as error:
            failed = error.source is not socket
            if failed:
                logger.exception("%s: the consumer failed", printable(socket.path))
        except (Exception, gevent.Timeout, SystemExit):
            logger.exception("%s: the consumer failed", printable(socket.path))
        finally:
            socket.run_ended()
            if failed:
                socket.fail()
            else:
                socket.finish()
            self._consumers.discard(getcurrent())

    def _endpoint(self, route: Route) -> Endpoint:
        found = self._endpoints.get(id(route))
        if found is None:
            limits = route.limits or self.options.limits
            found = self._endpoints[id(route)] = Endpoint.make(
                route.path, limits, self.options.timeouts, route.subprotocols
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
        address = self.peer_address(client, request)
        self.access_log.reject(address, request.path, status)
        transport.push(self.refusal(status, headers, body))
        transport.close(linger=True)

    # What connections ask for.

    def refusal(
        self, status: int, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> bytes:
        """Return a whole response that ends its connection."""
        return plain_response(status, headers, body, self.http_date())

    def http_date(self) -> bytes:
        """Return the time as HTTP has it (RFC 9110, section 5.6.7)."""
        return self.date_field()[6:-2]

    def date_field(self) -> bytes:
        """Return the line of a response's head that says when it was made."""
        second = int(time())
        if second != self._date[0]:
            date = formatdate(second, usegmt=True).encode()
            self._date = (second, b"date: %b\r\n" % date)
        return self._date[1]

    def websocket_scope(self, head: bytes, client: Any, socket: ServerSocket) -> Scope:
        """Return the scope of a socket, from its request's head."""
        secure = socket.transport.secure
        scope = websocket_scope(
            head,
            lambda h: self._proxies.peer(client, h, secure),
            socket,
            self.options.root_path,
        )
        self._lifespan.add_state(scope)
        if secure:
            scope["extensions"]["tls"] = socket.transport.describe_tls()
        return scope

    def peer_address(self, client: Any, request: Request) -> tuple[str, int] | None:
        """Return the peer's address for the log, through trusted proxies."""
        if not self.options.proxies:
            address: tuple[str, int] | None = client
            return address
        return self._proxies.peer(client, request.headers).client

    def socket_opened(self, socket: ServerSocket) -> None:
        """A handshake has been accepted."""
        if self.access_log.enabled:
            self.access_log.connect(socket.log_client, socket.path)

    def socket_ended(self, socket: ServerSocket) -> None:
        """A socket has ended for its consumer."""
        self.sockets.discard(socket)
        if self.access_log.enabled:
            socket.log_end(self.access_log)
