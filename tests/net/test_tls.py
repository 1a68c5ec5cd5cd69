"""TLS transports over real socket pairs: handshakes, records, ends."""

import gc
import logging
import os
import socket as stdlib_socket
import ssl
import struct
import time
from collections import Counter
from pathlib import Path

import gevent
import gevent.socket
import pytest

from greenchannels.errors import ConfigurationError
from greenchannels.net import handshakes as handshakes_module
from greenchannels.net import stream_protocol
from greenchannels.net import tls as tls_module
from greenchannels.net.certificates import (
    Certificates,
    NameChoice,
    TLSObject,
    certificate_names,
)
from greenchannels.net.handshakes import Handshakes
from greenchannels.net.outlet import pure_write_each, write_each
from greenchannels.net.tls import CUT, DONE, FAILED_ONES
from greenchannels.net.tls_details import subject_name
from greenchannels.net.transport import SharedFrame
from greenchannels.options import TLS
from tests.certificates import authority, client_context, localhost
from tests.net.test_transport import Pair as PlainPair
from tests.net.test_transport import Recorder, reactor, until
from tests.servers.harness import no_leaks

__all__ = ["no_leaks", "reactor"]

MS = 0.001

ANSWER = b"HTTP/1.1 400 Bad Request\r\n\r\n"


@pytest.fixture(scope="module")
def certificates():
    """One certificate, for localhost."""
    return Certificates(TLS((localhost(),)))


class Wire:
    """A TLS client that shows and delays its bytes."""

    def __init__(self, sock, *, name="localhost", context=None):
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = (context or client_context()).wrap_bio(
            self.incoming, self.outgoing, server_hostname=name
        )

    def send_out(self, step=None):
        """Send what TLS wants sent; ``step`` bytes at a time."""
        data = self.outgoing.read()
        for start in range(0, len(data), step or len(data) or 1):
            self.sock.sendall(data[start : start + (step or len(data))])
            if step is not None:
                gevent.sleep(0)

    def take_in(self, seconds=5.0):
        """Receive some bytes; return whether there are more to come."""
        with gevent.Timeout(seconds):
            data = self.sock.recv(65536)
        self.incoming.write(data) if data else self.incoming.write_eof()
        return bool(data)

    def shake_hands(self, step=None):
        """Do the whole handshake."""
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.send_out(step)
                self.take_in()
        self.send_out(step)
        return self

    def send(self, data, step=None):
        """Encrypt and send."""
        self.tls.write(data)
        self.send_out(step)

    def read(self, size=10**9):
        """Return what comes until ``size`` bytes, or the end."""
        got = bytearray()
        while len(got) < size:
            try:
                data = self.tls.read(65536)
            except ssl.SSLWantReadError:
                self.send_out()
                self.take_in()
                continue
            except ssl.SSLZeroReturnError:
                break  # both have said goodbye
            if not data:
                break
            got += data
        return bytes(got)

    def say_goodbye(self):
        """Send close_notify, and nothing else."""
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            self.send_out()
        else:
            self.send_out()


class Pair:
    """A TLS transport and the socket at its other end."""

    def __init__(self, reactor, certificates, *, small=True, **options):
        ours, self.peer = gevent.socket.socketpair()
        ours.setblocking(False)
        if small:
            ours.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_SNDBUF, 8192)
        self.counters = Counter()
        self.handshakes = Handshakes(
            reactor,
            certificates,
            counters=self.counters,
            plain_answer=lambda: ANSWER,
        )
        self.transport = self.handshakes.transport(ours.detach(), "peer", **options)
        self.protocol = Recorder()
        self.protocol.callback_failed = self.transport.fail
        self.transport.start(self.protocol)
        self.wire = Wire(self.peer)

    def open(self, **options):
        """Do the handshake."""
        self.wire.shake_hands(**options)
        until(lambda: self.transport.tls is not None)
        return self

    def reset(self):
        """Close the peer's end with a reset where the family has them."""
        self.peer.setsockopt(
            stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.peer.close()

    def end(self):
        """Close both ends."""
        self.transport.abort()
        until(lambda: self.protocol.lost)
        self.peer.close()


@pytest.fixture
def new_pair(reactor, certificates):
    """A function that returns a pair before its handshake."""
    made = []

    def make(certificates=certificates, **options):
        made.append(Pair(reactor, certificates, **options))
        return made[-1]

    yield make
    for pair in made:
        pair.end()


@pytest.fixture
def pair(new_pair):
    """A pair after its handshake."""
    return new_pair().open()


def fill(transport, size=400_000, cls=bytes):
    """Push more than the kernel takes."""
    data = cls(bytes(range(256)) * (size // 256))
    if cls is SharedFrame:
        assert transport.push_shared(data, 10**9)
    else:
        transport.push(data)
    transport.write_now()
    assert transport.blocked
    return data


# Reading.


@pytest.mark.parametrize("step", [None, 1, 7])
def test_the_handshake_does_not_depend_on_how_its_bytes_arrive(new_pair, step):
    """Not even one byte at a time."""
    pair = new_pair().open(step=step)
    assert pair.wire.tls.selected_alpn_protocol() == "http/1.1"
    assert pair.transport.secure
    assert pair.counters == {DONE: 1}
    pair.wire.send(b"hello", step)
    until(lambda: pair.protocol.data == b"hello")


@pytest.mark.parametrize("size", [1, 16384, 16385, 300_000, 1_000_000])
def test_messages_of_every_size_go_both_ways(new_pair, size):
    """Less than a record, exactly one, and more than the buffers hold."""
    pair = new_pair(small=False).open()
    data = os.urandom(size)
    writer = gevent.spawn(pair.wire.send, data)
    until(lambda: len(pair.protocol.data) == size)
    writer.join()
    assert pair.protocol.data == data
    pair.transport.push(data)
    assert pair.wire.read(size) == data
    assert (pair.transport.own, pair.transport.shared) == (0, 0)


def test_records_that_arrive_together_are_told_at_once(pair):
    """One call of the protocol for all of a segment."""
    calls = []
    pair.protocol.on_data = lambda: calls.append(len(pair.protocol.data))
    for n in range(100):
        pair.wire.tls.write(b"%03d" % n)
    pair.wire.send_out()
    until(lambda: len(pair.protocol.data) == 300)
    assert calls == [300]
    assert pair.protocol.data == b"".join(b"%03d" % n for n in range(100))


def test_a_record_in_pieces_is_told_when_it_is_whole(pair):
    """What stands behind its half is not lost either."""
    pair.wire.tls.write(b"first")
    pair.wire.tls.write(b"second")
    data = pair.wire.outgoing.read()
    pair.peer.sendall(data[:-5])
    until(lambda: pair.protocol.data)
    assert pair.protocol.data == b"first"
    pair.peer.sendall(data[-5:])
    until(lambda: pair.protocol.data == b"firstsecond")


def test_bytes_behind_the_handshake_are_not_forgotten(new_pair):
    """Although the socket does not become readable for them again."""
    pair = new_pair()
    wire = pair.wire
    while True:
        try:
            wire.tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            wire.send_out()
            wire.take_in()
    wire.send(b"with the client's Finished")
    until(lambda: pair.protocol.data == b"with the client's Finished")


def test_reading_pauses_and_goes_on(pair):
    """While it pauses the kernel holds what comes."""
    pair.protocol.on_data = pair.transport.pause_reading
    pair.wire.send(b"one")
    until(lambda: pair.protocol.data)
    pair.wire.send(b"two")
    gevent.sleep(20 * MS)
    assert pair.protocol.data == b"one"
    pair.transport.resume_reading()
    until(lambda: pair.protocol.data == b"onetwo")


def test_close_notify_is_told_after_the_data_before_it(pair):
    """Although both came in one segment, and no readiness follows."""
    pair.wire.tls.write(b"last words")
    pair.wire.say_goodbye()
    until(lambda: pair.protocol.eof)
    assert pair.protocol.data == b"last words"
    assert not pair.transport.reading
    assert CUT not in pair.counters


def test_close_notify_during_a_pause_is_told_when_reading_goes_on(pair):
    """It has been decrypted with the data that made the protocol pause."""
    pair.protocol.on_data = pair.transport.pause_reading
    pair.wire.tls.write(b"last words")
    pair.wire.say_goodbye()
    until(lambda: pair.protocol.data)
    gevent.sleep(20 * MS)
    assert not pair.protocol.eof
    pair.transport.resume_reading()
    until(lambda: pair.protocol.eof)


def test_after_the_peers_close_notify_we_may_still_write(pair):
    """A half-closed TLS 1.3 connection (RFC 8446, section 6.1)."""
    pair.wire.tls.write(b"request")
    pair.wire.say_goodbye()
    until(lambda: pair.protocol.eof)
    pair.transport.push(b"answer")
    assert pair.wire.read(6) == b"answer"


def test_an_end_without_close_notify_is_told_and_counted(pair):
    """Somebody on the way could have cut the connection."""
    pair.wire.send(b"x")
    pair.peer.shutdown(stdlib_socket.SHUT_WR)
    until(lambda: pair.protocol.eof)
    assert pair.protocol.data == b"x"
    assert pair.counters[CUT] == 1


def test_a_forged_record_ends_the_connection_with_an_alert(pair):
    """What came before it is told; nothing is taken from it."""
    pair.wire.tls.write(b"good")
    good = pair.wire.outgoing.read()
    pair.wire.tls.write(b"forged")
    forged = bytearray(pair.wire.outgoing.read())
    forged[-1] ^= 1
    pair.peer.sendall(good + forged)
    until(lambda: pair.protocol.lost)
    assert pair.protocol.data == b"good"
    assert isinstance(pair.protocol.lost[0], ssl.SSLError)
    with pytest.raises(ssl.SSLError, match="(?i)bad record mac"):
        pair.wire.read()


def test_a_reset_is_told_once(pair):
    """With the error."""
    pair.reset()
    until(lambda: pair.protocol.eof or pair.protocol.lost)
    pair.transport.push(b"x")
    until(lambda: pair.protocol.lost)
    assert len(pair.protocol.lost) == 1
    assert isinstance(pair.protocol.lost[0], OSError)


def test_a_protocol_that_raises_ends_its_connection_only(pair, caplog):
    """As without TLS."""
    pair.protocol.on_data = lambda: 1 / 0
    pair.wire.send(b"x")
    until(lambda: pair.protocol.lost)


# The handshake.


@pytest.mark.parametrize(
    "data, says",
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "a request without TLS"),
        (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", "a request without TLS"),
        (b"CONNECT x:443 HTTP/1.1\r\n\r\n", "a request without TLS"),
    ],
)
def test_plain_http_is_answered_in_plain(new_pair, caplog, data, says):
    """One line in the log, no traceback, and a clear end."""
    pair = new_pair()
    with caplog.at_level(logging.INFO, "greenchannels"):
        pair.peer.sendall(data)
        with gevent.Timeout(5):
            assert pair.peer.recv(1000) == ANSWER
            assert pair.peer.recv(1000) == b""
    pair.peer.close()
    until(lambda: pair.protocol.lost)
    (record,) = caplog.records
    assert says in record.getMessage() and record.exc_info is None
    assert pair.counters == {FAILED_ONES: 1}
    assert pair.protocol.data == b""


@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 100,
        os.urandom(64),
        b"SSH-2.0-OpenSSH_9\r\n",
        b"\x16\x03\x01\xff\xff" * 9,
    ],
    ids=["zeros", "random", "ssh", "a record too long"],
)
def test_garbage_is_refused_with_one_line(new_pair, caplog, data):
    """And an alert, if TLS has one for it."""
    pair = new_pair()
    with caplog.at_level(logging.INFO, "greenchannels"):
        pair.peer.sendall(data)
        with gevent.Timeout(5):
            while pair.peer.recv(1000):
                pass
    pair.peer.close()
    until(lambda: pair.protocol.lost)
    (record,) = caplog.records
    assert "the TLS handshake failed" in record.getMessage()
    assert record.exc_info is None
    assert pair.counters == {FAILED_ONES: 1}


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_versions_are_refused(new_pair, caplog, version):
    """TLS 1.0 and 1.1 (RFC 8996)."""
    context = client_context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    context.set_ciphers("ALL:@SECLEVEL=0")
    pair = new_pair()
    caplog.set_level(logging.INFO, "greenchannels")
    with pytest.raises(ssl.SSLError, match="(?i)version"):
        Wire(pair.peer, context=context).shake_hands()
    pair.peer.close()
    until(lambda: pair.protocol.lost)
    assert "unsupported protocol" in caplog.text
    assert pair.counters == {FAILED_ONES: 1}


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_new_versions_are_spoken(new_pair, version):
    """Both, in both directions."""
    context = client_context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    pair = new_pair()
    pair.wire = Wire(pair.peer, context=context)
    pair.open()
    pair.wire.send(b"in")
    until(lambda: pair.protocol.data == b"in")
    pair.transport.push(b"out")
    assert pair.wire.read(3) == b"out"


def test_a_client_that_knows_no_protocol_of_ours_chooses_itself(new_pair):
    """ALPN h2 only: no protocol is selected."""
    pair = new_pair()
    pair.wire = Wire(pair.peer, context=client_context(alpn=["h2"]))
    pair.open()
    assert pair.wire.tls.selected_alpn_protocol() is None


@pytest.mark.parametrize("sent", [0, 1, 50, 10**6])
def test_a_handshake_that_is_broken_off_is_counted(new_pair, caplog, sent):
    """At any byte; debug lines only."""
    pair = new_pair()
    with pytest.raises(ssl.SSLWantReadError):
        pair.wire.tls.do_handshake()
    with caplog.at_level(logging.DEBUG, "greenchannels"):
        pair.peer.sendall(pair.wire.outgoing.read()[:sent])
        gevent.sleep(5 * MS)
        pair.peer.close()
        until(lambda: pair.protocol.eof or pair.protocol.lost)
        pair.transport.close()
        until(lambda: pair.protocol.lost)
    assert pair.counters == {FAILED_ONES: 1}
    assert [r.levelname for r in caplog.records] == ["DEBUG"]


def test_a_client_that_does_not_trust_us_is_one_line(new_pair, caplog):
    """Its alert is named."""
    pair = new_pair()
    with caplog.at_level(logging.INFO, "greenchannels"):
        wire = Wire(pair.peer, context=client_context(trust=1))
        with pytest.raises(ssl.SSLCertVerificationError):
            wire.shake_hands()
        wire.send_out()
        until(lambda: pair.counters[FAILED_ONES])
    (record,) = caplog.records
    assert "unknown ca" in record.getMessage() and record.exc_info is None


def test_a_client_that_sends_nothing_costs_no_tls(new_pair):
    """Who only connects gets no state."""
    pair = new_pair()
    gevent.sleep(5 * MS)
    assert pair.transport._tls is None


def test_closing_during_the_handshake_needs_no_peer(new_pair):
    """Nothing can be said to it; what was queued cannot be sent."""
    pair = new_pair()
    pair.transport.push(b"never")
    pair.transport.close()
    until(lambda: pair.protocol.lost)
    with gevent.Timeout(5):
        assert pair.peer.recv(100) == b""


def test_handshakes_are_bounded_in_a_turn(reactor, certificates, monkeypatch):
    """However many clients come at once: other work has its turn between."""
    monkeypatch.setattr(handshakes_module, "STEPS_PER_TURN", 2)
    pairs = [Pair(reactor, certificates) for _ in range(20)]
    for pair in pairs:
        pair.handshakes = pairs[0].handshakes
        pair.transport._handshakes = pairs[0].handshakes
    steps = []
    take_step = tls_module.TLSTransport.shake_hands

    def note(transport):
        steps.append(turns)
        take_step(transport)

    monkeypatch.setattr(tls_module.TLSTransport, "shake_hands", note)
    turns = 0
    for pair in pairs:
        with pytest.raises(ssl.SSLWantReadError):
            pair.wire.tls.do_handshake()
        pair.wire.send_out()
    prepare = reactor.loop.prepare()

    def count():
        nonlocal turns
        turns += 1

    prepare.start(count)
    try:
        until(lambda: len(steps) == 20)
    finally:
        prepare.stop()
        prepare.close()
    assert max(Counter(steps).values()) <= 2
    for pair in pairs:
        pair.end()


def test_a_plain_connection_goes_on_while_many_shake_hands(reactor, certificates):
    """Its echo takes at most ten times what one step and one turn take."""
    alone = Pair(reactor, certificates).open()
    alone.protocol.on_data = lambda: alone.transport.push(b"echo")

    def echo():
        start = time.perf_counter()
        alone.wire.send(b"x")
        alone.wire.read(4)
        return time.perf_counter() - start

    pairs = [Pair(reactor, certificates) for _ in range(300)]
    for pair in pairs:
        pair.transport._handshakes = alone.handshakes
        with pytest.raises(ssl.SSLWantReadError):
            pair.wire.tls.do_handshake()
        pair.wire.send_out()
    before = alone.counters[DONE]
    took = []
    while len(alone.handshakes._waiting) or not took:
        took.append(echo())
    assert alone.counters[DONE] == before  # none of them answers
    # One echo needs two or three turns of the hub, each with one slice.
    assert max(took) < 10 * 3 * (handshakes_module.HANDSHAKE_TIME + 2 * MS)
    assert len(took) > 3
    for pair in [alone, *pairs]:
        pair.end()


# Writing.


def test_frames_of_one_turn_are_one_record(pair):
    """Shared ones with own ones."""
    pair.transport.push(b"a" * 10)
    pair.transport.push_shared(SharedFrame(b"b" * 10), 10**9)
    pair.transport.push(b"c" * 10)
    pair.wire.take_in()
    got = pair.wire.read(30)
    assert got == b"a" * 10 + b"b" * 10 + b"c" * 10
    assert pair.wire.incoming.pending == 0


@pytest.mark.parametrize("write_each", [write_each, pure_write_each])
def test_what_writes_all_writes_these_too(pair, write_each):
    """In C as in Python."""
    pair.transport.scheduled = True
    pair.transport.push(b"abc")
    write_each([pair.transport])
    assert not pair.transport.scheduled
    assert pair.wire.read(3) == b"abc"


@pytest.mark.parametrize("cls", [bytes, SharedFrame])
def test_what_the_kernel_does_not_take_waits(pair, cls):
    """And is counted as its kind until all of its batch has gone."""
    data = fill(pair.transport, cls=cls)
    waiting = pair.transport.own if cls is bytes else pair.transport.shared
    assert 0 < waiting <= len(data)
    assert pair.wire.read(len(data)) == data
    until(lambda: not pair.transport.blocked)
    assert (pair.transport.own, pair.transport.shared) == (0, 0)
    assert pair.protocol.progress > 0


def test_many_frames_arrive_whole_and_in_order(pair):
    """Of all sizes, while the peer reads slowly."""
    sizes = [1, 100, 5000, 40_000, 32 * 1024, 32 * 1024 + 1, 7] * 5
    frames = [bytes([n]) * size for n, size in enumerate(sizes)]
    for n, frame in enumerate(frames):
        if n % 2:
            pair.transport.push(frame)
        else:
            pair.transport.push_shared(SharedFrame(frame), 10**9)
    assert pair.wire.read(sum(sizes)) == b"".join(frames)
    until(lambda: not pair.transport.blocked)
    assert (pair.transport.own, pair.transport.shared) == (0, 0)


def test_frames_queued_while_a_batch_waits_are_counted(pair):
    """The batch's end takes only its own from the counts."""
    data = fill(pair.transport, 100_096)
    before = pair.transport.own
    pair.transport.push(b"own")
    pair.transport.push_shared(SharedFrame(b"shared"), 10**9)
    assert pair.transport.own == before + 3
    assert pair.transport.shared == 6
    assert pair.wire.read(len(data) + 9) == data + b"ownshared"
    until(lambda: not pair.transport.blocked)
    assert (pair.transport.own, pair.transport.shared) == (0, 0)


def test_flush_returns_when_the_kernel_has_everything(pair):
    """Not before; and what is written later is not waited for."""
    data = fill(pair.transport)
    done = []
    waiter = gevent.spawn(lambda: (pair.transport.flush(), done.append(1)))
    gevent.sleep(20 * MS)
    assert not done
    pair.transport.push(b"later")
    assert pair.wire.read(len(data) + 5) == data + b"later"
    waiter.join(timeout=5)
    assert done


def test_dropping_keeps_what_has_been_encrypted(pair):
    """The peer must never see a frame cut in the middle, nor a record."""
    transport = pair.transport
    transport.push(b"A" * 300_000)
    transport.write_now()
    assert transport.blocked
    for _ in range(10):
        transport.push_shared(SharedFrame(b"B" * 100), 10**9)
    assert transport.drop_unsent() == 10
    transport.push(b"C")
    assert pair.wire.read(300_001) == b"A" * 300_000 + b"C"
    until(lambda: transport.own == transport.shared == 0)


def test_dropping_keeps_every_frame_of_the_batch(pair):
    """Several small frames may be in the ciphertext that waits."""
    transport = pair.transport
    for n in range(3000):
        transport.push(b"%04d" % n * 25)
    transport.write_now()
    assert transport.blocked
    dropped = transport.drop_unsent()
    kept = 3000 - dropped
    assert dropped > 0
    assert transport.own == sum(map(len, transport.queue))
    transport.push(b"end")
    got = pair.wire.read(kept * 100 + 3)
    assert got == b"".join(b"%04d" % n * 25 for n in range(kept)) + b"end"
    until(lambda: not transport.blocked)
    assert transport.own == 0


def test_what_waits_is_counted_exactly(new_pair, reactor):
    """Through batches, drops, a close, an abort and a cut."""
    pairs = [new_pair().open() for _ in range(3)]
    backlog = reactor.backlog
    for pair in pairs:
        transport = pair.transport
        transport.push(b"A" * 50_000)
        for n in range(300):
            frame = SharedFrame(b"%03d" % n * 100)
            backlog.hold(frame)
            transport.push_shared(frame, 10**9)
            del frame
            transport.push(b"B" * 10)
        transport.write_now()
        assert transport.blocked

    def waiting(kind):
        frames = [f for pair in pairs for f in pair.transport.queue]
        return sum(len(f) for f in frames if type(f) is kind)

    assert (backlog.own, backlog.shared) == (waiting(bytes), waiting(SharedFrame))
    pairs[0].transport.keep_unsent(pairs[0].transport.unsent[::3])
    assert (backlog.own, backlog.shared) == (waiting(bytes), waiting(SharedFrame))
    pairs[0].wire.read(60_000)
    assert (backlog.own, backlog.shared) == (waiting(bytes), waiting(SharedFrame))
    pairs[0].transport.close()
    pairs[0].wire.read(10**6)
    pairs[1].transport.abort()
    pairs[2].transport.cut(ConnectionAbortedError("no room"))
    assert not pairs[2].transport.queue
    until(lambda: all(pair.transport.closed for pair in pairs[:2]))
    assert (backlog.own, backlog.shared) == (0, 0)


def test_a_peer_that_takes_no_byte_is_cut(new_pair):
    """After write_timeout."""
    pair = new_pair(write_timeout=50 * MS).open()
    fill(pair.transport)
    until(lambda: pair.protocol.lost)
    assert isinstance(pair.protocol.lost[0], TimeoutError)


@pytest.mark.parametrize("size", [0, 1, 100_000, 1_000_000])
def test_a_file_is_sent_encrypted(pair, tmp_path, size):
    """Head first, the asked part only; as ``Transport.send_file``."""
    data = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(b"before" + data + b"after")
    with path.open("rb") as file:
        sender = gevent.spawn(pair.transport.send_file, b"head", file.fileno(), 6, size)
        assert pair.wire.read(4 + size) == b"head" + data
        assert sender.get(timeout=5) == size


def test_a_file_that_is_shorter_than_said_is_sent_to_its_end(pair, tmp_path):
    """The number says how much it was."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    with path.open("rb") as file:
        assert pair.transport.send_file(b"", file.fileno(), 0, 2000) == 1000


# The end.


@pytest.mark.parametrize("linger", [False, True])
def test_close_writes_what_waits_then_close_notify_then_the_end(pair, linger):
    """The peer can tell an end from a cut."""
    data = fill(pair.transport)
    pair.transport.close(linger=linger)
    pair.transport.push(b"after the close: dropped")
    assert pair.wire.read() == data  # raises at an end without close_notify
    assert not pair.wire.take_in()
    pair.peer.close()
    until(lambda: pair.protocol.lost)
    assert pair.transport.closed


def test_a_lingering_close_writes_all_to_a_peer_that_sends_no_more(pair):
    """It has half-closed; it reads on."""
    pair.wire.say_goodbye()
    until(lambda: pair.protocol.eof)
    data = fill(pair.transport)
    pair.transport.close(linger=True)
    assert pair.wire.read() == data
    until(lambda: pair.protocol.lost)


def test_a_lingering_close_without_tls_does_so_as_well(reactor):
    """It is the same code."""
    pair = PlainPair(reactor)
    pair.peer.shutdown(stdlib_socket.SHUT_WR)
    until(lambda: pair.protocol.eof)
    data = fill(pair.transport)
    pair.transport.close(linger=True)
    assert pair.read() == data
    until(lambda: pair.protocol.lost)
    pair.peer.close()


def test_the_last_words_and_close_notify_travel_together(pair):
    """One segment."""
    pair.transport.push(b"bye")
    pair.transport.close()
    until(lambda: pair.protocol.lost)
    pair.wire.take_in()
    assert pair.wire.read() == b"bye"
    assert not pair.wire.take_in()


def test_a_lingering_close_lets_a_peer_that_talks_read_the_last_words(pair):
    """What it still says is discarded."""
    pair.transport.push(b"goodbye")
    pair.transport.close(linger=True)
    pair.wire.send(b"still talking" * 100)
    assert pair.wire.read() == b"goodbye"
    pair.peer.close()
    until(lambda: pair.protocol.lost)
    assert pair.protocol.data == b""


def test_a_lingering_close_does_not_wait_for_ever(pair, monkeypatch):
    """A peer that stays is left."""
    monkeypatch.setattr(stream_protocol, "LINGER", 50 * MS)
    pair.transport.close(linger=True)
    until(lambda: pair.protocol.lost)


def test_shutdown_says_goodbye_and_half_closes(pair):
    """The peer's own goodbye is awaited by the protocol."""
    pair.transport.push(b"bye")
    pair.transport.write_now()
    pair.transport.shutdown()
    assert pair.wire.read() == b"bye"
    assert not pair.wire.take_in()
    assert not pair.protocol.lost
    pair.peer.close()
    until(lambda: pair.protocol.eof)


def test_a_goodbye_that_has_no_room_waits_for_it(pair):
    """And the half close after it."""
    data = fill(pair.transport)
    pair.transport.shutdown()
    assert pair.transport.blocked
    assert pair.wire.read() == data
    assert not pair.wire.take_in()
    assert not pair.protocol.lost


def test_abort_resets_without_a_goodbye(pair):
    """What waits is lost."""
    fill(pair.transport)
    pair.transport.abort()
    until(lambda: pair.protocol.lost)
    assert pair.transport.queue == []


def test_nothing_is_called_after_the_end(pair):
    """Nor is memory for the encryption kept."""
    transport = pair.transport
    transport.abort()
    until(lambda: pair.protocol.lost)
    transport.push(b"x")
    transport.write_now()
    transport.close()
    transport.shutdown()
    transport.flush()
    transport.resume_reading()
    transport.fail(OSError("late"))
    gevent.sleep(0)
    assert len(pair.protocol.lost) == 1
    assert transport.queue == []
    assert transport.tls is None
    assert transport._cipher == b""


def test_a_peer_that_asks_for_keys_and_does_not_read_is_cut(pair, monkeypatch):
    """What TLS itself answers is bounded, too."""
    monkeypatch.setattr(tls_module, "MAX_CONTROL", 10)
    fill(pair.transport)
    pair.transport._outgoing.write(b"an answer of TLS itself")
    pair.wire.send(b"x")
    until(lambda: pair.protocol.lost)
    assert isinstance(pair.protocol.lost[0], ConnectionError)


def test_connections_leave_nothing_behind(reactor, certificates):
    """No cycle keeps a transport or its encryption."""
    for _ in range(3):
        Pair(reactor, certificates).open().end()
    gc.collect()
    kinds = (tls_module.TLSTransport, TLSObject, ssl.SSLObject, ssl.MemoryBIO)
    assert [o for o in gc.get_objects() if type(o) in kinds] == []


# Certificates.


@pytest.mark.parametrize(
    "subject, name",
    [
        ([("commonName", "a b")], "CN=a b"),
        ([("countryName", "CH"), ("commonName", "x")], "CN=x,C=CH"),
        ([("commonName", 'a,b+c"d\\e<f>g;')], 'CN=a\\,b\\+c\\"d\\\\e\\<f\\>g\\;'),
        ([("commonName", " x ")], "CN=\\ x\\ "),
        ([("commonName", "#x")], "CN=\\#x"),
        ([("commonName", "a\0b")], "CN=a\\00b"),
        ([("emailAddress", "a@b")], "emailAddress=a@b"),
    ],
)
def test_names_are_written_so_that_nobody_can_forge_a_part(subject, name):
    """RFC 4514, section 2.4."""
    certificate = {"subject": tuple((pair,) for pair in subject)}
    assert subject_name(certificate) == name


def test_the_name_that_is_asked_for_chooses_the_certificate(new_pair):
    """Also by a wildcard, in any case; an unknown one gets the first."""
    pairs = [
        localhost(),
        authority().issue("a.example"),
        authority().issue("*.b.example"),
    ]
    several = Certificates(TLS(tuple(pairs)))
    for name, expected in [
        ("localhost", "localhost"),
        ("a.example", "a.example"),
        ("A.Example", "a.example"),
        ("x.b.example", "*.b.example"),
    ]:
        pair = new_pair(several)
        pair.wire = Wire(pair.peer, name=name)
        pair.open()
        names = [n for _, n in pair.wire.tls.getpeercert()["subjectAltName"]]
        assert expected in names
        assert pair.wire.tls.selected_alpn_protocol() == "http/1.1"
    pair = new_pair(several)
    context = client_context()
    context.check_hostname = False
    pair.wire = Wire(pair.peer, name="unknown.example", context=context)
    pair.open()
    assert ("DNS", "localhost") in pair.wire.tls.getpeercert()["subjectAltName"]


def test_a_wildcard_is_for_one_level():
    """RFC 6125, section 6.4.3."""
    choice = NameChoice({"*.b.example": "wild", "b.example": "own"})
    assert choice.find("x.b.example") == "wild"
    assert choice.find("b.example") == "own"
    assert choice.find("x.y.b.example") is None
    assert choice.find("example") is None
    assert choice.find("B.example.") == "own"


def test_the_names_of_a_certificate_are_its_alternative_ones():
    """Addresses are none that a client sends."""
    chain, _ = authority().issue("One.example", "two.example", "10.0.0.1")
    assert list(certificate_names(chain)) == ["one.example", "two.example"]


@pytest.mark.parametrize("required", [False, True])
def test_certificates_of_clients_are_verified(new_pair, caplog, required):
    """By our authorities only; without one it depends."""
    options = TLS((localhost(),), authority(0).file, required)
    asking = Certificates(options)
    good = authority(0).issue("client.example")
    bad = authority(1).issue("stranger.example")
    pair = new_pair(asking)
    pair.wire = Wire(pair.peer, context=client_context(certificate=good))
    pair.open()
    found = pair.transport.tls.getpeercert()
    assert ("DNS", "client.example") in found["subjectAltName"]
    pair = new_pair(asking)
    pair.wire = Wire(pair.peer, context=client_context(certificate=bad))
    with pytest.raises(ssl.SSLError, match="(?i)unknown.ca"):
        pair.wire.shake_hands()
        pair.wire.read(1)
    until(lambda: pair.counters == {FAILED_ONES: 1})
    pair = new_pair(asking)
    if required:
        with pytest.raises(ssl.SSLError, match="(?i)certificate.required"):
            pair.wire.shake_hands()
            pair.wire.read(1)
    else:
        pair.open()
        assert not pair.transport.tls.getpeercert()


def test_reloading_is_for_new_connections(new_pair, tmp_path):
    """Open ones go on; a broken file changes nothing."""
    chain, key = authority().issue("old.example", folder=tmp_path, label="site")
    changing = Certificates(TLS(((chain, key),)))
    pair = new_pair(changing)
    pair.wire = Wire(pair.peer, name="old.example")
    pair.open()
    authority().issue("new.example", folder=tmp_path, label="site")
    changing.reload()
    other = new_pair(changing)
    other.wire = Wire(other.peer, name="new.example")
    other.open()
    pair.wire.send(b"still here")
    until(lambda: pair.protocol.data == b"still here")
    (tmp_path / "site.pem").write_text("broken")
    with pytest.raises(ConfigurationError, match="site.pem"):
        changing.reload()
    third = new_pair(changing)
    third.wire = Wire(third.peer, name="new.example")
    third.open()


def encrypted_key(path):
    """Write a key that needs a password."""
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    form = s.Encoding.PEM, s.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(*form, s.BestAvailableEncryption(b"secret")))


@pytest.mark.parametrize(
    "case, says",
    [
        ("no chain", "cannot read the certificate .*: No such file"),
        ("no key", "cannot read the key .*: No such file"),
        ("folder", "cannot read the certificate .*: Is a directory"),
        ("bad chain", "bad.pem holds no certificate"),
        ("bad key", "bad.pem holds no private key"),
        ("chain alone", "holds no private key"),
        ("mismatch", "is not that of the certificate"),
        ("encrypted", "is encrypted"),
        ("no authorities", "cannot read the list of authorities"),
        ("bad authorities", "bad.pem holds no certificates"),
        ("nothing", "TLS needs a certificate"),
        ("required of whom", "client certificates need their authorities"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, case, says):
    """In one line that names it."""
    chain, key = localhost()
    other = authority().issue("other.example")[1]
    bad = tmp_path / "bad.pem"
    bad.write_text("no PEM at all\n")
    secret = tmp_path / "secret.key"
    encrypted_key(secret)
    options = {
        "no chain": TLS((("/no/such.pem", key),)),
        "no key": TLS(((chain, "/no/such.key"),)),
        "folder": TLS(((str(tmp_path), key),)),
        "bad chain": TLS(((str(bad), key),)),
        "bad key": TLS(((chain, str(bad)),)),
        "chain alone": TLS(((chain, None),)),
        "mismatch": TLS(((chain, other),)),
        "encrypted": TLS(((chain, str(secret)),)),
        "no authorities": TLS(((chain, key),), "/no/such.pem"),
        "bad authorities": TLS(((chain, key),), str(bad)),
        "nothing": TLS(()),
        "required of whom": TLS(((chain, key),), None, True),
    }[case]
    with pytest.raises(ConfigurationError, match=says) as caught:
        Certificates(options)
    assert "\n" not in str(caught.value)


def test_one_file_may_hold_both(new_pair, tmp_path):
    """Chain and key."""
    both = tmp_path / "both.pem"
    both.write_text("".join(Path(path).read_text() for path in localhost()))
    assert (
        Certificates(TLS(((str(both), None),))).context.cert_store_stats() is not None
    )
