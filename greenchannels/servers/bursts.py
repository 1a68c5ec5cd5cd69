"""
The socket of a class-based consumer: it has a greenlet only while a handler runs.

An idle one is its connection, the consumer object and a context; it costs a
fraction of a greenlet. What arrives starts a burst: a task of the server's worker
greenlets that calls handlers, in the connection's own ``contextvars.Context``, until
nothing waits. A handler may block; what arrives meanwhile waits in the inbox.

``connect`` comes first and ``disconnect`` last, each once; between them one handler
at a time, or up to ``max_concurrency``.
"""

from __future__ import annotations

import logging
from sys import getrefcount
from typing import TYPE_CHECKING, Any, ClassVar

import gevent
from gevent import GreenletExit

from ..close_codes import ABNORMAL
from ..errors import ConnectionEnded, HandshakeRefused
from ..exceptions import StopConsumer
from ..net.transport import Transport
from ..text import printable
from .endpoint import Endpoint
from .opening import Opening
from .socket_run import in_hub
from .websocket import ServerSocket

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..types import SocketHandlers
    from .server import Server

logger = logging.getLogger("greenchannels.server")


#: What may leave a handler and ends only its socket.
FAILURES = (Exception, GreenletExit, gevent.Timeout, SystemExit)


class BurstSocket(ServerSocket):
    """
    A socket that calls handlers instead of being received from.

    ``_waiter`` is the socket itself while it is idle: whoever would switch to a
    waiting greenlet calls ``switch`` here, which starts a burst.

    Args:
        new_handlers: Makes the consumer object of this connection.

    """

    __slots__ = ("_context", "_handlers", "_new_handlers", "_over", "_running")

    def __init__(
        self,
        server: Server,
        transport: Transport,
        opening: Opening,
        endpoint: Endpoint,
        params: dict[str, Any],
        client: Any,
        new_handlers: Callable[[], SocketHandlers],
    ) -> None:
        super().__init__(server, transport, opening, endpoint, params, client)
        self._new_handlers = new_handlers
        #: The consumer object, from the first burst on.
        self._handlers: SocketHandlers | None = None
        #: The connection's own; handlers run in it.
        self._context = server.new_context()
        #: Bursts at work.
        self._running = 0
        #: Whether ``disconnect`` has begun.
        self._over = False
        self._listening = True

    @property
    def waiting(self) -> bool:
        """Whether no handler runs and nothing waits for one."""
        return self._waiter is self and not self._running and not self._inbox

    @property
    def run_over(self) -> bool:
        """Whether ``disconnect`` has ended."""
        return self._over and self._handlers is None and not self._running

    # Waking. Hub callbacks, or any greenlet where they say so.

    def start(self) -> None:
        """Have ``connect`` called when the hub has a turn."""
        self._server.workers.soon(self._burst, self._context)

    def switch(self) -> None:
        """Start a burst at once. Hub only."""
        self._waiter = None
        context = self._context if not self._running else self._context.copy()
        self._server.workers.run(self._burst, context)

    def _wake_soon(self) -> None:
        """Start a burst when the hub has a turn. Any greenlet."""
        if self._waiter is self:
            self._waiter = None
            context = self._context if not self._running else self._context.copy()
            self._server.workers.soon(self._burst, context)
        elif self._waiter is not None:
            super()._wake_soon()

    def listens_to(self, kind: str) -> bool:
        """Say whether there is a handler for what the layer tells of itself."""
        handlers = self._handlers
        return handlers is not None and handlers.socket_listens_to(kind)

    # Handlers. In a worker.

    def _burst(self) -> None:
        """Call handlers until nothing waits for one, then the hooks."""
        self._running += 1
        if self._error is not None and self._stop_alarm is None and not self._over:
            self._watch_consumer()  # the end came before this burst
        try:
            while True:
                try:
                    self._run_handlers()
                except BaseException as error:
                    self._handler_raised(error)
                if self._server.burst_hooks and not self._inbox:
                    self._run_hooks()
                # There is more if a handler raised, or a hook took its time.
                if not self._inbox or self._over or self._crowded():
                    break
        finally:
            self._listening = True  # whatever the handlers did
            if self._error is None and self._waiter is None and not self._crowded():
                self._waiter = self
            self._running -= 1
        if self._error is not None and not self._running and not self._over:
            self._finish()

    def _crowded(self) -> bool:
        """Say whether more bursts are at work than handlers may be."""
        if self._running == 1 or self._handlers is None:
            return False
        return self._running > self._handlers.max_concurrency

    def _run_handlers(self) -> None:
        """Call handlers until nothing waits, or one raises."""
        handlers = self._handlers
        if handlers is None:
            if self._over:
                return
            handlers = self._handlers = self._new_handlers()
            handlers.socket_opened(self)
            if self._scope is not None:
                self._forget_scope()
        received, alone = handlers.socket_received, handlers.max_concurrency == 1
        if not alone and self._crowded():
            return
        while self._inbox:
            message = self._inbox.pop()
            if type(message) is not str and type(message) is not bytes:
                message = self._event_from(message)
                if self._input_paused and not self._messages_wait:
                    self._resume_soon()
            if not alone:
                self._start_others(handlers.max_concurrency)
            received(message)
        if self._input_paused and self._error is None:
            self._resume_soon()

    def _forget_scope(self) -> None:
        """Drop the scope, 3 KB, if building it again would make the same."""
        if _references(self) == UNSHARED and self._scope == self._get_scope():
            self._scope = None

    def _start_others(self, most: int) -> None:
        """Let other bursts run beside this one, if they may."""
        if self._running < most and self._error is None and self._waiter is None:
            self._waiter = self
            if self._inbox:
                self._wake_soon()

    def _call(self, handler: Callable[..., None], *args: Any) -> None:
        """Call a handler, and end the socket if it fails."""
        try:
            handler(*args)
        except BaseException as error:
            self._handler_raised(error)

    def _handler_raised(self, error: BaseException) -> None:
        """End the socket as what a handler raised says."""
        if isinstance(error, ConnectionEnded) and error.source is self:
            return
        if not isinstance(error, FAILURES):
            raise error  # it means the whole process
        self._clear_inbox()
        if isinstance(error, StopConsumer):
            self.finish()
            return
        if not isinstance(error, GreenletExit):
            logger.exception("%s: the consumer failed", printable(self.path))
        self.fail()

    def _finish(self) -> None:
        """The children end, then ``disconnect`` runs; then nothing is left."""
        assert self._error is not None
        self._over = True
        self._waiter = None
        self._call(self.run_ended)
        kind, code, reason = self._error
        if kind is HandshakeRefused:
            code, reason = ABNORMAL, ""
        handlers, self._handlers = self._handlers, None
        if handlers is None:
            return  # it could not be made
        self._running += 1
        self._watch_consumer()
        try:
            self._call(handlers.socket_closed, code, reason)
            self._run_hooks()
        finally:
            self._running -= 1
            self._stop_watching()

    def _run_hooks(self) -> None:
        """Let what the handlers borrowed be given back; a hook may block."""
        for hook in self._server.burst_hooks:
            _run_hook(hook)

    # The stop.

    def _stop_run(self) -> None:
        """The socket is over: handlers that run have ``stop_timeout`` to end."""
        if self._running:
            self._watch_consumer()
        self._wake_soon()

    def _watch_consumer(self) -> None:
        """Give what runs now ``stop_timeout`` from now on."""
        timeout = self._endpoint.limits.stop_timeout
        self._stop_watching()
        if timeout is not None:
            clock = self._server.reactor.clock
            self._stop_alarm = clock.call_later(timeout, self._stop_consumer)

    @in_hub
    def _stop_consumer(self) -> None:
        """The handlers had their time. Hub only."""
        self._stop_alarm = None
        if self._running:
            logger.warning(
                "%s: a handler did not end %s s after its socket; it is killed",
                printable(self.path),
                self._endpoint.limits.stop_timeout,
            )
            self._server.workers.kill(self._burst)


class _Scoped:
    """What has a scope that nobody else holds."""

    _scope: ClassVar[dict[str, Any]] = {"nested": {}}


def _references(owner: Any) -> tuple[int, int]:
    """Return how often a scope is held, and the most of what may change in it."""
    nested = [getrefcount(v) for v in owner._scope.values() if type(v) in (dict, list)]
    return getrefcount(owner._scope), max(nested)


#: Of a scope that its owner alone holds; it differs between versions of Python.
UNSHARED = _references(_Scoped)


def _run_hook(hook: Callable[[], object]) -> None:
    """Call a hook; what it raises is logged."""
    try:
        hook()
    except (Exception, GreenletExit, gevent.Timeout, SystemExit):
        logger.exception("a hook at the end of a burst failed: %r", hook)
