"""
What a handler of a class-based consumer raises to decide something.

The names are those of Django Channels' ``channels.exceptions``. They are no errors:
the engine acts upon them and logs nothing.
"""

from __future__ import annotations

from .errors import GreenchannelsError


class AcceptConnection(GreenchannelsError):
    """Raised in ``connect``: accept the handshake, unless that has been done."""


class DenyConnection(GreenchannelsError):
    """
    Raised in ``connect``: refuse the handshake, with 403.

    After ``accept()`` it is too late for that: the socket is closed with 1000.
    """


class StopConsumer(GreenchannelsError):
    """
    Raised in any handler: end the consumer.

    The socket is closed with 1000 if it is still open, refused with 403 if it was
    never accepted; ``disconnect`` runs as after any other end.
    """
