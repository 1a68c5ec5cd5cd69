"""
Greenlets that run one task after another.

A new greenlet costs ten times what it costs to reuse one, so those that are done
wait for the next task. A task runs in a context of its own, or in a fresh copy of
the server's.
"""

from __future__ import annotations

import contextvars
import sys
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import TypeAlias

from gevent import Greenlet, GreenletExit

from ..net.reactor import SLICE_TIME, Reactor

#: What a worker runs; compared by ``==``.
Task: TypeAlias = Callable[[], object]

#: Workers that wait for a task; each holds a few KiB.
MAX_IDLE = 100


class Worker(Greenlet):  # type: ignore[type-arg]
    """A greenlet of ``Workers``; its task says what it does."""

    #: Its name says what it does; walking the stack for each costs 1 us.
    spawning_stack_limit = 0

    def __init__(
        self, workers: Workers, task: Task, context: contextvars.Context
    ) -> None:
        super().__init__()
        self.task: Task | None = task
        self.context = context
        self._workers = workers
        workers.all.add(self)

    @property
    def name(self) -> str:
        """What is shown of it."""
        return "an idle worker" if self.task is None else f"worker for {self.task!r}"

    def _run(self) -> None:
        workers = self._workers
        idle, ready, wait = workers.idle, workers.ready, workers.hub.switch
        count_references = sys.getrefcount
        references = count_references(self)
        try:
            while self.task is not None:
                try:
                    self.context.run(self.task)
                finally:
                    self.task, self.context = None, workers.context
                if count_references(self) > references:
                    return  # a timeout or a kill, perhaps, that is still to come
                if ready and perf_counter() < workers.until:
                    self.task, self.context = ready.popleft()
                    continue
                if workers.closed or len(idle) >= MAX_IDLE:
                    return
                idle.append(self)
                while self.task is None and not workers.closed:
                    wait()
        finally:
            workers.all.discard(self)
            if self in idle:
                idle.remove(self)  # somebody has killed it


class Workers:
    """
    The worker greenlets of one server.

    Args:
        reactor: Of the hub where they run.
        context: Tasks without a context of their own run in a copy of it.

    Attributes:
        all: Those that have not ended.
        idle: Those that wait for a task.
        ready: Tasks that wait for a worker, with their contexts.
        until: When no more of them are begun in this turn of the hub.
        closed: Whether the idle ones end instead of waiting.

    """

    def __init__(self, reactor: Reactor, context: contextvars.Context) -> None:
        self.hub = reactor.hub
        self.context = context
        self.all: set[Worker] = set()
        self.idle: list[Worker] = []
        self.ready: deque[tuple[Task, contextvars.Context]] = deque()
        self.until = 0.0
        self.closed = False
        self._reactor = reactor
        #: Whether ``_start_ready`` will be called.
        self._starting = False

    @property
    def busy(self) -> set[Worker]:
        """Those that have a task."""
        return {worker for worker in self.all if worker.task is not None}

    def run(self, task: Task, context: contextvars.Context | None = None) -> Worker:
        """Run ``task`` in a worker, at once, until it waits or ends. Hub only."""
        if context is None:
            context = self.context.copy()
        if self.idle:
            worker = self.idle.pop()
            worker.task = task
            worker.context = context
        else:
            worker = Worker(self, task, context)
        worker.switch()
        return worker

    def soon(self, task: Task, context: contextvars.Context) -> None:
        """
        Run ``task`` in a worker when the hub has a turn; never blocks.

        Tasks that do not wait for anything run one after another in the same
        worker, without a switch between them.
        """
        self.ready.append((task, context))
        if not self._starting:
            self._starting = True
            self.hub.loop.run_callback(self._start_ready)

    def _start_ready(self) -> None:
        """Begin the tasks of ``soon``, for a bounded time of this turn. Hub only."""
        ready = self.ready
        self.until = perf_counter() + SLICE_TIME
        while ready:
            self.run(*ready.popleft())
            if perf_counter() >= self.until:
                break
        self._starting = bool(ready)
        if ready:
            self._reactor.next_turn(self._start_ready)

    def kill(self, task: Task) -> None:
        """Raise GreenletExit in ``task``, unless it has ended; never blocks."""
        self.hub.loop.run_callback(self._throw, task)

    def close(self) -> None:
        """Let the idle ones end, as soon as the hub has a turn."""
        self.closed = True
        for worker in self.idle:
            self.hub.loop.run_callback(worker.switch)
        self.idle.clear()

    def _throw(self, task: Task) -> None:
        for worker in self.busy:
            if worker.task == task:
                worker.throw(GreenletExit)
