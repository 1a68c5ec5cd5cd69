"""``greenchannels run``: serve a routing until told to stop."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from _socket import socket as RawSocket
from collections.abc import Iterable, Iterator
from io import TextIOWrapper
from typing import Any

import click
import gevent
from gevent.event import Event

from ..errors import ConfigurationError, LayerRefused, LayerUnavailable
from ..layers.ipc_folder import default_name
from ..layers.layer import Layer
from ..layers.registry import check_url, configured_url, make_layer, with_name
from ..net.binding import close_listening
from ..net.certificates import Certificates
from ..net.outlet import keep_frame_chunks
from ..options import Deflate, HTTPLimits, Limits, ServerOptions, Timeouts
from ..routing import Router
from ..servers.access import AccessLog
from ..servers.server import Server
from ..servers.signals import give_back
from .apps import AppError, full_spec, load_router
from .binds import (
    ActivationError,
    BindError,
    bind_each,
    bind_options,
    choose,
    read_activation,
)
from .params import Seconds, Size, limit_options, pick
from .patching import patch
from .tls import read_certificates, reload_on_hangup, tls_options
from .worker_options import wants_arbiter, worker_options

#: Memory for the frames of this many greenlets (16 KiB each) is kept for the next
#: ones: starting a greenlet then costs a third.
KEPT_FRAME_CHUNKS = 128

#: Exit codes, as the documentation names them.
EXIT_OK, EXIT_START, EXIT_USAGE, EXIT_SECOND_SIGNAL = 0, 1, 2, 130

EPILOG = """Sizes are bytes (64k, 1m), durations seconds; "none" lifts a limit.

\b
  greenchannels run app:routing
  greenchannels run app:routing --host 0.0.0.0 --port 80 --workers 4
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
    help='A line a connection: a file, opened again at SIGUSR1, "-" for the standard'
    ' output, or "off".',
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
@click.option(
    "--no-deflate",
    is_flag=True,
    help="Do not compress WebSocket messages, whatever clients offer.",
)
@click.option("--debug", is_flag=True, help="Show tracebacks to browsers.")
@click.option(
    "--layer",
    metavar="URL",
    envvar="GREENCHANNELS_LAYER",
    show_envvar=True,
    help="Groups and channels: memory://, ipc://NAME, redis://HOST:PORT?prefix=NAME"
    " (rediss:// over TLS; redis+sentinel://, redis+cluster://) or, for machines with"
    " many workers, ipc://NAME+redis://HOST.  [default: memory://;"
    " with workers ipc:// and a name of this user, folder and app]",
)
@click.option(
    "--max-connections",
    type=Size(),
    default="10000",
    show_default=True,
    help="At a time; at the limit accepting pauses.",
)
@click.option(
    "--max-total-buffer",
    type=Size(),
    default="512m",
    show_default=True,
    help="Bytes that wait for all peers; above it the slowest are cut.",
)
@click.option(
    "--drain",
    type=Seconds(),
    default="25",
    show_default=True,
    help="From the first signal to the end.",
)
@worker_options
@limit_options
def run(app: str, **values: Any) -> None:
    """Serve the routing called MODULE:ROUTING, as app:routing."""
    several = wants_arbiter(values)
    if not several:
        patch()
    # It means something later; until then it must not end the process.
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    _set_up_logging(values["log_level"], values["debug"], several)
    try:
        binds = choose(values, read_activation(os.environ))
        options = server_options(values)
        certificates = read_certificates(values)
        router = Router([]) if several else load_router(app)  # else in the workers
        access_log = open_access_log(values["access_log"])
        layer = _make_layer(layer_url(values, app, several), several)
        server = Server(router, options=options, layer=layer, access_log=access_log)
    except (AppError, ConfigurationError, ActivationError) as error:
        say(f"Error: {error}")
        sys.exit(EXIT_USAGE)
    timeout = options.timeouts.write_timeout
    try:
        socks = bind_each(binds, values["unix_mode"], write_timeout=timeout)
    except BindError as error:
        say(f"Error: {error}")
        sys.exit(EXIT_USAGE if error.inherited else EXIT_START)
    if several:
        from .workers import serve_by_workers

        access_log.close()  # each worker opens its own
        sys.exit(serve_by_workers(app, values, socks, certificates is not None))
    with pid_file(values["pid_file"], socks):
        sys.exit(serve(server, socks, certificates))


def _make_layer(url: str, several: bool) -> Layer:
    """Return the layer; or, if workers will make it, one that stands for it."""
    if several:
        check_url(url)
    return make_layer("memory://" if several else url)


def layer_url(values: dict[str, Any], app: str, several: bool) -> str:
    """Return the URL of the layer: the one asked for, else what suits the processes."""
    name = default_name(full_spec(app), os.getcwd(), os.getuid())
    if url := values["layer"] or configured_url():
        return with_name(str(url), name)
    return f"ipc://{name}" if several else "memory://"


@contextlib.contextmanager
def pid_file(path: str | None, socks: Iterable[RawSocket]) -> Iterator[None]:
    """Have a file with this process's id, for as long as the block lasts."""
    if path is None:
        yield
        return
    from gunicorn.pidfile import Pidfile

    file = Pidfile(path)
    try:
        file.create(os.getpid())
    except (RuntimeError, OSError) as error:
        say(f"Error: {error}")
        for sock in socks:
            close_listening(sock)
        sys.exit(EXIT_START)
    try:
        yield
    finally:
        file.unlink()


def serve(
    server: Server, socks: Iterable[RawSocket], certificates: Certificates | None = None
) -> int:
    """Serve until a signal, drain, and return the exit code."""
    stop = Event()
    signals = [signal.SIGTERM, signal.SIGINT]
    if certificates is None and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signals.append(signal.SIGHUP)  # the terminal has gone
    handle = gevent.signal_handler
    handlers: list[Any] = [handle(number, _on_signal, stop) for number in signals]
    handlers.append(handle(signal.SIGUSR1, server.access_log.reopen))
    if certificates is not None:
        handlers.append(reload_on_hangup(certificates))
    server.child_hooks.append(lambda: give_back(handlers, signals))
    keep_frame_chunks(KEPT_FRAME_CHUNKS)
    try:
        server.start()
    except Exception as error:
        say(f"Error: {explain(error)}")
        for sock in socks:
            close_listening(sock)
        return EXIT_USAGE if is_usage(error) else EXIT_START
    for sock in socks:
        listener = server.listen(sock, certificates)
        where = describe(listener.address, certificates is not None)
        say(f"Listening on {where} (Ctrl-C to stop)")
    stop.wait()
    say("Stopping.")
    server.stop()
    for handler in handlers:
        handler.cancel()
    let_go_of_stdout()
    return EXIT_OK


def is_usage(error: Exception) -> bool:
    """Say whether what was asked for is wrong, not what it needs."""
    wrong = isinstance(error, ConfigurationError)
    return wrong and not isinstance(error, LayerRefused)


def explain(error: Exception) -> str:
    """Say in a line why a server did not start; the log has the rest if it helps."""
    log = logging.getLogger("greenchannels")
    if isinstance(error, ConfigurationError | LayerUnavailable):
        log.debug("the server did not start", exc_info=error)
        return str(error)
    log.error("a lifespan failed", exc_info=error)
    return f"the app could not start: {error}"


def let_go_of_stdout() -> None:
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
        say("Stopped without waiting.")
        sys.stdout.flush()
        os._exit(EXIT_SECOND_SIGNAL)
    stop.set()


def server_options(values: dict[str, Any]) -> ServerOptions:
    return ServerOptions(
        limits=pick(Limits, values),
        http=pick(HTTPLimits, values),
        timeouts=pick(Timeouts, values),
        deflate=None if values["no_deflate"] else Deflate(),
        max_connections=values["max_connections"],
        max_total_buffer=values["max_total_buffer"],
        drain=values["drain"] if values["drain"] is not None else 10.0**9,
        proxies=values["proxies"],
        proxy_protocol=values["proxy_protocol"],
        root_path=values["root_path"].rstrip("/"),
        origins=values["origins"],
        debug=values["debug"],
        multiprocess=values["workers"] > 1,
    )


def open_access_log(where: str) -> AccessLog:
    if where == "off":
        return AccessLog()
    if where == "-":
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(line_buffering=True)  # a pipe would get blocks
        return AccessLog(sys.stdout)
    try:
        return AccessLog.in_file(where)
    except OSError as error:
        raise ConfigurationError(
            f"cannot write the access log {where}: {error.strerror}"
        ) from error


def _set_up_logging(level: str | None, debug: bool, several: bool) -> None:
    name = level or ("debug" if debug else "info")
    process = "[%(process)d] " if several else ""
    logging.basicConfig(
        level=name.upper(),
        format=f"%(asctime)s {process}%(levelname)s %(name)s: %(message)s",
    )


def say(text: str) -> None:
    """Tell the operator something, on the standard error."""
    print(text, file=sys.stderr, flush=True)
