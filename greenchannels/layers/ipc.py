"""
The bus of several processes on one machine: ``ipc://NAME``.

There is no broker and nothing to configure. Each process has a link to every other
(``ipc_mesh.py``), tells it the topics that it wants, and sends what the other wants.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import weakref
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import gevent
from gevent import get_hub, getcurrent
from gevent.event import Event as Signal
from gevent.monkey import get_original

from ..errors import LayerUnavailable
from ..net.reactor import ONE_TURN, Reactor
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

#: Seconds after which others may want something else.
OUTDATED = 0.01

#: Seconds in which it shows whether a process has ended whose link has.
PARTING = 0.5

#: Seconds in which ``close`` sends what waits.
CLOSE_TIMEOUT = 1.0

_get_ident = get_original("_thread", "get_ident")

logger = logging.getLogger("greenchannels.layer")


class Watcher(Protocol):
    """Who is told of the others' wishes; in the hub, nothing may block."""

    def unwanted(self, topics: list[str]) -> None:
        """No other process wants them any more."""

    def process_ended(self, name: str) -> None:
        """A process has."""


class Account:
    """
    What is known of the topics of one other process, and of ours there.

    Attributes:
        wants: The topics that it wants.
        told: What it told since its link was opened; ``None`` once that is all.
        asked: Numbers and topics of what it has still to acknowledge.
        acknowledged: The last number that it has acknowledged.
        heard: When it last said something.
        silent: Whether it is not waited for.
        late: Topics whose subscription did not wait for it.
        parted: When the last link to it ended.

    """

    __slots__ = (
        *("acknowledged", "asked", "heard", "late"),
        *("parted", "silent", "told", "wants"),
    )

    def __init__(self) -> None:
        self.wants: set[str] = set()
        self.told: set[str] | None = None
        self.asked: deque[tuple[int, Sequence[str]]] = deque()
        self.acknowledged = 0
        self.heard = 0.0
        self.silent = False
        self.late: set[str] = set()
        self.parted = 0.0


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
        self._thread = 0
        self._caught_up = 0.0
        #: The topics that this process wants, and when it began to.
        self._topics: dict[str, int] = {}
        #: The number of the last request for topics, and those of the one that is
        #: made in this turn: many join at once, and what is told costs by the frame.
        self._number = 0
        self._asking: list[str] = []
        #: Who wants a topic.
        self._wanted: dict[str, dict[Peer, None]] = {}
        #: Who has not told all its topics yet.
        self._unsettled: set[Peer] = set()
        #: Requests for topics that are waited for, oldest first.
        self._waiters: dict[int, Signal] = {}
        #: Describes what was published, and learns what others published.
        self.ledger: Ledger | None = None
        #: Is told of the others, if it is set before the start.
        self.watcher: Watcher | None = None
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
        self._thread = _get_ident()
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

        One that says nothing for 0.5 s is not waited for, now and until it answers: its
        late acknowledgement is a gap. Does not block in the hub.
        """
        if self._mesh is None or self._reactor is None:
            return False
        names = tuple(topics)
        return self.wait_for(self.want(names), names, timeout)

    def want(self, topics: Sequence[str]) -> int:
        """Want ``topics`` of a started bus, and return what ``wait_for`` needs."""
        assert self._reactor is not None
        if not self._asking:
            self._number += 1
            self._reactor.loop.run_callback(self.tell_wishes)
        number = self._number
        self._topics.update(dict.fromkeys(topics, number))
        self._asking += topics
        if len(self._asking) >= MAX_TOPICS:
            self.tell_wishes()
        return number

    def wait_for(self, number: int, names: Sequence[str], timeout: float) -> bool:
        """Block as ``subscribe`` does; return whether all have acknowledged."""
        if not self._confirmed(number) and getcurrent() is not get_hub():
            self._wait_for(number, timeout)
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
        self.tell_wishes()
        names = [t for t in topics if self._topics.pop(t, None) is not None]
        frame = encode_frame(Kind.UNWANT, names)
        for peer in self._mesh.peers.values():
            if peer.link is not None:
                peer.link.send(frame)

    def wants(self, topic: str) -> bool:
        """Whether another process wants ``topic``, and is not known to have ended."""
        return topic in self._wanted

    @property
    def unsure(self) -> bool:
        """Whether there are processes whose topics are not all known yet."""
        return bool(self._unsettled)

    def acknowledges(self, origin: str) -> bool:
        """All do."""
        return True

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

    def flush(self, topic: str, timeout: float) -> bool:
        """
        Block until the kernel has what is queued for all who want ``topic``.

        One that took nothing for ``timeout`` seconds is not waited for again before it
        does. Those that have ended miss nothing.

        Returns:
            False if it has not all of it.

        """
        end = time.monotonic() + timeout
        peers = tuple(self._wanted.get(topic, ()))
        for peer in peers:
            if peer.link is not None:
                peer.link.write_now()
        taken = True
        for peer in peers:
            link = peer.link
            if link is None or not link.flush(end - time.monotonic()):
                taken = self._has_ended(peer) and taken
        return taken

    def catch_up(self, topic: str) -> None:
        """
        Learn who wants ``topic`` by now.

        For programs that let their hub run only at times. Blocks for one turn, or
        longer if the hub had none for a second, or if the link to one of them has just
        ended and it may have, too.
        """
        if self._mesh is not None:
            self._mesh.catch_up(START_TIMEOUT)
            if time.monotonic() - self._caught_up > OUTDATED:
                gevent.sleep(ONE_TURN)
                self._caught_up = time.monotonic()
            for peer in tuple(self._wanted.get(topic, ())):
                parted = time.monotonic() - peer.user.parted
                if peer.link is None and parted < PARTING:
                    self._has_ended(peer)

    def _has_ended(self, peer: Peer) -> bool:
        """Say whether a process has; if its link has, wait for what is behind it."""
        mesh = self._mesh
        if mesh is None:
            return False
        if peer.link is None:
            mesh.wait(
                lambda: mesh.peers.get(peer.name) is not peer or bool(peer.link),
                PARTING,
            )
        return mesh.peers.get(peer.name) is not peer

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

    # What the bus of two tiers asks.

    def machine(self) -> str:
        """
        Return what the processes of this folder have in common, and no others.

        Raises:
            ConfigurationError: If the folder is not this user's alone.
            LayerUnavailable: If there can be no file in it.

        """
        try:
            return Folder(self._path).token()
        except OSError as error:
            raise LayerUnavailable(f"no file for ipc:// there: {error}") from error

    def keep_token(self, token: str) -> None:
        """Mark its file as used, and make it again if it has gone."""
        with contextlib.suppress(OSError):
            Folder(self._path).token(token)

    @property
    def topics(self) -> Mapping[str, int]:
        """What this process wants."""
        return self._topics

    def who_wants(self, topic: str) -> list[str]:
        """Return the names of the others that want ``topic``."""
        return [peer.name for peer in self._wanted.get(topic, ())]

    def serves(self, name: str, topic: str) -> bool:
        """Say whether a process has acknowledged the present wish for ``topic``."""
        since = self._topics.get(topic)
        peer = self._mesh.peers.get(name) if self._mesh is not None else None
        return (
            since is not None and peer is not None and since <= peer.user.acknowledged
        )

    def _stop(self, reactor: Reactor) -> None:
        self._mesh = self._reactor = None
        _started.discard(self)
        for signal in self._waiters.values():
            signal.set()
        self._waiters.clear()
        self._asking = []
        self._wanted.clear()
        self._unsettled.clear()
        self._topics.clear()
        reactor.close()

    def abandon(self) -> None:
        """This is a forked child: the links and the name are its parent's."""
        mesh, reactor = self._mesh, self._reactor
        if mesh is None or reactor is None:
            return
        if self._thread == _get_ident():
            mesh.abandon()
            self._stop(reactor)
        else:
            _of_parent.append(self._reactor)
            mesh.forsake()
            self._mesh = self._reactor = None
            _started.discard(self)

    # Wanting.

    def tell_wishes(self) -> None:
        """Tell all others what was subscribed to in this turn. Never blocks."""
        names, self._asking = self._asking, []
        if not names or self._mesh is None:
            return
        for peer in self._mesh.peers.values():
            if peer.link is not None:
                self._ask(peer, peer.link, self._number, names)

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
        """Wait until all who say something at all have acknowledged ``number``."""
        signal = self._waiters.get(number)
        if signal is None:
            signal = self._waiters[number] = Signal()
        end = time.monotonic() + timeout
        while not signal.wait(max(0.0, min(SILENCE, end - time.monotonic()))):
            gevent.sleep(ONE_TURN)  # what has come is read before anybody is judged
            now = time.monotonic()
            for account in self._accounts():
                if account.acknowledged < number and account.heard < now - SILENCE:
                    account.silent = True
            if now >= end or self._confirmed(number):
                break

    def _wake(self) -> None:
        """Wake those whose subscription is confirmed by now."""
        for number in tuple(self._waiters):
            if not self._confirmed(number):
                break
            self._waiters.pop(number).set()

    # MeshOwner. In the hub.

    def peer_found(self, peer: Peer) -> None:
        """Open an account."""
        peer.user = Account()
        self._unsettled.add(peer)
        if self.ledger is not None:
            self.ledger.expect(peer.name, self._topics)

    def peer_linked(self, peer: Peer) -> None:
        """Tell what this process wants."""
        account: Account = peer.user
        link = peer.link
        assert link is not None
        account.told = set()
        account.asked.clear()
        if self._mesh is not None:
            self._mesh.changed()
        self.tell_wishes()
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
        account.parted = time.monotonic()
        if link.unsent:
            self.counters["messages not sent to stopped processes"] += link.unsent

    def peer_gone(self, peer: Peer) -> None:
        """Close the account."""
        account: Account = peer.user
        self._unsettled.discard(peer)
        self._unwant(peer, tuple(account.wants))
        if self.ledger is not None:
            self.ledger.forget(peer.name)
        if self.watcher is not None:
            self.watcher.process_ended(peer.name)
        self._wake()

    def peer_says(self, peer: Peer, kind: int, body: bytes) -> None:
        """Take a frame."""
        peer.user.heard = time.monotonic()
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
        gone = []
        for topic in topics:
            peers = self._wanted.get(topic)
            if peers is not None and peers.pop(peer, self) is None and not peers:
                del self._wanted[topic]
                gone.append(topic)
        if gone and self.watcher is not None:
            self.watcher.unwanted(gone)

    def _take_ready(self, peer: Peer) -> None:
        """It has told all: what it wanted on an earlier link only, it wants no more."""
        assert self._mesh is not None
        account: Account = peer.user
        told, account.told = account.told, None
        if told is not None:
            self._unwant(peer, tuple(account.wants - told))
        peer.settled = True
        self._unsettled.discard(peer)
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

#: What a child never lets go of: a loop of a thread that it does not have.
_of_parent: list[object] = []


def _after_fork() -> None:
    """Let the child have nothing of its parent's."""
    forget_own()
    for bus in tuple(_started):
        bus.abandon()


os.register_at_fork(after_in_child=_after_fork)
