"""Compressed messages in frames, in C and in pure Python: RFC 7692, section 6."""

import gc
import random
import struct
import sys
import tracemalloc
import weakref
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenchannels.options import Deflate
from greenchannels.wire.deflate import negotiate
from greenchannels.wire.extensions import Extension
from greenchannels.wire.frames import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    PureFrameDecoder,
    encode_masked,
    pure_apply_mask,
)
from greenchannels.wire.websocket import Failed, State, WebSocketProtocol

try:
    from greenchannels.wire import _speedups
except ImportError:
    _speedups = None

needs_c = pytest.mark.skipif(
    _speedups is None, reason="greenchannels.wire._speedups has not been built"
)

KEY = b"\x11\x22\x83\x44"
MAX = sys.maxsize
RSV1 = 4
IMPLEMENTATIONS = ["pure", pytest.param("c", marks=needs_c)]
PARAMETERS = negotiate([Extension("permessage-deflate")], Deflate())
inflate = PARAMETERS.codec().inflate


@pytest.fixture(params=IMPLEMENTATIONS)
def decoder_class(request):
    """The class of the decoder: the pure one, then that in C."""
    return PureFrameDecoder if request.param == "pure" else _speedups.FrameDecoder


def deflated(data):
    """Return the payload of a message; a str is UTF-8."""
    data = data.encode() if isinstance(data, str) else data
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


def frame(opcode, payload=b"", *, fin=True, rsv=0):
    """Return a masked frame; a str is UTF-8."""
    payload = payload.encode() if isinstance(payload, str) else payload
    return encode_masked(opcode, payload, KEY, fin=fin, rsv=rsv)


def small(opcode, data):
    """Return a compressed message in one frame."""
    return frame(opcode, deflated(data), rsv=RSV1)


def fragments(opcode, payload, *cuts, between=b""):
    """Return a compressed message in several frames, with others between them."""
    places = [0, *cuts, len(payload)]
    parts = [payload[a:b] for a, b in zip(places, places[1:], strict=False)]
    return between.join(
        frame(
            CONT if i else opcode,
            part,
            fin=i == len(parts) - 1,
            rsv=0 if i else RSV1,
        )
        for i, part in enumerate(parts)
    )


def pieces(wire, size):
    return [wire[i : i + size] for i in range(0, len(wire), size)]


def feed(decoder, parts, max_messages=MAX, max_bytes=MAX):
    """Feed the parts; return all that came out."""
    messages = []
    for part in parts:
        messages += decoder.decode(part, len(part), max_messages, max_bytes)
        while decoder.pending:
            messages += decoder.decode(b"", 0, max_messages, max_bytes)
    return messages, decoder.controls or [], describe(decoder.error)


def describe(error):
    return error and (type(error).__name__, error.reason, error.hint)


def failed(reason, hint=1002):
    return ("RemoteProtocolError", reason, hint)


RESERVED = failed("reserved bits are set")
MALFORMED = failed("compressed data is malformed", 1007)
BAD_TEXT = failed("text is not valid UTF-8", 1007)
TOO_BIG = failed("message is too big", 1009)

HELLO = deflated("hello")
LONG = "hé€😀" * 5000

#: Name: wire, messages, control frames, error. Messages may have 70,000 bytes.
CASES = {
    "text": (small(TEXT, "hello"), ["hello"], [], None),
    "binary": (small(BINARY, b"\x00\xff" * 9), [b"\x00\xff" * 9], [], None),
    "text beyond ASCII": (small(TEXT, LONG), [LONG], [], None),
    "empty text": (small(TEXT, ""), [""], [], None),
    "empty binary": (small(BINARY, b""), [b""], [], None),
    "no payload": (frame(BINARY, rsv=RSV1), [b""], [], None),
    "the greatest message": (small(BINARY, bytes(70000)), [bytes(70000)], [], None),
    "plain and compressed": (
        frame(TEXT, "a") + small(TEXT, "b") + frame(BINARY, b"c") + small(BINARY, b"d"),
        ["a", "b", b"c", b"d"],
        [],
        None,
    ),
    "fragments": (fragments(TEXT, HELLO, 1, 2, 5), ["hello"], [], None),
    "binary fragments": (fragments(BINARY, HELLO, 3), [b"hello"], [], None),
    "empty fragments": (fragments(TEXT, HELLO, 0, 0, 3, 3), ["hello"], [], None),
    "fragments of nothing": (fragments(BINARY, b"", 0, 0), [b""], [], None),
    "plain after compressed fragments": (
        fragments(TEXT, HELLO, 1) + frame(TEXT, "é", fin=False) + frame(CONT, "x"),
        ["hello", "éx"],
        [],
        None,
    ),
    "compressed after plain fragments": (
        frame(TEXT, "é", fin=False) + frame(CONT, "x") + small(TEXT, "b"),
        ["éx", "b"],
        [],
        None,
    ),
    "control frames between fragments": (
        fragments(TEXT, HELLO, 2, 4, between=frame(PING, b"p")),
        ["hello"],
        [(PING, b"p")] * 2,
        None,
    ),
    "close between fragments": (
        fragments(TEXT, HELLO, 2, between=frame(CLOSE)),
        [],
        [(CLOSE, b"")],
        None,
    ),
    "two blocks": (
        frame(TEXT, bytes.fromhex("f248050000 00ffffcac9c90700"), rsv=RSV1),
        ["Hello"],
        [],
        None,
    ),
    "a final block": (
        frame(TEXT, bytes.fromhex("f348cdc9c9070000"), rsv=RSV1),
        ["Hello"],
        [],
        None,
    ),
    "RSV1 of a continuation": (
        frame(TEXT, HELLO[:2], fin=False, rsv=RSV1) + frame(CONT, HELLO[2:], rsv=RSV1),
        [],
        [],
        RESERVED,
    ),
    "RSV1 of a plain message's continuation": (
        frame(TEXT, b"a", fin=False) + frame(CONT, b"b", rsv=RSV1),
        [],
        [],
        RESERVED,
    ),
    "malformed": (frame(TEXT, b"\xff", rsv=RSV1), [], [], MALFORMED),
    "malformed in fragments": (fragments(TEXT, b"\xff\xff", 1), [], [], MALFORMED),
    "cut": (frame(BINARY, HELLO[:-1], rsv=RSV1), [], [], MALFORMED),
    "garbage behind its end": (frame(TEXT, HELLO + b"x", rsv=RSV1), [], [], MALFORMED),
    "not UTF-8": (small(TEXT, b"ab\xff"), [], [], BAD_TEXT),
    "cut UTF-8": (small(TEXT, "é€".encode()[:-1]), [], [], BAD_TEXT),
    "a surrogate": (small(TEXT, b"\xed\xa0\x80"), [], [], BAD_TEXT),
    "not UTF-8, in fragments": (
        fragments(TEXT, deflated(b"\xff"), 1),
        [],
        [],
        BAD_TEXT,
    ),
    "not UTF-8, but binary": (small(BINARY, b"ab\xff"), [b"ab\xff"], [], None),
    "wrong UTF-8 on the wire": (fragments(TEXT, HELLO, 3), ["hello"], [], None),
    "too big": (small(BINARY, bytes(70001)), [], [], TOO_BIG),
    "too big in fragments": (
        fragments(BINARY, deflated(bytes(70001)), 3),
        [],
        [],
        TOO_BIG,
    ),
    "a bomb": (small(BINARY, bytes(5_000_000)), [], [], TOO_BIG),
    "messages before a broken one": (
        small(TEXT, "a")
        + frame(PING)
        + frame(TEXT, b"\xff", rsv=RSV1)
        + small(TEXT, "b"),
        ["a"],
        [(PING, b"")],
        MALFORMED,
    ),
}
for number in (1, 2, 3, 5, 6, 7):
    CASES[f"reserved bits {number}"] = (
        frame(TEXT, HELLO, rsv=number),
        [],
        [],
        RESERVED,
    )
for number in (CLOSE, PING, PONG, 3, 11):
    CASES[f"RSV1 of opcode {number}"] = (frame(number, rsv=RSV1), [], [], RESERVED)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 4096, 1 << 20])
@pytest.mark.parametrize("case", CASES)
def test_compressed_frames_become_messages_however_they_are_cut(
    decoder_class, case, size
):
    """The table of cases, in pieces of several sizes."""
    wire, *expected = CASES[case]
    decoder = decoder_class(70000, True, inflate)
    assert list(feed(decoder, pieces(wire, size))) == expected


@pytest.mark.parametrize("case", CASES)
def test_a_limit_of_one_message_changes_nothing_but_the_calls(decoder_class, case):
    """The same messages come one a call."""
    wire, *expected = CASES[case]
    decoder = decoder_class(70000, inflate=inflate)
    assert list(feed(decoder, [wire], 1, 1)) == expected


@pytest.mark.parametrize("number", range(1, 8))
def test_without_the_extension_all_reserved_bits_are_refused(decoder_class, number):
    """As section 5.2 of RFC 6455 demands."""
    for arguments in ((), (True, None)):
        decoder = decoder_class(None, *arguments)
        assert feed(decoder, [frame(TEXT, HELLO, rsv=number)])[2] == RESERVED


def test_clients_get_compressed_messages_too(decoder_class):
    """The client's role."""
    decoder = decoder_class(1000, False, inflate)
    masked = small(TEXT, "é")
    whole = bytes((masked[0], masked[1] & 0x7F)) + pure_apply_mask(masked[6:], KEY)
    assert feed(decoder, [whole]) == (["é"], [], None)


def test_limits_count_inflated_bytes(decoder_class):
    """What one call returns is bounded, however small it is on the wire."""
    decoder = decoder_class(None, True, inflate)
    wire = small(BINARY, bytes(1000)) * 5 + frame(BINARY, bytes(300)) + small(TEXT, "é")
    sizes = []
    while True:
        messages = decoder.decode(wire, len(wire), MAX, 1500)
        if not messages:
            break
        assert decoder.decoded_bytes == sum(
            len(each.encode() if isinstance(each, str) else each) for each in messages
        )
        sizes.append((len(messages), decoder.decoded_bytes))
        wire = b""
    assert sizes == [(2, 2000), (2, 2000), (3, 1302)]
    assert not decoder.pending


@pytest.mark.parametrize("cuts", [(), (70,)])
def test_a_thousand_bombs_in_one_segment_come_one_by_one(decoder_class, cuts):
    """Each within its own limit; all together they would be 1 GiB."""
    limit = 1 << 20
    payload = deflated(bytes(limit))
    wire = fragments(BINARY, payload, *cuts) * 1000
    decoder = decoder_class(limit, True, inflate)
    tracemalloc.start()
    try:
        count = len(decoder.decode(wire, len(wire), 100, limit))
        for _ in range(20):
            count += len(decoder.decode(b"", 0, 100, limit))
        assert tracemalloc.get_traced_memory()[1] < 10 * limit
    finally:
        tracemalloc.stop()
    assert count == 21


@pytest.mark.parametrize("limit", [0, 7, 100_000])
@pytest.mark.parametrize("kind", ["one frame", "fragments"])
def test_what_does_not_compress_may_be_longer_on_the_wire(decoder_class, limit, kind):
    """Clients that compress everything can still send the greatest message."""
    data = random.Random(1).randbytes(limit)
    payload = deflated(data)
    assert len(payload) > limit
    wire = fragments(BINARY, payload, *([] if kind == "one frame" else [limit // 2]))
    assert feed(decoder_class(limit, True, inflate), [wire]) == ([data], [], None)


@pytest.mark.parametrize("first", [0, 50])
def test_the_wire_has_a_limit_too(decoder_class, first):
    """An eighth more and 64 bytes; refused at the length that is beyond."""
    limit, most = 1000, 1000 + 125 + 64
    start = frame(BINARY, bytes(first), fin=False, rsv=RSV1) if first else b""
    opcode = 0x80 if first else 0xC2
    for size, expected in ((most, None), (most + 1, TOO_BIG)):
        decoder = decoder_class(limit, True, inflate)
        wire = start + bytes((opcode, 0xFE)) + struct.pack("!H", size - first)
        assert feed(decoder, [wire])[2] == expected
    plain = decoder_class(limit, True, inflate)
    assert feed(plain, [b"\x82\xfe" + struct.pack("!H", limit + 1)])[2] == TOO_BIG


def test_no_limit_means_none(decoder_class):
    """``None`` allows what any length can say."""
    decoder = decoder_class(None, True, inflate)
    assert feed(decoder, [b"\xc2\xff\x7f" + b"\xff" * 7 + bytes(4)])[2] is None
    data = bytes(3_000_000)
    assert feed(decoder_class(None, True, inflate), [small(BINARY, data)])[0] == [data]


def test_the_function_is_given_payload_and_limit(decoder_class):
    """And what it returns is the message."""
    calls = []

    def note(payload, limit):
        calls.append((payload, limit))
        return b"x" * len(calls)

    decoder = decoder_class(300, True, note)
    assert decoder.inflate is note
    wire = frame(TEXT, b"ab", rsv=RSV1) + fragments(BINARY, b"cdef", 1, 2)
    assert feed(decoder, [wire]) == (["x", b"xx"], [], None)
    assert calls == [(b"ab", 300), (b"cdef", 300)]
    decoder.inflate = inflate
    assert feed(decoder, [small(TEXT, "a")]) == (["a"], [], None)


@pytest.mark.parametrize("cuts", [(), (2,)])
def test_other_errors_of_the_function_are_raised(decoder_class, cuts):
    """As MemoryError would."""

    def no_memory(payload, limit):
        raise MemoryError

    decoder = decoder_class(300, True, no_memory)
    wire = fragments(TEXT, HELLO, *cuts)
    with pytest.raises(MemoryError):
        decoder.decode(wire, len(wire), MAX, MAX)
    assert decoder.error is None


@needs_c
def test_the_function_returns_bytes():
    """In C that is not believed."""
    decoder = _speedups.FrameDecoder(None, True, lambda payload, limit: "text")
    wire = small(TEXT, "a")
    with pytest.raises(TypeError, match="does not return bytes"):
        decoder.decode(wire, len(wire), MAX, MAX)


@needs_c
def test_decode_in_c_does_not_run_within_itself():
    """Not even from the function."""

    def again(payload, limit):
        return decoder.decode(b"", 0, 1, 1)

    decoder = _speedups.FrameDecoder(None, True, again)
    wire = small(TEXT, "a")
    with pytest.raises(RuntimeError, match="already running"):
        decoder.decode(wire, len(wire), MAX, MAX)


def test_an_error_keeps_no_frames_alive(decoder_class):
    """They hold the payload, and the decoder that holds the error."""
    decoder = decoder_class(None, True, inflate)
    feed(decoder, [frame(TEXT, b"\xff", rsv=RSV1)])
    assert decoder.error.__traceback__ is None


def test_cycles_through_the_function_are_found(decoder_class):
    """As a connection's own codec may make."""

    class Sub(decoder_class):
        __slots__ = ("__weakref__",)

    decoder = Sub(None)
    decoder.inflate = decoder.decode
    gone = weakref.ref(decoder)
    del decoder
    gc.collect()
    assert gone() is None


@needs_c
def test_the_decoder_in_c_does_not_leak():
    """Allocated blocks and references stay the same over mixed traffic."""
    wires = [wire for wire, *_ in CASES.values() if len(wire) < 1000]

    def rounds(count):
        for i in range(count):
            wire = wires[i % len(wires)] * 2
            decoder = _speedups.FrameDecoder(1000, True, inflate)
            cut = i % len(wire)
            decoder.decode(wire[:cut], cut, MAX, MAX)
            decoder.decode(wire[cut:], len(wire) - cut, i % 3, MAX)
            decoder.decode(b"", 0, MAX, i % 50)

    rounds(1000)
    gc.collect()
    before, references = sys.getallocatedblocks(), sys.getrefcount(inflate)
    rounds(20000)
    gc.collect()
    assert sys.getallocatedblocks() - before < 200
    assert sys.getrefcount(inflate) - references < 10


@needs_c
def test_a_decoder_in_c_is_still_small():
    """Eight bytes for the function."""
    assert sys.getsizeof(_speedups.FrameDecoder(None, True, inflate)) - 16 < 160


# -- The protocol


def test_what_was_negotiated_is_shared():
    """A connection without a context has nothing of its own."""
    protocol = WebSocketProtocol(100, PARAMETERS)
    assert protocol.codec is PARAMETERS.codec()
    assert protocol.inflate is inflate
    wire = small(TEXT, "é")
    assert protocol.decode(wire, len(wire), 9, 9) == ["é"]
    plain = WebSocketProtocol(100)
    assert plain.codec is plain.inflate is None


@pytest.mark.parametrize("code", [1007, 1009])
def test_the_peer_is_told_what_is_wrong_with_its_message(code):
    """By our close frame."""
    protocol = WebSocketProtocol(100, PARAMETERS)
    wire = small(TEXT, "a" * 1000) if code == 1009 else frame(TEXT, b"\xff", rsv=RSV1)
    assert protocol.decode(wire, len(wire), 9, 9) == []
    (event,) = protocol.control_events()
    assert isinstance(event, Failed)
    assert protocol.close_sent == (code, event.error.reason)
    assert protocol.data_to_send()[2:4] == code.to_bytes(2, "big")
    assert protocol.state is State.FAILED


def test_nothing_is_inflated_when_nobody_receives_it():
    """A peer could fill the memory while its close frame is awaited."""
    protocol = WebSocketProtocol(1 << 20, PARAMETERS)
    protocol.close()
    wire = small(TEXT, "a" * 1_000_000) * 300 + frame(TEXT, b"\xff", rsv=RSV1)
    wire += fragments(TEXT, HELLO, 1, 2) + frame(CLOSE, b"\x03\xe8")
    tracemalloc.start()
    try:
        messages = protocol.decode(wire, len(wire), MAX, MAX)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert set(messages) == {""}
    assert protocol.error is None
    protocol.control_events()
    assert protocol.state is State.CLOSED


def test_closing_without_the_extension_still_allows_no_reserved_bits():
    """Nothing else changes."""
    protocol = WebSocketProtocol(1 << 20)
    protocol.close()
    wire = small(TEXT, "a")
    protocol.decode(wire, len(wire), MAX, MAX)
    assert protocol.error.hint == 1002


# -- Any bytes at all

data = st.one_of(
    st.binary(max_size=20),
    st.text(max_size=12).map(str.encode),
    st.builds(
        lambda part, times: part * times, st.binary(max_size=9), st.integers(0, 99)
    ),
)
keys = st.binary(min_size=4, max_size=4)


@st.composite
def wires(draw):
    """Return a stream of frames, plain and compressed, that may be changed a bit."""
    parts = []
    for _ in range(draw(st.integers(0, 5))):
        opcode = draw(st.sampled_from([TEXT, BINARY]))
        compressed = draw(st.booleans())
        payload = draw(data)
        if compressed:
            payload = deflated(payload)
            if draw(st.integers(0, 5)) == 0:
                payload = payload[: draw(st.integers(0, 30))]
            if draw(st.integers(0, 5)) == 0:
                payload += draw(st.binary(max_size=3))
        cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
        places = [0, *cuts, len(payload)]
        for i, (a, b) in enumerate(zip(places, places[1:], strict=False)):
            code = CONT if i else opcode
            rsv = RSV1 if compressed and not i else 0
            fin = i == len(places) - 2
            parts.append(
                encode_masked(code, payload[a:b], draw(keys), fin=fin, rsv=rsv)
            )
            if draw(st.integers(0, 5)) == 0:
                code = draw(st.sampled_from([PING, PONG, PING, CLOSE]))
                parts.append(encode_masked(code, b"p", draw(keys)))
    wire = bytearray(b"".join(parts))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, max(0, len(wire) - 1)))
        wire[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(wire)


IN_ANY_WAY = {
    "wire": wires(),
    "cuts": st.lists(st.integers(0, 300), max_size=8),
    "max_message": st.sampled_from([None, 0, 30, 200]),
    "max_messages": st.sampled_from([1, 2, MAX]),
    "max_bytes": st.sampled_from([1, 20, MAX]),
}


def cut_at(wire, cuts):
    places = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    return [wire[a:b] for a, b in zip(places, places[1:], strict=False)]


def trace(decoder, parts, max_messages, max_bytes):
    """Return all that can be seen of a decoder, after each call."""
    seen = []
    for part in parts:
        for piece in (part, b"", b""):
            messages = decoder.decode(piece, len(piece), max_messages, max_bytes)
            seen.append(
                (
                    messages,
                    [type(message) for message in messages],
                    list(decoder.controls or ()),
                    describe(decoder.error),
                    decoder.decoded_bytes,
                    decoder.buffered,
                    decoder.pending,
                )
            )
    return seen


@given(**IN_ANY_WAY)
@settings(max_examples=400, deadline=None)
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_cuts_and_limits_do_not_change_what_comes_out(
    name, wire, cuts, max_message, max_messages, max_bytes
):
    """Valid, changed or random bytes; nothing raises."""
    cls = PureFrameDecoder if name == "pure" else _speedups.FrameDecoder
    whole = feed(cls(max_message, True, inflate), [wire])
    parts = cut_at(wire, cuts)
    assert (
        feed(cls(max_message, True, inflate), parts, max_messages, max_bytes) == whole
    )
    assert feed(cls(max_message, True, inflate), pieces(wire, 1)) == whole


@needs_c
@given(**IN_ANY_WAY)
@settings(max_examples=600, deadline=None)
def test_c_and_pure_python_agree(wire, cuts, max_message, max_messages, max_bytes):
    """After every call, about all that can be seen."""
    parts = cut_at(wire, cuts)
    pure = PureFrameDecoder(max_message, True, inflate)
    in_c = _speedups.FrameDecoder(max_message, True, inflate)
    assert trace(in_c, parts, max_messages, max_bytes) == trace(
        pure, parts, max_messages, max_bytes
    )


@given(
    st.lists(st.tuples(st.booleans(), data), max_size=5),
    st.integers(1, 50),
    st.sampled_from([None, 100, 1000]),
)
@settings(deadline=None)
def test_inflating_is_what_a_plain_message_would_be(sent, size, limit):
    """The same messages, the same errors, compressed or not."""
    cls = WebSocketProtocol
    plain = b"".join(frame(TEXT if t else BINARY, part) for t, part in sent)
    packed = b"".join(small(TEXT if t else BINARY, part) for t, part in sent)
    # Where a message is both, plain frames say first that it is too big.
    both = any(
        t and limit is not None and len(part) > limit and not is_text(part)
        for t, part in sent
    )
    if not both:
        assert feed(cls(limit, PARAMETERS), pieces(packed, size)) == feed(
            cls(limit), [plain]
        )


def is_text(part):
    try:
        part.decode()
    except UnicodeDecodeError:
        return False
    return True
