"""What a connection's encryption is, as ASGI's extension "tls" names it."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from typing import Any

#: The versions' numbers (RFC 8446, section 4.1.2; RFC 5246, appendix A.1).
VERSIONS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}

_SPECIAL = re.compile(r'["+,;<>\\]')

#: What kinds of names are called in short (RFC 4514, section 3).
_SHORT = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}


def describe(tls: ssl.SSLObject | None, suites: Mapping[str, int]) -> dict[str, Any]:
    """
    Return the extension of a scope.

    Of a client's chain only its own certificate is known. ``None`` is what is not
    known, as everything after the end of the connection.

    Args:
        tls: The connection's encryption, after its handshake.
        suites: The numbers of cipher suites, by OpenSSL's names.

    """
    found: dict[str, Any] = {
        "server_cert": None,
        "client_cert_chain": [],
        "client_cert_name": None,
        "client_cert_error": None,
        "tls_version": None,
        "cipher_suite": None,
    }
    if tls is not None:
        certificate = tls.getpeercert(True)
        if certificate:
            found["client_cert_chain"] = [ssl.DER_cert_to_PEM_cert(certificate)]
            found["client_cert_name"] = subject_name(tls.getpeercert())
        found["tls_version"] = VERSIONS.get(tls.version() or "")
        cipher = tls.cipher()
        found["cipher_suite"] = suites.get(cipher[0]) if cipher else None
    return found


def subject_name(certificate: Any) -> str:
    """
    Return whom a certificate is for (RFC 4514).

    Args:
        certificate: As ``getpeercert()`` returns it.

    """
    return ",".join(
        "+".join(f"{_SHORT.get(kind, kind)}={_escaped(value)}" for kind, value in part)
        for part in reversed(certificate["subject"])
    )


def _escaped(value: str) -> str:
    """Escape what has a meaning in a name (RFC 4514, section 2.4)."""
    text = _SPECIAL.sub(r"\\\g<0>", value).replace("\0", "\\00")
    if text.endswith(" ") and len(text) > 1:
        text = text[:-1] + "\\ "
    return "\\" + text if text.startswith((" ", "#")) else text
