"""Handlers of one connection side by side: ``max_concurrency``."""

import gevent
import pytest
from gevent import GreenletExit
from gevent.event import Event

from greenchannels import Group, Limits
from greenchannels.generic.websocket import WebsocketConsumer
from tests.generic.hosts import Notes, errors
from tests.servers.harness import MS, Closed, until


class Counting(WebsocketConsumer):
    """Notes what begins and ends, and how many handlers run."""

    groups = ("all",)
    max_concurrency = 3

    def __init__(self, notes):
        self.notes = notes
        self.running = self.most = 0

    def work(self, text):
        self.running += 1
        self.most = max(self.most, self.running)
        self.notes.append(f"{text} begins")
        try:
            self.wait(text)
        finally:
            self.running -= 1
            self.notes.append(f"{text} ends")

    def wait(self, text):
        gevent.sleep(MS)

    def receive(self, text_data=None, bytes_data=None):
        self.work(text_data)

    def note(self, event):
        self.work(event["text"])

    def disconnect(self, code):
        self.notes.append(f"{code}: {self.running} run")


def tell(running, text):
    """Send an event to all members."""
    running.server._context.run(Group("all").send, {"type": "note", "text": text})


def test_a_slow_handler_does_not_hold_up_the_next(host):
    """Neither a message's nor an event's."""
    notes, go = Notes(), Event()

    class Chat(Counting):
        def wait(self, text):
            if text == "slow":
                go.wait()

    running = host(Chat.as_asgi(notes=notes))
    peer = running.open()
    peer.say("slow")
    notes.wait("slow begins")
    peer.say("fast")
    notes.wait("slow begins", "fast begins", "fast ends")
    tell(running, "event")
    notes.wait_for("event ends")
    assert "slow ends" not in notes
    go.set()
    notes.wait_for("slow ends")


@pytest.mark.parametrize("most", [2, 3, 7])
def test_no_more_run_than_may(host, most):
    """And all that come are handled, started in order."""
    notes, consumers = Notes(), []

    class Chat(Counting):
        max_concurrency = most

        def connect(self):
            consumers.append(self)
            self.accept()

        def wait(self, text):
            gevent.sleep((int(text) * 7 % 4) * MS)

    running = host(Chat.as_asgi(notes=notes), limits=Limits(max_inbox=10))
    peer = running.open()
    texts = [str(n) for n in range(200)]
    for n in range(0, 200, 20):
        peer.say(*texts[n : n + 20])
        gevent.sleep((n % 3) * MS)
    until(lambda: len(notes) == 400)
    assert [n for n in notes if "begins" in n] == [f"{t} begins" for t in texts]
    assert consumers[0].most == most
    consumers.clear()


def test_handlers_that_end_at_once_make_no_room_for_more(host):
    """Each may have called for another; only as many as may run then do."""
    notes, go = Notes(), Event()

    class Chat(Counting):
        max_concurrency = 2

        def wait(self, text):
            if text == "slow":
                go.wait()

    running = host(Chat.as_asgi(notes=notes))
    peer = running.open()
    peer.say(*["fast"] * 5, *["slow"] * 5)
    until(lambda: notes.count("slow begins") == 2)
    gevent.sleep(5 * MS)
    assert notes.count("slow begins") == 2
    go.set()
    until(lambda: notes.count("slow ends") == 5)


def test_connect_runs_alone(host):
    """What comes meanwhile waits."""
    notes, go = Notes(), Event()

    class Chat(Counting):
        def connect(self):
            self.accept()
            go.wait()
            notes.append("connected")

    running = host(Chat.as_asgi(notes=notes))
    peer = running.open()
    peer.say("1", "2")
    tell(running, "3")
    gevent.sleep(5 * MS)
    assert notes == []
    go.set()
    until(lambda: len(notes) == 7)
    assert notes[0] == "connected"


@pytest.mark.parametrize("end", ["send_close", "reset"])
def test_disconnect_runs_last_and_alone(host, caplog, end):
    """When the handlers that run have ended; those that wait come before."""
    notes, go = Notes(), Event()

    class Chat(Counting):
        def wait(self, text):
            go.wait()

    running = host(Chat.as_asgi(notes=notes))
    peer = running.open()
    peer.say("1", "2", "3", "4")
    until(lambda: len(notes) == 3)
    getattr(peer, end)()
    gevent.sleep(5 * MS)
    assert notes == ["1 begins", "2 begins", "3 begins"]
    go.set()
    until(lambda: not running.server.sockets and not running.server.consumers)
    code = 1000 if end == "send_close" else 1006
    assert notes[-1] == f"{code}: 0 run"
    assert len(notes) == 9
    assert errors(caplog) == []


def test_stubborn_handlers_are_all_killed(host):
    """After stop_timeout; then disconnect, once, alone."""
    notes = Notes()

    class Chat(Counting):
        def wait(self, text):
            gevent.sleep(60)

    running = host(Chat.as_asgi(notes=notes), limits=Limits(stop_timeout=0.1))
    peer = running.open()
    peer.say("1", "2", "3")
    until(lambda: len(notes) == 3)
    peer.send_close()
    until(lambda: not running.server.sockets and not running.server.consumers)
    assert sorted(notes[3:6]) == ["1 ends", "2 ends", "3 ends"]
    assert notes[6:] == ["1000: 0 run"]


@pytest.mark.parametrize("error", [KeyError, GreenletExit])
def test_one_that_fails_ends_the_connection(host, error):
    """1011; the others may finish before disconnect."""
    notes, go = Notes(), Event()

    class Chat(Counting):
        def wait(self, text):
            if text == "bad":
                raise error
            go.wait()

    running = host(Chat.as_asgi(notes=notes))
    peer = running.open()
    peer.say("good")
    notes.wait("good begins")
    peer.say("bad")
    assert peer.closing() == Closed(1011)
    assert notes == ["good begins", "bad begins", "bad ends"]
    go.set()
    until(lambda: len(notes) == 5)
    assert notes[3:] == ["good ends", "1011: 0 run"]
    until(lambda: not running.server.sockets and not running.server.consumers)


def test_the_peer_waits_while_all_handlers_are_busy(host):
    """The inbox stays bounded."""
    notes, go = Notes(), Event()

    class Chat(Counting):
        def wait(self, text):
            go.wait()

    running = host(Chat.as_asgi(notes=notes), limits=Limits(max_inbox=10))
    peer = running.open()
    texts = [str(n) for n in range(1000)]
    peer.say(*texts)
    until(lambda: all(not s.transport.reading for s in running.server.sockets))
    assert [len(s._inbox) <= 10 for s in running.server.sockets] == [True]
    assert len(notes) == 3
    go.set()
    until(lambda: len(notes) == 2000)


def test_a_drain_ends_all_handlers(host):
    """Stubborn ones by GreenletExit."""
    notes = Notes()

    class Chat(Counting):
        def wait(self, text):
            gevent.sleep(60)

    running = host(Chat.as_asgi(notes=notes))
    peer = running.open()
    peer.say("1", "2")
    until(lambda: len(notes) == 2)
    with gevent.Timeout(5):
        running.server.stop(0.5)
    assert sorted(notes[2:4]) == ["1 ends", "2 ends"]
    assert notes[4:] == ["1012: 0 run"]
