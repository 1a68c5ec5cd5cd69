"""
The worker class for gunicorn: ``gunicorn -k greenchannels.gunicorn.Worker app:app``.

The arbiter, which imports this module, stays unpatched and without a hub: a worker
patches the standard library right after the fork, then imports the application, and
serves gunicorn's sockets by our own ``Server``. What gunicorn is told becomes our
options here. An application that is not ours is served as one WSGI application.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

import gevent
from gevent import monkey
from gevent.event import Event
from gunicorn.workers import base

from .applications import Application
from .errors import ConfigurationError
from .gunicorn_settings import layer_url, read_options, share_handlers
from .layers.registry import make_layer
from .net.binding import adopt
from .net.certificates import Certificates
from .net.outlet import keep_frame_chunks
from .options import TLS
from .routing import Router, wsgi
from .servers.access import AccessLog
from .servers.server import Server
from .servers.signals import give_back

#: Memory for the frames of this many greenlets is kept for the next ones.
KEPT_FRAME_CHUNKS = 128

#: Seconds between two signs of life, at most.
HEARTBEAT = 1.0

#: Seconds that SIGINT and SIGQUIT leave for telling sockets.
QUICK = 0.5

#: Settings of gunicorn's own HTTP that have no meaning here.
NOT_FOLLOWED = ("ciphers", "http_protocols", "proxy_protocol", "access_log_format")

logger = logging.getLogger("greenchannels.server")


class Worker(base.Worker):
    """Serve a routing, as ``greenchannels.application`` made it, by our server."""

    #: Seconds that the drain may take.
    drain: float

    #: Which signals leave no time to drain.
    quick_signals: tuple[int, ...] = (signal.SIGINT, signal.SIGQUIT)

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Warn of settings that are not followed. In the arbiter."""
        for name in NOT_FOLLOWED:
            setting = cfg.settings.get(name)
            if setting is not None and setting.get() != type(setting)().get():
                log.warning("%s is not followed by this worker", name)
        if cfg.preload_app:
            log.warning("preload_app imports the application before it is patched")

    def init_process(self) -> None:
        """Patch before anything else, and run."""
        # Until it can be told to end, it must not lose that it was told.
        signal.signal(signal.SIGTERM, self.handle_exit)
        monkey.patch_all()
        super().init_process()

    # What subclasses replace.

    def make_server(self) -> tuple[Server, Certificates | None]:
        """
        Return the server of the loaded application, and its certificates if any.

        Raises:
            ConfigurationError: If routing or options are wrong.

        """
        share_handlers(self.log)
        options = read_options(self.cfg, getattr(self.wsgi, "options", None))
        self.drain = options.drain
        server = Server(
            router_of(self.wsgi),
            options=options,
            layer=make_layer(layer_url(self)),
            access_log=_access_log(self.log),
        )
        return server, read_certificates(self.cfg)

    def started(self) -> None:
        """Connections are accepted from now on."""
        logger.info("worker %d is up", self.pid)

    def had_enough(self) -> None:
        """So many requests have been served as one worker may: end."""
        logger.info("worker %d has served its requests", self.pid)
        self.end()

    # Its life.

    def run(self) -> None:
        """Serve until told to stop, and drain."""
        self._ending = Event()
        if not self.alive:
            return
        self.booted = False  # what fails from here on would fail again
        server, certificates = self.make_server()
        if self.max_requests < sys.maxsize:
            count_requests(server.router, self.max_requests, self.had_enough)
        handlers = self._handle_signals()
        numbers = (signal.SIGTERM, *self.quick_signals)
        server.child_hooks.append(lambda: give_back(handlers, numbers))
        beat = gevent.spawn(self._beat)
        try:
            self._serve(server, certificates)
        finally:
            beat.kill()
            for handler in handlers:
                handler.cancel()

    def _serve(self, server: Server, certificates: Certificates | None) -> None:
        keep_frame_chunks(KEPT_FRAME_CHUNKS)
        server.start()
        timeout = server.options.timeouts.write_timeout
        for sock in self.sockets:
            own = adopt(sock.detach(), write_timeout=timeout)
            server.listen(own, certificates)
        self.booted = True
        self.started()
        if self.alive:  # else told so before signals were handled in the hub
            self._ending.wait()
        server.stop(self.drain)

    def end(self) -> None:
        """Drain and exit, once; never blocks."""
        self.alive = False
        self._ending.set()

    def end_quickly(self) -> None:
        """Exit soon, or at once if that has begun already."""
        if self._ending.is_set():
            os._exit(0)
        self.drain = QUICK
        self.end()

    def _handle_signals(self) -> list[Any]:
        """Have signals handled in the hub from now on."""
        actions: dict[int, Callable[[], object]] = {
            signal.SIGTERM: self.end,
            signal.SIGUSR1: self.log.reopen_files,
            **dict.fromkeys(self.quick_signals, self.end_quickly),
        }
        return [gevent.signal_handler(n, action) for n, action in actions.items()]

    def _beat(self) -> None:
        """Show the arbiter that the hub turns; end if that has gone, or by --reload."""
        interval = min(HEARTBEAT, self.timeout / 2) if self.timeout else HEARTBEAT
        own = os.getpid()
        while os.getpid() == own:  # not in a child that was forked
            self.notify()
            if not self._ending.is_set():
                if os.getppid() != self.ppid:
                    logger.warning("worker %d ends: its arbiter has gone", self.pid)
                    self.end()
                elif not self.alive:  # gunicorn's reloader says no more than this
                    self.end_quickly()
            gevent.sleep(interval)

    def handle_abort(self, sig: int, frame: FrameType | None) -> None:
        """The arbiter has missed the signs of life: say what blocks the hub."""
        stack = "".join(traceback.format_stack(frame))
        logger.critical("worker %s was blocked, by:\n%s", self.pid, stack)
        self.cfg.worker_abort(self)
        os._exit(1)


def router_of(app: Any) -> Router:
    """Return the routing that a WSGI application stands for."""
    if isinstance(app, Application):
        return app.router
    return app if isinstance(app, Router) else Router([wsgi("/", app)])


def count_requests(router: Router, limit: int, done: Callable[[], object]) -> None:
    """Have ``done()`` called once, when ``limit`` requests and handshakes have come."""
    find, count = router.find, 0

    def counting(kind: str, method: str, path: str) -> Any:
        nonlocal count
        count += 1
        if count == limit:
            done()
        return find(kind, method, path)

    router.find = counting  # type: ignore[method-assign]


def read_certificates(cfg: Any) -> Certificates | None:
    """
    Return the certificates that gunicorn is told of, if there are any.

    Raises:
        ConfigurationError: If they are wrong.

    """
    if not cfg.is_ssl:
        return None
    if not cfg.certfile:
        raise ConfigurationError("--keyfile needs a --certfile")
    asks = int(cfg.cert_reqs)  # 0: no, 1: if they have one, 2: everybody
    ca_certs = cfg.ca_certs if asks else None
    return Certificates(TLS(((cfg.certfile, cfg.keyfile),), ca_certs, asks == 2))


class _LogStream:
    """A stream that is a logger: our lines, where gunicorn's configuration says."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log

    def write(self, line: str) -> int:
        """Log a line."""
        self._log.info("%s", line.rstrip("\n"))
        return len(line)


def _access_log(log: Any) -> AccessLog:
    enabled = log.access_log_enabled if hasattr(log, "access_log_enabled") else True
    stream: Any = _LogStream(log.access_log)
    return AccessLog(stream if enabled else None)
