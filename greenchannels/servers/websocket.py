"""
The server's own socket: a WebSocket connection joined to its consumer.

Bytes come from a transport, become messages in ``wire``, and wait here for the
consumer's greenlet; what the consumer or a group sends goes the other way. All
methods that a transport, the clock or the layer calls run in the hub or in
somebody else's greenlet: they never block and never switch, but for the one
switch into the waiting consumer when bytes have arrived.
"""

from __future__ import annotations

import enum
import functools
import logging
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from gevent import Greenlet, GreenletExit, getcurrent

from ..errors import (
    ConnectionBroken,
    ConnectionClosed,
    ConnectionEnded,
    HandshakeRefused,
)
from ..layers.codec import Broadcast, Kind, read_close, unpack_event
from ..layers.layer import Layer
from ..net.clock import Alarm
from ..net.transport import SharedFrame, Transport
from ..options import OWN_BUFFER, Limits, Timeouts
from ..sockets import (
    EXPIRED,
    INTERNAL_ERROR,
    NORMAL,
    EventSocket,
    HeaderList,
    WebSocket,
    encode_headers,
    epoch_seconds,
    printable,
)
from ..types import Data, Event, Receive, Scope, Send
from ..wire.frames import CLOSE, encode
from ..wire.handshake import Handshake, encode_accept
from ..wire.websocket import CloseReceived, Failed, Pong, State, WebSocketProtocol

if TYPE_CHECKING:
    from ..wire.http1 import Request
    from .access import AccessLog
    from .server import Server

#: Close codes (RFC 6455, section 7.4.1; the registry's 1012 and 1013).
GOING_AWAY, NO_CODE, ABNORMAL, RESTART, TRY_LATER = 1001, 1005, 1006, 1012, 1013

#: Kinds of broadcasts; looking a member up in its enum costs more than the test.
BINARY, EVENT = Kind.BINARY, Kind.EVENT

#: Bytes that a peer may send ahead of our 101.
MAX_EARLY = 64 * 1024

#: Messages that groups may send ahead of our 101, however short they are.
MAX_EARLY_MESSAGES = 10_000

P = ParamSpec("P")

logger = logging.getLogger("greenchannels.socket")


class Stage(enum.StrEnum):
    """Where a connection is in its life."""

    HANDSHAKE = "handshake"
    OPEN = "open"
    CLOSING = "closing"
    ENDED = "ended"


HANDSHAKE, OPEN, CLOSING, ENDED = Stage

#: What may follow what.
NEXT_STAGE: dict[Stage, frozenset[Stage]] = {
    HANDSHAKE: frozenset({OPEN, ENDED}),
    OPEN: frozenset({CLOSING, ENDED}),
    CLOSING: frozenset({ENDED}),
    ENDED: frozenset(),
}


def _in_hub(method: Callable[Concatenate[Any, P], None]) -> Callable[..., None]:
    """Let no exception out of a hub callback: its connection fails, nothing else."""

    @functools.wraps(method)
    def call(self: Any, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            self.callback_failed(error)

    return call


def encode_shared(payload: Data) -> SharedFrame:
    """Return the frame of a broadcast, to stand in many queues."""
    return SharedFrame(encode(payload))


def _or_huge(limit: int | None) -> int:
    return sys.maxsize if limit is None else limit


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """What the sockets of one route have in common."""

    #: For logs: the route's pattern.
    name: str
    limits: Limits
    timeouts: Timeouts
    subprotocols: tuple[str, ...]
    max_inbox: int
    max_inbox_bytes: int
    max_write_buffer: int
    #: Names of counts that are logged once a route.
    warned: set[str]

    @classmethod
    def make(
        cls,
        name: str,
        limits: Limits,
        timeouts: Timeouts,
        subprotocols: tuple[str, ...] = (),
    ) -> Endpoint:
        """Return an endpoint; limits of ``None`` become very large numbers."""
        return cls(
            name,
            limits,
            timeouts,
            subprotocols,
            _or_huge(limits.max_inbox),
            _or_huge(limits.max_inbox_bytes),
            _or_huge(limits.max_write_buffer),
            set(),
        )


class Opening:
    """What a connection needs only until its handshake has been decided."""

    __slots__ = ("early", "early_size", "handshake", "peer_sent", "request")

    def __init__(self, request: Request, handshake: Handshake, trailing: bytes) -> None:
        self.request = request
        self.handshake = handshake
        #: What the peer sent behind its request.
        self.peer_sent = bytearray(trailing)
        #: What groups sent so far, and its bytes.
        self.early: list[Broadcast] = []
        self.early_size = 0


class ServerSocket(WebSocket):
    """
    A WebSocket over a transport of this server.

    Args:
        server: The server; it is told when the connection has gone.
        transport: The connection; its protocol from now on.
        opening: The handshake.
        endpoint: What the route says.

    """

    __slots__ = (
        "_alarm",
        "_client",
        "_endpoint",
        "_error",
        "_event_bytes",
        "_event_count",
        "_expires",
        "_expiry",
        "_greenlet",
        "_head",
        "_inbox",
        "_inbox_bytes",
        "_input_paused",
        "_listening",
        "_opening",
        "_path",
        "_ping_due",
        "_pong_due",
        "_server",
        "_stage",
        "_started_at",
        "_stop_alarm",
        "_transport",
        "_waiter",
        "_wire",
        "front",
    )

    def __init__(
        self,
        server: Server,
        transport: Transport,
        opening: Opening,
        endpoint: Endpoint,
        params: dict[str, Any],
        client: Any,
    ) -> None:
        super().__init__(params)
        self.max_groups = endpoint.limits.max_groups
        self._server = server
        self._transport = transport
        self._endpoint = endpoint
        self._opening: Opening | None = opening
        self._head = opening.request.head
        self._path = opening.request.path
        self._client = client
        self._stage = HANDSHAKE
        self._wire: WebSocketProtocol
        #: The socket that a consumer behind wrapping middleware holds.
        self.front: EventSocket | None = None
        #: Next message last; holds str, bytes and event broadcasts.
        self._inbox: list[Any] = []
        #: Bytes from the peer since the inbox was empty: an upper bound.
        self._inbox_bytes = 0
        self._event_count = 0
        self._event_bytes = 0
        self._input_paused = False
        #: Whether the consumer takes events; ``None`` until it received.
        self._listening: bool | None = None
        self._waiter: Any = None
        self._greenlet: Greenlet[..., Any] | None = None
        self._error: tuple[type[ConnectionEnded], int, str] | None = None
        self._ping_due = 0.0
        self._pong_due: float | None = None
        self._expires: float | None = None
        self._expiry: Alarm | None = None
        self._stop_alarm: Alarm | None = None
        self._started_at = time.monotonic()
        self._alarm: Alarm | None = None
        timeout = endpoint.timeouts.accept_timeout
        if timeout is not None:
            self._alarm = server.reactor.clock.call_later(timeout, self._undecided)

    # The life of the connection.

    @property
    def path(self) -> str:
        """The path asked for, percent-decoded."""
        return self._path

    @property
    def transport(self) -> Transport:
        """The connection."""
        return self._transport

    @property
    def stage(self) -> Stage:
        """Where the connection is in its life."""
        return self._stage

    @property
    def waiting(self) -> bool:
        """Whether the consumer waits for input that is not there."""
        return self._waiter is not None and not self._inbox

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way in or out of this socket."""
        return not self._inbox and not self._transport.queue

    @property
    def greenlet(self) -> Greenlet[..., Any] | None:
        """The consumer's greenlet, while it runs."""
        return self._greenlet

    def _advance(self, stage: Stage) -> None:
        """Move to ``stage``. The only writer of ``_stage``."""
        if stage not in NEXT_STAGE[self._stage]:
            raise AssertionError(f"{self._stage} cannot become {stage}")
        self._stage = stage
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%r = connection is %s", self, stage.name)

    def _end(self, kind: type[ConnectionEnded], code: int, reason: str = "") -> None:
        """
        The socket is over for its consumer: say why, once.

        Groups forget it, its children are killed, and its consumer has
        ``stop_timeout`` to end.
        """
        if self._error is not None:
            return
        self._error = (kind, code, reason)
        self.close_code, self.close_reason = code, reason
        if self.front is not None:
            self.front.socket_ended(code, reason)
        layer = self._server.layer
        layer.discard_everywhere(self)
        if self._channel_name:
            layer.close_channel(self._channel_name)
        if self._expiry is not None:
            self._expiry.cancel()
        self._kill_children()
        self._server.socket_ended(self)
        self._transport.wake_waiters()
        if self._waiter is not None:
            self._server.reactor.loop.run_callback(self._wake_at_end)
        else:
            self._watch_consumer()

    @_in_hub
    def _wake_at_end(self) -> None:
        """Let a waiting consumer end; watch it if it does not. Hub only."""
        self._wake()
        self._watch_consumer()

    def _watch_consumer(self) -> None:
        """The socket is over: give the consumer ``stop_timeout`` from now on."""
        timeout = self._endpoint.limits.stop_timeout
        if self._greenlet is not None and timeout is not None:
            clock = self._server.reactor.clock
            self._stop_alarm = clock.call_later(timeout, self._stop_consumer)

    def _check_alive(self) -> None:
        if self._error is not None:
            self._raise_error()

    def _raise_error(self) -> None:
        assert self._error is not None
        kind, code, reason = self._error
        if kind is HandshakeRefused:
            raise HandshakeRefused(code, source=self)
        raise kind(code, reason, source=self)

    def _set_alarm(self, delay: float | None, callback: Any) -> None:
        """Replace the one alarm of the connection's own life."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if delay is not None:
            clock = self._server.reactor.clock
            self._alarm = clock.call_later(delay, callback)

    @_in_hub
    def _stop_consumer(self) -> None:
        self._stop_alarm = None
        if self._greenlet is not None and not self._greenlet.dead:
            logger.warning(
                "%s: the consumer did not end %s s after its socket; it is killed",
                printable(self._path),
                self._endpoint.limits.stop_timeout,
            )
            self._greenlet.kill(GreenletExit, block=False)

    def run_started(self, greenlet: Greenlet[..., Any]) -> None:
        """The consumer has been given its greenlet."""
        self._greenlet = greenlet

    def run_ended(self) -> None:
        """The consumer has ended; its children end before anything is sent."""
        try:
            self._join_children(self._endpoint.limits.stop_timeout)
        except GreenletExit:
            logger.warning("%r: killed while its children ended", self)
        finally:
            self._greenlet = None
            if self._stop_alarm is not None:
                self._stop_alarm.cancel()
                self._stop_alarm = None

    def is_direct(self, receive: Receive, send: Send) -> bool:
        """Whether these are this socket's own, with nothing between."""
        return receive == self.gsgi_receive and send == self.gsgi_send

    def adopt(self, scope: Scope) -> None:
        """Go on with the scope that middleware handed on."""
        self._scope = scope
        self.params = dict(scope["url_route"]["kwargs"])
        if scope.get("user") is not None:
            self.user = scope["user"]

    def extend_scope(self, extras: Scope) -> None:
        """Put more into the scope, before the consumer runs."""
        self._scope = {**self.scope, **extras}

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

    # The handshake.

    def accept(self, subprotocol: str | None = None, headers: HeaderList = ()) -> None:
        """See ``WebSocket.accept``."""
        self._check_alive()
        opening = self._opening
        if opening is None:
            raise RuntimeError("the handshake has been accepted already")
        offered = opening.handshake.subprotocols
        if subprotocol is None:
            wanted = self._endpoint.subprotocols
            subprotocol = next((name for name in wanted if name in offered), None)
        elif subprotocol not in offered:
            raise ValueError(f"the peer did not offer the subprotocol {subprotocol!r}")
        head = encode_accept(
            opening.handshake.key, subprotocol, encode_headers(headers)
        )
        self._open(opening, head)

    def _open(self, opening: Opening, head: bytes) -> None:
        """Send the 101, then what groups sent so far, then read frames."""
        self._opening = None
        self._wire = WebSocketProtocol(self._endpoint.limits.max_message)
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

    @_in_hub
    def _feed(self, early: bytes | bytearray) -> None:
        """Take bytes that came earlier, and what was kept back. Hub only."""
        self.data_received(early, len(early))

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

    @_in_hub
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

    # Bytes from the peer. Hub only.

    def data_received(self, buffer: bytes | bytearray, size: int) -> None:
        """Take ``size`` bytes from the transport, and wake the consumer."""
        if self._stage is not OPEN:
            self._data_received_otherwise(buffer, size)
            return
        endpoint = self._endpoint
        wire = self._wire
        inbox = self._inbox
        if inbox:
            self._append(buffer, size)
        else:
            messages = wire.decode(
                buffer, size, endpoint.max_inbox, endpoint.max_inbox_bytes
            )
            count = len(messages)
            if count:
                if count > 1:
                    messages.reverse()
                self._inbox = messages
                received = self._inbox_bytes = wire.decoded_bytes
                if count >= endpoint.max_inbox or received >= endpoint.max_inbox_bytes:
                    self._pause_input()
        ending = False
        if wire.controls is not None or wire.error is not None:
            controls = wire.controls
            ending = controls is None or controls[-1][0] == CLOSE
            ending = ending or wire.error is not None
            if not ending:
                self._take_controls()
        if self._waiter is not None and self._inbox:
            self._waiter.switch()
        if ending:
            # After the consumer, which may have answered what came before.
            self._take_controls()

    def _append(self, buffer: bytes | bytearray, size: int) -> None:
        """Decode behind what still waits in the inbox."""
        endpoint, wire = self._endpoint, self._wire
        count = len(self._inbox) - self._event_count
        messages = wire.decode(
            buffer,
            size,
            max(1, endpoint.max_inbox - count),
            max(1, endpoint.max_inbox_bytes - self._inbox_bytes),
        )
        messages.reverse()
        self._inbox[:0] = messages
        self._inbox_bytes += wire.decoded_bytes
        if (
            count + len(messages) >= endpoint.max_inbox
            or self._inbox_bytes >= endpoint.max_inbox_bytes
        ):
            self._pause_input()

    def _pause_input(self) -> None:
        self._input_paused = True
        self._transport.pause_reading()

    def _resume_input(self) -> None:
        """The inbox is empty: decode what was kept back, then read again."""
        self._input_paused = False
        if self._stage is not OPEN:
            self._transport.resume_reading()
            return
        endpoint, wire = self._endpoint, self._wire
        messages = wire.decode(b"", 0, endpoint.max_inbox, endpoint.max_inbox_bytes)
        self._inbox_bytes = wire.decoded_bytes
        messages.reverse()
        self._inbox[:0] = messages
        if wire.controls is not None or wire.error is not None:
            self._take_controls_after(messages)
        if (
            len(messages) >= endpoint.max_inbox
            or wire.decoded_bytes >= endpoint.max_inbox_bytes
        ):
            self._input_paused = True
        else:
            self._transport.resume_reading()

    def _take_controls_after(self, messages: list[Any]) -> None:
        """Let the consumer have the messages that came before, if there are any."""
        if messages:
            self._server.reactor.loop.run_callback(self._take_controls_later)
        else:
            self._take_controls()

    @_in_hub
    def _take_controls_later(self) -> None:
        """Hub only."""
        self._take_controls()

    def _take_controls(self) -> None:
        """Answer pings and closes; notice pongs and broken rules."""
        wire = self._wire
        events = wire.control_events()
        output = wire.data_to_send()
        if output:
            if self._transport.push(output) > OWN_BUFFER:
                self._transport.write_now()
            if self._transport.own > OWN_BUFFER:
                # It asks and does not read the answers: write_progress goes on.
                self._transport.pause_reading()
        for event in events:
            if isinstance(event, Pong):
                self._pong_due = None
            elif isinstance(event, CloseReceived):
                self._peer_closed(event)
            elif isinstance(event, Failed):
                self._peer_failed(event)

    def _peer_closed(self, event: CloseReceived) -> None:
        if self._stage is OPEN:
            self._advance(CLOSING)
        self._end(ConnectionClosed, event.code, event.reason)
        self._transport.close()
        if self._transport.queue:
            self._set_alarm(self._endpoint.timeouts.close_timeout, self._abort)
            self._transport.resume_reading()
        else:
            self._set_alarm(None, None)

    def _peer_failed(self, event: Failed) -> None:
        """The peer broke the rules: our close frame is queued (section 7.1.7)."""
        logger.info("%s: %s", printable(self._path), event.error)
        if self._stage is OPEN:
            self._advance(CLOSING)
        self._start_closing(event.error.hint, event.error.reason)
        self._transport.write_now()
        if not self._transport.queue:
            self._all_written()

    def _data_received_otherwise(self, buffer: bytes | bytearray, size: int) -> None:
        """Before the 101 keep what comes; in closing state look for a close only."""
        if self._opening is not None:
            sent = self._opening.peer_sent
            sent += memoryview(buffer)[:size]
            if len(sent) >= MAX_EARLY:
                self._transport.pause_reading()
        elif self._stage is CLOSING:
            self._wire.decode(buffer, size, sys.maxsize, sys.maxsize)
            if self._wire.controls is not None or self._wire.error is not None:
                self._take_controls()

    def eof_received(self) -> None:
        """The peer has gone without, or after, a close frame."""
        if self._stage is CLOSING:
            self._transport.close()
        else:
            self._transport.fail(ConnectionResetError("the peer has gone"))

    def write_progress(self) -> None:
        """A peer that had stopped reading has read."""
        transport = self._transport
        if self._stage is OPEN:
            if transport.own <= OWN_BUFFER and not self._input_paused:
                transport.resume_reading()
        elif self._stage is CLOSING and not transport.queue:
            self._all_written()

    def _all_written(self) -> None:
        """Our close frame has gone: a peer that broke the rules hears no more."""
        if self._wire.state is State.FAILED:
            self._transport.shutdown()

    def callback_failed(self, error: Exception) -> None:
        """End the connection with 1011, or 500; without words if it is ending."""
        logger.error("%r failed in the hub", self, exc_info=error)
        if self._stage is HANDSHAKE or self._stage is OPEN:
            self.fail()
        else:
            self._transport.fail(error)

    def connection_lost(self, error: Exception | None) -> None:
        """The socket has been closed; nothing more can happen."""
        self._opening = None
        self._set_alarm(None, None)
        if self._stage is not ENDED:
            self._advance(ENDED)
        self._end(ConnectionBroken, ABNORMAL, str(error) if error else "")
        self._server.connection_gone(self._transport)

    # Receiving. The consumer's greenlet.

    def receive(self, timeout: float | None = None) -> Data:
        """See ``WebSocket.receive``."""
        if self._listening is not False:
            self._listen(False)
        if not self._inbox:
            self._wait_for_input(timeout)
        message: Data = self._inbox.pop()
        return message

    def __iter__(self) -> Iterator[Data]:
        """Yield messages until the peer has left."""
        while True:
            if self._listening is not False:
                try:
                    self._listen(False)
                except ConnectionEnded:
                    return
            if not self._inbox and not self._input_comes(None):
                return
            yield self._inbox.pop()

    def _receive_any(self) -> Data | Event:
        if self._listening is not True:
            self._listen(True)
        if not self._inbox:
            self._wait_for_input(None)
        message = self._inbox.pop()
        if type(message) is Broadcast:
            self._event_count -= 1
            self._event_bytes -= message.size
            return unpack_event(message.payload)  # type: ignore[arg-type]
        data: Data = message
        return data

    def _wait_for_input(self, timeout: float | None) -> None:
        """Return once the inbox holds something; raise when it never will."""
        if not self._input_comes(timeout):
            self._raise_error()

    def _input_comes(self, timeout: float | None) -> bool:
        """Wait until the inbox holds something; return whether it ever will."""
        if self._opening is not None:
            self.accept()
        if self._waiter is not None:
            raise RuntimeError("another greenlet is receiving from this socket")
        if self._input_paused:
            self._resume_input()
        if timeout is not None and not self._inbox:
            self._wait_with_timeout(timeout)
        while not self._inbox:
            if self._error is not None:
                return False
            self._park()
        return True

    def _park(self) -> None:
        """Wait for a switch: bytes, an event, the end, or somebody's kill."""
        self._waiter = getcurrent()
        try:
            self._server.reactor.hub.switch()
        finally:
            self._waiter = None

    def _wait_with_timeout(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds for the inbox to hold something."""
        deadline = time.monotonic() + timeout
        loop = self._server.reactor.loop
        while not self._inbox and self._error is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no message in {timeout} s")
            timer = loop.timer(left)
            timer.start(self._wake, update=True)
            try:
                self._park()
            finally:
                timer.close()

    def _wake(self) -> None:
        """Switch to the waiting consumer. Hub callbacks only."""
        if self._waiter is not None:
            self._waiter.switch()

    def _listen(self, listening: bool) -> None:
        """Note whether the consumer takes events; if not, drop those that wait."""
        if self._opening is not None:
            self.accept()
        self._listening = listening
        if not listening and self._event_count:
            for message in self._inbox:
                if type(message) is Broadcast:
                    self._drop_event(message)
            self._inbox = [m for m in self._inbox if type(m) is not Broadcast]
            self._event_count = self._event_bytes = 0

    # Sending. Any greenlet of the consumer.

    def send(self, message: Data) -> None:
        """See ``WebSocket.send``."""
        if self._stage is not OPEN:
            self._check_can_send()
        if self._transport.push(encode(message)) > OWN_BUFFER:
            self._wait_for_room()

    def _check_can_send(self) -> None:
        if self._error is not None:
            self._raise_error()
        if self._opening is not None:
            self.accept()

    def _wait_for_room(self) -> None:
        """Block until own output fits the buffer again, or the socket has ended."""
        transport = self._transport
        transport.write_now()
        while transport.own > OWN_BUFFER and self._error is None:
            transport.wait_for_progress()
        self._check_alive()

    def flush(self) -> None:
        """See ``WebSocket.flush``."""
        if self._opening is not None:
            self.accept()
        self._transport.flush()
        if self._transport.closed:
            self._check_alive()

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """See ``WebSocket.close``."""
        if self._opening is not None:
            self.reject()
        elif self._stage is OPEN:
            self._transport.push(self._wire.close(code, reason))
            self._advance(CLOSING)
            self._inbox.clear()
            self._event_count = self._event_bytes = 0
            self._start_closing(code, reason)

    def _start_closing(self, code: int, reason: str) -> None:
        """Our close frame is queued: wait for the peer's, but not for long."""
        self._set_alarm(self._endpoint.timeouts.close_timeout, self._abort)
        self._end(ConnectionClosed, code, reason)
        self._transport.resume_reading()
        if self._input_paused:
            # The peer's close frame may be among what was kept back.
            self._input_paused = False
            self._server.reactor.loop.run_callback(self._feed, b"")

    @_in_hub
    def _abort(self) -> None:
        """The peer did not close in time. Hub only."""
        self._alarm = None
        self._transport.abort(TimeoutError("the peer did not close in time"))

    # From groups and channels. Any greenlet.

    def deliver(self, broadcast: Broadcast) -> None:
        """Take a message from a group or a channel; never blocks."""
        if self._stage is not OPEN or broadcast.kind > BINARY:
            self._deliver_otherwise(broadcast)
            return
        frame = broadcast.encodings.get(encode_shared)
        if frame is None:
            frame = broadcast.encoded(encode_shared)
        if not self._transport.push_shared(frame, self._endpoint.max_write_buffer):
            self._deliver_to_slow(frame)

    def _deliver_to_slow(self, frame: SharedFrame) -> None:
        """Too much waits: is it the peer that is slow, or was it not written yet?"""
        self._transport.write_now()
        if not self._transport.push_shared(frame, self._endpoint.max_write_buffer):
            self._too_slow()

    def _deliver_otherwise(self, broadcast: Broadcast) -> None:
        """Take what is no data, or comes when no data may be sent."""
        if broadcast.kind is EVENT:
            self._take_event(broadcast)
        elif self._stage is not OPEN:
            self._deliver_early(broadcast)
        else:
            self.close(*read_close(broadcast.payload))  # type: ignore[arg-type]

    def _deliver_early(self, broadcast: Broadcast) -> None:
        """Keep what comes before the 101; what comes after the end is dropped."""
        opening = self._opening
        if opening is None:
            return
        too_much = opening.early_size > self._endpoint.max_write_buffer
        if too_much or len(opening.early) >= MAX_EARLY_MESSAGES:
            logger.warning("%r: too much group data before accept", self)
            self._server.layer.counters["refused for early group data"] += 1
            self.reject(503)
            return
        opening.early.append(broadcast)
        opening.early_size += broadcast.size

    def _take_event(self, broadcast: Broadcast) -> None:
        """Put an event into the inbox, unless the consumer takes none."""
        if self._error is not None:
            return
        if self._listening is False:
            self._drop_event(broadcast)
            return
        endpoint = self._endpoint
        if (
            self._event_count >= endpoint.max_inbox
            or self._event_bytes >= endpoint.max_inbox_bytes
        ):
            self._too_slow()
            return
        self._inbox.insert(0, broadcast)
        self._event_count += 1
        self._event_bytes += broadcast.size
        if self._waiter is not None:
            self._server.reactor.loop.run_callback(self._wake)

    def _drop_event(self, broadcast: Broadcast) -> None:
        event = unpack_event(broadcast.payload)  # type: ignore[arg-type]
        self.count_dropped_event(event["type"])

    def count_dropped_event(self, kind: str) -> None:
        """Count an event that a consumer which takes none was sent; warn once."""
        self._server.layer.counters["events without a listener"] += 1
        if kind not in self._endpoint.warned:
            self._endpoint.warned.add(kind)
            logger.warning(
                "%s: an event %r was dropped: the consumer does not iterate over"
                " socket.events() (said once)",
                self._endpoint.name,
                kind,
            )

    def _too_slow(self) -> None:
        """The slow-consumer policy "close": 1013, and what waits is dropped."""
        counters = self._server.layer.counters
        counters["closed for being slow"] += 1
        if self._opening is not None:
            self.reject(503)
            return
        counters["frames dropped for slow members"] += self._transport.drop_unsent()
        logger.warning("%r: closed with 1013, it reads too slowly", self)
        self.close(TRY_LATER, "too slow")

    # Keepalive. Hub only.

    def _start_keepalive(self) -> None:
        self._set_alarm(None, None)
        interval = self._endpoint.timeouts.ping_interval
        if interval is not None:
            self._ping_due = time.monotonic() + interval
            self._set_alarm(interval, self._keep_alive)

    @_in_hub
    def _keep_alive(self) -> None:
        """Send a ping when one is due; cut a peer that shows no sign of life."""
        self._alarm = None
        if self._stage is not OPEN:
            return
        now = time.monotonic()
        if self._pong_due is not None and now >= self._pong_due:
            if not self._shows_life():
                self._transport.abort(TimeoutError("no answer to a ping"))
                return
            self._pong_due = None
        timeouts = self._endpoint.timeouts
        assert timeouts.ping_interval is not None
        if now >= self._ping_due:
            self._ping_due = now + timeouts.ping_interval
            self._ping(now)
        due = self._ping_due
        if self._pong_due is not None and self._pong_due < due:
            due = self._pong_due
        self._set_alarm(due - now, self._keep_alive)

    def _ping(self, now: float) -> None:
        transport = self._transport
        if transport.blocked:
            return  # the write timeout watches; a ping would only queue up
        transport.push(self._wire.ping())
        transport.write_now()
        timeout = self._endpoint.timeouts.ping_timeout
        if self._pong_due is None and timeout is not None:
            transport.heard = False
            self._pong_due = now + timeout

    def _shows_life(self) -> bool:
        """Whether bytes moved since the ping, or could not have moved."""
        transport = self._transport
        return transport.heard or transport.blocked or not transport.reading

    # What else user code asks for.

    def _layer(self) -> Layer:
        return self._server.layer

    @property
    def member(self) -> Any:
        """See ``WebSocket.member``."""
        return self

    @property
    def ended(self) -> bool:
        """Whether the socket is over for its consumer."""
        return self._error is not None

    @property
    def channel_name(self) -> str:
        """See ``WebSocket.channel_name``."""
        if not self._channel_name:
            if self._error is not None:
                return ""
            self._channel_name = self._server.layer.new_channel(self)
        return self._channel_name

    @property
    def expires(self) -> float | None:
        """See ``WebSocket.expires``."""
        return self._expires

    @expires.setter
    def expires(self, when: float | datetime | None) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        self._expires = epoch_seconds(when)
        if self._expires is not None and self._error is None:
            clock = self._server.reactor.clock
            delay = self._expires - time.time()
            self._expiry = clock.call_later(delay, self._expire)

    @_in_hub
    def _expire(self) -> None:
        self._expiry = None
        if self._opening is not None:
            self.reject(401)
        else:
            self.close(EXPIRED, "expired")

    def _get_scope(self) -> Scope:
        return self._server.websocket_scope(self._head, self._client, self)

    # GSGI.

    def gsgi_receive(self) -> Event:
        """Return the next GSGI event; blocks."""
        if self._listening is None:
            self._listening = True
            return {"type": "websocket.connect"}
        if self._error is not None and not self._inbox:
            return self._disconnect_event()
        if not self._inbox:
            try:
                if self._opening is not None:
                    self._wait_for_decision()
                if not self._inbox:
                    self._wait_for_input(None)
            except ConnectionEnded:
                return self._disconnect_event()
        message = self._receive_any()
        if isinstance(message, str):
            return {"type": "websocket.receive", "text": message}
        if isinstance(message, bytes):
            return {"type": "websocket.receive", "bytes": message}
        return message

    def _wait_for_decision(self) -> None:
        """Block until another greenlet has decided the handshake, or an event came."""
        while self._opening is not None and self._error is None and not self._inbox:
            if self._waiter is not None:
                raise RuntimeError("another greenlet is receiving from this socket")
            self._park()

    def _disconnect_event(self) -> Event:
        assert self._error is not None
        _, code, reason = self._error
        if self._error[0] is HandshakeRefused:
            code, reason = ABNORMAL, ""
        return {"type": "websocket.disconnect", "code": code, "reason": reason}

    def gsgi_send(self, event: Event) -> None:
        """Take a GSGI event; blocks like ``send``."""
        kind = event["type"]
        if kind == "websocket.send":
            text = event.get("text")
            self.send(text if text is not None else event["bytes"])
        elif kind == "websocket.accept":
            self.accept(event.get("subprotocol"), event.get("headers", ()))
        elif kind == "websocket.close":
            self.close(event.get("code", NORMAL), event.get("reason") or "")
        elif kind == "websocket.http.response.start":
            self._refusal_start(event)
        elif kind == "websocket.http.response.body":
            self._refusal_body(event)
        else:
            raise ValueError(f"a WebSocket cannot send {kind!r}")

    def _refusal_start(self, event: Event) -> None:
        self._check_alive()
        self.state["greenchannels.refusal"] = (event, [])

    def _refusal_body(self, event: Event) -> None:
        start, parts = self.state["greenchannels.refusal"]
        parts.append(event.get("body", b""))
        if not event.get("more_body", False):
            del self.state["greenchannels.refusal"]
            self.reject(start["status"], b"".join(parts), start.get("headers", ()))

    def fail(self) -> None:
        """The consumer failed: 500, or 1011."""
        if self._opening is not None:
            self.reject(500)
        else:
            self.close(INTERNAL_ERROR)

    def finish(self) -> None:
        """The consumer returned: 403 if it never accepted, else 1000."""
        self.close(NORMAL)
