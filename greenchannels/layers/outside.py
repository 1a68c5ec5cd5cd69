"""
Sending from a process that runs no server: a script, a Celery task, a thread pool.

The first send starts an outpost, a layer that has no members and only publishes. The
others wait for answers and cut a link that nobody reads, so an outpost lives in a hub
that runs all the time: the main one where the standard library is patched, else that
of a native thread of its own, to which senders hand over. Either way a send returns
when the kernel has taken the message for all processes that want it, so that a program
may end right after.

A forked child has nothing of its parent's outposts, and makes its own.
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Callable
from typing import Any, TypeVar

import gevent
from gevent import Greenlet, getcurrent, monkey
from gevent._hub_local import get_hub_if_exists
from gevent.event import Event as Signal
from gevent.hub import MAIN_THREAD_IDENT, Hub  # type: ignore[attr-defined]
from gevent.lock import RLock
from gevent.monkey import get_original

from ..errors import ConfigurationError, LayerRefused, LayerUnavailable
from ..net.reactor import ONE_TURN, Reactor
from .codec import Broadcast
from .exchange import process_topic
from .layer import Layer

#: Seconds in which the kernel must have taken what was sent.
SEND_TIMEOUT = 5.0

#: Seconds that a thread waits for the outpost's: a start takes 2, a send or a call 5.
PATIENCE = 15.0

#: Seconds in which an outpost must have left the others.
CLOSE_TIMEOUT = 3.0

#: What ``stats`` calls sends that some process did not take in time.
NOT_TAKEN = "sends not taken in time"

_allocate_lock = get_original("_thread", "allocate_lock")
_get_ident = get_original("_thread", "get_ident")
_start_new_thread = get_original("_thread", "start_new_thread")

logger = logging.getLogger("greenchannels.layer")

T = TypeVar("T")


class Outside:
    """
    What groups and channels have in place of a layer where no server runs.

    Its methods are those of ``Layer``; each blocks until the work is done, at most a
    few seconds, and raises ``LayerUnavailable`` if it cannot be done.

    Args:
        url: Of the layer.
        make_layer: Makes one of that URL.

    """

    __slots__ = ("_make_layer", "_url")

    def __init__(self, url: str, make_layer: Callable[[str], Layer]) -> None:
        self._url = url
        self._make_layer = make_layer

    def send(
        self,
        topic: str,
        broadcast: Broadcast,
        *,
        exclude: object = None,
        strict: bool = False,
    ) -> None:
        """
        Send to all members of ``topic``; blocks until the kernel has it for them.

        Args:
            exclude: A channel name that does not get it.
            strict: Makes no difference here.

        Raises:
            LayerUnavailable: If there is no way to the others, or one that wants it
                does not take it; the rest has got it.

        """

        def work(layer: Layer) -> None:
            _catch_up(layer, topic)
            layer.send(topic, broadcast, exclude=exclude, strict=True)
            _flush(layer, topic)

        self._run(work)

    def send_channel(self, name: str, broadcast: Broadcast) -> None:
        """Send to one socket; as ``send`` otherwise."""

        topic = process_topic(name.partition("!")[0])

        def work(layer: Layer) -> None:
            _catch_up(layer, topic)
            layer.send_channel(name, broadcast)
            _flush(layer, topic)

        self._run(work)

    def is_elsewhere(self, name: str) -> bool:
        """Every socket is."""
        return True

    def add_channel(self, topic: str, name: str) -> None:
        """Add a socket to a group, as ``Layer.add_channel`` does."""
        self._run(lambda layer: layer.add_channel(topic, name))

    def discard_channel(self, topic: str, name: str) -> None:
        """Take a socket out of a group, as ``Layer.discard_channel`` does."""
        self._run(lambda layer: layer.discard_channel(topic, name))

    def is_wanted(self, topic: str) -> bool:
        """Say whether another process has members of ``topic``."""
        return self._run(lambda layer: layer.is_wanted(topic))

    def stats(self) -> dict[str, Any]:
        """Return the counts of this thread's outpost; zeros before its first send."""
        outpost = _outposts.find(self._url)
        if outpost is None:
            return self._make_layer(self._url).stats()
        return outpost.run(lambda layer: layer.stats())

    def _run(self, work: Callable[[Layer], T]) -> T:
        return _outposts.get(self._url, self._make_layer).run(work)


def _catch_up(layer: Layer, topic: str) -> None:
    """Learn who wants a topic, unless this is the hub, where nothing can wait."""
    if getcurrent() is not gevent.get_hub():
        layer.catch_up(topic)


def _flush(layer: Layer, topic: str) -> None:
    if not layer.flush(topic, SEND_TIMEOUT):
        layer.counters[NOT_TAKEN] += 1
        raise LayerUnavailable("a process that wants the message does not take it")


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


class Outposts:
    """The outposts of this process, by URL and by whether they live in the main hub."""

    def __init__(self) -> None:
        self._lock = _allocate_lock()
        self._found: dict[tuple[str, bool], Outpost] = {}

    def find(self, url: str) -> Outpost | None:
        """Return the outpost that sends for this thread, if it was started."""
        return self._found.get((url, has_hub()))

    def get(self, url: str, make_layer: Callable[[str], Layer]) -> Outpost:
        """Return the outpost that sends for this thread; one is made if need be."""
        in_hub = has_hub()
        with self._lock:
            found = self._found.get((url, in_hub))
            if found is None or not found.usable:
                kind = HubOutpost if in_hub else ThreadOutpost
                found = kind(lambda: make_layer(url))
                self._found[url, in_hub] = found
            return found

    def close(self) -> None:
        """Close those that can be closed from this thread; blocks a few seconds."""
        in_hub = has_hub()
        with self._lock:
            keys = [key for key in self._found if in_hub or not key[1]]
            closing = [self._found.pop(key) for key in keys]
        for outpost in closing:
            outpost.close()


def has_hub() -> bool:
    """
    Say whether outposts of this thread live in its hub.

    That is so in the main thread of a patched process. Its other native threads are
    those of pools, which let their hubs run only at times.
    """
    patched = monkey.is_module_patched("socket")
    return patched and bool(_get_ident() == MAIN_THREAD_IDENT)


def close_outposts() -> None:
    """Leave the others, as at the end of the program; the next send starts anew."""
    _outposts.close()


def _after_fork() -> None:
    """Let the child begin anew, and take no lock that a thread of its parent held."""
    global _outposts
    _of_parent.append(_outposts)
    _outposts = Outposts()


_outposts = Outposts()

#: What a child never lets go of: it belongs to threads that the child does not have.
_of_parent: list[Outposts] = []

os.register_at_fork(after_in_child=_after_fork)
atexit.register(close_outposts)
