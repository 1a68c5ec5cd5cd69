"""
Which connections compress their messages, and how: permessage-deflate (RFC 7692).

``negotiate`` chooses the parameters of a connection; what is done by them is in
``deflate_codec.py``. Everything that depends on the parameters alone is shared by all
connections that have the same: without context takeover an idle one costs nothing.
Which frames may be compressed is known to ``frames.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..options import Deflate
from .deflate_codec import Codec, ContextCodec
from .extensions import Extension

#: Its name in the field that negotiates it (section 7).
NAME = "permessage-deflate"

#: Window sizes as they may be written: no leading zeros (section 7.1.2).
_BITS = {str(bits): bits for bits in range(8, 16)}


@dataclass(frozen=True, slots=True, eq=False)
class Parameters:
    """
    What was negotiated (section 7.1). Those of equal contents are one object.

    A window of ``None`` has 15 bits and is not named in the answer.
    """

    settings: Deflate
    server_no_context_takeover: bool
    client_no_context_takeover: bool
    server_max_window_bits: int | None
    client_max_window_bits: int | None
    #: What is answered: the value of Sec-WebSocket-Extensions.
    answer: bytes = field(init=False)
    _codec: Codec = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Make what all its connections share."""
        object.__setattr__(self, "answer", self._encode())
        object.__setattr__(self, "_codec", Codec(*self._numbers()))

    def _encode(self) -> bytes:
        parts = [NAME]
        for name in ("server_no_context_takeover", "client_no_context_takeover"):
            parts += [name] * getattr(self, name)
        for name in ("server_max_window_bits", "client_max_window_bits"):
            bits = getattr(self, name)
            parts += [f"{name}={bits}"] if bits is not None else []
        return "; ".join(parts).encode()

    def codec(self) -> Codec:
        """Return the codec of a new connection; its own only if it has a context."""
        if self.server_no_context_takeover and self.client_no_context_takeover:
            return self._codec
        return ContextCodec(
            *self._numbers(),
            ours=not self.server_no_context_takeover,
            theirs=not self.client_no_context_takeover,
        )

    def _numbers(self) -> tuple[int, int, int, int]:
        return (
            self.settings.level,
            self.settings.min_size,
            self.server_max_window_bits or 15,
            self.client_max_window_bits or 15,
        )


def negotiate(offers: Iterable[Extension], settings: Deflate) -> Parameters | None:
    """
    Return the parameters of the first offer that can be accepted (section 5).

    An offer with a parameter that is unknown, doubled or malformed is declined, as
    section 7.1 demands; that is no error of the handshake.

    Args:
        offers: What the client offers, best first.
        settings: What this server wants.

    """
    for offer in offers:
        asked = _read_offer(offer) if offer.name == NAME else None
        if asked is not None:
            return _accept(asked, settings)
    return None


def _read_offer(offer: Extension) -> dict[str, int | None] | None:
    """Return the parameters of an offer, or ``None`` if it is to be declined."""
    asked: dict[str, int | None] = {}
    for name, text in offer.parameters:
        bits = _BITS.get(text or "")
        if name in ("server_no_context_takeover", "client_no_context_takeover"):
            valid = text is None
        elif name == "server_max_window_bits":
            valid = bits is not None
        elif name == "client_max_window_bits":
            valid = text is None or bits is not None
        else:
            valid = False
        if not valid or name in asked:
            return None
        asked[name] = bits
    return asked


def _accept(asked: dict[str, int | None], settings: Deflate) -> Parameters:
    fresh = not settings.context_takeover
    most = settings.max_window_bits
    ours = min(asked.get("server_max_window_bits") or 15, most)
    theirs = min(asked.get("client_max_window_bits") or 15, most)
    return _parameters(
        settings,
        fresh or "server_no_context_takeover" in asked,
        fresh or "client_no_context_takeover" in asked,
        ours if ours < 15 or "server_max_window_bits" in asked else None,
        # Only a client that says it can is asked for less (section 7.1.2.2).
        theirs if theirs < 15 and "client_max_window_bits" in asked else None,
    )


_parameters = functools.cache(Parameters)
