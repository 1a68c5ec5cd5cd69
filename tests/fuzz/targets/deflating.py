"""permessage-deflate: nothing is inflated beyond its limit, and all comes back."""

import zlib

from greenchannels.errors import RemoteProtocolError
from greenchannels.options import Deflate
from greenchannels.wire.deflate import negotiate
from greenchannels.wire.extensions import Extension, read_extensions
from greenchannels.wire.frames import FrameDecoder
from tests.fuzz.source import Source, text_of

TAIL = b"\x00\x00\xff\xff"
NAMES = [
    *("server_no_context_takeover", "client_no_context_takeover"),
    *("server_max_window_bits", "client_max_window_bits", "other"),
]
VALUES = [None, "8", "9", "10", "15", "16", "08", "x", ""]


def agreed(source):
    """Return parameters that were negotiated."""
    settings = Deflate(
        level=source.number(8) + 1,
        context_takeover=source.flag(),
        max_window_bits=8 + source.number(7),
    )
    asked = [(source.choice(NAMES), source.choice(VALUES)) for _ in range(2)]
    offers = [
        Extension("permessage-deflate", tuple(asked[: source.number(2)])),
        Extension("permessage-deflate", ((NAMES[3], None),)),
    ]
    return negotiate(offers, settings)


class Peer:
    """A client's side, with zlib alone."""

    def __init__(self, parameters):
        self._fresh = parameters.client_no_context_takeover
        self._bits = max(9, parameters.client_max_window_bits or 15)
        self._their_bits = parameters.server_max_window_bits or 15
        self._forgets = parameters.server_no_context_takeover
        self._deflater = self._inflater = None

    def deflate(self, data):
        """Return the payload of a message to the server."""
        if self._fresh or self._deflater is None:
            self._deflater = zlib.compressobj(6, zlib.DEFLATED, -self._bits)
        whole = self._deflater.compress(data)
        whole += self._deflater.flush(zlib.Z_SYNC_FLUSH)
        return whole[:-4] if whole else b"\0"

    def receive(self, payload, limit):
        """Inflate a message of the server's."""
        if self._forgets or self._inflater is None:
            self._inflater = zlib.decompressobj(-self._their_bits)
        return self._inflater.decompress(payload + TAIL, limit)


def deflate(data):
    """Round trips, and payloads that a client made up, one after the other."""
    source = Source(data)
    parameters = agreed(source)
    codec, peer = parameters.codec(), Peer(parameters)
    server = FrameDecoder(None, False, peer.receive)
    while source.more:
        kind, content = source.number(3), source.some() * (source.byte() % 64 or 1)
        if kind == 0:
            message = text_of(content) if source.flag() else content
            frame = codec.encode(message)
            assert server.decode(frame, len(frame), 9, 1 << 40) == [message]
            assert server.error is None
        elif kind == 1:
            payload = peer.deflate(content)
            if parameters.client_no_context_takeover and content:
                check_limit(codec, payload, len(content) - 1)
            assert codec.inflate(payload, len(content)) == content
        else:
            limit = source.number(2000)
            try:
                found = codec.inflate(content, limit)
            except RemoteProtocolError as error:
                assert error.hint in (1007, 1009)
                return  # the connection ends
            assert len(found) <= limit
            if not parameters.client_no_context_takeover:
                return  # the peer knows nothing of it


def check_limit(codec, payload, limit):
    """Check that one byte more than a limit is too much."""
    try:
        codec.inflate(payload, limit)
    except RemoteProtocolError as error:
        assert error.hint == 1009
    else:
        raise AssertionError("more was inflated than the limit allows")


def extensions(data):
    """What a client offers is read to the letter, and what is answered was offered."""
    values = data.split(b"\n")
    try:
        offers = read_extensions(values)
    except RemoteProtocolError as error:
        assert error.hint == 400
        return
    assert offers
    assert offers == read_extensions([b",".join(values)])
    for takeover, bits in (False, 15), (True, 9):
        parameters = negotiate(
            offers, Deflate(context_takeover=takeover, max_window_bits=bits)
        )
        if parameters is None:
            continue
        (answer,) = read_extensions([parameters.answer])
        assert answer.name == "permessage-deflate"
        names = [name for name, _ in answer.parameters]
        assert len(set(names)) == len(names)
        for name, value in answer.parameters:
            assert (value is None) == name.endswith("takeover")
            assert value is None or 8 <= int(value) <= bits or bits == 15
            if name == "client_max_window_bits":
                assert any(name in dict(each.parameters) for each in offers)
