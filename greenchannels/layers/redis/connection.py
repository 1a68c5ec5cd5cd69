"""
One connection to Redis: redis-py's, on a socket of gevent's, and with our own bounds.

redis-py logs in and reads replies; its waiting and its retrying are not used. Its
errors end here: above are ``OSError`` (the connection is over), ``LayerRefused`` (this
program is not let in) and ``Refusal`` (a command was not carried out).
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import socket as constants
from _socket import socket as RawSocket
from typing import Any

import gevent
from gevent import socket as green
from gevent.event import Event as Signal
from redis import exceptions as theirs
from redis.connection import Connection

from ...errors import LayerRefused
from .frames import encode_command
from .url import RedisAddress

#: Seconds for a connection to be made and let in.
CONNECT_TIMEOUT = 2.0

#: Seconds that Redis may take to answer, or to take what is sent to it. An answer is
#: waited for twice: when the hub was busy for so long, it is there by then.
REPLY_TIMEOUT = 2.0

#: Bytes that are read at a time.
READ_SIZE = 64 * 1024

#: Seconds until the second attempt to connect, and at most between two.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0

#: Seconds of silence until the kernel looks whether the other end is there, seconds
#: between two looks, and how many may fail.
KEEPALIVE = (10, 5, 3)

#: Milliseconds in which the other end must acknowledge what was sent to it.
USER_TIMEOUT = 10_000

#: Options of TCP that not every system has, and their values.
TCP_OPTIONS = (
    ("TCP_NODELAY", 1),
    ("TCP_KEEPIDLE", KEEPALIVE[0]),
    ("TCP_KEEPINTVL", KEEPALIVE[1]),
    ("TCP_KEEPCNT", KEEPALIVE[2]),
    ("TCP_USER_TIMEOUT", USER_TIMEOUT),
)

logger = logging.getLogger("greenchannels.layer")


#: What errors begin with that redis-py gives classes of their own, without that word.
_CODES: dict[type[Exception], str] = {
    theirs.MovedError: "MOVED",
    theirs.AskError: "ASK",
    theirs.TryAgainError: "TRYAGAIN",
    theirs.ClusterDownError: "CLUSTERDOWN",
    theirs.ClusterCrossSlotError: "CROSSSLOT",
    theirs.MasterDownError: "MASTERDOWN",
    theirs.NoPermissionError: "NOPERM",
}


class Refusal(Exception):
    """
    Redis has not carried out a command; its text is what Redis says.

    Attributes:
        code: The word that this begins with, if it is one that means something here.

    """

    def __init__(self, error: Exception) -> None:
        self.code = _CODES.get(type(error), "")
        super().__init__(f"{self.code} {error}".lstrip())


class RedisConnection(Connection):
    """
    A connection that is made by ``connect_to`` and ended by ``end``.

    Attributes:
        sock: Its socket, a TCP or a TLS one.

    """

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self.sock: Any = None
        super().__init__(  # type: ignore[no-untyped-call, unused-ignore]
            host=address.host,
            port=address.port,
            username=address.username,
            password=address.password or ("" if address.username else None),
            protocol=2,
            socket_timeout=REPLY_TIMEOUT,
            socket_connect_timeout=CONNECT_TIMEOUT,
            socket_read_size=READ_SIZE,
        )

    def _connect(self) -> Any:
        """Return a socket of gevent's, whatever is patched."""
        address = self._address
        where = (address.host, address.port)
        self.sock = sock = green.create_connection(where, CONNECT_TIMEOUT)
        sock.setsockopt(constants.SOL_SOCKET, constants.SO_KEEPALIVE, 1)
        for name, value in TCP_OPTIONS:
            if hasattr(constants, name):
                number = getattr(constants, name)
                sock.setsockopt(constants.IPPROTO_TCP, number, value)
        context = address.tls_context()
        if context is not None:
            # The handshake is in CONNECT_TIMEOUT, too.
            self.sock = context.wrap_socket(sock, server_hostname=address.host)
        self.sock.settimeout(REPLY_TIMEOUT)
        return self.sock

    def send(self, data: bytes) -> None:
        """
        Send all of ``data``; blocks for two of the socket's timeouts.

        Raises:
            OSError: If the connection is over.

        """
        sent = self.sock.send(data)
        if sent < len(data):  # sendall asks for the size of the kernel's buffer, first
            self.sock.sendall(memoryview(data)[sent:])

    def read(self) -> Any:
        """
        Return the next reply; blocks for two of the socket's timeouts.

        Raises:
            OSError: If the connection is over.
            Refusal: If the reply is an error.

        """
        try:
            try:
                return self.read_response(disconnect_on_error=False)
            except theirs.TimeoutError:
                return self.read_response(disconnect_on_error=False)
        except theirs.ResponseError as error:
            raise Refusal(error) from error
        except theirs.RedisError as error:
            raise ConnectionError(str(error)) from error

    def ask(self, *words: bytes) -> Any:
        """
        Carry out a command while no other reply is due; blocks as ``read`` does.

        Raises:
            OSError: If the connection is over.
            Refusal: If the reply is an error.

        """
        self.send(encode_command(*words))
        return self.read()

    def hello(self) -> dict[str, str]:
        """
        Return what a server says of itself, which takes no right (HELLO, Redis 6).

        Blocks as ``read`` does.

        Returns:
            ``"mode"`` (``"standalone"``, ``"cluster"``, ``"sentinel"``) and ``"role"``
            (``"master"`` or ``"replica"``, with a sentinel none), as far as it does.

        Raises:
            OSError: If the connection is over.

        """
        try:
            reply = self.ask(b"HELLO")
        except Refusal:
            return {}
        if not isinstance(reply, list):
            raise ConnectionError("not what a server says of itself")
        pairs = zip(reply[::2], reply[1::2], strict=False)
        return {
            name.decode("ascii", "replace"): value.decode("ascii", "replace")
            for name, value in pairs
            if type(name) is type(value) is bytes
        }

    def leads_to(self, address: RedisAddress) -> bool:
        """Say whether it leads there, or is closed."""
        same = (self._address.host, self._address.port) == (address.host, address.port)
        return same or self.sock is None or self.sock.fileno() < 0

    def has_ended(self) -> bool:
        """Say whether the other end has closed it, while no reply is due."""
        if self._address.tls is not None:
            return False  # what there is to read may be TLS's own
        flags = constants.MSG_PEEK | constants.MSG_DONTWAIT
        try:
            same = RawSocket(fileno=os.dup(self.sock.fileno()))
            try:
                return same.recv(1, flags) == b""
            finally:
                same.close()
        except BlockingIOError:
            return False
        except OSError:
            return True

    def cut(self) -> None:
        """Close the socket, so that whoever waits for it has an ``OSError``."""
        self.sock.close()

    def forsake(self) -> None:
        """This is a forked child, and the hub was another thread's: only close."""
        with contextlib.suppress(OSError):
            os.close(self.sock.fileno())

    def end(self) -> None:
        """Close it; never blocks. Only who reads from it may."""
        self.disconnect()  # type: ignore[no-untyped-call, unused-ignore]
        if self.sock is not None:
            self.sock.close()


def connect_to(address: RedisAddress) -> RedisConnection:
    """
    Return a new connection; blocks at most ``CONNECT_TIMEOUT`` seconds.

    Raises:
        OSError: If the server cannot be reached.
        LayerRefused: If it does not let this program in.
        ConfigurationError: If the TLS options have become wrong.

    """
    connection = RedisConnection(address)
    late = TimeoutError(f"no answer within {CONNECT_TIMEOUT:g} s")
    try:
        with gevent.Timeout(CONNECT_TIMEOUT, late):
            connection.connect()  # type: ignore[no-untyped-call, unused-ignore]
            _introduce(connection)
    except BaseException as error:
        connection.end()
        if isinstance(error, theirs.AuthenticationError | theirs.NoPermissionError):
            raise refused_user(address, str(error)) from error
        if isinstance(error, theirs.RedisError):
            raise ConnectionError(str(error)) from error
        raise
    return connection


def _introduce(connection: RedisConnection) -> None:
    """Say what CLIENT LIST is to call it, if that may be said."""
    name = b"greenchannels-%d" % os.getpid()
    connection.send(encode_command(b"CLIENT", b"SETNAME", name))
    try:
        connection.read_response()  # type: ignore[no-untyped-call, unused-ignore]
    except theirs.ResponseError as error:
        logger.debug("Redis: CLIENT SETNAME: %s", error)


def refused_user(address: RedisAddress, text: str) -> LayerRefused:
    """Return what says that a server does not let this program in."""
    who = f"user {address.username!r}" if address.username else "the default user"
    return LayerRefused(f"Redis at {address} refuses {who}: {text.rstrip('.')}")


class Pauses:
    """The pauses between attempts to connect: each longer, none like another's."""

    def __init__(self, over: Signal) -> None:
        self._over = over
        self._next = FIRST_PAUSE

    def wait(self) -> None:
        """Block for the next pause, or until ``over`` is set."""
        self._over.wait(self._next * random.uniform(0.5, 1.0))
        self._next = min(self._next * 2, LONGEST_PAUSE)

    def reset(self) -> None:
        """An attempt has succeeded for good."""
        self._next = FIRST_PAUSE
