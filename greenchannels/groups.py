"""
Groups: everybody who joined gets what is sent, in every process and host.

A group has no owner and needs no set-up: its name is all there is. It knows no
WebSocket; whoever can take a message may be a member.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from .errors import ConfigurationError
from .layers.codec import Broadcast, Kind, make_broadcast, make_close
from .layers.layer import Layer, Member, group_topic, user_topic
from .layers.registry import current_layer, sending_layer
from .types import Data, Event


def to_json(obj: object) -> str:
    """
    Return ``obj`` as compact JSON text.

    Dates, Decimals, UUIDs, enums, sets and dataclasses are encoded as well.

    Raises:
        TypeError: If it holds something that JSON has no form for.

    """
    return _json.encode(obj).decode()


def _plain(value: object) -> object:
    """Return what a subclass of a plain type, as a lazy str, stands for."""
    for plain in (str, int, float):
        if isinstance(value, plain):
            return plain(value)
    raise TypeError(f"JSON has no form for {type(value).__name__}")


_json = msgspec.json.Encoder(enc_hook=_plain)


def resolve_member(member: object) -> Member:
    """
    Return the member that a socket, or a channel name of this process, is.

    A socket behind middleware has the server's own socket as its member.
    """
    if isinstance(member, str):
        found = current_layer().find_channel(member)
        if found is None:
            raise ConfigurationError(f"no socket is called {member!r}")
        return found
    found = member_of(member)
    if not hasattr(found, "deliver"):
        raise TypeError(f"{member!r} can be in no group: a socket can")
    return found  # type: ignore[no-any-return]


def member_of(socket: Any) -> Any:
    """Return whoever is in the groups for ``socket``: itself, or what is behind."""
    behind = getattr(socket, "member", None)
    return socket if behind is None else behind


class Group:
    """
    A name under which members are reached together.

    Args:
        name: Any str without control characters, at most 200 bytes of UTF-8.

    Raises:
        ValueError: If the name is not one.

    """

    __slots__ = ("_topic", "name")

    def __init__(self, name: str) -> None:
        self._topic = group_topic(name)
        self.name = name

    def __repr__(self) -> str:
        return f"Group({self.name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Group) and other.name == self.name

    def __hash__(self) -> int:
        return hash((Group, self.name))

    @contextmanager
    def joined(self, socket: Any) -> Iterator[Group]:
        """
        Be in the group for the length of a ``with`` block.

        Blocks until the membership holds in all processes, at most 2 seconds.

        Raises:
            TooManyGroups: If the socket is in as many groups as it may.
            ConnectionEnded: If the socket has ended.

        """
        self.add(socket)
        try:
            yield self
        finally:
            self.discard(socket)

    def add(self, member: Any) -> None:
        """
        Add a socket, or the channel name of one; adding twice changes nothing.

        Blocks until the membership holds in all processes, at most 2 seconds;
        what is sent after that arrives. Membership ends with the socket.

        Raises:
            TooManyGroups: If the socket is in as many groups as it may.
            ConnectionEnded: If the socket has ended.
            ConfigurationError: If the name is not that of a socket.
            LayerUnavailable: If its process cannot be reached.

        """
        layer = sending_layer()
        if isinstance(member, str) and layer.is_elsewhere(member):
            layer.add_channel(self._topic, member)
            return
        found = resolve_member(member)
        join = getattr(found, "join", None)
        if join is not None:
            join(self)
        else:
            current_layer().add(self._topic, found)

    def discard(self, member: Any) -> None:
        """
        Remove a socket or channel name; removing twice changes nothing.

        Blocks only for the name of a socket of another process, at most 2 seconds.

        Raises:
            LayerUnavailable: If that process cannot be reached.

        """
        layer = sending_layer()
        if isinstance(member, str) and layer.is_elsewhere(member):
            layer.discard_channel(self._topic, member)
            return
        try:
            found = resolve_member(member)
        except ConfigurationError:
            return
        leave = getattr(found, "leave", None)
        if leave is not None:
            leave(self)
        else:
            current_layer().discard(self._topic, found)

    def send(
        self,
        message: Data | Event,
        *,
        exclude: Any = None,
        strict: bool = False,
    ) -> None:
        """
        Send to every member, in every process and host.

        Returns without waiting for any member. Text and bytes go to the peers
        as they are; an event (a dict with "type") goes to the members'
        consumers. At most once; losses that can be known are counted.

        In a process that runs no server it blocks until the kernel has the message for
        all processes with members, usually less than a millisecond, at most a few
        seconds.

        Args:
            message: str, bytes or an event.
            exclude: A socket or channel name that does not get it.
            strict: Raise ``LayerUnavailable`` when other processes cannot be
                reached, instead of counting the loss.

        Raises:
            ValueError: For a dict without "type".
            MessageTooLarge: Above 1 MiB.
            ConfigurationError: If this process has no layer.
            LayerUnavailable: With ``strict``, and in a process that runs no server.

        """
        sending_layer().send(
            self._topic,
            make_broadcast(message),
            exclude=member_of(exclude),
            strict=strict,
        )

    def send_json(self, obj: object, *, exclude: Any = None) -> None:
        """Send ``obj`` to every member as JSON text, encoded once."""
        sending_layer().send(
            self._topic, Broadcast(Kind.TEXT, to_json(obj)), exclude=member_of(exclude)
        )


class User:
    """
    All sockets of one user, on all devices, in every process and host.

    A socket belongs to the user whose id was assigned to ``socket.user``.

    Args:
        user_id: The user's id; compared by ``str()``.

    """

    __slots__ = ("_topic", "id")

    def __init__(self, user_id: object) -> None:
        self.id = str(user_id)
        self._topic = user_topic(self.id)

    def __repr__(self) -> str:
        return f"User({self.id!r})"

    def send(self, message: Data | Event, *, exclude: Any = None) -> None:
        """Send to every socket of the user, as ``Group.send`` does."""
        sending_layer().send(
            self._topic, make_broadcast(message), exclude=member_of(exclude)
        )

    def send_json(self, obj: object, *, exclude: Any = None) -> None:
        """Send ``obj`` to every socket of the user as JSON text."""
        sending_layer().send(
            self._topic, Broadcast(Kind.TEXT, to_json(obj)), exclude=member_of(exclude)
        )

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close every socket of the user, as after a logout."""
        sending_layer().send(self._topic, make_close(code, reason))


def topic_of(group: Group | str) -> str:
    """Return the layer's topic of a group, or of a group's name."""
    return group._topic if isinstance(group, Group) else group_topic(group)


__all__ = ["Group", "Layer", "User", "resolve_member", "to_json", "topic_of"]
