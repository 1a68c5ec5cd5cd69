"""
Every limit and timeout with its default, defined once.

Durations are float seconds, sizes int bytes, ``None`` means no limit. The
command line, gunicorn and contrib translate their own settings into these
objects; nothing below them reads a global.
"""

from __future__ import annotations

import math
import sys
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Any, Literal, get_args

from .errors import ConfigurationError

KIB = 1024
MIB = 1024 * KIB

#: Bytes of the connection's own output that may wait before ``send`` blocks.
OWN_BUFFER = 64 * KIB

#: Seconds between pings: a third of the usual 60 s idle limit of proxies.
DEFAULT_PING_INTERVAL = 20.0

#: Seconds that a timeout may last at most: thirty years, which every clock can count.
LONGEST = 1e9

#: Seconds in which a rate may be counted at least.
SHORTEST_PERIOD = 1e-6

#: What may be zero: it then forbids something, and no work stops.
MAY_BE_ZERO = ("max_body", "max_body_in_memory", "max_groups", "drain")


#: Whose messages a rate counts together.
RateScope = Literal["connection", "address", "user"]

#: What happens to what a rate does not allow.
RateAction = Literal["close", "drop", "wait"]


@dataclass(frozen=True, slots=True)
class Rate:
    """
    How much a peer may send: so many messages, bytes or both in ``per`` seconds.

    On average: what was not used is saved up for ``burst`` seconds, so that at first,
    or after a silence, ``burst / per`` times as much may come at once. See
    ``docs/rate-limits.md``.
    """

    #: Messages, and pings but for ``drop``; ``None``: they are not counted.
    messages: int | None = None
    #: Bytes of them, inflated, text as UTF-8; ``None``: they are not counted.
    bytes: int | None = None
    _: KW_ONLY
    #: Seconds in which so many may come.
    per: float = 1.0
    #: Seconds for which they are saved up; ``None``: as many as ``per``.
    burst: float | None = None
    #: What has a limit of its own: each connection, or all connections of this
    #: process from one address (a /64 of IPv6), or of one user.
    each: RateScope = "connection"
    #: ``close`` closes with 1008, ``drop`` discards the message, ``wait`` stops
    #: reading until it may come.
    action: RateAction = "close"


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
    #: How much the peer may send; all of them hold.
    rates: tuple[Rate, ...] = ()


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


#: zlib's. In a third of the time of its usual level, 6, JSON becomes a tenth longer.
DEFAULT_DEFLATE_LEVEL = 3


@dataclass(frozen=True, slots=True)
class Deflate:
    """
    How WebSocket messages are compressed, by permessage-deflate (RFC 7692).

    Clients that do not offer it are sent plain messages. What is worth knowing about
    compression and secrets is in ``docs/security.md``.
    """

    #: zlib's level, from 1 to 9. By 3, 1 MiB takes about 9 ms, in which nothing else
    #: runs; by 6, 25 ms.
    level: int = DEFAULT_DEFLATE_LEVEL
    #: Shorter messages are sent as they are: bytes, or characters of a text.
    min_size: int = 1 * KIB
    #: Whether messages may refer to earlier ones of the same direction. That takes
    #: up to 45,000 bytes a connection once it has received a compressed message, and
    #: 270,000 once its consumer has sent one. What groups send is still compressed
    #: once for all members; the consumer's next message then begins anew.
    context_takeover: bool = False
    #: Size of the window, as its logarithm: from 8 (256 bytes) to 15 (32 KiB). A
    #: client that does not offer to be told so keeps its own.
    max_window_bits: int = 15


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Everything that one server is told: limits, timeouts, trust."""

    limits: Limits = field(default_factory=Limits)
    http: HTTPLimits = field(default_factory=HTTPLimits)
    timeouts: Timeouts = field(default_factory=Timeouts)
    #: How WebSocket messages are compressed; ``None``: they are not.
    deflate: Deflate | None = field(default_factory=Deflate)
    #: Connections at a time; at the limit accepting pauses.
    max_connections: int | None = 10_000
    #: Bytes that wait to be written in this process, a broadcast counted once; above
    #: it the connections for which most waits are cut.
    max_total_buffer: int | None = 512 * MIB
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
    #: Other processes serve the same application: ``wsgi.multiprocess``.
    multiprocess: bool = False


def check_options(options: ServerOptions) -> ServerOptions:
    """
    Return ``options`` if every number in them makes sense.

    Raises:
        ConfigurationError: If a limit or a timeout is no number of its kind, is
            negative, or is zero where zero would stop all work.

    """
    check_limits(options.limits)
    if options.deflate is not None:
        check_deflate(options.deflate)
    _check_each("http", options.http, HTTPLimits)
    _check_each("timeouts", options.timeouts, Timeouts)
    _check_count("max_connections", options.max_connections)
    _check_count("max_total_buffer", options.max_total_buffer)
    if options.drain is None:
        raise ConfigurationError("drain is a number of seconds, not None")
    _check_duration("drain", options.drain)
    if options.proxy_protocol and not options.proxies:
        raise ConfigurationError("the PROXY protocol needs proxies that are trusted")
    _check_root_path(options.root_path)
    return options


def check_limits(limits: Limits) -> Limits:
    """
    Return ``limits`` if all of it makes sense: a server's, or a route's own.

    Raises:
        ConfigurationError: If it does not.

    """
    _check_each("limits", limits, Limits)
    if not isinstance(limits.rates, tuple):
        raise ConfigurationError(f"rates is a tuple of rates, not {limits.rates!r}")
    for rate in limits.rates:
        _check_rate(rate)
    return limits


def check_deflate(deflate: Deflate) -> Deflate:
    """
    Return ``deflate`` if all of it makes sense: a server's, or a route's own.

    Raises:
        ConfigurationError: If it does not.

    """
    if not isinstance(deflate, Deflate):
        raise ConfigurationError(f"deflate is a Deflate object, not {deflate!r}")
    for name, least, most in (
        ("level", 1, 9),
        ("min_size", 0, math.inf),
        ("max_window_bits", 8, 15),
    ):
        value = getattr(deflate, name)
        if type(value) is not int or not least <= value <= most:
            raise ConfigurationError(
                f"{name} is a number from {least} to {most}, not {value!r}"
            )
    if not isinstance(deflate.context_takeover, bool):
        raise ConfigurationError(
            f"context_takeover is True or False, not {deflate.context_takeover!r}"
        )
    return deflate


def _check_rate(rate: Rate) -> None:
    if not isinstance(rate, Rate):
        raise ConfigurationError(f"rates holds {rate!r}, which is no Rate")
    if rate.messages is None and rate.bytes is None:
        raise ConfigurationError("a rate needs messages or bytes")
    _check_count("a rate's messages", rate.messages)
    _check_count("a rate's bytes", rate.bytes)
    if rate.per is None:
        raise ConfigurationError("a rate's per is a number of seconds, not None")
    for name, value in (("per", rate.per), ("burst", rate.burst)):
        _check_duration(f"a rate's {name}", value)
        if value is not None and value < SHORTEST_PERIOD:
            raise ConfigurationError(
                f"a rate's {name} is at least {SHORTEST_PERIOD} s, not {value}"
            )
    if rate.each not in get_args(RateScope):
        known = ", ".join(get_args(RateScope))
        raise ConfigurationError(f"no rate is for each {rate.each!r}: known is {known}")
    if rate.action not in get_args(RateAction):
        known = ", ".join(get_args(RateAction))
        raise ConfigurationError(f"no rate can {rate.action!r}: known is {known}")


def _check_root_path(path: str) -> None:
    """Check that a prefix is a path without a slash at its end."""
    # What ends a path in a URL, or has no place in one.
    strange = any(c in "?#%" or not c.isprintable() for c in path)
    if path and (not path.startswith("/") or path.endswith("/") or strange):
        raise ConfigurationError(
            f"root_path begins with '/', does not end with it, and is not"
            f" percent-encoded: not {path!r}"
        )


def _check_each(name: str, part: Any, kind: type[Any]) -> None:
    """Check the numbers of a part of the options; annotations tell their kinds."""
    if not isinstance(part, kind):
        raise ConfigurationError(f"{name} is a {kind.__name__} object, not {part!r}")
    for each in fields(part):
        value = getattr(part, each.name)
        if each.type == "int | None":
            _check_count(each.name, value)
        elif each.type == "float | None":
            _check_duration(each.name, value)


def _check_count(name: str, value: Any) -> None:
    """Check a size or a count."""
    if value is None:
        return
    if type(value) is not int:
        raise ConfigurationError(f"{name} is a whole number or None, not {value!r}")
    if abs(value) > sys.maxsize:
        raise ConfigurationError(f"{name} is {sys.maxsize} at most, or None")
    _check_sign(name, value)


def _check_duration(name: str, value: Any) -> None:
    """Check a number of seconds."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigurationError(f"{name} is a number of seconds, not {value!r}")
    if not abs(value) <= LONGEST:  # a NaN neither
        raise ConfigurationError(f"{name} is a number of seconds up to {LONGEST:.0f}")
    _check_sign(name, value)


def _check_sign(name: str, value: float) -> None:
    if value < 0 or (value == 0 and name not in MAY_BE_ZERO):
        must = "not be negative" if name in MAY_BE_ZERO else "be positive or None"
        raise ConfigurationError(f"{name} must {must}, not {value}")
