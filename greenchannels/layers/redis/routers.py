"""Which server a topic belongs to, and what its channel is called there."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Protocol

from ..numbers import PROBE
from .frames import Dialect
from .places import Place


class Router(Protocol):
    """
    The servers of a bus, and what they are for.

    Attributes:
        dialect: How they are spoken to.
        places: The servers, by name; replaced when they change.

    """

    @property
    def dialect(self) -> Dialect:
        """See above."""

    @property
    def places(self) -> dict[str, Place]:
        """See above."""

    def start(self, changed: Callable[[], None]) -> None:
        """
        Find the servers; may block for seconds.

        Args:
            changed: Called when ``places`` or ``find`` have become others.

        Raises:
            ConfigurationError: If this program is not let in.

        """

    def find(self, topic: str) -> tuple[str, bytes]:
        """Return the server of a topic, and its channel there."""

    def probe_channels(self, server: str) -> list[bytes]:
        """Return those to listen to; own probes are published on the first."""

    def doubt(self, *, gone: bool = False) -> None:
        """
        Look soon whether the servers are still what they were. Never blocks.

        Args:
            gone: Whether channels have been given up, so that ``changed`` is called
                in any case.

        """

    def close(self) -> None:
        """Look no more; never blocks."""

    def forsake(self) -> object:
        """
        This is a forked child of another thread: its greenlet will never run.

        Returns:
            What the child must not let go of.

        """


class Hosts:
    """
    One server or several that know nothing of each other.

    Each topic belongs to one of them: the one that, together with the topic, has the
    highest hash (rendezvous hashing). So it does not matter in which order they are
    named, and one more takes over only what becomes its own.

    Args:
        places: The servers, by names that are the same in all processes.
        dialect: How they are spoken to.
        prefix: What all channels begin with.

    """

    def __init__(self, places: dict[str, Place], dialect: Dialect, prefix: str) -> None:
        self.places = places
        self.dialect = dialect
        self._prefix = prefix.encode()
        self._only = next(iter(places)) if len(places) == 1 else None

    def start(self, changed: Callable[[], None]) -> None:
        """See ``Router``: they are known."""

    def find(self, topic: str) -> tuple[str, bytes]:
        """See ``Router``."""
        server = self._only
        if server is None:
            server = max(self.places, key=lambda name: _weight(name, topic))
        return server, self._prefix + topic.encode()

    def probe_channels(self, server: str) -> list[bytes]:
        """See ``Router``: each has one."""
        return [self._prefix + PROBE.encode()]

    def doubt(self, *, gone: bool = False) -> None:
        """See ``Router``: they do not change."""

    def close(self) -> None:
        """See ``Router``."""

    def forsake(self) -> object:
        """See ``Router``: there is nothing."""
        return None


def _weight(server: str, topic: str) -> bytes:
    return blake2b(f"{server} {topic}".encode(), digest_size=8).digest()
