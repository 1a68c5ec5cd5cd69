"""Transports over real socket pairs: every rule of waking, writing and closing."""

import contextlib
import errno
import socket as stdlib_socket

import gevent
import pytest

from greenchannels.net import stream_protocol
from greenchannels.net.reactor import Reactor
from greenchannels.net.transport import SharedFrame, Transport

MS = 0.001


class Recorder:
    """A protocol that notes what it is told."""

    def __init__(self):
        self.data = bytearray()
        self.eof = False
        self.lost = []
        self.progress = 0
        self.on_data = None

    def data_received(self, buffer, size):
        """Keep it."""
        self.data += memoryview(buffer)[:size]
        if self.on_data is not None:
            self.on_data()

    def eof_received(self):
        """Note it."""
        self.eof = True

    def write_progress(self):
        """Count it."""
        self.progress += 1

    def connection_lost(self, error):
        """Note it."""
        self.lost.append(error)


@pytest.fixture
def reactor():
    reactor = Reactor()
    yield reactor
    reactor.close()


class Pair:
    """A transport and the plain socket at its other end."""

    def __init__(self, reactor, kind=stdlib_socket.SOCK_STREAM, **options):
        ours, self.peer = stdlib_socket.socketpair(type=kind)
        ours.setblocking(False)
        ours.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_SNDBUF, 8192)
        self.peer.setblocking(False)
        self.transport = Transport(reactor, ours.detach(), **options)
        self.protocol = Recorder()
        self.transport.start(self.protocol)

    def read(self, size=10**7, seconds=2.0):
        """Return what arrives at the peer until ``size`` bytes or the end."""
        got = bytearray()
        with gevent.Timeout(seconds, False):
            while len(got) < size:
                try:
                    data = self.peer.recv(65536)
                except BlockingIOError:
                    gevent.sleep(MS)
                    continue
                if not data:
                    break
                got += data
        return bytes(got)


@pytest.fixture
def pair(reactor):
    pair = Pair(reactor)
    yield pair
    pair.transport.abort()
    gevent.sleep(0)
    gevent.sleep(0)
    pair.peer.close()


def until(condition, seconds=5.0):
    """Wait for ``condition()``."""
    with gevent.Timeout(seconds):
        while not condition():
            gevent.sleep(MS)


def test_what_the_peer_sends_reaches_the_protocol(pair):
    """Whatever its size."""
    data = bytes(range(256)) * 1000
    sent = 0
    with gevent.Timeout(5):
        while sent < len(data):
            with contextlib.suppress(BlockingIOError):
                sent += pair.peer.send(data[sent : sent + 60000])
            gevent.sleep(0)
    until(lambda: len(pair.protocol.data) == len(data))
    assert pair.protocol.data == data


def test_frames_of_one_turn_are_written_in_one_call(reactor):
    """At the end of the hub's turn; a record socket shows what one call wrote."""
    pair = Pair(reactor, kind=stdlib_socket.SOCK_SEQPACKET)
    pair.transport.push(b"a")
    pair.transport.push(b"b")
    pair.transport.push_shared(SharedFrame(b"c"), 10**9)
    assert pair.transport.scheduled
    with pytest.raises(BlockingIOError):
        pair.peer.recv(10)
    gevent.sleep(0)
    assert pair.peer.recv(10) == b"abc"
    pair.transport.abort()
    until(lambda: pair.protocol.lost)
    pair.peer.close()


def test_what_is_written_while_bytes_are_handled_goes_out_in_the_same_turn(
    pair, reactor
):
    """When all that is readable has been read."""
    pair.protocol.on_data = lambda: pair.transport.push(b"answer")
    pair.peer.send(b"x")
    until(lambda: pair.protocol.data)
    assert reactor.dirty in ([], [pair.transport])
    assert pair.read(6) == b"answer"
    assert not reactor.busy


def test_what_is_written_before_a_close_goes_out_at_once(pair, reactor):
    """The connection ends in the turn in which it is closed."""

    def answer():
        pair.transport.push(b"answer")
        pair.transport.close()

    pair.protocol.on_data = answer
    pair.peer.send(b"x")
    until(lambda: pair.protocol.lost)
    assert pair.read() == b"answer"


def test_paused_reading_leaves_bytes_in_the_kernel(pair):
    """And resuming gets them."""
    pair.transport.pause_reading()
    pair.peer.send(b"wait")
    gevent.sleep(20 * MS)
    assert pair.protocol.data == b""
    pair.transport.resume_reading()
    until(lambda: pair.protocol.data == b"wait")


def fill(transport, total=400_000, size=1000, cls=bytes):
    """Queue more than the kernel takes."""
    for i in range(total // size):
        frame = cls(bytes([i % 256]) * size)
        if cls is SharedFrame:
            transport.push_shared(frame, 10**9)
        else:
            transport.push(frame)
    transport.write_now()
    return b"".join(bytes([i % 256]) * size for i in range(total // size))


@pytest.mark.parametrize("cls", [bytes, SharedFrame])
def test_a_full_kernel_loses_and_repeats_nothing(pair, cls):
    """All bytes arrive in order, and the counts end at zero."""
    data = fill(pair.transport, cls=cls)
    assert pair.transport.blocked
    waiting = pair.transport.own if cls is bytes else pair.transport.shared
    assert 0 < waiting <= len(data)
    assert pair.read(len(data)) == data
    until(lambda: not pair.transport.blocked)
    assert (pair.transport.own, pair.transport.shared) == (0, 0)
    assert pair.protocol.progress > 0


def test_own_and_shared_bytes_are_counted_apart(pair):
    """Also when half of a mixed queue has been written."""
    transport = pair.transport
    fill(transport, 200_000)
    for _ in range(50):
        transport.push_shared(SharedFrame(b"s" * 100), 10**9)
        transport.push(b"o" * 10)
    own, shared = transport.own, transport.shared
    assert shared == 5000
    assert own == sum(len(f) for f in transport.queue if type(f) is bytes)
    pair.read(200_000 + 1000)
    until(lambda: transport.own + transport.shared == sum(map(len, transport.queue)))


def test_flush_returns_when_the_kernel_has_everything(pair):
    """Not before; and what is written later is not waited for."""
    data = fill(pair.transport)
    done = []
    waiter = gevent.spawn(lambda: (pair.transport.flush(), done.append(1)))
    gevent.sleep(20 * MS)
    assert not done
    pair.transport.push(b"later")
    assert pair.read(len(data) + 5) == data + b"later"
    waiter.join(timeout=5)
    assert done


def test_a_killed_flush_leaves_no_waiter_behind(pair):
    """Nor a timeout one."""
    fill(pair.transport)
    waiter = gevent.spawn(pair.transport.flush)
    gevent.sleep(10 * MS)
    waiter.kill()
    with gevent.Timeout(20 * MS, False):
        pair.transport.flush()
    assert pair.transport._waiters is None
    pair.read(400_000)


def test_several_greenlets_wait_for_the_same_bytes(pair):
    """All are woken."""
    data = fill(pair.transport)
    waiters = [gevent.spawn(pair.transport.flush) for _ in range(5)]
    gevent.sleep(10 * MS)
    assert pair.read(len(data)) == data
    assert len(gevent.joinall(waiters, timeout=5)) == 5


def test_dropping_keeps_the_half_sent_frame(pair):
    """The peer must never see a frame cut in the middle."""
    transport = pair.transport
    transport.push(b"A" * 300_000)
    transport.write_now()
    assert transport.blocked
    for _ in range(10):
        transport.push_shared(SharedFrame(b"B" * 100), 10**9)
    assert transport.drop_unsent() == 10
    transport.push(b"C")
    assert pair.read(300_001) == b"A" * 300_000 + b"C"
    until(lambda: transport.own == transport.shared == 0)


def test_a_peer_that_takes_no_byte_is_cut(reactor):
    """After write_timeout."""
    pair = Pair(reactor, write_timeout=50 * MS)
    fill(pair.transport)
    until(lambda: pair.protocol.lost)
    assert isinstance(pair.protocol.lost[0], TimeoutError)
    pair.peer.close()


def test_a_slow_peer_that_takes_bytes_is_not_cut(reactor):
    """Every byte restarts the timeout."""
    pair = Pair(reactor, write_timeout=150 * MS)
    data = fill(pair.transport, 200_000)
    got = b""
    for _ in range(30):
        gevent.sleep(20 * MS)
        got += pair.read(4000, seconds=0.005)
        if len(got) == len(data):
            break
    assert not pair.protocol.lost
    pair.transport.abort()
    until(lambda: pair.protocol.lost)
    pair.peer.close()


def test_close_writes_what_waits_first(pair):
    """Then the peer sees the end."""
    data = fill(pair.transport)
    pair.transport.close()
    pair.transport.push(b"after the close: dropped")
    assert pair.read() == data
    until(lambda: pair.protocol.lost == [None])
    assert pair.transport.closed


def test_close_wakes_those_who_wait_for_writes(pair):
    """They must not wait for ever."""
    fill(pair.transport)
    waiter = gevent.spawn(pair.transport.flush)
    gevent.sleep(10 * MS)
    pair.transport.abort()
    assert gevent.joinall([waiter], timeout=5)


def test_a_lingering_close_lets_the_peer_read_the_last_words(pair):
    """Although it is still sending."""
    pair.transport.push(b"goodbye")
    pair.transport.close(linger=True)
    pair.peer.send(b"still talking" * 100)
    assert pair.read() == b"goodbye"
    pair.peer.close()
    until(lambda: pair.protocol.lost)


def test_a_lingering_close_does_not_wait_for_ever(pair, monkeypatch):
    """A peer that stays is left."""
    monkeypatch.setattr(stream_protocol, "LINGER", 50 * MS)
    pair.transport.close(linger=True)
    until(lambda: pair.protocol.lost)


def test_the_end_of_the_peers_stream_is_told_once(pair):
    """And the watcher does not spin on it."""
    pair.peer.shutdown(stdlib_socket.SHUT_WR)
    until(lambda: pair.protocol.eof)
    assert not pair.transport.reading
    pair.transport.push(b"still here")
    assert pair.read(10) == b"still here"


def test_a_reset_is_told_once(reactor):
    """With the error, by a hub callback."""
    pair = Pair(reactor)
    pair.peer.close()
    until(lambda: pair.protocol.eof)
    pair.transport.push(b"x")
    until(lambda: pair.protocol.lost)
    assert len(pair.protocol.lost) == 1
    assert isinstance(pair.protocol.lost[0], OSError)
    pair.transport.abort()
    gevent.sleep(0)
    assert len(pair.protocol.lost) == 1


def test_a_protocol_that_raises_is_logged_and_its_connection_ends(pair, caplog):
    """The hub goes on."""

    def fail():
        raise RuntimeError("bad protocol")

    pair.protocol.on_data = fail
    pair.peer.send(b"x")
    until(lambda: pair.protocol.lost)
    assert "bad protocol" in caplog.text


def test_nothing_is_called_after_the_end(pair):
    """Writes of those who have not noticed are dropped."""
    pair.transport.abort()
    until(lambda: pair.protocol.lost)
    pair.transport.push(b"x")
    pair.transport.push_shared(SharedFrame(b"x"), 10**9)
    pair.transport.write_now()
    pair.transport.close()
    pair.transport.fail(OSError(errno.EPIPE, "late"))
    pair.transport.flush()
    gevent.sleep(0)
    assert len(pair.protocol.lost) == 1
    assert pair.transport.queue == []


def test_write_later_bounds_the_writes_of_a_turn(reactor, monkeypatch):
    """The rest is written in later turns, none is forgotten."""
    monkeypatch.setattr("greenchannels.net.reactor.WRITES_PER_TURN", 3)
    pairs = [Pair(reactor) for _ in range(10)]
    for pair in pairs:
        pair.transport.push(b"x")
    until(lambda: not reactor.busy)
    assert [pair.read(1) for pair in pairs] == [b"x"] * 10
    for pair in pairs:
        pair.transport.abort()
        pair.peer.close()
    until(lambda: all(pair.protocol.lost for pair in pairs))


def test_a_failing_slice_does_not_stop_the_others(reactor, caplog):
    """It is logged."""
    done = []

    def fail():
        raise RuntimeError("bad slice")

    reactor.next_turn(fail)
    reactor.next_turn(lambda: done.append(1))
    until(lambda: not reactor.busy)
    assert done == [1]
    assert "bad slice" in caplog.text
