"""
Greenlets that run one consumer after another.

A new greenlet costs ten times what it costs to reuse one, so those that are done
wait for the next task. Each task runs in a fresh copy of the server's context.
"""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Callable
from typing import TypeAlias

from gevent import Greenlet, GreenletExit
from gevent.hub import Hub

#: What a worker runs; compared by ``==``.
Task: TypeAlias = Callable[[], object]

#: Workers that wait for a task; each holds a few KiB.
MAX_IDLE = 100


class Worker(Greenlet):  # type: ignore[type-arg]
    """A greenlet of ``Workers``; its task says what it does."""

    #: Its name says what it does; walking the stack for each costs 1 us.
    spawning_stack_limit = 0

    def __init__(self, workers: Workers, task: Task) -> None:
        super().__init__()
        self.task: Task | None = task
        self._workers = workers
        workers.all.add(self)

    @property
    def name(self) -> str:
        """What is shown of it."""
        return "an idle worker" if self.task is None else f"worker for {self.task!r}"

    def _run(self) -> None:
        workers = self._workers
        idle, wait, new_context = workers.idle, workers.hub.switch, workers.context.copy
        count_references = sys.getrefcount
        references = count_references(self)
        try:
            while self.task is not None:
                try:
                    new_context().run(self.task)
                finally:
                    self.task = None
                if workers.closed or len(idle) >= MAX_IDLE:
                    return
                if count_references(self) > references:
                    return  # a timeout or a kill, perhaps, that is still to come
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
        hub: Where they run.
        context: Each task runs in a copy of it.

    Attributes:
        all: Those that have not ended.
        idle: Those that wait for a task.
        closed: Whether the idle ones end instead of waiting.

    """

    def __init__(self, hub: Hub, context: contextvars.Context) -> None:
        self.hub = hub
        self.context = context
        self.all: set[Worker] = set()
        self.idle: list[Worker] = []
        self.closed = False

    @property
    def busy(self) -> set[Worker]:
        """Those that have a task."""
        return {worker for worker in self.all if worker.task is not None}

    def run(self, task: Task) -> Worker:
        """Run ``task`` in a worker, at once, until it waits or ends. Hub only."""
        if self.idle:
            worker = self.idle.pop()
            worker.task = task
        else:
            worker = Worker(self, task)
        worker.switch()
        return worker

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
