"""
What trusted proxies say of the peer: X-Forwarded-For, -Proto and -Host.

Nothing is believed unless the connection comes from a trusted network (or over
a Unix socket, when ``unix`` is trusted): anybody can send these fields. Of
X-Forwarded-For the last address that is not itself trusted is the peer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from ..errors import ConfigurationError

Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Peer:
    """Who asks, and for what, as far as it can be believed."""

    client: tuple[str, int] | None
    secure: bool
    host: str


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
        if not client:
            return self._unix
        return bool(self._networks) and self._contains(client[0])

    def peer(self, client: Any, headers: Headers) -> Peer:
        """Return the peer behind ``client``, the connection's own address."""
        fields: dict[bytes, list[str]] = {}
        for name, value in headers:
            fields.setdefault(name, []).append(value.decode("latin-1"))
        host = fields.get(b"host", [""])[-1]
        own = (client[0], client[1]) if client else None
        if not self.trusts(client):
            return Peer(own, False, host)
        address = self._forwarded_for(fields.get(b"x-forwarded-for", []))
        scheme = _last(fields.get(b"x-forwarded-proto", [])).lower()
        forwarded_host = _last(fields.get(b"x-forwarded-host", []))
        return Peer(
            (address, 0) if address else own,
            scheme in ("https", "wss"),
            forwarded_host or host,
        )

    def _forwarded_for(self, values: list[str]) -> str:
        """Return the last address that no trusted proxy has, or the first."""
        addresses = [a.strip() for a in ",".join(values).split(",") if a.strip()]
        for address in reversed(addresses):
            if not self._contains(_without_port(address)):
                return _without_port(address)
        return _without_port(addresses[0]) if addresses else ""

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
    return values[-1].rpartition(",")[2].strip() if values else ""


def _without_port(address: str) -> str:
    """Return ``address`` without the port that some proxies append."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address
