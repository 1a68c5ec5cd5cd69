"""
Which layer a send uses: the consumer's own, else the only started one.

A send in a process that runs no server never goes into an empty memory: it
raises ``ConfigurationError``.
"""

from __future__ import annotations

import os
from contextvars import ContextVar
from typing import Any

from ..errors import ConfigurationError
from ..net.reactor import Reactor
from .ipc import IpcBus
from .layer import Layer
from .memory import MemoryBus

#: The layer of the consumer that this greenlet runs for.
CURRENT: ContextVar[Layer | None] = ContextVar("greenchannels_layer", default=None)

_started: list[Layer] = []
_configured: str | None = None


def configure(*, layer: str | None) -> None:
    """
    Set the layer of this process by URL, for servers started after this.

    Args:
        layer: ``"memory://"``, ``"ipc://NAME"``, or ``None`` to forget what was
            configured.

    Raises:
        ConfigurationError: If the URL names no layer.

    """
    global _configured
    if layer is not None:
        make_layer(layer)
    _configured = layer


def configured_url() -> str | None:
    """Return what ``configure`` was told."""
    return _configured


def make_layer(url: str) -> Layer:
    """
    Return a new layer for ``url``, not yet started.

    Raises:
        ConfigurationError: If the URL names no layer.

    """
    if url == "memory://":
        return Layer(MemoryBus())
    scheme, _, rest = url.partition("://")
    if scheme == "ipc":
        return Layer(IpcBus(rest))
    raise ConfigurationError(
        f"no layer for {url!r}: known are memory:// and ipc://NAME"
    )


def start_layer(layer: Layer, reactor: Reactor) -> None:
    """Start ``layer`` and let sends of this process find it."""
    layer.start(reactor)
    _started.append(layer)


def stop_layer(layer: Layer) -> None:
    """Close ``layer``; sends find it no more."""
    if layer in _started:
        _started.remove(layer)
    layer.close()


def current_layer() -> Layer:
    """
    Return the layer that a send uses here.

    Raises:
        ConfigurationError: If there is none, or more than one to choose from.

    """
    layer = CURRENT.get()
    if layer is not None and layer.started:
        return layer
    if len(_started) == 1:
        return _started[0]
    if _started:
        raise ConfigurationError(
            "several servers run in this process, and this code runs in none of"
            " their consumers: which layer is meant cannot be known"
        )
    raise ConfigurationError(
        "no server runs in this process and no layer reaches one from here:"
        " configure a layer that does (memory:// lives inside a server)"
    )


#: A child that was forked serves nobody: its layers were its parent's.
os.register_at_fork(after_in_child=_started.clear)


def stats() -> dict[str, Any]:
    """
    Return what happened to messages so far in this process, and present sizes.

    Counts by name; under ``"slow"`` and ``"rates"`` what happened by route (see
    ``docs/slow-consumers.md`` and ``docs/rate-limits.md``). Never blocks.

    Raises:
        ConfigurationError: If no server runs in this process, or several do and this
            code runs in none of their consumers.

    """
    return current_layer().stats()
