"""
URLs of Redis and Valkey: where they are, who we are there, what we are called.

``redis://[USER[:PASSWORD]@]HOST[:PORT][/DB][?prefix=NAME]``; ``rediss://`` is the same
over TLS, with redis-py's options (``ssl_ca_certs=FILE`` and so on). After
``redis+sentinel://`` and ``redis+cluster://`` (``rediss+...``) hosts are several, by
commas. Reads the files that the options name, and nothing else.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from ...errors import ConfigurationError

if TYPE_CHECKING:
    from gevent.ssl import SSLContext

#: The ports of a server and of a sentinel.
DEFAULT_PORT, DEFAULT_SENTINEL_PORT = 6379, 26379

#: What the channels of applications begin with that do not say.
DEFAULT_PREFIX = "greenchannels"

_PREFIX = re.compile(r"[A-Za-z0-9._/-]{1,100}")
_DATABASE = re.compile(r"/?[0-9]{0,5}/?")
_SERVICE = re.compile(r"/([A-Za-z0-9._-]{1,100})((?:/[0-9]{0,5})?/?)")
_SCHEME = re.compile(r"(rediss?)(?:\+(sentinel|cluster))?://")

#: The words of options that are on or off.
_SWITCH = {
    **dict.fromkeys(("1", "true", "yes"), True),
    **dict.fromkeys(("0", "false", "no"), False),
}

_REQUIREMENTS = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}

#: Options that rediss:// takes, by redis-py's names.
TLS_OPTIONS = frozenset(
    (
        *("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_certfile", "ssl_keyfile"),
        *("ssl_password", "ssl_cert_reqs", "ssl_check_hostname", "ssl_min_version"),
        "ssl_ciphers",
    )
)

#: Options of each kind of URL, beside those of TLS.
OPTIONS = {
    "": frozenset(("prefix", "symmetric_encryption_keys_file")),
    "sentinel": frozenset(
        (
            *("prefix", "symmetric_encryption_keys_file"),
            *("sentinel_username", "sentinel_password"),
        )
    ),
    "cluster": frozenset(("prefix", "symmetric_encryption_keys_file", "pubsub")),
}

#: Values of the option ``pubsub``.
PUBSUB = ("auto", "sharded", "plain")


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """
    A server, and how it is entered.

    Attributes:
        host: Its name or address.
        port: Its TCP port.
        username: The ACL user, or ``None`` for the default one.
        password: Its password, if it has one.
        tls: The TLS options, or ``None`` for a connection in the clear.

    """

    host: str
    port: int
    username: str | None
    password: str | None = field(repr=False)
    tls: dict[str, str] | None = field(repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def at(self, host: str, port: int) -> RedisAddress:
        """Return another server that is entered in the same way."""
        return replace(self, host=host, port=port)

    def tls_context(self) -> SSLContext | None:
        """
        Return what a TLS connection begins with, read from the files anew.

        Raises:
            ConfigurationError: If an option or a file is wrong.

        """
        if self.tls is None:
            return None
        try:
            return _make_context(self.tls)
        except (OSError, ValueError, KeyError) as error:
            raise ConfigurationError(f"rediss:// options: {error}") from error


@dataclass(frozen=True, slots=True)
class RedisURL:
    """
    What a URL means.

    Attributes:
        kind: ``""`` for a server, ``"sentinel"`` or ``"cluster"``.
        addresses: The server; or sentinels; or some nodes of the Cluster.
        prefix: What all channels begin with.
        keys: Secrets for encryption, if there are any.
        service: What sentinels call the server.
        server: How the server is entered that sentinels know, wherever it is.
        pubsub: Which kind a Cluster is used by; one of ``PUBSUB``.

    """

    kind: str
    addresses: tuple[RedisAddress, ...]
    prefix: str
    keys: tuple[str, ...] = field(repr=False)
    service: str
    server: RedisAddress
    pubsub: str

    @property
    def name(self) -> str:
        """What it is called, the same in all processes."""
        if self.kind == "sentinel":
            return f"{self.service} of sentinels"
        return ",".join(map(str, self.addresses))


def split_urls(text: str) -> list[str]:
    """Return the URLs of several servers, which are written with commas between."""
    return re.split(r",(?=rediss?(?:\+[a-z]+)?://)", text)


def read_urls(text: str) -> list[RedisURL]:
    """
    Return what one URL means, or several with commas between.

    Raises:
        ConfigurationError: If one means nothing, or they do not fit together.

    """
    found = [read_url(each) for each in split_urls(text)]
    first, *others = found
    for each in others:
        if (each.prefix, each.keys) != (first.prefix, first.keys):
            raise ConfigurationError(
                "servers that share the work have the same prefix and the same keys"
            )
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"Redis at {name} is named twice")
    if others and "cluster" in [each.kind for each in found]:
        raise ConfigurationError("a Cluster divides the work by itself: it is one URL")
    return found


def read_url(url: str) -> RedisURL:
    """
    Return what a URL of Redis means.

    Raises:
        ConfigurationError: If it means nothing. The text holds no password.

    """
    scheme = _SCHEME.match(url)
    try:
        parts = urlsplit(url)
        options = dict(_read_query(parts.query))
    except ValueError as error:
        raise ConfigurationError(f"not a URL of Redis: {error}") from error
    if scheme is None:
        raise ConfigurationError(
            f"{parts.scheme}:// is no way to Redis: there are redis://,"
            " redis+sentinel://, redis+cluster://, and the same with rediss"
        )
    kind, secure = scheme[2] or "", scheme[1] == "rediss"
    _check_options(scheme[0], options, OPTIONS[kind], secure=secure)
    username, password, hosts = _read_netloc(parts.netloc, kind)
    tls = {name: options[name] for name in options.keys() & TLS_OPTIONS}
    entered = RedisAddress("", 0, username, password, tls if secure else None)
    service, path = (
        _read_service(parts.path) if kind == "sentinel" else ("", parts.path)
    )
    asked = entered
    if kind == "sentinel":
        asked = replace(
            entered,
            username=options.get("sentinel_username"),
            password=options.get("sentinel_password"),
        )
    pubsub = options.get("pubsub", "auto")
    if pubsub not in PUBSUB:
        raise ConfigurationError(f"pubsub is one of {', '.join(PUBSUB)}")
    found = RedisURL(
        kind=kind,
        addresses=tuple(asked.at(*host) for host in hosts),
        prefix=_read_prefix(options.get("prefix", DEFAULT_PREFIX), path),
        keys=_read_keys(options.get("symmetric_encryption_keys_file")),
        service=service,
        server=entered,
        pubsub=pubsub,
    )
    entered.tls_context()
    return found


def _check_options(
    scheme: str, options: dict[str, str], known: frozenset[str], *, secure: bool
) -> None:
    unknown = sorted(set(options) - known - (TLS_OPTIONS if secure else frozenset()))
    if unknown:
        raise ConfigurationError(
            f"{scheme} has no option {', '.join(unknown)}: there are"
            f" {', '.join(sorted(known))} and, with rediss, those of TLS"
            " (ssl_ca_certs, ...)"
        )


def _read_netloc(
    text: str, kind: str
) -> tuple[str | None, str | None, list[tuple[str, int]]]:
    """Return user, password, and the hosts with their ports."""
    who, _, where = text.rpartition("@")
    username, colon, password = who.partition(":")
    port = DEFAULT_SENTINEL_PORT if kind == "sentinel" else DEFAULT_PORT
    hosts = []
    for each in where.split(","):
        try:
            one = urlsplit(f"//{each}")
            found = (unquote(one.hostname or ""), one.port or port)
        except ValueError as error:
            raise ConfigurationError(f"not a URL of Redis: {error}") from error
        if not found[0]:
            raise ConfigurationError("a URL of Redis names a host: redis://HOST:6379")
        hosts.append(found)
    if len(hosts) > 1 and not kind:
        raise ConfigurationError(
            "redis:// names one host; several servers that share the work are"
            " redis://HOST,redis://HOST"
        )
    return unquote(username) or None, unquote(password) if colon else None, hosts


def _read_query(query: str) -> list[tuple[str, str]]:
    if not query:
        return []
    return parse_qsl(query, keep_blank_values=True, strict_parsing=True)


def _read_service(path: str) -> tuple[str, str]:
    """Return what sentinels call the server, and the rest of the path."""
    found = _SERVICE.fullmatch(path)
    if found is None:
        raise ConfigurationError(
            "a URL of sentinels ends with what they call the server:"
            " redis+sentinel://HOST:26379/mymaster"
        )
    return found[1], found[2]


def _read_prefix(name: str, path: str) -> str:
    """Return what channels begin with; a database number is part of it."""
    if not _PREFIX.fullmatch(name):
        raise ConfigurationError(
            f"not a prefix for channels: {name!r}; it has up to 100 of [A-Za-z0-9._/-]"
        )
    if not _DATABASE.fullmatch(path):
        raise ConfigurationError(f"not a number of a database: {path!r}")
    database = int(path.strip("/") or "0")
    return f"{name}:db{database}:" if database else f"{name}:"


def _read_keys(path: str | None) -> tuple[str, ...]:
    """Return the lines of a file."""
    if path is None:
        return ()
    try:
        with open(path, encoding="utf-8") as file:
            keys = [line.strip() for line in file if line.strip()]
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"symmetric_encryption_keys_file: {error}") from error
    if not keys:
        raise ConfigurationError(f"symmetric_encryption_keys_file: {path} has no key")
    return tuple(keys)


def _make_context(options: dict[str, str]) -> SSLContext:
    from gevent.ssl import SSLContext  # not before somebody has patched

    get = options.get
    context: Any = SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    required = _REQUIREMENTS[get("ssl_cert_reqs", "required")]
    checks = _SWITCH[get("ssl_check_hostname", "true").lower()]
    context.check_hostname = checks and required is not ssl.CERT_NONE
    context.verify_mode = required
    authorities = (get("ssl_ca_certs"), get("ssl_ca_path"), get("ssl_ca_data"))
    if any(authorities):
        context.load_verify_locations(*authorities)
    elif required is not ssl.CERT_NONE:
        context.load_default_certs()
    if "ssl_certfile" in options:
        context.load_cert_chain(
            options["ssl_certfile"], get("ssl_keyfile"), get("ssl_password")
        )
    if "ssl_min_version" in options:
        context.minimum_version = ssl.TLSVersion(int(options["ssl_min_version"]))
    if "ssl_ciphers" in options:
        context.set_ciphers(options["ssl_ciphers"])
    made: SSLContext = context
    return made
