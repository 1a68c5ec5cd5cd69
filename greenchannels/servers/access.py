"""
The access log: a line a request and two a WebSocket, as NCSA's common format.

``CLIENT - - [TIME] "WHAT PATH" STATUS SIZE SECONDS``. For WebSockets ``WHAT``
is WSCONNECT with the handshake's status, or WSDISCONNECT with the close code;
WSREJECT has the status that refused.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from ..text import printable

if TYPE_CHECKING:
    from ..wire.http1 import Request

logger = logging.getLogger("greenchannels.server")

_MONTHS = [
    "Jan",
    "Feb",
    "Mar",
    "Apr",
    "May",
    "Jun",
    "Jul",
    "Aug",
    "Sep",
    "Oct",
    "Nov",
    "Dec",
]


class AccessLog:
    """
    Write lines to a stream.

    Args:
        stream: Where to; ``None`` writes nothing.

    """

    #: What ``reopen`` gets its stream from; ``None`` if there is no file.
    _open: Callable[[], TextIO] | None = None

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        #: Whether anything is written.
        self.enabled = stream is not None
        self._second = 0
        self._time = ""

    @classmethod
    def in_file(cls, path: str) -> AccessLog:
        """
        Return a log that adds to a file, made if it is not there.

        Raises:
            OSError: If it cannot be written.

        """

        def opened() -> TextIO:
            return open(path, "a", buffering=1, encoding="utf-8")

        log = cls(opened())
        log._open = opened
        return log

    def reopen(self) -> None:
        """
        Write to what bears the file's name now: the one so far may have been renamed.

        Never raises: if that file cannot be opened the one so far is kept. Without a
        file nothing happens. A log that had ended begins again.

        """
        if self._open is None:
            return
        try:
            stream = self._open()
        except OSError as error:
            logger.error("the access log stays in the file it has: %s", error)
            return
        self.close()
        self._stream, self.enabled = stream, True

    def close(self) -> None:
        """Write nothing more, and close the file if it is one of our own."""
        stream, self._stream, self.enabled = self._stream, None, False
        if self._open is not None and stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.close()

    def request(
        self, client: Any, request: Request, status: int, size: int, seconds: float
    ) -> None:
        """Note a response."""
        if self._stream is not None:
            target = request.target.decode("latin-1")
            what = f"{request.method} {target} HTTP/{request.http_version}"
            self._write(client, what, status, size, seconds)

    def refused(self, client: Any, status: int) -> None:
        """Note a request that could not be read."""
        if self._stream is not None:
            self._write(client, "-", status, 0, 0.0)

    def connect(self, client: Any, path: str) -> None:
        """Note a WebSocket that was accepted."""
        if self._stream is not None:
            self._write(client, f"WSCONNECT {path}", 101, 0, 0.0)

    def reject(self, client: Any, path: str, status: int) -> None:
        """Note a handshake that was refused."""
        if self._stream is not None:
            self._write(client, f"WSREJECT {path}", status, 0, 0.0)

    def disconnect(self, client: Any, path: str, code: int, seconds: float) -> None:
        """Note the end of a WebSocket."""
        if self._stream is not None:
            self._write(client, f"WSDISCONNECT {path}", code, 0, seconds)

    def _write(
        self, client: Any, what: str, status: int, size: int, seconds: float
    ) -> None:
        assert self._stream is not None
        host = "unix" if not client else client[0]
        if client:
            host = f"[{host}]:{client[1]}" if ":" in host else f"{host}:{client[1]}"
        line = printable(what)
        text = f'{host} - - [{self._now()}] "{line}" {status} {size or "-"}'
        try:
            self._stream.write(f"{text} {seconds:.3f}\n")
        except (OSError, ValueError) as error:
            # A full disk or a closed pipe; the service is worth more than its log.
            self.close()
            logger.error("the access log ends here: %s", error)

    def _now(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._second = second
            t = time.localtime(second)
            zone = time.strftime("%z", t)
            self._time = (
                f"{t.tm_mday:02}/{_MONTHS[t.tm_mon - 1]}/{t.tm_year}"
                f":{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} {zone}"
            )
        return self._time
