"""Signals of a server's process, and of the children that it forks."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from typing import Any

from gevent.monkey import get_original

#: What may tell a server's process to do something.
_HEARD = {
    *(signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGABRT, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH),
}

#: What native threads that fork have blocked otherwise.
_masks: dict[int, set[int]] = {}

_get_ident = get_original("_thread", "get_ident")


def hold_back() -> None:
    """Have signals wait for ``let_come``, in this native thread and its children."""
    _masks[_get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)


def let_come() -> None:
    """Have signals come that were held back, if they were."""
    mask = _masks.pop(_get_ident(), None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def give_back(handlers: Iterable[Any], numbers: Iterable[int]) -> None:
    """
    Let signals do what they do by default; in a forked child, whose server is no more.

    Args:
        handlers: What handles them in the hub.
        numbers: Which ones.

    """
    for handler in handlers:
        handler.cancel()
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)
