"""The greenlets that run the consumers of sockets, each for its socket's life."""

from __future__ import annotations

import contextvars
import logging

import gevent
from gevent import Greenlet, getcurrent

from ..errors import ConnectionEnded
from ..routing import Match, scope_of
from ..text import printable
from .bursts import BurstSocket
from .websocket import ServerSocket

logger = logging.getLogger("greenchannels.server")


class Consumer(Greenlet):  # type: ignore[type-arg]
    """The greenlet that runs a consumer; its first argument says whose."""

    #: Its name says where it comes from; walking the stack for each costs 1 us.
    spawning_stack_limit = 0

    @property
    def name(self) -> str:
        """What is shown of it: made when asked for, since most never are."""
        return f"consumer of {self.args[0]!r}"


class Consumers:
    """
    Start consumers, and know those that run.

    Args:
        context: Each runs in a copy of it.

    """

    def __init__(self, context: contextvars.Context) -> None:
        self._context = context
        self._running: set[Consumer] = set()

    @property
    def running(self) -> set[Consumer]:
        """The greenlets that run consumers now."""
        # One that was killed before it began never said that it ended.
        self._running = {each for each in self._running if not each.dead}
        return set(self._running)

    def start(self, socket: ServerSocket, match: Match) -> None:
        """Run a socket's consumer, from the hub's next turn on."""
        if isinstance(socket, BurstSocket):
            socket.start()
            return
        greenlet = Consumer(self._consume, socket, match)
        greenlet.gr_context = self._context.copy()
        self._running.add(greenlet)
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
            self._running.discard(getcurrent())
