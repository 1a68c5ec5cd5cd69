"""Text of peers and users, made fit for a log and for header fields."""

from __future__ import annotations

from collections.abc import Mapping

from .types import HeaderList

#: Control characters and quotes, which would let a peer write lines of its own.
_ESCAPES = {i: f"\\x{i:02x}" for i in (*range(0x20), 0x22, 0x5C, *range(0x7F, 0xA0))}


def printable(text: str) -> str:
    """Return what a peer sent as it may stand in a log."""
    return text.translate(_ESCAPES)


def encode_headers(headers: HeaderList) -> list[tuple[bytes, bytes]]:
    """Return header fields as bytes."""
    items = headers.items() if isinstance(headers, Mapping) else headers
    return [(_to_bytes(name), _to_bytes(value)) for name, value in items]


def _to_bytes(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text
