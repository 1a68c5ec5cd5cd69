"""A bus for a URL."""

from __future__ import annotations

from collections.abc import Sequence

from .bus import RedisBus
from .cluster import Cluster
from .frames import PLAIN
from .places import OneServer, Place
from .routers import Hosts, Router
from .sealing import Sealer
from .sentinel import WatchedServer
from .url import RedisURL, read_urls


def make_bus(url: str, keys: Sequence[str] = ()) -> RedisBus:
    """
    Return a bus, not yet started.

    Args:
        url: One, or several with commas between.
        keys: Secrets for encryption; a URL's own count more.

    Raises:
        ConfigurationError: If the URL means nothing, or something is not installed.

    """
    found = read_urls(url)
    secrets = found[0].keys or tuple(keys)
    return RedisBus(_make_router(found), Sealer(secrets) if secrets else None)


def _make_router(found: list[RedisURL]) -> Router:
    first = found[0]
    if first.kind == "cluster":
        return Cluster(first.addresses, first.server, first.prefix, first.pubsub)
    places = {each.name: _make_place(each) for each in found}
    return Hosts(places, PLAIN, first.prefix)


def _make_place(found: RedisURL) -> Place:
    if found.kind == "sentinel":
        return WatchedServer(found.addresses, found.service, found.server)
    return OneServer(found.addresses[0])
