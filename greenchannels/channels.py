"""Channels: a name that reaches one receiver, wherever it is."""

from __future__ import annotations

from .errors import ConfigurationError
from .layers.codec import make_broadcast
from .layers.layer import check_channel_name
from .layers.registry import sending_layer
from .types import Data, Event


class Channel:
    """
    One receiver, reached by name from anywhere.

    ``Channel(socket.channel_name)`` reaches one socket, like a group of one.

    Args:
        name: ``[A-Za-z0-9._-]``, at most 100 characters, with the one ``!``
            that makes it the name of a socket in some process.

    Raises:
        ValueError: If the name is not one.

    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = check_channel_name(name)

    def __repr__(self) -> str:
        return f"Channel({self.name!r})"

    def send(self, message: Data | Event) -> None:
        """
        Send str, bytes or an event; never waits for the receiver.

        Outside of servers it blocks as ``Group.send`` does there.

        A socket that has gone is counted, not an error.

        Raises:
            ValueError: For a dict without "type".
            MessageTooLarge: Above 1 MiB.
            ConfigurationError: If this process has no layer, or the name is
                not that of a socket.
            LayerUnavailable: If the socket's process cannot be reached.

        """
        if "!" not in self.name:
            raise ConfigurationError(
                f"{self.name!r} is not the name of a socket: those have a '!'"
            )
        sending_layer().send_channel(self.name, make_broadcast(message))
