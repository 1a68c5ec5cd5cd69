"""
The run of a socket's consumer: its greenlet, where it waits, and its stop.

The first of the classes that ``ServerSocket`` (``websocket.py``) is made of.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from gevent import Greenlet, GreenletExit, getcurrent

from ..net.clock import Alarm
from ..sockets import WebSocket
from ..text import printable
from .endpoint import Endpoint

if TYPE_CHECKING:
    from .server import Server

P = ParamSpec("P")

logger = logging.getLogger("greenchannels.socket")


def in_hub(method: Callable[Concatenate[Any, P], None]) -> Callable[..., None]:
    """Let no exception out of a hub callback: its connection fails, nothing else."""

    @functools.wraps(method)
    def call(self: Any, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            self.callback_failed(error)

    return call


class SocketRun(WebSocket):
    """
    Knows which greenlet runs the consumer, and which one waits for input.

    Only hub callbacks switch to the waiter.
    """

    __slots__ = ("_endpoint", "_greenlet", "_server", "_stop_alarm", "_waiter")

    def __init__(
        self, server: Server, endpoint: Endpoint, params: dict[str, Any]
    ) -> None:
        super().__init__(params)
        self._server = server
        self._endpoint = endpoint
        self._greenlet: Greenlet[..., Any] | None = None
        self._waiter: Any = None
        self._stop_alarm: Alarm | None = None

    @property
    def greenlet(self) -> Greenlet[..., Any] | None:
        """The consumer's greenlet, while it runs."""
        return self._greenlet

    @property
    def run_over(self) -> bool:
        """Whether the consumer has ended."""
        return self._greenlet is None

    def run_started(self, greenlet: Greenlet[..., Any]) -> None:
        """The consumer has been given its greenlet."""
        self._greenlet = greenlet

    def run_ended(self) -> None:
        """The consumer has ended; its children end before anything is sent."""
        try:
            self.join_children(self._endpoint.limits.stop_timeout)
        except GreenletExit:
            logger.warning("%r: killed while its children ended", self)
        finally:
            self._greenlet = None
            self._stop_watching()

    # Waiting.

    def _park(self) -> None:
        """Wait for a switch: bytes, an event, the end, or somebody's kill."""
        self._waiter = getcurrent()
        try:
            self._server.reactor.hub.switch()
        finally:
            self._waiter = None

    def _wake(self) -> None:
        """Switch to the waiting consumer. Hub callbacks only."""
        if self._waiter is not None:
            self._waiter.switch()

    def _wake_soon(self) -> None:
        """Have the waiting consumer switched to. Any greenlet."""
        self._server.reactor.loop.run_callback(self._wake)

    # The stop.

    def _stop_run(self) -> None:
        """The socket is over: the consumer has ``stop_timeout`` to end."""
        if self._waiter is not None:
            self._server.reactor.loop.run_callback(self._wake_at_end)
        else:
            self._watch_consumer()

    @in_hub
    def _wake_at_end(self) -> None:
        """Let a waiting consumer end; watch it if it does not. Hub only."""
        self._wake()
        self._watch_consumer()

    def _watch_consumer(self) -> None:
        """Give the consumer ``stop_timeout`` from now on."""
        timeout = self._endpoint.limits.stop_timeout
        if self._greenlet is not None and timeout is not None:
            clock = self._server.reactor.clock
            self._stop_alarm = clock.call_later(timeout, self._stop_consumer)

    def _stop_watching(self) -> None:
        """The consumer has ended, or has more time."""
        if self._stop_alarm is not None:
            self._stop_alarm.cancel()
            self._stop_alarm = None

    @in_hub
    def _stop_consumer(self) -> None:
        """The consumer had its time. Hub only."""
        self._stop_alarm = None
        if self._greenlet is not None and not self._greenlet.dead:
            logger.warning(
                "%s: the consumer did not end %s s after its socket; it is killed",
                printable(self.path),
                self._endpoint.limits.stop_timeout,
            )
            self._greenlet.kill(GreenletExit, block=False)
