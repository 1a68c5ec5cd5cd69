"""A bus for a URL."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import ConfigurationError
from .bus import RedisBus
from .cluster import Cluster
from .frames import PLAIN
from .places import OneServer, Place
from .routers import Hosts, Router
from .sealing import Sealer
from .sentinel import WatchedServer
from .url import RedisURL, read_url, split_urls


def make_bus(url: str, keys: Sequence[str] = ()) -> RedisBus:
    """
    Return a bus, not yet started.

    Args:
        url: One, or several with commas between.
        keys: Secrets for encryption; a URL's own count more.

    Raises:
        ConfigurationError: If the URL means nothing, or something is not installed.

    """
    found = [read_url(each) for each in split_urls(url)]
    first = found[0]
    for each in found[1:]:
        if (each.prefix, each.keys) != (first.prefix, first.keys):
            raise ConfigurationError(
                "servers that share the work have the same prefix and the same keys"
            )
    secrets = first.keys or tuple(keys)
    return RedisBus(_make_router(found), Sealer(secrets) if secrets else None)


def _make_router(found: list[RedisURL]) -> Router:
    first = found[0]
    if len(found) == 1 and first.kind == "cluster":
        return Cluster(first.addresses, first.server, first.prefix, first.pubsub)
    places: dict[str, Place] = {}
    for each in found:
        name, place = _make_place(each)
        if name in places:
            raise ConfigurationError(f"Redis at {name} is named twice")
        places[name] = place
    return Hosts(places, PLAIN, found[0].prefix)


def _make_place(found: RedisURL) -> tuple[str, Place]:
    """Return a server, with the name that it has in all processes."""
    if found.kind == "cluster":
        raise ConfigurationError("a Cluster divides the work by itself: it is one URL")
    if found.kind == "sentinel":
        place = WatchedServer(found.addresses, found.service, found.server)
        return f"{found.service} of sentinels", place
    address = found.addresses[0]
    return str(address), OneServer(address)
