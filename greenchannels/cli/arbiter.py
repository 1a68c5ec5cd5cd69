"""
The arbiter of ``run --workers``: gunicorn's, told what it does not know.

gunicorn's forks, counts and ends workers. Here a worker is up when it accepts
connections, the first one shows whether the application works at all, none is told to
go before the one in its place is up, and code that does not start replaces nothing.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from _socket import socket as RawSocket
from collections.abc import Iterable
from types import FrameType
from typing import TYPE_CHECKING, Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter as GunicornArbiter
from gunicorn.errors import HaltServer
from gunicorn.glogging import Logger

from ..net.binding import close_listening
from ..servers.access import AccessLog
from .run import EXIT_SECOND_SIGNAL, EXIT_START, EXIT_USAGE, say

if TYPE_CHECKING:
    from .workers import RunWorker

#: What a worker tells the arbiter of itself, a byte in memory that both have.
STARTING, UP, TIRED, WRONG_APP, FAILED = range(5)

#: The command's exit codes for what a worker could not do.
EXIT_CODES = {WRONG_APP: EXIT_USAGE, FAILED: EXIT_START}

#: Seconds between two looks while workers come and go.
LOOK = 0.05

#: Longest pause, in seconds, between two attempts to start what fails to.
MAX_PAUSE = 30.0

#: Signals that a worker must not meet with its parent's handlers.
BLOCKED = {signal.SIGTERM, signal.SIGQUIT, signal.SIGINT, signal.SIGHUP}

logger = logging.getLogger("greenchannels.arbiter")


class ArbiterLog(Logger):
    """What gunicorn logs, among our own lines: its news are details to us."""

    #: What a worker writes beside it; in the arbiter, nothing.
    own_access_log = AccessLog()

    def reopen_files(self) -> None:
        """Have all files of this process opened again: SIGUSR1."""
        super().reopen_files()
        self.own_access_log.reopen()

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
        news: The lines that are printed once the first worker accepts.

    """

    LISTENERS: list[Any]  # type: ignore[misc]
    WORKERS: dict[int, Any]  # type: ignore[misc]

    def __init__(
        self, service: BaseApplication, socks: Iterable[RawSocket], news: Iterable[str]
    ) -> None:
        super().__init__(service)
        self.LISTENERS = [Listening(sock) for sock in socks]
        self.WORKERS = {}
        self._news = news
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
            for line in self._news:
                say(line)
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
        if condition in EXIT_CODES:  # else it was ended by others: try again
            for other in self.WORKERS.values():
                other.outdated = False
