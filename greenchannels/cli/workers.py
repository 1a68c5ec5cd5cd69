"""
``run --workers N``: worker processes, looked after by gunicorn's arbiter.

The arbiter forks, counts and ends workers. It is told here what it does not know: a
worker is up when it accepts connections, the first one shows whether the application
works at all, and none is told to go before the one in its place is up.
"""

from __future__ import annotations

import logging
import math
import mmap
import os
import signal
import sys
import time
import traceback
from _socket import socket as RawSocket
from collections.abc import Iterable
from types import FrameType
from typing import Any

import gevent
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter as GunicornArbiter
from gunicorn.errors import HaltServer
from gunicorn.glogging import Logger

from ..errors import ConfigurationError
from ..gunicorn import Worker
from ..layers.registry import make_layer
from ..net.binding import close_listening
from ..net.certificates import Certificates
from ..servers.server import Server
from .apps import AppError, load_router
from .reloading import SourceFiles, failure_page, files_of
from .run import (
    EXIT_SECOND_SIGNAL,
    EXIT_START,
    EXIT_USAGE,
    describe,
    layer_url,
    let_go_of_stdout,
    open_access_log,
    say,
    server_options,
)
from .tls import read_certificates

#: What a worker tells the arbiter of itself, a byte in memory that both have.
STARTING, UP, TIRED, WRONG_APP, FAILED = range(5)

#: Seconds beyond the drain that lifespans have before a worker is killed.
LEAVE_TIME = 5

#: Seconds that --reload leaves for telling sockets.
QUICK_RELOAD = 0.2

#: Seconds between two looks while workers come and go.
LOOK = 0.05

#: Longest pause, in seconds, between two attempts to start what fails to.
MAX_PAUSE = 30.0

#: Signals that a worker must not meet with its parent's handlers.
BLOCKED = {signal.SIGTERM, signal.SIGQUIT, signal.SIGINT, signal.SIGHUP}

#: The command's exit codes for what a worker could not do.
EXIT_CODES = {WRONG_APP: EXIT_USAGE, FAILED: EXIT_START}

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


class ArbiterLog(Logger):
    """What gunicorn logs, among our own lines: its news are details to us."""

    def setup(self, cfg: Any) -> None:
        """Leave handlers and levels as they are."""
        self.cfg = cfg
        self.error_log = logger

    def info(self, msg: object, *args: object, **kwargs: Any) -> None:
        """Log it for those who debug."""
        self.debug(msg, *args, **kwargs)

    def debug(self, msg: object, *args: object, **kwargs: Any) -> None:
        """Log it, but for the settings: hardly one of them means anything here."""
        if not str(msg).startswith("Current configuration"):
            super().debug(msg, *args, **kwargs)


class Listening:
    """
    A listening socket as gunicorn has them.

    Args:
        sock: The socket; closed with this one.

    """

    def __init__(self, sock: RawSocket) -> None:
        self._sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def close(self) -> None:
        """Close it; a Unix socket's own file is removed."""
        close_listening(self._sock)


class Arbiter(GunicornArbiter):
    """
    gunicorn's arbiter, with our order of starting and replacing.

    Args:
        service: What is served.
        socks: Where; owned from now on.
        places: What is printed once the first worker accepts.

    """

    LISTENERS: list[Any]  # type: ignore[misc]
    WORKERS: dict[int, Any]  # type: ignore[misc]

    def __init__(
        self, service: Service, socks: Iterable[RawSocket], places: list[str]
    ) -> None:
        super().__init__(service)
        self.LISTENERS = [Listening(sock) for sock in socks]
        self.WORKERS = {}
        self._places = places
        #: Whether a worker has ever been up.
        self._works = False
        self._stopping = False
        self._impatient = False
        #: Attempts in a row that failed, and when the next one may be.
        self._failures, self._not_before = 0, 0.0

    # Signals.

    def signal(self, sig: int, frame: FrameType | None) -> None:
        """Queue a signal; a second one to stop is a signal to stop at once."""
        if self._stopping and sig in (signal.SIGTERM, signal.SIGINT):
            self._impatient = True
            sig = signal.SIGQUIT
        super().signal(sig, frame)

    def wait_for_signals(self, timeout: float | None = 1.0) -> list[int]:
        """Wait, but not for long while workers come and go."""
        found: list[int] = super().wait_for_signals(LOOK if self._unsettled else 1.0)
        return found

    def handle_int(self) -> None:
        """Drain, as for SIGTERM: it is Ctrl-C."""
        self.handle_term()

    def handle_hup(self) -> None:
        """Replace all workers, one by one, by such with the code of today."""
        logger.info("replacing all workers")
        self._failures, self._not_before = 0, 0.0
        for worker in self.WORKERS.values():
            worker.outdated = True

    def handle_usr2(self) -> None:
        """Do nothing: a new program is another process."""
        logger.warning("SIGUSR2 is not followed: SIGHUP reloads the code")

    def stop(self, graceful: bool = True) -> None:
        """End all workers, within the drain's time."""
        if not self._stopping:
            self._stopping = True
            self.systemd = True  # the sockets' files are the sockets' affair
            super().stop(graceful)

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        """End all, and exit."""
        if self._works:
            say("Stopping.")
        self.stop()
        if self.pidfile is not None:
            self.pidfile.unlink()
        if self._impatient:
            say("Stopped without waiting.")
            exit_status = EXIT_SECOND_SIGNAL
        sys.exit(exit_status)

    # Workers.

    @property
    def _staying(self) -> list[RunWorker]:
        """The workers that have not been told to go, oldest first."""
        staying = [w for w in self.WORKERS.values() if not w.leaving]
        return sorted(staying, key=lambda worker: worker.age)

    @property
    def _unsettled(self) -> bool:
        """Whether workers are starting or being replaced."""
        staying = self._staying
        return len(staying) != self.num_workers or any(
            worker.stale or not worker.is_up for worker in staying
        )

    def manage_workers(self) -> None:
        """Have as many workers as there should be; called again and again."""
        if self._stopping:
            return
        staying = self._staying
        if not self._works and any(worker.is_up for worker in staying):
            self._works = True
            for place in self._places:
                say(f"Listening on {place} (Ctrl-C to stop)")
        wanted = self.num_workers if self._works else 1
        starting = not all(worker.is_up for worker in staying)
        stale = [worker for worker in staying if worker.stale]
        if len(staying) < wanted:
            self._start(wanted - len(staying))
        elif len(staying) > wanted and not starting:
            self._dismiss((stale or staying)[0])
        elif stale and not starting:
            self._start(1)

    def _start(self, count: int) -> None:
        """Start workers, unless some have just failed to."""
        if time.monotonic() >= self._not_before:
            for _ in range(count):
                self.spawn_worker()

    def spawn_worker(self) -> int:
        """Start one, with signals blocked until it can handle them."""
        signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
        pid: int = super().spawn_worker()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)
        return pid

    def _dismiss(self, worker: RunWorker) -> None:
        """Have a worker drain and exit."""
        worker.leaving = True
        self.kill_worker(worker.pid, signal.SIGTERM)

    def child_ended(self, worker: RunWorker) -> None:
        """A worker has exited: see whether it ever worked."""
        condition, was_up = worker.condition, worker.is_up
        worker.forget()
        if was_up:
            self._failures = 0
        if was_up or worker.leaving or self._stopping:
            return
        self._failures += 1
        self._not_before = time.monotonic() + min(MAX_PAUSE, 2.0**self._failures)
        if not self._works:
            raise HaltServer("no worker starts", EXIT_CODES.get(condition, EXIT_START))
        logger.error("worker %d did not start; the others stay as they are", worker.pid)
        for other in self.WORKERS.values():
            other.outdated = False


class RunWorker(Worker):
    """A worker of ``run``: told all by the command's values."""

    quick_signals = (signal.SIGQUIT,)
    app: Service
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
        server = Server(
            self.wsgi,
            options=options,
            layer=make_layer(layer_url(values, self.app.spec, several=True)),
            access_log=open_access_log(values["access_log"]),
        )
        return server, read_certificates(values)

    def run(self) -> None:
        """Serve; if that cannot begin, tell the arbiter why."""
        try:
            super().run()
        except ConfigurationError as error:
            self._give_up(WRONG_APP, f"Error: {error}")
        except Exception as error:
            if self.booted:
                raise
            logging.getLogger("greenchannels").exception("a lifespan failed")
            self._give_up(FAILED, f"Error: the app could not start: {error}")
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
    places = [describe(sock.getsockname(), secure) for sock in socks]
    arbiter = Arbiter(Service(spec, values), socks, places)
    try:
        arbiter.run()
    except (RuntimeError, OSError) as error:  # of the pid file, before all else
        say(f"Error: {error}")
        for sock in socks:
            close_listening(sock)
        return EXIT_START
    raise AssertionError("the arbiter exits")
