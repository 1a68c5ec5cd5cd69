"""``greenchannels run``: serve a routing until told to stop."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from _socket import socket as RawSocket
from io import TextIOWrapper
from typing import Any

import click
import gevent
from gevent.event import Event

from ..errors import ConfigurationError
from ..layers.registry import make_layer
from ..net.listener import bind_tcp, bind_unix, close_listening
from ..net.outlet import keep_frame_chunks
from ..options import HTTPLimits, Limits, ServerOptions, Timeouts
from ..servers.access import AccessLog
from ..servers.server import Server
from .apps import AppError, load_router
from .params import Seconds, Size, limit_options, pick

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
"""


@click.command(epilog=EPILOG)
@click.argument("app", metavar="MODULE:ROUTING")
@click.option("--host", default="127.0.0.1", show_default=True, help="To listen on.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="To listen on; 0 takes any free one.",
)
@click.option("--unix", metavar="PATH", help="Listen on a Unix socket instead.")
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
    help='Believe X-Forwarded-* from this network, or "unix". Repeatable.',
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
        options = _options(values)
        router = load_router(app)
        access_log = _open_access_log(values["access_log"])
        layer = make_layer(values["layer"])
        server = Server(router, options=options, layer=layer, access_log=access_log)
    except (AppError, ConfigurationError) as error:
        _say(f"Error: {error}")
        sys.exit(EXIT_USAGE)
    sock = _bind(values, options)
    sys.exit(serve(server, sock))


def serve(server: Server, sock: RawSocket) -> int:
    """Serve until a signal, drain, and return the exit code."""
    stop = Event()
    signals = [signal.SIGTERM, signal.SIGINT]
    handlers = [gevent.signal_handler(number, _on_signal, stop) for number in signals]
    keep_frame_chunks(KEPT_FRAME_CHUNKS)
    try:
        server.start()
    except Exception as error:
        logging.getLogger("greenchannels").exception("a lifespan failed")
        _say(f"Error: the app could not start: {error}")
        close_listening(sock)
        return EXIT_START
    listener = server.listen(sock)
    _say(f"Listening on {describe(listener.address)} (Ctrl-C to stop)")
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


def describe(address: Any) -> str:
    """Return a listening address as one would open it."""
    if not isinstance(address, tuple):
        path = address.decode() if isinstance(address, bytes) else address
        return f"unix:{path}"
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"http://{host}:{address[1]}"


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
        origins=values["origins"],
        debug=values["debug"],
    )


def _bind(values: dict[str, Any], options: ServerOptions) -> RawSocket:
    """Return the listening socket, or end with one clear line."""
    try:
        if values["unix"]:
            return bind_unix(values["unix"])
        return bind_tcp(
            values["host"],
            values["port"],
            write_timeout=options.timeouts.write_timeout,
        )
    except OSError as error:
        where = values["unix"] or f"{values['host']}:{values['port']}"
        _say(f"Error: cannot listen on {where}: {error.strerror or error}")
        sys.exit(EXIT_START)


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
