"""
Which layer a send uses: the consumer's own, else the only started one, else outside
of servers the one that is configured.

A send in a process that runs no server never goes into an empty memory: it
raises ``ConfigurationError``.

This module reads the environment, which is otherwise left to edges: a program that no
command of ours has started has no edge that could.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from ..net.reactor import Reactor
from .ipc import IpcBus
from .layer import Layer
from .memory import MemoryBus
from .outside import Outside, close_outposts
from .redis.url import read_urls
from .tiers import TiersBus

if TYPE_CHECKING:
    from .redis.bus import RedisBus

#: The environment variable that names a layer; it counts more than ``configure``.
VARIABLE = "GREENCHANNELS_LAYER"

#: What URLs of Redis begin with.
REDIS_SCHEMES = frozenset(
    f"{name}{kind}"
    for name in ("redis", "rediss")
    for kind in ("", "+sentinel", "+cluster")
)

_NO_CLIENT = "redis:// needs redis-py: pip install greenchannels[redis]"

#: Where the next of several URLs begins, and passwords among the options of one.
_NEXT_URL = re.compile(r"(?<=[,+])(?=rediss?(?:\+[a-z]+)?://)")
_TWO_TIERS = re.compile(r"ipc://(.*?)\+(rediss?(?:\+[a-z]+)?://.*)", re.DOTALL)
_PASSWORD = re.compile(r"((?:ssl|sentinel)_password=)[^&,+]*")

#: The layer of the consumer that this greenlet runs for.
CURRENT: ContextVar[Layer | None] = ContextVar("greenchannels_layer", default=None)

_started: list[Layer] = []
_configured: str | None = None
_keys: tuple[str, ...] = ()


def configure(
    *, layer: str | None, symmetric_encryption_keys: Sequence[str] = ()
) -> None:
    """
    Set the layer of this process by URL: for servers started after this, and for
    sends where none runs.

    ``GREENCHANNELS_LAYER`` in the environment counts more. Sends through another
    URL before this are over; blocks a few seconds at most while they are finished.

    Args:
        layer: ``"memory://"``, ``"ipc://NAME"``, ``"redis://HOST"``,
            ``"ipc://NAME+redis://HOST"``, or ``None`` to forget what was configured.
        symmetric_encryption_keys: Secrets, for any URL of Redis: the first encrypts,
            all decrypt. None by default: messages cross the network as they are.

    Raises:
        ConfigurationError: If the URL names no layer, or a key is no text.

    """
    global _configured, _keys
    before, keys = _keys, _check_keys(symmetric_encryption_keys)
    _keys = keys
    if layer is not None:
        try:
            make_layer(with_name(layer, "any"))
        except ConfigurationError:
            _keys = before
            raise
    if (layer, keys) != (_configured, before):
        close_outposts()
    _configured = layer


def _check_keys(keys: Sequence[str]) -> tuple[str, ...]:
    if isinstance(keys, str) or not all(type(key) is str and key for key in keys):
        raise ConfigurationError("symmetric_encryption_keys is a list of texts")
    return tuple(keys)


def configured_url() -> str | None:
    """Return what the environment names, or else what ``configure`` was told."""
    return os.environ.get(VARIABLE) or _configured


def make_layer(url: str) -> Layer:
    """
    Return a new layer for ``url``, not yet started.

    Raises:
        ConfigurationError: If the URL names no layer.

    """
    if url == "memory://":
        return Layer(MemoryBus())
    scheme, _, rest = url.partition("://")
    if found := _TWO_TIERS.fullmatch(url):
        if not found[1]:
            raise ConfigurationError(
                f"{shown_url(url)!r} has no name here: write ipc://NAME+redis://HOST"
            )
        return Layer(TiersBus(IpcBus(found[1]), _redis_bus(found[2])))
    if scheme == "ipc":
        return Layer(IpcBus(rest))
    if scheme in REDIS_SCHEMES:
        return Layer(_redis_bus(url))
    raise ConfigurationError(
        f"no layer for {shown_url(url)!r}: known are memory://, ipc://NAME,"
        " redis://HOST, redis+sentinel://HOST/NAME, redis+cluster://HOST and the same"
        " with rediss, and ipc://NAME+redis://HOST"
    )


def check_url(url: str) -> None:
    """
    Check that ``url`` names a layer, without importing what it takes.

    For a process that lets others import it, after they have patched.

    Raises:
        ConfigurationError: If the URL names no layer, or something is not installed.

    """
    found = _TWO_TIERS.fullmatch(url)
    if found is None and url.partition("://")[0] not in REDIS_SCHEMES:
        make_layer(url)
        return
    if importlib.util.find_spec("redis") is None:
        raise ConfigurationError(_NO_CLIENT)
    read_urls(found[2] if found is not None else url)


def with_name(url: str, name: str) -> str:
    """Return ``url``, with ``name`` in ``ipc://+redis://HOST``, which has none."""
    return f"ipc://{name}{url[len('ipc://') :]}" if url.startswith("ipc://+") else url


def _redis_bus(url: str) -> RedisBus:
    """Return a bus over Redis; its client is imported only for those who use it."""
    try:
        from .redis.making import make_bus
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "redis":
            raise
        raise ConfigurationError(_NO_CLIENT) from error
    return make_bus(url, _keys)


def shown_url(url: str) -> str:
    """Return a layer's URL as it may be printed: without users and passwords."""
    return "".join(map(_without_secrets, _NEXT_URL.split(url)))


def _without_secrets(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return scheme + separator + _PASSWORD.sub(r"\1...", rest.rpartition("@")[2])


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
    Return the layer of the server that this code belongs to.

    Raises:
        ConfigurationError: If there is none, or more than one to choose from.

    """
    layer = _started_layer()
    if layer is None:
        raise ConfigurationError("no server runs in this process: it has no sockets")
    return layer


def sending_layer() -> Layer | Outside:
    """
    Return what a send uses here. Never blocks; a layer outside starts at its first use.

    Raises:
        ConfigurationError: If there is none, or more than one to choose from.

    """
    return _started_layer() or Outside(_outside_url(), make_layer)


def _outside_url() -> str:
    """Return the URL for sends where no server runs."""
    url = configured_url()
    how = (
        "say which layer servers have, by greenchannels.configure(layer='ipc://NAME')"
        f" or {VARIABLE}=ipc://NAME in the environment (or redis://HOST)"
    )
    if not url:
        raise ConfigurationError(
            f"no server runs in this process and no layer is configured: {how}"
        )
    if url == "memory://":
        raise ConfigurationError(
            "no server runs in this process, and memory:// reaches none from here:"
            f" {how}"
        )
    return url


def _started_layer() -> Layer | None:
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
    return None


#: A child that was forked serves nobody: its layers were its parent's.
os.register_at_fork(after_in_child=_started.clear)


def stats() -> dict[str, Any]:
    """
    Return what happened to messages so far in this process, and present sizes.

    Counts by name; under ``"slow"`` and ``"rates"`` what happened by route (see
    ``docs/slow-consumers.md`` and ``docs/rate-limits.md``). Never blocks in a server;
    elsewhere, where it counts what was sent, only for the thread that sends.

    Raises:
        ConfigurationError: If no server runs in this process and no layer is
            configured, or several do and this code runs in none of their consumers.

    """
    return sending_layer().stats()
