"""
Files of a folder as a GSGI consumer: conditions, ranges, encoded siblings.

Reading a file blocks the hub for as long as the disk takes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

import gevent

from ..types import Receive, Scope, Send
from .codings import ENDINGS, wanted_codings
from .conditions import failed_precondition, range_holds
from .folders import Opener, OpenFile
from .ranges import Multipart, content_range, make_multipart, read_ranges
from .representations import Representation, describe
from .responders import ZERO_COPY, EventResponder, Responder

#: Bytes of a file that are read and sent at a time.
CHUNK = 256 * 1024

#: Parts of at least so many bytes are left to the kernel; to read smaller ones and
#: to send them with the head costs less.
ZERO_COPY_FROM = 32 * 1024

#: Request fields that have a say in the answer.
_FIELDS = frozenset(
    (
        *(b"accept-encoding", b"range", b"if-range", b"if-match", b"if-none-match"),
        *(b"if-modified-since", b"if-unmodified-since"),
    )
)

_PLAIN = (b"content-type", b"text/plain; charset=utf-8")

logger = logging.getLogger("greenchannels.hosting")


class Folder:
    """
    Serve the files of one directory to GET and HEAD.

    Args:
        folder: The directory. Links in its own name are followed now, once.

    Raises:
        ConfigurationError: If there is no such directory.

    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._files = Opener(folder)

    def __repr__(self) -> str:
        return f"Folder({os.fsdecode(self._files.root)!r})"

    def find(self, path: str) -> OpenFile | None:
        """
        Open the file that ``path`` names, or return ``None``.

        Nothing outside the folder is ever opened for reading: not by "..", not by
        a symbolic link, not by an absolute path.
        """
        return self._files.open_path(path)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file that the rest of the path names, or what was found there."""
        route = scope["url_route"]
        sends_files = ZERO_COPY in scope.get("extensions", ())
        self.serve(
            EventResponder(receive, send, sends_files=sends_files),
            scope["method"],
            scope["headers"],
            route["kwargs"]["path"],
            route.get("file"),
        )

    def serve(
        self,
        responder: Responder,
        method: str,
        headers: list[tuple[bytes, bytes]],
        path: str,
        file: OpenFile | None,
    ) -> None:
        """
        Answer one request; blocks.

        Args:
            responder: Where the response goes.
            method: GET or HEAD.
            headers: Of the request.
            path: What names the file.
            file: What was found under that name, if anybody has looked.

        """
        if file is None or file.closed or file.path != path:
            file = self.find(path)
        if file is None:
            _send_plainly(responder, 404, (), b"Not Found\n")
            return
        with file:
            fields = _select(headers)
            encoded = self._encoded(file, fields.get(b"accept-encoding"))
            if encoded is None:
                _answer(file, None, fields, method, responder)
            else:
                with encoded[0]:
                    _answer(*encoded, fields, method, responder)

    def _encoded(
        self, file: OpenFile, accept: bytes | None
    ) -> tuple[OpenFile, str] | None:
        """Return the sibling that the client wants most, and its coding."""
        for coding in wanted_codings(accept):
            sibling = self._files.sibling(file, ENDINGS[coding])
            if sibling is None:
                continue
            if sibling.status.st_mtime_ns >= file.status.st_mtime_ns:
                return sibling, coding
            logger.debug("%r is older than %r", sibling, file)
            sibling.close()
        return None


def _select(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return the fields that matter, the lines of each joined."""
    fields: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _FIELDS:
            fields[name] = fields[name] + b", " + value if name in fields else value
    return fields


def _answer(
    file: OpenFile,
    coding: str | None,
    fields: Mapping[bytes, bytes],
    method: str,
    responder: Responder,
) -> None:
    """Send what a request is due that names ``file``."""
    about = describe(file.name, file.real_name, coding, file.status)
    if fields:
        status = failed_precondition(fields, about.etag, about.modified)
        if status == 304:
            responder.begin(304, [*about.validators])
            responder.write(b"", more=False)
            return
        if status == 412:
            _send_plainly(responder, 412, about.validators, b"Precondition Failed\n")
            return
    try:
        if method == "HEAD":
            responder.begin(200, [*about.whole])
            responder.write(b"", more=False)
        elif b"range" not in fields or not _send_ranges(file, about, fields, responder):
            responder.begin(200, [*about.whole])
            _send_part(responder, file, 0, about.size, more=False)
    except _Shrunk:
        # Returned from now, the response lacks promised bytes: it is cut off.
        logger.warning("%r has shrunk while it was sent", file)


def _send_ranges(
    file: OpenFile,
    about: Representation,
    fields: Mapping[bytes, bytes],
    responder: Responder,
) -> bool:
    """Answer with the ranges asked for; tell whether that has been done."""
    if not range_holds(fields, about.etag, about.modified):
        return False
    ranges = read_ranges(fields[b"range"], about.size)
    if ranges is None:
        return False
    if not ranges:
        none = (b"content-range", b"bytes */%d" % about.size)
        _send_plainly(
            responder, 416, (none, *about.validators), b"Range Not Satisfiable\n"
        )
        return True
    if len(ranges) == 1:
        start, stop = ranges[0]
        headers = [
            (b"content-type", about.content_type),
            (b"content-length", b"%d" % (stop - start)),
            (b"content-range", content_range(ranges[0], about.size)),
            *about.validators,
            *about.content,
        ]
        responder.begin(206, headers)
        _send_part(responder, file, start, stop - start, more=False)
        return True
    if about.encoded:
        return False  # whether parts or their frame are encoded, nobody could say
    frame = make_multipart(ranges, about.size, about.content_type)
    _send_multipart(responder, file, about, frame)
    return True


def _send_multipart(
    responder: Responder, file: OpenFile, about: Representation, frame: Multipart
) -> None:
    headers = [
        (b"content-type", frame.content_type),
        (b"content-length", b"%d" % frame.length),
        *about.validators,
        *about.content,
    ]
    responder.begin(206, headers)
    for head, (start, stop) in frame.parts:
        responder.write(head, more=True)
        _send_part(responder, file, start, stop - start, more=True)
    responder.write(frame.end, more=False)


class _Shrunk(Exception):
    """A file has fewer bytes than it had when it was opened."""


def _send_part(
    responder: Responder, file: OpenFile, offset: int, count: int, *, more: bool
) -> None:
    """
    Send ``count`` bytes of a file; blocks.

    Raises:
        _Shrunk: If it has no longer so many.

    """
    if responder.sends_files and count >= ZERO_COPY_FROM:
        responder.write_file(file, offset, count, more)
        return
    fd = file.fileno()
    while True:
        data = os.pread(fd, min(CHUNK, count), offset)
        count -= len(data)
        if not data and count:
            raise _Shrunk
        responder.write(data, more=more or count > 0)
        if not count:
            return
        offset += len(data)
        gevent.sleep(0)  # a peer that is fast does not make others wait


def _send_plainly(
    responder: Responder,
    status: int,
    headers: tuple[tuple[bytes, bytes], ...],
    body: bytes,
) -> None:
    """Send a short text."""
    responder.begin(status, [_PLAIN, *headers])
    responder.write(body, more=False)
