"""
The server's own socket: a WebSocket connection joined to its consumer.

Bytes come from a transport, become messages in ``wire``, and wait here for the
consumer's greenlet; what the consumer or a group sends goes the other way. All
methods that a transport, the clock or the layer calls run in the hub or in
somebody else's greenlet: they never block and never switch, but for the one
switch into the waiting consumer when bytes have arrived.

It is one object, since a message should pass no more of them than it must, but
its class is a chain; each link knows those before it::

    WebSocket        sockets.py            what user code asks for
    SocketRun        socket_run.py         the consumer's greenlet: waiting, stop
    SocketLife       socket_life.py        stages, the end, alarms
    SocketKeepalive  socket_keepalive.py   pings and the wait for an answer
    SocketInput      socket_input.py       bytes into the inbox, backpressure
    SocketReceiving  socket_receiving.py   the consumer takes messages and events
    SocketLosses     socket_losses.py      what slow peers and consumers miss
    SocketOutput     socket_output.py      send, deliver
    SocketClosing    socket_closing.py     control frames, the closing handshake
    ServerSocket     here                  the opening handshake, scope and log

What a link needs of a later one is part of ``WebSocket``, or said in its
docstring. GSGI's events are made of it in ``gsgi.py``.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from ..close_codes import RESTART
from ..errors import HandshakeRefused
from ..layers.layer import Layer
from ..net.transport import Transport
from ..text import encode_headers, printable
from ..types import Data, Event, HeaderList, Receive, Scope, Send
from ..wire.handshake import encode_accept
from ..wire.websocket import WebSocketProtocol
from .endpoint import Endpoint
from .gsgi import EventPort
from .opening import Opening
from .socket_closing import SocketClosing
from .socket_life import ENDED, HANDSHAKE, OPEN
from .socket_run import in_hub

if TYPE_CHECKING:
    from .access import AccessLog
    from .server import Server

logger = logging.getLogger("greenchannels.socket")


class ServerSocket(SocketClosing):
    """
    A WebSocket over a transport of this server.

    Args:
        server: The server; it is told when the connection has gone.
        transport: The connection; its protocol from now on.
        opening: The handshake.
        endpoint: What the route says.
        params: What the route's pattern matched.
        client: The peer's address.

    """

    __slots__ = ("_client", "_head")

    def __init__(
        self,
        server: Server,
        transport: Transport,
        opening: Opening,
        endpoint: Endpoint,
        params: dict[str, Any],
        client: Any,
    ) -> None:
        super().__init__(server, transport, opening, endpoint, params)
        self.max_groups = endpoint.limits.max_groups
        #: What the scope is built from, if it is asked for.
        self._head = opening.request.head
        self._client = client
        timeout = endpoint.timeouts.accept_timeout
        if timeout is not None:
            self._alarm = server.reactor.clock.call_later(timeout, self._undecided)

    # The opening handshake.

    def accept(self, subprotocol: str | None = None, headers: HeaderList = ()) -> None:
        """See ``WebSocket.accept``."""
        self._check_alive()
        opening = self._opening
        if opening is None:
            raise RuntimeError("the handshake has been accepted already")
        subprotocol = opening.choose(subprotocol, self._endpoint.subprotocols)
        parameters = opening.agree(self._endpoint.deflate)
        head = encode_accept(
            opening.handshake.key,
            subprotocol,
            encode_headers(headers),
            None if parameters is None else parameters.answer,
        )
        limit = self._endpoint.limits.max_message
        self._open(opening, head, WebSocketProtocol(limit, parameters))

    def _open(self, opening: Opening, head: bytes, wire: WebSocketProtocol) -> None:
        """Send the 101, then what groups sent so far, then read frames."""
        self._opening = None
        self._wire = wire
        self._codec = wire.codec
        self._advance(OPEN)
        transport = self._transport
        transport.push(head)
        if opening.early:
            transport.write_now()  # the 101 must not be among what is dropped
        self._server.socket_opened(self)
        if self._scope is not None and self._user is None:
            self.user = self._scope.get("user")
        for broadcast in opening.early:
            self.deliver(broadcast)
        self._start_keepalive()
        transport.resume_reading()
        if opening.peer_sent:
            sent = opening.peer_sent
            self._server.reactor.loop.run_callback(self._feed, sent)

    def reject(
        self, status: int = 403, body: Data = b"", headers: HeaderList = ()
    ) -> None:
        """See ``WebSocket.reject``."""
        self._check_alive()
        if self._opening is None:
            raise RuntimeError("the handshake has been accepted already")
        if isinstance(body, str):
            body = body.encode()
        if not 200 <= status <= 599:
            raise ValueError(f"no status to refuse with: {status}")
        head = self._server.refusal(status, encode_headers(headers), body)
        self._opening = None
        self._advance(ENDED)
        self._transport.push(head)
        self._set_alarm(self._endpoint.timeouts.close_timeout, self._abort)
        self._end(HandshakeRefused, status)
        self._transport.close(linger=True)

    def tell_restart(self) -> None:
        """Tell the peer to come again: the process that serves it ends."""
        if self._stage is HANDSHAKE:
            self.reject(503)
        else:
            self.close(RESTART, "restarting")

    @in_hub
    def _undecided(self) -> None:
        """The consumer took too long to accept or reject. Hub only."""
        self._alarm = None
        if self._opening is not None:
            logger.warning(
                "%s: the handshake was not decided in %s s",
                printable(self._path),
                self._endpoint.timeouts.accept_timeout,
            )
            self.reject(503)

    # Its place in the server.

    def _layer(self) -> Layer:
        return self._server.layer

    @property
    def member(self) -> Any:
        """See ``WebSocket.member``."""
        return self

    @property
    def channel_name(self) -> str:
        """See ``WebSocket.channel_name``."""
        if not self._channel_name:
            if self._error is not None:
                return ""
            self._channel_name = self._server.layer.new_channel(self)
        return self._channel_name

    def _get_scope(self) -> Scope:
        scope = self._server.websocket_scope(self._head, self._client, self)
        scope["url_route"] = {"args": (), "kwargs": self.params}
        return scope

    def extend_scope(self, extras: Scope) -> None:
        """Put more into the scope, before the consumer runs."""
        self._scope = {**self.scope, **extras}

    # What stands between it and its consumer.

    def send_event(self, event: Event) -> None:
        """See ``WebSocket.send_event``."""
        self.gsgi.send(event)

    @property
    def gsgi(self) -> EventPort:
        """Its GSGI side, made when first asked for."""
        if self._gsgi is None:
            self._gsgi = EventPort(self)
        return self._gsgi

    def is_direct(self, receive: Receive, send: Send) -> bool:
        """Whether these are this socket's own, with nothing between."""
        return receive == self.gsgi.receive and send == self.gsgi.send

    def adopt(self, scope: Scope) -> None:
        """Go on with the scope that middleware handed on."""
        self._scope = scope
        self.params = dict(scope["url_route"]["kwargs"])
        if scope.get("user") is not None:
            self.user = scope["user"]

    # The log.

    @property
    def log_client(self) -> Any:
        """The peer's address for the log."""
        return self.client if self._server.options.proxies else self._client

    def log_end(self, access_log: AccessLog) -> None:
        """Note how the socket ended."""
        assert self._error is not None
        kind, code, _ = self._error
        if kind is HandshakeRefused:
            access_log.reject(self.log_client, self._path, code)
        else:
            seconds = time.monotonic() - self._started_at
            access_log.disconnect(self.log_client, self._path, code, seconds)
