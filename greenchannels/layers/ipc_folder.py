"""
The folder in which the processes of ``ipc://NAME`` find each other.

Each process has a socket there, called ``PID-TOKEN``, which is never used again, and
beside it a lock file. Who holds the lock lives: only a socket whose lock is free is
removed. POSIX locks are used because a forked child does not inherit them. They do
not exclude within a process, and closing any descriptor of a file frees the locks that
the process has on it: a process never opens the lock files of its own layers.

This module reads the environment, which is otherwise left to edges: programs that
never heard of one another must come to the same folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator

from ..errors import ConfigurationError

#: Where the folder of a user without XDG_RUNTIME_DIR is.
FALLBACK = "/tmp"

#: Longest path of a Unix socket, in bytes: macOS has 104 with the final zero.
MAX_PATH = 103

#: Bytes that a socket's name may have: the largest process id and a token.
MAX_SOCKET_NAME = 24

#: Seconds after which a lock file that was never given its name is removed.
ABANDONED = 60.0

#: How often a lock file is made anew when another process took it for abandoned.
ATTEMPTS = 10

LOCK, UNNAMED = ".lock", ".new"

#: The file with the token.
TOKEN = "token"

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_SOCKET_NAME = re.compile(r"[0-9]{1,10}-[0-9a-f]{1,13}")
_TOKEN = re.compile(r"[0-9a-f]{12}")

#: Lock files of this process' own layers.
_own: set[str] = set()


def default_name(app: str, folder: str, uid: int) -> str:
    """
    Return the name under which the processes of one application meet.

    Args:
        app: What they run.
        folder: Where they run it.
        uid: Whose they are.

    """
    text = "\0".join((app, os.path.realpath(folder), str(uid)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def folder_of(name: str) -> str:
    """
    Return the folder for ``name``: of this user, in XDG_RUNTIME_DIR or ``FALLBACK``.

    The first in which a socket's path is short enough.

    Args:
        name: Of ``[A-Za-z0-9._-]``, at most 64 characters; or an absolute path.

    Raises:
        ConfigurationError: If it is neither, or the path is too long for a socket.

    """
    if name.startswith("/"):
        paths = [os.path.normpath(name)]
    elif _NAME.fullmatch(name):
        paths = [os.path.join(base, name) for base in _bases()]
    else:
        raise ConfigurationError(
            f"not a name for ipc://: {name!r} (letters, digits, '.', '_' and '-', at"
            " most 64; or the absolute path of a folder)"
        )
    for path in paths:
        if len(os.fsencode(path)) + 1 + MAX_SOCKET_NAME <= MAX_PATH:
            return path
    raise ConfigurationError(f"the path of {path!r} is too long for a Unix socket")


def _bases() -> Iterator[str]:
    """Give the folders that may be above, the best first."""
    uid = os.geteuid()
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):
        with contextlib.suppress(OSError):
            if os.stat(runtime).st_uid == uid:
                yield os.path.join(runtime, "greenchannels")
    yield os.path.join(FALLBACK, f"greenchannels-{uid}")


def forget_own() -> None:
    """This process is a child that was just forked: its layers were its parent's."""
    _own.clear()


class Folder:
    """
    One application's sockets and lock files.

    Made if it is not there, as is the folder above. Methods do what the file system
    does at once; none waits for another process.

    Args:
        path: As ``folder_of`` returns it.

    Raises:
        ConfigurationError: If it, or the one above, is not this user's alone.
        OSError: If it cannot be made.

    """

    def __init__(self, path: str) -> None:
        self.path = path
        above = os.path.dirname(path)
        if os.path.basename(above).startswith("greenchannels"):
            _make_private(above)
        _make_private(path)

    def socket_path(self, name: str) -> str:
        """Return where the socket called ``name`` is."""
        return os.path.join(self.path, name)

    def names(self) -> list[str]:
        """Return the names of the sockets that are there, living or not."""
        return [n for n in os.listdir(self.path) if self.may_be_called(n)]

    @staticmethod
    def may_be_called(name: str) -> bool:
        """Say whether a socket may have this name."""
        return _SOCKET_NAME.fullmatch(name) is not None

    def token(self, known: str = "") -> str:
        """
        Return what was drawn by lot by the first who asked: it names this folder.

        Its file is marked as used, so that it is not taken for an old one.

        Args:
            known: What it is, for those who have asked before.

        Raises:
            OSError: If there can be no file.

        """
        path = os.path.join(self.path, TOKEN)
        for _ in range(ATTEMPTS):
            with contextlib.suppress(FileNotFoundError):
                os.utime(path)
                with open(path, encoding="ascii", errors="replace") as file:
                    found = file.read(100)
                if _TOKEN.fullmatch(found):
                    return found
                os.unlink(path)
            self._draw(path, known or secrets.token_hex(6))
        raise OSError(f"no file stays where it is made: {path}")

    def _draw(self, path: str, token: str) -> None:
        """Make a file that has its text as soon as it has its name."""
        unnamed = f"{path}-{secrets.token_hex(6)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(unnamed, flags, 0o600)
        try:
            os.write(fd, token.encode())
            with contextlib.suppress(FileExistsError):
                os.link(unnamed, path)
        finally:
            os.close(fd)
            os.unlink(unnamed)

    def claim(self) -> Claim:
        """
        Take a name that nobody ever had, with a locked file beside.

        Raises:
            OSError: If the file cannot be made.

        """
        for _ in range(ATTEMPTS):
            name = f"{os.getpid()}-{secrets.token_hex(6)}"
            fd = self._lock_new(name)
            if fd is not None:
                return Claim(self, name, fd)
        raise OSError(f"no lock file in {self.path} stays where it is made")

    def _lock_new(self, name: str) -> int | None:
        path = self.socket_path(name) + LOCK
        unnamed = self.socket_path(name) + UNNAMED
        _own.update((path, unnamed))
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = None
        try:
            fd = os.open(unnamed, flags, 0o600)
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(unnamed, path)
            return fd
        except (BlockingIOError, PermissionError, FileNotFoundError):
            self._undo(fd, unnamed, path)
            if fd is None:
                raise
            return None
        except BaseException:
            self._undo(fd, unnamed, path)
            raise
        finally:
            _own.discard(unnamed)

    def _undo(self, fd: int | None, unnamed: str, path: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(unnamed)
        if fd is not None:
            os.close(fd)
        _own.discard(path)

    def remove_if_dead(self, name: str) -> bool:
        """Say whether the process of ``name`` has ended; then remove what it left."""
        lock = self.socket_path(name) + LOCK
        return not self._is_own(lock) and self._removes(lock, name)

    def remove_abandoned(self) -> None:
        """Remove what processes left that ended before they had a socket."""
        sockets = set(self.names())
        for entry in os.listdir(self.path):
            path = os.path.join(self.path, entry)
            name, kind = os.path.splitext(entry)
            if not self.may_be_called(name) or self._is_own(path):
                continue
            if kind == UNNAMED or (kind == LOCK and name not in sockets):
                with contextlib.suppress(OSError):
                    if time.time() - os.stat(path).st_mtime > ABANDONED:
                        self._removes(path, name)

    def _is_own(self, lock: str) -> bool:
        return lock in _own

    def _removes(self, lock: str, name: str) -> bool:
        """Remove a lock file that nobody holds, after the socket beside it."""
        try:
            fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return True
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in (self.socket_path(name), lock):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
            return True
        except (BlockingIOError, PermissionError):
            return False
        finally:
            os.close(fd)


class Claim:
    """
    A name in a folder, held by a locked file until ``release``.

    Attributes:
        name: What the process is called among the others.
        path: Where its socket belongs.

    """

    def __init__(self, folder: Folder, name: str, fd: int) -> None:
        self.name = name
        self.path = folder.socket_path(name)
        self._lock = self.path + LOCK
        self._fd = fd

    def release(self) -> None:
        """Give the name up for ever; the socket must have gone."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.unlink(self._lock)
            self.abandon()
            _own.discard(self._lock)

    def abandon(self) -> None:
        """Close the descriptor; in a forked child, the parent keeps the lock."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _make_private(path: str) -> None:
    """Make a folder for this user alone, or check that it is one."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigurationError(f"{path} is no folder")
    if found.st_uid != os.geteuid():
        raise ConfigurationError(f"{path} belongs to another user ({found.st_uid})")
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise ConfigurationError(
            f"{path} is open to other users: its mode is {mode:o}, not 700"
        )
