"""
TLS inside a transport: watchers and descriptors stay as they are.

Ciphertext is received into the reactor's buffer, decrypted through a memory
BIO back into the same buffer, and the protocol is told once. Frames wait in the
queue in plain, so that what is counted, dropped and refused means the same as
without TLS; they are encrypted in batches when the kernel can take them, and a
batch stays at the head of the queue until all of its ciphertext has been taken.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import ssl
from typing import TYPE_CHECKING, Any, ClassVar

import gevent

from .outlet import Outlet
from .tls_details import describe
from .transport import Transport

if TYPE_CHECKING:
    from .handshakes import Handshakes

#: Bytes given to OpenSSL at a time. Its buffers keep the size they have once had,
#: so this is what a connection costs that has ever moved much.
BATCH = 16 * 1024

#: Longest piece of plaintext in a record, and more.
MAX_RECORD = 32 * 1024

#: Bytes that are not the protocol's (alerts, key updates) that may wait.
MAX_CONTROL = 64 * 1024

#: Bytes of a file that are read at a time.
FILE_AT_A_TIME = 256 * 1024

#: What is counted.
DONE, FAILED_ONES = "TLS handshakes", "TLS handshakes that failed"
CUT = "TLS connections cut without close_notify"

#: What OpenSSL calls a request for HTTP without TLS.
PLAIN_HTTP = ("HTTP_REQUEST", "HTTPS_PROXY_REQUEST")

logger = logging.getLogger("greenchannels.net")

_receive = Outlet.receive_into


class Stage(enum.StrEnum):
    """Where a TLS connection is in its life."""

    HANDSHAKE = "handshake"
    OPEN = "open"
    #: Our close_notify is on its way; what still comes is discarded.
    GOODBYE = "said goodbye"
    #: The handshake failed; what still comes is discarded.
    FAILED = "failed"


HANDSHAKE, OPEN, GOODBYE, FAILED = Stage

NEXT_STAGE = {
    HANDSHAKE: {OPEN, FAILED},
    OPEN: {GOODBYE},
    GOODBYE: set[Stage](),
    FAILED: set[Stage](),
}


class TLSTransport(Transport):
    """
    A transport whose bytes are encrypted.

    Args:
        handshakes: What the connections of this listener share.
        fd: As for ``Transport``.
        address: The peer's, for the log.
        write_timeout: As for ``Transport``.

    """

    __slots__ = (
        "_again",
        "_cipher",
        "_error",
        "_half_closing",
        "_handshakes",
        "_incoming",
        "_outgoing",
        "_peer_ended",
        "_sealed",
        "_stage",
        "_tls",
        "address",
    )

    secure: ClassVar[bool] = True

    def __init__(
        self,
        handshakes: Handshakes,
        fd: int,
        address: Any,
        *,
        write_timeout: float | None = None,
    ) -> None:
        super().__init__(handshakes.reactor, fd, write_timeout=write_timeout)
        self.layered = True
        self.address = address
        self._handshakes = handshakes
        self._stage = HANDSHAKE
        #: Made when the first bytes come: who sends none costs nothing.
        self._tls: ssl.SSLObject | None = None
        self._incoming: ssl.MemoryBIO
        self._outgoing: ssl.MemoryBIO
        #: Ciphertext that the kernel has not taken.
        self._cipher: bytes | memoryview = b""
        #: Bytes at the head of the queue that it is made of.
        self._sealed = 0
        #: Whether there is something to tell without the socket being readable.
        self._again = False
        #: What makes the connection useless, after what came before.
        self._error: OSError | None = None
        self._peer_ended = False
        self._half_closing = False

    def _advance(self, stage: Stage) -> None:
        """Move to ``stage``. The only writer of ``_stage``."""
        if stage not in NEXT_STAGE[self._stage]:
            raise AssertionError(f"{self._stage} cannot become {stage}")
        self._stage = stage

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The encryption, once the handshake is complete and until the end."""
        return None if self._stage is HANDSHAKE else self._tls

    def describe_tls(self) -> dict[str, Any]:
        """See ``describe``."""
        return describe(self._tls, self._handshakes.certificates.suites)

    # Reading.

    def resume_reading(self) -> None:
        """Read again; what has been decrypted already comes first."""
        if self._again and not self._reading and not self.closed:
            self.reactor.loop.run_callback(self._go_on)
        super().resume_reading()

    def _go_on(self) -> None:
        """Tell what needs no readable socket. Hub only."""
        if self._again and self._reading and not self.closed:
            self._on_readable()

    def receive_into(self, buffer: bytearray, /) -> int:
        """
        Read and decrypt what is there into ``buffer``, the reactor's.

        Returns:
            Bytes of plaintext; 0 at the end.

        Raises:
            BlockingIOError: If there is nothing for the protocol yet.
            OSError: If the connection is broken.

        """
        if self._again:
            return self._tell_again(buffer)
        if self._stage is not OPEN:
            return self._receive_otherwise()
        inlet = self._handshakes.inlet
        size = _receive(self, inlet)  # type: ignore[arg-type]
        if not size:
            self._handshakes.count(CUT)
            logger.debug("%s: closed without close_notify", self._who())
            return self._end_of_stream()
        if size <= BATCH:
            self._incoming.write(inlet[:size])
            return self._received(self._decrypt(buffer, 0))
        end = 0
        for start in range(0, size, BATCH):
            self._incoming.write(inlet[start : min(start + BATCH, size)])
            end = self._decrypt(buffer, end)
        return self._received(end)

    def _decrypt(self, buffer: bytearray, end: int) -> int:
        """Decrypt all there is to ``buffer[end:]``; return where it ends."""
        tls, incoming = self._tls, self._incoming
        assert tls is not None
        view: bytearray | memoryview = buffer
        try:
            while incoming.pending and self._error is None and not self._peer_ended:
                if end:
                    view = self._handshakes.view[end:]
                # One record a call, and there is always room for a whole one.
                size = tls.read(MAX_RECORD, view)
                if not size:
                    self._peer_ended = True
                end += size  # type: ignore[operator]
        except ssl.SSLWantReadError:
            pass
        except OSError as error:
            self._error = error
        return end

    def _received(self, end: int) -> int:
        """Return ``end``; see that what came besides the data is not forgotten."""
        if self._outgoing.pending:
            self._write_control()
        if self._peer_ended or self._error is not None:
            self._again = True
            if not end:
                return self._tell_end()
            self.reactor.loop.run_callback(self._go_on)
        elif not end:
            raise BlockingIOError
        return end

    def _tell_again(self, buffer: bytearray) -> int:
        """Return what is there without reading from the socket."""
        if self._peer_ended or self._error is not None:
            return self._tell_end()
        self._again = False
        return self._received(self._decrypt(buffer, 0))

    def _tell_end(self) -> int:
        if self._error is not None:
            raise self._error
        return 0

    def _end_of_stream(self) -> int:
        """The peer has ended its stream, with or without close_notify before."""
        self._peer_ended = self._again = True
        return 0

    def _receive_otherwise(self) -> int:
        """Take bytes of a handshake; discard what comes after the end."""
        data = self._handshakes.inlet[:BATCH]
        size = _receive(self, data)  # type: ignore[arg-type]
        if not size:
            return self._end_of_stream()
        if self._stage is HANDSHAKE:
            if self._tls is None:
                self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                context = self._handshakes.certificates.context
                self._tls = context.wrap_bio(
                    self._incoming, self._outgoing, server_side=True
                )
            self._incoming.write(data[:size])
            self._watcher.stop()
            self._handshakes.add(self)
        raise BlockingIOError

    # The handshake.

    def shake_hands(self) -> None:
        """Take a step, with what the peer has sent. Hub only; never raises."""
        if self.ended or self._stage is not HANDSHAKE:
            return
        if self._reading:
            self._watcher.start(self._on_readable)
        assert self._tls is not None
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._write_control()
            return
        except OSError as error:
            self._refuse(error)
            return
        self._advance(OPEN)
        self._handshakes.count(DONE)
        self._write_control()
        if self._incoming.pending:
            self._again = True
            self._go_on()

    def _refuse(self, error: OSError) -> None:
        """The handshake failed: say why, and close."""
        self._note_failure(error)
        self._advance(FAILED)
        if getattr(error, "reason", None) in PLAIN_HTTP:
            self._cipher = self._handshakes.plain_answer()
        else:
            self._cipher = self._outgoing.read()
        self.close(linger=True)

    def _who(self) -> str:
        """Return the peer's address for the log."""
        if isinstance(self.address, tuple):
            return ":".join(map(str, self.address[:2])) or "unknown"
        return "unix"

    def _note_failure(self, error: Exception | None) -> None:
        self._handshakes.count(FAILED_ONES)
        reason = getattr(error, "reason", None)
        who = self._who()
        if reason in PLAIN_HTTP:
            logger.info("%s: a request without TLS to a port with TLS", who)
        elif isinstance(error, ssl.SSLError):
            detail = getattr(error, "verify_message", None)
            text = detail or (reason or str(error)).lower().replace("_", " ")
            logger.info("%s: the TLS handshake failed: %s", who, text)
        else:
            cause = error or "the connection was closed"
            logger.debug("%s: no TLS handshake: %s", who, cause)

    # Writing.

    def write_now(self) -> None:
        """Encrypt what is queued as far as the kernel takes it; never blocks."""
        if self.blocked or self.ended or not self.queue or self._stage is not OPEN:
            return
        self._write_control()
        if self.closing and not self.queue:
            self.written()

    def _write_control(self) -> None:
        """Write ciphertext, also when nothing is queued; never blocks or raises."""
        if self.ended:
            return
        if self.blocked:
            if self._outgoing.pending > MAX_CONTROL:
                self.fail(ConnectionError("the peer asks and does not read"))
            return
        try:
            self._write_more()
        except OSError as error:
            self.fail(error)
            return
        if self._cipher and not self.blocked:
            self._block()

    def _write_more(self) -> int:
        """Encrypt and offer to the kernel; return the bytes that it took."""
        total = 0
        while self._cipher or self._fill():
            cipher = self._cipher
            sent = self.send_bytes(cipher)
            total += sent
            if sent < len(cipher):
                self._cipher = memoryview(cipher)[sent:]
                break
            self._cipher = b""
            if self._sealed:
                self._take_sealed()
        return total

    def _fill(self) -> bool:
        """Make ciphertext of what waits; return whether there is any."""
        if self.queue and self._stage is OPEN:
            self._seal()
        if self._tls is not None:
            self._cipher = self._outgoing.read()
        return bool(self._cipher)

    def _seal(self) -> None:
        """Encrypt a batch of the queue; it stays there until it is taken."""
        assert self._tls is not None
        data = self._batch()
        self._sealed = self._tls.write(data)
        waiting = self.own + self.shared - self._offset
        if self.closing and self._sealed == waiting:
            self._say_goodbye()  # in the same segment

    def _batch(self) -> bytes | memoryview:
        """Return the next bytes of the queue, at most ``BATCH``."""
        queue, offset = self.queue, self._offset
        data = queue[0]
        if len(queue) > 1 and len(data) - offset < BATCH:
            size, count = -offset, 0
            for frame in queue:
                size += len(frame)
                count += 1
                if size >= BATCH:
                    break
            data = b"".join(queue[:count])
        if offset or len(data) > BATCH:
            return memoryview(data)[offset : offset + BATCH]
        return data

    def _take_sealed(self) -> None:
        """The kernel has all of a batch: take it from the queue."""
        sealed, self._sealed = self._sealed, 0
        if sealed == self.own + self.shared - self._offset:
            self.queue.clear()
            self.own = self.shared = self._offset = 0
            self._drained += sealed
        else:
            self._take_sent(sealed)

    def _begun(self) -> int:
        """Return how many frames are partly encrypted, or with the kernel."""
        size = self._offset + self._sealed
        count = 0
        for frame in self.queue:
            if size <= 0:
                break
            size -= len(frame)
            count += 1
        return count

    def _unblock(self) -> None:
        if self._cipher and not self.closed:
            return  # what is encrypted has to go
        super()._unblock()
        if self._half_closing and not self.closed:
            self._half_closing = False
            self.shutdown()

    def send_file(self, head: bytes, fd: int, offset: int, count: int) -> int:
        """See ``Transport.send_file``; the bytes come through this process."""
        if head:
            self.push(head)
        sent = 0
        while sent < count:
            try:
                data = os.pread(fd, min(count - sent, FILE_AT_A_TIME), offset + sent)
            except OSError as error:
                self.fail(error)
                break
            if not data:
                break
            self.push(data)
            self.flush()
            if self.ended:
                break
            sent += len(data)
            if sent < count:
                gevent.sleep(0)  # others want to send, too
        self.flush()
        return sent

    # The end.

    def close(self, *, linger: bool = False) -> None:
        """Close once all is written, and close_notify after it."""
        if self._stage is HANDSHAKE:
            self.drop_unsent()  # it cannot be encrypted
        super().close(linger=linger)

    def written(self) -> None:
        """Everything has been encrypted and written: say goodbye, then close."""
        self._say_goodbye()
        self._write_control()
        if not self.blocked and not self.ended:
            super().written()

    def shutdown(self) -> None:
        """Tell the peer, after what waits, that no more comes; then half-close."""
        if self.closed:
            return
        if not self.blocked:
            self._say_goodbye()
            self._write_control()
        if self.blocked:
            self._half_closing = True
        else:
            super().shutdown()

    def _say_goodbye(self) -> None:
        """Put close_notify behind what has been encrypted (RFC 8446, section 6.1)."""
        if self._stage is OPEN:
            self._advance(GOODBYE)
            assert self._tls is not None
            with contextlib.suppress(OSError):  # it asks for the peer's, too
                self._tls.unwrap()

    def _tear_down(self, error: Exception | None) -> None:
        if self.closed:
            return
        if self._stage is HANDSHAKE:
            self._note_failure(error)
            self._handshakes.forget(self)
        elif self._error is not None and not self.blocked:
            with contextlib.suppress(OSError):  # the alert, if there is room for it
                self.send_bytes(self._outgoing.read())
        super()._tear_down(error)
        self._cipher, self._sealed, self._error = b"", 0, None
        if self._tls is not None:
            self._tls = None
            del self._incoming, self._outgoing
