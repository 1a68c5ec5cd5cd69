"""
What trusted proxies say of the client: X-Forwarded-For, -Proto, -Host, Forwarded.

Nothing is believed unless the connection comes from a trusted network (or over
a Unix socket, when ``unix`` is trusted): anybody can send these fields. The hops
they name are read from the last one back: the first whose address is not itself
trusted is the client, and what stands before it is the client's own invention.

A proxy that names somebody who cannot be known (``unknown``, an obfuscated name,
what is malformed) leaves the client unknown. It never becomes the proxy's own
address, which applications may trust.

``Forwarded`` and ``X-Forwarded-*`` in one request: most proxies write one of them
and pass on what the client made of the other. So what both say is believed, and
where one is silent or says something else, neither.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, TypeAlias

from ..errors import ConfigurationError
from ..wire.forwarded import UNKNOWN_HOP, Hop, read_forwarded, read_x_forwarded_for

Headers: TypeAlias = Iterable[tuple[bytes, bytes]]

#: The connection's own address of a client that only its proxy knows. It is never
#: trusted. (``None`` is a Unix socket's.)
UNKNOWN_CLIENT = ()

_FIELDS = frozenset(
    (
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
    )
)

_SECURE = {"http": False, "ws": False, "https": True, "wss": True}

_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._~-]+)(?::[0-9]{1,5})?")

logger = logging.getLogger("greenchannels.server")


@dataclass(slots=True)
class Peer:
    """Who asks, and for what, as far as it can be believed."""

    client: tuple[str, int] | None
    secure: bool
    host: str


@dataclass(frozen=True, slots=True)
class Claim:
    """
    What one kind of fields says; ``None`` where it says nothing.

    Attributes:
        hop: The client's; ``UNKNOWN_HOP`` if it cannot be known.
        secure: Whether the client uses TLS.
        host: What the client asked for.

    """

    hop: Hop | None = None
    secure: bool | None = None
    host: str | None = None


class TrustedProxies:
    """
    The networks whose word is believed.

    Args:
        networks: CIDR blocks or addresses, ``"unix"``, or ``"*"`` for all.

    Raises:
        ConfigurationError: If one is none of these.

    """

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks: list[IPv4Network | IPv6Network] = []
        self._unix = False
        self._warned = False
        for text in networks:
            if text == "unix":
                self._unix = True
            elif text == "*":
                self._unix = True
                self._networks += [ip_network("0.0.0.0/0"), ip_network("::/0")]
            else:
                try:
                    self._networks.append(ip_network(text, strict=False))
                except ValueError as error:
                    raise ConfigurationError(f"not a network: {text!r}") from error

    def trusts(self, client: Any) -> bool:
        """Return whether the connection's own address is a trusted proxy's."""
        if client is None:
            return self._unix
        return bool(client and self._networks) and self._contains(client[0])

    def peer(self, client: Any, headers: Headers, secure: bool = False) -> Peer:
        """
        Return the peer behind ``client``.

        Args:
            client: The connection's own address: a tuple whose first are host and
                port, ``None`` for a Unix socket, or ``UNKNOWN_CLIENT``.
            headers: Of the request; names in lower case.
            secure: Whether the connection itself uses TLS.

        """
        own = (client[0], client[1]) if client else None
        trusted = self.trusts(client)
        host = ""
        fields: dict[bytes, list[str]] = {}
        for name, value in headers:
            if name == b"host":
                host = value.decode("latin-1")
            elif trusted and name in _FIELDS:
                fields.setdefault(name, []).append(value.decode("latin-1"))
        if not fields:
            return Peer(own, secure, host)
        claim = self._believed(fields)
        if claim.hop is not None:
            own = (claim.hop.address, claim.hop.port) if claim.hop.address else None
        return Peer(
            own,
            secure if claim.secure is None else claim.secure,
            host if claim.host is None else claim.host,
        )

    def _believed(self, fields: dict[bytes, list[str]]) -> Claim:
        """Return what a trusted proxy says, where it does not contradict itself."""
        forwarded = fields.pop(b"forwarded", None)
        if forwarded is None:
            return self._x_forwarded(fields)
        if not fields:
            return self._forwarded(forwarded)
        claim, other = self._forwarded(forwarded), self._x_forwarded(fields)
        hop = claim.hop
        if hop is None or other.hop is None or hop.address != other.hop.address:
            hop = UNKNOWN_HOP
            self._warn()
        return Claim(
            hop,
            claim.secure if claim.secure == other.secure else None,
            claim.host if claim.host == other.host else None,
        )

    def _warn(self) -> None:
        """Say once that clients stay unknown, and why."""
        if not self._warned:
            self._warned = True
            logger.warning(
                "a trusted proxy passes on Forwarded and X-Forwarded-* that name"
                " different clients: neither is believed. Have it remove one of them"
            )

    def _x_forwarded(self, fields: dict[bytes, list[str]]) -> Claim:
        """Read X-Forwarded-*: the last host and protocol, the client's address."""
        hops = read_x_forwarded_for(fields.get(b"x-forwarded-for", []))
        return Claim(
            hops[self._client_index(hops)] if hops else None,
            _read_proto(_last(fields.get(b"x-forwarded-proto", []))),
            _read_host(_last(fields.get(b"x-forwarded-host", []))),
        )

    def _forwarded(self, values: list[str]) -> Claim:
        """Read Forwarded: what the proxy nearest to the client says of it."""
        hops = read_forwarded(values)
        if not hops:
            return Claim()
        believed = hops[self._client_index(hops) :]
        protos = (_read_proto(each.proto) for each in believed)
        hosts = (_read_host(each.host) for each in believed)
        return Claim(
            believed[0],
            next((each for each in protos if each is not None), None),
            next((each for each in hosts if each is not None), None),
        )

    def _client_index(self, hops: list[Hop]) -> int:
        """Return the place of the last hop that no trusted proxy has, or the first."""
        index = len(hops) - 1
        while index and self._contains(hops[index].address):
            index -= 1
        return index

    def _contains(self, address: str) -> bool:
        try:
            found = ip_address(address.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(found, "ipv4_mapped", None)
        if mapped is not None:
            found = mapped
        return any(found in network for network in self._networks)


def _last(values: list[str]) -> str:
    """Return the last element of a field, which the nearest proxy wrote."""
    return values[-1].rpartition(",")[2].strip(" \t") if values else ""


def _read_proto(text: str) -> bool | None:
    """Return whether a protocol is secure, ``None`` if it is none."""
    return _SECURE.get(text.lower())


def _read_host(text: str) -> str | None:
    """Return a host with or without a port, ``None`` if it is none."""
    return text if _HOST.fullmatch(text) else None
