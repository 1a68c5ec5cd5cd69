"""
A connected stream socket as the hub serves it.

Reading: one persistent watcher; each time the socket is readable one ``recv``
into the reactor's buffer, then the protocol is told. Writing: a queue of whole
frames, written in one system call when the consumer waits, at the end of the
hub's turn, or above ``OWN_BUFFER``. Frames of a broadcast are shared between
the queues of its members and never copied.

A transport whose socket fails only marks itself; a hub callback tears it down
and tells the protocol, once.
"""

from __future__ import annotations

import logging
import os
import socket as stdlib_socket
import struct
import time
from _socket import close as close_descriptor
from _socket import socket as RawSocket
from typing import Any, ClassVar

import gevent
from gevent import getcurrent

from .backlog import SharedFrame
from .clock import Alarm
from .outlet import MAX_VECTORS, Outlet
from .reactor import ONE_TURN, Reactor
from .stream_protocol import GONE, Lingering, StreamProtocol

#: Bytes of a file that are sent in one system call.
FILE_AT_A_TIME = 1024 * 1024

logger = logging.getLogger("greenchannels.net")


class Transport(Outlet):
    """
    One connected, non-blocking socket.

    What it queues and how that is written is in ``outlet.py``.

    Args:
        reactor: What the connections of this hub share.
        fd: A connected, non-blocking socket's descriptor; owned by the transport
            from now on. A socket object for each would cost its memory and three
            system calls.
        write_timeout: Seconds in which the peer must take a byte, or ``None``.

    Attributes:
        protocol: Who is told what happens.
        closed: Whether the socket has been closed.

    """

    __slots__ = (
        "_done",
        "_drained",
        "_failure",
        "_offset",
        "_progress_at",
        "_reading",
        "_receiving",
        "_sock",
        "_waiters",
        "_watcher",
        "_write_alarm",
        "_write_watcher",
        "closed",
        "protocol",
        "reactor",
        "write_timeout",
    )

    #: Whether the bytes are encrypted.
    secure: ClassVar[bool] = False

    def __init__(
        self, reactor: Reactor, fd: int, *, write_timeout: float | None = None
    ) -> None:
        super().__init__(fd, reactor.dirty, reactor.backlog)
        self.reactor = reactor
        self.protocol: StreamProtocol
        self.write_timeout = write_timeout
        self.closed = False
        self._sock: RawSocket | None = None
        self._watcher: Any = reactor.loop.io(fd, 1)
        self._write_watcher: Any = None
        self._write_alarm: Alarm | None = None
        self._progress_at = 0.0
        #: Bytes of the queue's first frame that the kernel has already.
        self._offset = 0
        #: Bytes written or dropped while blocked, ever; what ``flush`` counts by.
        self._drained = 0
        self._waiters: list[Any] | None = None
        self._reading = False
        #: Whether ``_on_readable`` is at work further up the stack.
        self._receiving = False
        #: Whether all is written and the socket can be closed.
        self._done = False
        self._failure: Exception | None = None

    # Reading.

    def start(self, protocol: StreamProtocol) -> None:
        """Give what is read to ``protocol`` from now on."""
        self.protocol = protocol
        self.resume_reading()

    def pause_reading(self) -> None:
        """Read nothing more until ``resume_reading``; TCP pushes back."""
        if self._reading:
            self._reading = False
            self._watcher.stop()

    def resume_reading(self) -> None:
        """Read again."""
        if not self._reading and not self.closed:
            self._reading = True
            self._watcher.start(self._on_readable)

    @property
    def reading(self) -> bool:
        """Whether the peer's bytes are being read."""
        return self._reading

    def _on_readable(self) -> None:
        buffer = self.reactor.buffer
        try:
            size = self.receive_into(buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._tear_down(error)
            return
        self.heard = True
        waits = self.scheduled
        self.scheduled = self._receiving = True
        try:
            if size:
                self.protocol.data_received(buffer, size)
            else:
                self.pause_reading()
                self.protocol.eof_received()
        except Exception as error:
            self._protocol_failed(error)
        self._receiving = False
        if not waits:
            self.scheduled = bool(self.queue) and not self.closing
            if self.scheduled:
                # A peer that is woken by each answer costs more than the answer does;
                # at the end of the turn most are awake already, or are woken once.
                dirty = self.reactor.dirty
                if not dirty:
                    self.wake_writer()
                dirty.append(self)
        if self.closing:
            self.write_now()
            if self._done:
                self._tear_down(None)

    def _protocol_failed(self, error: Exception) -> None:
        """Have the protocol end the connection in its own words, if it still can."""
        try:
            self.protocol.callback_failed(error)
        except Exception:
            logger.exception("%r failed in the hub", self.protocol)
            self.fail(error)

    # Writing.

    def _borrowed(self) -> RawSocket:
        """Return a socket object, made when first needed."""
        if self._sock is None:
            self._sock = RawSocket(fileno=self.fd)
        return self._sock

    def wake_writer(self) -> None:
        """Have the reactor write what is scheduled, at the end of this turn."""
        self.reactor.wake_writer()

    def flush(self) -> None:
        """
        Block until the kernel has taken all that is queued now.

        Returns as well when the connection has ended.
        """
        self.write_now()
        target = self._drained + self.own + self.shared - self._offset
        while self.queue and self._drained < target and not self.closed:
            self.wait_for_progress()

    def send_file(self, head: bytes, fd: int, offset: int, count: int) -> int:
        """
        Send ``head`` and a part of a file; blocks until the kernel has taken all.

        Reading the file blocks the hub as long as the disk takes.

        Returns:
            Bytes of the file that were sent: fewer than ``count`` if the file or
            the connection ended before.

        """
        if head:
            self.push(head)
        self.more = count > 0
        self.flush()
        self.more = False
        sent = 0
        while sent < count and not self.ended:
            asked = min(count - sent, FILE_AT_A_TIME)
            try:
                taken = os.sendfile(self.fd, fd, offset + sent, asked)
            except (BlockingIOError, InterruptedError):
                self._wait_until_writable()
                continue
            except OSError as error:
                self.fail(error)
                break
            if taken == 0:
                break
            sent += taken
            if taken == asked and sent < count:
                gevent.sleep(ONE_TURN)  # others want to send, too
        return sent

    def _wait_until_writable(self) -> None:
        """Block until the kernel has room, or the connection has ended."""
        if not self.blocked:
            self._block()
        self.wait_for_progress()

    @property
    def unsent(self) -> list[bytes]:
        """The whole frames that wait; a half-sent one is not among them."""
        return self.queue[self._begun() :]

    def drop_unsent(self) -> int:
        """Drop the whole frames that wait; return how many. A half-sent one stays."""
        dropped = len(self.unsent)
        self.keep_unsent([])
        return dropped

    def keep_unsent(self, kept: list[bytes]) -> None:
        """Drop the whole frames that wait but for ``kept``; a half-sent one stays."""
        waiting = self.own + self.shared
        self.queue[self._begun() :] = kept
        self._recount()
        self._drained += waiting - self.own - self.shared
        if not self.queue and self.blocked:
            self._unblock()
        self.wake_waiters()

    def _begun(self) -> int:
        """Return how many frames are partly with the kernel already."""
        return 1 if self._offset else 0

    def _recount(self) -> None:
        self.own = sum(len(f) for f in self.queue if type(f) is not SharedFrame)
        self.shared = sum(len(f) for f in self.queue if type(f) is SharedFrame)

    def wait_for_kernel(self, sent: int) -> None:
        """The kernel took only ``sent`` bytes: go on when the socket is writable."""
        self._take_sent(sent)
        while sent and self.queue and not self._offset:
            # It may have taken all it was offered: a call offers MAX_VECTORS.
            try:
                sent = self._borrowed().sendmsg(self.queue[:MAX_VECTORS])
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self.fail(error)
                return
            self._take_sent(sent)
        if not self.queue:
            if self.closing:
                self.written()
        elif not self.blocked:
            self._block()

    def _block(self) -> None:
        """Write nothing until the kernel has room again."""
        self.blocked = True
        self._progress_at = time.monotonic()
        self._write_watcher = self.reactor.loop.io(self.fd, 2)
        self._write_watcher.start(self._on_writable)
        if self.write_timeout is not None:
            self._write_alarm = self.reactor.clock.call_later(
                self.write_timeout, self._check_progress
            )

    def _take_sent(self, sent: int) -> None:
        """Remove ``sent`` bytes from the head of the queue."""
        self._drained += sent
        sent += self._offset
        done = 0
        for frame in self.queue:
            if len(frame) > sent:
                break
            sent -= len(frame)
            done += 1
            if type(frame) is SharedFrame:
                self.shared -= len(frame)
            else:
                self.own -= len(frame)
        del self.queue[:done]
        self._offset = sent

    def _write_more(self) -> int:
        """Offer the kernel what waits; return the bytes that it took."""
        queue: list[Any] = self.queue[:MAX_VECTORS]
        if not queue:
            return 0
        if self._offset:
            queue[0] = memoryview(queue[0])[self._offset :]
        sent = self._borrowed().sendmsg(queue)
        self._take_sent(sent)
        return sent

    def _on_writable(self) -> None:
        try:
            sent = self._write_more()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._tear_down(error)
            return
        if sent:
            self.heard = True
            self._progress_at = time.monotonic()
        if not self.queue:
            self._unblock()
        self.wake_waiters()
        if not self.closed:
            try:
                self.protocol.write_progress()
            except Exception as error:
                self._protocol_failed(error)

    def _unblock(self) -> None:
        """Nothing waits for the kernel any more."""
        self.blocked = False
        self._offset = 0
        if self._write_watcher is not None:
            self._write_watcher.stop()
            self._write_watcher.close()
            self._write_watcher = None
        if self._write_alarm is not None:
            self._write_alarm.cancel()
            self._write_alarm = None
        if self.closing:
            self.written()

    def _check_progress(self) -> None:
        """Cut a peer that has taken no byte for ``write_timeout``."""
        assert self.write_timeout is not None
        left = self._progress_at + self.write_timeout - time.monotonic()
        if left > 0:
            self._write_alarm = self.reactor.clock.call_later(
                left, self._check_progress
            )
        else:
            self._write_alarm = None
            self.abort(TimeoutError("the peer took no byte in write_timeout"))

    def wait_for_progress(self) -> None:
        """Block until somebody calls ``wake_waiters``: bytes moved, or the end."""
        waiter = getcurrent()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        try:
            self.reactor.hub.switch()
        finally:
            if self._waiters is not None:
                self._waiters.remove(waiter)
                if not self._waiters:
                    self._waiters = None

    def wake_waiters(self) -> None:
        """Have every greenlet that waits for progress look again; never blocks."""
        for waiter in self._waiters or ():
            self.reactor.loop.run_callback(self._wake, waiter)

    def _wake(self, waiter: Any) -> None:
        if self._waiters is not None and waiter in self._waiters:
            waiter.switch()

    def describe_tls(self) -> dict[str, Any]:
        """Return what is known of the encryption; nothing without."""
        return {}

    # The end.

    def fail(self, error: Exception | None) -> None:
        """Mark as failed; a hub callback closes the socket. Never blocks."""
        if self._failure is None and not self.closed:
            self._failure = error or ConnectionResetError()
            self.ended = True
            self.reactor.loop.run_callback(self._tear_down, self._failure)

    def close(self, *, linger: bool = False) -> None:
        """
        Close once the kernel has taken everything that is queued.

        Args:
            linger: Then half-close, and discard what the peer still sends for
                up to ``LINGER`` seconds: closing with unread bytes would reset
                the connection and could destroy what was written last.

        """
        if self.closing or self.closed:
            return
        if linger:
            self.protocol = Lingering(self, self.protocol)
            self.resume_reading()
        self.closing = True
        if self.queue:
            self.write_now()
        else:
            self.written()

    def abort(self, error: Exception | None = None) -> None:
        """Close now; the peer gets a reset and what is queued is lost."""
        if not self.closed:
            linger = struct.pack("ii", 1, 0)
            try:
                self._borrowed().setsockopt(
                    stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, linger
                )
            except OSError:
                logger.debug("no linger on this socket", exc_info=True)
            self.fail(error)

    def cut(self, error: Exception) -> None:
        """Abort, and let go of all that waits before this returns. Hub only."""
        self.abort(error)
        self._tear_down(error)

    def abandon(self) -> None:
        """This is a forked child: let go of what is its parent's, and end nothing."""
        if not self.closed:
            self._watcher.stop()
            self._watcher.close()
            if self._write_watcher is not None:
                self._write_watcher.stop()
                self._write_watcher.close()
            self.forsake()

    def forsake(self) -> None:
        """
        Close the descriptor, unless that has begun; do nothing to the loop.

        For forked children, when the hub was another thread's.
        """
        if self.closed:
            return
        fd, self.fd, self.closed, self.ended = self.fd, -1, True, True
        self._reading = False
        self.queue.clear()
        if self._sock is not None:
            self._sock.close()
        else:
            close_descriptor(fd)

    def shutdown(self) -> None:
        """Tell the peer that nothing more comes (half close)."""
        if self.closed:
            return
        try:
            self._borrowed().shutdown(stdlib_socket.SHUT_WR)
        except OSError as error:
            self.fail(error)

    def written(self) -> None:
        """Everything has been written: close, or half-close and linger."""
        if isinstance(self.protocol, Lingering):
            self.protocol.start()
        elif self._receiving:
            self._done = True  # _on_readable closes it
        else:
            self.reactor.loop.run_callback(self._tear_down, None)

    def _tear_down(self, error: Exception | None) -> None:
        """Close the socket and tell the protocol. Hub callbacks only."""
        if self.closed:
            return
        self.closed = self.ended = True
        self._reading = False
        self._watcher.stop()
        self._watcher.close()
        self.closing = False
        if self.blocked:
            self._unblock()
        self.queue.clear()
        self.own = self.shared = 0
        if self._waiters is not None:
            self.wake_waiters()
        try:
            if self._sock is None:
                close_descriptor(self.fd)
            else:
                self._sock.close()
        except OSError:
            logger.debug("closing a socket failed", exc_info=True)
        self.fd = -1
        try:
            self.protocol.connection_lost(error)
        except Exception:
            logger.exception("%r failed at its end", self.protocol)
        self.protocol = GONE
