"""
Lifespans: what a worker enters before it accepts and leaves after its drain.

``lifespan(f)`` routes are context managers. GSGI consumers get a scope of type
"lifespan" (ASGI 3); one that raises on it does not support it.
"""

from __future__ import annotations

import contextvars
import logging
from contextlib import ExitStack
from typing import Any

from gevent import Greenlet
from gevent.queue import Empty, Queue

from ..routing import Route, Router
from ..types import Event, Scope

#: Seconds that a GSGI consumer may take to start, and to stop.
LIFESPAN_TIMEOUT = 60.0

logger = logging.getLogger("greenchannels.server")


class LifespanFailed(RuntimeError):
    """A consumer said ``lifespan.startup.failed`` or ``shutdown.failed``."""


class LifespanRunner:
    """Enter and leave all lifespans of a routing, in order and in reverse."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._stack = ExitStack()
        self._state: dict[str, Any] = {}

    def start(self, context: contextvars.Context) -> None:
        """
        Enter all; blocks while they start.

        Args:
            context: In which consumers run; what is set in it, they see.

        Raises:
            Exception: What one raised; those before it have been left again.

        """
        with ExitStack() as stack:
            for route in self._router.lifespans:
                manager = context.run(route.enter)
                context.run(stack.enter_context, manager)
            for gsgi_route in self._router.routes:
                if gsgi_route.kind == "gsgi":
                    run = GSGILifespan(gsgi_route, self._state)
                    run.start(context)
                    stack.callback(run.stop)
            self._stack = stack.pop_all()

    def stop(self) -> None:
        """Leave all; blocks while they stop."""
        self._stack.close()

    def add_state(self, scope: Scope) -> None:
        """Put a shallow copy of the lifespans' state into a request's scope."""
        if self._state:
            scope["state"] = dict(self._state)


class GSGILifespan:
    """The lifespan of one GSGI consumer: a greenlet that waits for the end."""

    def __init__(self, route: Route, state: dict[str, Any]) -> None:
        self._route = route
        self._state = state
        self._events: Queue[Event] = Queue(2)
        self._answers: Queue[Event] = Queue(4)
        self._supported = False
        self._greenlet: Greenlet[..., Any] | None = None

    def start(self, context: contextvars.Context) -> None:
        """Send startup and wait for its answer, at most ``LIFESPAN_TIMEOUT`` s."""
        self._greenlet = Greenlet(self._run)
        self._greenlet.gr_context = context.copy()
        self._greenlet.name = f"lifespan of {self._route.path}"
        self._events.put({"type": "lifespan.startup"})
        self._greenlet.start()
        answer = self._answer("startup")
        if answer["type"] == "lifespan.startup.failed":
            self._greenlet.kill()
            raise LifespanFailed(answer.get("message", "") or "startup failed")
        if not self._supported:
            self._greenlet.kill()

    def stop(self) -> None:
        """Send shutdown and wait for its answer, at most ``LIFESPAN_TIMEOUT`` s."""
        if not self._supported or self._greenlet is None:
            return
        self._events.put({"type": "lifespan.shutdown"})
        try:
            answer = self._answer("shutdown")
        except LifespanFailed:
            logger.exception("lifespan of %s", self._route.path)
        else:
            if answer["type"] == "lifespan.shutdown.failed":
                text = answer.get("message")
                logger.error("lifespan of %s: %s", self._route.path, text)
        self._greenlet.kill()

    def _answer(self, what: str) -> Event:
        try:
            return self._answers.get(timeout=LIFESPAN_TIMEOUT)
        except Empty:
            assert self._greenlet is not None
            self._greenlet.kill()
            raise LifespanFailed(f"no answer to {what} in time") from None

    def _send(self, event: Event) -> None:
        """Take an answer; the first tells whether the consumer has a lifespan."""
        if event["type"] == "lifespan.startup.complete":
            self._supported = True
        self._answers.put(event)

    def _run(self) -> None:
        scope: Scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self._state,
        }
        try:
            self._route.consumer(scope, self._events.get, self._send)
        except Exception:
            if self._supported:
                logger.exception("lifespan of %s failed", self._route.path)
            else:
                logger.debug("%s takes no lifespan", self._route.path, exc_info=True)
        self._answers.put({"type": "ended"})
