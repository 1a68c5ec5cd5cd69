"""Certificates for tests, made once a run, and clients that trust them."""

import functools
import ssl
import tempfile
from pathlib import Path

import gevent.ssl
import trustme


class Authority:
    """A certificate authority and the files of what it issued."""

    def __init__(self):
        self.ca = trustme.CA()
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)
        self.file = str(self.folder / "ca.pem")
        self.ca.cert_pem.write_to_path(self.file)

    def issue(self, *names, folder=None, label=""):
        """Return chain and key file of a certificate for ``names``."""
        issued = self.ca.issue_cert(*names, key_type=trustme.KeyType.ECDSA)
        base = (folder or self.folder) / (label or names[0].strip("*."))
        chain, key = f"{base}.pem", f"{base}.key"
        Path(chain).write_bytes(b"".join(b.bytes() for b in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return chain, key


def authority(number=0):
    """Return one of the authorities of this run."""
    return _make_authority(number)


@functools.cache
def _make_authority(number):
    return Authority()


@functools.cache
def localhost():
    """Return chain and key file of a certificate for this machine."""
    return authority().issue("localhost", "127.0.0.1")


def client_context(*, alpn=("http/1.1",), trust=0, certificate=None, library=ssl):
    """Return a client's context that trusts one of the authorities."""
    context = library.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority(trust).file)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if certificate is not None:
        context.load_cert_chain(*certificate)
    return context


def wrap(sock, *, name="localhost", context=None, **options):
    """
    Return a gevent socket with TLS around one; blocks for the handshake.

    An end without close_notify is an error for it.
    """
    context = context or client_context(library=gevent.ssl, **options)
    return context.wrap_socket(sock, server_hostname=name, suppress_ragged_eofs=False)
