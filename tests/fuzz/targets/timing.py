"""
The time that parsers take: it grows with what they read, and no faster.

A few bytes are repeated to as many as a peer may send at once, since that is what
makes patterns and loops take their time.
"""

import contextlib
import time as clock

from greenchannels.errors import RemoteProtocolError
from greenchannels.options import Deflate, HTTPLimits
from greenchannels.wire.chunked import ChunkedDecoder
from greenchannels.wire.deflate import negotiate
from greenchannels.wire.extensions import Extension, read_extensions
from greenchannels.wire.forwarded import read_forwarded, read_x_forwarded_for
from greenchannels.wire.frames import FrameDecoder, PureFrameDecoder
from greenchannels.wire.grammar import pure_read_head, read_head, read_list
from greenchannels.wire.http1 import RequestParser
from greenchannels.wire.proxy_protocol import ProxyHeaderParser
from greenchannels.wire.request import KNOWN
from tests.fuzz.source import Source

#: Bytes that are read at once: a head's limit.
SIZE = 64 * 1024

#: Seconds of CPU for them below which nothing is looked at closer.
SHORT = 0.1

#: How many times as long four times as much may take; for a loop in a loop it is 16.
MOST = 9.0

MAX = 1 << 40

INFLATE = negotiate([Extension("permessage-deflate")], Deflate()).codec().inflate

PARSERS = [
    lambda wire: FrameDecoder(None).decode(wire, len(wire), MAX, MAX),
    lambda wire: PureFrameDecoder(None).decode(wire, len(wire), MAX, MAX),
    lambda wire: RequestParser(HTTPLimits()).receive_data(wire),
    lambda wire: in_pieces(RequestParser(HTTPLimits()).receive_data, wire),
    lambda wire: ChunkedDecoder(None, None, None).receive_data(wire, []),
    lambda wire: read_head(wire, KNOWN),
    lambda wire: pure_read_head(wire, KNOWN),
    lambda wire: read_list([wire]),
    lambda wire: read_extensions([wire]),
    lambda wire: read_forwarded([wire.decode("latin-1")]),
    lambda wire: read_x_forwarded_for([wire.decode("latin-1")]),
    lambda wire: ProxyHeaderParser().receive_data(wire),
    lambda wire: INFLATE(wire, 1 << 20),
]


def in_pieces(receive, wire):
    """Give a parser a few bytes at a time."""
    for start in range(0, len(wire), 64):
        receive(wire[start : start + 64])


def seconds(parse, wire):
    """Return the CPU time of a parser."""
    start = clock.process_time()
    with contextlib.suppress(RemoteProtocolError):
        parse(wire)
    return clock.process_time() - start


def time(data):
    """Whatever is repeated, no parser takes long for it."""
    source = Source(data)
    parse = source.choice(PARSERS)
    before, unit = source.some(), source.some() or b"a"
    end = source.rest()
    times = SIZE // len(unit)
    took = seconds(parse, before + unit * times + end)
    if took < SHORT:
        return
    quarter = before + unit * (times // 4) + end
    least = min(seconds(parse, quarter) for _ in range(3))
    took = min(took, seconds(parse, before + unit * times + end))
    assert took < MOST * least, f"{least:.2f} s, and for four times as much {took:.2f}"
