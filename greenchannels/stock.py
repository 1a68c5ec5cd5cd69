"""
Our server as a guest of a stock WSGI server: one in each of its processes.

It starts with the first request that comes to a process: the layer, so that views can
send to groups, and the lifespans. In gunicorn's workers it follows their settings, and
drains when they are told to end; anywhere else it ends with the process.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
from dataclasses import replace
from typing import Any

import gevent
from gevent.event import Event
from gevent.lock import RLock

from .gunicorn_settings import layer_url, read_options, share_handlers
from .hosting.heads import Environ
from .layers.registry import configured_url, make_layer
from .options import ServerOptions
from .routing import Router
from .servers.guest import GuestServer

#: Seconds between two looks at whether a worker is to end, if no signal says so.
INTERVAL = 1.0

#: Seconds that sockets have at the process's end, if nobody said before that it comes.
AT_EXIT = 1.0

#: By which gunicorn tells a worker to end.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)

logger = logging.getLogger("greenchannels.server")


class Guests:
    """
    The guest server of each process that an application is called in.

    Args:
        router: The routing.
        options: As the application was made with; ``None`` for the defaults.

    """

    def __init__(self, router: Router, options: ServerOptions | None) -> None:
        self._router = router
        self._options = options
        self._found: GuestServer | None = None
        self._pid = 0
        self._starting = RLock()

    def here(self, environ: Environ) -> GuestServer:
        """
        Return this process's, started; blocks while it starts.

        Raises:
            Exception: Whatever a lifespan raised; the next call tries again.
            LayerUnavailable: If the layer cannot start.

        """
        if self._found is None or self._pid != os.getpid():
            with self._starting:
                if self._found is None or self._pid != os.getpid():
                    self._found, self._pid = self._start(environ), os.getpid()
        return self._found

    def _start(self, environ: Environ) -> GuestServer:
        worker = find_worker()
        several = bool(environ.get("wsgi.multiprocess"))
        options = self._options or ServerOptions()
        url = configured_url()
        if worker is not None:
            share_handlers(worker.log)
            options = read_options(worker.cfg, self._options)
            url = layer_url(worker)
        options = replace(options, multiprocess=options.multiprocess or several)
        layer = make_layer(url or "memory://")
        guest = GuestServer(self._router, options=options, layer=layer)
        guest.start()
        atexit.register(_close, guest, os.getpid())
        if worker is not None:
            end_with(worker, guest)
        return guest


def find_worker() -> Any:
    """Return gunicorn's worker if this is its process: it handles the signals."""
    worker = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return worker if hasattr(worker, "cfg") and hasattr(worker, "alive") else None


def end_with(worker: Any, guest: GuestServer) -> None:
    """Have a server drain as soon as its worker is to end."""
    told = Event()
    loop = gevent.get_hub().loop

    def chained(before: Any) -> Any:
        def handle(number: int, frame: Any) -> None:
            before(number, frame)
            loop.run_callback_threadsafe(told.set)

        return handle

    for number in SIGNALS:
        before = signal.getsignal(number)
        if callable(before):
            signal.signal(number, chained(before))

    def watch() -> None:
        while worker.alive:
            told.wait(INTERVAL)
            told.clear()  # a signal need not be the end
        guest.drain(guest.options.drain)

    gevent.spawn(watch)


def _close(guest: GuestServer, pid: int) -> None:
    """The process ends: tell who is still there, leave the lifespans and the others."""
    if os.getpid() == pid:
        guest.stop(AT_EXIT)
