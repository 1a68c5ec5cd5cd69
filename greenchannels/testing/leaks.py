"""What a test leaves behind: greenlets that run, descriptors that are open."""

from __future__ import annotations

import contextlib
import gc
import os
import time
from typing import Any

import gevent
from gevent import Greenlet

#: Seconds in which what is about to end may end.
PATIENCE = 1.0

#: Where Linux lists the descriptors of this process.
_DESCRIPTORS = "/proc/self/fd"

#: Loops keep what they opened once: an eventfd, a timerfd.
_OF_THE_LOOP = "anon_inode:"


class LeakCheck:
    """Note what there is now; ``find`` later says what has been added."""

    def __init__(self) -> None:
        self._greenlets = set(running_greenlets())
        self._descriptors = set(open_descriptors())

    def find(self) -> list[str]:
        """Return what was left, in words; blocks at most ``PATIENCE`` seconds."""
        end = time.monotonic() + PATIENCE
        while (found := self._left()) and time.monotonic() < end:
            gevent.sleep(0.01)
            gc.collect()
        return found

    def _left(self) -> list[str]:
        gevent.sleep(0)
        greenlets = [g for g in running_greenlets() if g not in self._greenlets]
        opened = [d for d in open_descriptors() if d not in self._descriptors]
        return [
            *(f"greenlet {describe(each)}" for each in greenlets),
            *(f"descriptor {fd} ({target})" for fd, target in opened),
        ]


def describe(greenlet: Greenlet[..., Any]) -> str:
    """Return the name of a greenlet and what it runs."""
    function = getattr(greenlet, "_run", None)
    name = getattr(function, "__qualname__", repr(function))
    return f"{greenlet.name} running {name}"


def running_greenlets() -> list[Greenlet[..., Any]]:
    """Return the greenlets that were started and have not ended."""
    found = [g for g in gc.get_objects() if issubclass(type(g), Greenlet)]
    return [g for g in found if g and g is not gevent.getcurrent()]


def open_descriptors() -> list[tuple[int, str]]:
    """Return the open descriptors and what they are; none where nobody knows."""
    found: list[tuple[int, str]] = []
    if not os.path.isdir(_DESCRIPTORS):
        return found
    for name in os.listdir(_DESCRIPTORS):
        with contextlib.suppress(OSError):
            target = os.readlink(f"{_DESCRIPTORS}/{name}")
            if not target.startswith(_OF_THE_LOOP):
                found.append((int(name), target))
    return found
