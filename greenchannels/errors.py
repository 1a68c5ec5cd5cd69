"""
Every exception that greenchannels raises on purpose, in one tree.

::

    GreenchannelsError
    ├── ConfigurationError (also ValueError)   routes, options or a layer are wrong
    │   └── LayerRefused                       the layer's server does not let us in
    ├── ProtocolError                          bytes break a rule
    │   ├── LocalProtocolError                 ours: what the caller asked for
    │   └── RemoteProtocolError                theirs: what the peer sent
    ├── ConnectionEnded                        the socket's life is over
    │   ├── ConnectionClosed                   a close frame was exchanged
    │   └── ConnectionBroken                   none was
    ├── HandshakeRefused                       this end refused the handshake
    ├── TooManyGroups                          a socket is in as many groups as it may
    ├── MessageTooLarge (also ValueError)      above the layer's size
    ├── ChannelFull                            a channel holds all it may
    └── LayerUnavailable                       other processes cannot be reached

A receive that takes too long raises the builtin ``TimeoutError``.
"""

from __future__ import annotations


class GreenchannelsError(Exception):
    """Base of all errors of this package."""


class ConfigurationError(GreenchannelsError, ValueError):
    """Routes, options or the layer do not fit together."""


class LayerRefused(ConfigurationError):
    """The server of the layer does not let this program in."""


class ProtocolError(GreenchannelsError):
    """
    Bytes break a rule of their protocol.

    Attributes:
        reason: What is wrong, in a few words.
        hint: What to answer: an HTTP status or a WebSocket close code.

    """

    def __init__(self, reason: str, hint: int) -> None:
        super().__init__(reason, hint)
        self.reason = reason
        self.hint = hint

    def __str__(self) -> str:
        return self.reason


class LocalProtocolError(ProtocolError):
    """This end asked for something that the protocol forbids."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the protocol forbids."""


class ConnectionEnded(GreenchannelsError):
    """
    The socket's life is over; nothing can be sent or received any more.

    Attributes:
        code: The close code (RFC 6455, section 7.4); 1005 when the close frame
            had none, 1006 when there was no close frame.
        reason: The reason that came with it, or what happened.
        source: The channel name or identity of the socket that ended.

    """

    def __init__(
        self, code: int = 1006, reason: str = "", *, source: object = None
    ) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self.source = source

    def __str__(self) -> str:
        return f"{self.code} {self.reason}".rstrip()


class ConnectionClosed(ConnectionEnded):
    """A close frame was sent or received."""


class ConnectionBroken(ConnectionEnded):
    """The connection went away without a close frame."""


class HandshakeRefused(ConnectionEnded):
    """
    This end refused the handshake, so the socket never opened.

    Attributes:
        status: The HTTP status that the peer was told.

    """

    def __init__(self, status: int, *, source: object = None) -> None:
        super().__init__(1006, f"handshake refused with {status}", source=source)
        self.status = status


class TooManyGroups(GreenchannelsError):
    """A socket is already in as many groups as its limits allow."""


class MessageTooLarge(GreenchannelsError, ValueError):
    """
    A message is larger than the layer carries.

    Attributes:
        size: The size of the encoded message, in bytes.
        limit: The largest size allowed, in bytes.

    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(size, limit)
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return f"a message of {self.size} bytes is over the limit of {self.limit}"


class ChannelFull(GreenchannelsError):
    """A channel already holds as many messages as it may."""


class LayerUnavailable(GreenchannelsError):
    """The layer cannot reach the other processes now."""
