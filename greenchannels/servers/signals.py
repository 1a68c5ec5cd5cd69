"""Signals of a server's process, and of the children that it forks."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from typing import Any


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
