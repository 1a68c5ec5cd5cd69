"""``greenchannels run``: serve a routing until told to stop."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from _socket import socket as RawSocket
from collections.abc import Iterable
from io import TextIOWrapper
from typing import Any

import click
import gevent
from gevent.event import Event

from ..errors import ConfigurationError
from ..layers.registry import make_layer
from ..net.binding import close_listening
from ..net.certificates import Certificates
from ..net.outlet import keep_frame_chunks
from ..options import HTTPLimits, Limits, ServerOptions, Timeouts
from ..servers.access import AccessLog
from ..servers.server import Server
from .apps import AppError, load_router
from .binds import (
    ActivationError,
    BindError,
    bind_each,
    bind_options,
    choose,
    read_activation,
)
from .params import Seconds, Size, limit_options, pick
from .tls import read_certificates, reload_on_hangup, tls_options

#: Memory for the frames of this many greenlets (16 KiB each) is kept for the next
#: ones: starting a greenlet then costs a third.
KEPT_FRAME_CHUNKS = 128

#: Exit codes, as the documentation names them.
EXIT_OK, EXIT_START, EXIT_USAGE, EXIT_SECOND_SIGNAL = 0, 1, 2, 130

EPILOG = """Sizes are bytes (64k, 1m), durations seconds; "none" lifts a limit.

\b
  greenchannels run app:routing
  greenchannels run app:routing --host 0.0.0.0 --port 80
  greenchannels run app:routing --unix /run/app.sock --proxy unix
  greenchannels run app:routing --bind 0.0.0.0:80 --bind '[::]:80'
  greenchannels run app:routing --certfile site.pem --keyfile site.key
"""


@click.command(epilog=EPILOG)
@click.argument("app", metavar="MODULE:ROUTING")
@bind_options
@tls_options
@click.option(
    "--log-level",
    default=None,
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="What is logged.  [default: info; debug with --debug]",
)
@click.option(
    "--access-log",
    default="-",
    show_default=True,
    metavar="FILE",
    help='A line a connection: a file, "-" for the standard output, or "off".',
)
@click.option(
    "--proxy",
    "proxies",
    multiple=True,
    metavar="NETWORK",
    help='Believe X-Forwarded-* and Forwarded from this network, or "unix".'
    " Repeatable.",
)
@click.option(
    "--proxy-protocol",
    is_flag=True,
    help="Connections come from --proxy only and begin with a PROXY header.",
)
@click.option(
    "--root-path",
    default="",
    metavar="PREFIX",
    help="The prefix of all paths, which a proxy may have removed.",
)
@click.option(
    "--origin",
    "origins",
    multiple=True,
    metavar="PATTERN",
    help="Let pages of this origin open sockets too. Repeatable.",
)
@click.option("--debug", is_flag=True, help="Show tracebacks to browsers.")
@click.option(
    "--layer",
    default="memory://",
    show_default=True,
    envvar="GREENCHANNELS_LAYER",
    show_envvar=True,
    help="Groups and channels.",
)
@click.option(
    "--max-connections",
    type=Size(),
    default="10000",
    show_default=True,
    help="At a time; at the limit accepting pauses.",
)
@click.option(
    "--drain",
    type=Seconds(),
    default="25",
    show_default=True,
    help="From the first signal to the end.",
)
@limit_options
def run(app: str, **values: Any) -> None:
    """Serve the routing called MODULE:ROUTING, as app:routing."""
    _set_up_logging(values["log_level"], values["debug"])
    try:
        binds = choose(values, read_activation(os.environ))
        options = _options(values)
        certificates = read_certificates(values)
        router = load_router(app)
        access_log = _open_access_log(values["access_log"])
        layer = make_layer(values["layer"])
        server = Server(router, options=options, layer=layer, access_log=access_log)
    except (AppError, ConfigurationError, ActivationError) as error:
        _say(f"Error: {error}")
        sys.exit(EXIT_USAGE)
    timeout = options.timeouts.write_timeout
    try:
        socks = bind_each(binds, values["unix_mode"], write_timeout=timeout)
    except BindError as error:
        _say(f"Error: {error}")
        sys.exit(EXIT_USAGE if error.inherited else EXIT_START)
    sys.exit(serve(server, socks, certificates))


def serve(
    server: Server, socks: Iterable[RawSocket], certificates: Certificates | None = None
) -> int:
    """Serve until a signal, drain, and return the exit code."""
    stop = Event()
    signals = [signal.SIGTERM, signal.SIGINT]
    if certificates is None and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signals.append(signal.SIGHUP)  # the terminal has gone
    handlers = [gevent.signal_handler(number, _on_signal, stop) for number in signals]
    if certificates is not None:
        handlers.append(reload_on_hangup(certificates))
    keep_frame_chunks(KEPT_FRAME_CHUNKS)
    try:
        server.start()
    except Exception as error:
        logging.getLogger("greenchannels").exception("a lifespan failed")
        _say(f"Error: the app could not start: {error}")
        for sock in socks:
            close_listening(sock)
        return EXIT_START
    for sock in socks:
        listener = server.listen(sock, certificates)
        where = describe(listener.address, certificates is not None)
        _say(f"Listening on {where} (Ctrl-C to stop)")
    stop.wait()
    _say("Stopping.")
    server.stop()
    for handler in handlers:
        handler.cancel()
    _let_go_of_stdout()
    return EXIT_OK


def _let_go_of_stdout() -> None:
    """Whoever read the access log may have gone: that is no failure of ours."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def describe(address: Any, secure: bool = False) -> str:
    """Return a listening address as one would open it."""
    if not isinstance(address, tuple):
        path = address.decode() if isinstance(address, bytes) else address
        return f"unix:{path}"
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{'https' if secure else 'http'}://{host}:{address[1]}"


def _on_signal(stop: Event) -> None:
    if stop.is_set():
        _say("Stopped without waiting.")
        sys.stdout.flush()
        os._exit(EXIT_SECOND_SIGNAL)
    stop.set()


def _options(values: dict[str, Any]) -> ServerOptions:
    return ServerOptions(
        limits=pick(Limits, values),
        http=pick(HTTPLimits, values),
        timeouts=pick(Timeouts, values),
        max_connections=values["max_connections"],
        drain=values["drain"] if values["drain"] is not None else 10.0**9,
        proxies=values["proxies"],
        proxy_protocol=values["proxy_protocol"],
        root_path=values["root_path"].rstrip("/"),
        origins=values["origins"],
        debug=values["debug"],
    )


def _open_access_log(where: str) -> AccessLog:
    if where == "off":
        return AccessLog()
    if where == "-":
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(line_buffering=True)  # a pipe would get blocks
        return AccessLog(sys.stdout)
    try:
        return AccessLog(open(where, "a", buffering=1, encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"cannot write the access log {where}: {error.strerror}"
        ) from error


def _set_up_logging(level: str | None, debug: bool) -> None:
    name = level or ("debug" if debug else "info")
    logging.basicConfig(
        level=name.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )


def _say(text: str) -> None:
    """Tell the operator something, on the standard error."""
    print(text, file=sys.stderr, flush=True)
