"""
The Origin rule: which web pages may open a WebSocket here.

A browser lets any page open a socket to any host and sends the user's cookies
along; the Origin field (RFC 6455, section 10.2; RFC 6454) is all that tells a
page of ours from a stranger's. A missing Origin is not a browser and allowed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import SplitResult, urlsplit

from ..errors import ConfigurationError

#: A name or an address, with or without a dot before it for all below.
_HOST = re.compile(r"\.?[^\s*./@]+(?:\.[^\s*./@]+)*\.?")

DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def check_pattern(pattern: str) -> str:
    """
    Return ``pattern`` if it is one.

    Patterns are ``*``, a host (``example.org``, with or without ``:port``), a
    domain with all below it (``.example.org``), or a whole origin
    (``https://example.org:8443``).

    Raises:
        ConfigurationError: If it is none of these.

    """
    if pattern == "*":
        return pattern
    parts = _split(pattern if "://" in pattern else "//" + pattern)
    if parts is None or not _is_host(parts) or parts.path not in ("", "/"):
        raise ConfigurationError(f"not an origin pattern: {pattern!r}")
    return pattern


def _is_host(parts: SplitResult) -> bool:
    """Whether a pattern's host is one, or a domain where there may be one."""
    host = parts.hostname or ""
    if parts.scheme and host.startswith("."):
        return False
    return bool(_HOST.fullmatch(host))


def origin_allowed(origin: str, *, host: str, patterns: Iterable[str]) -> bool:
    """
    Return whether a page of ``origin`` may connect.

    The scheme is not compared with the host asked for: behind a proxy that
    ends TLS the page is https and the request is not.

    Args:
        origin: The field's value.
        host: The host asked for, with its port if it was named.
        patterns: Further origins that may.

    """
    parts = _split(origin)
    if parts is not None and parts.hostname and parts.scheme in ("http", "https"):
        asked = _split("//" + host)
        if asked is not None and _authority(parts) == _authority(asked):
            return True
    return any(_matches(pattern, parts) for pattern in patterns)


def _authority(parts: SplitResult) -> tuple[str | None, int | None]:
    """Return host and port; the ports that browsers leave out as ``None``."""
    default = DEFAULT_PORTS.get(parts.scheme)
    left_out = (80, 443) if default is None else (default,)
    return parts.hostname, None if parts.port in left_out else parts.port


def _matches(pattern: str, parts: SplitResult | None) -> bool:
    if pattern == "*":
        return True
    if parts is None or not parts.hostname:
        return False
    wanted = _split(pattern if "://" in pattern else "//" + pattern)
    assert wanted is not None, "patterns have been checked"
    if wanted.scheme:
        return (wanted.scheme, *_host_port(wanted)) == (
            parts.scheme,
            *_host_port(parts),
        )
    if wanted.port is not None and wanted.port != _host_port(parts)[1]:
        return False
    host = wanted.hostname or ""
    if host.startswith("."):
        return parts.hostname == host[1:] or parts.hostname.endswith(host)
    return parts.hostname == host


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _host_port(parts: SplitResult) -> tuple[str | None, int | None]:
    """Return host and port, the scheme's own where none is named."""
    port = parts.port if parts.port is not None else DEFAULT_PORTS.get(parts.scheme)
    return parts.hostname, port
