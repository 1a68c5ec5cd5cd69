"""Bursts: a class-based consumer's greenlet, only while a handler runs."""

import contextvars
import gc
import weakref

import gevent
import pytest
from gevent import GreenletExit, getcurrent
from gevent.event import Event
from websockets.sync.client import connect

from greenchannels import Group, Limits, Timeouts, websocket
from greenchannels.generic.websocket import JsonWebsocketConsumer, WebsocketConsumer
from greenchannels.servers import bursts
from greenchannels.servers.bursts import BurstSocket
from greenchannels.testing import Client, LiveServer
from tests.servers.harness import unfinished_greenlets, until

VALUE = contextvars.ContextVar("VALUE", default="unset")


class Echo(WebsocketConsumer):
    """Says everything again."""

    groups = ("all",)

    def receive(self, text_data=None, bytes_data=None):
        self.send(text_data)

    def note(self, event):
        self.send(event["text"])


def tell(running, event):
    """Send an event to all members."""
    running.server._context.run(Group("all").send, event)


def rest(running):
    """Wait until all that was begun has been done."""
    until(lambda: all(socket.waiting for socket in running.server.sockets))


def gone(running):
    """Wait until no socket and no consumer is left."""
    until(lambda: not running.server.sockets and not running.server.consumers)


# What an idle one costs.


def test_idle_consumers_have_no_greenlet(serve):
    """A hundred: nobody is busy, and those who were wait for any of them."""
    running = serve([websocket("/", Echo)])
    before = len(unfinished_greenlets())
    peers = [running.open() for _ in range(100)]
    rest(running)
    assert running.server.workers.busy == set()
    assert running.server.consumers == frozenset()
    for n, peer in enumerate(peers):
        peer.say(str(n))
        assert peer.hear() == str(n)
    rest(running)
    tell(running, {"type": "note", "text": "all"})
    assert [peer.hear() for peer in peers] == ["all"] * 100
    rest(running)
    assert running.server.workers.busy == set()
    assert len(unfinished_greenlets()) - before <= 2
    assert all(type(s) is BurstSocket for s in running.server.sockets)


def test_handlers_that_do_not_wait_share_a_greenlet(serve):
    """An event for a hundred members is handled in one."""
    greenlets = []

    class Chat(Echo):
        def note(self, event):
            greenlets.append(weakref.ref(getcurrent()))

    running = serve([websocket("/", Chat)])
    for _ in range(100):
        running.open()
    rest(running)
    tell(running, {"type": "note"})
    until(lambda: len(greenlets) == 100)
    assert len(set(greenlets)) == 1


def test_nothing_is_left_of_a_connection(serve, monkeypatch):
    """No consumer, socket, context or greenlet, however it ended."""
    found, go = [], Event()
    # The log of a test keeps the traceback of those that raised.
    monkeypatch.setattr(bursts.logger, "exception", lambda *args: None)

    class Chat(Echo):
        def connect(self):
            VALUE.set(self)
            self.accept()
            child = self.spawn(go.wait)
            found.extend(map(weakref.ref, (self, self.socket._context, child)))

        def receive(self, text_data=None, bytes_data=None):
            if text_data == "raise":
                raise KeyError
            if text_data == "block":
                gevent.sleep(60)

    running = serve([websocket("/", Chat)], limits=Limits(stop_timeout=0.05))
    ends = [
        lambda peer: peer.send_close(),
        lambda peer: peer.reset(),
        lambda peer: peer.close(),
        lambda peer: peer.say("raise"),
        lambda peer: (peer.say("block"), peer.send_close()),
    ]
    peers = [running.open() for _ in range(25)]
    rest(running)
    for n, peer in enumerate(peers):
        ends[n % len(ends)](peer)
    gone(running)
    for peer in peers:
        peer.close()
    until(lambda: not running.server.connections)

    def left():
        gc.collect()
        return [each() for each in found if each() is not None]

    assert len(found) == 75
    until(lambda: not left())


# The end before the beginning.


def test_a_handler_that_begins_after_the_end_is_killed_too(serve):
    """stop_timeout holds for one that had only been put on the list."""
    notes = []

    class Chat(Echo):
        def note(self, event):
            notes.append("blocks")
            try:
                gevent.sleep(60)
            finally:
                notes.append("killed")

        def disconnect(self, code):
            notes.append(code)

    running = serve([websocket("/", Chat)], limits=Limits(stop_timeout=0.1))
    running.open()
    rest(running)
    (socket,) = running.server.sockets
    tell(running, {"type": "note"})
    socket.transport.cut(ConnectionResetError("gone already"))
    until(lambda: notes == ["blocks", "killed", 1006])
    gone(running)


def test_a_connection_that_ends_before_connect_has_begun(serve):
    """Connect runs, then disconnect: each once."""
    notes = []

    class Chat(WebsocketConsumer):
        def connect(self):
            notes.append("connect")
            try:
                gevent.sleep(60)
            finally:
                notes.append("killed")

        def disconnect(self, code):
            notes.append(code)

    running = serve([websocket("/", Chat)], limits=Limits(stop_timeout=0.1))
    start = running.server.run_socket

    def run_socket(socket, match):
        start(socket, match)
        socket.transport.cut(ConnectionResetError("gone already"))

    running.server.run_socket = run_socket
    running.peer().handshake()
    until(lambda: notes == ["connect", "killed", 1006])
    gone(running)


def test_without_a_stop_timeout_nobody_is_killed(serve):
    """``None`` waits for the handler."""
    notes, go = [], Event()

    class Chat(WebsocketConsumer):
        def receive(self, text_data=None, bytes_data=None):
            notes.append("begins")
            go.wait()

        def disconnect(self, code):
            notes.append(code)

    running = serve([websocket("/", Chat)], limits=Limits(stop_timeout=None))
    peer = running.open()
    peer.say("go")
    until(lambda: notes)
    peer.send_close()
    peer.hear()
    assert notes == ["begins"]
    go.set()
    until(lambda: notes == ["begins", 1000])
    gone(running)


# Hooks.


def test_hooks_run_at_the_end_of_each_burst(serve):
    """In its greenlet and its context, after disconnect too."""
    notes = []

    class Chat(Echo):
        def connect(self):
            VALUE.set(self.params["name"])
            self.accept()

        def receive(self, text_data=None, bytes_data=None):
            notes.append((text_data, getcurrent()))

        def disconnect(self, code):
            notes.append((code, getcurrent()))

    running = serve([websocket("/<name>", Chat)])
    running.server.burst_hooks.append(lambda: notes.append((VALUE.get(), getcurrent())))
    peer = running.open("/ann")
    until(lambda: [note[0] for note in notes] == ["ann"])
    peer.say("1", "2", "3")
    until(lambda: [note[0] for note in notes[1:]] == ["1", "2", "3", "ann"])
    assert len({greenlet for _, greenlet in notes[1:]}) == 1
    del notes[:]
    peer.send_close()
    until(lambda: notes[-2:] and [note[0] for note in notes[-2:]] == [1000, "ann"])
    del notes[:]


@pytest.mark.parametrize(
    "error",
    [KeyError("hook"), gevent.Timeout(1), GreenletExit(), SystemExit()],
    ids=lambda e: type(e).__name__,
)
def test_a_hook_that_raises_harms_nobody(serve, caplog, error):
    """It is logged; the other hooks and disconnect run."""
    notes = []

    class Chat(Echo):
        def disconnect(self, code):
            notes.append(code)

    def bad():
        raise error

    running = serve([websocket("/", Chat)])
    running.server.burst_hooks += [bad, lambda: notes.append("hook")]
    peer = running.open()
    peer.say("hello")
    assert peer.hear() == "hello"
    peer.send_close()
    until(lambda: 1000 in notes and notes[-1] == "hook")
    assert "a hook at the end of a burst failed" in caplog.text


def test_a_hook_that_blocks_delays_only_its_own_connection(serve):
    """What comes meanwhile is handled afterwards, in order."""
    notes, go = [], Event()

    class Chat(Echo):
        def receive(self, text_data=None, bytes_data=None):
            notes.append(text_data)

        def disconnect(self, code):
            notes.append(code)

    running = serve([websocket("/", Chat)])
    peer, other = running.open(), running.open()
    rest(running)
    running.server.burst_hooks.append(go.wait)
    peer.say("1")
    until(lambda: notes == ["1"])
    peer.say("2")
    peer.say("3")
    other.say("other")
    until(lambda: "other" in notes)
    assert notes == ["1", "other"]
    go.set()
    until(lambda: len(notes) == 4)
    assert notes == ["1", "other", "2", "3"]
    peer.send_close()
    until(lambda: notes[4:] == [1000])


def test_a_hook_that_never_ends_is_killed_with_its_connection(serve):
    """And disconnect runs."""
    notes = []

    class Chat(Echo):
        def disconnect(self, code):
            notes.append(code)
            running.server.burst_hooks.clear()

    running = serve([websocket("/", Chat)], limits=Limits(stop_timeout=0.05))
    peer = running.open()
    rest(running)
    running.server.burst_hooks.append(lambda: gevent.sleep(60))
    peer.say("go")
    assert peer.hear() == "go"
    peer.send_close()
    until(lambda: notes == [1000])
    gone(running)


# Workers are used again.


@pytest.mark.parametrize(
    "leave_behind",
    [
        lambda: gevent.Timeout(0.03).start(),
        lambda: gevent.spawn_later(0.03, getcurrent().kill),
        lambda: gevent.get_hub().loop.run_callback(getcurrent().throw, KeyError),
    ],
    ids=["timeout", "kill", "throw"],
)
def test_what_a_handler_leaves_behind_hits_no_other_connection(serve, leave_behind):
    """Not even one whose burst begins at once in the same greenlet."""

    class Chat(Echo):
        def receive(self, text_data=None, bytes_data=None):
            if text_data == "leave":
                leave_behind()
            else:
                gevent.sleep(0.1)
                self.send("unharmed")

        def note(self, event):
            self.receive(self.params["name"])

    running = serve([websocket("/<name>", Chat)])
    careless = running.open("/leave")
    others = [running.open(f"/{n}") for n in range(10)]
    rest(running)
    careless.say("leave")
    for peer in others:
        peer.say("work")
    assert [peer.hear() for peer in others] == ["unharmed"] * 10
    tell(running, {"type": "note"})  # one after another, in the order of joining
    assert [peer.hear() for peer in others] == ["unharmed"] * 10


def test_killing_everything_that_runs_hits_no_idle_connection(serve):
    """The workers that wait may be killed, too."""
    running = serve([websocket("/", Echo)])
    peer = running.open()
    rest(running)
    gevent.killall(list(running.server.workers.all))
    peer.say("hello")
    assert peer.hear() == "hello"


# Over other wires.


def test_the_test_client_speaks_to_a_class():
    """greenchannels.testing.Client."""

    class Chat(JsonWebsocketConsumer):
        def connect(self):
            self.accept()
            self.send_json({"user": self.scope["user"]})

        def receive_json(self, content, **kwargs):
            self.send_json(content, close=content == "close")

    with (
        Client([websocket("/", Chat)]) as client,
        client.websocket("/", user="ann") as socket,
    ):
        assert socket.receive_json() == {"user": "ann"}
        socket.send_json([1])
        assert socket.receive_json() == [1]
        client.settle()
        socket.send_json("close")
        assert socket.receive_json() == "close"
        until(lambda: socket.close_code == 1000)


def test_a_client_of_somebody_elses_speaks_to_a_class():
    """websockets, over TCP: two of them in a group, compressed as it offers."""

    class Chat(WebsocketConsumer):
        groups = ["chat.{room}"]

        def receive(self, text_data=None, bytes_data=None):
            if text_data == "bye":
                self.close(4000, "bye")
                return
            event = {"type": "chat.said", "text": text_data}
            self.channel_layer.group_send("chat.tea", event)

        def chat_said(self, event):
            self.send(text_data=event["text"])

    with LiveServer([websocket("/<room>", Chat)]) as server:
        url = f"{server.ws_url}/tea"
        with connect(url) as ann, connect(url) as bob:
            for text in ("hello", "x" * 100_000, "\u20ac"):
                ann.send(text)
                assert [ann.recv(timeout=20), bob.recv(timeout=5)] == [text, text]
            bob.send("bye")
            with pytest.raises(Exception, match="4000"):
                bob.recv(timeout=20)
            assert (bob.close_code, bob.close_reason) == (4000, "bye")
            ann.send("alone")
            assert ann.recv(timeout=20) == "alone"


def test_accept_timeout_ends_those_that_nobody_decides(serve):
    """Many at a time, and no greenlet waits for it."""

    class Chat(WebsocketConsumer):
        def connect(self):
            pass

    running = serve([websocket("/", Chat)], timeouts=Timeouts(accept_timeout=0.1))
    peers = [running.peer() for _ in range(50)]
    for peer in peers:
        peer.handshake()
    until(lambda: len(running.server.sockets) == 50)
    until(lambda: not running.server.workers.busy)
    assert {peer.response().status for peer in peers} == {503}
    gone(running)


def test_a_broken_frame_ends_it(serve):
    """1002; disconnect hears the code."""
    notes = []

    class Chat(Echo):
        def disconnect(self, code):
            notes.append(code)

    peer = serve([websocket("/", Chat)]).open()
    peer.say("hello")
    assert peer.hear() == "hello"
    peer.frame(3, b"")
    assert peer.closing().code == 1002
    until(lambda: notes == [1002])
