"""The options of ``run`` for TLS, and SIGHUP, which reads the certificates again."""

from __future__ import annotations

import logging
import signal
from typing import Any

import click
import gevent

from ..errors import ConfigurationError
from ..net.certificates import Certificates
from ..options import TLS

logger = logging.getLogger("greenchannels.server")

_OPTIONS = [
    click.option(
        "--certfile",
        "certfiles",
        multiple=True,
        metavar="FILE",
        help="Serve HTTPS with this certificate and its chain (PEM). Repeatable: the"
        " name asked for chooses.",
    ),
    click.option(
        "--keyfile",
        "keyfiles",
        multiple=True,
        metavar="FILE",
        help="Its key (PEM), one for each --certfile.  [default: in the same file]",
    ),
    click.option(
        "--ca-certs",
        metavar="FILE",
        help="Ask clients for certificates of these authorities (PEM).",
    ),
    click.option(
        "--require-client-cert",
        is_flag=True,
        help="Refuse clients that have none.",
    ),
]


def tls_options(command: Any) -> Any:
    """Give a command the options for TLS."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_certificates(values: dict[str, Any]) -> Certificates | None:
    """
    Return the certificates that a command's values name, if they name any.

    Raises:
        ConfigurationError: If the options do not fit together or a file is wrong.

    """
    chains, keys = values["certfiles"], values["keyfiles"]
    ca_certs, required = values["ca_certs"], values["require_client_cert"]
    if not chains:
        if keys or ca_certs or required:
            name = "--keyfile" if keys else "--ca-certs"
            name = name if keys or ca_certs else "--require-client-cert"
            raise ConfigurationError(f"{name} needs a --certfile")
        return None
    if keys and len(keys) != len(chains):
        raise ConfigurationError(
            f"there must be a --keyfile for each --certfile, or none: there are"
            f" {len(chains)} and {len(keys)}"
        )
    if required and not ca_certs:
        raise ConfigurationError("--require-client-cert needs --ca-certs")
    pairs = zip(chains, keys or [None] * len(chains), strict=True)
    return Certificates(TLS(tuple(pairs), ca_certs, required))


def reload_on_hangup(certificates: Certificates) -> Any:
    """Read ``certificates`` again at each SIGHUP; return a handle to ``cancel``."""
    return gevent.signal_handler(signal.SIGHUP, reload, certificates)


def reload(certificates: Certificates) -> None:
    """Read ``certificates`` again; log what came of it."""
    try:
        certificates.reload()
    except ConfigurationError as error:
        logger.error("the certificates stay as they were: %s", error)
    else:
        logger.info("the certificates have been read again")
