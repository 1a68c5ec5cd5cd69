"""Event streams: over real connections, read by a client that knows only HTTP."""

import json
import logging
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import gevent
import pytest
from gevent.event import Event
from gevent.queue import Queue

from greenchannels import (
    ConnectionEnded,
    EventStream,
    Group,
    ServerSentEvent,
    User,
    http,
    include,
    last_event_id,
)
from greenchannels.groups import topic_of
from tests.browser.chromium import Browser, find_chromium, wait_until
from tests.servers.harness import MS, PATIENCE, request, until

ROOT = Path(__file__).parents[2]


class Reader:
    """A client that has asked for a stream, and reads it piece by piece."""

    def __init__(self, running, path="/", headers=(), version="1.1", **options):
        self.client = running.client(**options)
        self.client.send(request(path, "GET", headers, version=version))
        lines = self.client.read_until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ")[1])
        self.headers = dict(line.lower().split(": ", 1) for line in lines[1:-2])
        self.text = b""
        self.is_chunked = "transfer-encoding" in self.headers
        self.has_ended = False

    def more(self, seconds=PATIENCE):
        """Read one piece of the body."""
        if not self.is_chunked:
            self.text += self.client.read(1, seconds)
            return
        size = int(self.client.read_until(b"\r\n", seconds), 16)
        self.text += self.client.read(size + 2)[:-2]
        self.has_ended = size == 0

    def next(self, seconds=PATIENCE):
        """Return the lines of the next event or comment."""
        while b"\n\n" not in self.text:
            assert not self.has_ended, "the stream has ended"
            self.more(seconds)
        event, _, self.text = self.text.partition(b"\n\n")
        return event.decode()

    def rest(self):
        """Return what comes until the stream's own end."""
        while not self.has_ended:
            self.more()
        return self.text.decode()


def waiting(closed, blocked=None):
    """Yield one event, then block for ever; note how it ends."""
    try:
        yield "first"
        if blocked is not None:
            blocked.set()
        Event().wait()
    except BaseException as error:
        closed.append(type(error).__name__)
        raise
    finally:
        closed.append("finally")


# Iterables.


@pytest.mark.parametrize(
    "item, text",
    [
        ("plain", "data: plain"),
        ("two\nlines", "data: two\ndata: lines"),
        ({"a": [1, None]}, 'data: {"a":[1,null]}'),
        ([1, "ä\n"], 'data: [1,"ä\\n"]'),
        (ServerSentEvent("x"), "data: x"),
        (ServerSentEvent({"n": 1}, event="e"), 'event: e\ndata: {"n":1}'),
        (ServerSentEvent(5, id=7, retry=0.5), "id: 7\nretry: 500\ndata: 5"),
        (ServerSentEvent(id="i"), "id: i"),
    ],
    ids=repr,
)
def test_an_item_is_an_event(serve, item, text):
    """Text, JSON, or all that an event may have; nothing for ``None``."""
    running = serve([http("/", lambda r: EventStream([None, item, None, "end"]))])
    reader = Reader(running)
    assert reader.next() == text
    assert reader.rest() == "data: end\n\n"


def test_the_response_says_what_it_is(serve):
    """No cache keeps it, no proxy waits for more of it."""
    reader = Reader(serve([http("/", lambda r: EventStream(["x"]))]))
    assert reader.status == 200
    assert reader.headers["content-type"] == "text/event-stream"
    assert reader.headers["cache-control"] == "no-cache"
    assert reader.headers["x-accel-buffering"] == "no"
    assert "content-length" not in reader.headers


def test_a_view_may_say_otherwise(serve):
    """Status and headers beside the stream, as beside any body."""

    def view(request):
        return EventStream(["x"]), 202, {"Cache-Control": "no-store", "X-A": "1"}

    reader = Reader(serve([http("/", view)]))
    assert reader.status == 202
    assert reader.headers["cache-control"] == "no-store"
    assert reader.headers["x-a"] == "1"
    assert reader.next() == "data: x"


def test_the_head_comes_before_the_first_event(serve):
    """So that a page knows that it is connected."""
    closed = []

    def silent():
        try:
            Event().wait()
            yield
        finally:
            closed.append(1)

    reader = Reader(serve([http("/", lambda r: EventStream(silent()))]))
    assert reader.status == 200 and not closed


def test_an_event_comes_as_soon_as_it_is_yielded(serve):
    """Nothing is kept back for the next."""
    items = Queue()
    reader = Reader(serve([http("/", lambda r: EventStream(items))]))
    for n in range(3):
        items.put({"n": n})
        assert json.loads(reader.next().removeprefix("data: ")) == {"n": n}
    items.put(StopIteration)
    assert reader.rest() == ""


def test_the_connection_serves_the_next_request_after_a_stream(serve):
    """A stream that ends is a response like others."""
    running = serve(
        [http("/", lambda r: EventStream(["x"])), http("/p", lambda r: "p")]
    )
    reader = Reader(running)
    assert reader.rest() == "data: x\n\n"
    reader.client.send(request("/p"))
    assert reader.client.response().body == b"p"


def test_a_stream_of_http_1_0_ends_with_its_connection(serve):
    """There are no chunks."""
    running = serve([http("/", lambda r: EventStream(["a", "b"], retry=1))])
    reader = Reader(running, version="1.0")
    assert not reader.is_chunked
    assert reader.client.rest() == b"retry: 1000\n\ndata: a\n\ndata: b\n\n"


def test_retry_comes_first(serve):
    """In milliseconds."""
    reader = Reader(serve([http("/", lambda r: EventStream(["x"], retry=2.5))]))
    assert reader.next() == "retry: 2500"
    assert reader.next() == "data: x"


def test_first_comes_before_the_source_and_convert_sees_both(serve):
    """Each is asked for in its turn, and closed."""
    closed = []

    def items(*values):
        try:
            yield from values
        finally:
            closed.append(values)

    def view(request):
        return EventStream(
            items(3, 4),
            first=items(1, 2),
            convert=lambda n: None if n == 4 else ServerSentEvent(n, id=n),
        )

    reader = Reader(serve([http("/", view)]))
    assert reader.rest().split() == [
        "id:",
        "1",
        "data:",
        "1",
        "id:",
        "2",
        "data:",
        "2",
        "id:",
        "3",
        "data:",
        "3",
    ]
    assert closed == [(1, 2), (3, 4)]


def test_the_last_event_id_is_told_to_the_view(serve):
    """As UTF-8; ``None`` when the browser says none."""
    running = serve([http("/", lambda r: {"id": last_event_id(r)})])
    sent = {"7": "7", "grün 🦥": "grün 🦥", "": None}
    for value, seen in sent.items():
        field = ("Last-Event-ID", value.encode().decode("latin-1"))
        assert json.loads(running.get(headers=[field]).body) == {"id": seen}
    assert json.loads(running.get().body) == {"id": None}


@pytest.mark.parametrize("status, method", [(200, "HEAD"), (204, "GET")])
def test_a_response_without_a_body_does_not_run_the_source(serve, status, method):
    """HEAD has the fields of GET; 204 tells a browser to come no more."""
    ran, closed = [], []

    class Source:
        def __iter__(self):
            ran.append(1)
            return iter(["x"])

        def close(self):
            closed.append(1)

    running = serve([http("/", lambda r: (EventStream(Source()), status))])
    answer = running.get(method=method)
    assert answer.status == status
    assert answer["content-type"] == "text/event-stream"
    assert not answer.get("content-length")
    assert not ran and closed == [1]


def test_head_joins_no_group(serve):
    """And answers at once."""
    running = serve([http("/", lambda r: EventStream(Group("g")))])
    assert running.get(method="HEAD").status == 200
    assert running.server.layer.stats()["groups"] == 0


@pytest.mark.parametrize(
    "source", ["text", b"bytes", {"a": 1}, 5, None, lambda: iter(())], ids=repr
)
def test_what_is_no_stream_of_events_is_refused(source):
    """A str is no list of its characters, a function no generator."""
    with pytest.raises(TypeError, match="event stream"):
        EventStream(source)
    with pytest.raises(TypeError, match="event stream"):
        EventStream([], first=source)


@pytest.mark.parametrize(
    "options",
    [{"heartbeat": 0}, {"heartbeat": -1}, {"max_buffer": 0}, {"retry": -1}],
    ids=repr,
)
def test_numbers_that_make_no_sense_are_refused(options):
    """At once, not when a peer comes."""
    with pytest.raises(ValueError):
        EventStream([], **options)


@pytest.mark.parametrize(
    "options, error",
    [
        ({"data": b"x"}, TypeError),
        ({"data": object()}, TypeError),
        ({"id": "a\0"}, ValueError),
        ({"id": "a\n"}, ValueError),
        ({"event": "a\r"}, ValueError),
        ({"retry": -1}, ValueError),
    ],
    ids=repr,
)
def test_an_event_that_cannot_be_is_refused_where_it_is_made(options, error):
    """The traceback shows the line that made it."""
    with pytest.raises(error):
        ServerSentEvent(**options)


def test_streams_are_shown_by_their_source():
    """In logs and lists of greenlets."""
    assert repr(EventStream(Group("g"))) == "EventStream(Group('g'))"


# Failing sources.


def raise_error():
    """Fail, as a source may."""
    raise ValueError("no more")


@pytest.mark.parametrize(
    "item",
    [raise_error, lambda: b"bytes", lambda: 5, lambda: "\ud800"],
    ids=["raises", "bytes", "int", "surrogate"],
)
def test_a_source_that_fails_is_logged_and_the_stream_cut(serve, caplog, item):
    """The end is none that the peer could take for one."""
    was_read, closed = Event(), []

    def events():
        try:
            yield "a"
            was_read.wait()
            yield item()
        finally:
            closed.append(1)

    reader = Reader(serve([http("/", lambda r: EventStream(events()))]))
    assert reader.next() == "data: a"
    was_read.set()
    with pytest.raises((EOFError, OSError)):
        reader.rest()
    assert closed == [1]
    assert [r for r in caplog.records if r.exc_info]


def test_a_view_that_fails_before_its_stream_is_answered_with_500(serve, caplog):
    """Also where the stream itself is what is wrong."""
    answer = serve([http("/", lambda r: EventStream(5))]).get()
    assert answer.status == 500 and b"Traceback" not in answer.body
    assert "an iterable of events" in caplog.text


# Peers that leave.


@pytest.mark.parametrize("leave", ["close", "reset", "half_close"])
def test_a_peer_that_leaves_ends_a_source_that_is_blocked(serve, leave):
    """Its ``finally`` runs, though nothing is ever sent."""
    closed, blocked = [], Event()
    running = serve([http("/", lambda r: EventStream(waiting(closed, blocked)))])
    reader = Reader(running)
    assert reader.next() == "data: first"
    assert blocked.wait(PATIENCE)
    getattr(reader.client, leave)()
    until(lambda: closed == ["StreamOver", "finally"])
    until(lambda: not running.server.consumers)


def test_a_source_that_goes_on_when_its_peer_has_left_is_closed(serve):
    """It may catch everything; what it yields then goes nowhere."""
    closed, blocked = [], Event()

    def stubborn():
        try:
            while True:
                try:
                    yield "x"
                    blocked.set()
                    Event().wait()
                except gevent.GreenletExit:
                    closed.append("caught")
        finally:
            closed.append("finally")

    reader = Reader(serve([http("/", lambda r: EventStream(stubborn()))]))
    assert reader.next() == "data: x"
    assert blocked.wait(PATIENCE)
    reader.client.close()
    until(lambda: closed == ["caught", "finally"])


def test_a_source_may_block_while_it_is_closed(serve):
    """As to return a connection to its pool; it is interrupted once only."""
    closed = []

    def events():
        try:
            yield "x"
            Event().wait()
        finally:
            gevent.sleep(20 * MS)
            closed.append(1)

    reader = Reader(serve([http("/", lambda r: EventStream(events()))]))
    assert reader.next() == "data: x"
    reader.client.close()
    until(lambda: closed)


def test_a_peer_that_stops_reading_and_leaves_ends_the_source(serve):
    """While the stream is blocked in sending."""
    closed, count = [], [0]

    def flood():
        try:
            while True:
                count[0] += 1
                yield "x" * 10_000
        finally:
            closed.append(1)

    running = serve([http("/", lambda r: EventStream(flood()))], send_buffer=8192)
    client = running.client(receive_buffer=4096)
    client.send(request())

    def stands_still():
        before = count[0]
        gevent.sleep(20 * MS)
        return before and before == count[0]

    until(stands_still)
    assert not closed and count[0] < 1000
    client.reset()
    until(lambda: closed)


def test_a_source_is_closed_though_its_iterator_is_another_object(serve):
    """Both: the iterator's ``finally`` runs, and ``close`` as in WSGI."""
    closed = []

    class Source:
        def __iter__(self):
            return waiting(closed)

        def close(self):
            closed.append("close")

    reader = Reader(serve([http("/", lambda r: EventStream(Source()))]))
    reader.next()
    reader.client.close()
    until(lambda: closed == ["StreamOver", "finally", "close"])


def test_another_connections_end_is_a_failure_of_the_source(serve, caplog):
    """Only that of its own peer is a normal end."""

    was_read = Event()

    def events():
        yield "a"
        was_read.wait()
        raise ConnectionEnded(1006, "another", source="another")

    reader = Reader(serve([http("/", lambda r: EventStream(events()))]))
    assert reader.next() == "data: a"
    was_read.set()
    with pytest.raises((EOFError, OSError)):
        reader.rest()
    until(lambda: [r for r in caplog.records if r.exc_info])


def test_the_drain_ends_streams(serve):
    """Blocked ones and those of groups."""
    closed = []

    def view(request, kind):
        if kind == "group":
            return EventStream(Group("g"), first=["first"])
        return EventStream(waiting(closed))

    running = serve([http("/<kind>", view)])
    readers = [Reader(running, path) for path in ("/group", "/source")]
    assert [reader.next() for reader in readers] == ["data: first"] * 2
    with gevent.Timeout(PATIENCE):
        running.server.stop(1.0)
    assert closed[-1:] == ["finally"]
    assert not running.server.consumers


# Heartbeats.


def test_silence_is_filled_with_comments(serve):
    """While the source blocks, and while a group is silent."""
    running = serve(
        [
            http("/source", lambda r: EventStream(waiting([]), heartbeat=20 * MS)),
            http("/group", lambda r: EventStream(Group("g"), heartbeat=20 * MS)),
        ]
    )
    source, group = Reader(running, "/source"), Reader(running, "/group")
    assert source.next() == "data: first"
    for _ in range(3):
        assert source.next() == ": "
        assert group.next() == ": "
    Group("g").send("x")
    until(lambda: group.next() == "data: x")


def test_no_heartbeat_comes_while_there_are_events(serve):
    """Nor ever, when there shall be none."""

    def events():
        for n in range(60):
            gevent.sleep(10 * MS)
            yield str(n)

    def view(request, kind):
        return EventStream(events(), heartbeat={"late": 300 * MS, "none": None}[kind])

    running = serve([http("/<kind>", view)])
    readers = [Reader(running, path) for path in ("/late", "/none")]
    for reader in readers:
        assert reader.rest() == "".join(f"data: {n}\n\n" for n in range(60))


# Groups.


def members(running):
    """Return how many are in the group that all tests use."""
    return len(running.server.layer.members(topic_of("g")))


def test_a_groups_messages_are_events(serve):
    """Text as it is, events as JSON, bytes in Base64; in order."""
    running = serve([http("/", lambda r: EventStream(Group("g")))])
    reader = Reader(running)
    group = Group("g")
    group.send("text\nof two lines")
    group.send_json({"a": 1})
    group.send({"type": "price.changed", "cents": 7})
    group.send(b"\x00\xff")
    assert reader.next() == "data: text\ndata: of two lines"
    assert reader.next() == 'data: {"a":1}'
    assert reader.next() == 'data: {"type":"price.changed","cents":7}'
    assert reader.next() == "data: AP8="


def test_a_message_is_encoded_once_for_all_streams(serve):
    """Also where a function makes the event: it is called once a message."""
    calls = []

    def convert(message):
        calls.append(message)
        if message == "skip":
            return None
        return ServerSentEvent(message["text"], event=message["type"], id=message["n"])

    running = serve([http("/", lambda r: EventStream(Group("g"), convert=convert))])
    readers = [Reader(running) for _ in range(3)]
    event = {"type": "said", "text": "hello", "n": 5}
    Group("g").send("skip")
    Group("g").send(event)
    said = [reader.next() for reader in readers]
    assert said == ["event: said\nid: 5\ndata: hello"] * 3
    assert calls == ["skip", event]


def test_nothing_falls_between_the_first_events_and_the_groups(serve):
    """They are asked for when the group has been joined."""

    def history():
        Group("g").send("meanwhile")
        yield "old"

    running = serve([http("/", lambda r: EventStream(Group("g"), first=history()))])
    reader = Reader(running)
    assert reader.next() == "data: old"
    assert reader.next() == "data: meanwhile"


def test_a_peer_that_leaves_leaves_the_group(serve):
    """Though nothing is sent; as does one that leaves while history is told."""
    closed = []

    def view(request, kind):
        first = waiting(closed) if kind == "history" else ["first"]
        return EventStream(Group("g"), first=first)

    running = serve([http("/<kind>", view)])
    for path in ("/none", "/history"):
        reader = Reader(running, path)
        assert reader.next() == "data: first"
        assert members(running) == 1
        reader.client.close()
        until(lambda: members(running) == 0)
    until(lambda: closed == ["StreamOver", "finally"])


def test_a_function_that_fails_cuts_its_stream(serve, caplog):
    """And no other; the traceback is in the log."""

    def convert(message):
        raise ValueError(message)

    running = serve(
        [
            http("/good", lambda r: EventStream(Group("g"))),
            http("/bad", lambda r: EventStream(Group("g"), convert=convert)),
        ]
    )
    good, bad = Reader(running, "/good"), Reader(running, "/bad")
    Group("g").send("x")
    assert good.next() == "data: x"
    assert bad.client.ended() in ("closed", "reset")
    assert "ValueError: x" in caplog.text
    until(lambda: members(running) == 1)


def test_a_peer_that_does_not_read_a_groups_stream_is_cut(serve, caplog):
    """It is counted and logged like a socket, and costs the others nothing."""
    running = serve(
        [http("/", lambda r: EventStream(Group("g"), max_buffer=200_000))],
        send_buffer=8192,
    )
    fast, slow = Reader(running), Reader(running, receive_buffer=4096)
    text = "x" * 10_000
    for _ in range(100):
        Group("g").send(text)
        assert fast.next() == "data: " + text
    until(lambda: members(running) == 1)
    assert running.counters["closed for being slow"] == 1
    assert running.counters["frames dropped for slow members"] > 0
    assert slow.client.ended() in ("closed", "reset")
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert any("is read too slowly" in r.getMessage() for r in warnings)
    Group("g").send("end")
    assert fast.next() == "data: end"


def test_a_burst_does_not_make_a_peer_slow_that_reads(serve):
    """More than the buffer holds, sent before the stream had a turn."""
    running = serve([http("/", lambda r: EventStream(Group("g"), max_buffer=1000))])
    reader = Reader(running)
    for n in range(1000):
        Group("g").send(str(n))
    assert [reader.next() for _ in range(1000)] == [f"data: {n}" for n in range(1000)]


def test_a_stream_without_a_limit_keeps_what_waits(serve):
    """For a peer that will read it some day."""
    running = serve(
        [http("/", lambda r: EventStream(Group("g"), max_buffer=None))],
        send_buffer=8192,
    )
    reader = Reader(running, receive_buffer=4096)
    text = "x" * 10_000
    for _ in range(300):
        Group("g").send(text)
        gevent.sleep(0)
    assert [reader.next() for _ in range(300)] == ["data: " + text] * 300


def test_a_stream_made_once_serves_many(serve):
    """One of a group has no state of its own."""
    stream = EventStream(Group("g"))
    running = serve([http("/", lambda r: stream)])
    readers = [Reader(running) for _ in range(3)]
    Group("g").send("x")
    assert [reader.next() for reader in readers] == ["data: x"] * 3


def test_a_user_is_no_source():
    """Its messages are for sockets; a view that knows its user names a group."""
    with pytest.raises(TypeError):
        EventStream(User(1))


# GSGI.


def test_a_stream_works_behind_middleware(serve):
    """Whatever stands between sees one send at a time, heartbeats included."""
    inside, most = [0], [0]

    def slowly(inner):
        def consumer(scope, receive, send):
            def slow_send(event):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                gevent.sleep(MS)
                send(event)
                inside[0] -= 1

            inner(scope, lambda: receive(), slow_send)

        return consumer

    def events():
        for n in range(20):
            gevent.sleep(2 * MS)
            yield str(n)

    routes = [http("/", lambda r: EventStream(events(), heartbeat=MS))]
    running = serve([include("", routes, middleware=[slowly])])
    text = Reader(running).rest()
    assert re.findall(r"data: (\d+)", text) == [str(n) for n in range(20)]
    assert most == [1]


def test_a_middleware_that_fails_is_no_secret(serve, caplog):
    """What the watcher hears is raised by the stream, and logged."""
    closed, is_broken = [], Event()

    def broken(inner):
        def consumer(scope, receive, send):
            began = []

            def fail():
                if began:
                    is_broken.wait()
                    raise ValueError("the middleware is broken")
                return receive()

            def note(event):
                began.append(event)
                send(event)

            inner(scope, fail, note)

        return consumer

    routes = [http("/", lambda r: EventStream(waiting(closed)))]
    reader = Reader(serve([include("", routes, middleware=[broken])]))
    assert reader.next() == "data: first"
    is_broken.set()
    with pytest.raises((EOFError, OSError)):
        reader.rest()
    assert closed == ["StreamOver", "finally"]
    assert "the middleware is broken" in caplog.text


# Real programs.

APPLICATION = """
from gevent.event import Event
from greenchannels import EventStream, Group, ServerSentEvent, http, last_event_id


def page(request):
    return "<!doctype html><title>streams</title>"


def count(request):
    came_from = int(last_event_id(request) or 0)

    def events():
        for n in range(came_from + 1, came_from + 4):
            yield ServerSentEvent({"n": n, "from": came_from}, id=n)

    return EventStream(events(), retry=0.05)


def news(request):
    return EventStream(Group("news"), first=["welcome"], heartbeat=0.05)


def publish(request):
    Group("news").send(request.get_data(as_text=True))
    return ""


routing = [
    http("/", page),
    http("/count", count),
    http("/news", news),
    http("/publish", publish, methods=["POST"]),
]
"""


@pytest.fixture
def program(tmp_path):
    """The address of ``greenchannels run`` with the application above."""
    (tmp_path / "streaming.py").write_text(APPLICATION)
    with running_program(tmp_path) as address:
        yield address


@contextmanager
def running_program(folder):
    """Run the command for the length of a ``with`` block."""
    log = folder / "log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "greenchannels", "run", "streaming:routing"]
            + ["--port", "0"],
            cwd=folder,
            env={"PYTHONPATH": f"{ROOT}:{folder}", "PATH": "/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )

    def listening():
        assert process.poll() is None, log.read_text()
        return re.search(r"http://(127\.0\.0\.1:\d+)", log.read_text())

    try:
        yield wait_until(listening, "the server's start")[1]
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
    assert process.returncode == 0, log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_shows_events_as_they_come(program):
    """``curl -N`` prints the first while the stream goes on."""
    with subprocess.Popen(
        ["curl", "-sSN", f"http://{program}/news"], stdout=subprocess.PIPE
    ) as curl:
        try:
            assert curl.stdout.readline() == b"data: welcome\n"
            said = "two\nlines"
            subprocess.run(
                ["curl", "-sS", "--data-binary", said, f"http://{program}/publish"],
                check=True,
                timeout=60,
            )
            lines = []
            while b"data: lines\n" not in lines:
                lines.append(curl.stdout.readline())
            assert b"data: two\n" in lines
            assert b": \n" in [*lines, curl.stdout.readline(), curl.stdout.readline()]
        finally:
            curl.terminate()


@pytest.mark.browser
@pytest.mark.skipif(find_chromium() is None, reason="needs a Chromium")
def test_a_browser_comes_back_with_the_last_id(program, tmp_path):
    """EventSource: events, their ids, and where it was at each return."""
    with Browser(tmp_path) as browser:
        page = browser.open(f"http://{program}/")
        page.evaluate(
            "window.seen = []; window.source = new EventSource('/count');"
            "source.onmessage = (e) =>"
            " seen.push([e.lastEventId, JSON.parse(e.data)]);"
        )
        seen = page.wait("seen.length >= 9 && (source.close(), seen)")
        page.evaluate(
            "window.news = []; window.feed = new EventSource('/news');"
            "feed.onmessage = (e) => news.push(e.data);"
        )
        page.wait("news.length == 1")
        page.evaluate("fetch('/publish', {method: 'POST', body: 'a\\r\\nb\\n'})")
        assert page.wait("news.length == 2 && news") == ["welcome", "a\nb\n"]
        page.evaluate("feed.close()")
    assert seen[:9] == [
        [str(n), {"n": n, "from": (n - 1) // 3 * 3}] for n in range(1, 10)
    ]
