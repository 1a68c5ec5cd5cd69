"""What servers are given: files to serve, a certificate and a secret of our making."""

import functools
import os
import secrets
import subprocess
from pathlib import Path

#: Everything that is made on first use and kept.
CACHE = Path(__file__).with_name(".build")
#: The folder of static files: their sizes in bytes by name.
FOLDER = CACHE / "files"
SIZES = {"100k.bin": 100_000, "1k.bin": 1_000}

CERTIFICATE = CACHE / "certificate.pem"
KEY = CACHE / "key.pem"
#: What a layer's messages are encrypted with.
SECRET = CACHE / "secret"
#: A certificate like those that most sites have: ECDSA on P-256.
SELF_SIGNED = (
    *("openssl", "req", "-x509", "-nodes", "-days", "3650", "-subj", "/CN=127.0.0.1"),
    *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
)


class AssetError(Exception):
    """A file or a certificate could not be made."""


@functools.cache
def files():
    """Return the folder of static files, made when it is not there."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, size in SIZES.items():
        path = FOLDER / name
        if not path.exists() or path.stat().st_size != size:
            path.write_bytes(os.urandom(size))
    return FOLDER


@functools.cache
def certificate():
    """Return the paths of a certificate and its key, made when not there."""
    if not (CERTIFICATE.exists() and KEY.exists()):
        CACHE.mkdir(exist_ok=True)
        try:
            subprocess.run(
                [*SELF_SIGNED, "-out", CERTIFICATE, "-keyout", KEY],
                check=True,
                capture_output=True,
                text=True,
            )
        except FileNotFoundError:
            raise AssetError("openssl is not installed") from None
        except subprocess.CalledProcessError as error:
            raise AssetError(f"openssl failed:\n{error.stderr}") from None
    return CERTIFICATE, KEY


@functools.cache
def secret():
    """Return the path of a file with a secret, made when it is not there."""
    if not SECRET.exists():
        CACHE.mkdir(exist_ok=True)
        SECRET.write_text(secrets.token_hex() + "\n")
    return SECRET
