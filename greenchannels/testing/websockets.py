"""
The client's side of one WebSocket (RFC 6455), for tests.

A greenlet reads all the time: it answers pings and close frames, and puts
messages into a queue that is not bounded, since the test decides what comes.
"""

from __future__ import annotations

import base64
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import gevent
import msgspec
from gevent import Greenlet
from gevent.queue import Empty, Queue

from ..errors import (
    ConnectionBroken,
    ConnectionClosed,
    ConnectionEnded,
    GreenchannelsError,
)
from ..groups import to_json
from ..servers.websocket import ServerSocket
from ..servers.workers import Worker
from ..wire.deflate_codec import ContextCodec
from ..wire.frames import BINARY, CLOSE, PING, PONG, TEXT, FrameDecoder, encode_masked
from .links import Fields, Link, Response, at_most, encode_request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from werkzeug.datastructures import Headers

    from ..servers.server import Server

#: Seconds between two looks at a consumer.
LOOK = 0.001

#: Codes of ends that no frame may carry (RFC 6455, section 7.4.1).
NO_CODE, ABNORMAL = 1005, 1006


class Rejected(GreenchannelsError):
    """
    The server refused a handshake.

    Attributes:
        status: The HTTP status.
        headers: The response's fields; names in any case.
        body: The response's body, as bytes.

    """

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        super().__init__(status, headers, body)
        self.status = status
        self.headers = headers
        self.body = body

    def __str__(self) -> str:
        return f"{self.status} {self.body[:200]!r}"


class ClientSocket:
    """
    One WebSocket to the server; ``with`` opens and closes it.

    Args:
        server: The server.
        link: A new connection to it.
        request: The handshake's path and header fields.
        timeout: Seconds that each step may take.

    Attributes:
        headers: The fields of the 101; names in any case.
        close_code: What the server's close frame said, 1005 if it had no code,
            1006 if the connection broke; ``None`` before.
        close_reason: The reason that came with it.

    """

    headers: Headers

    def __init__(
        self, server: Server, link: Link, request: Handshake, timeout: float
    ) -> None:
        self.path = request.path
        self.close_code: int | None = None
        self.close_reason = ""
        self._server = server
        self._link = link
        self._request = request
        self._timeout = timeout
        self._socket: ServerSocket | None = None
        self._decoder = FrameDecoder(None, False)
        #: Messages, then ``None`` for the end.
        self._queue: Queue[str | bytes | None] = Queue()
        self._closed_with: int | None = None
        self._reader: Greenlet[..., Any] = Greenlet(self._read)
        self._reader.name = f"reader of {self!r}"

    def __repr__(self) -> str:
        return f"<ClientSocket {self.path}>"

    def __enter__(self) -> ClientSocket:
        """
        Do the handshake; return when the consumer waits or has ended.

        A consumer that does neither is waited for ``timeout`` seconds.

        Raises:
            Rejected: If the server refuses.
            TimeoutError: If it does not answer.

        """
        try:
            with at_most(self._timeout, f"the handshake of {self.path}"):
                self._link.send(self._request.encode())
                response = self._link.response()
        except BaseException:
            self._link.close()
            raise
        if response.status != 101:
            self._link.close()
            raise Rejected(response.status, response.headers, response.body)
        self._open(response)
        return self

    def _open(self, response: Response) -> None:
        self.headers = response.headers
        if "sec-websocket-extensions" in response.headers:
            codec = ContextCodec(1, 0, 15, 15, ours=False, theirs=True)
            self._decoder.inflate = codec.inflate
        self._socket = self._find_socket()
        self._reader.start()
        self._wait_until(lambda: self._at_rest)

    def _find_socket(self) -> ServerSocket | None:
        """Return the other end, unless it is over already."""
        transport = self._link.transport
        found: Any = self._server.connections.get(transport)
        if isinstance(found, ServerSocket):
            return found
        owners = map(owner_of, self._server.consumers)
        sockets = [each for each in owners if isinstance(each, ServerSocket)]
        return next((s for s in sockets if s.transport is transport), None)

    @property
    def _at_rest(self) -> bool:
        return self._consumer_ended or (self._socket is not None and self._resting)

    @property
    def _resting(self) -> bool:
        assert self._socket is not None
        return self._socket.waiting and self._socket.idle

    @property
    def _consumer_ended(self) -> bool:
        return self._socket is None or self._socket.run_over

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + self._timeout
        gevent.sleep(0)
        while not condition() and time.monotonic() < end:
            gevent.sleep(LOOK)

    def __exit__(self, *exc_info: object) -> None:
        """Close with 1000, and wait at most ``timeout`` for the consumer's end."""
        try:
            self.close()
            self._wait_until(lambda: self._consumer_ended and self._reader.dead)
        finally:
            self.drop()

    def drop(self) -> None:
        """End this side at once, without a close frame."""
        self._reader.kill()
        self._link.close()

    # Receiving.

    @property
    def subprotocol(self) -> str | None:
        """What the server chose to speak."""
        return self.headers.get("sec-websocket-protocol")

    def receive(self, timeout: float | None = None) -> str | bytes:
        """
        Return the next message: str for text, bytes for binary.

        Args:
            timeout: Seconds to wait; by default the client's.

        Raises:
            TimeoutError: If none came in time.
            ConnectionClosed: If the server has closed, and all was received.
            ConnectionBroken: If it has gone without a close frame.

        """
        seconds = self._timeout if timeout is None else timeout
        try:
            message = self._queue.get(timeout=seconds)
        except Empty:
            raise TimeoutError(f"no message of {self.path} in {seconds} s") from None
        if message is None:
            self._queue.put(None)
            raise self._end()
        return message

    def receive_json(self, timeout: float | None = None) -> Any:
        """Return the next message, decoded as JSON; see ``receive``."""
        return msgspec.json.decode(self.receive(timeout))

    def nothing(self, timeout: float = 0.05) -> None:
        """
        Check that nothing comes for ``timeout`` seconds, the end included.

        Raises:
            AssertionError: If something came; it shows what.

        """
        try:
            message = self.receive(timeout)
        except TimeoutError:
            return
        except ConnectionEnded as error:
            raise AssertionError(f"expected nothing, but it ended: {error}") from None
        raise AssertionError(f"expected nothing, but {message!r} came")

    def _end(self) -> ConnectionEnded:
        code = ABNORMAL if self.close_code is None else self.close_code
        kind = ConnectionBroken if code == ABNORMAL else ConnectionClosed
        return kind(code, self.close_reason, source=self)

    # Sending.

    def send(self, message: str | bytes) -> None:
        """
        Send text (str) or binary (bytes).

        Raises:
            ConnectionEnded: If either side has closed.

        """
        if self.close_code is not None:
            raise self._end()
        if self._closed_with is not None:
            raise ConnectionClosed(self._closed_with, source=self)
        if isinstance(message, str):
            self._send(TEXT, message.encode())
        else:
            self._send(BINARY, bytes(message))

    def send_json(self, obj: object) -> None:
        """Send ``obj`` as JSON text."""
        self.send(to_json(obj))

    def close(self, code: int | None = 1000, reason: str = "") -> None:
        """
        Send a close frame; closing twice changes nothing.

        Args:
            code: What it says; any number, since tests break rules.
            reason: Why.

        """
        if self._closed_with is not None or self.close_code is not None:
            return
        self._closed_with = NO_CODE if code is None else code
        head = b"" if code is None else code.to_bytes(2, "big")
        self._answer(CLOSE, head + reason.encode())

    def _send(self, opcode: int, payload: bytes) -> None:
        self._link.send(encode_masked(opcode, payload, os.urandom(4)))

    def _answer(self, opcode: int, payload: bytes) -> None:
        """Send a control frame, which a server that has gone need not get."""
        try:
            self._send(opcode, payload)
        except ConnectionBroken:
            return

    # The reader's greenlet.

    def _read(self) -> None:
        while data := self._link.receive():
            self._take(data)
        self._ended(ABNORMAL, "")

    def _take(self, data: bytes) -> None:
        decoder = self._decoder
        for message in decoder.decode(data, len(data), sys.maxsize, sys.maxsize):
            self._queue.put(message)
        controls, decoder.controls = decoder.controls, None
        for opcode, payload in controls or ():
            if opcode == PING:
                self._answer(PONG, payload)
            elif opcode == CLOSE:
                self._take_close(payload)
        if decoder.error is not None:
            self.close(decoder.error.hint, decoder.error.reason)
            self._ended(ABNORMAL, f"the server broke a rule: {decoder.error}")

    def _take_close(self, payload: bytes) -> None:
        if self._closed_with is None:
            self._closed_with = int.from_bytes(payload[:2], "big") or NO_CODE
            self._answer(CLOSE, payload[:2])
        code = int.from_bytes(payload[:2], "big") if payload else NO_CODE
        self._ended(code, payload[2:].decode("utf-8", "replace"))

    def _ended(self, code: int, reason: str) -> None:
        if self.close_code is None:
            self.close_code, self.close_reason = code, reason
            self._queue.put(None)


def owner_of(greenlet: Greenlet[..., Any]) -> object:
    """Return what a greenlet of the server works for: a socket, perhaps."""
    if isinstance(greenlet, Worker):
        return getattr(greenlet.task, "__self__", None)
    return greenlet.args[0]


class Handshake:
    """
    A request for a WebSocket.

    Args:
        path: The target: path and query.
        headers: More fields; they replace those of the same name.
        origin: The page that asks, such as "https://example.org".
        subprotocols: What to offer.
        deflate: Whether to offer permessage-deflate.

    """

    def __init__(
        self,
        path: str,
        headers: Fields,
        origin: str | None,
        subprotocols: Sequence[str],
        deflate: bool = False,
    ) -> None:
        self.path = path
        self._headers = headers
        self._defaults = [
            ("Host", "localhost"),
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", base64.b64encode(os.urandom(16)).decode()),
        ]
        if origin is not None:
            self._defaults.append(("Origin", origin))
        if subprotocols:
            offer = ", ".join(subprotocols)
            self._defaults.append(("Sec-WebSocket-Protocol", offer))
        if deflate:
            self._defaults.append(("Sec-WebSocket-Extensions", "permessage-deflate"))

    def encode(self) -> bytes:
        """Return the request."""
        return encode_request("GET", self.path, self._defaults, self._headers)
