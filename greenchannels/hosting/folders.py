"""
Opening the files of a folder, and nothing outside of it.

A file is opened first and judged afterwards: the kernel says what the descriptor
is and which name it really has, so that no link and no change in between leads out.
Asking for that name is the dearest step; for a second the answer is remembered for a
file that has not been changed, written to or renamed since.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import stat
import sys
import time
from posix import close as close_descriptor  # gevent's os.close looks twice

from ..errors import ConfigurationError

logger = logging.getLogger("greenchannels.hosting")

#: Never blocks, not even at a FIFO.
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

#: Names from "/" on, one for each file: no "//", no "." and "..", no NUL.
_NAME = re.compile(r"(?:/(?!\.\.?(?:/|\Z))[^/\0]++)*+/?")

#: Errors that mean: there is no such file for you.
_ABSENT = frozenset(
    getattr(errno, name)
    for name in (
        *("EACCES", "EILSEQ", "EINVAL", "ELOOP", "ENAMETOOLONG", "ENODEV"),
        *("ENOENT", "ENOTDIR", "ENXIO", "EPERM"),
    )
)

#: What stands for a folder.
INDEX = b"/index.html"

#: Seconds for which the real name of a file is not asked for again.
TRUST = 1.0

#: Files whose real names are remembered.
MAX_KNOWN = 1024


class OpenFile:
    """
    A regular file of a folder, open for reading; a context manager.

    Attributes:
        path: The path that was asked for; empty for a sibling.
        name: The name that was opened: that of its index for a folder.
        real_name: The name without links, when it was last asked for.
        status: Of the open file.

    """

    __slots__ = ("_fd", "name", "path", "real_name", "status")

    def __init__(self, path: str, name: bytes) -> None:
        self._fd = os.open(name, _FLAGS)
        self.path = path
        self.name = name
        self.real_name = b""
        self.status = os.fstat(self._fd)

    def __repr__(self) -> str:
        return f"<OpenFile {os.fsdecode(self.name)!r}>"

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # A route may have found the file for a request that never reached it.
        if hasattr(self, "_fd"):
            self.close()

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""
        return self._fd < 0

    def fileno(self) -> int:
        """
        Return the descriptor.

        Raises:
            ValueError: If it has been closed.

        """
        if self._fd < 0:
            raise ValueError("the file has been closed")
        return self._fd

    def close(self) -> None:
        """Close; again is no error."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            close_descriptor(fd)


class Opener:
    """
    Open files below a directory.

    Args:
        folder: The directory. Links in its own name are followed now, once.

    Raises:
        ConfigurationError: If there is no such directory, or the system does not
            tell the names of descriptors.

    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        flags = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
        try:
            fd = os.open(folder, flags)
        except (OSError, ValueError):
            name = os.fspath(folder)
            raise ConfigurationError(f"no such folder: {name!r}") from None
        try:
            self.root = real_name(fd)
        except OSError as error:
            raise ConfigurationError(
                f"static files need /proc, to see what is in their folder: {error}"
            ) from None
        finally:
            close_descriptor(fd)
        self._base = self.root.rstrip(b"/")
        self._inside = self._base + b"/"
        self._known: dict[bytes, tuple[tuple[int, ...], float, bytes, bytes]] = {}

    def open_path(self, path: str) -> OpenFile | None:
        """
        Open the file that a path names, its index if it names a folder.

        Args:
            path: Empty or from "/" on, percent-decoded.

        Returns:
            The file; ``None`` if there is no regular file of that name inside
            the folder that may be read.

        Raises:
            OSError: If the system is out of descriptors, or the disk fails.

        """
        if not _NAME.fullmatch(path):
            return None
        try:
            name = self._base + path.encode()
        except UnicodeEncodeError:
            return None  # not what a client can have sent
        return self.open(name or b"/", path)

    def open(self, name: bytes, path: str = "") -> OpenFile | None:
        """Open a file by the folder's own name and what follows in it."""
        try:
            return self._open_known(name, path) or self._open(name, path)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            if error.errno in (errno.EACCES, errno.EPERM):
                logger.debug("%r may not be read: %s", name, error)
            return None

    def sibling(self, file: OpenFile, ending: bytes) -> OpenFile | None:
        """Open the file beside another whose name has one more ending."""
        name = file.name + ending
        return self.open(name) if os.access(name, os.F_OK) else None

    def _open_known(self, name: bytes, path: str) -> OpenFile | None:
        """Open what has been opened a moment ago and has not changed since."""
        known = self._known.get(name)
        if known is None or known[1] < time.monotonic():
            return None
        signature, _, opened_name, real = known
        try:
            file = OpenFile(path, opened_name)
        except OSError:
            return None  # the slow way says what it means
        if _signature(file.status) == signature:
            file.real_name = real
            return file
        file.close()
        return None

    def _open(self, name: bytes, path: str) -> OpenFile | None:
        """Look what it is, open it, look whether that is what was opened."""
        asked_for = name
        mode = os.stat(name).st_mode
        if stat.S_ISDIR(mode):
            name = name.rstrip(b"/") + INDEX
            mode = os.stat(name).st_mode
        if not stat.S_ISREG(mode):
            return None  # opening a FIFO or a device would have effects
        file = OpenFile(path, name)
        file.real_name = real_name(file.fileno())
        if not stat.S_ISREG(file.status.st_mode) or not self._holds(file):
            file.close()
            return None
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[asked_for] = (
            _signature(file.status),
            time.monotonic() + TRUST,
            name,
            file.real_name,
        )
        return file

    def _holds(self, file: OpenFile) -> bool:
        inside = file.real_name.startswith(self._inside)
        if not inside:
            logger.debug("%r leads out of the folder", file.name)
        return inside


def _signature(status: os.stat_result) -> tuple[int, ...]:
    """Return what changes with a file, its name or its contents."""
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


if sys.platform == "darwin":

    def real_name(fd: int) -> bytes:
        """Return the name of an open file, without links."""
        return fcntl.fcntl(fd, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0")

else:

    def real_name(fd: int) -> bytes:
        """Return the name of an open file, without links."""
        return os.readlink(b"/proc/self/fd/%d" % fd)
