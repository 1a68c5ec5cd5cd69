"""
What happens to a socket that takes less than groups send it: the policies.

A message does not fit when too many bytes wait for the peer, or an event when too
many events wait for the consumer. Then the policy of the socket's route decides; it
never waits, never touches a frame that is partly with the kernel, and leaves what
remains in its order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..layers.codec import Broadcast
from ..net.backlog import NO_TOPIC, SharedFrame
from ..types import SlowPolicy
from .losses import EVENTS_DROPPED, EVENTS_REPLACED, FRAMES_DROPPED, FRAMES_REPLACED

if TYPE_CHECKING:
    from .socket_losses import SocketLosses


class Policy:
    """Decide about messages of groups that do not fit. Never blocks."""

    name: ClassVar[SlowPolicy]

    def take_frame(self, socket: SocketLosses, frame: SharedFrame) -> None:
        """Too many bytes wait for the peer to queue ``frame`` as well."""
        raise NotImplementedError

    def take_event(self, socket: SocketLosses, event: Broadcast) -> None:
        """Too many events wait for the consumer to keep ``event`` as well."""
        raise NotImplementedError


class Close(Policy):
    """Close with 1013; all that waits is dropped."""

    name: ClassVar[SlowPolicy] = "close"

    def take_frame(self, socket: SocketLosses, frame: SharedFrame) -> None:
        """Close instead."""
        socket.close_as_too_slow(FRAMES_DROPPED)

    def take_event(self, socket: SocketLosses, event: Broadcast) -> None:
        """Close instead."""
        socket.close_as_too_slow(EVENTS_DROPPED)


class Drop(Policy):
    """Drop the newest: what does not fit."""

    name: ClassVar[SlowPolicy] = "drop"

    def take_frame(self, socket: SocketLosses, frame: SharedFrame) -> None:
        """Count it."""
        socket.lose(FRAMES_DROPPED)

    def take_event(self, socket: SocketLosses, event: Broadcast) -> None:
        """Count it."""
        socket.lose(EVENTS_DROPPED)


class Latest(Drop):
    """
    Replace what waits by what is newer of the same group.

    The newest comes last. Where that makes too little room it is dropped, and what
    waited of its group stays.
    """

    name: ClassVar[SlowPolicy] = "latest"

    def take_frame(self, socket: SocketLosses, frame: SharedFrame) -> None:
        """Queue ``frame`` in place of the older ones of its group."""
        transport, limit = socket.transport, socket.endpoint.max_write_buffer
        waiting = transport.unsent
        kept, newest = newest_of_each(waiting, SharedFrame)
        old = newest.get(frame.topic)
        if old is not None:
            begun = transport.queue[: len(transport.queue) - len(waiting)]
            size = sum(map(len, begun)) + sum(map(len, kept))
            if size - len(old) <= limit or len(frame) <= len(old):
                kept = [each for each in kept if each is not old]
                limit = size
        if len(kept) < len(waiting):
            transport.keep_unsent(kept)
            socket.lose(FRAMES_REPLACED, len(waiting) - len(kept))
        if not transport.push_shared(frame, limit):
            super().take_frame(socket, frame)

    def take_event(self, socket: SocketLosses, event: Broadcast) -> None:
        """Keep ``event`` in place of the older ones of its group."""
        waiting, limit = socket.waiting_input, socket.endpoint.max_inbox_bytes
        kept, newest = newest_of_each(waiting, Broadcast)
        old = newest.get(event.topic)
        replaces = False
        if old is not None:
            size = sum(each.size for each in kept if type(each) is Broadcast)
            replaces = size - old.size < limit or event.size <= old.size
            if replaces:
                kept = [each for each in kept if each is not old]
        if len(kept) < len(waiting):
            socket.keep_input(kept)
            socket.lose(EVENTS_REPLACED, len(waiting) - len(kept))
        if not socket.take_event(event, always=replaces):
            super().take_event(socket, event)


#: The policies by name.
POLICIES: dict[str, Policy] = {each.name: each for each in (Close(), Drop(), Latest())}


def newest_of_each(
    waiting: Sequence[Any], kind: type[Any]
) -> tuple[list[Any], dict[str, Any]]:
    """
    Return what stays of ``waiting`` when the newest of each topic does.

    Args:
        waiting: What waits, oldest first.
        kind: The class of what has a topic; the rest stays.

    Returns:
        What stays, in order, and the newest of each topic.

    """
    newest = {each.topic: each for each in waiting if type(each) is kind}
    newest.pop(NO_TOPIC, None)
    if not newest:
        return list(waiting), newest
    kept = [
        each
        for each in waiting
        if type(each) is not kind or newest.get(each.topic, each) is each
    ]
    return kept, newest
