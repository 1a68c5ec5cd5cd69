"""
What the header fields say about a file (RFC 9110, section 8).

Descriptions are kept for the files that are asked for again and again, under all
that they are made of: one that no longer holds is never found.
"""

from __future__ import annotations

import functools
import os
import time
from dataclasses import dataclass
from email.utils import formatdate
from typing import TypeAlias

from .codings import ENDINGS
from .content_types import UNKNOWN, content_type

HeaderList: TypeAlias = tuple[tuple[bytes, bytes], ...]

#: Seconds after a change in which another one might leave the same times.
UNSETTLED = 2.0

#: Descriptions that are kept.
MAX_KEPT = 1024


@dataclass(frozen=True, slots=True)
class Representation:
    """
    A file as it is served, encoded or not.

    Attributes:
        size: In bytes.
        etag: Its entity tag; weak while it may still change unnoticed.
        modified: When it was modified, in seconds since the epoch; ``None`` if
            that is in the future or before 1970.
        content_type: Without its coding.
        encoded: Whether it has a coding.
        validators: Fields that a 304 has as well.
        content: Fields of the content, but its type and length.
        whole: The fields of a 200.

    """

    size: int
    etag: bytes
    modified: int | None
    content_type: bytes
    encoded: bool
    validators: HeaderList
    content: HeaderList
    whole: HeaderList


def describe(
    name: bytes, real_name: bytes, coding: str | None, status: os.stat_result
) -> Representation:
    """
    Return what is to be said about a file.

    Args:
        name: What it was asked for as.
        real_name: What it is called, for its type if ``name`` does not tell.
        coding: Its coding, which its name's ending tells.
        status: Of the open file.

    """
    now = time.time()
    return _describe(
        name,
        real_name,
        coding,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ctime < now - UNSETTLED,
        0 <= status.st_mtime <= now,
    )


@functools.lru_cache(maxsize=MAX_KEPT)
def _describe(
    name: bytes,
    real_name: bytes,
    coding: str | None,
    inode: int,
    size: int,
    modified_ns: int,
    changed_ns: int,
    settled: bool,
    dated: bool,
) -> Representation:
    etag = b'"%x-%x-%x-%x"' % (inode, size, modified_ns, changed_ns)
    if coding is not None:
        etag = etag[:-1] + b'-%b"' % coding.encode()
    if not settled:
        etag = b"W/" + etag
    modified = modified_ns // 1_000_000_000 if dated else None
    kind = _type_of(name, real_name, coding)
    validators = [(b"etag", etag)]
    if modified is not None:
        date = formatdate(modified, usegmt=True).encode()
        validators.append((b"last-modified", date))
    validators += [(b"cache-control", b"no-cache"), (b"vary", b"accept-encoding")]
    content = [(b"accept-ranges", b"bytes"), (b"x-content-type-options", b"nosniff")]
    if coding is not None:
        content.append((b"content-encoding", coding.encode()))
    length = (b"content-length", b"%d" % size)
    return Representation(
        size,
        etag,
        modified,
        kind,
        coding is not None,
        tuple(validators),
        tuple(content),
        ((b"content-type", kind), length, *validators, *content),
    )


def _type_of(name: bytes, real_name: bytes, coding: str | None) -> bytes:
    """Return the type of what is encoded, by its name or what that leads to."""
    for each in (name, real_name):
        if coding is not None:
            each = each.removesuffix(ENDINGS[coding])
        kind = content_type(os.fsdecode(each))
        if kind != UNKNOWN:
            break
    return kind.encode()
