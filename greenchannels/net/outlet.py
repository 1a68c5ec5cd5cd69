"""
The frames that wait to be written to one socket.

``Outlet``, ``Tally`` and ``write_each`` exist twice: in Python here, and in C in
``_speedups.c``, which takes their names when it has been built. ``Outlet`` is the
base of ``Transport``, which does what is rarer: waiting, failing, closing; ``Tally``
is the base of ``Backlog``.
"""

from __future__ import annotations

import socket as stdlib_socket
from typing import TYPE_CHECKING, Any

#: Frames given to one ``sendmsg``.
MAX_VECTORS = 128

#: The bytes travel in one segment with what follows at once: a file, or the FIN.
MORE_FOLLOWS = getattr(stdlib_socket, "MSG_MORE", 0)


class PureTally:
    """
    How much waits in all outlets of a hub.

    Args:
        limit: Bytes that may wait.

    Attributes:
        own: Bytes that connections' own frames have.
        shared: Bytes that the frames of broadcasts have, each counted once.
        limit: Bytes above which ``overflow`` is called by who adds some.
        over: Whether it need not be called.

    """

    __slots__ = ("limit", "over", "own", "shared")

    def __init__(self, limit: int) -> None:
        self.own = self.shared = 0
        self.limit = limit
        self.over = False

    def overflow(self) -> None:
        """More than ``limit`` bytes wait."""
        raise NotImplementedError


class PureOutlet:
    """
    The write queue of a non-blocking socket.

    Args:
        fd: The socket's descriptor.
        dirty: Outlets to be written in this turn; shared by all of a hub.
        tally: Counts what waits in all of them.

    Attributes:
        queue: Whole frames, in order.
        own: Bytes in the queue that this connection's consumer sent; the tally
            follows.
        shared: Bytes in the queue that groups sent.
        scheduled: Whether somebody will call ``write_now`` in this turn.
        blocked: Whether the kernel's buffer is full.
        closing: Whether nothing more may be queued.
        ended: Whether nothing more may be written.
        more: Whether something that is not queued follows what is.
        layered: Whether a subclass has a ``write_now`` of its own.
        heard: Set by whoever sees bytes move.

    """

    __slots__ = (
        "_dirty",
        "_own",
        "_tally",
        "blocked",
        "closing",
        "ended",
        "fd",
        "heard",
        "layered",
        "more",
        "queue",
        "scheduled",
        "shared",
    )

    def __init__(self, fd: int, dirty: list[PureOutlet], tally: PureTally) -> None:
        self.fd = fd
        self.queue: list[bytes] = []
        self._own = self.shared = 0
        self._tally = tally
        self.scheduled = self.blocked = self.closing = self.ended = False
        self.heard = self.more = self.layered = False
        self._dirty = dirty

    @property
    def own(self) -> int:
        """Bytes in the queue that this connection's consumer sent."""
        return self._own

    @own.setter
    def own(self, size: int) -> None:
        self._tally.own += size - self._own
        self._own = size

    def push(self, frame: bytes, /) -> int:
        """Queue a frame of the connection's own; return how many bytes wait."""
        if self.closing or self.ended:
            return 0
        self.queue.append(frame)
        tally = self._tally
        self._own += len(frame)
        tally.own += len(frame)
        if tally.own + tally.shared > tally.limit and not tally.over:
            tally.overflow()
        if not self.scheduled:
            self._schedule()
        return self._own

    def push_shared(self, frame: bytes, limit: int, /) -> bool:
        """Queue a frame of a broadcast, unless more than ``limit`` bytes wait."""
        if self.closing or self.ended:
            return True
        if self._own + self.shared > limit:
            return False
        self.queue.append(frame)
        self.shared += len(frame)
        if not self.scheduled:
            self._schedule()
        return True

    def write_now(self) -> None:
        """Give the kernel what it takes of the queue; never blocks or raises."""
        queue = self.queue
        if self.blocked or self.ended or not queue:
            return
        try:
            sent = self._sendmsg(queue[:MAX_VECTORS])
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self.fail(error)
            return
        if sent < self._own + self.shared:
            self.wait_for_kernel(sent)
            return
        queue.clear()
        self.own = self.shared = 0
        if self.closing:
            self.written()

    def receive_into(self, buffer: bytearray, /) -> int:
        """Read what is there into ``buffer``; return its size, 0 at the end."""
        size: int = self._borrowed().recv_into(buffer)
        return size

    def send_bytes(self, data: bytes | memoryview, /) -> int:
        """Send what the kernel takes of ``data``, past the queue; return its size."""
        flags = MORE_FOLLOWS if self.closing or self.more else 0
        try:
            sent: int = self._borrowed().send(data, flags)
        except (BlockingIOError, InterruptedError):
            return 0
        return sent

    def _schedule(self) -> None:
        """Have ``write_now`` called at the end of the hub's turn."""
        if not self._dirty:
            self.wake_writer()
        self.scheduled = True
        self._dirty.append(self)

    def _sendmsg(self, frames: list[bytes]) -> int:
        sock = self._borrowed()
        flags = MORE_FOLLOWS if self.closing or self.more else 0
        sent: int
        if len(frames) == 1:
            sent = sock.send(frames[0], flags)
        else:
            sent = sock.sendmsg(frames, (), flags)
        return sent

    def _borrowed(self) -> Any:
        """Return a raw socket of ``fd``, which stays the outlet's."""
        raise NotImplementedError

    # What a transport does.

    def wake_writer(self) -> None:
        """The list of dirty outlets is empty and will not be: have it written."""
        raise NotImplementedError

    def wait_for_kernel(self, sent: int) -> None:
        """The kernel took only ``sent`` bytes of the queue."""
        raise NotImplementedError

    def written(self) -> None:
        """A closing outlet has written all."""
        raise NotImplementedError

    def fail(self, error: Exception | None) -> None:
        """The socket is broken."""
        raise NotImplementedError


def pure_write_each(outlets: list[PureOutlet], /) -> None:
    """Write each; those that fail say so themselves."""
    for outlet in outlets:
        outlet.scheduled = False
        outlet.write_now()


def pure_keep_frame_chunks(count: int, /) -> None:
    """
    Keep memory for the frames of up to ``count`` greenlets, for the next ones.

    For the whole process. Without the C accelerator there is no way to, and
    nothing happens.

    Args:
        count: From 0 to 256; 16 KiB each.

    """


if TYPE_CHECKING:
    Outlet = PureOutlet
    Tally = PureTally
    write_each = pure_write_each
    keep_frame_chunks = pure_keep_frame_chunks
else:
    try:
        from ._speedups import Outlet, Tally, keep_frame_chunks, write_each
    except ImportError:
        Outlet, Tally, write_each = PureOutlet, PureTally, pure_write_each
        keep_frame_chunks = pure_keep_frame_chunks
