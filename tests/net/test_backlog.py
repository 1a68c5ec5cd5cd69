"""What waits is counted exactly, whatever happens to it, in C as in Python."""

import contextlib
import gc
import random
import socket as stdlib_socket
import sys

import gevent
import pytest

from greenchannels.net import outlet as outlet_module
from greenchannels.net.backlog import SharedFrame
from greenchannels.net.outlet import PureOutlet, PureTally
from greenchannels.net.reactor import Reactor
from greenchannels.net.transport import Transport
from tests.net.test_transport import Pair, until

#: Both forms of the counting base classes, where there are two.
KINDS = {"pure": (PureOutlet, PureTally)}
if outlet_module.Outlet is not PureOutlet:
    KINDS["c"] = (outlet_module.Outlet, outlet_module.Tally)


@pytest.fixture
def reactor():
    reactor = Reactor()
    yield reactor
    reactor.close()


def make_outlet(kind, sock, tally):
    """Return an outlet of a kind that takes what was sent out of its queue."""
    base = KINDS[kind][0]

    class Outlet(base):
        def wake_writer(self):
            """Nobody writes but the test."""

        def _borrowed(self):
            return sock

        def wait_for_kernel(self, sent):
            """Take whole frames only; begin the others again."""
            while self.queue and sent >= len(self.queue[0]):
                frame = self.queue.pop(0)
                sent -= len(frame)
                if type(frame) is SharedFrame:
                    self.shared -= len(frame)
                else:
                    self.own -= len(frame)

        def fail(self, error):
            """Drop everything."""
            self.queue.clear()
            self.own = self.shared = 0

    return Outlet(sock.fileno(), [], tally)


def make_tally(kind, limit):
    """Return a tally of a kind that notes each overflow."""

    class Tally(KINDS[kind][1]):
        def overflow(self):
            """Note it, once."""
            self.over = True
            self.overflows.append(self.own + self.shared)

    tally = Tally(limit)
    tally.overflows = []
    return tally


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(5))
def test_a_tally_is_the_sum_of_its_outlets(kind, seed):
    """After pushes, partial writes, drops and failures in any order."""
    choose = random.Random(seed)
    tally = make_tally(kind, 10**9)
    pairs = [stdlib_socket.socketpair() for _ in range(3)]
    for ours, theirs in pairs:
        ours.setblocking(False)
        ours.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_SNDBUF, 4096)
        theirs.setblocking(False)
    outlets = [make_outlet(kind, ours, tally) for ours, _ in pairs]
    for _ in range(500):
        at = choose.randrange(3)
        outlet = outlets[at]
        what = choose.randrange(10)
        if what < 4:
            outlet.push(bytes(choose.randrange(1, 5000)))
        elif what < 6:
            outlet.push_shared(SharedFrame(bytes(choose.randrange(1, 5000))), 50_000)
        elif what < 8:
            outlet.write_now()
        elif what < 9:
            with contextlib.suppress(BlockingIOError):
                pairs[at][1].recv(20_000)
        elif outlet.queue:
            outlet.queue.clear()
            outlet.own = outlet.shared = 0
        own = [f for o in outlets for f in o.queue if type(f) is bytes]
        assert tally.own == sum(map(len, own)) == sum(o.own for o in outlets)
    for outlet in outlets:
        outlet.fail(None)
    assert tally.own == 0
    assert tally.overflows == []
    for pair in pairs:
        for sock in pair:
            sock.close()


@pytest.mark.parametrize("kind", KINDS)
def test_an_overflow_is_told_once_until_somebody_has_seen_to_it(kind):
    """By whoever adds too much, and with what others wait for included."""
    ours, theirs = stdlib_socket.socketpair()
    tally = make_tally(kind, 100)
    outlet = make_outlet(kind, ours, tally)
    tally.shared = 40
    outlet.push(bytes(60))
    assert tally.overflows == []
    outlet.push(b"x")
    outlet.push(b"x")
    assert tally.overflows == [101]
    outlet.own = 10
    tally.over = False
    outlet.push(bytes(50))
    assert tally.overflows == [101]
    outlet.push(b"x")
    assert tally.overflows == [101, 101]
    ours.close()
    theirs.close()


@pytest.mark.parametrize("kind", KINDS)
def test_own_bytes_can_be_set_to_numbers_only(kind):
    """And not be taken away."""
    ours, theirs = stdlib_socket.socketpair()
    tally = make_tally(kind, sys.maxsize)
    outlet = make_outlet(kind, ours, tally)
    outlet.push(bytes(10))
    with pytest.raises(TypeError):
        outlet.own = "many"
    with pytest.raises(AttributeError):
        del outlet.own
    assert outlet.own == tally.own == 10
    ours.close()
    theirs.close()


@pytest.mark.skipif("c" not in KINDS, reason="there is no C extension here")
def test_an_outlet_in_c_that_is_let_go_of_takes_its_bytes_back():
    """And one that is not given a tally cannot be made."""
    ours, theirs = stdlib_socket.socketpair()
    tally = make_tally("c", sys.maxsize)
    outlet = make_outlet("c", ours, tally)
    outlet.push(bytes(10))
    assert tally.own == 10
    del outlet
    gc.collect()  # it is in the list of those to be written, and has the list
    assert tally.own == 0
    with pytest.raises(TypeError):
        KINDS["c"][0](ours.fileno(), [], object())
    with pytest.raises(RuntimeError):
        KINDS["c"][0].__new__(KINDS["c"][0]).push(b"x")
    ours.close()
    theirs.close()


# Transports.


def own_frames(transports):
    """Return the bytes of the own frames that wait."""
    return sum(
        len(f) for t in transports for f in t.queue if type(f) is not SharedFrame
    )


def test_transports_count_what_waits_exactly(reactor):
    """Through partial writes, drops, aborts and closes in any order."""
    choose = random.Random(7)
    pairs = [Pair(reactor) for _ in range(4)]
    transports = [pair.transport for pair in pairs]
    for _ in range(600):
        at = choose.randrange(4)
        transport = transports[at]
        what = choose.randrange(12)
        if what < 4:
            transport.push(bytes(choose.randrange(1, 30_000)))
        elif what < 7:
            frame = SharedFrame(bytes(choose.randrange(1, 30_000)))
            reactor.backlog.hold(frame)
            for each in transports:
                each.push_shared(frame, 10**6)
            del frame
        elif what < 9:
            transport.write_now()
        elif what < 10:
            transport.keep_unsent(transport.unsent[::2])
        elif what < 11:
            transport.drop_unsent()
        else:
            pairs[at].read(50_000, seconds=5 * 0.001)
        assert reactor.backlog.own == own_frames(transports)
        waiting = {id(f): len(f) for t in transports for f in t.queue}
        own = {id(f) for t in transports for f in t.queue if type(f) is not SharedFrame}
        shared = sum(size for key, size in waiting.items() if key not in own)
        assert reactor.backlog.shared == shared
    transports[0].abort()
    transports[1].close()
    transports[2].fail(None)
    transports[3].cut(ConnectionAbortedError())
    pairs[1].read(10**7)
    until(lambda: all(pair.protocol.lost for pair in pairs))
    assert (reactor.backlog.own, reactor.backlog.shared) == (0, 0)
    for pair in pairs:
        pair.peer.close()


def test_a_cut_lets_go_of_all_that_waits_at_once(reactor):
    """The protocol is told why, the peer gets a reset."""
    pair = Pair(reactor)
    error = ConnectionAbortedError("no room")
    pair.transport.push(bytes(10**6))
    frame = SharedFrame(bytes(1000))
    reactor.backlog.hold(frame)
    pair.transport.push_shared(frame, 10**9)
    del frame
    pair.transport.write_now()
    assert reactor.backlog.total == 10**6 + 1000
    pair.transport.cut(error)
    assert reactor.backlog.total == 0
    assert pair.protocol.lost == [error]
    gevent.sleep(0)
    assert pair.protocol.lost == [error]
    pair.transport.cut(error)
    assert pair.protocol.lost == [error]
    pair.peer.close()


def test_a_shared_frame_counts_once_as_long_as_somebody_holds_it(reactor):
    """Wherever it waits, and however often it is counted."""
    frame = SharedFrame(bytes(100))
    reactor.backlog.hold(frame)
    reactor.backlog.hold(frame)
    held = [frame, frame]
    assert reactor.backlog.shared == 100
    del frame
    assert reactor.backlog.shared == 100
    held.clear()
    assert reactor.backlog.shared == 0
    SharedFrame(b"never counted")
    assert reactor.backlog.shared == 0


def test_somebody_is_called_in_the_hub_when_too_much_waits(reactor):
    """Once, for own frames and shared ones alike."""
    called = []
    backlog = reactor.backlog
    backlog.limit = 1000
    backlog.on_overflow = lambda: called.append(gevent.getcurrent())
    frame = SharedFrame(bytes(1001))
    backlog.hold(frame)
    assert called == []
    gevent.sleep(0)
    assert called == [gevent.get_hub()]
    pair = Pair(reactor)
    pair.transport.push(bytes(10))
    gevent.sleep(0)
    assert len(called) == 1
    backlog.over = False
    pair.transport.push(bytes(10))
    gevent.sleep(0)
    assert len(called) == 2
    pair.transport.abort()
    until(lambda: pair.protocol.lost)
    pair.peer.close()


def test_a_transport_is_an_outlet_of_its_reactor(reactor):
    """Two hubs' counts have nothing to do with each other."""
    other = Reactor()
    pair = Pair(reactor)
    assert isinstance(pair.transport, Transport)
    pair.transport.push(bytes(10))
    assert (reactor.backlog.own, other.backlog.own) == (10, 0)
    pair.transport.cut(ConnectionAbortedError())
    other.close()
    pair.peer.close()
