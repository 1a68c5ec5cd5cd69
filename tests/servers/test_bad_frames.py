"""Peers that break the rules of RFC 6455: told why, and cut."""

import gevent
import pytest
from gevent.queue import Queue

from greenchannels import Limits, Timeouts
from tests.servers.harness import (
    BINARY,
    CLOSE,
    CONT,
    MASK,
    MS,
    PING,
    PONG,
    TEXT,
    encode_masked,
    frames,
    handshake,
    until,
)


def masked(opcode, payload=b"", **options):
    """Return a masked frame."""
    return encode_masked(opcode, payload, MASK, **options)


BROKEN = {
    "unmasked": (b"\x81\x01x", 1002),
    "length 2**63": (b"\x82\xff" + (2**63).to_bytes(8, "big") + MASK, 1002),
    "length 2**64 - 1": (b"\x82\xff" + b"\xff" * 8 + MASK, 1002),
    "length 2**62": (b"\x82\xff" + (2**62).to_bytes(8, "big") + MASK, 1009),
    "length not the shortest, 16 bit": (b"\x82\xfe\x00\x05" + MASK + b"xxxxx", 1002),
    "length not the shortest, 64 bit": (
        b"\x82\xff" + (5).to_bytes(8, "big") + MASK + b"xxxxx",
        1002,
    ),
    "over max_message": (b"\x82\xfe" + (1001).to_bytes(2, "big") + MASK, 1009),
    "fragments over max_message": (
        masked(BINARY, b"x" * 600, fin=False) + masked(CONT, b"x" * 401),
        1009,
    ),
    **{f"reserved bits {n}": (masked(TEXT, b"x", rsv=n), 1002) for n in range(1, 8)},
    **{
        f"reserved opcode {n}": (masked(n, b"x"), 1002)
        for n in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    },
    "fragmented ping": (masked(PING, b"x", fin=False), 1002),
    "fragmented pong": (masked(PONG, b"x", fin=False), 1002),
    "fragmented close": (masked(CLOSE, b"\x03\xe8", fin=False), 1002),
    "ping too long": (masked(PING, b"x" * 126), 1002),
    "close too long": (masked(CLOSE, b"\x03\xe8" + b"x" * 124), 1002),
    "continuation of nothing": (masked(CONT, b"x"), 1002),
    "a message within a message": (
        masked(TEXT, b"x", fin=False) + masked(TEXT, b"y"),
        1002,
    ),
    "bad UTF-8": (masked(TEXT, b"\xff"), 1007),
    "half a character": (masked(TEXT, b"\xe2\x82"), 1007),
    "a surrogate": (masked(TEXT, b"\xed\xa0\x80"), 1007),
    "beyond Unicode": (masked(TEXT, b"\xf4\x90\x80\x80"), 1007),
    "overlong": (masked(TEXT, b"\xc0\xaf"), 1007),
    "bad UTF-8 in a fragment": (
        masked(TEXT, b"\xce", fin=False) + masked(CONT, b"x"),
        1007,
    ),
}


@pytest.mark.parametrize("piece", [0, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_answered_with_the_code_that_the_rfc_names(
    serve, caplog, name, piece
):
    """What came before is delivered, what comes behind is not, nobody is surprised."""
    data, code = BROKEN[name]
    seen = Queue()

    def consumer(socket):
        seen.put([*socket])
        seen.put(socket.close_code)

    running = serve(consumer, limits=Limits(max_message=1000))
    peer = running.open()
    data = frames("before") + data
    if piece:
        for byte in data:
            peer.send(bytes([byte]))
            gevent.sleep(0)
    else:
        peer.send(data + frames("behind"))
    assert peer.closing().code == code
    assert peer.ended() == "closed"
    assert seen.get(timeout=1) == ["before"]
    assert seen.get(timeout=1) == code
    peer.close()
    until(lambda: not running.server.connections)
    assert [r for r in caplog.records if r.levelname in ("WARNING", "ERROR")] == []


def test_bad_utf8_is_found_at_its_first_byte(serve):
    """Not when the frame, or the message, is complete."""
    peer = serve(lambda socket: [*socket]).open()
    peer.send(masked(TEXT, b"x" * 100 + b"\xff" + b"x" * 900)[: 8 + 101])
    assert peer.closing().code == 1007


def test_a_message_that_is_too_big_is_refused_when_its_length_is_known(serve):
    """No byte of its payload has to come."""
    peer = serve(lambda socket: [*socket]).open()
    peer.send(masked(BINARY, bytes(2**20 + 1))[:14])
    assert peer.closing().code == 1009


def test_a_message_of_the_limit_is_not_too_big(serve):
    """One byte more is."""

    def consumer(socket):
        for message in socket:
            socket.send(f"{len(message)}")

    peer = serve(consumer, limits=Limits(max_message=5)).open()
    peer.say("x" * 5, "ä" * 2)
    assert [peer.hear(), peer.hear()] == ["5", "2"]
    peer.say("ä" * 3)
    assert peer.closing().code == 1009


def test_without_a_limit_a_message_may_be_of_any_size(serve):
    """max_message=None."""

    def consumer(socket):
        for message in socket:
            socket.send(f"{len(message)}")

    peer = serve(consumer, limits=Limits(max_message=None)).open()
    peer.say(b"x" * 3 * 2**20)
    assert peer.hear() == f"{3 * 2**20}"


def test_a_peer_that_breaks_a_rule_and_stays_is_reset(serve):
    """After the close timeout."""
    running = serve(lambda socket: [*socket], timeouts=Timeouts(close_timeout=60 * MS))
    peer = running.open()
    peer.send(b"\x81\x01x")
    assert peer.next().opcode == CLOSE
    until(lambda: not running.server.connections, seconds=1)


def test_everything_may_come_a_byte_at_a_time(serve):
    """Handshake, text in fragments, a ping between them, binary, close."""

    def consumer(socket):
        for message in socket:
            socket.send(message)

    peer = serve(consumer).peer()
    data = handshake() + masked(TEXT, b"na", fin=False) + masked(PING, b"?")
    data += masked(CONT, "ïve".encode()[:1], fin=False)
    data += masked(CONT, "ïve".encode()[1:]) + masked(BINARY, b"x" * 200)
    data += masked(CLOSE, b"\x03\xe8bye")
    for byte in data:
        peer.send(bytes([byte]))
        gevent.sleep(0)
    assert peer.response().status == 101
    found = [(frame.opcode, frame.payload) for frame in map(peer.next, [5.0] * 4)]
    found.remove((PONG, b"?"))
    assert found == [
        (TEXT, "naïve".encode()),
        (BINARY, b"x" * 200),
        (CLOSE, b"\x03\xe8"),
    ]


def test_a_message_in_ten_thousand_fragments_arrives_as_one(serve):
    """Empty ones among them."""

    def consumer(socket):
        for message in socket:
            socket.send(message)

    peer = serve(consumer).open()
    data = masked(TEXT, b"", fin=False)
    data += (masked(CONT, b"x", fin=False) + masked(CONT, b"", fin=False)) * 5000
    peer.send(data + masked(CONT))
    assert peer.hear() == "x" * 5000


def test_one_bad_peer_disturbs_no_other(serve):
    """Each connection fails alone."""

    def consumer(socket):
        for message in socket:
            socket.send(message)

    running = serve(consumer)
    good = running.open()
    for data, _ in BROKEN.values():
        bad = running.open()
        bad.send(data)
        good.say("x")
        assert good.hear() == "x"
