"""Compressed messages: RFC 7692."""

import gc
import random
import sys
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenchannels.errors import RemoteProtocolError
from greenchannels.options import Deflate
from greenchannels.wire.deflate import negotiate
from greenchannels.wire.deflate_codec import (
    MAX_FINAL_BLOCKS,
    Codec,
    ContextCodec,
    encode_alone,
    inflate_alone,
)
from greenchannels.wire.extensions import read_extensions

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
NO_LIMIT = sys.maxsize
TAIL = b"\x00\x00\xff\xff"
PLAIN = "permessage-deflate"
FRESH = "; server_no_context_takeover; client_no_context_takeover"
TAKEOVER = Deflate(context_takeover=True)

MALFORMED = ("compressed data is malformed", 1007)
TOO_BIG = ("message is too big", 1009)

#: Examples of section 7.2.3, by its subsections; all of them say "Hello".
HELLO = {
    "1: one block": "f248cdc9c90700",
    "3: not compressed": "000500faff48656c6c6f00",
    "4: a final block": "f348cdc9c9070000",
    "5: two blocks": "f248050000 00ffffcac9c90700",
}


def codec_of(offer=PLAIN, settings=TAKEOVER):
    """Return the codec for what a client offers."""
    return negotiate(read_extensions([offer.encode()]), settings).codec()


def deflated(data, *, bits=15, level=6, final=False, context=None):
    """Return the payload of a message, as a client makes it."""
    deflater = context or zlib.compressobj(level, zlib.DEFLATED, -bits)
    whole = deflater.compress(data)
    if final:
        return whole + deflater.flush() + b"\x00"
    whole += deflater.flush(zlib.Z_SYNC_FLUSH)
    assert whole.endswith(TAIL)
    return whole[:-4]


def parse(frame):
    """Return the first byte of a frame and its payload."""
    size, start = frame[1], 2
    assert not size & 0x80
    if size > 125:
        start = 4 if size == 126 else 10
        size = int.from_bytes(frame[2:start], "big")
    assert len(frame) == start + size
    return frame[0], frame[start:]


def inflated(payload, inflater=None, bits=15):
    """Return what a payload holds, as a client finds it."""
    return (inflater or zlib.decompressobj(-bits)).decompress(payload + TAIL)


def said(call, *arguments):
    """Return reason and hint of the error that a call raises."""
    with pytest.raises(RemoteProtocolError) as caught:
        call(*arguments)
    return caught.value.reason, caught.value.hint


def noise(size):
    """Return bytes that do not compress."""
    return random.Random(size).randbytes(size)


def prose(size):
    """Return text that compresses well, but not like zeros."""
    words = random.Random(size).choices(["green ", "channels ", "blue ", "x"], k=size)
    return "".join(words)[:size].encode()


# -- Negotiation (sections 5 and 7.1)


@pytest.mark.parametrize(
    ("offer", "settings", "answer"),
    [
        (PLAIN, Deflate(), FRESH),
        (f"{PLAIN}; client_max_window_bits", Deflate(), FRESH),
        (f"{PLAIN}; server_no_context_takeover", Deflate(), FRESH),
        (f"{PLAIN}; client_no_context_takeover", Deflate(), FRESH),
        (
            f"{PLAIN}; server_max_window_bits=10",
            Deflate(),
            f"{FRESH}; server_max_window_bits=10",
        ),
        (
            f'{PLAIN}; server_max_window_bits="8"',
            Deflate(),
            f"{FRESH}; server_max_window_bits=8",
        ),
        (
            f"{PLAIN}; server_max_window_bits=15",
            Deflate(),
            f"{FRESH}; server_max_window_bits=15",
        ),
        (
            f"{PLAIN}; client_max_window_bits=9",
            Deflate(),
            f"{FRESH}; client_max_window_bits=9",
        ),
        (f"{PLAIN}; client_max_window_bits=15", Deflate(), FRESH),
        (
            f"{PLAIN}; client_max_window_bits; server_max_window_bits=14",
            Deflate(max_window_bits=11),
            f"{FRESH}; server_max_window_bits=11; client_max_window_bits=11",
        ),
        (
            f"{PLAIN}; client_max_window_bits=9; server_max_window_bits=9",
            Deflate(max_window_bits=11),
            f"{FRESH}; server_max_window_bits=9; client_max_window_bits=9",
        ),
        (PLAIN, Deflate(max_window_bits=11), f"{FRESH}; server_max_window_bits=11"),
        (PLAIN, TAKEOVER, ""),
        (f"{PLAIN}; client_max_window_bits", TAKEOVER, ""),
        (
            f"{PLAIN}; server_no_context_takeover",
            TAKEOVER,
            "; server_no_context_takeover",
        ),
        (
            f"{PLAIN}; client_no_context_takeover",
            TAKEOVER,
            "; client_no_context_takeover",
        ),
    ],
)
def test_an_offer_is_answered(offer, settings, answer):
    """Only a client that offers it is told the size of its window."""
    offers = read_extensions([offer.encode()])
    assert negotiate(offers, settings).answer.decode() == PLAIN + answer


@pytest.mark.parametrize(
    "offer",
    [
        *("x-webkit-deflate-frame", "Permessage-Deflate", "permessage-bzip2"),
        f"{PLAIN}; unknown",
        f"{PLAIN}; Server_no_context_takeover",
        f"{PLAIN}; server_no_context_takeover=1",
        f"{PLAIN}; client_no_context_takeover=true",
        f"{PLAIN}; server_no_context_takeover; server_no_context_takeover",
        f"{PLAIN}; client_max_window_bits; client_max_window_bits=15",
        f"{PLAIN}; server_max_window_bits",
        f"{PLAIN}; server_max_window_bits=7",
        f"{PLAIN}; server_max_window_bits=16",
        f"{PLAIN}; server_max_window_bits=08",
        f"{PLAIN}; server_max_window_bits=+9",
        f"{PLAIN}; client_max_window_bits=0",
        f"{PLAIN}; client_max_window_bits=150",
        f"{PLAIN}; client_max_window_bits=1_0",
    ],
)
def test_an_offer_with_something_wrong_is_declined(offer):
    """And the next one is looked at (section 5)."""
    assert negotiate(read_extensions([offer.encode()]), Deflate()) is None
    second = f"{offer}, {PLAIN}; server_max_window_bits=9".encode()
    found = negotiate(read_extensions([second]), Deflate())
    assert found.server_max_window_bits == 9


def test_the_first_offer_that_can_be_accepted_is():
    """It is the client's favourite."""
    offers = read_extensions(
        [b"foo, permessage-deflate; server_max_window_bits=12, permessage-deflate"]
    )
    assert negotiate(offers, Deflate()).server_max_window_bits == 12
    assert negotiate((), Deflate()) is None


def test_connections_with_the_same_parameters_share_everything():
    """An idle one costs no memory of its own; those of other clients share, too."""
    first = negotiate(read_extensions([b"permessage-deflate"]), Deflate())
    again = negotiate(
        read_extensions([b"permessage-deflate; client_max_window_bits"]), Deflate()
    )
    other = negotiate(
        read_extensions([b"permessage-deflate; client_max_window_bits=9"]), Deflate()
    )
    assert first is again
    assert {first: 1}[again] == 1
    assert first.codec() is again.codec()
    assert type(first.codec()) is Codec
    assert other is not first
    assert other.codec().encode_shared is first.codec().encode_shared
    assert other.codec().inflate is not first.codec().inflate
    assert codec_of(f"{PLAIN}; server_max_window_bits=9").encode_shared is not (
        first.codec().encode_shared
    )


def test_ten_thousand_idle_connections_take_no_memory():
    """Without context takeover."""
    offers = read_extensions([b"permessage-deflate; client_max_window_bits"])
    negotiate(offers, Deflate())
    gc.collect()
    tracemalloc.start()
    try:
        kept = [negotiate(offers, Deflate()).codec() for _ in range(10_000)]
        assert tracemalloc.get_traced_memory()[0] < 200_000  # the list itself
    finally:
        tracemalloc.stop()
    assert len(kept) == 10_000


# -- Inflating (section 7.2.2)


@pytest.mark.parametrize("settings", [Deflate(), TAKEOVER])
@pytest.mark.parametrize("example", HELLO)
def test_the_examples_of_the_rfc_are_inflated(example, settings):
    """In all kinds of blocks."""
    payload = bytes.fromhex(HELLO[example])
    codec = codec_of(settings=settings)
    for _ in range(3):
        assert codec.inflate(payload, 5) == b"Hello"


def test_the_context_of_earlier_messages_is_used():
    """Section 7.2.3.2; without takeover there is none."""
    first, second = bytes.fromhex(HELLO["1: one block"]), bytes.fromhex("f200110000")
    codec = codec_of()
    assert codec.inflate(first, 5) == b"Hello"
    assert codec.inflate(second, 5) == b"Hello"
    codec = codec_of(settings=Deflate())
    assert codec.inflate(first, 5) == b"Hello"
    assert said(codec.inflate, second, 5) == MALFORMED


@pytest.mark.parametrize("settings", [Deflate(), TAKEOVER])
@pytest.mark.parametrize("payload", [b"\x00", b"", b"\x02\x00", b"\x03\x00\x00"])
def test_an_empty_message_is_empty(payload, settings):
    """Also without the byte that it should have: zlib leaves it out of a second one."""
    codec = codec_of(settings=settings)
    assert codec.inflate(payload, 0) == b""
    assert codec.inflate(bytes.fromhex(HELLO["1: one block"]), 5) == b"Hello"


@pytest.mark.parametrize("settings", [Deflate(), TAKEOVER])
def test_the_block_behind_a_final_one_may_be_left_out(settings):
    """What such a sender means is clear."""
    payload = deflated(b"Hello", final=True)[:-1]
    codec = codec_of(settings=settings)
    for _ in range(2):
        assert codec.inflate(payload, 5) == b"Hello"


@pytest.mark.parametrize("settings", [Deflate(), TAKEOVER])
def test_blocks_may_follow_a_final_one(settings):
    """And refer to what was before it, as the window goes on (section 7.2.1)."""
    data = prose(3000)
    behind = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=data)
    payload = deflated(data, final=True)[:-1] + deflated(data[:1000], context=behind)
    assert codec_of(settings=settings).inflate(payload, 4000) == data + data[:1000]


@pytest.mark.parametrize("settings", [Deflate(), TAKEOVER])
def test_after_a_final_block_the_context_goes_on_with_its_message(settings):
    """A client that takes over its context does so there as well."""
    data = prose(3000)
    codec = codec_of(settings=settings)
    assert codec.inflate(deflated(data, final=True), 3000) == data
    behind = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=data)
    second = deflated(data, context=behind)
    if settings is TAKEOVER:
        assert codec.inflate(second, 3000) == data
    else:
        assert said(codec.inflate, second, 3000) == MALFORMED


@pytest.mark.parametrize("settings", [Deflate(), TAKEOVER])
def test_final_blocks_are_few(settings):
    """Each makes a new inflater."""
    codec = codec_of(settings=settings)
    fine = b"\x03\x00" * (MAX_FINAL_BLOCKS - 1) + b"\x00"
    assert codec.inflate(fine, 9) == b""
    assert said(codec.inflate, b"\x03\x00" + fine, 9) == MALFORMED
    assert said(codec.inflate, b"\x03\x00" * 500_000, 9) == MALFORMED


@pytest.mark.parametrize("settings", [Deflate(), TAKEOVER])
@pytest.mark.parametrize(
    "payload",
    [
        b"\xff",
        b"\x06",
        b"Hello",
        b"\x00\x05\x00\xfa\xffHell",  # a block that goes on in what is put back
        b"\x00\x04\x00\xfb\xff",  # a block that is nothing else
        b"\x00\x00\x00\xff\xff",  # nothing was taken off
        b"\x00\x00",
        b"\x01\x00\x00\xff\xfe",
        bytes.fromhex(HELLO["1: one block"]) + b"x",
        bytes.fromhex(HELLO["1: one block"]) + b"\x00",
        bytes.fromhex(HELLO["4: a final block"]) + b"\x00",
        bytes.fromhex(HELLO["4: a final block"])[:-1] + b"garbage",
        bytes.fromhex(HELLO["4: a final block"])[:-1] + b"\x07",
        zlib.compress(b"Hello"),
    ],
)
def test_what_is_no_deflate_stream_is_malformed(payload, settings):
    """Garbage behind its end, too."""
    assert said(codec_of(settings=settings).inflate, payload, 1000) == MALFORMED


@pytest.mark.parametrize("settings", [Deflate(), TAKEOVER])
@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("data", [b"Hello", prose(400), noise(400)])
def test_a_message_that_was_cut_is_malformed(data, level, final, settings):
    """At every byte: what is put back never becomes a part of it."""
    whole = deflated(data, level=level, final=final)
    assert codec_of(settings=settings).inflate(whole, 400) == data
    # A first byte of zero is a whole message, an empty one.
    start = 2 if whole[0] == 0 else 1
    # What lacks only the byte behind a final block is understood.
    end = len(whole) - 1 if final else len(whole)
    for size in range(start, end):
        reason = said(codec_of(settings=settings).inflate, whole[:size], 5000)
        assert reason == MALFORMED, size


def test_errors_hold_no_payloads():
    """They are kept as long as their connection."""
    for payload, limit in ((b"\xff" * 99, 9), (deflated(bytes(99)), 9)):
        with pytest.raises(RemoteProtocolError) as caught:
            inflate_alone(15, payload, limit)
        assert caught.value.__context__ is None


@pytest.mark.parametrize("settings", [Deflate(), TAKEOVER])
@pytest.mark.parametrize(("limit", "fits"), [(99, False), (100, True), (101, True)])
@pytest.mark.parametrize("final", [False, True])
def test_the_limit_is_the_most_that_a_message_may_be(limit, fits, settings, final):
    """In inflated bytes, to the byte."""
    codec = codec_of(settings=settings)
    payload = deflated(bytes(100), final=final)
    if fits:
        assert codec.inflate(payload, limit) == bytes(100)
    else:
        assert said(codec.inflate, payload, limit) == TOO_BIG


def test_the_limit_counts_what_is_behind_final_blocks():
    """All blocks of a message together."""
    one = deflated(bytes(60), final=True)[:-1]
    assert inflate_alone(15, one + one, 120) == bytes(120)
    assert said(inflate_alone, 15, one + one, 119) == TOO_BIG


@pytest.mark.parametrize("settings", [Deflate(), TAKEOVER])
def test_no_limit_means_none(settings):
    """The greatest number there is."""
    data = bytes(3 * MIB)
    assert codec_of(settings=settings).inflate(deflated(data), NO_LIMIT) == data


def bomb(size):
    """Return the payload of so many zeros."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    part = bytes(MIB)
    whole = b"".join(deflater.compress(part) for _ in range(size // MIB))
    whole += deflater.compress(bytes(size % MIB))
    return (whole + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


@pytest.mark.parametrize("settings", [Deflate(), TAKEOVER])
@pytest.mark.parametrize("size", [2 * KIB, MIB, 64 * MIB, GIB])
def test_a_bomb_goes_off_at_the_limit(size, settings):
    """The memory that is taken does not depend on its size."""
    payload, limit = bomb(size), KIB
    codec = codec_of(settings=settings)
    tracemalloc.start()
    try:
        assert said(codec.inflate, payload, limit) == TOO_BIG
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Python keeps what is left of the input, a copy of it.
    assert peak < len(payload) + 100 * KIB


def test_a_bomb_takes_about_its_limit():
    """Twice: in parts, and put together."""
    payload = bomb(64 * MIB)
    tracemalloc.start()
    try:
        assert said(inflate_alone, 15, payload, MIB) == TOO_BIG
        assert tracemalloc.get_traced_memory()[1] < 3 * MIB
    finally:
        tracemalloc.stop()


# -- Deflating (section 7.2.1)


@pytest.mark.parametrize("bits", range(8, 16))
@pytest.mark.parametrize("size", [60, 1000, 1024, 5000, 70_000])
def test_a_message_is_one_compressed_frame(bits, size):
    """RSV1 is set; bytes are binary."""
    data = prose(size)
    first, payload = parse(encode_alone(3, bits, data))
    assert first == 0xC2
    assert len(payload) < len(data)
    assert inflated(payload, bits=bits) == data


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_bytes_of_all_kinds_are_binary(make):
    """A memoryview of wider items, too."""
    data = prose(2000)
    first, payload = parse(encode_alone(3, 15, make(data)))
    assert (first, inflated(payload)) == (0xC2, data)
    wide = memoryview(data).cast("H")
    assert inflated(parse(encode_alone(3, 15, wide))[1]) == data


def test_text_is_utf8():
    """As it is without compression."""
    text = "é€😀 green " * 200
    first, payload = parse(encode_alone(3, 15, text))
    assert (first, inflated(payload).decode()) == (0xC1, text)
    with pytest.raises(UnicodeEncodeError):
        encode_alone(3, 15, "\ud800" * 2000)


@pytest.mark.parametrize("size", [0, 1, 5, 2000, 100_000])
def test_what_does_not_become_smaller_is_sent_plain(size):
    """Without RSV1."""
    assert parse(encode_alone(3, 15, noise(size))) == (0x82, noise(size))
    text = "abcdé"
    assert parse(encode_alone(3, 15, text)) == (0x81, text.encode())


def is_within(payload, bits):
    """Say whether a payload needs no wider window than that."""
    inflater = zlib.decompressobj(-bits)
    left = payload + TAIL
    try:
        while left:
            # Byte by byte, or zlib would look back into what it has just written.
            inflater.decompress(left, 1)
            left = inflater.unconsumed_tail
    except zlib.error:
        return False
    return True


@pytest.mark.parametrize("codec", ["alone", "context"])
def test_a_window_of_256_bytes_is_kept(codec):
    """zlib has no such window for deflating; ours never looks further back."""
    chunk = noise(300)
    data = (chunk + b"-") * 20 + (chunk[:200] + b"+") * 20
    offer = f"{PLAIN}; server_max_window_bits=8"
    encode = codec_of(offer, Deflate() if codec == "alone" else TAKEOVER).encode
    _, payload = parse(encode(data))
    assert is_within(payload, 8)
    assert len(payload) < len(data)
    assert not is_within(deflated(data, bits=10), 8), "the test would see it"


@pytest.mark.parametrize("bits", [9, 12, 15])
def test_no_window_is_wider_than_negotiated(bits):
    """Whatever the size of the message."""
    chunk = noise(1 << bits)
    data = (chunk + b"-") * 3 + (chunk[:200] + b"+") * 20
    codec = codec_of(f"{PLAIN}; server_max_window_bits={bits}", Deflate())
    assert inflated(parse(codec.encode(data))[1], bits=bits) == data
    assert is_within(parse(codec.encode(data))[1], bits)


# -- Context takeover


def test_the_servers_context_goes_on_from_message_to_message():
    """The second of two alike is tiny."""
    codec, inflater = codec_of(), zlib.decompressobj(-15)
    sizes = []
    for data in (prose(3000), prose(3000), "é" * 2000, noise(2000), noise(2000)):
        first, payload = parse(codec.encode(data))
        expected = data.encode() if isinstance(data, str) else data
        assert inflated(payload, inflater) == expected
        assert first == (0xC1 if isinstance(data, str) else 0xC2)
        sizes.append(len(payload))
    assert sizes[1] < sizes[0] / 2
    assert sizes[4] < sizes[3] / 5, "also what did not become smaller is known"


def test_empty_messages_are_complete():
    """zlib says nothing for the second one."""
    codec, inflater = codec_of(), zlib.decompressobj(-15)
    for data in (b"", b"", b"Hello", b"", b"", b"Hello"):
        _, payload = parse(codec.encode(data))
        assert payload
        assert inflated(payload, inflater) == data


def test_shared_frames_do_not_disturb_the_context():
    """The client's context has them, ours has not, so ours begins anew."""
    codec, inflater = codec_of(), zlib.decompressobj(-15)
    for shared in (False, False, True, False, True, True, False, False):
        data = prose(3000)
        if shared:
            _, payload = parse(codec.encode_shared(data))
            codec.forget()
        else:
            _, payload = parse(codec.encode(data))
        assert inflated(payload, inflater) == data


def test_shared_frames_may_be_lost_on_their_way():
    """A slow client's are dropped."""
    codec, inflater = codec_of(), zlib.decompressobj(-15)
    for lost in (False, True, False, True, True, False):
        codec.encode_shared(prose(3000))
        codec.forget()
        payload = parse(codec.encode(prose(2000)))[1]
        assert inflated(payload, inflater) == prose(2000)
        if not lost:
            inflated(parse(codec.encode_shared(prose(3000)))[1], inflater)
            codec.forget()


def test_without_takeover_there_is_nothing_to_forget():
    """Both ends may be asked the same."""
    codec = codec_of(settings=Deflate())
    codec.forget()
    assert codec.encode is codec.encode_shared


@pytest.mark.parametrize("side", ["server", "client"])
def test_each_side_may_begin_anew_by_itself(side):
    """As the client offers it."""
    codec = codec_of(f"{PLAIN}; {side}_no_context_takeover")
    assert type(codec) is ContextCodec
    inflater, context = zlib.decompressobj(-15), zlib.compressobj(6, 8, -15)
    alone = negotiate(read_extensions([PLAIN.encode()]), Deflate()).codec()
    assert (codec.encode is alone.encode) == (side == "server")
    assert (codec.inflate is alone.inflate) == (side == "client")
    for _ in range(3):
        data = prose(2000)
        fresh = inflater if side == "client" else None
        assert inflated(parse(codec.encode(data))[1], fresh) == data
        kept = context if side == "server" else None
        assert codec.inflate(deflated(data, context=kept), 2000) == data


def test_contexts_are_made_when_they_are_needed():
    """300 KiB a connection, but not for those that are idle."""
    offers = read_extensions([b"permessage-deflate"])
    tracemalloc.start()
    try:
        kept = [negotiate(offers, TAKEOVER).codec() for _ in range(100)]
        assert tracemalloc.get_traced_memory()[0] < 100 * KIB
    finally:
        tracemalloc.stop()
    assert len(kept) == 100


@pytest.mark.parametrize("settings", [Deflate(), TAKEOVER])
def test_level_and_size_come_from_the_settings(settings):
    """As the options say."""
    level_9 = codec_of(settings=Deflate(9, 77, settings.context_takeover))
    level_1 = codec_of(settings=Deflate(1, 78, settings.context_takeover))
    assert (level_9.min_size, level_1.min_size) == (77, 78)
    data = prose(50_000)
    assert len(level_9.encode(data)) < len(level_1.encode(data))


# -- Any messages at all

messages = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=100),
    st.builds(lambda part, times: part * times, st.binary(), st.integers(0, 3000)),
    st.integers(0, 5000).map(prose),
    st.integers(0, 5000).map(noise),
)
offers = st.builds(
    lambda *parts: "; ".join([PLAIN, *filter(None, parts)]),
    st.sampled_from(["", "server_no_context_takeover"]),
    st.sampled_from(["", "client_no_context_takeover"]),
    st.sampled_from(["", *(f"server_max_window_bits={n}" for n in range(8, 16))]),
    st.sampled_from(
        ["", *(f"client_max_window_bits={n}" for n in range(8, 16))],
    ),
)


@given(offers, st.lists(st.tuples(messages, st.booleans()), max_size=6), st.booleans())
@settings(deadline=None)
def test_what_is_encoded_is_inflated(offer, sent, takeover):
    """The server's way to a client, frames of its own and shared ones mixed."""
    found = negotiate(
        read_extensions([offer.encode()]), Deflate(context_takeover=takeover)
    )
    codec, bits = found.codec(), found.server_max_window_bits or 15
    inflater = zlib.decompressobj(-bits)
    for data, shared in sent:
        if shared:
            first, payload = parse(codec.encode_shared(data))
            codec.forget()
        else:
            first, payload = parse(codec.encode(data))
        if found.server_no_context_takeover:
            inflater = zlib.decompressobj(-bits)
        whole = inflated(payload, inflater) if first & 0x40 else payload
        assert whole == (data.encode() if isinstance(data, str) else data)
        assert first & 0x8F == (0x81 if isinstance(data, str) else 0x82)


@given(offers, st.lists(messages, max_size=6), st.booleans())
@settings(deadline=None)
def test_what_clients_deflate_is_inflated(offer, sent, takeover):
    """With the window that was negotiated, and no wider one."""
    found = negotiate(
        read_extensions([offer.encode()]), Deflate(context_takeover=takeover)
    )
    bits = max(9, found.client_max_window_bits or 15)
    codec, context = found.codec(), None
    for data in sent:
        whole = data.encode() if isinstance(data, str) else data
        if context is None or found.client_no_context_takeover:
            context = zlib.compressobj(6, zlib.DEFLATED, -bits)
        deflater = context.compress(whole) + context.flush(zlib.Z_SYNC_FLUSH)
        assert codec.inflate(deflater[:-4], len(whole)) == whole


@given(st.binary(max_size=100), st.booleans(), st.integers(0, 50))
@settings(deadline=None, max_examples=500)
def test_any_bytes_are_inflated_or_refused(payload, takeover, limit):
    """Nothing else is raised, and the limit holds; both codecs agree."""
    outcomes = []
    for inflate in (codec_of().inflate, codec_of(settings=Deflate()).inflate):
        try:
            outcomes.append(inflate(payload, limit))
            assert len(outcomes[-1]) <= limit
        except RemoteProtocolError as error:
            outcomes.append((error.reason, error.hint))
    assert outcomes[0] == outcomes[1]
