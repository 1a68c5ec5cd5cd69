"""
The header of the PROXY protocol, versions 1 and 2: who a proxy connects for.

Source: HAProxy's proxy-protocol.txt, sections 2.1 and 2.2. A header stands before
all other bytes of a connection, also before TLS; whether a peer may send one is
not decided here. TLVs are skipped, but for the checksum (section 2.2.3), which
is compared where a proxy sends it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv6Address

from ..errors import RemoteProtocolError

#: Longest header of version 1, with its line end (section 2.1).
MAX_V1 = 107

#: Longest header of version 2. Its length field would allow 65,551 bytes; addresses
#: need 232 at most, and nobody's TLVs come near the rest.
MAX_V2 = 4096

_V1 = b"PROXY "
_V2 = b"\r\n\r\n\x00\r\nQUIT\n"

#: Bytes of version 2 up to the addresses.
_FIXED = 16

_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21

#: Bytes of the addresses, by family and transport (section 2.2); what is not here
#: is invalid.
_ADDRESS_SIZES = {
    **{0x00: 0, 0x01: 0, 0x02: 0},
    **{0x10: 0, _TCP4: 12, 0x12: 12},
    **{0x20: 0, _TCP6: 36, 0x22: 36},
    **{0x30: 0, 0x31: 216, 0x32: 216},
}

_PORT = re.compile(rb"0|[1-9][0-9]{0,4}")

#: The type of the TLV that holds a CRC-32C of the whole header.
_CRC32C = 0x03

#: CRC-32C's polynomial, bits reversed (RFC 9260, appendix A).
_POLYNOMIAL = 0x82F63B78


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """
    What a header says.

    Attributes:
        local: Whether the proxy speaks for itself, as in its health checks.
        source: The client's address and port; ``None`` if ``local``, or if the
            client has none that is known here (UNKNOWN, UNSPEC, UDP, UNIX).

    """

    local: bool
    source: tuple[str, int] | None


class ProxyHeaderParser:
    """
    Read the header at the beginning of a connection.

    Attributes:
        header: What it said; ``None`` until all of it has come.

    """

    __slots__ = ("_data", "header")

    def __init__(self) -> None:
        self._data = bytearray()
        self.header: ProxyHeader | None = None

    def receive_data(self, data: bytes) -> int:
        """
        Take what is part of the header.

        Args:
            data: The next bytes of the connection; not to be called any more once
                ``header`` is there.

        Returns:
            How many of them are the header's: all, unless it ends among them.

        Raises:
            RemoteProtocolError: If they are no header, or a malformed one.

        """
        before = len(self._data)
        self._data += data
        end = self._find_end()
        if end is None:
            return len(data)
        del self._data[end:]
        head = bytes(self._data)
        self.header = _read_v1(head) if head.startswith(_V1) else _read_v2(head)
        return end - before

    def _find_end(self) -> int | None:
        """Return the offset behind the header, or ``None`` if more must come."""
        data = self._data
        if data[: len(_V1)] == _V1[: len(data)]:
            end = data.find(b"\r\n", 0, MAX_V1)
            if end < 0 and len(data) >= MAX_V1:
                raise _malformed("its line does not end")
            return end + 2 if end >= 0 else None
        if data[: len(_V2)] != _V2[: len(data)]:
            raise RemoteProtocolError("there is no PROXY header", 400)
        if len(data) < _FIXED:
            return None
        if data[12] not in (_LOCAL, _PROXY):
            raise _malformed("unknown version or command")
        end = _FIXED + int.from_bytes(data[14:16], "big")
        if end > MAX_V2:
            raise _malformed(f"it has {end} bytes")
        return end if end <= len(data) else None


def _read_v1(line: bytes) -> ProxyHeader:
    """Read a line, its end included (section 2.1)."""
    words = line[:-2].split(b" ")
    if words[1] == b"UNKNOWN":
        return ProxyHeader(False, None)
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        raise _malformed("the line has other words")
    kind = IPv4Address if words[1] == b"TCP4" else IPv6Address
    source, _ = (_read_address(kind, word) for word in words[2:4])
    port, _ = (_read_port(word) for word in words[4:6])
    return ProxyHeader(False, (source, port))


def _read_address(kind: type[IPv4Address | IPv6Address], word: bytes) -> str:
    try:
        if b"%" not in word:
            return str(kind(word.decode("ascii")))
    except ValueError:
        pass
    raise _malformed("not an address")


def _read_port(word: bytes) -> int:
    if _PORT.fullmatch(word) and int(word) <= 0xFFFF:
        return int(word)
    raise _malformed("not a port")


def _read_v2(head: bytes) -> ProxyHeader:
    """Read a header that is whole (section 2.2)."""
    if head[12] == _LOCAL:
        return ProxyHeader(True, None)
    family = head[13]
    size = _ADDRESS_SIZES.get(family)
    if size is None:
        raise _malformed("unknown family or transport")
    block = head[_FIXED : _FIXED + size]
    if len(block) < size:
        raise _malformed("too short for its addresses")
    if size:
        _check_tlvs(head, _FIXED + size)
    if family == _TCP4:
        port = int.from_bytes(block[8:10], "big")
        return ProxyHeader(False, (str(IPv4Address(block[:4])), port))
    if family == _TCP6:
        port = int.from_bytes(block[32:34], "big")
        return ProxyHeader(False, (str(IPv6Address(block[:16])), port))
    return ProxyHeader(False, None)


def _check_tlvs(head: bytes, start: int) -> None:
    """Check that the TLVs fill the header, and the checksum if there is one."""
    while start < len(head):
        size = int.from_bytes(head[start + 1 : start + 3], "big")
        value = head[start + 3 : start + 3 + size]
        if start + 3 > len(head) or len(value) < size:
            raise _malformed("a TLV is cut off")
        if head[start] == _CRC32C:
            blank = head[: start + 3] + bytes(size) + head[start + 3 + size :]
            if size != 4 or crc32c(blank) != int.from_bytes(value, "big"):
                raise _malformed("the checksum is wrong")
        start += 3 + size


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of ``data`` (RFC 9260, appendix A)."""
    table = _crc_table()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


@cache
def _crc_table() -> list[int]:
    """Return the remainders of all bytes; made when a proxy first sends a checksum."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return table


def _malformed(why: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"malformed PROXY header: {why}", 400)
