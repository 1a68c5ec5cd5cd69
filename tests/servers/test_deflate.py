"""permessage-deflate as clients meet it (RFC 7692)."""

import asyncio
import random
import zlib

import gevent
import pytest
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.sync.client import connect

from greenchannels import (
    ConfigurationError,
    ConnectionEnded,
    Deflate,
    Group,
    Limits,
    Server,
    ServerOptions,
    gsgi,
    http,
    websocket,
)
from greenchannels.testing import Client
from greenchannels.wire import deflate_codec
from tests.browser.chromium import Browser, find_chromium
from tests.conformance.autobahn import our_server
from tests.servers.harness import (
    BINARY,
    CLOSE,
    CONT,
    MASK,
    PING,
    PONG,
    TEXT,
    encode_masked,
    until,
)

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
TAIL = b"\x00\x00\xff\xff"
OFFER = "permessage-deflate"
FRESH = f"{OFFER}; server_no_context_takeover; client_no_context_takeover"
TAKEOVER = Deflate(context_takeover=True)
RSV1 = 4

WORDS = ["green", "channels", "blue", "whale", "é", "x"]


def prose(size):
    """Return text of so many characters that compresses."""
    words = random.Random(size).choices(WORDS, k=size)
    return " ".join(words)[:size]


def noise(size):
    """Return bytes that do not compress."""
    return random.Random(size).randbytes(size)


def echo(socket):
    """Send every message back."""
    for message in socket:
        socket.send(message)


def offer(text=OFFER):
    """Return the header fields of a client that can compress."""
    return [("Sec-WebSocket-Extensions", text)]


class Talk:
    """A client that compresses, over a connection of the harness."""

    def __init__(self, running, path="/", extensions=OFFER, *, bits=15, **options):
        self.peer = running.peer(**options)
        self.peer.open(path, offer(extensions))
        self._client_bits = max(9, bits)
        self.deflater = self.inflater = None

    def deflated(self, data, *, final=False):
        """Return the payload of a message."""
        deflater = self.deflater or zlib.compressobj(6, 8, -self._client_bits)
        whole = deflater.compress(data.encode() if isinstance(data, str) else data)
        if final:
            return whole + deflater.flush() + b"\x00"
        return (whole + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]

    def send(self, *messages):
        """Send messages, compressed, all in one piece."""
        self.peer.send(
            b"".join(
                encode_masked(
                    TEXT if isinstance(each, str) else BINARY,
                    self.deflated(each),
                    MASK,
                    rsv=RSV1,
                )
                for each in messages
            )
        )

    def send_payload(self, payload, opcode=TEXT, *cuts, between=b""):
        """Send what is said to be a compressed message, in frames."""
        places = [0, *cuts, len(payload)]
        frames = [
            encode_masked(
                CONT if i else opcode,
                payload[a:b],
                MASK,
                fin=i == len(places) - 2,
                rsv=0 if i else RSV1,
            )
            for i, (a, b) in enumerate(zip(places, places[1:], strict=False))
        ]
        self.peer.send(between.join(frames))

    def frame(self):
        """Return first byte and payload of the next frame."""
        first, second = self.peer.read(2)
        assert not second & 0x80, "a server does not mask"
        size = second
        if size > 125:
            size = int.from_bytes(self.peer.read(2 if size == 126 else 8), "big")
        return first, self.peer.read(size)

    def hear(self):
        """Return the next message, and whether it was compressed."""
        first, payload = self.frame()
        assert first & 0x8F in (0x80 | TEXT, 0x80 | BINARY), (first, payload)
        compressed = bool(first & 0x40)
        if compressed:
            inflater = self.inflater or zlib.decompressobj(-15)
            payload = inflater.decompress(payload + TAIL)
        message = payload.decode() if first & 15 == TEXT else payload
        return message, compressed

    def take_over(self):
        """Keep the contexts of both directions from now on."""
        self.deflater = zlib.compressobj(6, 8, -self._client_bits)
        self.inflater = zlib.decompressobj(-15)


def elsewhere(function, *args):
    """Run what blocks in a native thread, while the hub serves."""
    with gevent.Timeout(60):
        return gevent.get_hub().threadpool.apply(function, args)


def url(running, path="/"):
    """Return where a server's WebSockets are."""
    return f"ws://127.0.0.1:{running.address[1]}{path}"


# -- The handshake


@pytest.mark.parametrize(
    ("extensions", "answer"),
    [
        (OFFER, FRESH),
        (f"{OFFER}; client_max_window_bits", FRESH),
        (
            f"{OFFER}; server_max_window_bits=9; client_max_window_bits=10",
            f"{FRESH}; server_max_window_bits=9; client_max_window_bits=10",
        ),
        (f"{OFFER}; unknown, {OFFER}", FRESH),
        (f"x-webkit-deflate-frame, {OFFER}", FRESH),
    ],
)
def test_what_is_offered_is_answered(serve, extensions, answer):
    """By one field of the 101; by default without context takeover."""
    response = serve(echo).peer().open("/", offer(extensions))
    assert response["sec-websocket-extensions"] == answer


@pytest.mark.parametrize(
    "headers",
    [
        (),
        offer("foo"),
        offer(f"{OFFER}; server_max_window_bits=7"),
        offer(f"{OFFER}; a"),
    ],
)
def test_what_cannot_be_accepted_is_not_answered(serve, headers):
    """The socket opens without it, and reserved bits stay reserved."""
    running = serve(echo)
    peer = running.peer()
    response = peer.open("/", headers)
    assert not response.get("sec-websocket-extensions")
    peer.say("x" * 5000)
    assert peer.hear() == "x" * 5000
    peer.frame(TEXT, b"\x00", rsv=RSV1)
    assert peer.closing().code == 1002


@pytest.mark.parametrize("extensions", [f"{OFFER};", f"{OFFER}; a b", "", "a;=b"])
def test_a_malformed_offer_is_400(serve, extensions):
    """Also where nothing would be accepted."""
    for deflate in (Deflate(), None):
        assert (
            serve(echo, deflate=deflate).refused("/", offer(extensions)).status == 400
        )


def test_the_answer_stands_beside_what_the_consumer_adds(serve):
    """A subprotocol and headers."""

    def consumer(socket):
        socket.accept("chat", [("x-a", "b")])
        socket.receive()

    headers = [*offer(), ("Sec-WebSocket-Protocol", "chat")]
    response = serve(consumer).peer().open("/", headers)
    assert response["sec-websocket-extensions"] == FRESH
    assert response["sec-websocket-protocol"] == "chat"
    assert response["x-a"] == "b"


def gsgi_echo(scope, receive, send):
    """Send every message back, by events."""
    if scope["type"] != "websocket":
        raise ValueError("only sockets")
    receive()
    send({"type": "websocket.accept"})
    while (event := receive())["type"] == "websocket.receive":
        data = {name: event.get(name) for name in ("text", "bytes")}
        send({"type": "websocket.send", **data})


@pytest.mark.parametrize("server", [None, Deflate()])
def test_routes_say_for_themselves(serve, server):
    """``None`` is what the server says."""
    running = serve(
        [
            websocket("/default", echo),
            websocket("/off", echo, deflate=False),
            websocket("/on", echo, deflate=True),
            websocket("/ten", echo, deflate=Deflate(max_window_bits=10)),
            gsgi("/gsgi/off", gsgi_echo, deflate=False),
            gsgi("/gsgi/on", gsgi_echo, deflate=True),
            gsgi("/gsgi/default", gsgi_echo),
        ],
        deflate=server,
    )
    answers = {
        path: running.peer().open(path, offer()).get("sec-websocket-extensions")
        for path in (
            *("/default", "/off", "/on", "/ten"),
            *("/gsgi/default", "/gsgi/off", "/gsgi/on"),
        )
    }
    default = [] if server is None else [FRESH]
    assert answers == {
        "/default": default,
        "/off": [],
        "/on": [FRESH],
        "/ten": [f"{FRESH}; server_max_window_bits=10"],
        "/gsgi/default": default,
        "/gsgi/off": [],
        "/gsgi/on": [FRESH],
    }


@pytest.mark.parametrize(
    ("deflate", "reason"),
    [
        (Deflate(level=0), "level is a number from 1 to 9, not 0"),
        (Deflate(level=10), "level is"),
        (Deflate(level=True), "level is"),
        (Deflate(min_size=-1), "min_size is"),
        (Deflate(min_size=None), "min_size is"),
        (Deflate(max_window_bits=7), "max_window_bits is a number from 8 to 15, not 7"),
        (Deflate(max_window_bits=16), "max_window_bits is"),
        (Deflate(max_window_bits=9.5), "max_window_bits is"),
        (Deflate(context_takeover=1), "context_takeover is True or False, not 1"),
        ("yes", "deflate is a Deflate object, not 'yes'"),
    ],
)
def test_wrong_settings_are_refused_at_the_start(deflate, reason):
    """By routes and by servers."""
    with pytest.raises(ConfigurationError, match=f"/a: {reason}"):
        websocket("/a", echo, deflate=deflate)
    with pytest.raises(ConfigurationError, match=f"/a: {reason}"):
        gsgi("/a", gsgi_echo, deflate=deflate)
    with pytest.raises(ConfigurationError, match=reason):
        Server([], options=ServerOptions(deflate=deflate))


def test_http_is_as_it_was(serve):
    """The field means nothing there."""
    running = serve([http("/", lambda request: "page")])
    assert running.get("/", headers=offer("a;=b")).body == b"page"


# -- Messages


@pytest.mark.parametrize("path", ["/", "/gsgi"])
@pytest.mark.parametrize("takeover", [False, True])
@pytest.mark.parametrize("size", [1, 126, 1023, 1024, 1025, 70_000, 900_000])
def test_messages_come_back(serve, size, takeover, path):
    """Text and binary; those of 1 KiB and more compressed."""
    deflate = Deflate(context_takeover=takeover)
    running = serve([websocket("/", echo), gsgi("/gsgi", gsgi_echo)], deflate=deflate)
    talk = Talk(running, path)
    if takeover:
        talk.take_over()
    for message in (prose(size), prose(size).encode()[:size], prose(size)):
        talk.send(message)
        assert talk.hear() == (message, size >= 1024)


def test_empty_messages_come_back(serve):
    """In all forms that clients give them."""
    talk = Talk(serve(echo, deflate=Deflate(min_size=0)))
    for payload in (b"\x00", b"", b"\x02\x00"):
        talk.send_payload(payload)
        assert talk.hear() == ("", False)
        talk.send_payload(payload, BINARY)
        assert talk.hear() == (b"", False)


def test_what_does_not_compress_is_sent_plain(serve):
    """It would only be longer."""
    talk = Talk(serve(echo))
    talk.send(noise(5000))
    assert talk.hear() == (noise(5000), False)


def test_plain_messages_may_be_mixed_in(serve):
    """Compression is for each message to decide."""
    talk = Talk(serve(echo, deflate=TAKEOVER))
    talk.take_over()
    for i in range(6):
        message = prose(2000 + i // 2)
        if i % 2:
            talk.peer.say(message)
        else:
            talk.send(message)
        assert talk.hear() == (message, True)


def test_wrong_messages_fail_as_they_do_without_compression(serve):
    """By TypeError, with the same text."""
    said = []

    def consumer(socket):
        socket.accept()
        for wrong in ({"a": 1} | dict.fromkeys(range(2000)), 5, None):
            try:
                socket.send(wrong)
            except TypeError as error:
                said.append(str(error))
        socket.receive()

    Talk(serve(consumer, deflate=Deflate(min_size=0)))
    until(lambda: len(said) == 3)
    assert all(each.startswith("a message is str, bytes, bytearray") for each in said)


def test_fragments_and_control_frames_between_them(serve):
    """Pings are answered while the message is not complete."""
    talk = Talk(serve(echo))
    payload = talk.deflated(prose(3000))
    assert len(payload) > 50
    ping = encode_masked(PING, b"p", MASK)
    talk.send_payload(payload, TEXT, 1, 20, 20, 50, between=ping)
    for _ in range(4):
        assert talk.frame() == (0x80 | PONG, b"p")
    assert talk.hear() == (prose(3000), True)


@pytest.mark.parametrize("opcode", [CONT, PING, PONG, CLOSE])
def test_rsv1_is_for_the_first_frame_of_a_message_only(serve, opcode):
    """1002 otherwise."""
    talk = Talk(serve(echo))
    payload = talk.deflated("hello")
    if opcode == CONT:
        talk.peer.frame(TEXT, payload[:2], fin=False, rsv=RSV1)
    talk.peer.frame(opcode, payload[2:], rsv=RSV1)
    closed = talk.peer.closing()
    assert (closed.code, closed.reason) == (1002, "reserved bits are set")


# -- The parameters


@pytest.mark.parametrize("bits", range(8, 16))
def test_both_windows_are_as_negotiated(serve, bits):
    """What zlib finds too far away is an error of its own."""
    extensions = (
        f"{OFFER}; server_max_window_bits={bits}; client_max_window_bits={bits}"
    )
    talk = Talk(serve(echo), extensions=extensions, bits=bits)
    message = (noise(200) + bytes(100)) * 500
    talk.send(message)
    first, payload = talk.frame()
    assert first == 0xC0 | BINARY
    inflater, found, left = zlib.decompressobj(-bits), b"", payload + TAIL
    while left:  # byte by byte, or zlib would see more than its window
        found += inflater.decompress(left, 1)
        left = inflater.unconsumed_tail
    assert found == message


def test_contexts_are_taken_over_where_that_is_asked_for(serve):
    """In both directions; the second of two alike takes hardly any bytes."""
    talk = Talk(serve(echo, deflate=TAKEOVER))
    talk.take_over()
    sizes = []
    message = noise(2000).hex()
    for _ in range(2):
        talk.send_payload(talk.deflated(message))
        first, payload = talk.frame()
        assert first == 0xC0 | TEXT
        assert talk.inflater.decompress(payload + TAIL).decode() == message
        sizes.append(len(payload))
    assert sizes[1] < sizes[0] / 10
    assert len(talk.deflated(message)) < 100, "the client's was used as well"


@pytest.mark.parametrize("side", ["server", "client"])
def test_one_side_may_begin_anew(serve, side):
    """As the client offers it."""
    talk = Talk(
        serve(echo, deflate=TAKEOVER), extensions=f"{OFFER}; {side}_no_context_takeover"
    )
    if side == "server":
        talk.deflater = zlib.compressobj(6, 8, -15)
    else:
        talk.inflater = zlib.decompressobj(-15)
    for _ in range(3):
        talk.send(prose(3000))
        assert talk.hear() == (prose(3000), True)


def test_without_takeover_a_message_may_not_refer_to_earlier_ones(serve):
    """The client was told so: 1007."""
    talk = Talk(serve(echo))
    talk.deflater = zlib.compressobj(6, 8, -15)
    talk.send(prose(3000))
    assert talk.hear() == (prose(3000), True)
    talk.send(prose(3000))
    assert talk.peer.closing().code == 1007


# -- Bad input


@pytest.fixture
def held():
    """A list, and a consumer that keeps what it is sent there."""
    messages = []

    def consumer(socket):
        messages.extend(socket)

    return messages, consumer


@pytest.mark.parametrize("cuts", [(), (5,)])
@pytest.mark.parametrize("takeover", [False, True])
@pytest.mark.parametrize(
    "payload",
    [
        b"\xff",
        b"Hello",
        b"\x00\x05\x00\xfa\xffHell",
        b"\x00\x00\x00\xff\xff",
        bytes.fromhex("f248cdc9c90700") + b"x",
        bytes.fromhex("f348cdc9c90700") + b"garbage",
        b"\x03\x00" * 1000,
        zlib.compress(b"Hello"),
    ],
)
def test_a_bad_stream_is_1007(serve, held, payload, takeover, cuts):
    """Nothing of it reaches the consumer."""
    messages, consumer = held
    talk = Talk(serve(consumer, deflate=Deflate(context_takeover=takeover)))
    talk.send_payload(payload, BINARY, *cuts)
    closed = talk.peer.closing()
    assert (closed.code, closed.reason) == (1007, "compressed data is malformed")
    assert messages == []


@pytest.mark.parametrize("takeover", [False, True])
def test_a_message_cut_at_any_byte_is_1007(serve, held, takeover):
    """And each connection ends by itself."""
    messages, consumer = held
    running = serve(consumer, deflate=Deflate(context_takeover=takeover))
    whole = Talk(running).deflated(prose(200))
    for size in range(1, len(whole)):
        talk = Talk(running)
        talk.send_payload(whole[:size])
        assert talk.peer.closing().code == 1007, size
        talk.peer.close()
    assert messages == []


@pytest.mark.parametrize("data", [b"\xff", b"ab\xc3", b"\xed\xa0\x80"])
def test_text_that_is_not_utf8_is_1007(serve, held, data):
    """When it has been inflated; the same bytes are fine as binary."""
    messages, consumer = held
    talk = Talk(serve(consumer))
    talk.send(data)
    until(lambda: messages == [data])
    talk.send_payload(talk.deflated(data))
    assert talk.peer.closing().code == 1007


def bomb(size):
    """Return the payload of so many zeros."""
    deflater, part = zlib.compressobj(9, zlib.DEFLATED, -15), bytes(MIB)
    whole = b"".join(deflater.compress(part) for _ in range(size // MIB))
    whole += deflater.compress(bytes(size % MIB))
    return (whole + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


def peak_memory(*, reset=False):
    """Return the most memory that this process had since the last reset, in bytes."""
    if reset:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    with open("/proc/self/status") as file:
        found = next(line for line in file if line.startswith("VmHWM:"))
    return int(found.split()[1]) * KIB


@pytest.mark.parametrize("takeover", [False, True])
@pytest.mark.parametrize(
    ("size", "limit"),
    [(MIB, KIB), (16 * MIB, MIB), (16 * MIB, 100 * KIB), (GIB, MIB)],
)
def test_a_bomb_is_1009_and_takes_no_memory(serve, held, size, limit, takeover):
    """The limit of a message holds while it is inflated."""
    messages, consumer = held
    limits = Limits(max_message=limit)
    running = serve(consumer, limits=limits, deflate=Deflate(context_takeover=takeover))
    payload = bomb(size)
    talk = Talk(running)
    before = peak_memory(reset=True)
    talk.send_payload(payload, BINARY)
    closed = talk.peer.closing()
    assert (closed.code, closed.reason) == (1009, "message is too big")
    # The frame on its way, and a message of the limit in parts and as a whole.
    assert peak_memory() - before < 8 * len(payload) + 4 * limit + 4 * MIB
    assert messages == []


def test_many_bombs_within_the_limit_fill_no_memory(serve):
    """A consumer that does not receive is sent 1 GiB in 1 MiB."""
    going_on = gevent.event.Event()

    def consumer(socket):
        socket.accept()
        going_on.wait()

    running = serve(consumer)
    talk = Talk(running)
    one = encode_masked(BINARY, bomb(MIB), MASK, rsv=RSV1)
    before = peak_memory(reset=True)
    sender = gevent.spawn(talk.peer.sock.sendall, one * 1000)
    (socket,) = running.server.sockets
    until(lambda: socket._input_paused)
    assert peak_memory() - before < 30 * MIB
    going_on.set()
    sender.join(10)
    sender.kill()


def test_bombs_behind_our_close_frame_are_not_inflated(serve):
    """Nobody receives them while the peer's close frame is awaited."""

    def consumer(socket):
        socket.accept()
        socket.close()

    talk = Talk(serve(consumer))
    assert talk.frame() == (0x80 | CLOSE, b"\x03\xe8")
    wire = encode_masked(BINARY, bomb(MIB), MASK, rsv=RSV1) * 300
    before = peak_memory(reset=True)
    talk.peer.send(wire)
    talk.peer.frame(CLOSE, b"\x03\xe8")
    assert talk.peer.ended() == "closed"
    assert peak_memory() - before < 30 * MIB


# -- Groups


@pytest.fixture
def compressing(monkeypatch):
    """A list of how often something was compressed, by size of the window."""
    calls = []
    original = deflate_codec._deflater

    def note(level, bits, memory):
        calls.append(bits)
        return original(level, bits, memory)

    monkeypatch.setattr(deflate_codec, "_deflater", note)
    return calls


def member(socket):
    """Be in the group, and send what is received back to it."""
    with Group("g").joined(socket):
        socket.send("joined")
        for message in socket:
            socket.send(message)


def joined(running, count, path="/", extensions=OFFER):
    """Return so many members."""
    talks = [Talk(running, path, extensions) for _ in range(count)]
    for talk in talks:
        assert talk.hear()[0] == "joined"
    return talks


def test_a_broadcast_is_compressed_once(serve, compressing):
    """However many members it has."""
    talks = joined(serve(member), 20)
    compressing.clear()
    Group("g").send(prose(5000))
    for talk in talks:
        assert talk.hear() == (prose(5000), True)
    assert len(compressing) == 1


def test_small_broadcasts_are_not_compressed(serve, compressing):
    """Nor those that do not become smaller."""
    talks = joined(serve(member), 3)
    for message in (prose(500), "", b"", noise(3000)):
        Group("g").send(message)
        for talk in talks:
            assert talk.hear() == (message, False)
    assert len(compressing) == 1


@pytest.mark.parametrize("message", [prose(5000), prose(5000).encode()])
def test_members_of_all_kinds_are_in_one_group(serve, compressing, message):
    """Plain ones, and one compression for each window."""
    running = serve(
        [
            websocket("/", member),
            websocket("/off", member, deflate=False),
            websocket("/takeover", member, deflate=TAKEOVER),
        ]
    )
    small = f"{OFFER}; server_max_window_bits=9"
    other = f"{OFFER}; client_max_window_bits=9"
    compressed = [
        *joined(running, 3),
        *joined(running, 3, extensions=other),
        *joined(running, 3, extensions=small),
        *joined(running, 3, "/takeover"),
    ]
    plain = [*joined(running, 2, "/off"), *joined(running, 2, extensions="foo")]
    compressing.clear()
    Group("g").send(message)
    for talk in compressed:
        assert talk.hear() == (message, True)
    for talk in plain:
        assert talk.hear() == (message, False)
    assert sorted(compressing) == [9, 13]


def test_broadcasts_and_own_messages_share_a_connection_with_takeover(serve):
    """The context begins anew behind each broadcast, and the client's goes on."""
    talks = joined(serve(member, deflate=TAKEOVER), 2)
    for talk in talks:
        talk.take_over()
    for own, shared in ((1, 0), (2, 1), (0, 2), (3, 3), (1, 0)):
        for i in range(shared):
            Group("g").send(prose(3000 + i))
            for talk in talks:
                assert talk.hear() == (prose(3000 + i), True)
        for i in range(own):
            for talk in talks:
                talk.send(prose(2000 + i))
                assert talk.hear() == (prose(2000 + i), True)


@pytest.mark.parametrize("slow", ["drop", "latest"])
@pytest.mark.parametrize("settings", [Deflate(), TAKEOVER])
def test_what_slow_members_lose_breaks_no_context(serve, slow, settings):
    """What they get can be inflated, whatever was dropped between."""
    limits = Limits(max_write_buffer=64 * KIB)
    route = websocket("/", member, slow=slow, deflate=settings, limits=limits)
    running = serve([route], send_buffer=32 * KIB)
    talk = Talk(running, receive_buffer=4 * KIB)
    if settings is TAKEOVER:
        talk.take_over()
    assert talk.hear() == ("joined", False)
    talk.send(prose(2000))
    assert talk.hear() == (prose(2000), True)
    sent = [noise(20_000 + i).hex() for i in range(60)]
    for text in sent:
        Group("g").send(text)
        gevent.sleep(0)
    talk.send(prose(2000))
    heard = []
    while (message := talk.hear()) != (prose(2000), True):
        heard.append(message)
    assert 1 < len(heard) < len(sent)
    assert all(compressed and text in sent for text, compressed in heard)
    talk.send(prose(2000))
    assert talk.hear() == (prose(2000), True)


def test_what_groups_send_before_the_101_is_compressed_behind_it(serve):
    """When it is known what was negotiated."""

    def consumer(socket):
        socket.join("g")
        Group("g").send(prose(4000))
        socket.accept()
        socket.receive()

    talk = Talk(serve(consumer))
    assert talk.hear() == (prose(4000), True)


# -- The command, and the client for tests


@pytest.mark.parametrize("options", [(), ("--no-deflate",)])
def test_the_command_can_do_without(tmp_path, options):
    """Whatever clients offer."""
    with (
        our_server(tmp_path / "log", *options) as address,
        connect(address, proxy=None) as socket,
    ):
        socket.send(prose(3000))
        assert socket.recv() == prose(3000)
        assert bool(socket.protocol.extensions) == (not options)


@pytest.mark.parametrize("takeover", [False, True])
def test_the_client_for_tests_reads_compressed_messages(takeover):
    """If it is told to offer that."""
    options = ServerOptions(deflate=Deflate(min_size=0, context_takeover=takeover))
    with Client([websocket("/", echo)], options=options) as client:
        with client.websocket("/", deflate=True) as socket:
            answer = socket.headers["sec-websocket-extensions"]
            assert answer == (OFFER if takeover else FRESH)
            for message in (prose(3000), b"", "", prose(3000).encode(), "x"):
                socket.send(message)
                assert socket.receive() == message
        with client.websocket("/") as socket:
            assert "sec-websocket-extensions" not in socket.headers


# -- Other people's clients


@pytest.mark.parametrize("takeover", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"server_no_context_takeover": True},
        {"client_no_context_takeover": True},
        {"server_max_window_bits": 9},
        {"client_max_window_bits": 9},
        {"client_max_window_bits": True, "server_max_window_bits": 12},
    ],
)
def test_the_websockets_package_has_its_messages_echoed(serve, options, takeover):
    """With each parameter; text, bytes, fragments, nothing."""
    running = serve(echo, deflate=Deflate(min_size=100, context_takeover=takeover))
    messages = [
        *("", b"", "", "x", prose(99), prose(5000), prose(5000).encode()),
        *(noise(5000), prose(300_000), noise(300_000), "", prose(5000)),
    ]

    def talk():
        extension = ClientPerMessageDeflateFactory(**options)
        with connect(
            url(running), extensions=[extension], compression=None, proxy=None
        ) as socket:
            assert socket.protocol.extensions, "it was negotiated"
            found = []
            for message in messages:
                socket.send(message)
                found.append(socket.recv())
            socket.send([prose(3000)[:1000], prose(3000)[1000:]])
            return [*found, socket.recv()]

    assert elsewhere(talk) == [*messages, prose(3000)]


@pytest.mark.parametrize("takeover", [False, True])
def test_aiohttp_has_its_messages_echoed(serve, takeover):
    """Its second empty message in a row is compressed to nothing at all."""
    aiohttp = pytest.importorskip("aiohttp")
    running = serve(echo, deflate=Deflate(min_size=100, context_takeover=takeover))
    messages = ["", "", "x", prose(5000), prose(300_000), prose(5000), "", ""]

    async def talk():
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(url(running), compress=15) as socket,
        ):
            assert socket.compress, "it was negotiated"
            found = []
            for message in messages:
                await socket.send_str(message)
                found.append(await socket.receive_str())
            await socket.send_bytes(noise(3000))
            return [*found, await socket.receive_bytes()]

    assert elsewhere(lambda: asyncio.run(talk())) == [*messages, noise(3000)]


PAGE = """
window.seen = [];
window.socket = new WebSocket('%s');
socket.binaryType = 'arraybuffer';
window.text = 'green chânnels '.repeat(2000);
window.bytes = new Uint8Array(50000).map((_, i) => i %% 7);
socket.onopen = () => {
    socket.send(text); socket.send(''); socket.send('x'); socket.send(bytes);
    socket.send(text);
};
socket.onmessage = (e) => seen.push(
    typeof e.data == 'string'
    ? e.data == text ? 'text' : e.data
    : new Uint8Array(e.data).every((b, i) => b == bytes[i]) && e.data.byteLength
);
"""


@pytest.mark.browser
@pytest.mark.skipif(find_chromium() is None, reason="needs a Chromium")
@pytest.mark.parametrize("takeover", [False, True])
def test_chromium_has_its_messages_echoed(serve, tmp_path, takeover):
    """It says which extensions are in use."""
    received = []

    def consumer(socket):
        for message in socket:
            received.append(message)
            socket.send(message)

    deflate = Deflate(context_takeover=takeover)
    running = serve(
        [http("/", lambda request: "<p>"), websocket("/ws", consumer)], deflate=deflate
    )

    def browse():
        with Browser(tmp_path) as browser:
            page = browser.open(f"http://127.0.0.1:{running.address[1]}/")
            page.evaluate(PAGE % url(running, "/ws"))
            seen = page.wait("seen.length == 5 && seen")
            return seen, page.evaluate("socket.extensions")

    with gevent.Timeout(120):
        seen, extensions = gevent.get_hub().threadpool.apply(browse)
    assert seen == ["text", "", "x", 50_000, "text"]
    assert extensions == (OFFER if takeover else FRESH)
    assert received[0] == "green chânnels " * 2000


def test_a_closed_socket_compresses_nothing(serve):
    """``send`` raises as it does without compression."""
    ended = []

    def consumer(socket):
        socket.accept()
        socket.close()
        try:
            socket.send(prose(5000))
        except ConnectionEnded as error:
            ended.append(error.code)

    Talk(serve(consumer)).peer.closing()
    until(lambda: ended == [1000])
