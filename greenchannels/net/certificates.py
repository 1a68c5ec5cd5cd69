"""
The certificates of a TLS listener, read from files, again when asked.

What is allowed is decided here: TLS 1.2 (RFC 5246) and 1.3 (RFC 8446), no
compression, no renegotiation, ALPN ``http/1.1`` (RFC 7301), and one context for
each certificate, chosen by the server name a client asks for (RFC 6066).
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any

from ..errors import ConfigurationError
from ..options import TLS

PROTOCOLS = ["http/1.1"]


class Certificates:
    """
    The contexts of a listener.

    Args:
        options: Where the files are.

    Attributes:
        context: What new connections use.
        suites: The numbers of the cipher suites, by OpenSSL's names.

    Raises:
        ConfigurationError: If a file cannot be read or is not what it should be.

    """

    def __init__(self, options: TLS) -> None:
        self.options = options
        self.context = self._load()
        found: list[Any] = self.context.get_ciphers()
        self.suites = {each["name"]: each["id"] & 0xFFFF for each in found}

    def reload(self) -> None:
        """
        Read the files again, for new connections.

        Raises:
            ConfigurationError: If a file is wrong; the old certificates stay.

        """
        self.context = self._load()

    def _load(self) -> ssl.SSLContext:
        pairs = self.options.certificates
        if not pairs:
            raise ConfigurationError("TLS needs a certificate")
        contexts = [self._context(chain, key) for chain, key in pairs]
        if len(contexts) > 1:
            by_name: dict[str, ssl.SSLContext] = {}
            for context, (chain, _) in zip(contexts, pairs, strict=True):
                for name in certificate_names(chain):
                    by_name.setdefault(name, context)
            contexts[0].sni_callback = NameChoice(by_name)
        return contexts[0]

    def _context(self, chain: str, key: str | None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.sslobject_class = TLSObject
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= (
            ssl.OP_NO_COMPRESSION
            | ssl.OP_NO_RENEGOTIATION
            | ssl.OP_CIPHER_SERVER_PREFERENCE
        )
        context.set_alpn_protocols(PROTOCOLS)
        load_chain(context, chain, key)
        ca_certs = self.options.ca_certs
        if ca_certs is not None:
            load_authorities(context, ca_certs)
            required = self.options.require_client_certificate
            context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        elif self.options.require_client_certificate:
            raise ConfigurationError("client certificates need their authorities")
        return context


class TLSObject(ssl.SSLObject):
    """One connection's encryption."""

    def _sslsock(self) -> TLSObject:
        """Return what ``sni_callback`` gets: in a patched process gevent asks."""
        return self


class NameChoice:
    """Choose a connection's context by the server name that was asked for."""

    def __init__(self, by_name: dict[str, ssl.SSLContext]) -> None:
        self._by_name = by_name

    def __call__(self, tls: Any, name: str | None, context: ssl.SSLContext) -> None:
        """Change the context of ``tls``, or leave it as it is."""
        found = self.find(name) if name else None
        if found is not None:
            tls.context = found

    def find(self, name: str) -> ssl.SSLContext | None:
        """Return the context for ``name``: its own, or of its level's wildcard."""
        name = name.lower().rstrip(".")
        found = self._by_name.get(name)
        if found is None:
            found = self._by_name.get("*." + name.partition(".")[2])
        return found


def certificate_names(path: str) -> Iterator[str]:
    """Yield the names in a certificate (RFC 6125: the alternative ones only)."""
    for kind, name in _decoded(path).get("subjectAltName", ()):
        if kind == "DNS":
            yield name.lower()


def load_chain(context: ssl.SSLContext, chain: str, key: str | None) -> None:
    """
    Give ``context`` its certificate.

    Raises:
        ConfigurationError: If the files cannot be read, are no certificate and
            key, do not belong together, or the key is encrypted.

    """
    _check_readable(chain, "certificate")
    if key is not None:
        _check_readable(key, "key")
    _decoded(chain)

    def refuse() -> str:
        raise ConfigurationError(f"the key {key or chain} is encrypted")

    try:
        context.load_cert_chain(chain, key, refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            text = f"the key {key or chain} is not that of the certificate {chain}"
        elif error.reason is None or error.reason in ("PEM_LIB", "NO_START_LINE"):
            text = f"{key or chain} holds no private key in PEM"
        else:
            text = f"{chain} cannot be used: {_reason(error)}"
        raise ConfigurationError(text) from error
    except OSError as error:
        raise ConfigurationError(f"cannot read {chain}: {error.strerror}") from error


def load_authorities(context: ssl.SSLContext, path: str) -> None:
    """
    Have client certificates verified by the authorities in ``path``.

    Raises:
        ConfigurationError: If the file cannot be read or holds none.

    """
    _check_readable(path, "list of authorities")
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ConfigurationError(f"{path} holds no certificates in PEM") from error


def _check_readable(path: str, what: str) -> None:
    """Name the file that cannot be read; OpenSSL does not."""
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        text = f"cannot read the {what} {path}: {error.strerror}"
        raise ConfigurationError(text) from error


def _decoded(path: str) -> dict[str, Any]:
    """Return what the standard library's only reader of certificates finds."""
    try:
        found: dict[str, Any] = ssl._ssl._test_decode_cert(path)  # type: ignore[attr-defined]
    except ssl.SSLError as error:
        raise ConfigurationError(f"{path} holds no certificate in PEM") from error
    return found


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")
