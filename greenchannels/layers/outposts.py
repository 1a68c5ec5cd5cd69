"""
Outposts: layers without members that only publish, for processes without a server.

The other processes wait for answers and cut a link that nobody reads, so an outpost
lives in a hub that runs all the time: the main one where the standard library is
patched, else that of a native thread of its own, to which senders hand over.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import gevent
from gevent import Greenlet, getcurrent
from gevent._hub_local import get_hub_if_exists
from gevent.event import Event as Signal
from gevent.hub import Hub
from gevent.lock import RLock
from gevent.monkey import get_original

from ..errors import ConfigurationError, LayerRefused, LayerUnavailable
from ..net.reactor import ONE_TURN, Reactor
from .layer import Layer

#: Seconds that a thread waits for the outpost's: a start takes 2, a send or a call 5.
PATIENCE = 15.0

#: Seconds in which an outpost must have left the others.
CLOSE_TIMEOUT = 3.0

_allocate_lock = get_original("_thread", "allocate_lock")
_get_ident = get_original("_thread", "get_ident")
_start_new_thread = get_original("_thread", "start_new_thread")

logger = logging.getLogger("greenchannels.layer")

T = TypeVar("T")


class HubOutpost:
    """
    A layer that only publishes, in the hub of a patched process' main thread.

    Greenlets of this thread use it, many at a time.
    """

    def __init__(self, make_layer: Callable[[], Layer]) -> None:
        self._make_layer = make_layer
        self._lock = RLock()
        self._layer: Layer | None = None
        self._reactor: Reactor | None = None

    def run(self, work: Callable[[Layer], T]) -> T:
        """
        Return ``work(layer)``; the first call starts the layer.

        In a callback of the hub, where nothing can wait, only later calls work.

        Raises:
            LayerUnavailable: If there is no way to the others.
            ConfigurationError: If the layer cannot be as it was configured.

        """
        if getcurrent() is not gevent.get_hub():
            layer = self._started()
        elif self._layer is None:
            raise LayerUnavailable("the first send cannot be made in the hub")
        else:
            layer = self._layer
        return work(layer)

    def _started(self) -> Layer:
        if self._layer is None:
            with self._lock:
                if self._layer is None:
                    self._start()
        assert self._layer is not None
        return self._layer

    def _start(self) -> None:
        reactor = Reactor()
        try:
            self._layer = start_publishing(self._make_layer(), reactor)
        except BaseException:
            reactor.close()
            raise
        self._reactor = reactor

    @property
    def usable(self) -> bool:
        """Always: what failed is tried again."""
        return True

    def close(self) -> None:
        """Leave the others; blocks at most a second or two. This thread only."""
        layer, self._layer = self._layer, None
        reactor, self._reactor = self._reactor, None
        if layer is not None and reactor is not None:
            layer.close()
            reactor.close()


class Job:
    """Work that a native thread has handed over, and what became of it."""

    __slots__ = ("_done", "_error", "_result", "_signal", "_watcher", "_work")

    def __init__(self, work: Callable[[Layer], Any]) -> None:
        self._work = work
        self._result: Any = None
        self._error: BaseException | None = None
        self._done = _allocate_lock()
        self._done.acquire()
        self._watcher: Any = None
        hub = get_hub_if_exists()
        if hub and hub is not getcurrent():
            # Other greenlets of the thread go on meanwhile.
            self._signal = Signal()
            self._watcher = hub.loop.async_()
            self._watcher.start(self._signal.set)

    def run(self, layer: Layer) -> None:
        """Do it, in a greenlet of the outpost's thread."""
        try:
            self._result = self._work(layer)
        except BaseException as error:
            self._error = error
        self._notify()

    def give_up(self) -> None:
        """It will not be done, unless it has been."""
        if self._done.locked():
            self._error = LayerUnavailable("the layer has been closed")
            self._notify()

    def _notify(self) -> None:
        self._done.release()
        watcher = self._watcher
        if watcher is not None:
            watcher.send()

    def wait(self) -> Any:
        """Return its result or raise its error, in the thread that handed it over."""
        if not self._wait_until_done():
            raise LayerUnavailable("the thread that sends does not answer")
        if isinstance(self._error, Exception):
            raise self._error
        if self._error is not None:
            raise LayerUnavailable("the send was given up") from self._error
        return self._result

    def _wait_until_done(self) -> bool:
        if self._watcher is None:
            return bool(self._done.acquire(timeout=PATIENCE))
        try:
            return self._signal.wait(PATIENCE)
        finally:
            watcher, self._watcher = self._watcher, None
            watcher.stop()
            watcher.close()


class ThreadOutpost:
    """
    A layer that only publishes, in a native thread with a hub of its own.

    Native threads use it, many at a time; each blocks until its work is done, but the
    hub that it may run goes on. Making one starts the thread.
    """

    def __init__(self, make_layer: Callable[[], Layer]) -> None:
        self._make_layer = make_layer
        self._failure: BaseException | None = None
        self._loop: Any = None
        self._layer: Layer | None = None
        self._stop: Signal | None = None
        self._greenlets: set[Greenlet[..., Any]] = set()
        #: What was handed over, and whether it is too late for that.
        self._jobs: set[Job] = set()
        self._ended = False
        #: Held until the layer has started or failed, and until the thread ends.
        self._starting, self._running = _allocate_lock(), _allocate_lock()
        self._starting.acquire()
        self._running.acquire()
        self._begin_to_live()

    def _begin_to_live(self) -> None:
        """Begin to start the layer; never blocks."""
        try:
            _start_new_thread(self._live, ())
        except RuntimeError as error:
            self._failure = LayerUnavailable(f"no thread can be started: {error}")
            self._starting.release()
            self._running.release()

    @property
    def usable(self) -> bool:
        """Whether it has not failed, nor been closed."""
        return self._failure is None

    def run(self, work: Callable[[Layer], T]) -> T:
        """
        Return ``work(layer)``, which is called in the outpost's thread.

        Raises:
            LayerUnavailable: If there is no way to the others.
            ConfigurationError: If the layer cannot be as it was configured.

        """
        if not self._starting.acquire(timeout=PATIENCE):
            raise LayerUnavailable("the thread that sends does not start")
        self._starting.release()
        if self._failure is not None:
            kind = type(self._failure)
            if kind not in (ConfigurationError, LayerRefused, LayerUnavailable):
                kind = LayerUnavailable
            raise kind(str(self._failure)) from self._failure
        job = Job(work)
        self._jobs.add(job)
        try:
            if not self._ended:
                self._loop.run_callback_threadsafe(self._begin, job)
            else:
                job.give_up()
            result: T = job.wait()
            return result
        finally:
            self._jobs.discard(job)

    def close(self) -> None:
        """Leave the others; blocks at most ``CLOSE_TIMEOUT`` seconds. Any thread."""
        if self._starting.acquire(timeout=CLOSE_TIMEOUT):
            self._starting.release()
            if self._stop is not None and self._failure is None:
                self._loop.run_callback_threadsafe(self._stop.set)
            self._running.acquire(timeout=CLOSE_TIMEOUT)

    # In its thread.

    def _begin(self, job: Job) -> None:
        """Run a job in a greenlet, as it may block. In the hub."""
        if self._layer is None:
            job.give_up()
            return
        greenlet = Greenlet(job.run, self._layer)
        greenlet.name = "greenchannels send"
        self._greenlets.add(greenlet)
        greenlet.rawlink(self._greenlets.discard)
        greenlet.start()

    def _live(self) -> None:
        """Be the thread."""
        hub = gevent.get_hub()
        try:
            self._serve(hub)
        except BaseException as error:
            self._failure = error
        finally:
            if self._starting.locked():
                self._starting.release()
            self._ended = True
            for job in tuple(self._jobs):
                job.give_up()
            hub.destroy(destroy_loop=True)
            self._running.release()

    def _serve(self, hub: Hub) -> None:
        reactor = Reactor()
        try:
            layer = start_publishing(self._make_layer(), reactor)
            self._layer, self._loop, self._stop = layer, hub.loop, Signal()
            self._starting.release()
            self._stop.wait()
            self._failure = LayerUnavailable("the layer has been closed")
            gevent.sleep(ONE_TURN)  # jobs that were handed over before
            gevent.joinall(list(self._greenlets), timeout=CLOSE_TIMEOUT / 3)
            self._layer = None
            layer.close()
        finally:
            reactor.close()


Outpost = HubOutpost | ThreadOutpost


def start_publishing(layer: Layer, reactor: Reactor) -> Layer:
    """Start a layer that has no members; warn if some others say nothing."""
    layer.start(reactor, listens=False)
    bus = layer.stats().get("bus", {})
    silent = bus.get("processes", 0) - bus.get("processes linked", 0)
    if silent:
        logger.warning(
            "%d of %d processes do not say what they want: they may miss messages",
            silent,
            bus["processes"],
        )
    return layer
