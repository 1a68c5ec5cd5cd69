"""WebSocket frames, in C and in pure Python side by side, and what they mean."""

import sys
import zlib

from greenchannels.errors import LocalProtocolError
from greenchannels.options import Deflate
from greenchannels.wire.deflate import negotiate
from greenchannels.wire.extensions import Extension
from greenchannels.wire.frames import (
    CLOSE,
    PING,
    PONG,
    FrameDecoder,
    PureFrameDecoder,
    apply_mask,
    encode,
    encode_masked,
    pure_apply_mask,
    pure_encode,
)
from greenchannels.wire.websocket import NEXT_STATE, State, WebSocketProtocol
from tests.fuzz.source import Source, text_of

MAX = sys.maxsize

#: Limits of a message, and opcodes with bits, that lead somewhere.
LIMITS = [None, 0, 1, 5, 125, 126, 1000, 70_000]
STARTS = [0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x88, 0x89, 0x8A, 0xC1, 0xC2, 0x41]

CODES = {1002, 1007, 1009}

#: Compression with a small window, each message by itself.
OFFER = Extension("permessage-deflate", (("client_max_window_bits", None),))
INFLATE = negotiate([OFFER], Deflate(max_window_bits=10)).codec().inflate


def wire_of(source, masked):
    """Return frames: as they come, or put together of good parts."""
    if source.flag():
        return source.rest()
    parts = []
    while source.more:
        start = source.choice(STARTS) if source.byte() < 240 else source.byte()
        payload = source.some() * (source.byte() % 4 or 1)
        if start & 0x40 and source.flag():
            deflater = zlib.compressobj(9, zlib.DEFLATED, -10)
            payload = deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH)
            payload = payload[:-4]
        frame = encode_masked(
            start & 15, payload, b"\x11\x22\x83\x44" if masked else bytes(4)
        )
        if not masked:
            at = len(frame) - len(payload) - 4
            head = frame[:1] + bytes((frame[1] & 127,)) + frame[2:at]
            frame = head + payload
        parts.append(bytes((start,)) + frame[1:])
    return b"".join(parts)


def feed(decoder, parts, max_messages=MAX, max_bytes=MAX):
    """Return all that comes out: messages, control frames, the error, sizes."""
    messages, sizes = [], 0
    for part in parts:
        messages += decoder.decode(part, len(part), max_messages, max_bytes)
        sizes += decoder.decoded_bytes
        while decoder.pending:
            found = decoder.decode(b"", 0, max_messages, max_bytes)
            assert len(found) <= max_messages
            messages += found
            sizes += decoder.decoded_bytes
    error = decoder.error and (str(decoder.error), decoder.error.hint)
    return messages, decoder.controls or [], error, sizes


def size_of(message):
    """Return the bytes of a message."""
    return len(message.encode() if isinstance(message, str) else message)


def frames(data):
    """Both decoders give the same for any bytes, however they are cut."""
    source = Source(data)
    masked, limit = source.byte() % 8 > 0, source.choice(LIMITS)
    inflater = source.choice([None, INFLATE])
    most, most_bytes = source.choice([1, 2, 5, MAX]), source.choice([1, 10, 100, MAX])
    cutter = Source(source.bytes(3))
    wire = wire_of(source, masked)
    whole = feed(FrameDecoder(limit, masked, inflater), [wire])
    messages, controls, error, sizes = whole
    for decoder in FrameDecoder, PureFrameDecoder:
        pieces = cutter.pieces(wire)
        for parts in [wire], pieces, [wire[i : i + 1] for i in range(len(wire))]:
            assert feed(decoder(limit, masked, inflater), parts) == whole
        limited = feed(decoder(limit, masked, inflater), [wire], most, most_bytes)
        assert limited == whole
    assert limit is None or all(size_of(m) <= limit for m in messages)
    assert sizes == sum(map(size_of, messages))
    assert all(len(p) <= 125 and op in (CLOSE, PING, PONG) for op, p in controls)
    assert CLOSE not in [opcode for opcode, _ in controls[:-1]]
    assert error is None or error[1] in CODES


def encoders(data):
    """What is sent is what the other end decodes, in C and in pure Python."""
    source = Source(data)
    key, fill = source.bytes(4).ljust(4, b"\0"), source.number(70_000)
    payload = source.rest()
    payload += bytes(fill) if fill % 3 == 0 else b""
    assert apply_mask(payload, key) == pure_apply_mask(payload, key)
    assert apply_mask(apply_mask(payload, key), key) == payload
    for message in payload, text_of(payload):
        frame = encode(message)
        assert frame == pure_encode(message)
        found = feed(FrameDecoder(None, False), [frame])
        assert found[:3] == ([message], [], None)


class Peer:
    """What the other end makes of what a session sends."""

    def __init__(self):
        self._decoder = PureFrameDecoder(None, False)
        self.closes = 0

    def take(self, output):
        """Take frames; return the payloads of pongs."""
        assert not (output and self.closes), "something is sent behind the close frame"
        messages = self._decoder.decode(output, len(output), MAX, MAX)
        assert messages == [] and self._decoder.error is None
        controls, self._decoder.controls = self._decoder.controls or [], None
        for opcode, payload in controls:
            if opcode == CLOSE:
                self.closes += 1
                assert len(payload) != 1
        return [payload for opcode, payload in controls if opcode == PONG]


def session(data):
    """Pings are answered, close frames exchanged once, states follow the table."""
    source = Source(data)
    parameters = None
    if source.flag():
        settings = Deflate(context_takeover=source.flag(), max_window_bits=10)
        parameters = negotiate([OFFER], settings)
    protocol = WebSocketProtocol(source.choice(LIMITS), parameters)
    peer, asked, answered = Peer(), [], []
    own = source.byte()
    wire = wire_of(source, True)
    for n, part in enumerate(Source(data).pieces(wire)):
        before = protocol.state
        if n == own:
            answered += peer.take(close(protocol, data))
        was_open = protocol.state is State.OPEN
        protocol.decode(part, len(part), MAX, MAX)
        controls = protocol.controls or []
        if was_open:
            asked += [payload for opcode, payload in controls if opcode == PING]
        protocol.control_events()
        assert protocol.controls is None
        answered += peer.take(protocol.data_to_send())
        reached = {before}
        for _ in range(3):
            reached |= {to for each in reached for to in NEXT_STATE[each].values()}
        assert protocol.state in reached
    assert answered == asked[: len(answered)]
    assert peer.closes == (protocol.state is not State.OPEN)
    assert (protocol.close_sent is not None) == (protocol.state is not State.OPEN)
    assert protocol.data_to_send() == b""
    if protocol.state is not State.OPEN:
        assert protocol.close() == b"" and protocol.ping() == b""


def close(protocol, data):
    """Close with any code and reason; only those that may be sent are."""
    code, reason = int.from_bytes(data[:2], "big"), text_of(data[2:150])
    try:
        return protocol.close(code, reason)
    except LocalProtocolError:
        is_for_endpoints = code == 1000 or 3000 <= code <= 4999
        assert len(reason.encode()) > 123 or not is_for_endpoints
        return protocol.close()
