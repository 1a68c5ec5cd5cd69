"""
Field names that mean more than themselves (RFC 9110, sections 5.1 and 6.5.1).

CGI and WSGI write ``-`` in a name as ``_``, so ``Content_Length`` and
``Content-Length`` become one variable there: what a proxy has checked under the one
name, an application reads under the other. And what is said about framing, routing
or authentication in trailers, behind the body, comes too late to be believed.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import RemoteProtocolError

#: What this server, a proxy in front of it or a gateway interface acts upon: where
#: a request ends and goes to, who sends it, what may be answered.
MEANINGFUL = frozenset(
    (
        *(b"connection", b"keep-alive", b"te", b"trailer", b"upgrade", b"expect"),
        *(b"transfer-encoding", b"host", b"origin", b"forwarded", b"via"),
        *(b"max-forwards", b"x-real-ip", b"x-client-ip", b"true-client-ip"),
        *(b"authorization", b"cookie", b"set-cookie", b"x-csrftoken"),
        *(b"auth-type", b"path-info", b"script-name"),
        *(b"cache-control", b"pragma", b"range", b"x-http-method-override"),
    )
)

#: The same for whole families of names.
MEANINGFUL_PREFIXES = (
    *(b"content-", b"proxy-", b"remote-", b"x-forwarded-", b"x-remote-"),
    *(b"sec-", b"if-", b"x-original-", b"x-accel-"),
)

#: Say where a body ends; in trailers they contradict the chunks.
FRAMING = frozenset((b"content-length", b"transfer-encoding"))


def is_meaningful(name: bytes) -> bool:
    """Tell whether others act upon a name; lower case, ``_`` counts as ``-``."""
    name = name.replace(b"_", b"-")
    return name in MEANINGFUL or name.startswith(MEANINGFUL_PREFIXES)


def check_underscores(names: Iterable[bytes]) -> None:
    """
    Check that no name with ``_`` can be taken for another one.

    Args:
        names: All names of a head, in lower case.

    Raises:
        RemoteProtocolError: 400, if one can.

    """
    spelled: dict[bytes, bytes] = {}
    for name in names:
        dashed = name.replace(b"_", b"-")
        if spelled.setdefault(dashed, name) != name or (
            dashed != name and is_meaningful(dashed)
        ):
            raise RemoteProtocolError("a field's name shadows another", 400)
