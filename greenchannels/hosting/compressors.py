"""The content codings that bodies are compressed with (RFC 9110, section 8.4.1)."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias


class Compressor(Protocol):
    """What makes one compressed body."""

    def compress(self, data: bytes | memoryview) -> bytes:
        """Return what of the result is ready."""

    def flush(self) -> bytes:
        """Return what the peer needs to read all that was compressed so far."""

    def finish(self) -> bytes:
        """Return the rest."""


class Gzip:
    """
    RFC 1952.

    Args:
        live: Whether many may be open for long: they are given less memory.

    """

    #: Half the time of zlib's default, for 3 % more bytes.
    LEVEL = 5

    def __init__(self, live: bool) -> None:
        bits, memory = (12, 5) if live else (zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL)
        made = zlib.compressobj(self.LEVEL, zlib.DEFLATED, bits + 16, memory)
        self.compress = made.compress
        self._flush = made.flush

    def flush(self) -> bytes:
        """See ``Compressor``."""
        return self._flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        """See ``Compressor``."""
        return self._flush(zlib.Z_FINISH)


class Brotli:
    """
    RFC 7932, by the package ``brotli``.

    Args:
        live: As for ``Gzip``.

    """

    #: As fast as gzip at its level 5, and smaller.
    QUALITY = 4

    def __init__(self, live: bool) -> None:
        window = 14 if live else 18
        made: Any = importlib.import_module("brotli").Compressor(
            quality=self.QUALITY, lgwin=window
        )
        self.compress: Callable[[bytes | memoryview], bytes] = made.process
        self.flush: Callable[[], bytes] = made.flush
        self.finish: Callable[[], bytes] = made.finish


#: Makes a compressor; the argument is ``live``.
Maker: TypeAlias = Callable[[bool], Compressor]


def find_compressors() -> dict[str, Maker]:
    """Return what can be compressed with here, by the name of its coding."""
    found: dict[str, Maker] = {"gzip": Gzip}
    try:
        importlib.import_module("brotli")
    except ImportError:
        return found
    return {**found, "br": Brotli}
