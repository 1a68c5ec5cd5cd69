"""
What proxies write about the hops of a request: Forwarded and X-Forwarded-For.

Source: RFC 7239 for ``Forwarded``; ``X-Forwarded-For`` has no standard and is read
as proxies write it. Whom to believe is not decided here. Nothing here raises:
what cannot be read is a hop of which nothing is known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED = r'"((?:[^"\\]|\\.)*+)"'

#: One parameter, or none, and what ends it (section 4). Blanks around it are not
#: in the grammar, but often written.
_PAIR = re.compile(rf"[ \t]*+(?:({_TOKEN})=(?:({_TOKEN})|{_QUOTED})[ \t]*+)?([;,]|\Z)")
_ESCAPED = re.compile(r"\\(.)")

#: An address and its port (section 6); an obfuscated port says nothing.
_NODE = re.compile(
    r"(?:(?P<v4>[0-9.]+)|\[(?P<v6>[0-9A-Fa-f:.]+)\])"
    r"(?::(?:(?P<port>[0-9]{1,5})|_[A-Za-z0-9._-]+))?"
)


@dataclass(frozen=True, slots=True)
class Hop:
    """
    One step of a request's way, as the proxy at its end saw it.

    Attributes:
        address: Who sent the request to that proxy; empty if it is not known.
        port: From which port; 0 if it is not known.
        proto: By which protocol it was sent; may be empty.
        host: For which host; may be empty.

    """

    address: str = ""
    port: int = 0
    proto: str = ""
    host: str = ""


#: A hop of which nothing is known.
UNKNOWN_HOP = Hop()


def read_x_forwarded_for(values: list[str]) -> list[Hop]:
    """
    Return the hops of an X-Forwarded-For, the client's first.

    Args:
        values: The values of all its lines.

    """
    elements = [each.strip(" \t") for each in ",".join(values).split(",")]
    return [Hop(*read_node(each)) for each in elements if each]


def read_forwarded(values: list[str]) -> list[Hop]:
    """
    Return the hops of a Forwarded, the client's first (RFC 7239, section 4).

    A line that breaks the grammar, or names a parameter twice in one element, is
    a single hop of which nothing is known.

    Args:
        values: The values of all its lines.

    """
    hops = []
    for value in values:
        hops += _read_line(value)
    return hops


def _read_line(value: str) -> list[Hop]:
    hops = []
    element: dict[str, str] = {}
    start, end = 0, ""
    while start < len(value) or end:
        match = _PAIR.match(value, start)
        if match is None:
            return [UNKNOWN_HOP]
        name, token, quoted, end = match.groups()
        start = match.end()
        if name is not None:
            name = name.lower()
            if name in element:
                return [UNKNOWN_HOP]
            element[name] = token or _ESCAPED.sub(r"\1", quoted or "")
        if end != ";" and element:
            hops.append(_hop(element))
            element = {}
    return hops


def _hop(element: dict[str, str]) -> Hop:
    address, port = read_node(element.get("for", ""))
    proto, host = element.get("proto", ""), element.get("host", "")
    return Hop(address, port, proto, host)


def read_node(text: str) -> tuple[str, int]:
    """
    Return address and port of a node (RFC 7239, section 6).

    An IPv6 address may also be written without its brackets, as X-Forwarded-For
    has it. "unknown", obfuscated names and whatever else is no address is ``""``.
    """
    match = _NODE.fullmatch(text)
    address = (match["v4"] or match["v6"]) if match else text
    port = int(match["port"] or 0) if match else 0
    if "%" in address or port > 0xFFFF:
        return "", 0
    try:
        found = ip_address(address)
    except ValueError:
        return "", 0
    if match is not None and (found.version == 4) != (match["v4"] is not None):
        return "", 0
    return str(found), port
