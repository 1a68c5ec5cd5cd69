"""
The bus of several processes on one machine: ``ipc://NAME``.

There is no broker and nothing to configure. Each process has a link to every other
(``ipc_mesh.py``), tells it the topics that it wants, and sends what the other wants.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections import Counter, deque
from collections.abc import Iterable, Sequence

from gevent import get_hub, getcurrent
from gevent.event import Event as Signal

from ..errors import LayerUnavailable
from ..net.reactor import Reactor
from .ipc_folder import Folder, folder_of, forget_own
from .ipc_frames import (
    MAX_TOPICS,
    FrameError,
    Kind,
    encode_frame,
    encode_message,
    read_body,
    read_message,
)
from .ipc_links import Link
from .ipc_mesh import Mesh, Peer
from .ports import BusState, Deliver, Ledger, OnState

#: Seconds in which ``start`` hears of the topics of all others.
START_TIMEOUT = 2.0

#: Seconds after which a process that does not acknowledge is not waited for.
SILENCE = 0.5

#: Seconds in which ``close`` sends what waits.
CLOSE_TIMEOUT = 1.0

logger = logging.getLogger("greenchannels.layer")


class Account:
    """
    What is known of the topics of one other process, and of ours there.

    Attributes:
        wants: The topics that it wants.
        told: What it told since its link was opened; ``None`` once that is all.
        asked: Numbers and topics of what it has still to acknowledge.
        acknowledged: The last number that it has acknowledged.
        silent: Whether it is not waited for.
        late: Topics whose subscription did not wait for it.

    """

    __slots__ = ("acknowledged", "asked", "late", "silent", "told", "wants")

    def __init__(self) -> None:
        self.wants: set[str] = set()
        self.told: set[str] | None = None
        self.asked: deque[tuple[int, Sequence[str]]] = deque()
        self.acknowledged = 0
        self.silent = False
        self.late: set[str] = set()


class IpcBus:
    """
    A mesh of Unix sockets between the processes of one user and one application.

    Belongs to the hub of the thread that starts it.

    Args:
        name: What the processes of the application have in common.

    Raises:
        ConfigurationError: If the name is not one.

    """

    def __init__(self, name: str) -> None:
        self._path = folder_of(name)
        self._mesh: Mesh | None = None
        self._reactor: Reactor | None = None
        #: The topics that this process wants, and when it began to.
        self._topics: dict[str, int] = {}
        self._number = 0
        #: Who wants a topic.
        self._wanted: dict[str, dict[Peer, None]] = {}
        #: Subscriptions that are waited for, oldest first.
        self._waiters: deque[tuple[int, Signal]] = deque()
        #: Describes what was published, and learns what others published.
        self.ledger: Ledger | None = None
        #: What happened, by name.
        self.counters: Counter[str] = Counter()

    # The port.

    def start(self, deliver: Deliver, on_state: OnState) -> str:
        """
        Link up with the others; blocks until their topics are known, at most 2 s.

        Raises:
            ConfigurationError: If the folder is not this user's alone.
            LayerUnavailable: If there can be no socket in it.

        """
        self._deliver = deliver
        self._on_state = on_state
        reactor = Reactor()
        try:
            self._mesh = Mesh(self, reactor, Folder(self._path))
            self._reactor = reactor
            _started.add(self)
            self._mesh.start(START_TIMEOUT)
        except OSError as error:
            self._stop(reactor)
            raise LayerUnavailable(f"no socket for ipc:// there: {error}") from error
        except BaseException:
            self._stop(reactor)
            raise
        return self._mesh.name

    def subscribe(self, topics: Iterable[str], timeout: float) -> bool:
        """
        Want ``topics``; blocks until all others have acknowledged it.

        One that is silent for 0.5 s is not waited for, now and until it speaks: its
        late acknowledgement is a gap. Does not block in the hub.
        """
        if self._mesh is None:
            return False
        names = tuple(topics)
        self._number = number = self._number + 1
        self._topics.update(dict.fromkeys(names, number))
        for peer in self._mesh.peers.values():
            if peer.link is not None:
                self._ask(peer, peer.link, number, names)
        if not self._confirmed(number) and getcurrent() is not get_hub():
            self._wait_for(number, min(timeout, SILENCE))
        late = [a for a in self._accounts() if a.acknowledged < number]
        for account in late:
            account.silent = True
            account.late.update(names)
        if late:
            self._wake()
        return not late

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Want ``topics`` no more."""
        if self._mesh is None:
            return
        names = [t for t in topics if self._topics.pop(t, None) is not None]
        frame = encode_frame(Kind.UNWANT, names)
        for peer in self._mesh.peers.values():
            if peer.link is not None:
                peer.link.send(frame)

    def wants(self, topic: str) -> bool:
        """Whether another process wants ``topic``, and is not known to have ended."""
        return topic in self._wanted

    def publish(self, topic: str, data: bytes) -> bool:
        """Queue ``data`` for all who want it; False if one of them cannot get it."""
        peers = self._wanted.get(topic)
        if peers is None:
            return True
        frame = encode_message(topic, data)
        reached = True
        for peer in tuple(peers):
            link = peer.link
            if link is None or not link.send(frame):
                self.counters["messages not sent to stopped processes"] += 1
                reached = False
        return reached

    def close(self) -> None:
        """Send what waits, at most for a second, and leave the others."""
        mesh, reactor = self._mesh, self._reactor
        if mesh is None or reactor is None:
            return
        mesh.close(CLOSE_TIMEOUT)
        self._stop(reactor)

    def stats(self) -> dict[str, int]:
        """Return counts of what happened, and how many others there are."""
        peers = self._mesh.peers.values() if self._mesh is not None else ()
        linked = sum(peer.link is not None for peer in peers)
        return {**self.counters, "processes": len(peers), "processes linked": linked}

    def _stop(self, reactor: Reactor) -> None:
        self._mesh = self._reactor = None
        _started.discard(self)
        for _, signal in self._waiters:
            signal.set()
        self._waiters.clear()
        self._wanted.clear()
        self._topics.clear()
        reactor.close()

    def abandon(self) -> None:
        """This is a forked child: the links and the name are its parent's."""
        mesh, reactor = self._mesh, self._reactor
        if mesh is not None and reactor is not None:
            mesh.abandon()
            self._stop(reactor)

    # Wanting.

    def _ask(self, peer: Peer, link: Link, number: int, names: Sequence[str]) -> None:
        """Tell a process what this one wants; it will acknowledge by the number."""
        account: Account = peer.user
        account.asked.append((number, names))
        link.send(encode_frame(Kind.WANT, (number, names)))

    def _accounts(self) -> list[Account]:
        """Return what is known of all others."""
        if self._mesh is None:
            return []
        return [peer.user for peer in self._mesh.peers.values()]

    def _confirmed(self, number: int) -> bool:
        """Say whether all who are waited for have acknowledged ``number``."""
        accounts = self._accounts()
        return all(a.acknowledged >= number or a.silent for a in accounts)

    def _wait_for(self, number: int, timeout: float) -> None:
        signal = Signal()
        waiter = (number, signal)
        self._waiters.append(waiter)
        try:
            signal.wait(timeout)
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _wake(self) -> None:
        """Wake those whose subscription is confirmed by now."""
        while self._waiters and self._confirmed(self._waiters[0][0]):
            self._waiters.popleft()[1].set()

    # MeshOwner. In the hub.

    def peer_found(self, peer: Peer) -> None:
        """Open an account."""
        peer.user = Account()

    def peer_linked(self, peer: Peer) -> None:
        """Tell what this process wants."""
        account: Account = peer.user
        link = peer.link
        assert link is not None
        account.told = set()
        account.asked.clear()
        names = list(self._topics)
        for start in range(0, len(names), MAX_TOPICS):
            self._number += 1
            self._ask(peer, link, self._number, names[start : start + MAX_TOPICS])
        link.send(encode_frame(Kind.READY, None))
        if not names:
            self._acknowledge(account, self._number)

    def peer_unlinked(self, peer: Peer, link: Link) -> None:
        """What waited for it has been lost; the topics it wants are kept."""
        account: Account = peer.user
        account.asked.clear()
        if link.unsent:
            self.counters["messages not sent to stopped processes"] += link.unsent

    def peer_gone(self, peer: Peer) -> None:
        """Close the account."""
        account: Account = peer.user
        self._unwant(peer, tuple(account.wants))
        if self.ledger is not None:
            self.ledger.forget(peer.name)
        self._wake()

    def peer_says(self, peer: Peer, kind: int, body: bytes) -> None:
        """Take a frame."""
        if kind == Kind.MESSAGE:
            topic, data = read_message(body)
            self._deliver(topic, data, peer.name)
        elif kind == Kind.ACK:
            self._take_ack(peer, *read_body(body, tuple[int, bytes]))
        elif kind == Kind.WANT:
            self._take_want(peer, *read_body(body, tuple[int, list[str]]))
        elif kind == Kind.UNWANT:
            self._unwant(peer, read_body(body, list[str]))
        elif kind == Kind.READY:
            self._take_ready(peer)
        else:
            raise FrameError(f"a frame of kind {kind}")

    def _take_want(self, peer: Peer, number: int, topics: list[str]) -> None:
        """From here on it gets these topics: say so, and what there was before."""
        account: Account = peer.user
        for topic in topics:
            self._wanted.setdefault(topic, {})[peer] = None
        account.wants.update(topics)
        if account.told is not None:
            account.told.update(topics)
        note = self.ledger.describe(topics) if self.ledger is not None else b""
        assert peer.link is not None
        peer.link.send(encode_frame(Kind.ACK, (number, note)))

    def _unwant(self, peer: Peer, topics: Sequence[str]) -> None:
        account: Account = peer.user
        account.wants.difference_update(topics)
        if account.told is not None:
            account.told.difference_update(topics)
        for topic in topics:
            peers = self._wanted.get(topic)
            if peers is not None and peers.pop(peer, self) is None and not peers:
                del self._wanted[topic]

    def _take_ready(self, peer: Peer) -> None:
        """It has told all: what it wanted on an earlier link only, it wants no more."""
        assert self._mesh is not None
        account: Account = peer.user
        told, account.told = account.told, None
        if told is not None:
            self._unwant(peer, tuple(account.wants - told))
        peer.settled = True
        self._mesh.changed()

    def _take_ack(self, peer: Peer, number: int, note: bytes) -> None:
        """It has begun to send what was wanted by this number."""
        account: Account = peer.user
        if not account.asked or account.asked[0][0] != number:
            raise FrameError(f"it acknowledges {number}, which it was not asked for")
        _, names = account.asked.popleft()
        if self.ledger is not None:
            since = self._topics.get
            known = [t if since(t, number + 1) <= number else None for t in names]
            try:
                self.ledger.learn(peer.name, known, note)
            except ValueError as error:
                raise FrameError(f"an acknowledgement: {error}") from error
        self._acknowledge(account, number)

    def _acknowledge(self, account: Account, number: int) -> None:
        account.acknowledged = number
        if not account.asked:
            account.silent = False
            late, account.late = account.late, set()
            missed = [t for t in late if t in self._topics]
            if missed:
                self.counters["late acknowledgements"] += 1
                self._on_state(BusState.GAP, missed)
        self._wake()


#: Those that a fork must take from the child.
_started: weakref.WeakSet[IpcBus] = weakref.WeakSet()


def _after_fork() -> None:
    """Let the child have nothing of its parent's."""
    forget_own()
    for bus in tuple(_started):
        bus.abandon()


os.register_at_fork(after_in_child=_after_fork)
