"""One bus and a process that the test plays itself, byte for byte."""

import contextlib
import os
import sys
import tempfile
import time
from collections import Counter

import gevent
import pytest
from gevent import socket, subprocess

from greenchannels.layers import ipc as ipc_module
from greenchannels.layers import ipc_links, ipc_mesh
from greenchannels.layers.ipc import IpcBus
from greenchannels.layers.ipc_folder import Folder
from greenchannels.layers.ipc_frames import (
    FrameReader,
    Kind,
    encode_frame,
    encode_message,
    read_body,
    read_message,
)
from greenchannels.layers.numbers import Accounts
from greenchannels.layers.ports import BusState
from tests.servers.harness import no_leaks

__all__ = ["no_leaks"]

pytestmark = pytest.mark.usefixtures("no_leaks")

#: Names that sort before and after every process id's.
SMALL, LARGE = "0-aa", "9999999999-aa"


#: Another user's program that connects, and prints what it is told.
STRANGER = f"""
import os, socket, sys
os.setuid(12345)
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
data = b""
try:
    sock.sendall({encode_frame(Kind.HELLO, (1, LARGE))!r})
except BrokenPipeError:
    pass  # it has been refused already
try:
    while more := sock.recv(9999):
        data += more
except ConnectionResetError:
    pass
sys.stdout.buffer.write(data)
"""


class PlayedPeer:
    """Another process, played by the test."""

    def __init__(self, folder, name):
        self.folder, self.name = folder, name
        self.sock = None
        self.listener = None
        self.frames = []
        self._reader = FrameReader()

    def listen(self):
        """Be found."""
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(os.path.join(self.folder, self.name))
        self.listener.listen()
        return self

    def accept(self, greet=True):
        """Take the next connection, and say hello."""
        with gevent.Timeout(10):
            self._use(self.listener.accept()[0])
        self.expect(Kind.HELLO)
        if greet:
            self.send(encode_frame(Kind.HELLO, (1, self.name)))
        return self

    def dial(self, name, greet=True):
        """Connect, and say hello."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(os.path.join(self.folder, name))
        self._use(sock)
        if greet:
            self.send(encode_frame(Kind.HELLO, (1, self.name)))
        return self

    def _use(self, sock):
        self.leave()
        self.sock, self.frames, self._reader = sock, [], FrameReader()

    def send(self, *frames):
        """Send frames."""
        self.sock.sendall(b"".join(frames))

    def settle(self, *topics):
        """Tell all topics; return when the bus has taken them."""
        self.send(encode_frame(Kind.WANT, (1, topics)), encode_frame(Kind.READY, None))
        self.expect(Kind.ACK)
        return self

    def next(self):
        """Return kind and body of the next frame; ``None`` at the end."""
        with gevent.Timeout(10):
            while not self.frames:
                try:
                    data = self.sock.recv(65536)
                except ConnectionResetError:
                    data = b""
                if not data:
                    return None
                self.frames += self._reader.feed(data)
        return self.frames.pop(0)

    def expect(self, kind, form=None):
        """Return what the next frame of ``kind`` holds, passing over others."""
        while True:
            frame = self.next()
            assert frame is not None, f"the link ended before {kind!r}"
            if frame[0] == kind:
                return read_body(frame[1], form) if form is not None else frame[1]

    def acknowledge(self):
        """Acknowledge what is wanted next; return the topics."""
        number, topics = self.expect(Kind.WANT, tuple[int, list[str]])
        self.send(encode_frame(Kind.ACK, (number, b"")))
        return topics

    def until_end(self):
        """Return the kinds of frames until the bus ends the link."""
        kinds = []
        while (frame := self.next()) is not None:
            kinds.append(frame[0])
        return kinds

    def leave(self):
        """Close the link."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def end(self):
        """Close all; the file goes as well."""
        self.leave()
        if self.listener is not None:
            self.listener.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.folder, self.name))


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="gc-") as above:
        yield os.path.join(above, "app")


@pytest.fixture
def bus(folder, monkeypatch):
    """A bus that has started, with what it reported."""
    monkeypatch.setattr(ipc_mesh, "RESCAN", 0.05)
    bus = IpcBus(folder)
    bus.got, bus.states = [], []
    bus.origin = bus.start(
        lambda topic, data, origin: bus.got.append((topic, data, origin)),
        lambda state, topics: bus.states.append((state, sorted(topics))),
    )
    yield bus
    bus.close()


@pytest.fixture
def play(bus, folder):
    """Play another process of the bus."""
    played = []

    def make(name=LARGE):
        played.append(PlayedPeer(folder, name))
        return played[-1]

    yield make
    for each in played:
        each.end()


def until(condition, timeout=10):
    """Wait for a condition while the hub works."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        gevent.sleep(0.002)


def links(bus):
    """Return how many other processes there are, and links to them."""
    stats = bus.stats()
    return stats["processes"], stats["processes linked"]


# Greeting.


def test_who_dials_is_told_who_answers_and_what_it_wants(bus, play):
    """In this order; and the topics of both are known then."""
    bus.subscribe(["a", "b"], 1)
    peer = play().dial(bus.origin)
    assert peer.expect(Kind.HELLO, tuple[int, str]) == (1, bus.origin)
    assert peer.acknowledge() == ["a", "b"]
    peer.expect(Kind.READY)
    assert not bus.wants("c")
    peer.settle("c")
    assert bus.wants("c") and not bus.wants("a")
    assert bus.publish("c", b"data")
    assert read_message(peer.expect(Kind.MESSAGE)) == ("c", b"data")
    peer.send(encode_message("a", b"back"))
    until(lambda: bus.got)
    assert bus.got == [("a", b"back", LARGE)]


def test_who_is_found_is_dialed(bus, play):
    """At the next look, each second; and forgotten when it has gone."""
    peer = play().listen().accept().settle("c")
    assert bus.wants("c")
    peer.end()
    until(lambda: links(bus) == (0, 0))
    assert not bus.wants("c")


def test_who_cannot_be_dialed_now_is_known(bus, play, monkeypatch):
    """It lives: what it publishes meanwhile is not taken for something of before."""

    def busy(path):
        raise BlockingIOError("too many wait there")

    with monkeypatch.context() as patch:
        patch.setattr(ipc_mesh, "dial", busy)
        peer = play().listen()
        until(lambda: links(bus) == (1, 0))
    peer.accept().settle("c")
    assert links(bus) == (1, 1) and bus.wants("c")


@pytest.mark.parametrize(
    "frames",
    [
        encode_frame(Kind.HELLO, (2, LARGE)),
        encode_frame(Kind.READY, None),
        encode_message("a", b"too early"),
        encode_frame(Kind.HELLO, "no name"),
        encode_frame(Kind.HELLO, (1, "../1-ab")),
        b"\xff" * 5,
        encode_frame(Kind.REFUSED, "no"),
    ],
    ids=["version", "ready", "message", "form", "path", "length", "refusal"],
)
def test_who_greets_wrongly_gets_no_link(bus, play, frames):
    """And no word of what goes on."""
    peer = play().dial(bus.origin, greet=False)
    peer.send(frames)
    assert set(peer.until_end()) <= {Kind.REFUSED}
    assert bus.got == [] and links(bus)[1] == 0


def test_who_does_not_greet_is_cut_off(bus, play, monkeypatch):
    """After a while."""
    monkeypatch.setattr(ipc_links, "HELLO_TIMEOUT", 0.05)
    peer = play().dial(bus.origin, greet=False)
    assert peer.until_end() == []


def test_nobody_else_answers_in_the_name_of_who_was_dialed(bus, play):
    """The link ends."""
    peer = play().listen().accept(greet=False)
    peer.send(encode_frame(Kind.HELLO, (1, SMALL)))
    assert peer.until_end() == []
    assert links(bus)[1] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_another_user_gets_no_link(bus, folder):
    """Though the files would let it in."""
    path = os.path.join(folder, bus.origin)
    for each in (os.path.dirname(folder), folder, path):
        os.chmod(each, 0o777)
    command = [sys.executable, "-c", STRANGER, path]
    program = subprocess.Popen(command, stdout=subprocess.PIPE)
    output, _ = program.communicate(timeout=10)
    assert b"another user" in output
    assert links(bus) == (0, 0)


# One link a pair.


def test_of_two_links_the_smaller_names_stays_when_that_is_ours(bus, play):
    """Who dials us while we dial it is refused."""
    peer = play(LARGE).listen().accept(greet=False)
    late = play(LARGE).dial(bus.origin)
    assert late.until_end() == [Kind.REFUSED]
    peer.send(encode_frame(Kind.HELLO, (1, LARGE)))
    peer.settle("c")
    assert links(bus) == (1, 1) and bus.wants("c")


def test_of_two_links_the_smaller_names_stays_when_that_is_theirs(bus, play):
    """Ours ends before it has carried anything."""
    peer = play(SMALL).listen().accept(greet=False)
    late = play(SMALL).dial(bus.origin)
    late.expect(Kind.HELLO)
    late.settle("c")
    assert peer.until_end() == []
    assert links(bus) == (1, 1) and bus.wants("c")


def test_a_second_link_is_opened_after_the_end_of_the_first(bus, play):
    """What was sent on the first comes first."""
    bus.subscribe(["a"], 1)
    first = play().dial(bus.origin)
    first.acknowledge()
    first.settle()
    second = play().dial(bus.origin)
    first.send(encode_message("a", b"1"))
    first.leave()
    second.expect(Kind.HELLO)
    second.acknowledge()
    second.settle()
    assert [data for _, data, _ in bus.got] == [b"1"]


def test_a_second_link_does_not_wait_for_ever(bus, play, monkeypatch):
    """The first is cut if its other end forgets to end it."""
    monkeypatch.setattr(ipc_mesh, "REPLACE_TIMEOUT", 0.05)
    first = play().dial(bus.origin).settle("c")
    second = play().dial(bus.origin)
    second.expect(Kind.HELLO)
    first.until_end()
    second.settle("c")
    assert links(bus) == (1, 1)


def test_links_are_made_again(bus, play):
    """What the process wanted is kept, and not sent; then it tells anew."""
    peer = play().listen().accept().settle("c", "d")
    peer.leave()
    until(lambda: links(bus) == (1, 0))
    assert bus.wants("c") and not bus.publish("c", b"lost")
    assert bus.stats()["messages not sent to stopped processes"] == 1
    peer.accept().settle("d")
    until(lambda: not bus.wants("c"))
    assert bus.publish("d", b"new")
    assert read_message(peer.expect(Kind.MESSAGE)) == ("d", b"new")


def test_bytes_that_are_no_frames_end_the_link(bus, play):
    """The other links do not notice."""
    other = play(SMALL).dial(bus.origin).settle("c")
    bad = [
        b"\xff" * 9,
        encode_frame(Kind.ACK, (1, b"")),
        encode_frame(Kind.HELLO, (1, LARGE)),
        encode_frame(Kind.WANT, "x"),
    ]
    for frames in bad:
        peer = play(LARGE).dial(bus.origin).settle("c")
        peer.send(frames)
        peer.until_end()
    assert bus.publish("c", b"data")
    assert read_message(other.expect(Kind.MESSAGE)) == ("c", b"data")


# Topics.


def test_subscribing_waits_for_acknowledgements(bus, play):
    """Of all who live."""
    peers = [play(name).dial(bus.origin).settle() for name in (SMALL, LARGE)]
    waits = gevent.spawn(bus.subscribe, ["a"], 2)
    assert peers[0].acknowledge() == ["a"]
    gevent.sleep(0.01)
    assert not waits.ready()
    peers[1].acknowledge()
    assert waits.get() is True


def test_the_silent_are_not_waited_for(bus, play, monkeypatch):
    """Nor at the next time, until they have spoken: late words are a gap."""
    monkeypatch.setattr(ipc_module, "SILENCE", 0.05)
    peer = play().dial(bus.origin).settle()
    assert bus.subscribe(["a"], 2) is False
    monkeypatch.setattr(ipc_module, "SILENCE", 60)
    with gevent.Timeout(10):
        assert bus.subscribe(["b", "c"], 60) is False
    bus.unsubscribe(["c"])
    assert bus.states == []
    peer.acknowledge()
    peer.acknowledge()
    until(lambda: bus.states)
    assert bus.states == [(BusState.GAP, ["a", "b"])]
    waits = gevent.spawn(bus.subscribe, ["d"], 60)
    gevent.sleep(0.01)
    assert not waits.ready()
    peer.acknowledge()
    assert waits.get() is True


def test_who_still_speaks_is_waited_for(bus, play, monkeypatch):
    """It has much to do, and will come to it."""
    monkeypatch.setattr(ipc_module, "SILENCE", 0.2)
    peer = play().dial(bus.origin).settle()
    waits = gevent.spawn(bus.subscribe, ["a"], 60)
    for _ in range(8):
        gevent.sleep(0.05)
        peer.send(encode_frame(Kind.UNWANT, []))
    assert not waits.ready()
    peer.acknowledge()
    assert waits.get() is True


def test_requests_of_one_turn_are_one_frame(bus, play):
    """They are acknowledged together; another turn's are another frame."""
    peer = play().dial(bus.origin).settle()
    waits = [gevent.spawn(bus.subscribe, [name], 60) for name in "abc"]
    assert peer.acknowledge() == ["a", "b", "c"]
    assert [each.get() for each in waits] == [True] * 3
    waits = gevent.spawn(bus.subscribe, ["d"], 60)
    assert peer.acknowledge() == ["d"]
    assert waits.get() is True


def test_only_the_last_subscription_to_a_topic_is_a_base_line(bus, play):
    """An acknowledgement that comes after leaving and joining again is of no use."""
    learnt = []

    class Notes:
        def describe(self, topics):
            return " ".join(topics).encode()

        def learn(self, origin, topics, note):
            learnt.append((origin, topics, note))

        def expect(self, origin, topics):
            assert not list(topics)

        def forget(self, origin):
            learnt.append(origin)

    bus.ledger = Notes()
    peer = play().dial(bus.origin)
    peer.send(encode_frame(Kind.WANT, (1, ["c", "d"])), encode_frame(Kind.READY, None))
    assert peer.expect(Kind.ACK, tuple[int, bytes]) == (1, b"c d")
    first = gevent.spawn(bus.subscribe, ["a", "b"], 2)
    number, _ = peer.expect(Kind.WANT, tuple[int, list[str]])
    bus.unsubscribe(["a", "b"])
    second = gevent.spawn(bus.subscribe, ["a"], 2)
    gevent.sleep(0)
    peer.send(encode_frame(Kind.ACK, (number, b"old")))
    peer.acknowledge()
    assert first.get() and second.get()
    peer.end()
    until(lambda: len(learnt) == 3)
    expected = [(LARGE, [None, None], b"old"), (LARGE, ["a"], b""), LARGE]
    assert learnt == expected


def test_a_note_that_is_none_ends_the_link(bus, play):
    """As bytes do that are no frames."""
    accounts = Accounts(lambda topic, number: None, acknowledged=lambda origin: True)
    bus.ledger = accounts
    peer = play().dial(bus.origin).settle()
    waits = gevent.spawn(bus.subscribe, ["a"], 2)
    peer.acknowledge()
    peer.until_end()
    peer.end()
    waits.get()


def test_the_dead_are_not_waited_for(bus, play):
    """Whoever subscribes meanwhile goes on."""
    peer = play().dial(bus.origin).settle()
    waits = gevent.spawn(bus.subscribe, ["a"], 60)
    peer.expect(Kind.WANT)
    peer.end()
    with gevent.Timeout(10):
        assert waits.get() is True


def test_subscribing_does_not_wait_in_the_hub(bus, play):
    """Which would stop everything."""
    play().dial(bus.origin).settle()
    results = []
    gevent.get_hub().loop.run_callback(lambda: results.append(bus.subscribe(["a"], 60)))
    until(lambda: results)
    assert results == [False]


def test_topics_that_are_not_wanted_any_more_are_not_sent(bus, play):
    """By the one who said so; others still want them."""
    one, other = (play(n).dial(bus.origin).settle("c") for n in (SMALL, LARGE))
    one.send(encode_frame(Kind.UNWANT, ["c", "never wanted"]))
    one.settle("d")
    bus.publish("c", b"1")
    bus.publish("d", b"2")
    assert read_message(one.expect(Kind.MESSAGE)) == ("d", b"2")
    assert read_message(other.expect(Kind.MESSAGE)) == ("c", b"1")
    other.send(encode_frame(Kind.UNWANT, ["c"]))
    until(lambda: not bus.wants("c"))


def test_others_are_told_of_leaving(bus, play):
    """Only of topics that were wanted."""
    peer = play().dial(bus.origin).settle()
    gevent.spawn(bus.subscribe, ["a"], 2)
    peer.acknowledge()
    bus.unsubscribe(["a", "b"])
    assert peer.expect(Kind.UNWANT, list[str]) == ["a"]


def test_many_topics_are_told_in_several_frames(bus, play):
    """All of them."""
    topics = [f"topic {n}" for n in range(2500)]
    bus.subscribe(topics, 1)
    peer = play().dial(bus.origin)
    told = [peer.acknowledge() for _ in range(3)]
    assert sum(told, []) == topics
    peer.expect(Kind.READY)


# The end of a link.


def test_the_last_words_of_who_leaves_are_heard(bus, play):
    """Though something was to be sent to it when it had left."""
    peer = play().dial(bus.origin).settle("c")
    for number in range(100):
        peer.send(encode_message("a", b"%d" % number))
    peer.leave()
    bus.publish("c", b"to nobody")
    until(lambda: links(bus)[1] == 0)
    assert [data for _, data, _ in bus.got] == [b"%d" % n for n in range(100)]


def test_who_takes_nothing_more_is_given_up(bus, play, monkeypatch):
    """If it does not end the link itself."""
    monkeypatch.setattr(ipc_links, "END_TIMEOUT", 0.05)
    peer = play().dial(bus.origin).settle("c")
    peer.sock.shutdown(socket.SHUT_RD)
    bus.publish("c", b"to nobody")
    until(lambda: links(bus)[1] == 0)


def test_messages_that_take_long_leave_turns_to_others(bus, play, monkeypatch):
    """They keep their order, and the end of the link waits for them."""
    turns, got = [], []

    def deliver(topic, data, origin):
        got.append(data)
        time.sleep(0.002)
        gevent.get_hub().loop.run_callback(lambda: turns.append(len(got)))

    monkeypatch.setattr(bus, "_deliver", deliver)
    peer = play().dial(bus.origin).settle("c")
    peer.send(*(encode_message("a", b"%d" % n) for n in range(50)))
    peer.leave()
    until(lambda: links(bus)[1] == 0)
    assert got == [b"%d" % n for n in range(50)]
    assert len(set(turns)) > 5


def test_messages_that_wait_are_taken_when_the_link_is_cut(bus, play, monkeypatch):
    """They had come in time."""
    monkeypatch.setattr(ipc_links, "SLICE_TIME", 0)
    monkeypatch.setattr(ipc_links, "MAX_WAITING", 1000)
    peer = play().dial(bus.origin).settle("c")
    peer.send(*(encode_message("a", b"%d" % n) for n in range(3000)))
    until(lambda: bus.got)
    assert not bus.publish("c", b"x" * 1_000_000)
    assert len(bus.got) < 3000
    until(lambda: links(bus)[1] == 0)
    assert [data for _, data, _ in bus.got] == [b"%d" % n for n in range(3000)]


def test_a_start_that_is_given_up_leaves_nothing(folder):
    """And another may be made."""
    Folder(folder)
    peer = PlayedPeer(folder, LARGE).listen()
    bus = IpcBus(folder)
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.05):
        bus.start(lambda *message: None, lambda *state: None)
    assert os.listdir(folder) == [LARGE]
    peer.end()
    bus.start(lambda *message: None, lambda *state: None)
    bus.close()
    assert os.listdir(folder) == []


# Backpressure.


def test_who_reads_nothing_is_cut_off_and_counted(bus, play, monkeypatch):
    """Others go on, and it gets a new link."""
    monkeypatch.setattr(ipc_links, "MAX_WAITING", 1024 * 1024)
    stopped = play(LARGE).listen().accept().settle("c")
    other = play(SMALL).dial(bus.origin).settle("c")
    got = Counter()

    def read():
        while got["messages"] < 1000:
            other.expect(Kind.MESSAGE)
            got["messages"] += 1

    reading = gevent.spawn(read)
    lost = 0
    for _ in range(1000):
        lost += not bus.publish("c", b"x" * 10_000)
        gevent.sleep(0.0001)
    reading.get(timeout=10)
    assert 0 < lost < 1000
    arrived = stopped.until_end().count(Kind.MESSAGE)
    counted = bus.stats()["messages not sent to stopped processes"]
    # What the kernel had taken arrives, up to a message that was half sent.
    assert counted >= lost and 999 <= arrived + counted <= 1001
    stopped.accept().settle("c")
    assert bus.publish("c", b"again")


def test_who_reads_slowly_gets_all(bus, play, monkeypatch):
    """Though it takes longer than nothing may be taken, and others do not wait."""
    monkeypatch.setattr(ipc_links, "WRITE_TIMEOUT", 0.5)
    slow = play(LARGE).dial(bus.origin).settle("c")
    quick = play(SMALL).dial(bus.origin).settle("c")
    for number in range(200):
        assert bus.publish("c", b"%d" % number + b"x" * 10_000)
    for number in range(200):
        _, data = read_message(quick.expect(Kind.MESSAGE))
        assert data.startswith(b"%dx" % number)
    began, got = time.monotonic(), []
    while len(got) < 200:
        slow.frames += slow._reader.feed(slow.sock.recv(10_000))
        got += [read_message(b)[1] for k, b in slow.frames if k == Kind.MESSAGE]
        slow.frames.clear()
        gevent.sleep(0.005)
    assert time.monotonic() - began > ipc_links.WRITE_TIMEOUT
    assert [data.rstrip(b"x") for data in got] == [b"%d" % n for n in range(200)]
    assert links(bus) == (2, 2)


def test_a_link_that_stalls_in_one_direction_works_in_the_other(bus, play, monkeypatch):
    """What comes is taken to the last, also what came before the link is cut."""
    monkeypatch.setattr(ipc_links, "WRITE_TIMEOUT", 0.3)
    peer = play().listen().accept().settle("c")
    bus.publish("c", b"x" * 1_000_000)  # more than the kernel takes
    sent = 0
    with contextlib.suppress(BrokenPipeError):
        while links(bus) == (1, 1):
            peer.send(encode_message("a", b"%d" % sent))
            sent += 1
            gevent.sleep(0.005)
    assert sent > 10 and links(bus) == (1, 0)
    assert [data for _, data, _ in bus.got[: sent - 1]] == [
        b"%d" % n for n in range(sent - 1)
    ]
    peer.accept().settle("c")
    assert bus.publish("c", b"again")


def test_half_a_frame_stops_nobody_else(bus, play):
    """It is taken when the rest comes, and forgotten when that never does."""
    half, other = (play(n).dial(bus.origin).settle("c") for n in (SMALL, LARGE))
    frame = encode_message("a", b"x" * 1000)
    half.send(frame[:500])
    other.send(encode_message("a", b"meanwhile"))
    until(lambda: len(bus.got) == 1)
    assert bus.publish("c", b"to both")
    assert read_message(half.expect(Kind.MESSAGE)) == ("c", b"to both")
    half.send(frame[500:], frame[:3])
    until(lambda: len(bus.got) == 2)
    assert bus.got[1] == ("a", b"x" * 1000, SMALL)
    half.leave()
    until(lambda: links(bus) == (1, 1))
    assert len(bus.got) == 2


def test_who_takes_no_byte_for_long_is_cut_off(bus, play, monkeypatch):
    """Though little waits for it."""
    monkeypatch.setattr(ipc_links, "WRITE_TIMEOUT", 0.1)
    peer = play().listen().accept().settle("c")
    bus.publish("c", b"x" * 1_000_000)
    until(lambda: links(bus) == (1, 0))
    assert Kind.MESSAGE not in peer.until_end()


def test_closing_sends_what_waits(folder, play, bus):
    """To those that read, however much it is."""
    peer = play().dial(bus.origin).settle("c")
    for _ in range(20):
        bus.publish("c", b"x" * 100_000)
    reading = gevent.spawn(peer.until_end)
    bus.close()
    assert reading.get().count(Kind.MESSAGE) == 20
    assert not bus.publish("c", b"late") or not bus.wants("c")
    assert bus.origin not in os.listdir(folder)


def test_closing_does_not_wait_for_who_reads_nothing(bus, play, monkeypatch):
    """After a second it is cut off."""
    monkeypatch.setattr(ipc_module, "CLOSE_TIMEOUT", 0.05)
    peer = play().dial(bus.origin).settle("c")
    bus.publish("c", b"x" * 1_000_000)
    began = time.monotonic()
    bus.close()
    assert time.monotonic() - began < 5
    assert Kind.MESSAGE not in peer.until_end()


def test_a_folder_that_is_removed_stops_nothing(bus, play, folder, caplog):
    """Links go on; new processes are not found, which is said once."""
    peer = play().dial(bus.origin).settle("c")
    for name in os.listdir(folder):
        os.unlink(os.path.join(folder, name))
    os.rmdir(folder)
    gevent.sleep(0.2)
    assert bus.publish("c", b"data")
    assert read_message(peer.expect(Kind.MESSAGE)) == ("c", b"data")
    assert caplog.text.count("new processes are not found") == 1
    os.mkdir(folder, 0o700)
