"""
Every limit and timeout with its default, defined once.

Durations are float seconds, sizes int bytes, ``None`` means no limit. The
command line, gunicorn and contrib translate their own settings into these
objects; nothing below them reads a global.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from .errors import ConfigurationError

KIB = 1024
MIB = 1024 * KIB

#: Bytes of the connection's own output that may wait before ``send`` blocks.
OWN_BUFFER = 64 * KIB

#: Seconds between pings: a third of the usual 60 s idle limit of proxies.
DEFAULT_PING_INTERVAL = 20.0


@dataclass(frozen=True, slots=True)
class Limits:
    """
    Sizes and counts of one connection; ``None`` lifts a limit.

    A route's ``limits`` replaces the whole object for its sockets: derive one
    with ``dataclasses.replace(limits, max_message=...)``.
    """

    #: Largest message, in bytes, also after inflating.
    max_message: int | None = 1 * MIB
    #: Messages from the peer, or events from groups, that wait for the consumer.
    max_inbox: int | None = 100
    #: Bytes of them that wait for the consumer.
    max_inbox_bytes: int | None = 1 * MIB
    #: Bytes that wait for the peer before the slow-consumer policy decides.
    max_write_buffer: int | None = 1 * MIB
    #: Groups that one socket may be in.
    max_groups: int | None = 1000
    #: Seconds that a consumer has to end after its socket did; then GreenletExit.
    stop_timeout: float | None = 10.0


@dataclass(frozen=True, slots=True)
class HTTPLimits:
    """Sizes and counts of one HTTP request; ``None`` lifts a limit."""

    #: Bytes of the request line (414 beyond).
    max_request_line: int | None = 8 * KIB
    #: Bytes of the whole head (431 beyond).
    max_head: int | None = 64 * KIB
    #: Header fields (431 beyond).
    max_headers: int | None = 100
    #: Bytes of the body (413 beyond).
    max_body: int | None = 16 * MIB
    #: Bytes of the body that are kept in memory; the rest is spooled to disk.
    max_body_in_memory: int | None = 1 * MIB


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Time limits of one connection, in seconds; ``None`` disables one."""

    #: From accepting a connection, or from its next request's first byte, to
    #: the end of the request head.
    head_timeout: float | None = 10.0
    #: From the handshake's request to the consumer's decision (503 beyond).
    accept_timeout: float | None = 30.0
    #: Between two keepalive pings.
    ping_interval: float | None = DEFAULT_PING_INTERVAL
    #: From a ping's last byte leaving to a sign of life.
    ping_timeout: float | None = 20.0
    #: For the peer to take one more byte of what waits for it.
    write_timeout: float | None = 30.0
    #: From our close frame to the end of the connection.
    close_timeout: float | None = 10.0
    #: For a request body to arrive.
    body_timeout: float | None = 60.0
    #: Between two requests of one connection.
    keep_alive: float | None = 75.0


@dataclass(frozen=True, slots=True)
class TLS:
    """The certificates of a listener, in PEM files."""

    #: A file with a certificate and its chain, and the file with its key (``None``:
    #: the same file), for each. The server name that a client asks for chooses; the
    #: first is for names that none has.
    certificates: tuple[tuple[str, str | None], ...]
    #: Authorities that client certificates must come from; ``None`` asks for none.
    ca_certs: str | None = None
    #: Refuse clients without a certificate; else theirs is verified if they have one.
    require_client_certificate: bool = False


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Everything that one server is told: limits, timeouts, trust."""

    limits: Limits = field(default_factory=Limits)
    http: HTTPLimits = field(default_factory=HTTPLimits)
    timeouts: Timeouts = field(default_factory=Timeouts)
    #: Connections at a time; at the limit accepting pauses.
    max_connections: int | None = 10_000
    #: Seconds from the first signal to the end of the process.
    drain: float = 25.0
    #: Networks (CIDR), or "unix", whose X-Forwarded-* and Forwarded are believed.
    proxies: tuple[str, ...] = ()
    #: Connections begin with a PROXY header, and come from ``proxies`` only.
    proxy_protocol: bool = False
    #: The prefix of all paths, which a proxy may have removed; routes do without.
    root_path: str = ""
    #: Origin patterns that are allowed beside the host asked for.
    origins: tuple[str, ...] = ()
    #: Show tracebacks to browsers and check for common mistakes.
    debug: bool = False


def check_options(options: ServerOptions) -> ServerOptions:
    """
    Return ``options`` if every number in them makes sense.

    Raises:
        ConfigurationError: If a limit or a timeout is negative, or zero where
            zero would stop all work.

    """
    for part in (options.limits, options.http, options.timeouts):
        for each in fields(part):
            _check(each.name, getattr(part, each.name))
    _check("max_connections", options.max_connections)
    if options.proxy_protocol and not options.proxies:
        raise ConfigurationError("the PROXY protocol needs proxies that are trusted")
    _check_root_path(options.root_path)
    if options.drain < 0:
        raise ConfigurationError(f"drain must not be negative, not {options.drain}")
    return options


def _check_root_path(path: str) -> None:
    """Check that a prefix is a path without a slash at its end."""
    # What ends a path in a URL, or has no place in one.
    strange = any(c in "?#%" or not c.isprintable() for c in path)
    if path and (not path.startswith("/") or path.endswith("/") or strange):
        raise ConfigurationError(
            f"root_path begins with '/', does not end with it, and is not"
            f" percent-encoded: not {path!r}"
        )


def _check(name: str, value: Any) -> None:
    zero_is_fine = name in ("max_body", "max_body_in_memory", "max_groups")
    if value is not None and (value < 0 or (value == 0 and not zero_is_fine)):
        raise ConfigurationError(f"{name} must be positive or None, not {value}")
