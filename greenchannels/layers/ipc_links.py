"""
One link to another process of ``ipc://``: a Unix socket that carries frames.

A link greets, is opened or refused, and then carries frames both ways until it ends.
What it queues is bounded: a process that reads nothing is cut off, and the others do
not notice. Which links are made, and which of two stays, is the mesh's affair.
"""

from __future__ import annotations

import enum
import logging
import math
import os
import socket as stdlib_socket
import struct
import time
from _socket import socket as RawSocket
from collections import deque
from typing import Protocol

from gevent import Timeout, getcurrent

from ..net.clock import Alarm
from ..net.reactor import SLICE_TIME, Reactor
from ..net.transport import Transport
from .ipc_frames import (
    VERSION,
    FrameError,
    FrameReader,
    Kind,
    encode_frame,
    is_message,
    read_body,
)

#: Bytes that may wait for one process; above, it is cut off.
MAX_WAITING = 32 * 1024 * 1024

#: Bytes that wait before the kernel is offered them within the turn.
WRITE_AT = 256 * 1024

#: Seconds in which a process must take a byte.
WRITE_TIMEOUT = 30.0

#: Seconds in which the end of a link must come whose other end takes nothing more.
END_TIMEOUT = 2.0

#: Seconds in which who dials must say who it is.
HELLO_TIMEOUT = 10.0

_CREDENTIALS = struct.Struct("iII")

logger = logging.getLogger("greenchannels.layer")


class Stage(enum.StrEnum):
    """Where a link is in its life."""

    GREETING = "greeting"
    OPEN = "open"
    ENDED = "ended"


class LinkOwner(Protocol):
    """Who is told what happens to links, always in the hub; nothing may block."""

    def link_greets(self, link: Link, name: str) -> None:
        """The other end of a link that greets has said who it is."""

    def link_says(self, link: Link, kind: int, body: bytes) -> None:
        """A frame has come on an open link; a ``FrameError`` ends the link."""

    def link_ended(self, link: Link) -> None:
        """A link has ended; called once, last."""


class LinkTransport(Transport):
    """
    A transport that is read to its end, although nothing can be written any more.

    A process may leave right after its last message.
    """

    __slots__ = ()

    def fail(self, error: Exception | None) -> None:
        """Wait for the end if the other end takes nothing more; else end it."""
        gone = isinstance(error, BrokenPipeError | ConnectionResetError)
        if gone and not self.ended and not self.closed:
            self.ended = True
            self.reactor.clock.call_later(END_TIMEOUT, self._give_up)
        else:
            super().fail(error)

    def _give_up(self) -> None:
        """The end did not come."""
        super().fail(None)


class Link:
    """
    A connected Unix socket to another process.

    Args:
        owner: Is told what happens.
        reactor: Of the hub that serves it.
        fd: The connected, non-blocking socket; owned from now on.
        own_name: What this process is called.
        name: Whom it was dialed to; empty for one that was accepted.

    Attributes:
        name: Who is at the other end; empty until it has said so.
        dialed: Whether this process made it.
        stage: Where it is in its life.
        unsent: Messages that still had to be sent when it was cut.

    """

    def __init__(
        self,
        owner: LinkOwner,
        reactor: Reactor,
        fd: int,
        own_name: str,
        name: str = "",
    ) -> None:
        self._owner = owner
        self._own_name = own_name
        self.name = name
        self.dialed = bool(name)
        self.stage = Stage.GREETING
        self.unsent = 0
        #: Whether it took nothing for as long as somebody waited for that.
        self._stalled = False
        self._frames = FrameReader()
        #: Frames that wait for their turn; meanwhile nothing is read.
        self._unhandled: deque[tuple[int, bytes]] = deque()
        self._reactor = reactor
        self._transport = LinkTransport(reactor, fd, write_timeout=WRITE_TIMEOUT)
        self._alarm: Alarm | None = None
        if not self.dialed:
            clock = reactor.clock
            self._alarm = clock.call_later(HELLO_TIMEOUT, self._never_greeted)
        self._transport.start(self)
        if self.dialed:
            self._greet()

    def __repr__(self) -> str:
        return f"<link to {self.name or 'somebody'} = {self.stage}>"

    # Sending. The thread of the hub.

    def open(self) -> None:
        """Let frames pass; who dialed is told so."""
        self.stage = Stage.OPEN
        self._forget_alarm()
        if not self.dialed:
            self._greet()

    def refuse(self, why: str) -> None:
        """End a link that greets, and tell why."""
        self.stage = Stage.ENDED
        self._transport.push(encode_frame(Kind.REFUSED, why))
        self._transport.close()

    def send(self, frame: bytes) -> bool:
        """
        Queue a frame; never blocks.

        Returns:
            False if it is lost: the link has ended, or ends now because too much
            waits.

        """
        transport = self._transport
        if transport.ended or transport.closing:
            return False
        waiting = transport.push(frame)
        if waiting > WRITE_AT and not transport.blocked:
            transport.write_now()
            waiting = transport.own
        if waiting > MAX_WAITING:
            self.cut(f"{waiting} bytes wait for it")
            return False
        return not transport.ended

    def close(self) -> None:
        """End it when all has been sent; what comes is not read any more."""
        self.stage = Stage.ENDED
        self._transport.close()

    def cut(self, why: str) -> None:
        """End it now; what waits is lost."""
        transport = self._transport
        if not transport.ended:
            logger.warning("ipc: the link to %s is cut: %s", self.name, why)
            self.unsent = sum(map(is_message, transport.unsent))
            transport.abort(ConnectionAbortedError(why))

    def abandon(self) -> None:
        """This is a forked child: let go of a link that is its parent's."""
        self.stage = Stage.ENDED
        self._unhandled.clear()
        self._transport.cut(ConnectionAbortedError("the process was forked"))

    def forsake(self) -> None:
        """As ``abandon``, when the hub was another thread's."""
        self.stage = Stage.ENDED
        self._transport.forsake()

    def write_now(self) -> None:
        """Give the kernel what it takes; never blocks."""
        self._transport.write_now()

    def flush(self, timeout: float) -> bool:
        """
        Block until the kernel has all that is queued now; not in the hub.

        One that took nothing for so long is not waited for again before it does.

        Args:
            timeout: Seconds after which it is not waited for.

        Returns:
            False if the kernel has not all of it.

        """
        transport = self._transport
        transport.write_now()
        waits = timeout > 0 and getcurrent() is not self._reactor.hub
        if not transport.queue or self._stalled or not waits:
            return not transport.queue and not transport.ended
        late = Timeout.start_new(timeout)
        try:
            transport.flush()
        except Timeout as error:
            if error is not late:
                raise
            self._stalled = True
        finally:
            late.close()
        return not self._stalled and not transport.ended

    @property
    def waiting(self) -> int:
        """The bytes that still have to be sent."""
        return self._transport.own

    def _greet(self) -> None:
        self._transport.push(encode_frame(Kind.HELLO, (VERSION, self._own_name)))

    # StreamProtocol. In the hub.

    def data_received(self, buffer: bytearray, size: int) -> None:
        """Take what frames these bytes complete, as many as there is time for."""
        frames = self._frames.feed(bytes(memoryview(buffer)[:size]))
        end = time.perf_counter() + SLICE_TIME
        for index, frame in enumerate(frames, 1):
            self._take(*frame)
            if index < len(frames) and time.perf_counter() > end:
                self._unhandled.extend(frames[index:])
                self._transport.pause_reading()
                self._reactor.next_turn(self._go_on)
                return

    def _go_on(self) -> None:
        """Take frames that had to wait; read again when there are none."""
        try:
            self._take_unhandled(time.perf_counter() + SLICE_TIME)
        except Exception as error:
            self.callback_failed(error)
        if self._unhandled:
            self._reactor.next_turn(self._go_on)
        elif self.stage is not Stage.ENDED:
            self._transport.resume_reading()

    def _take_unhandled(self, end: float) -> None:
        while self._unhandled:
            self._take(*self._unhandled.popleft())
            if time.perf_counter() > end:
                return

    def _take(self, kind: int, body: bytes) -> None:
        if self.stage is Stage.OPEN:
            self._owner.link_says(self, kind, body)
        elif self.stage is Stage.GREETING:
            self._take_greeting(kind, body)

    def _take_greeting(self, kind: int, body: bytes) -> None:
        if kind == Kind.REFUSED:
            logger.debug("ipc: %r is refused: %s", self, read_body(body, str))
            self._transport.fail(None)
            return
        if kind != Kind.HELLO:
            raise FrameError("who it is must come first")
        version, name = read_body(body, tuple[int, str])
        if version != VERSION:
            self.refuse(f"this process speaks version {VERSION}")
            raise FrameError(f"it speaks version {version}")
        if self.dialed and name != self.name:
            raise FrameError(f"it is called {name}")
        self.name = name
        self._forget_alarm()
        self._owner.link_greets(self, name)

    def eof_received(self) -> None:
        """The other end has closed it."""
        self._transport.fail(None)

    def write_progress(self) -> None:
        """The other end takes something again."""
        self._stalled = False

    def callback_failed(self, error: Exception) -> None:
        """Bytes that are no frames, or an error of ours: the link ends."""
        if isinstance(error, FrameError):
            logger.warning("ipc: %r ends: %s", self, error)
        else:
            logger.error("ipc: %r failed", self, exc_info=error)
        self._unhandled.clear()
        self._transport.abort(error)

    def connection_lost(self, error: Exception | None) -> None:
        """The socket has been closed."""
        if self._unhandled:
            self._end_unhandled()
        self.stage = Stage.ENDED
        self._forget_alarm()
        self._owner.link_ended(self)

    def _end_unhandled(self) -> None:
        """Take what had come in time, however long that takes."""
        try:
            self._take_unhandled(math.inf)
        except Exception as error:
            self.callback_failed(error)

    def _never_greeted(self) -> None:
        self._alarm = None
        self._transport.fail(None)

    def _forget_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None


def dial(path: str) -> int:
    """
    Return the non-blocking descriptor of a connection to ``path``; never blocks.

    Raises:
        ConnectionRefusedError: If nobody listens there.
        PermissionError: If whoever listens is another user.
        OSError: If the file is not there, or too many connections wait.

    """
    sock = RawSocket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(path)
        _check_user(sock)
    except BaseException:
        sock.close()
        raise
    return sock.detach()


def check_user(fd: int) -> bool:
    """Say whether the other end of a connection is of this user."""
    sock = RawSocket(fileno=fd)
    try:
        _check_user(sock)
    except PermissionError:
        return False
    finally:
        sock.detach()
    return True


def _check_user(sock: RawSocket) -> None:
    """Ask the kernel, where it tells; elsewhere the folder keeps others out."""
    option = getattr(stdlib_socket, "SO_PEERCRED", None)
    if option is None:
        return
    size = _CREDENTIALS.size
    packed = sock.getsockopt(stdlib_socket.SOL_SOCKET, option, size)
    _, uid, _ = _CREDENTIALS.unpack(packed)
    if uid != os.geteuid():
        raise PermissionError(f"the other end belongs to another user ({uid})")
