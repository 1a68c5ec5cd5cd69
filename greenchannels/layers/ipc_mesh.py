"""
The links of one process to all others of its folder: one a pair.

A process binds its socket, lists the folder and dials everybody there; it looks again
each second, and soon after a link was lost. When two dial each other at once, the link
that the smaller name made stays, which is settled before either carries a frame. A
process is forgotten when its lock is free.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from logging import DEBUG, WARNING
from typing import Any, Protocol

from gevent.event import Event as Signal

from ..net.binding import UnixSocket, bind_unix
from ..net.clock import Alarm
from ..net.listener import Listener
from ..net.reactor import Reactor
from .ipc_folder import Claim, Folder
from .ipc_links import Link, Stage, check_user, dial

#: Seconds between two looks into the folder.
RESCAN = 1.0

#: Seconds until the look after a link has ended, and after that while a process that
#: had one lives without.
LOOK_SOON = 0.1

#: Seconds after which a look is so late that the hub must have had no turn.
OVERDUE = 0.2

#: Seconds in which an earlier link must end when its other end has made a new one.
REPLACE_TIMEOUT = 0.5

#: Permissions of a socket.
PRIVATE = 0o600

logger = logging.getLogger("greenchannels.layer")


class Peer:
    """
    Another process, from when it was first heard of until its end.

    Attributes:
        name: What its socket is called.
        link: The open link to it, or ``None``.
        dialing: A link that this process has dialed and that still greets.
        waiting: A link that is opened when ``link`` has ended.
        settled: Whether it has told all its topics, on any link.
        user: What the mesh's owner keeps of it.

    """

    __slots__ = ("dialing", "link", "name", "settled", "user", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.link: Link | None = None
        self.dialing: Link | None = None
        self.waiting: Link | None = None
        self.settled = False
        self.user: Any = None


class MeshOwner(Protocol):
    """Who is told what happens in the mesh, always in the hub; nothing may block."""

    def peer_found(self, peer: Peer) -> None:
        """A process has been heard of; no link to it is open yet."""

    def peer_linked(self, peer: Peer) -> None:
        """``peer.link`` is open."""

    def peer_says(self, peer: Peer, kind: int, body: bytes) -> None:
        """A frame has come."""

    def peer_unlinked(self, peer: Peer, link: Link) -> None:
        """The open link has ended; the process may live."""

    def peer_gone(self, peer: Peer) -> None:
        """The process has ended."""


class Mesh:
    """
    Find the other processes of a folder, and keep a link to each.

    Args:
        owner: Is told what happens.
        reactor: Of the hub of this thread.
        folder: Where the others are.

    Attributes:
        peers: The other processes by name.
        name: What this process is called.

    """

    def __init__(self, owner: MeshOwner, reactor: Reactor, folder: Folder) -> None:
        self._owner = owner
        self._reactor = reactor
        self._folder = folder
        self._links: set[Link] = set()
        self._claim: Claim = folder.claim()
        self.name = self._claim.name
        self.peers: dict[str, Peer] = {}
        self._sock: UnixSocket | None = None
        self._listener: Listener | None = None
        self._look: Alarm | None = None
        self._look_at = 0.0
        self._unreadable = False
        self._closed = False
        self._changed = Signal()

    # Life.

    def start(self, timeout: float) -> None:
        """
        Find the others; blocks until each has told its topics.

        Args:
            timeout: Seconds after which the rest is not waited for.

        Raises:
            OSError: If the socket cannot be bound; then nothing is left.

        """
        try:
            self._sock = bind_unix(self._claim.path, PRIVATE)
            self._listener = Listener(self._reactor, self._sock, self._accept)
            self._listener.start()
            self._folder.remove_abandoned()
            self._scan()
            self.wait(lambda: all(p.settled for p in self.peers.values()), timeout)
        except BaseException:
            self.close(0)
            raise

    def wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Block until ``condition()``, which is asked when something has changed."""
        end = time.monotonic() + timeout
        while not condition():
            left = end - time.monotonic()
            if left <= 0:
                return False
            self._changed.clear()
            self._changed.wait(left)
        return True

    def catch_up(self, timeout: float) -> None:
        """
        Look now if the hub had no turn when it was time to; blocks as ``start`` does.

        Args:
            timeout: Seconds after which those who do not tell their topics are not
                waited for.

        """
        if self._look is not None and time.monotonic() - self._look_at > OVERDUE:
            self._stop_looking()
            self._scan()
            self.wait(lambda: all(p.settled for p in self.peers.values()), timeout)

    def changed(self) -> None:
        """Something has changed that somebody may wait for. Never blocks."""
        self._changed.set()

    def close(self, timeout: float) -> None:
        """
        Give up the name and end all links; blocks until what waits has been sent.

        Args:
            timeout: Seconds after which the rest is lost.

        """
        self._stop_looking()
        self._closed = True
        if self._listener is not None:
            self._listener.close()
        self._claim.release()
        for link in tuple(self._links):
            link.close()
        if not self.wait(lambda: not self._links, timeout):
            for link in tuple(self._links):
                link.cut("this process ends")
            self.wait(lambda: not self._links, timeout)

    def abandon(self) -> None:
        """This is a forked child: let go of what is its parent's, and end nothing."""
        self._closed = True
        self._stop_looking()
        for link in tuple(self._links):
            link.abandon()
        if self._listener is not None and self._sock is not None:
            self._sock.inode = None  # the file stays
            self._listener.close()
        self._claim.abandon()

    def forsake(self) -> None:
        """
        This is a forked child: let go of what is its parent's, by closing only.

        For one whose hub was of another thread: what that was about to do to its loop
        may be half done for ever.
        """
        self._closed = True
        for link in tuple(self._links):
            link.forsake()
        if self._sock is not None:
            self._sock.close()
        self._claim.abandon()

    # Looking.

    def _look_in(self, delay: float) -> None:
        """Look into the folder in ``delay`` seconds, or earlier."""
        when = time.monotonic() + delay
        if self._closed or (self._look is not None and self._look_at <= when):
            return
        if self._look is not None:
            self._look.cancel()
        self._look_at = when
        self._look = self._reactor.clock.call_later(delay, self._look_now)

    def _stop_looking(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _look_now(self) -> None:
        self._look = None
        try:
            self._scan()
        finally:
            self._look_in(RESCAN)  # whatever has happened

    def _scan(self) -> None:
        """Dial all who are there and have no link. Never blocks."""
        try:
            names = self._folder.names()
            self._unreadable = False
        except OSError as error:
            if not self._unreadable:
                logger.warning("ipc: new processes are not found: %s", error)
            self._unreadable = True
            names = []
        for name in {*names, *self.peers} - {self.name}:
            peer = self.peers.get(name)
            if peer is None or not (peer.link or peer.dialing):
                self._dial(name)
        lost = (p for p in self.peers.values() if not (p.link or p.dialing))
        self._look_in(LOOK_SOON if any(p.settled for p in lost) else RESCAN)

    def _dial(self, name: str) -> None:
        try:
            fd = dial(self._folder.socket_path(name))
        except (ConnectionRefusedError, FileNotFoundError):
            if self._folder.remove_if_dead(name):
                self._forget(name)
            return
        except OSError as error:
            level = DEBUG if isinstance(error, BlockingIOError) else WARNING
            logger.log(level, "ipc: %s cannot be reached: %s", name, error)
            if not isinstance(error, PermissionError):
                self._peer(name)  # it may live, and what it publishes be missed
            return
        link = Link(self, self._reactor, fd, self.name, name)
        self._links.add(link)
        self._peer(name).dialing = link

    def _accept(self, fd: int, address: object) -> None:
        """Take a connection. Hub only."""
        link = Link(self, self._reactor, fd, self.name)
        self._links.add(link)
        if not check_user(fd):
            link.refuse("this is another user's")

    def _peer(self, name: str) -> Peer:
        peer = self.peers.get(name)
        if peer is None:
            peer = self.peers[name] = Peer(name)
            self._owner.peer_found(peer)
        return peer

    def _forget(self, name: str) -> None:
        peer = self.peers.pop(name, None)
        if peer is not None:
            logger.info("ipc: %s has ended", name)
            self._owner.peer_gone(peer)
            self.changed()

    # LinkOwner. In the hub.

    def link_greets(self, link: Link, name: str) -> None:
        """Choose between this link and others to the same process."""
        if name == self.name or not self._folder.may_be_called(name):
            link.refuse("nobody else is called so")
            return
        peer = self._peer(name)
        if link.dialed:
            peer.dialing = None
            self._open(peer, link)
        elif peer.dialing is not None and self.name < name:
            link.refuse("the link that was dialed to you stays")
        else:
            if peer.dialing is not None:
                rejected, peer.dialing = peer.dialing, None
                rejected.close()
            self._open(peer, link)

    def _open(self, peer: Peer, link: Link) -> None:
        """Open a link, after the end of the one before: its last bytes come first."""
        if peer.link is None:
            peer.link = link
            link.open()
            self._owner.peer_linked(peer)
            return
        if peer.waiting is not None:
            peer.waiting.close()
        peer.waiting = link
        old = peer.link
        self._reactor.clock.call_later(
            REPLACE_TIMEOUT, lambda: self._replace(peer, old)
        )

    def _replace(self, peer: Peer, old: Link) -> None:
        """The earlier link had its time to end."""
        if peer.link is old and peer.waiting is not None:
            old.cut("its other end has made a new one")

    def link_says(self, link: Link, kind: int, body: bytes) -> None:
        """Hand on a frame."""
        peer = self.peers.get(link.name)
        if peer is not None and peer.link is link:
            self._owner.peer_says(peer, kind, body)

    def link_ended(self, link: Link) -> None:
        """Forget the link, open the one that waits for that, and look for more."""
        self._links.discard(link)
        peer = self.peers.get(link.name)
        if self._closed or peer is None:
            self.changed()
            return
        if peer.dialing is link:
            peer.dialing = None
        if peer.waiting is link:
            peer.waiting = None
        was_open = peer.link is link
        if was_open:
            peer.link = None
            self._owner.peer_unlinked(peer, link)
            waiting, peer.waiting = peer.waiting, None
            if waiting is not None and waiting.stage is Stage.GREETING:
                self._open(peer, waiting)
        self.changed()
        if peer.link is None and peer.dialing is None:
            self._look_in(LOOK_SOON)
            if was_open:
                self._dial(peer.name)
