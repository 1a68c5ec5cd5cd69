"""
Sending from a process that runs no server: a script, a Celery task, a thread pool.

The first send starts an outpost (``outposts.py``), a layer that has no members and only
publishes. A send returns when the kernel has taken the message for all processes that
want it, so that a program may end right after.

A forked child has nothing of its parent's outposts, and makes its own.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from typing import Any, TypeVar

import gevent
from gevent import getcurrent, monkey
from gevent.hub import MAIN_THREAD_IDENT  # type: ignore[attr-defined]
from gevent.monkey import get_original

from ..errors import LayerUnavailable
from .codec import Broadcast
from .exchange import process_topic
from .layer import Layer
from .outposts import HubOutpost, Outpost, ThreadOutpost

#: Seconds in which the kernel must have taken what was sent.
SEND_TIMEOUT = 5.0

#: What ``stats`` calls sends that some process did not take in time.
NOT_TAKEN = "sends not taken in time"

_allocate_lock = get_original("_thread", "allocate_lock")
_get_ident = get_original("_thread", "get_ident")

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
