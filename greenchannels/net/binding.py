"""
Listening sockets: bound here, or adopted from whoever started this process.

What is set on one, its connections inherit.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket as stdlib_socket
import stat
from _socket import socket as RawSocket
from typing import Any

#: Connections that the kernel may hold before they are accepted.
BACKLOG = 2048

#: Seconds that the kernel waits longer for an acknowledgement than we do.
USER_TIMEOUT_MARGIN = 5.0

#: What bind and socket say where the machine has no such address or family.
NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class UnixSocket(RawSocket):
    """
    A listening Unix socket whose file is our own, to be removed with it.

    Attributes:
        inode: Device and number of the file; ``None`` until it is there.

    """

    inode: tuple[int, int] | None = None

    def remove_file(self) -> None:
        """Remove the file, unless somebody has put another in its place."""
        path = self.getsockname()
        if self.inode is not None and _inode(path) == self.inode:
            os.unlink(path)


def bind_tcp(host: str, port: int, *, write_timeout: float | None = None) -> RawSocket:
    """
    Return a socket that listens on the first address of ``host``.

    What is set on it, its connections inherit: TCP_NODELAY, and a bound on
    unacknowledged data (TCP_USER_TIMEOUT, RFC 5482) so that a peer that has
    vanished is noticed although the kernel still buffers for it.

    Args:
        host: A name or an address; empty for all of IPv4.
        port: 0 for any free one.
        write_timeout: Seconds that sent data may stay unacknowledged.

    Raises:
        OSError: If the address cannot be bound.

    """
    family, address = _resolve(host, port)[0]
    return _bind_tcp(family, address, write_timeout)


def bind_all(
    host: str, port: int, *, write_timeout: float | None = None
) -> list[RawSocket]:
    """
    Return sockets that listen on all addresses of ``host``, at the same port.

    An address of a family that this machine has none of, as localhost's ::1
    where IPv6 is off, is passed over if there is another.

    Args:
        host: As for ``bind_tcp``.
        port: As for ``bind_tcp``.
        write_timeout: As for ``bind_tcp``.

    Raises:
        OSError: If an address cannot be bound; then none is.

    """
    socks: list[RawSocket] = []
    missing: OSError | None = None
    try:
        for family, (name, _, *rest) in _resolve(host, port):
            try:
                socks.append(_bind_tcp(family, (name, port, *rest), write_timeout))
            except OSError as error:
                if error.errno not in NO_SUCH_ADDRESS:
                    raise
                missing = error
            else:
                port = socks[-1].getsockname()[1]
    except BaseException:
        for sock in socks:
            sock.close()
        raise
    if not socks and missing is not None:
        raise missing
    return socks


def _resolve(host: str, port: int) -> list[tuple[int, Any]]:
    """Return family and address of all that ``host`` stands for, each once."""
    found = stdlib_socket.getaddrinfo(
        host or "0.0.0.0",
        port,
        type=stdlib_socket.SOCK_STREAM,
        flags=stdlib_socket.AI_PASSIVE,
    )
    return list(dict.fromkeys((family, address) for family, *_, address in found))


def _bind_tcp(family: int, address: Any, write_timeout: float | None) -> RawSocket:
    sock = RawSocket(family, stdlib_socket.SOCK_STREAM)
    try:
        sock.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_REUSEADDR, 1)
        if family == stdlib_socket.AF_INET6:
            # [::] is all of IPv6, and leaves 0.0.0.0 to whoever binds that.
            sock.setsockopt(stdlib_socket.IPPROTO_IPV6, stdlib_socket.IPV6_V6ONLY, 1)
        _set_inherited(sock, write_timeout)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _set_inherited(sock: RawSocket, write_timeout: float | None) -> None:
    """Set what the connections of a TCP socket inherit."""
    sock.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
    user_timeout = getattr(stdlib_socket, "TCP_USER_TIMEOUT", None)
    if user_timeout is not None and write_timeout is not None:
        # Later than the transport's own timeout, whose reset the peer hears of.
        milliseconds = int((write_timeout + USER_TIMEOUT_MARGIN) * 1000)
        milliseconds = min(milliseconds, 2**31 - 1)
        sock.setsockopt(stdlib_socket.IPPROTO_TCP, user_timeout, milliseconds)


def bind_unix(path: str, mode: int | None = None) -> UnixSocket:
    """
    Return a listening Unix socket; a stale one at ``path`` is replaced.

    Args:
        path: Where its file is made.
        mode: The file's permissions; by default what the umask leaves.

    Raises:
        OSError: If ``path`` is taken by something else, or somebody listens.

    """
    _remove_stale(path)
    sock = UnixSocket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_STREAM)
    try:
        sock.bind(path)
        sock.inode = _inode(path)
        if mode is not None:
            os.chmod(path, mode)  # nobody can connect yet
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        close_listening(sock)
        raise
    return sock


def adopt(fd: int, *, write_timeout: float | None = None) -> RawSocket:
    """
    Return the listening socket that this process was started with.

    No child process inherits it any further. A Unix socket's file belongs to
    whoever made it, and stays.

    Args:
        fd: Its descriptor; owned by the socket if nothing is raised.
        write_timeout: As for ``bind_tcp``.

    Raises:
        OSError: If ``fd`` is no stream socket that listens.

    """
    sock = RawSocket(fileno=fd)
    try:
        _check_listening(sock)
        if sock.family != stdlib_socket.AF_UNIX:
            _set_inherited(sock, write_timeout)
    except BaseException:
        sock.detach()
        raise
    os.set_inheritable(fd, False)
    sock.setblocking(False)
    return sock


def _check_listening(sock: RawSocket) -> None:
    """Check that a socket is of a kind that is served here, and listens."""
    families = (stdlib_socket.AF_INET, stdlib_socket.AF_INET6, stdlib_socket.AF_UNIX)
    kind = sock.getsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_TYPE)
    if sock.family not in families or kind != stdlib_socket.SOCK_STREAM:
        raise OSError(errno.EINVAL, "no stream socket")
    if not sock.getsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_ACCEPTCONN):
        raise OSError(errno.EINVAL, "a socket that does not listen")


def _remove_stale(path: str) -> None:
    """Remove a socket file that nobody listens on."""
    try:
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise FileExistsError(errno.EEXIST, "exists and is no socket", path)
    probe = RawSocket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_STREAM)
    with contextlib.closing(probe):
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)


def close_listening(sock: RawSocket) -> None:
    """Close a listening socket; a Unix one's own file is removed."""
    if isinstance(sock, UnixSocket):
        sock.remove_file()
    sock.close()


def _inode(address: Any) -> tuple[int, int] | None:
    """Identify a Unix socket's file, so that only our own is ever removed."""
    if not isinstance(address, str) or not address:
        return None
    try:
        found = os.stat(address)
    except OSError:
        return None
    return found.st_dev, found.st_ino
