"""
The access log: a line a request and two a WebSocket, as NCSA's common format.

``CLIENT - - [TIME] "WHAT PATH" STATUS SIZE SECONDS``. For WebSockets ``WHAT``
is WSCONNECT with the handshake's status, or WSDISCONNECT with the close code;
WSREJECT has the status that refused.
"""

from __future__ import annotations

import logging
import time
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

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        #: Whether anything is written.
        self.enabled = stream is not None
        self._second = 0
        self._time = ""

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
            self._stream, self.enabled = None, False
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
