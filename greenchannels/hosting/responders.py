"""
What hosted applications and files give their responses to.

It is the server's exchange itself, or, with middleware between, an object that makes
GSGI events of it.
"""

from __future__ import annotations

from typing import Any, Protocol

from ..errors import ConnectionBroken
from ..types import Receive, Send

#: Bytes of a file that are sent at a time where the server cannot send it itself.
BLOCK = 64 * 1024

#: ASGI's extension by which the server sends a part of a file.
ZERO_COPY = "http.response.zerocopysend"


class Responder(Protocol):
    """What a response is given to: the server's exchange, or events."""

    @property
    def sends_files(self) -> bool:
        """Whether ``write_file`` leaves a file to the server."""

    @property
    def begun(self) -> bool:
        """Whether the head has been sent."""

    @property
    def wants_body(self) -> bool:
        """Whether what is written of a body goes anywhere."""

    def begin(
        self,
        status: int,
        headers: list[tuple[bytes, bytes]],
        reason: str | None = None,
    ) -> None:
        """Say how the response begins."""

    def take_back(self) -> None:
        """Forget what ``begin`` said."""

    def read(self) -> bytes:
        """Return the next piece of the request's body, nothing at its end."""

    def write(self, data: bytes, more: bool) -> None:
        """Send a piece of the body."""

    def write_out(self) -> None:
        """Let what has been written leave now, unless it is all."""

    def write_file(
        self, file: Any, offset: int | None, count: int | None, more: bool
    ) -> None:
        """Send a part of a file."""


class EventResponder:
    """
    A responder that speaks GSGI events, for what is behind middleware.

    Args:
        receive: GSGI's.
        send: GSGI's.
        sends_files: Whether it understands ASGI's ``http.response.zerocopysend``.

    """

    def __init__(
        self, receive: Receive, send: Send, *, sends_files: bool = False
    ) -> None:
        self.sends_files = sends_files
        self.wants_body = True
        self._receive = receive
        self._send = send
        self._start: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._body_ended = False
        self.begun = False

    def begin(
        self,
        status: int,
        headers: list[tuple[bytes, bytes]],
        reason: str | None = None,
    ) -> None:
        """Keep it until the body begins."""
        self._start = (status, headers)

    def take_back(self) -> None:
        """Forget what ``begin`` said."""
        self._start = None

    def read(self) -> bytes:
        """Return the next piece of the body, nothing at its end; blocks."""
        while not self._body_ended:
            event = self._receive()
            if event["type"] == "http.disconnect":
                raise ConnectionBroken(reason="the peer has gone")
            self._body_ended = not event.get("more_body", False)
            if data := bytes(event.get("body", b"")):
                return data
        return b""

    def write(self, data: bytes, more: bool) -> None:
        """Send a piece of the body; blocks."""
        self._send_start()
        self._send({"type": "http.response.body", "body": data, "more_body": more})

    def _send_start(self) -> None:
        if not self.begun:
            assert self._start is not None
            status, headers = self._start
            self.begun = True
            self._send(
                {"type": "http.response.start", "status": status, "headers": headers}
            )

    def write_out(self) -> None:
        """Do nothing: what events say leaves at the end of the hub's turn."""

    def write_file(
        self, file: Any, offset: int | None, count: int | None, more: bool
    ) -> None:
        """Send a part of a file, in pieces unless the server sends it; blocks."""
        if self.sends_files:
            self._send_start()
            part = {"file": file, "offset": offset, "count": count, "more_body": more}
            self._send({"type": ZERO_COPY, **part})
            return
        while count != 0:
            data = file.read(BLOCK if count is None else min(BLOCK, count))
            if not data:
                break
            self.write(data, more=True)
            count = None if count is None else count - len(data)
        self.write(b"", more)
