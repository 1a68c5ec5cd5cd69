"""
Groups and channels by the methods of Django Channels' layers, in blocking form.

``Group`` and ``Channel`` say the same more directly.
"""

from __future__ import annotations

from ..channels import Channel
from ..groups import Group
from ..sockets import WebSocket
from ..types import Event


class ChannelLayer:
    """
    What ``self.channel_layer`` of a consumer is.

    Args:
        socket: The consumer's socket; the one that its own channel name means.

    """

    __slots__ = ("_socket",)

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket

    def group_send(self, group: str, message: Event) -> None:
        """Send an event to every member of ``group``; see ``Group.send``."""
        Group(group).send(message)

    def group_add(self, group: str, channel: str) -> None:
        """Add the socket that ``channel`` names to ``group``; see ``Group.add``."""
        Group(group).add(self._named(channel))

    def group_discard(self, group: str, channel: str) -> None:
        """Take the socket that ``channel`` names out of ``group``; never blocks."""
        Group(group).discard(self._named(channel))

    def send(self, channel: str, message: Event) -> None:
        """Send an event to the one socket that ``channel`` names, wherever it is."""
        Channel(channel).send(message)

    def _named(self, channel: str) -> WebSocket | str:
        """Return the consumer's own socket, even after its end, or the name."""
        return self._socket if channel == self._socket.channel_name else channel
