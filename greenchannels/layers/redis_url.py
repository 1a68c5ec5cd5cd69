"""
The URL of a Redis or Valkey server: where it is, who we are there, what we are called.

``redis://[USER[:PASSWORD]@]HOST[:PORT][/DB][?prefix=NAME]``; ``rediss://`` is the same
over TLS, with redis-py's options (``ssl_ca_certs=FILE`` and so on). Reads the files
that the options name, and nothing else.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from gevent.ssl import SSLContext

from ..errors import ConfigurationError

#: The port of Redis, with TLS and without.
DEFAULT_PORT = 6379

#: What the channels of applications begin with that do not say.
DEFAULT_PREFIX = "greenchannels"

_PREFIX = re.compile(r"[A-Za-z0-9._/-]{1,100}")
_DATABASE = re.compile(r"/?[0-9]{0,5}/?")

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
        prefix: What all our channels begin with.

    """

    host: str
    port: int
    username: str | None
    password: str | None = field(repr=False)
    tls: dict[str, str] | None = field(repr=False)
    prefix: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

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


def read_url(url: str) -> RedisAddress:
    """
    Return what a ``redis://`` or ``rediss://`` URL means.

    Raises:
        ConfigurationError: If it means nothing. The text holds no password.

    """
    try:
        parts = urlsplit(url)
        port = parts.port
        options = dict(_read_query(parts.query))
    except ValueError as error:
        raise ConfigurationError(f"not a URL of Redis: {error}") from error
    if not parts.hostname:
        raise ConfigurationError("a URL of Redis names a host: redis://HOST:6379")
    prefix = _read_prefix(options.pop("prefix", DEFAULT_PREFIX), parts.path)
    known = TLS_OPTIONS if parts.scheme == "rediss" else frozenset()
    unknown = sorted(set(options) - known)
    if unknown:
        raise ConfigurationError(
            f"{parts.scheme}:// has no option {', '.join(unknown)}: there are prefix"
            " and, with rediss://, those of TLS (ssl_ca_certs, ...)"
        )
    address = RedisAddress(
        host=unquote(parts.hostname),
        port=port if port is not None else DEFAULT_PORT,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        tls=options if parts.scheme == "rediss" else None,
        prefix=prefix,
    )
    address.tls_context()
    return address


def _read_query(query: str) -> list[tuple[str, str]]:
    if not query:
        return []
    return parse_qsl(query, keep_blank_values=True, strict_parsing=True)


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


def _make_context(options: dict[str, str]) -> SSLContext:
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
