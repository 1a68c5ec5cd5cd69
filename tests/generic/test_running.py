"""
The life of a class-based consumer: connect first, disconnect last, whatever happens.

Each test runs in bursts, in a greenlet on the server's socket, and in one over GSGI
events.
"""

import contextlib

import gevent
import pytest
from gevent import GreenletExit, getcurrent
from gevent.event import Event

from greenchannels import ConnectionClosed, ConnectionEnded, Group, Limits, Timeouts
from greenchannels.generic.websocket import WebsocketConsumer
from tests.generic.hosts import Notes, errors
from tests.servers.harness import MS, Closed, frames, until

#: A consumer's time to end after its socket did.
STOP = Limits(stop_timeout=0.1)


class Noting(WebsocketConsumer):
    """Notes its life in a list that a test gives."""

    groups = ("all",)

    def __init__(self, notes):
        self.notes = notes

    def connect(self):
        self.notes.append("connect")
        self.accept()

    def receive(self, text_data=None, bytes_data=None):
        self.notes.append(text_data)

    def note(self, event):
        self.notes.append(event["n"])

    def disconnect(self, code):
        self.notes.append(code)


def tell(running, event, group="all"):
    """Send an event to a group, from outside of any consumer."""
    running.server._context.run(Group(group).send, event)


def gone(running):
    """Wait until no socket and no consumer is left."""
    until(lambda: not running.server.sockets and not running.server.consumers)


# What a handler raises.


def test_a_constructor_that_raises(host, caplog):
    """500 and a traceback; there is nobody to be told of an end."""
    notes = Notes()

    class Broken(Noting):
        def __init__(self):
            notes.append("made")
            raise KeyError("in the constructor")

    running = host(Broken)
    assert running.refused().status == 500
    gone(running)
    assert notes == ["made"]
    assert errors(caplog) == ["/: the consumer failed"]
    assert "in the constructor" in caplog.text


FAILURES = [
    KeyError("ouch"),
    SystemExit(3),
    gevent.Timeout(1, KeyError),
    ConnectionClosed(1000),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda e: type(e).__name__)
def test_connect_raises_before_accepting(host, caplog, error):
    """500, a traceback, disconnect with 1006."""
    notes = Notes()

    class Broken(Noting):
        def connect(self):
            raise error

    assert host(Broken.as_asgi(notes=notes)).refused().status == 500
    notes.wait(1006)
    assert errors(caplog) == ["/: the consumer failed"]


@pytest.mark.parametrize("error", FAILURES, ids=lambda e: type(e).__name__)
def test_connect_raises_after_accepting(host, caplog, error):
    """1011, a traceback, disconnect."""
    notes = Notes()

    class Broken(Noting):
        def connect(self):
            super().connect()
            raise error

    peer = host(Broken.as_asgi(notes=notes)).open()
    assert peer.closing() == Closed(1011)
    notes.wait("connect", 1011)
    assert errors(caplog) == ["/: the consumer failed"]


@pytest.mark.parametrize("error", FAILURES, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("kind", ["message", "event"])
def test_a_handler_raises(host, caplog, error, kind):
    """1011, a traceback, disconnect; what waits is dropped."""
    notes = Notes()

    class Broken(Noting):
        def receive(self, text_data=None, bytes_data=None):
            super().receive(text_data)
            raise error

        def note(self, event):
            super().note(event)
            raise error

    running = host(Broken.as_asgi(notes=notes))
    peer = running.open()
    host.rest()
    if kind == "message":
        peer.say("1", "2")
    else:
        tell(running, {"type": "note", "n": "1"})
        tell(running, {"type": "note", "n": "2"})
    assert peer.closing() == Closed(1011)
    notes.wait("connect", "1", 1011)
    gone(running)
    assert notes == ["connect", "1", 1011]
    assert errors(caplog) == ["/: the consumer failed"]


@pytest.mark.parametrize("error", FAILURES, ids=lambda e: type(e).__name__)
def test_disconnect_raises(host, caplog, error):
    """A traceback; it is not called again."""
    notes = Notes()

    class Broken(Noting):
        def disconnect(self, code):
            super().disconnect(code)
            raise error

    running = host(Broken.as_asgi(notes=notes))
    running.open().send_close()
    notes.wait("connect", 1000)
    gone(running)
    assert notes == ["connect", 1000]
    assert errors(caplog) == ["/: the consumer failed"]


def test_the_end_of_its_own_connection_is_no_failure(host, caplog):
    """ConnectionEnded may leave any handler."""
    notes = Notes()

    class Late(Noting):
        def receive(self, text_data=None, bytes_data=None):
            self.close(4000)
            self.send("too late")

        def disconnect(self, code):
            super().disconnect(code)
            self.send("much too late")

    running = host(Late.as_asgi(notes=notes))
    peer = running.open()
    peer.say("go", "not heard")
    assert peer.hear() == Closed(4000)
    notes.wait("connect", 4000)
    gone(running)
    assert errors(caplog) == []


def test_that_of_another_connection_is_one(host, caplog):
    """It is the consumer's affair what became of others."""
    others, notes = [], Notes()

    class Chat(Noting):
        def connect(self):
            super().connect()
            others.append(self)

        def receive(self, text_data=None, bytes_data=None):
            others[0].send("hello")

    running = host(Chat.as_asgi(notes=notes))
    running.open().send_close()
    notes.wait("connect", 1000)
    peer = running.open()
    peer.say("go")
    assert peer.closing() == Closed(1011)
    notes.wait("connect", 1000, "connect", 1011)
    others.clear()
    assert errors(caplog) == ["/: the consumer failed"]


# Kills.


@pytest.mark.parametrize("when", ["connect", "accepted", "receive", "disconnect"])
@pytest.mark.parametrize("who", ["itself", "another"])
def test_a_handler_that_is_killed(host, caplog, when, who):
    """500 or 1011, no traceback, and disconnect all the same."""
    notes, running = Notes(), None

    def kill():
        greenlet = getcurrent()
        if who == "itself":
            raise GreenletExit
        gevent.spawn(greenlet.kill, block=False).join()
        gevent.sleep(10)

    class Chat(Noting):
        def connect(self):
            if when == "connect":
                kill()
            super().connect()
            if when == "accepted":
                kill()

        def receive(self, text_data=None, bytes_data=None):
            kill()

        def disconnect(self, code):
            super().disconnect(code)
            if when == "disconnect":
                kill()

    running = host(Chat.as_asgi(notes=notes))
    if when == "connect":
        assert running.refused().status == 500
        notes.wait(1006)
    elif when == "disconnect":
        running.open().send_close()
        notes.wait("connect", 1000)
    else:
        peer = running.open()
        peer.say("go")
        assert peer.closing() == Closed(1011)
        notes.wait("connect", 1011)
    gone(running)
    assert notes[-1:] != notes[-2:-1]
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("end", ["send_close", "reset"])
@pytest.mark.parametrize("when", ["connect", "accepted", "receive", "note"])
def test_a_stubborn_handler_is_killed_after_the_end(host, caplog, end, when):
    """It has stop_timeout; then GreenletExit, then disconnect, once."""
    notes = Notes()

    class Stubborn(Noting):
        def connect(self):
            if when == "connect":
                self.block()
            super().connect()
            if when == "accepted":
                self.block()

        def receive(self, text_data=None, bytes_data=None):
            self.block()

        note = receive

        def block(self):
            notes.append("blocks")
            try:
                gevent.sleep(60)
            except GreenletExit:
                notes.append("killed")
                raise

    running = host(Stubborn.as_asgi(notes=notes), limits=STOP)
    peer = running.peer()
    peer.handshake()
    if when != "connect":
        peer.response()
        peer.say("go")
    if when == "note":
        peer.say("2")
    notes.wait_for("blocks")
    if end == "reset" or when == "connect":
        peer.reset()
        code = 1006
    else:
        peer.send_close(4000)
        code = 4000
    gone(running)
    if when == "connect":
        assert notes == ["blocks", "killed", code]
    else:
        assert notes == ["connect", "blocks", "killed", code]
    assert "killed" in caplog.text


def test_a_handler_may_finish_after_the_end(host, caplog):
    """Within stop_timeout; disconnect waits for it."""
    notes, go = Notes(), Event()

    class Busy(Noting):
        def receive(self, text_data=None, bytes_data=None):
            notes.append(f"{text_data} begins")
            go.wait()
            notes.append(f"{text_data} ends")

    running = host(Busy.as_asgi(notes=notes))
    peer = running.open()
    peer.say("1", "2")
    notes.wait_for("1 begins")
    peer.send_close(4000)
    peer.hear()
    gevent.sleep(5 * MS)
    assert notes == ["connect", "1 begins"]
    go.set()
    notes.wait("connect", "1 begins", "1 ends", "2 begins", "2 ends", 4000)
    gone(running)
    assert errors(caplog) == []


def test_a_disconnect_that_blocks_is_killed(host):
    """After stop_timeout; it has been called once."""
    notes = Notes()

    class Stubborn(Noting):
        def disconnect(self, code):
            super().disconnect(code)
            try:
                gevent.sleep(60)
            finally:
                notes.append("killed")

    running = host(Stubborn.as_asgi(notes=notes), limits=STOP)
    running.open().send_close()
    notes.wait("connect", 1000, "killed")
    gone(running)


# Resets.


@pytest.mark.parametrize(
    "phase", ["at once", "connect", "accepted", "idle", "receive", "waiting", "closing"]
)
@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_peer_that_goes_in_any_phase(host, caplog, phase, how):
    """disconnect runs once, last, with 1006; nothing is logged."""
    notes, go = Notes(), Event()

    class Chat(Noting):
        def connect(self):
            notes.append("begin")
            if phase == "connect":
                go.wait()
            super().connect()
            if phase == "accepted":
                go.wait()

        def receive(self, text_data=None, bytes_data=None):
            super().receive(text_data)
            if phase == "closing":
                self.close(4000)
            go.wait()
            self.send("answer")

    running = host(Chat.as_asgi(notes=notes))
    peer = running.peer()
    peer.handshake()
    until(lambda: running.server.sockets or notes)
    if phase not in ("at once", "connect"):
        assert peer.response().status == 101
        notes.wait_for("connect")
    if phase in ("receive", "waiting", "closing"):
        peer.say("1", *(["2", "3"] if phase == "waiting" else []))
        notes.wait_for("1")
    if phase == "connect":
        notes.wait_for("begin")
    if phase == "idle":
        host.rest()
    getattr(peer, how)()
    gevent.sleep(2 * MS)
    go.set()
    gone(running)
    assert notes[-1] == (4000 if phase == "closing" else 1006)
    codes = [note for note in notes if isinstance(note, int)]
    assert len(codes) == 1
    assert errors(caplog) == []


# What comes while something runs.


def test_what_came_with_the_close_frame_is_still_answered(host):
    """In one segment: the message's handler runs first, and its answer leaves first."""
    notes = Notes()

    class Chat(Noting):
        def receive(self, text_data=None, bytes_data=None):
            super().receive(text_data)
            self.send(f"answer to {text_data}")

    peer = host(Chat.as_asgi(notes=notes)).open()
    host.rest()
    peer.send(frames("1") + frames("2") + b"\x88\x82\x00\x00\x00\x00\x0f\xa0")
    assert [peer.hear(), peer.hear()] == ["answer to 1", "answer to 2"]
    assert peer.hear() == Closed(4000)
    notes.wait("connect", "1", "2", 4000)


def test_what_comes_while_connect_runs_waits(host):
    """Messages of an eager peer and events, in order of their kinds."""
    notes, go = Notes(), Event()

    class Slow(Noting):
        def connect(self):
            notes.append("begin")
            go.wait()
            super().connect()
            gevent.sleep(5 * MS)
            notes.append("end")

    running = host(Slow.as_asgi(notes=notes))
    peer = running.peer()
    peer.handshake()
    peer.say("a")
    notes.wait_for("begin")
    for n in (1, 2, 3):
        tell(running, {"type": "note", "n": n})
    go.set()
    peer.response()
    until(lambda: len(notes) == 7)
    assert notes[:3] == ["begin", "connect", "end"]
    assert [n for n in notes if isinstance(n, int)] == [1, 2, 3]
    assert "a" in notes[3:]


def test_one_handler_runs_at_a_time(host):
    """Messages and events wait for each other."""
    running_now, most = [0], [0]
    notes = Notes()

    class Chat(Noting):
        def receive(self, text_data=None, bytes_data=None):
            running_now[0] += 1
            most[0] = max(most[0], running_now[0])
            gevent.sleep(MS)
            running_now[0] -= 1
            notes.append("handled")

        note = receive

    running = host(Chat.as_asgi(notes=notes))
    peer = running.open()
    for _ in range(5):
        peer.say("1", "2")
        tell(running, {"type": "note", "n": 1})
    until(lambda: notes.count("handled") == 15)
    assert most == [1]


def test_a_thousand_events_for_a_slow_handler_close_it(host):
    """Its inbox is bounded; the policy of the route decides: 1013."""
    notes, go = Notes(), Event()

    class Slow(Noting):
        def receive(self, text_data=None, bytes_data=None):
            notes.append("busy")
            go.wait()

    running = host(Slow.as_asgi(notes=notes))
    slow, fast = running.open(), running.open()
    slow.say("go")
    notes.wait_for("busy")
    for n in range(1000):
        tell(running, {"type": "note", "n": n})
        if n % 50 == 0:
            gevent.sleep(MS)  # the fast one's turn
    assert slow.closing() == Closed(1013, "too slow")
    fast.say("x")
    go.set()
    notes.wait_for(1013)
    until(lambda: notes.count(999) == 1)
    assert len([n for n in notes if isinstance(n, int)]) == 1001
    assert running.counters["closed for being slow"] == 1
    assert running.counters["events dropped for slow members"] == 101


def test_a_thousand_events_may_be_dropped(host):
    """By the policy "drop": the first hundred wait, and it is told of the rest."""
    notes, go = Notes(), Event()

    class Slow(Noting):
        def receive(self, text_data=None, bytes_data=None):
            notes.append("busy")
            go.wait()

        def layer_dropped(self, event):
            notes.append("dropped")

    running = host(Slow.as_asgi(notes=notes), slow="drop", announce_drops=True)
    running.open().say("go")
    notes.wait_for("busy")
    for n in range(1000):
        tell(running, {"type": "note", "n": n})
    go.set()
    notes.wait_for("dropped")
    assert notes == ["connect", "busy", *range(100), "dropped"]
    assert running.counters["events dropped for slow members"] == 900


def test_a_peer_that_floods_a_slow_handler_waits(host):
    """Reading stops when the inbox is full; all arrives, in order."""
    notes, go = Notes(), Event()

    class Slow(Noting):
        def receive(self, text_data=None, bytes_data=None):
            go.wait()
            super().receive(text_data)

    running = host(Slow.as_asgi(notes=notes), limits=Limits(max_inbox=10))
    peer = running.open()
    texts = [str(n) for n in range(5000)]
    peer.say(*texts)
    peer.send_close()
    until(lambda: all(not s.transport.reading for s in running.server.sockets))
    inboxes = [len(s._inbox) for s in running.server.sockets]
    assert inboxes and max(inboxes) <= 10
    go.set()
    until(lambda: notes[-1] == 1000)
    assert notes == ["connect", *texts, 1000]


def test_a_peer_that_floods_leaves_others_their_turns(host):
    """An echo to a second peer comes while the first one sends."""

    class Echo(WebsocketConsumer):
        def receive(self, text_data=None, bytes_data=None):
            self.send(text_data)

    running = host(Echo)
    flooding, other = running.open(), running.open()
    stop, data = [], frames(*["x"] * 100)

    def flood():
        while not stop:
            flooding.send(data)

    def drink():
        while not stop:
            flooding.sock.recv(65536)

    greenlets = [gevent.spawn(flood), gevent.spawn(drink)]
    try:
        for n in range(5):
            other.say(str(n))
            assert other.hear() == str(n)
    finally:
        stop.append(True)
        gevent.killall(greenlets)


# A handler that receives by itself.


def test_a_handler_may_receive_by_itself(host):
    """From the socket behind: a dialogue in one handler."""

    class Chat(WebsocketConsumer):
        def receive(self, text_data=None, bytes_data=None):
            self.send("name?")
            name = self.socket.receive(timeout=5)
            self.send(f"{text_data} {name}")

    peer = host(Chat).open()
    for _ in range(2):
        peer.say("hello")
        assert peer.hear() == "name?"
        peer.say("Ann")
        assert peer.hear() == "hello Ann"


def test_a_handler_that_received_still_gets_events_afterwards(host):
    """Those that came meanwhile are counted: nobody took them."""
    notes = Notes()

    class Chat(Noting):
        def receive(self, text_data=None, bytes_data=None):
            notes.append("receives")
            self.send(self.socket.receive())

    running = host(Chat.as_asgi(notes=notes))
    peer = running.open()
    peer.say("go")
    notes.wait_for("receives")
    tell(running, {"type": "note", "n": 1})
    peer.say("answer")
    assert peer.hear() == "answer"
    host.rest()
    tell(running, {"type": "note", "n": 2})
    notes.wait("connect", "receives", 2)
    assert running.counters["events without a listener"] == 1


@pytest.mark.parametrize("end", ["send_close", "reset", "drain"])
def test_a_handler_that_receives_ends_with_the_connection(host, caplog, end):
    """ConnectionEnded wakes it; that is no failure."""
    notes = Notes()

    class Chat(Noting):
        def receive(self, text_data=None, bytes_data=None):
            notes.append("receives")
            try:
                self.socket.receive()
            except ConnectionEnded:
                notes.append("ended")
                raise

    running = host(Chat.as_asgi(notes=notes))
    peer = running.open()
    peer.say("go")
    notes.wait_for("receives")
    if end == "drain":
        running.server.stop(0.5)
        assert peer.hear() == Closed(1012, "restarting")
    else:
        getattr(peer, end)()
    until(lambda: len(notes) == 4)
    assert notes[2] == "ended"
    assert errors(caplog) == []


def test_a_timeout_of_receive_leaves_the_connection_usable(host):
    """The builtin TimeoutError."""

    class Chat(WebsocketConsumer):
        def receive(self, text_data=None, bytes_data=None):
            try:
                self.socket.receive(timeout=5 * MS)
            except TimeoutError:
                self.send("nothing came")

    peer = host(Chat).open()
    for _ in range(2):
        peer.say("go")
        assert peer.hear() == "nothing came"


# Children.


def test_children_end_before_disconnect(host):
    """They are killed and joined."""
    notes, waits = Notes(), Event()

    class Chat(Noting):
        def connect(self):
            super().connect()
            self.spawn(self.tick, 1, word="child")

        def tick(self, n, word):
            notes.append(f"{word} {n}")
            try:
                waits.wait()
            finally:
                notes.append("child ends")

    running = host(Chat.as_asgi(notes=notes))
    peer = running.open()
    notes.wait_for("child 1")
    peer.send_close()
    notes.wait("connect", "child 1", "child ends", 1000)
    gone(running)


def test_a_child_that_raises_closes_with_1011(host, caplog):
    """And disconnect runs."""
    notes = Notes()

    class Chat(Noting):
        def receive(self, text_data=None, bytes_data=None):
            self.spawn(lambda: 1 / 0)

    peer = host(Chat.as_asgi(notes=notes)).open()
    peer.say("go")
    assert peer.closing() == Closed(1011)
    notes.wait("connect", 1011)
    assert "ZeroDivisionError" in caplog.text


def test_a_child_may_send(host):
    """While the consumer is idle; and its connection's end ends it."""

    class Clock(WebsocketConsumer):
        def connect(self):
            self.accept()
            self.spawn(self.tick)

        def tick(self):
            while True:
                self.send("tick")
                gevent.sleep(MS)

    running = host(Clock)
    peer = running.open()
    assert [peer.hear() for _ in range(3)] == ["tick"] * 3
    peer.reset()
    gone(running)


def test_after_the_end_nothing_is_spawned(host):
    """ConnectionEnded."""
    notes = Notes()

    class Chat(Noting):
        def disconnect(self, code):
            try:
                self.spawn(print)
            except ConnectionEnded as error:
                notes.append(error.code)

    host(Chat.as_asgi(notes=notes)).open().send_close(4000)
    notes.wait("connect", 4000)


# Timeouts that a handler leaves behind.


def test_a_timeout_left_behind_hits_nobody_else(host, caplog):
    """Neither other connections nor this one's disconnect."""
    notes = Notes()

    class Careless(Noting):
        def receive(self, text_data=None, bytes_data=None):
            if text_data == "leave":
                gevent.Timeout(20 * MS).start()
            else:
                gevent.sleep(60 * MS)
                self.send("done")

    running = host(Careless.as_asgi(notes=notes))
    careless = running.open()
    others = [running.open() for _ in range(5)]
    careless.say("leave")
    gevent.sleep(MS)
    for peer in others:
        peer.say("work")
    assert [peer.hear() for peer in others] == ["done"] * 5
    careless.send_close()
    until(lambda: [n for n in notes if isinstance(n, int)])
    assert not any("work" in text for text in errors(caplog))


def test_a_timeout_left_behind_does_not_cost_the_disconnect(host):
    """Even if it comes while the children are waited for."""
    notes = Notes()

    class Careless(Noting):
        def receive(self, text_data=None, bytes_data=None):
            self.spawn(self.stubborn)
            gevent.sleep(0)
            gevent.Timeout(10 * MS).start()
            self.close()

        def stubborn(self):
            with contextlib.suppress(GreenletExit):
                gevent.sleep(10)
            gevent.sleep(40 * MS)

    running = host(Careless.as_asgi(notes=notes))
    peer = running.open()
    peer.say("go")
    peer.closing()
    notes.wait("connect", 1000)
    gone(running)


# The end of the server.


def test_a_drain_ends_idle_and_busy_consumers(host):
    """1012; a handler that runs may finish; disconnect before the end of all."""
    notes, go = Notes(), Event()

    class Chat(Noting):
        def receive(self, text_data=None, bytes_data=None):
            notes.append("busy")
            go.wait()
            notes.append("done")

        def disconnect(self, code):
            self.channel_layer.group_send("all", {"type": "note"})
            super().disconnect(code)

    running = host(Chat.as_asgi(notes=notes))
    idle, busy = running.open(), running.open()
    busy.say("go")
    notes.wait_for("busy")
    stopping = gevent.spawn(running.server.stop, 5)
    assert idle.closing() == Closed(1012, "restarting")
    assert busy.closing() == Closed(1012, "restarting")
    go.set()
    stopping.join(5)
    assert stopping.successful()
    assert notes == ["connect", "connect", "busy", 1012, "done", 1012]


def test_a_drain_ends_stubborn_consumers(host):
    """By GreenletExit, in time; disconnect runs all the same."""
    notes = Notes()

    class Stubborn(Noting):
        def receive(self, text_data=None, bytes_data=None):
            notes.append("blocks")
            gevent.sleep(60)

    running = host(Stubborn.as_asgi(notes=notes))
    peer = running.open()
    peer.say("go")
    notes.wait_for("blocks")
    with gevent.Timeout(5):
        running.server.stop(0.5)
    assert notes == ["connect", "blocks", 1012]


def test_a_drain_answers_undecided_handshakes(host):
    """503; disconnect runs."""
    notes = Notes()

    class Chat(Noting):
        def connect(self):
            notes.append("undecided")

    running = host(Chat.as_asgi(notes=notes))
    peer = running.peer()
    peer.handshake()
    notes.wait_for("undecided")
    running.server.stop(0.5)
    assert peer.response().status == 503
    assert notes == ["undecided", 1006]


def test_a_drain_of_many_runs_every_disconnect(host):
    """Before the layer goes: they may still send."""
    notes = Notes()

    class Chat(Noting):
        def disconnect(self, code):
            gevent.sleep(5 * MS)
            self.channel_layer.group_send("others", {"type": "note"})
            super().disconnect(code)

    running = host(Chat.as_asgi(notes=notes))
    for _ in range(600):
        running.open()
    host.rest()
    for client in running.clients:
        client.send(b"\x88\x82\x00\x00\x00\x00\x03\xe8")
    running.server.stop(5)
    assert len(notes) == 1200
    assert sum(isinstance(note, int) for note in notes) == 600


@pytest.mark.parametrize("phase", ["connect", "idle", "receive"])
def test_closing_the_server_runs_disconnect(host, phase):
    """Once, and the layer is still there."""
    notes = Notes()

    class Chat(Noting):
        def connect(self):
            if phase == "connect":
                notes.append("blocks")
                gevent.sleep(60)
            super().connect()

        def receive(self, text_data=None, bytes_data=None):
            notes.append("blocks")
            gevent.sleep(60)

        def disconnect(self, code):
            self.channel_layer.group_send("all", {"type": "note"})
            gevent.sleep(5 * MS)
            super().disconnect(code)

    running = host(Chat.as_asgi(notes=notes))
    peer = running.peer()
    peer.handshake()
    if phase != "connect":
        peer.response()
        host.rest()
    if phase == "receive":
        peer.say("go")
    if phase != "idle":
        notes.wait_for("blocks")
    running.server.close()
    codes = [note for note in notes if isinstance(note, int)]
    assert len(codes) == 1


def test_an_undecided_handshake_may_be_over_before_connect_is(host):
    """accept_timeout while connect runs: 503, then accept says so."""
    notes = Notes()

    class Slow(Noting):
        def connect(self):
            gevent.sleep(60 * MS)
            try:
                self.accept()
            except ConnectionEnded as error:
                notes.append(type(error).__name__)
                raise

    running = host(Slow.as_asgi(notes=notes), timeouts=Timeouts(accept_timeout=20 * MS))
    assert running.refused().status == 503
    notes.wait("HandshakeRefused", 1006)
