"""Frames, in C and in pure Python: RFC 6455, section 5."""

import gc
import importlib.util
import struct
import sys
import tracemalloc
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenchannels.errors import LocalProtocolError
from greenchannels.wire import frames
from greenchannels.wire.frames import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    PureFrameDecoder,
    encode_control,
    encode_masked,
    pure_apply_mask,
    pure_encode,
)

try:
    from greenchannels.wire import _speedups
except ImportError:
    _speedups = None

needs_c = pytest.mark.skipif(
    _speedups is None, reason="greenchannels.wire._speedups has not been built"
)

KEY = b"\x11\x22\x83\x44"
MAX = sys.maxsize
IMPLEMENTATIONS = ["pure", pytest.param("c", marks=needs_c)]


@pytest.fixture(params=IMPLEMENTATIONS)
def decoder_class(request):
    """The class of the decoder: the pure one, then that in C."""
    return PureFrameDecoder if request.param == "pure" else _speedups.FrameDecoder


@pytest.fixture(params=IMPLEMENTATIONS)
def encode(request):
    return pure_encode if request.param == "pure" else _speedups.encode


@pytest.fixture(params=IMPLEMENTATIONS)
def apply_mask(request):
    return pure_apply_mask if request.param == "pure" else _speedups.apply_mask


def frame(opcode, payload=b"", *, fin=True, rsv=0, masked=True):
    """Return a frame; a str is UTF-8."""
    if isinstance(payload, str):
        payload = payload.encode()
    whole = encode_masked(opcode, payload, KEY, fin=fin, rsv=rsv)
    return whole if masked else unmask(whole, len(payload))


def unmask(whole, size):
    """Return the masked frame without mask, bit and key."""
    head = len(whole) - size - 4
    start = bytes((whole[0], whole[1] & 0x7F)) + whole[2:head]
    return start + pure_apply_mask(whole[head + 4 :], KEY)


def header(first, length_bytes, masked=True):
    """Return a header as given, right or wrong, with a key of zeros."""
    start = bytes((first, length_bytes[0] | (0x80 if masked else 0)))
    return start + length_bytes[1:] + (bytes(4) if masked else b"")


def pieces(wire, size):
    return [wire[i : i + size] for i in range(0, len(wire), size)]


def feed(decoder, parts, max_messages=MAX, max_bytes=MAX):
    """Feed the parts through one shared buffer; return all that came out."""
    buffer = bytearray(max(map(len, parts), default=0))
    messages = []
    for part in parts:
        buffer[: len(part)] = part
        messages += decoder.decode(buffer, len(part), max_messages, max_bytes)
        buffer[:] = b"\xff" * len(buffer)
        while decoder.pending:
            messages += decoder.decode(b"", 0, max_messages, max_bytes)
    return messages, decoder.controls or [], describe(decoder.error)


def describe(error):
    return error and (type(error).__name__, error.reason, error.hint)


def failed(reason, hint=1002):
    return ("RemoteProtocolError", reason, hint)


BAD_TEXT = failed("text is not valid UTF-8", 1007)
TOO_BIG = failed("message is too big", 1009)
TOO_MANY_EMPTY = failed("too many empty fragments", 1008)

#: Name: wire, messages, control frames, error. Messages may have 70,000 bytes.
CASES = {
    "nothing": (b"", [], [], None),
    "text": (frame(TEXT, "hello"), ["hello"], [], None),
    "text of one character": (frame(TEXT, "h"), ["h"], [], None),
    "text beyond ASCII": (frame(TEXT, "hé€😀"), ["hé€😀"], [], None),
    "binary": (frame(BINARY, b"\x00\xff" * 9), [b"\x00\xff" * 9], [], None),
    "empty text": (frame(TEXT), [""], [], None),
    "empty binary": (frame(BINARY), [b""], [], None),
    "16-bit length": (frame(TEXT, "x" * 126), ["x" * 126], [], None),
    "64-bit length": (frame(BINARY, bytes(65536)), [bytes(65536)], [], None),
    "the greatest message": (frame(BINARY, bytes(70000)), [bytes(70000)], [], None),
    "two messages": (frame(TEXT, "a") + frame(BINARY, b"b"), ["a", b"b"], [], None),
    "fragments": (
        frame(TEXT, "ab", fin=False) + frame(CONT, "c", fin=False) + frame(CONT, "d"),
        ["abcd"],
        [],
        None,
    ),
    "binary fragments": (
        frame(BINARY, b"ab", fin=False) + frame(CONT, b"\xff"),
        [b"ab\xff"],
        [],
        None,
    ),
    "empty fragments": (
        frame(TEXT, fin=False) + frame(CONT, fin=False) + frame(CONT),
        [""],
        [],
        None,
    ),
    "as many empty fragments as may be": (
        frame(TEXT, fin=False) + frame(CONT, fin=False) * 999 + frame(CONT),
        [""],
        [],
        None,
    ),
    "too many empty fragments": (
        frame(TEXT, fin=False) + frame(CONT, fin=False) * 1000 + frame(CONT),
        [],
        [],
        TOO_MANY_EMPTY,
    ),
    "too many empty fragments with pings between": (
        frame(BINARY, b"a", fin=False)
        + (frame(CONT, fin=False) * 500 + frame(PING)) * 2
        + frame(CONT, fin=False),
        [],
        [(PING, b"")] * 2,
        TOO_MANY_EMPTY,
    ),
    "empty fragments between others": (
        frame(TEXT, fin=False)
        + frame(CONT, fin=False) * 999
        + frame(CONT, "a", fin=False)
        + frame(CONT, fin=False) * 1000
        + frame(CONT, "b"),
        ["ab"],
        [],
        None,
    ),
    "empty fragments of many messages": (
        (frame(TEXT, fin=False) + frame(CONT, fin=False) * 599 + frame(CONT)) * 2,
        ["", ""],
        [],
        None,
    ),
    "a character cut by a fragment": (
        frame(TEXT, b"\xf0\x9f", fin=False) + frame(CONT, b"\x98\x80"),
        ["😀"],
        [],
        None,
    ),
    "text after a fragmented text": (
        frame(TEXT, "é", fin=False) + frame(CONT, "x") + frame(TEXT, "y"),
        ["éx", "y"],
        [],
        None,
    ),
    "ping and pong": (
        frame(PING, b"a") + frame(PONG),
        [],
        [(PING, b"a"), (PONG, b"")],
        None,
    ),
    "the longest ping": (frame(PING, b"p" * 125), [], [(PING, b"p" * 125)], None),
    "ping between fragments": (
        frame(TEXT, "a", fin=False) + frame(PING, b"p") + frame(CONT, "b"),
        ["ab"],
        [(PING, b"p")],
        None,
    ),
    "nothing behind close": (
        frame(TEXT, "a") + frame(CLOSE, b"\x03\xe8") + frame(TEXT, "b"),
        ["a"],
        [(CLOSE, b"\x03\xe8")],
        None,
    ),
    "empty close": (frame(CLOSE) + b"\xff\xff", [], [(CLOSE, b"")], None),
    "close between fragments": (
        frame(TEXT, "a", fin=False) + frame(CLOSE) + frame(CONT, "b"),
        [],
        [(CLOSE, b"")],
        None,
    ),
    "header cut in its start": (b"\x81", [], [], None),
    "header cut in its length": (b"\x81\xfe\x01", [], [], None),
    "header cut in its key": (b"\x81\x81\x00\x00", [], [], None),
    "message cut in its payload": (frame(TEXT, "abc")[:-1], [], [], None),
    "control frame cut in its payload": (frame(PING, b"abc")[:-1], [], [], None),
    "message cut between its fragments": (
        frame(TEXT, "abc", fin=False),
        [],
        [],
        None,
    ),
    "message before a violation": (
        frame(TEXT, "a") + frame(PING) + frame(3),
        ["a"],
        [(PING, b"")],
        failed("opcode is reserved"),
    ),
    "continuation without a start": (
        frame(CONT, "a"),
        [],
        [],
        failed("continuation without a start"),
    ),
    "continuation after the end": (
        frame(TEXT, "a", fin=False) + frame(CONT, "b") + frame(CONT, "c"),
        ["ab"],
        [],
        failed("continuation without a start"),
    ),
    "text within a message": (
        frame(TEXT, "a", fin=False) + frame(TEXT, "b"),
        [],
        [],
        failed("message within a message"),
    ),
    "binary within a message": (
        frame(BINARY, fin=False) + frame(BINARY, b"b"),
        [],
        [],
        failed("message within a message"),
    ),
    "control frame fragmented": (
        frame(PING, b"a", fin=False),
        [],
        [],
        failed("control frame is fragmented"),
    ),
    "control frame too long": (
        frame(PING, b"a" * 126),
        [],
        [],
        failed("control frame is too long"),
    ),
    "not masked": (
        frame(TEXT, "abcd", masked=False),
        [],
        [],
        failed("frame is not masked"),
    ),
    "16-bit length not minimal": (
        header(0x82, b"\x7e\x00\x7d"),
        [],
        [],
        failed("length is not minimal"),
    ),
    "64-bit length not minimal": (
        header(0x82, b"\x7f" + bytes(6) + b"\xff\xff"),
        [],
        [],
        failed("length is not minimal"),
    ),
    "64-bit length small": (
        header(0x82, b"\x7f" + bytes(7) + b"\x01"),
        [],
        [],
        failed("length is not minimal"),
    ),
    "top bit of the length": (
        header(0x82, b"\x7f\x80" + bytes(7)),
        [],
        [],
        failed("length has its top bit set"),
    ),
    "message too big": (
        header(0x82, b"\x7f" + struct.pack("!Q", 70001)),
        [],
        [],
        TOO_BIG,
    ),
    "message enormous": (header(0x82, b"\x7f\x7f" + b"\xff" * 7), [], [], TOO_BIG),
    "message too big by its fragments": (
        frame(BINARY, bytes(69999), fin=False)
        + frame(PING, b"p")
        + frame(CONT, b"a", fin=False)
        + frame(CONT, b"b"),
        [],
        [(PING, b"p")],
        TOO_BIG,
    ),
}
for number in (1, 2, 3, 4, 5, 6, 7):
    CASES[f"reserved bits {number}"] = (
        frame(TEXT, "a", rsv=number),
        [],
        [],
        failed("reserved bits are set"),
    )
for number in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
    CASES[f"opcode {number}"] = (
        frame(number, "a"),
        [],
        [],
        failed("opcode is reserved"),
    )

#: Wrong UTF-8, and the number of bytes after which that is certain.
WRONG_UTF8 = {
    "continuation byte": (b"\x80", 1),
    "overlong of two, 0": (b"\xc0\x80", 1),
    "overlong of two, 1": (b"\xc1\xbf", 1),
    "overlong of three": (b"\xe0\x9f\xbf", 2),
    "overlong of four": (b"\xf0\x8f\xbf\xbf", 2),
    "surrogate": (b"\xed\xa0\x80", 2),
    "last surrogate": (b"\xed\xbf\xbf", 2),
    "above U+10FFFF": (b"\xf4\x90\x80\x80", 2),
    "start of five": (b"\xf8\x88\x80\x80\x80", 1),
    "0xff": (b"\xff", 1),
    "second byte of two": (b"\xc3(", 2),
    "third byte of three": (b"\xe2\x82(", 3),
    "fourth byte of four": (b"\xf0\x9f\x98(", 4),
    "a start within a character": (b"\xe2\xe2\x82\xac", 2),
}
CUT_UTF8 = [b"\xc3", b"\xe2", b"\xe2\x82", b"\xf0", b"\xf0\x9f", b"\xf0\x9f\x98"]
for name, (wrong, _) in WRONG_UTF8.items():
    CASES[f"UTF-8: {name}"] = (
        frame(TEXT, b"abcdefgh\xc3\xa9" + wrong),
        [],
        [],
        BAD_TEXT,
    )
for cut in CUT_UTF8:
    CASES[f"UTF-8: cut after {cut.hex()}"] = (
        frame(TEXT, b"ab" + cut),
        [],
        [],
        BAD_TEXT,
    )
    CASES[f"UTF-8: fragment cut after {cut.hex()}"] = (
        frame(TEXT, b"ab", fin=False) + frame(CONT, cut),
        [],
        [],
        BAD_TEXT,
    )
CASES["UTF-8: cut before an empty last fragment"] = (
    frame(TEXT, b"\xc3", fin=False) + frame(CONT),
    [],
    [],
    BAD_TEXT,
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 4096, 1 << 20])
@pytest.mark.parametrize("case", CASES)
def test_frames_become_messages_however_they_are_cut(decoder_class, case, size):
    """The table of cases, in pieces of several sizes."""
    wire, *expected = CASES[case]
    if size < 7 and len(wire) > 1000:
        wire = wire[:300]
        expected = feed(decoder_class(70000), [wire])
    assert list(feed(decoder_class(70000), pieces(wire, size))) == list(expected)


@pytest.mark.parametrize("case", CASES)
def test_what_follows_is_decoded_after_complete_frames_only(decoder_class, case):
    """A message behind each case; not when it ended the stream or is incomplete."""
    wire, messages, controls, error = CASES[case]
    ended = error is not None or any(opcode == CLOSE for opcode, _ in controls)
    if "cut" in case and not ended:
        return
    extra = [] if ended else ["more"]
    decoder = decoder_class(70000)
    assert feed(decoder, [wire + frame(TEXT, "more")]) == (
        messages + extra,
        controls,
        error,
    )
    assert feed(decoder, [frame(TEXT, "more")])[0] == extra


@pytest.mark.parametrize("case", CASES)
def test_a_limit_of_one_message_changes_nothing_but_the_calls(decoder_class, case):
    """The same messages come one a call."""
    wire, *expected = CASES[case]
    decoder = decoder_class(70000)
    assert list(feed(decoder, [wire], max_messages=1)) == expected
    assert decoder.buffered == 0


def test_clients_get_unmasked_frames_and_no_others(decoder_class):
    """The client's role."""
    decoder = decoder_class(1000, False)
    wire = frame(TEXT, "é", fin=False, masked=False) + frame(CONT, "b", masked=False)
    wire += frame(PING, b"p", masked=False) + frame(BINARY, bytes(300), masked=False)
    expected = ["éb", bytes(300)], [(PING, b"p")], None
    assert feed(decoder, [wire]) == expected
    assert feed(decoder_class(1000, masked=False), pieces(wire, 1)) == expected
    assert feed(decoder, [frame(TEXT, "a")])[2] == failed("frame is masked")


@pytest.mark.parametrize("before", [b"", b"abcdefghijk", "é€😀".encode()])
@pytest.mark.parametrize("wrong", WRONG_UTF8)
def test_wrong_text_is_noticed_at_its_first_wrong_byte(decoder_class, wrong, before):
    """Before the frame is complete, as section 8.1 allows and Autobahn asks for."""
    data, certain = WRONG_UTF8[wrong]
    whole = frame(TEXT, before + data + b"abcdefghi", fin=False)
    start = len(whole) - len(data) - 9
    decoder = decoder_class(None)
    assert feed(decoder, [whole[: start + certain - 1]]) == ([], [], None)
    assert feed(decoder, [whole[start + certain - 1 :][:1]]) == ([], [], BAD_TEXT)


@pytest.mark.parametrize(
    ("limit", "wire"),
    [
        (4, b"\x82\x85"),
        (125, b"\x82\xfe\x00\x7e"),
        (65535, b"\x82\xff" + struct.pack("!Q", 65536)),
        (4, frame(TEXT, "abc", fin=False) + b"\x80\x82"),
        (0, b"\x82\x81"),
    ],
)
def test_a_message_that_is_too_big_is_refused_at_its_length(decoder_class, limit, wire):
    """Before its key, let alone its payload."""
    decoder = decoder_class(limit)
    assert feed(decoder, [wire[:-1]])[2] is None
    assert feed(decoder, [wire[-1:]])[2] == TOO_BIG


def test_no_limit_means_none(decoder_class):
    """``None`` allows what any length can say."""
    decoder = decoder_class(None)
    assert feed(decoder, [header(0x82, b"\x7f\x7f" + b"\xff" * 7)])[2] is None
    assert feed(decoder_class(0), [frame(TEXT)]) == ([""], [], None)


def test_max_messages_leaves_the_rest_undecoded(decoder_class):
    """What is behind is not even looked at, and goes on with no new input."""
    decoder = decoder_class(None)
    one = frame(TEXT, "a")
    wire = one * 3 + frame(PING) + b"\xff\xff"
    assert decoder.decode(wire, len(wire), 2, MAX) == ["a", "a"]
    assert decoder.pending
    assert decoder.buffered == len(wire) - 2 * len(one)
    assert decoder.controls is None
    assert decoder.error is None
    assert decoder.decode(b"", 0, 1, MAX) == ["a"]
    assert decoder.controls is None
    assert decoder.decode(b"", 0, 1, MAX) == []
    assert decoder.controls == [(PING, b"")]
    assert decoder.error.hint == 1002
    assert not decoder.pending
    assert decoder.buffered == 0


def test_new_input_goes_behind_what_is_undecoded(decoder_class):
    """Also when some of that has been decoded in between."""
    decoder = decoder_class(None)
    wire = b"".join(frame(TEXT, f"message {i}") for i in range(9))
    out = decoder.decode(wire, 60, 1, MAX)
    assert decoder.buffered == 45
    out += decoder.decode(b"", 0, 1, MAX)
    out += decoder.decode(wire[60:], len(wire) - 60, 1, MAX)
    out += decoder.decode(b"", 0, 3, MAX)
    out += decoder.decode(b"", 0, 100, MAX)
    assert out == [f"message {i}" for i in range(9)]
    assert not decoder.pending


def test_max_bytes_counts_the_payload_on_the_wire(decoder_class):
    """In bytes of UTF-8, and the message that reaches it is still returned."""
    decoder = decoder_class(None)
    wire = frame(TEXT, "é") + frame(BINARY, b"abc") + frame(TEXT, "d")
    assert decoder.decode(wire, len(wire), MAX, 5) == ["é", b"abc"]
    assert decoder.decoded_bytes == 5
    assert decoder.decode(b"", 0, MAX, 1) == ["d"]
    assert decoder.decoded_bytes == 1
    assert decoder.decode(b"", 0, MAX, 1) == []
    assert decoder.decoded_bytes == 0


@pytest.mark.parametrize(("count", "size"), [(0, 9), (9, 0), (-1, -1)])
def test_no_room_means_that_nothing_is_decoded(decoder_class, count, size):
    """Also in the middle of a header or of a message."""
    decoder = decoder_class(None)
    wire = frame(TEXT, "abc")
    for i in (0, 1, 7):
        assert decoder.decode(wire[:i], i, MAX, MAX) == []
        assert decoder.decode(wire[i:], len(wire) - i, count, size) == []
        assert decoder.buffered == len(wire) - i
        assert decoder.decode(b"", 0, MAX, MAX) == ["abc"]


def test_incomplete_input_does_not_count_as_buffered(decoder_class):
    """No call without new input could return more."""
    decoder = decoder_class(None)
    wire = frame(TEXT, "abc") + frame(TEXT, "def")
    for byte in pieces(wire, 1):
        decoder.decode(byte, 1, MAX, MAX)
        assert (decoder.buffered, decoder.pending) == (0, False)
    assert decoder.decode(wire, len(wire) - 1, 1, MAX) == ["abc"]
    assert decoder.pending
    assert decoder.decode(b"", 0, MAX, MAX) == []
    assert not decoder.pending


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_any_buffer_will_do_and_none_is_kept(decoder_class, make):
    """The caller reuses its buffer."""
    decoder = decoder_class(None)
    wire = frame(TEXT, "abc") + frame(BINARY, b"def") + frame(TEXT, "ghi")
    buffer = make(wire + b"\xff" * 50)
    before = sys.getrefcount(buffer)
    assert decoder.decode(buffer, len(wire), 1, MAX) == ["abc"]
    assert sys.getrefcount(buffer) == before
    if make is bytearray:
        buffer[:] = b""  # fails while it is exported
    assert decoder.decode(b"", 0, MAX, MAX) == [b"def", "ghi"]


def test_wider_items_are_bytes_too(decoder_class):
    """``size`` is in bytes, whatever the items of the buffer are."""
    wire = frame(TEXT, "ab")
    assert decoder_class(None).decode(memoryview(wire).cast("H"), 8, 9, 9) == ["ab"]


@pytest.mark.parametrize(
    "arguments",
    [
        (b"abc", 4, 1, 1),
        (b"abc", -1, 1, 1),
        (memoryview(b"abcd").cast("H"), 5, 1, 1),
    ],
)
def test_a_size_that_is_not_in_the_buffer_is_our_bug(decoder_class, arguments):
    """ValueError, and the decoder goes on."""
    decoder = decoder_class(None)
    with pytest.raises(ValueError, match="size is not within the buffer"):
        decoder.decode(*arguments)
    assert feed(decoder, [frame(TEXT, "a")]) == (["a"], [], None)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (b"", 0, 1),
        (b"", 0, 1, 1, 1),
        ("", 0, 1, 1),
        (None, 0, 1, 1),
        (b"", "0", 1, 1),
        (frame(TEXT), 6, None, 1),
        (frame(TEXT), 6, 1, None),
    ],
)
def test_wrong_arguments_are_our_bug(decoder_class, arguments):
    """TypeError."""
    with pytest.raises(TypeError):
        decoder_class(None).decode(*arguments)


def test_the_limit_is_not_negative(decoder_class):
    """Neither is it text."""
    with pytest.raises(ValueError, match="max_message must not be negative"):
        decoder_class(-1)
    with pytest.raises(TypeError):
        decoder_class("1")
    with pytest.raises(TypeError):
        decoder_class()


def test_controls_start_anew_when_they_are_taken(decoder_class):
    """The caller sets ``controls`` to None."""
    decoder = decoder_class(None)
    assert decoder.controls is None
    feed(decoder, [frame(PING, b"a"), frame(PING, b"b")])
    taken, decoder.controls = decoder.controls, None
    feed(decoder, [frame(PONG, b"c")])
    assert taken == [(PING, b"a"), (PING, b"b")]
    assert decoder.controls == [(PONG, b"c")]


def test_subclasses_have_slots_of_their_own(decoder_class):
    """As WebSocketProtocol has; and cycles through them are found."""

    class Sub(decoder_class):
        __slots__ = ("__weakref__", "own")

        def __init__(self):
            super().__init__(3)
            self.own = self

    decoder = Sub()
    assert not hasattr(decoder, "__dict__")
    assert feed(decoder, [frame(PING) + frame(TEXT, "abcd")])[2] == TOO_BIG
    decoder.controls.append(decoder)
    gone = weakref.ref(decoder)
    del decoder
    gc.collect()
    assert gone() is None


def test_an_idle_decoder_is_small_and_keeps_no_memory(decoder_class):
    """Ten thousand idle connections have nothing but the object."""
    wire = frame(TEXT, "é" * 20000)
    decoder = decoder_class(None)
    feed(decoder, pieces(wire, 10000))
    tracemalloc.start()
    try:
        feed(decoder, pieces(wire, 10000))
        decoder.decode(wire * 2, len(wire) * 2, 1, MAX)
        decoder.decode(b"", 0, MAX, MAX)
        feed(decoder, pieces(frame(PING, b"p" * 100), 10))
        decoder.controls = None
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 5000
    finally:
        tracemalloc.stop()


@needs_c
def test_an_idle_decoder_in_c_has_150_bytes():
    """Without the garbage collector's head."""
    assert sys.getsizeof(_speedups.FrameDecoder(None)) - 16 < 150


def test_memory_grows_with_what_arrives_not_with_what_is_announced(decoder_class):
    """A peer that announces 1 MiB and sends nothing costs nothing."""
    head = header(0x82, b"\x7f" + struct.pack("!Q", 1 << 20))
    decoders = [decoder_class(1 << 20) for _ in range(100)]
    tracemalloc.start()
    try:
        for decoder in decoders:
            decoder.decode(head, len(head), MAX, MAX)
        assert tracemalloc.get_traced_memory()[0] < 100 * 200
        part = bytes(10000)
        for decoder in decoders:
            decoder.decode(part, len(part), MAX, MAX)
        assert tracemalloc.get_traced_memory()[0] < 100 * 25000
    finally:
        tracemalloc.stop()


def test_a_message_in_a_thousand_fragments_is_one(decoder_class):
    """Growing by doubling, over many frames."""
    parts = [frame(TEXT if i == 0 else CONT, "é" * 50, fin=False) for i in range(1000)]
    wire = b"".join(parts) + frame(CONT, "x")
    assert feed(decoder_class(None), pieces(wire, 999)) == (
        ["é" * 50000 + "x"],
        [],
        None,
    )


@needs_c
def test_decode_in_c_does_not_run_within_itself(monkeypatch):
    """Nothing but an error runs Python code; it must not come back."""
    decoder = _speedups.FrameDecoder(None)
    seen = []

    def again(self, reason, hint):
        with pytest.raises(RuntimeError, match="already running") as caught:
            decoder.decode(b"", 0, 1, 1)
        seen.append(caught)

    monkeypatch.setattr(frames.RemoteProtocolError, "__init__", again)
    assert decoder.decode(b"\xff\xff", 2, 1, 1) == []
    assert seen


@needs_c
def test_an_error_that_cannot_be_made_is_raised_and_ends_decoding(monkeypatch):
    """As MemoryError would."""
    decoder = _speedups.FrameDecoder(None)
    wire = frame(TEXT, "a") + b"\xff\xff"

    def no_memory(self, reason, hint):
        raise MemoryError

    monkeypatch.setattr(frames.RemoteProtocolError, "__init__", no_memory)
    with pytest.raises(MemoryError):
        decoder.decode(wire, len(wire), MAX, MAX)
    assert decoder.error is None
    assert feed(decoder, [wire]) == ([], [], None)


@needs_c
def test_the_decoder_in_c_does_not_leak():
    """Allocated blocks and references stay the same over mixed traffic."""
    mixed = (
        frame(TEXT, "hello") + frame(BINARY, b"abc") + frame(TEXT, "é€") + frame(PING)
    )
    mixed += frame(TEXT, "é" * 70, fin=False) + frame(PONG, b"p") + frame(CONT, "x")
    endings = [
        b"",
        frame(CLOSE, b"\x03\xe8"),
        b"\xff\xff",
        frame(TEXT, b"\xff\xfe"),
        frame(TEXT, b"abc", fin=False) + frame(CONT, b"\xff"),
        frame(TEXT, b"cut")[:-1],
        frame(PING, b"cut")[:-1],
        frame(CONT),
    ]
    wires = [mixed + ending for ending in endings]
    error_type = sys.getrefcount(frames.RemoteProtocolError)

    def rounds(count):
        for i in range(count):
            wire = wires[i % len(wires)]
            decoder = _speedups.FrameDecoder(1000)
            cut = i % len(wire)
            decoder.decode(wire[:cut], cut, MAX, MAX)
            decoder.decode(wire, 0, 1, MAX)
            decoder.decode(wire[cut:], len(wire) - cut, i % 3, MAX)
            decoder.decode(b"", 0, MAX, i % 50)
            _speedups.encode("é" * (i % 300))
            _speedups.encode(wire)
            _speedups.apply_mask(wire, KEY)
            for wrong in ((b"", 1, 1, 1), ("", 0, 1, 1), (b"", 0, 1, None)):
                with pytest.raises((ValueError, TypeError)):
                    decoder.decode(*wrong)
            with pytest.raises(TypeError):
                _speedups.encode(decoder)
            with pytest.raises(UnicodeEncodeError):
                _speedups.encode("\ud800")

    rounds(1000)
    gc.collect()
    before = sys.getallocatedblocks()
    rounds(20000)
    gc.collect()
    assert sys.getallocatedblocks() - before < 200
    assert sys.getrefcount(frames.RemoteProtocolError) - error_type < 10


# -- Encoding


@pytest.mark.parametrize(
    ("size", "start"),
    [
        (0, b"\x00"),
        (1, b"\x01"),
        (125, b"\x7d"),
        (126, b"\x7e\x00\x7e"),
        (65535, b"\x7e\xff\xff"),
        (65536, b"\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_lengths_are_in_their_shortest_form(encode, size, start):
    """Text and binary alike (section 5.2), masked too."""
    assert encode("x" * size) == b"\x81" + start + b"x" * size
    assert encode(b"x" * size) == b"\x82" + start + b"x" * size
    masked = encode_masked(BINARY, b"x" * size, bytes(4))
    start = bytes((start[0] | 0x80,)) + start[1:]
    assert masked == b"\x82" + start + bytes(4) + b"x" * size


@pytest.mark.parametrize("data", ["é", "€" * 50, "😀" * 40, "é" * 40000, ""])
def test_text_is_utf8(encode, data):
    """Whatever the widest character is."""
    wire = encode(data)
    assert feed(frames.FrameDecoder(None, False), [wire]) == ([data], [], None)
    assert wire.endswith(data.encode())


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_bytes_of_all_kinds_are_binary(encode, make):
    """Also a memoryview with gaps, or of wider items."""
    assert encode(make(b"abcd")) == b"\x82\x04abcd"
    if make is memoryview:
        assert encode(memoryview(b"abcd")[::2]) == b"\x82\x02ac"
        assert encode(memoryview(b"abcd").cast("H")) == b"\x82\x04abcd"


@pytest.mark.parametrize("data", [{"a": 1}, 5, None, ["a"]])
def test_what_is_no_message_is_refused_with_advice(encode, data):
    """TypeError names the type and what to use."""
    with pytest.raises(TypeError, match=f"not {type(data).__name__} .send_json"):
        encode(data)


def test_lone_surrogates_are_no_text(encode):
    """UTF-8 cannot hold them."""
    with pytest.raises(UnicodeEncodeError):
        encode("a\ud800")


def test_control_frames_are_short_and_unmasked():
    """At most 125 bytes (section 5.5)."""
    assert encode_control(PING) == b"\x89\x00"
    assert encode_control(PONG, b"abc") == b"\x8a\x03abc"
    assert encode_control(CLOSE, b"x" * 125) == b"\x88\x7d" + b"x" * 125
    with pytest.raises(LocalProtocolError, match="at most 125 bytes"):
        encode_control(PING, b"x" * 126)
    with pytest.raises(ValueError, match="opcode 1 is not that of a control frame"):
        encode_control(TEXT)


def test_masked_frames_say_what_they_are_told():
    """For the client's role, and for tests that break rules."""
    assert encode_masked(TEXT, b"Hello", b"\x37\xfa\x21\x3d") == bytes.fromhex(
        "81 85 37 fa 21 3d 7f 9f 4d 51 58"
    )
    assert encode_masked(TEXT, b"", bytes(4), fin=False, rsv=5)[0] == 0x51


@pytest.mark.parametrize("size", [*range(20), 100, 4097])
def test_the_key_applies_to_every_fourth_byte(apply_mask, size):
    """Section 5.3; twice is nothing."""
    data = bytes(i * 7 & 0xFF for i in range(size))
    masked = apply_mask(data, KEY)
    assert masked == bytes(byte ^ KEY[i % 4] for i, byte in enumerate(data))
    assert apply_mask(memoryview(bytearray(masked)), bytearray(KEY)) == data


def test_a_key_has_four_bytes(apply_mask):
    """No more, no less, and is of bytes."""
    with pytest.raises(ValueError, match="a key has 4 bytes, not 3"):
        apply_mask(b"abc", b"abc")
    for wrong in (("a", KEY), (b"a", "abcd"), (b"a",)):
        with pytest.raises(TypeError):
            apply_mask(*wrong)


def test_without_the_extension_pure_python_takes_the_names(monkeypatch):
    """As after an installation without a compiler."""
    monkeypatch.setitem(sys.modules, "greenchannels.wire._speedups", None)
    spec = importlib.util.find_spec("greenchannels.wire.frames")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses, enum look here
    spec.loader.exec_module(module)
    assert module.FrameDecoder is module.PureFrameDecoder
    assert module.encode is module.pure_encode
    assert module.apply_mask is module.pure_apply_mask


@needs_c
def test_the_extension_takes_the_names_where_it_is_built():
    """And the pure code stays importable."""
    assert frames.FrameDecoder is _speedups.FrameDecoder
    assert frames.encode is _speedups.encode
    assert frames.apply_mask is _speedups.apply_mask


# -- Any bytes at all

payloads = st.one_of(
    st.binary(max_size=20),
    st.text(max_size=12).map(str.encode),
    st.sampled_from([b"x" * 125, b"x" * 126, "é".encode() * 100, *CUT_UTF8]),
)
keys = st.binary(min_size=4, max_size=4)


@st.composite
def valid_frames(draw):
    """Return a stream of frames that breaks no rule but perhaps UTF-8's."""
    parts = []
    for _ in range(draw(st.integers(0, 5))):
        opcode = draw(st.sampled_from([TEXT, BINARY]))
        fragments = draw(st.lists(payloads, min_size=1, max_size=4))
        for i, payload in enumerate(fragments):
            fin = i == len(fragments) - 1
            code = opcode if i == 0 else CONT
            parts.append(encode_masked(code, payload, draw(keys), fin=fin))
            if draw(st.integers(0, 3)) == 0:
                code = draw(st.sampled_from([PING, PONG, PING, PONG, CLOSE]))
                parts.append(encode_masked(code, draw(payloads)[:125], draw(keys)))
    return b"".join(parts)


@st.composite
def changed_frames(draw):
    """Return a valid stream with a few bytes changed, cut out or put in."""
    wire = bytearray(draw(valid_frames()))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(wire) - 1)))
        wire[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(wire)


wires = st.one_of(
    valid_frames(),
    changed_frames(),
    st.binary(max_size=60),
    st.binary(max_size=20).map(lambda data: frame(TEXT, data)),
)
IN_ANY_WAY = {
    "wire": wires,
    "cuts": st.lists(st.integers(0, 300), max_size=8),
    "max_message": st.sampled_from([None, 0, 30, 200]),
    "masked": st.sampled_from([True, True, True, False]),
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
        for data in (part, b"", b""):
            messages = decoder.decode(data, len(data), max_messages, max_bytes)
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
    name, wire, cuts, max_message, masked, max_messages, max_bytes
):
    """Valid, changed or random bytes; nothing raises."""
    cls = PureFrameDecoder if name == "pure" else _speedups.FrameDecoder
    if not masked:
        max_message = None
    whole = feed(cls(max_message, masked), [wire])
    cut = feed(cls(max_message, masked), cut_at(wire, cuts), max_messages, max_bytes)
    assert cut == whole
    assert feed(cls(max_message, masked), pieces(wire, 1)) == whole


@needs_c
@given(**IN_ANY_WAY)
@settings(max_examples=600, deadline=None)
def test_c_and_pure_python_agree(
    wire, cuts, max_message, masked, max_messages, max_bytes
):
    """After every call, about all that can be seen."""
    parts = cut_at(wire, cuts)
    pure = PureFrameDecoder(max_message, masked)
    in_c = _speedups.FrameDecoder(max_message, masked)
    assert trace(in_c, parts, max_messages, max_bytes) == trace(
        pure, parts, max_messages, max_bytes
    )


@needs_c
@given(st.one_of(st.text(), st.binary(), st.text().map(lambda text: text * 50)))
@settings(deadline=None)
def test_c_and_pure_python_encode_the_same(data):
    """Any text and any bytes."""
    assert _speedups.encode(data) == pure_encode(data)


@needs_c
@given(st.binary(), keys)
@settings(deadline=None)
def test_c_and_pure_python_mask_the_same(data, key):
    """Any data and any key."""
    assert _speedups.apply_mask(data, key) == pure_apply_mask(data, key)


@given(st.lists(st.one_of(st.text(), st.binary()), max_size=5), st.integers(1, 50))
@settings(deadline=None)
def test_what_is_encoded_is_decoded(messages, size):
    """The way from the server to its client."""
    wire = b"".join(map(frames.encode, messages))
    decoder = frames.FrameDecoder(None, False)
    assert feed(decoder, pieces(wire, size)) == (messages, [], None)
