"""
``run --workers N``: the worker processes, and what gunicorn is told of them.

They are looked after by ``arbiter.py``, and serve as ``greenchannels.gunicorn`` does.
"""

from __future__ import annotations

import logging
import math
import mmap
import os
import signal
import sys
import traceback
from _socket import socket as RawSocket
from types import FrameType
from typing import Any

import gevent
from gunicorn.app.base import BaseApplication

from ..gunicorn import Worker
from ..layers.registry import make_layer, shown_url
from ..net.binding import close_listening
from ..net.certificates import Certificates
from ..servers.server import Server
from .apps import AppError, load_router
from .arbiter import (
    BLOCKED,
    FAILED,
    TIRED,
    UP,
    WRONG_APP,
    Arbiter,
    ArbiterLog,
)
from .reloading import SourceFiles, failure_page, files_of
from .run import (
    EXIT_START,
    describe,
    explain,
    is_usage,
    layer_url,
    let_go_of_stdout,
    open_access_log,
    say,
    server_options,
)
from .tls import read_certificates

#: Seconds beyond the drain that lifespans have before a worker is killed.
LEAVE_TIME = 5

#: Seconds that --reload leaves for telling sockets.
QUICK_RELOAD = 0.2

logger = logging.getLogger("greenchannels.arbiter")


class Service(BaseApplication):
    """
    What is to be served, as gunicorn knows it.

    Args:
        spec: ``module:routing``.
        values: The command's.

    """

    def __init__(self, spec: str, values: dict[str, Any]) -> None:
        self.spec, self.values = spec, values
        super().__init__()

    def load_config(self) -> None:
        """Translate the command's values into gunicorn's settings."""
        values = self.values
        drain = values["drain"] if values["drain"] is not None else 10.0**9
        for name, value in {
            "workers": values["workers"],
            "worker_class": RunWorker,
            "logger_class": ArbiterLog,
            "pidfile": values["pid_file"],
            "proc_name": "greenchannels",
            "timeout": math.ceil(values["worker_timeout"] or 0),
            "graceful_timeout": math.ceil(drain) + LEAVE_TIME,
            "max_requests": values["max_requests"],
            "max_requests_jitter": values["max_requests_jitter"],
            "control_socket_disable": True,
            "child_exit": Arbiter.child_ended,
        }.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """Import the application. In a worker."""
        return load_router(self.spec)


class RunWorker(Worker):
    """A worker of ``run``: told all by the command's values."""

    quick_signals = (signal.SIGQUIT,)
    app: Service
    log: ArbiterLog
    pid: int  # type: ignore[assignment]

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._shared = mmap.mmap(-1, 1)
        #: Told to go; and running code that is to be replaced. Known to the arbiter.
        self.leaving = self.outdated = False
        #: Files that --reload looks at, beside those of all modules.
        self._watched: list[str] = []

    @property
    def condition(self) -> int:
        """What it says of itself."""
        return self._shared[0]

    @property
    def is_up(self) -> bool:
        """Whether it accepts connections."""
        return self.condition in (UP, TIRED)

    @property
    def stale(self) -> bool:
        """Whether another is to take its place."""
        return self.outdated or self.condition == TIRED

    def forget(self) -> None:
        """It has gone; let go of the memory."""
        self._shared.close()

    def init_signals(self) -> None:
        """Leave the terminal's signals to the arbiter."""
        super().init_signals()
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _ignore)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)

    def load_wsgi(self) -> None:
        """Import the application; with --reload serve what is wrong with it."""
        # What is compiled is told apart by seconds: too little for who edits.
        sys.dont_write_bytecode |= self.app.values["reload"]
        try:
            self.wsgi: Any = self.app.wsgi()
        except AppError as error:
            if not self.app.values["reload"] or self.age == 1:
                self._give_up(WRONG_APP, f"Error: {error}")
            say(f"Error: {error}")
            self.wsgi = failure_page(f"{error}\n\n{traceback.format_exc()}")
            self._watched = files_of(error, self.app.spec.partition(":")[0])

    def make_server(self) -> tuple[Server, Certificates | None]:
        """Return what the command's values ask for."""
        values = self.app.values
        options = server_options(values)
        self.drain = options.drain
        self.log.own_access_log = open_access_log(values["access_log"])
        server = Server(
            self.wsgi,
            options=options,
            layer=make_layer(layer_url(values, self.app.spec, several=True)),
            access_log=self.log.own_access_log,
        )
        return server, read_certificates(values)

    def run(self) -> None:
        """Serve; if that cannot begin, tell the arbiter why."""
        try:
            super().run()
        except Exception as error:
            if self.booted:
                raise
            code = WRONG_APP if is_usage(error) else FAILED
            self._give_up(code, f"Error: {explain(error)}")
        let_go_of_stdout()

    def started(self) -> None:
        """Tell the arbiter."""
        self._shared[0] = UP
        logger.info("worker %d is up", self.pid)
        if self.app.values["reload"]:
            gevent.spawn(SourceFiles(self._watched).watch, self._reload)

    def _reload(self, path: str) -> None:
        logger.info("%s has changed", path)
        self.drain = QUICK_RELOAD
        self.end()

    def had_enough(self) -> None:
        """Ask for another; until it is up this one goes on."""
        self._shared[0] = TIRED

    def end(self) -> None:
        """Drain and exit; whatever does not end in time is left behind."""
        super().end()
        gevent.spawn_later(self.drain + LEAVE_TIME, os._exit, 1)

    def _give_up(self, condition: int, text: str) -> None:
        say(text)
        self._shared[0] = condition
        sys.exit(0)


def _ignore(sig: int, frame: FrameType | None) -> None:
    """Do nothing; unlike SIG_IGN, programs started from here do not inherit it."""


def serve_by_workers(
    spec: str, values: dict[str, Any], socks: list[RawSocket], secure: bool
) -> int:
    """
    Serve until a signal, and return the exit code. Blocks; raises in no case.

    In the workers, which are forks of this process, it raises ``SystemExit``.

    Args:
        spec: ``module:routing``.
        values: The command's, which have been checked.
        socks: Listening sockets; owned from now on.
        secure: Whether they speak TLS.

    """
    url = layer_url(values, spec, several=True)
    if url == "memory://" and values["workers"] > 1:
        logger.warning("with memory:// the groups of each worker are its own")
    places = [describe(sock.getsockname(), secure) for sock in socks]
    news = [f"Listening on {place} (Ctrl-C to stop)" for place in places]
    arbiter = Arbiter(
        Service(spec, values), socks, [f"Groups over {shown_url(url)}", *news]
    )
    try:
        arbiter.run()
    except (RuntimeError, OSError) as error:  # of the pid file, before all else
        say(f"Error: {error}")
        for sock in socks:
            close_listening(sock)
        return EXIT_START
    raise AssertionError("the arbiter exits")
