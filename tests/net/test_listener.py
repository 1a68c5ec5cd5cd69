"""Listening sockets: what is accepted, and from whom."""

import errno
import os
import resource
import socket as stdlib_socket

import gevent
import pytest

from greenchannels.net import listener as listening
from greenchannels.net.binding import bind_tcp, bind_unix
from greenchannels.net.listener import (
    Listener,
    accept_connection,
    pure_accept_connection,
)
from greenchannels.net.reactor import Reactor
from tests.servers.harness import no_leaks, until

__all__ = ["no_leaks"]

BOTH = pytest.mark.parametrize(
    "accept", [accept_connection, pure_accept_connection], ids=["fast", "pure"]
)


@pytest.fixture(params=["IPv4", "IPv6", "Unix"])
def bound(request, tmp_path):
    """A listening socket of each family."""
    if request.param == "Unix":
        sock = bind_unix(str(tmp_path / "s"))
    else:
        sock = bind_tcp("::1" if request.param == "IPv6" else "127.0.0.1", 0)
    yield sock
    sock.close()


def connected(sock):
    """Return a client of a listening socket."""
    client = stdlib_socket.socket(sock.family)
    client.connect(sock.getsockname())
    return client


@BOTH
def test_a_connection_is_accepted_with_its_address(bound, accept):
    """As a non-blocking descriptor that no child process inherits."""
    assert accept(bound.fileno()) is None
    with connected(bound) as client:
        fd, address = accept(bound.fileno())
        with stdlib_socket.socket(fileno=fd) as ours:
            assert not os.get_blocking(fd)
            assert not os.get_inheritable(fd)
            assert address == client.getsockname()
            client.send(b"x")
            assert ours.recv(1) == b"x"
            if bound.family != stdlib_socket.AF_UNIX:
                level, option = stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY
                assert ours.getsockopt(level, option)
    assert accept(bound.fileno()) is None


@BOTH
def test_what_cannot_be_accepted_is_an_error(accept):
    """With the system's number."""
    with stdlib_socket.socket() as sock, pytest.raises(OSError) as caught:
        accept(sock.fileno())
    assert caught.value.errno == errno.EINVAL


@BOTH
def test_accepting_pauses_without_descriptors_and_resumes(accept, monkeypatch, caplog):
    """Who comes meanwhile waits in the backlog."""
    monkeypatch.setattr(listening, "accept_connection", accept)
    monkeypatch.setattr(listening, "EXHAUSTED_PAUSE", 0.05)
    reactor, accepted = Reactor(), []
    sock = bind_tcp("127.0.0.1", 0)
    listener = Listener(reactor, sock, lambda fd, address: accepted.append(fd))
    client = connected(sock)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        listener.start()
        until(lambda: "accepting pauses" in caplog.text)
        assert not accepted
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    until(lambda: accepted)
    os.close(accepted[0])
    client.close()
    listener.close()
    reactor.close()
    gevent.sleep(0)
