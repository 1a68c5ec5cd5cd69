"""Content codings: which of them a client wants (RFC 9110, section 12.5.3)."""

from __future__ import annotations

import functools
import re

#: Codings by the ending of the files that have them, best first.
ENDINGS = {"br": b".br", "zstd": b".zst", "gzip": b".gz"}

#: A longer field is no browser's: it is not read, and nothing is encoded for it.
MAX_LENGTH = 256

_CODING = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)"
    rb"(?:[ \t]*;[ \t]*[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?"
)


def wanted_codings(value: bytes | None) -> tuple[str, ...]:
    """
    Return the codings that a client would rather have than none, best first.

    That is by its own weights; among equals the smaller result wins, and any
    coding wins over none.

    Args:
        value: Of Accept-Encoding; ``None`` if there is no such field.

    """
    if value is None or len(value) > MAX_LENGTH:
        return ()
    return _read_codings(value)


@functools.lru_cache(maxsize=128)
def _read_codings(value: bytes) -> tuple[str, ...]:
    weights: dict[str, float] = {}
    for element in value.split(b","):
        match = _CODING.fullmatch(element.strip(b" \t"))
        if match is not None:
            name = match[1].decode().lower()
            weights[name.removeprefix("x-")] = float(match[2] or 1)
    others = weights.get("*", 0.0)
    plain = weights.get("identity", others)
    found = {name: weights.get(name, others) for name in ENDINGS}
    wanted = [name for name, weight in found.items() if weight and weight >= plain]
    return tuple(sorted(wanted, key=lambda name: -found[name]))
