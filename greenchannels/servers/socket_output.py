"""
A server's socket as frames leave through it.

The consumer's own frames may make it wait; what groups send never waits for
anybody: where it does not fit, the policy of the route decides. Both share the
queue of the transport.
"""

from __future__ import annotations

import logging

import gevent

from ..layers.codec import Broadcast, Kind, read_close
from ..net.backlog import SharedFrame
from ..net.reactor import ONE_TURN
from ..options import OWN_BUFFER
from ..types import Data
from ..wire.deflate_codec import Codec
from ..wire.frames import encode
from .socket_life import OPEN
from .socket_losses import SocketLosses

#: Full buffers that fast peers take at once, after which others get a turn.
UNWAITED_AT_A_TIME = 16

#: Kinds of broadcasts; looking a member up in its enum costs more than the test.
BINARY, EVENT = Kind.BINARY, Kind.EVENT

logger = logging.getLogger("greenchannels.socket")


def encode_shared(payload: Data) -> SharedFrame:
    """Return the frame of a broadcast, to stand in many queues."""
    return SharedFrame(encode(payload))


def _encode_compressed(broadcast: Broadcast, codec: Codec) -> SharedFrame:
    """Return the frame of a broadcast for members with the same parameters."""
    encode = codec.encode_shared
    frame: SharedFrame | None = broadcast.encodings.get(encode)
    if frame is None:
        frame = broadcast.keep(encode, SharedFrame(encode(broadcast.payload)))
    codec.forget()
    return frame


class SocketOutput(SocketLosses):
    """Queues what the consumer and groups send, each within its bounds."""

    __slots__ = ("_codec",)

    #: What compresses messages, if that was negotiated; set with the 101.
    _codec: Codec | None

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way in or out of this socket."""
        if self._inbox or self._transport.queue:
            return False
        return not self._held_back()

    # From the consumer. Any greenlet of it.

    def send(self, message: Data) -> None:
        """See ``WebSocket.send``."""
        if self._stage is not OPEN:
            self._check_can_send()
        frame = encode(message) if self._codec is None else self._encode(message)
        if self._transport.push(frame) > OWN_BUFFER:
            self._wait_for_room()

    def _encode(self, message: Data) -> bytes:
        """Return the frame of a message, compressed if it is worth that."""
        codec = self._codec
        if (
            codec is not None
            and isinstance(message, str | bytes | bytearray | memoryview)
            and len(message) >= codec.min_size
        ):
            return codec.encode(message)
        return encode(message)

    def _check_can_send(self) -> None:
        if self._error is not None:
            self._raise_error()
        if self._opening is not None:
            self.accept()

    def _wait_for_room(self) -> None:
        """Block until own output fits the buffer again, or the socket has ended."""
        transport, reactor = self._transport, self._server.reactor
        transport.write_now()
        if transport.own <= OWN_BUFFER:
            reactor.unwaited += 1
            if reactor.unwaited % UNWAITED_AT_A_TIME == 0:
                gevent.sleep(ONE_TURN)  # or who never stops would stop all others
        while transport.own > OWN_BUFFER and self._error is None:
            transport.wait_for_progress()
        self._check_alive()

    def flush(self) -> None:
        """See ``WebSocket.flush``."""
        if self._opening is not None:
            self.accept()
        self._transport.flush()
        if self._transport.closed:
            self._check_alive()

    # From groups and channels. Any greenlet.

    def deliver(self, broadcast: Broadcast) -> None:
        """Take a message from a group or a channel; never blocks."""
        if self._stage is not OPEN or broadcast.kind > BINARY:
            self._deliver_otherwise(broadcast)
            return
        codec = self._codec
        if codec is None or broadcast.size < codec.min_size:
            frame = broadcast.encodings.get(encode_shared)
            if frame is None:
                frame = broadcast.encoded(encode_shared)
        else:
            frame = _encode_compressed(broadcast, codec)
        if not self._transport.push_shared(frame, self._endpoint.max_write_buffer):
            self._deliver_to_slow(frame)

    def _deliver_to_slow(self, frame: SharedFrame) -> None:
        """Too much waits: is it the peer that is slow, or was it not written yet?"""
        self._transport.write_now()
        endpoint = self._endpoint
        if not self._transport.push_shared(frame, endpoint.max_write_buffer):
            endpoint.slow.take_frame(self, frame)

    def _deliver_otherwise(self, broadcast: Broadcast) -> None:
        """Take what is no data, or comes when no data may be sent."""
        if broadcast.kind is EVENT:
            if not self._take_event(broadcast):
                self._endpoint.slow.take_event(self, broadcast)
            elif self._losses is not None:
                self._consumer_receives(self._losses)
        elif self._stage is not OPEN:
            self._deliver_early(broadcast)
        else:
            self.close(*read_close(broadcast.payload))  # type: ignore[arg-type]

    def _deliver_early(self, broadcast: Broadcast) -> None:
        """Keep what comes before the 101; what comes after the end is dropped."""
        opening = self._opening
        if opening is None:
            return
        if not opening.keep_message(broadcast, self._endpoint.max_write_buffer):
            logger.warning("%r: too much group data before accept", self)
            self._server.layer.counters["refused for early group data"] += 1
            self.reject(503)
