"""Ports for programs that cannot be asked for any free one."""

import errno
import random
import socket

#: Below the ports that the kernel gives to connections, which come and go.
RANGE = range(10_000, 32_000)

_given = set()


def free_port():
    """Return a port of this machine on which nobody listens, another one each time."""
    while True:
        port = random.choice(RANGE)
        if port in _given:
            continue
        _given.add(port)
        if all(map(_is_free, (socket.AF_INET, socket.AF_INET6), (port, port))):
            return port


def _is_free(family, port):
    """Say whether nobody listens on a port of this machine, by one kind of address."""
    try:
        sock = socket.socket(family)
    except OSError:
        return True  # this machine has no such addresses
    with sock:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind(("", port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True
