"""
The server: connections, consumers, and the order of starting and stopping.

It owns the reactor, the layer and the listeners; it gives each connection an
HTTP protocol, each handshake a socket, and each request a greenlet in a copy of
its own context. Its drain is in ``drain.py``, its lifespan in ``lifespan.py``.
"""

from __future__ import annotations

import contextvars
import logging
import os
import weakref
from _socket import socket as RawSocket
from collections.abc import Callable
from email.utils import formatdate
from time import monotonic, time
from typing import Any

import gevent
from gevent import Greenlet
from gevent.monkey import get_original

from ..layers.layer import Layer
from ..layers.registry import CURRENT, make_layer, start_layer, stop_layer
from ..net.certificates import Certificates
from ..net.handshakes import Handshakes
from ..net.listener import Listener, OnConnection
from ..net.reactor import Reactor
from ..net.transport import Transport
from ..options import ServerOptions, check_options
from ..routing import Match, Router
from ..types import Scope
from ..wire.http1 import Request
from .access import AccessLog
from .admission import Admission
from .consumers import Consumers
from .http import HTTPConnection, plain_response
from .lifespan import LifespanRunner
from .proxies import TrustedProxies
from .proxy_header import ProxyHeaders
from .relief import Relief
from .requests import Requests
from .scopes import websocket_scope
from .signals import hold_back, let_come
from .websocket import ServerSocket
from .workers import Workers

_get_ident = get_original("_thread", "get_ident")

logger = logging.getLogger("greenchannels.server")

#: Seconds that consumers have to end when the server is closed at once.
CLOSE_TIMEOUT = 1.0

#: Seconds between two looks at them.
PACE = 0.001


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
        self.proxies = TrustedProxies(self.options.proxies)
        self._proxy_headers: ProxyHeaders | None = None
        #: Whether accepting pauses, at the limit.
        self._full = False
        #: Called at the end of each burst of a class-based consumer's handlers, in
        #: its greenlet and context: to give back what a handler borrowed.
        self.burst_hooks: list[Callable[[], object]] = []
        #: Called in a child that was forked, once it has let go of the connections.
        self.child_hooks: list[Callable[[], object]] = []
        self.lifespan = LifespanRunner(self.router)
        #: Serves requests, and admits sockets.
        self.requests, self.admission = Requests(self), Admission(self)
        self._context = contextvars.Context()
        self._consumers = Consumers(self._context)
        self._date = (0, b"")
        self._pid = self._thread = 0

    # Starting and stopping.

    def start(self) -> None:
        """
        Start the layer and enter the routing's lifespans; blocks while they do.

        Raises:
            Exception: Whatever a lifespan raised; nothing is left started.

        """
        self.reactor = Reactor()
        self._pid, self._thread = os.getpid(), _get_ident()
        _started.add(self)
        Relief(self)
        self.workers = Workers(self.reactor, self._context)
        if self.options.proxy_protocol:
            timeout = self.options.timeouts.head_timeout
            self._proxy_headers = ProxyHeaders(
                self.reactor, self.proxies, timeout, self._regulate_accepting
            )
        start_layer(self.layer, self.reactor)
        self._context.run(CURRENT.set, self.layer)
        try:
            self.lifespan.start(self._context)
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
        self,
        sock: Any,
        address: Any,
        scope: dict[str, Any] | None = None,
        received: bytes = b"",
    ) -> Transport:
        """
        Serve a connected, non-blocking socket; never blocks.

        It sends no PROXY header, whatever the options say.

        Args:
            sock: The socket; owned by the server from now on.
            address: The peer's address.
            scope: What to put into the scopes of its WebSockets, such as a user.
            received: What has been read of it already.

        """
        transport = self._serve(sock.detach(), address, scope)
        if received:
            connection = self.connections[transport]
            self.reactor.loop.run_callback(_feed, connection, bytearray(received))
        return transport

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

        if self._pid != os.getpid():
            return
        Drain(self, self.options.drain if timeout is None else timeout).run()
        self.close()

    def close(self) -> None:
        """End what is left at once, and leave the lifespans. Blocks for them."""
        if self._pid != os.getpid():
            return
        self.refuse()
        for listener in self.listeners:
            listener.close()
        for transport in tuple(self.connections):
            transport.abort()
        gevent.killall(list(self.consumers), block=False)
        end = monotonic() + CLOSE_TIMEOUT
        while (self.connections or self.consumers or self.workers.ready) and (
            monotonic() < end
        ):
            gevent.sleep(PACE)
        gevent.killall(list(self.consumers), block=False)
        self.workers.close()
        gevent.sleep(0)
        try:
            self.lifespan.stop()
        finally:
            stop_layer(self.layer)
            self.reactor.close()
            _started.discard(self)

    def abandon(self) -> None:
        """
        This is a forked child: let go of what is its parent's, and end nothing.

        A child whose hub goes on would accept connections and answer requests of the
        parent's. ``stop`` and ``close`` do nothing in it.
        """
        watched = self._thread == _get_ident()
        for listener in self.listeners:
            listener.abandon(watched=watched)
        if self._proxy_headers is not None:
            self._proxy_headers.abandon(watched=watched)
        for transport in self.connections:
            if watched:
                transport.abandon()
            else:
                transport.forsake()
        if watched:
            self.reactor.close()
        for hook in self.child_hooks:
            hook()

    def refuse(self) -> None:
        """Refuse handshakes, and cut off who has not said yet who it is."""
        self.draining = True
        if self._proxy_headers is not None:
            self._proxy_headers.close()

    @property
    def consumers(self) -> frozenset[Greenlet[..., Any]]:
        """The greenlets that run consumers now."""
        return frozenset(self._consumers.running | self.workers.busy)

    def run_socket(self, socket: ServerSocket, match: Match) -> None:
        """Have a socket served by its route's consumer. Hub only."""
        self.connections[socket.transport] = socket
        self.sockets.add(socket)
        socket.transport.start(socket)
        self._consumers.start(socket, match)

    def new_context(self) -> contextvars.Context:
        """Return a context for one connection's handlers."""
        return self._context.copy()

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
            lambda h: self.proxies.peer(client, h, secure),
            socket,
            self.options.root_path,
        )
        self.lifespan.add_state(scope)
        if self.options.multiprocess:
            scope["extensions"]["greenchannels"]["multiprocess"] = True
        if secure:
            scope["extensions"]["tls"] = socket.transport.describe_tls()
        return scope

    def peer_address(self, client: Any, request: Request) -> tuple[str, int] | None:
        """Return the peer's address for the log, through trusted proxies."""
        if not self.options.proxies:
            address: tuple[str, int] | None = client
            return address
        return self.proxies.peer(client, request.headers).client

    def socket_opened(self, socket: ServerSocket) -> None:
        """A handshake has been accepted."""
        if self.access_log.enabled:
            self.access_log.connect(socket.log_client, socket.path)

    def socket_ended(self, socket: ServerSocket) -> None:
        """A socket has ended for its consumer."""
        self.sockets.discard(socket)
        if self.access_log.enabled:
            socket.log_end(self.access_log)


#: Those that a fork must take from the child.
_started: weakref.WeakSet[Server] = weakref.WeakSet()

#: What a child never lets go of: watchers of a loop that it may not have.
_of_parent: list[Server] = []


def _before_fork() -> None:
    """Have signals wait: the child's would be taken for its parent's."""
    if _started:
        hold_back()


def _after_fork() -> None:
    """Let the child have nothing of its parent's."""
    try:
        for server in tuple(_started):
            server.abandon()
            _of_parent.append(server)
        _started.clear()
    finally:
        let_come()


os.register_at_fork(
    before=_before_fork, after_in_parent=let_come, after_in_child=_after_fork
)


def _feed(connection: HTTPConnection | ServerSocket, data: bytearray) -> None:
    """Give a connection what was received before it was ours. Hub only."""
    try:
        connection.data_received(data, len(data))
    except Exception as error:
        connection.callback_failed(error)
