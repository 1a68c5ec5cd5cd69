"""What proxies say: the PROXY protocol, Forwarded and X-Forwarded-For."""

from ipaddress import ip_address

from greenchannels.errors import RemoteProtocolError
from greenchannels.wire.forwarded import (
    read_forwarded,
    read_node,
    read_x_forwarded_for,
)
from greenchannels.wire.proxy_protocol import MAX_V1, MAX_V2, ProxyHeaderParser
from tests.fuzz.source import Source

V2 = b"\r\n\r\n\x00\r\nQUIT\n"


def proxy_protocol(data):
    """A header is read to its very end, however it comes, or refused."""
    source = Source(data)
    start = source.choice([b"", V2, V2 + b"\x21", b"PROXY ", b"PROXY TCP4 "])
    cutter = Source(source.bytes(3))
    wire = start + source.rest()
    pieces = cutter.pieces(wire)
    whole = read_header([wire])
    assert read_header(pieces) == whole
    header, size, error = whole
    if error is not None:
        assert header is None and error[1] == 400
    elif header is not None:
        assert size <= (MAX_V1 if wire.startswith(b"PROXY") else MAX_V2)
        assert read_header([wire[:size]]) == whole
        assert read_header([wire[: size - 1]])[0] is None
        if header.source is not None:
            assert not header.local
            ip_address(header.source[0])
            assert 0 <= header.source[1] <= 0xFFFF
    else:
        assert len(wire) < MAX_V2


def read_header(pieces):
    """Return the header, its size, and what is wrong with it."""
    parser, size = ProxyHeaderParser(), 0
    try:
        for piece in pieces:
            taken = parser.receive_data(piece)
            size += taken
            if parser.header is not None:
                break
            assert taken == len(piece)
    except RemoteProtocolError as error:
        return parser.header, 0, (str(error), error.hint)
    return parser.header, size, None


def forwarded(data):
    """Nothing raises; addresses are addresses, and no more hops than were named."""
    text = data.decode("latin-1")
    values = text.split("\n")
    commas = text.count(",") + len(values)
    for read in read_forwarded, read_x_forwarded_for:
        hops = read(values)
        assert len(hops) <= commas
        for hop in hops:
            check_node(hop.address, hop.port)
    joined = read_x_forwarded_for([",".join(values)])
    assert joined == read_x_forwarded_for(values)
    lines = [hop for value in values for hop in read_forwarded([value])]
    assert lines == read_forwarded(values)
    check_node(*read_node(text))


def check_node(address, port):
    """Check what was read of an address."""
    assert 0 <= port <= 0xFFFF and "%" not in address
    assert not address or str(ip_address(address)) == address
    assert address or not port
