"""The socket that a consumer holds: every method, over a real connection."""

import contextlib
import contextvars
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import gevent
import pytest
from gevent.event import Event
from gevent.queue import Queue

from greenchannels import (
    Channel,
    ConfigurationError,
    ConnectionBroken,
    ConnectionClosed,
    ConnectionEnded,
    Group,
    Limits,
    LocalProtocolError,
    Timeouts,
    TooManyGroups,
    User,
    WebSocket,
    websocket,
)
from tests.servers.harness import (
    CLOSE,
    MS,
    PING,
    PONG,
    TEXT,
    Closed,
    frames,
    no_leaks,
    serve,
    until,
)

__all__ = ["no_leaks", "serve"]


def passing_on(inner):
    """Middleware that passes on what it was given."""

    def consumer(scope, receive, send):
        inner({**scope, "seen": True}, receive, send)

    return consumer


def between(inner):
    """Middleware that stands between: the function gets a socket over events."""

    def consumer(scope, receive, send):
        inner(scope, lambda: receive(), lambda event: send(event))

    return consumer


@pytest.fixture(params=["direct", "passing on", "between"])
def one(request, serve):
    """A server for one consumer at "/"; all three ways in which it gets its socket."""
    middleware = {"direct": [], "passing on": [passing_on], "between": [between]}

    def start(consumer, **options):
        route = websocket("/", consumer, middleware=middleware[request.param])
        return serve([route], **options)

    start.way = request.param
    return start


def echo(socket):
    """Send back what comes."""
    for message in socket:
        socket.send(message)


# Receiving.


def test_text_and_bytes_come_as_str_and_bytes(one):
    """Empty ones too, and text in full Unicode."""
    peer = one(echo).open()
    messages = ["text", b"bytes", "", b"", "naïve 🙂", b"\xff\x00", "x" * 70_000]
    peer.say(*messages)
    assert [peer.hear() for _ in messages] == messages


def test_a_receive_that_takes_too_long_raises_and_the_socket_goes_on(one):
    """The builtin TimeoutError, as often as asked."""
    seen = Queue()

    def consumer(socket):
        socket.accept()
        for timeout in (0, 20 * MS, 20 * MS):
            try:
                socket.receive(timeout=timeout)
            except TimeoutError as error:
                seen.put(error)
        socket.send("ready")
        seen.put(socket.receive(timeout=5))
        seen.put(socket.receive())

    peer = one(consumer).open()
    assert peer.hear() == "ready"
    assert [type(seen.get(timeout=1)) for _ in range(3)] == [TimeoutError] * 3
    peer.say("a", "b")
    assert [seen.get(timeout=1), seen.get(timeout=1)] == ["a", "b"]


def test_a_receive_takes_about_as_long_as_its_timeout(one):
    """Never less, and not ten times as much."""
    seen = Queue()

    def consumer(socket):
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            socket.receive(timeout=50 * MS)
        seen.put(time.monotonic() - start)

    one(consumer).open()
    assert 49 * MS <= seen.get(timeout=2) < 500 * MS


def test_a_message_that_is_there_needs_no_time(one):
    """Also with a timeout of nought."""
    seen = Queue()

    def consumer(socket):
        socket.receive()
        gevent.sleep(20 * MS)
        seen.put(socket.receive(timeout=0))
        seen.put(socket.receive(timeout=0))

    one(consumer).open().say("go", "a", "b")
    assert [seen.get(timeout=1), seen.get(timeout=1)] == ["a", "b"]


def test_a_second_receiver_is_a_mistake(one):
    """RuntimeError for the second; the first goes on."""
    seen = Queue()

    def consumer(socket):
        socket.accept()
        child = socket.spawn(lambda: seen.put(socket.receive()))
        gevent.sleep(10 * MS)
        for second in (
            socket.receive,
            lambda: next(iter(socket)),
            lambda: next(socket.events()),
            lambda: socket.receive(timeout=1),
        ):
            try:
                second()
            except RuntimeError as error:
                seen.put(error)
        socket.send("now")
        child.join()
        seen.put(socket.receive())

    peer = one(consumer).open()
    assert peer.hear() == "now"
    assert [type(seen.get(timeout=1)) for _ in range(4)] == [RuntimeError] * 4
    peer.say("to the child")
    assert seen.get(timeout=1) == "to the child"
    peer.say("to the consumer")
    assert seen.get(timeout=1) == "to the consumer"


def test_a_kill_in_receive_leaves_nobody_waiting(one):
    """The next receiver gets the next message."""
    seen = Queue()

    def consumer(socket):
        child = socket.spawn(socket.receive)
        gevent.sleep(5 * MS)
        child.kill()
        socket.send("killed")
        seen.put(socket.receive())

    peer = one(consumer).open()
    assert peer.hear() == "killed"
    peer.say("for the next")
    assert seen.get(timeout=1) == "for the next"


def test_a_gevent_timeout_in_receive_leaves_nobody_waiting(one):
    """The same for gevent's own timeouts, with a message on its way."""
    seen = Queue()

    def consumer(socket):
        for _ in range(5):
            with gevent.Timeout(5 * MS, False):
                socket.receive()
                seen.put("too early")
        socket.send("ready")
        seen.put(socket.receive())

    peer = one(consumer).open()
    assert peer.hear() == "ready"
    peer.say("on time")
    assert seen.get(timeout=1) == "on time"


def test_timeouts_lose_no_message(one):
    """However they fall, everything arrives once and in order."""
    seen = []

    def consumer(socket):
        while len(seen) < 300:
            try:
                with gevent.Timeout(1 * MS, False):
                    seen.append(socket.receive())
                seen.append(socket.receive(timeout=1 * MS))
            except TimeoutError:
                pass

    peer = one(consumer).open()
    for n in range(300):
        peer.say(f"{n}")
        if n % 3 == 0:
            gevent.sleep(1 * MS)
    assert peer.closing().code == 1000
    assert seen == [f"{n}" for n in range(300)]


def test_iteration_ends_when_the_peer_closes(one):
    """Without an exception; what came before the close was delivered."""
    seen = Queue()

    def consumer(socket):
        seen.put([*socket])
        seen.put((socket.close_code, socket.close_reason))

    peer = one(consumer).open()
    peer.say("a", "b")
    peer.send_close(3001, "bye")
    assert seen.get(timeout=1) == ["a", "b"]
    assert seen.get(timeout=1) == (3001, "bye")


def test_iteration_ends_when_the_connection_breaks(one):
    """A peer that is simply gone, after what it sent."""
    seen = Queue()

    def consumer(socket):
        seen.put([*socket])
        seen.put(socket.close_code)

    running = one(consumer)
    for leave in ("half_close", "close"):
        peer = running.open()
        peer.say("a")
        getattr(peer, leave)()
        assert seen.get(timeout=1) == ["a"]
        assert seen.get(timeout=1) == 1006


def test_iteration_ends_at_a_reset(one):
    """What a reset leaves behind need not arrive."""
    seen = Queue()

    def consumer(socket):
        seen.put([*socket])
        seen.put(socket.close_code)

    one(consumer).open().reset()
    assert seen.get(timeout=1) == []
    assert seen.get(timeout=1) == 1006


def test_iteration_ends_when_this_end_closes(one):
    """From within the loop, or from a child meanwhile."""
    seen = Queue()

    def consumer(socket):
        for message in socket:
            seen.put(message)
            if message == "close":
                socket.close(4000, "enough")
            else:
                socket.spawn(socket.close, 4001)
        seen.put(socket.close_code)

    running = one(consumer)
    peer = running.open()
    peer.say("close", "not read")
    assert peer.closing() == Closed(4000, "enough")
    assert [seen.get(timeout=1), seen.get(timeout=1)] == ["close", 4000]
    peer = running.open()
    peer.say("spawn")
    assert peer.closing() == Closed(4001)
    assert [seen.get(timeout=1), seen.get(timeout=1)] == ["spawn", 4001]


@pytest.mark.parametrize(
    "leave, kind, code, reason",
    [
        (lambda peer: peer.send_close(3000, "why"), ConnectionClosed, 3000, "why"),
        (lambda peer: peer.send_close(1000), ConnectionClosed, 1000, ""),
        (lambda peer: peer.send_close(None), ConnectionClosed, 1005, ""),
        (lambda peer: peer.close(), ConnectionBroken, 1006, None),
        (lambda peer: peer.half_close(), ConnectionBroken, 1006, None),
        (lambda peer: peer.reset(), ConnectionBroken, 1006, None),
    ],
    ids=["code-and-reason", "code", "no-code", "gone", "half", "reset"],
)
def test_the_end_is_told_by_an_exception_with_code_and_reason(
    one, leave, kind, code, reason
):
    """Of receive and of send, from then on; and by the socket's attributes."""
    seen = Queue()

    def consumer(socket):
        assert socket.close_code is None
        for late in (
            socket.receive,
            socket.receive,
            lambda: socket.send("x"),
            lambda: socket.join("g"),
            lambda: next(socket.json()),
            lambda: socket.spawn(print),
        ):
            try:
                late()
            except StopIteration:
                seen.put(StopIteration)
            except ConnectionEnded as error:
                assert type(error) is kind
                seen.put((error.code, error.reason))
        seen.put((socket.close_code, socket.close_reason))

    leave(one(consumer).open())
    found = [seen.get(timeout=1) for _ in range(7)]
    assert found.pop(4) is StopIteration
    assert {each[0] for each in found} == {code}
    assert reason is None or {each[1] for each in found} == {reason}


def test_a_socket_knows_its_close_code_without_receiving(one):
    """A consumer that computes can look whether anybody is still there."""
    seen = Queue()

    def consumer(socket):
        socket.accept()
        for _ in range(100):
            gevent.sleep(5 * MS)
            if socket.close_code is not None:
                break
        seen.put((socket.close_code, socket.close_reason))

    one(consumer).open().send_close(4000, "left")
    assert seen.get(timeout=2) == (4000, "left")


def test_what_came_before_the_close_is_delivered_after_it(one):
    """The socket has ended, but what the peer said is still there."""
    go, seen = Event(), Queue()

    def consumer(socket):
        socket.accept()
        go.wait()
        seen.put([socket.receive(), socket.receive(timeout=1), socket.receive()])
        with pytest.raises(ConnectionClosed):
            socket.receive()
        seen.put("ended")

    running = one(consumer)
    peer = running.open()
    peer.say("a", "b", "c")
    peer.send_close(1001)
    assert peer.closing() == Closed(1001)
    until(lambda: not running.server.sockets)
    go.set()
    assert seen.get(timeout=1) == ["a", "b", "c"]
    assert seen.get(timeout=1) == "ended"


def test_the_end_of_its_own_socket_is_no_error_of_a_consumer(one, caplog):
    """No traceback, nothing above info."""
    running = one(lambda socket: [socket.receive() for _ in range(99)])
    running.open().send_close()
    running.open().reset()
    until(lambda: not running.server.consumers)
    assert [r for r in caplog.records if r.levelname != "INFO"] == []


def test_the_end_of_another_socket_is_an_error_of_a_consumer(one, caplog):
    """Its traceback is logged, and the socket closes with 1011."""
    sockets = []

    def consumer(socket):
        socket.accept()
        sockets.append(socket)
        if len(sockets) == 1:
            socket.wait()
        else:
            sockets[0].send("to the dead")

    running = one(consumer)
    first = running.open()
    first.send_close()
    until(lambda: not running.server.consumers)
    second = running.open()
    assert second.closing().code == 1011
    (record,) = [r for r in caplog.records if r.exc_info]
    assert isinstance(record.exc_info[1], ConnectionClosed)


def test_the_end_of_another_socket_does_not_end_an_iteration_in_silence(one, caplog):
    """It is an exception like any other inside the loop."""
    sockets = []

    def consumer(socket):
        sockets.append(socket)
        for message in socket:
            if message == "use the first":
                sockets[0].send("x")

    running = one(consumer)
    first = running.open()
    first.say("x")
    until(lambda: sockets)
    first.send_close()
    until(lambda: not running.server.consumers)
    second = running.open()
    second.say("use the first")
    assert second.closing().code == 1011


# Events, JSON, wait.


def test_events_come_in_order_of_arrival_among_messages(one):
    """str, bytes and the dicts of groups and channels."""
    seen, name = Queue(), Queue()

    def consumer(socket):
        socket.join("g")
        name.put(socket.channel_name)
        for event in socket.events():
            seen.put(event)
        seen.put("over")

    peer = one(consumer).open()
    channel = Channel(name.get(timeout=1))
    expected = []
    for n in range(4):
        peer.say(f"m{n}")
        assert seen.get(timeout=1) == f"m{n}"
        Group("g").send({"type": "from.group", "n": n, "list": [1, {"a": b"b"}]})
        channel.send({"type": "from.channel", "n": n})
        peer_message = f"bytes{n}".encode()
        assert seen.get(timeout=1) == {
            "type": "from.group",
            "n": n,
            "list": [1, {"a": b"b"}],
        }
        assert seen.get(timeout=1) == {"type": "from.channel", "n": n}
        peer.say(peer_message)
        assert seen.get(timeout=1) == peer_message
        expected.append(n)
    peer.send_close()
    assert seen.get(timeout=1) == "over"


def test_events_that_arrive_while_the_consumer_works_keep_their_order(one):
    """What waits in the inbox is in order of arrival too."""
    seen, working, go = [], Event(), Event()

    def consumer(socket):
        socket.join("g")
        for event in socket.events():
            working.set()
            go.wait()
            seen.append(event if isinstance(event, str) else event["n"])
            if len(seen) == 7:
                return

    running = one(consumer)
    peer = running.open()
    peer.say("0")
    working.wait(1)
    for n in (1, 3, 5):
        Group("g").send({"type": "e", "n": n})
        before = len(running.server.sockets)
        peer.say(f"{n + 1}")
        (socket,) = running.server.sockets
        until(lambda n=n, s=socket: len(s._inbox) == n + 1)
        assert before == 1
    go.set()
    peer.closing()
    assert seen == ["0", 1, "2", 3, "4", 5, "6"]


def test_events_are_dropped_counted_and_warned_of_once_without_events(one, caplog):
    """A function that only receives never sees a dict."""
    seen = Queue()

    def consumer(socket):
        socket.join("g")
        for message in socket:
            seen.put(message)

    running = one(consumer)
    peers = [running.open(), running.open()]
    for peer in peers:
        peer.say("in")
        assert seen.get(timeout=1) == "in"
    for _ in range(150):
        Group("g").send({"type": "news"})
        gevent.sleep(0)
    for peer in peers:
        peer.say("still here")
        assert seen.get(timeout=1) == "still here"
    assert running.counters["events without a listener"] == 300
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "'news'" in warnings[0] and "events()" in warnings[0]


def test_a_consumer_that_stops_listening_drops_what_waits(one):
    """First events(), then receive(): only messages come."""
    seen, working, go = Queue(), Event(), Event()

    def consumer(socket):
        socket.join("g")
        seen.put(next(socket.events()))
        working.set()
        go.wait()
        seen.put(socket.receive())
        seen.put(socket.receive())

    running = one(consumer)
    peer = running.open()
    peer.say("a")
    working.wait(1)
    Group("g").send({"type": "x"})
    peer.say("b")
    gevent.sleep(10 * MS)
    Group("g").send({"type": "y"})
    peer.say("c")
    gevent.sleep(10 * MS)
    go.set()
    assert [seen.get(timeout=1) for _ in range(3)] == ["a", "b", "c"]
    assert running.counters["events without a listener"] == 2


def test_a_flood_of_events_closes_a_consumer_that_does_not_take_them(one):
    """The slow policy, and what the peer sent is not what counts."""
    joined = Event()

    def consumer(socket):
        socket.join("g")
        for _ in socket.events():
            joined.set()
            gevent.sleep(10)

    running = one(consumer, limits=Limits(stop_timeout=20 * MS, max_inbox=50))
    peer = running.open()
    peer.say(*["chatty"] * 300)
    joined.wait(1)
    for _ in range(50):
        Group("g").send({"type": "e"})
    gevent.sleep(20 * MS)
    assert len(running.server.sockets) == 1
    Group("g").send({"type": "one too many"})
    assert peer.closing().code == 1013
    assert running.counters["closed for being slow"] == 1


def test_json_is_decoded_and_sent(one):
    """Text or bytes in, text out."""

    def consumer(socket):
        socket.send_json({"first": socket.receive_json(timeout=1)})
        for message in socket.json():
            socket.send_json(message)

    peer = one(consumer).open()
    peer.say('{"a": [1, null]}', b"[true]", '"x"', "12.5")
    assert peer.hear() == '{"first":{"a":[1,null]}}'
    assert [peer.hear() for _ in range(3)] == ["[true]", '"x"', "12.5"]


@pytest.mark.parametrize("bad", ["{", "", "NaN", b"\xff", "{} {}", "[" * 100_000])
@pytest.mark.parametrize("way", ["json", "receive_json"])
def test_what_is_no_json_closes_with_1007(one, caplog, bad, way):
    """The peer's mistake: the loop ends, nothing is logged as an error."""
    seen = Queue()

    def consumer(socket):
        if way == "json":
            seen.put([*socket.json()])
        else:
            seen.put([socket.receive_json()])
            try:
                socket.receive_json()
            except ConnectionClosed as error:
                seen.put(error.code)
                raise
        seen.put(socket.close_code)

    peer = one(consumer).open()
    peer.say("1", bad)
    assert peer.closing().code == 1007
    assert seen.get(timeout=1) == [1]
    assert seen.get(timeout=1) == 1007
    assert [r for r in caplog.records if r.exc_info] == []


def test_what_json_has_no_form_for_is_a_type_error(one):
    """Raised where it is sent."""
    seen = Queue()

    def consumer(socket):
        for bad in (object(), {1, object()}):
            try:
                socket.send_json(bad)
            except TypeError as error:
                seen.put(error)
        socket.send_json({"when": datetime(2024, 1, 2, tzinfo=UTC)})

    peer = one(consumer).open()
    assert peer.hear() == '{"when":"2024-01-02T00:00:00Z"}'
    assert seen.get(timeout=1) and seen.get(timeout=1)


def test_a_receive_json_that_takes_too_long_raises_timeout_error(one):
    """As receive does."""
    seen = Queue()

    def consumer(socket):
        try:
            socket.receive_json(timeout=10 * MS)
        except TimeoutError:
            seen.put("timeout")
        seen.put(socket.receive_json())

    peer = one(consumer).open()
    assert seen.get(timeout=1) == "timeout"
    peer.say("1")
    assert seen.get(timeout=1) == 1


def test_wait_returns_when_the_peer_has_gone(one):
    """What it sends is discarded, and does not stop the reading."""
    seen = Queue()

    def consumer(socket):
        socket.wait()
        seen.put(socket.close_code)

    peer = one(consumer, limits=Limits(max_inbox=5)).open()
    for _ in range(100):
        peer.say(*["ignored"] * 20)
    peer.frame(PING, b"?")
    assert peer.next().opcode == PONG
    peer.send_close(1001)
    assert seen.get(timeout=1) == 1001


# Sending and closing.


def test_send_takes_str_and_what_is_like_bytes(one):
    """Anything else is a TypeError that says what to use."""
    seen = Queue()

    def consumer(socket):
        socket.send(bytearray(b"ab"))
        socket.send(memoryview(b"cd"))
        for bad in (1, None, {"type": "x"}, ["x"]):
            try:
                socket.send(bad)
            except TypeError as error:
                seen.put(str(error))
        socket.send("still here")

    peer = one(consumer).open()
    assert [peer.hear() for _ in range(3)] == [b"ab", b"cd", "still here"]
    assert all("send_json" in seen.get(timeout=1) for _ in range(4))


def test_what_a_consumer_sends_in_one_turn_comes_in_order(one):
    """Large and small, its own and its groups'."""

    def consumer(socket):
        socket.join("g")
        for n in range(50):
            socket.send(f"{n}")
            Group("g").send(f"g{n}")
        socket.send(b"x" * 300_000)
        socket.send("end")

    peer = one(consumer).open()
    expected = [text for n in range(50) for text in (f"{n}", f"g{n}")]
    assert [peer.hear() for _ in range(102)] == [*expected, b"x" * 300_000, "end"]


def test_a_long_computation_can_flush(one):
    """What was sent is with the kernel when flush returns, without another wait."""

    def consumer(socket):
        socket.send("progress")
        socket.flush()
        end = time.monotonic() + 30 * MS
        while time.monotonic() < end:
            pass
        socket.send("done")

    peer = one(consumer).open()
    assert [peer.hear(), peer.hear()] == ["progress", "done"]


def test_close_says_code_and_reason_once(one):
    """Closing again changes nothing."""

    def consumer(socket):
        socket.accept()
        socket.close(4321, "naïve")
        socket.close(1000)
        assert (socket.close_code, socket.close_reason) == (4321, "naïve")

    peer = one(consumer).open()
    assert peer.closing() == Closed(4321, "naïve")
    assert peer.ended() == "closed"


def test_what_was_sent_before_close_arrives_before_it(one):
    """Close waits its turn."""

    def consumer(socket):
        socket.send("last words")
        socket.close()

    peer = one(consumer).open()
    assert peer.hear() == "last words"
    assert peer.closing() == Closed(1000)


@pytest.mark.parametrize(
    "code, reason",
    [(1005, ""), (1006, ""), (1015, ""), (999, ""), (2000, ""), (5000, "")]
    + [(1000, "x" * 124), (1000, "ä" * 62)],
)
def test_what_may_not_be_in_a_close_frame_is_an_error(one, code, reason):
    """LocalProtocolError; the socket stays open."""
    seen = Queue()

    def consumer(socket):
        socket.accept()
        try:
            socket.close(code, reason)
        except LocalProtocolError as error:
            seen.put(error)
        socket.send("open")

    peer = one(consumer).open()
    assert peer.hear() == "open"
    assert seen.get(timeout=1)


def test_after_close_nothing_can_be_sent_or_received(one):
    """ConnectionClosed with the code that this end gave."""
    seen = Queue()

    def consumer(socket):
        socket.accept()
        socket.close(4000, "x")
        for late in (
            socket.receive,
            lambda: socket.send("y"),
            lambda: socket.join("g"),
        ):
            try:
                late()
            except ConnectionClosed as error:
                seen.put((error.code, error.reason))

    one(consumer).open()
    assert [seen.get(timeout=1) for _ in range(3)] == [(4000, "x")] * 3


# Children.


def test_a_child_runs_beside_its_consumer(one):
    """With its arguments, and returns what it returns."""
    seen = Queue()

    def add(a, *, b):
        return a + b

    def consumer(socket):
        socket.accept()
        child = socket.spawn(add, 1, b=2)
        assert child.get(timeout=1) == 3
        seen.put(child.name)
        ticks = socket.spawn(
            lambda: [socket.send(f"{n}") or gevent.sleep(0) for n in "ab"]
        )
        ticks.join()
        for message in socket:
            socket.send(message)

    peer = one(consumer).open()
    assert [peer.hear(), peer.hear()] == ["a", "b"]
    peer.say("c")
    assert peer.hear() == "c"
    assert "add" in seen.get(timeout=1)


def test_children_are_killed_and_joined_before_the_close_goes_out(one):
    """What a child sends in its finally still comes before."""

    def child(socket):
        try:
            gevent.sleep(10)
        finally:
            gevent.sleep(10 * MS)
            socket.send("cleaned up")

    def consumer(socket):
        socket.accept()
        socket.spawn(child, socket)
        gevent.sleep(0)

    peer = one(consumer).open()
    assert peer.hear() == "cleaned up"
    assert peer.closing() == Closed(1000)


def test_children_are_killed_when_the_socket_ends(one):
    """Although their consumer goes on."""
    seen, go = Queue(), Event()

    def child():
        try:
            gevent.sleep(10)
        finally:
            seen.put("killed")

    def consumer(socket):
        socket.accept()
        socket.spawn(child)
        gevent.sleep(0)
        socket.send("ready")
        go.wait(5)
        seen.put("consumer over")

    peer = one(consumer).open()
    peer.hear()
    peer.send_close()
    assert seen.get(timeout=1) == "killed"
    go.set()
    assert seen.get(timeout=1) == "consumer over"


def test_an_exception_of_a_child_closes_with_1011(one, caplog):
    """And the consumer's iteration ends; the log has the traceback once."""
    seen = Queue()

    def consumer(socket):
        socket.accept()
        socket.spawn(lambda: 1 / 0)
        seen.put([*socket])
        seen.put(socket.close_code)

    peer = one(consumer).open()
    assert peer.closing().code == 1011
    assert seen.get(timeout=1) == []
    assert seen.get(timeout=1) == 1011
    (record,) = [r for r in caplog.records if r.exc_info]
    assert record.exc_info[0] is ZeroDivisionError


def test_an_exception_of_a_child_before_accepting_refuses(one):
    """There is nothing yet to close with 1011."""

    def consumer(socket):
        socket.spawn(lambda: 1 / 0)
        gevent.sleep(50 * MS)

    peer = one(consumer).peer()
    peer.handshake()
    assert peer.response().status in (403, 500)


def test_a_kill_and_the_end_of_its_socket_are_no_errors_of_a_child(one, caplog):
    """Neither in the log nor on the wire."""
    seen = Queue()

    def receiver(socket):
        try:
            while True:
                socket.receive()
        finally:
            seen.put("receiver over")

    def consumer(socket):
        socket.accept()
        socket.spawn(gevent.sleep, 10).kill()
        never_started = socket.spawn(gevent.sleep, 10)
        never_started.kill(block=False)
        child = socket.spawn(receiver, socket)
        socket.send("fine")
        child.join()
        seen.put("consumer over")

    peer = one(consumer).open()
    assert peer.hear() == "fine"
    peer.send_close(1001)
    assert peer.closing() == Closed(1001)
    assert seen.get(timeout=1) == "receiver over"
    assert seen.get(timeout=1) == "consumer over"
    assert [r for r in caplog.records if r.levelname != "INFO"] == []


def test_the_end_of_another_socket_is_an_error_of_a_child(one, caplog):
    """As it is of a consumer."""
    sockets = []

    def consumer(socket):
        socket.accept()
        sockets.append(socket)
        if len(sockets) == 2:
            socket.spawn(sockets[0].receive)
        socket.wait()

    running = one(consumer)
    first = running.open()
    first.send_close()
    until(lambda: not running.server.consumers)
    assert running.open().closing().code == 1011


def test_a_child_runs_in_a_copy_of_its_parents_context(one):
    """It sees what was set before, and what it sets nobody else sees."""
    name = contextvars.ContextVar("name", default="unset")
    seen = Queue()

    def child():
        seen.put(name.get())
        name.set("child's")

    def consumer(socket):
        socket.accept()
        seen.put(name.get())
        name.set("parent's")
        socket.spawn(child).join()
        seen.put(name.get())
        Group("g").send("layer found")
        socket.spawn(Group("g").send, "also in a child").join()

    running = one(consumer)
    for _ in range(2):
        running.open().closing()
        assert [seen.get(timeout=1) for _ in range(3)] == [
            "unset",
            "parent's",
            "parent's",
        ]


def test_a_child_that_does_not_end_is_not_waited_for_for_ever(one, caplog):
    """stop_timeout, and a line in the log."""
    stop = Event()

    def stubborn():
        while not stop.is_set():
            with contextlib.suppress(gevent.GreenletExit):
                stop.wait()

    def consumer(socket):
        socket.accept()
        socket.spawn(stubborn)
        gevent.sleep(0)

    peer = one(consumer, limits=Limits(stop_timeout=30 * MS)).open()
    assert peer.closing() == Closed(1000)
    assert "did not end" in caplog.text
    stop.set()


def test_children_that_have_ended_are_forgotten(one):
    """A socket that lives for days may have had millions."""
    seen = Queue()

    def consumer(socket):
        socket.accept()
        for _ in range(50):
            socket.spawn(int)
            socket.spawn(gevent.sleep, 10).kill()
            socket.spawn(gevent.sleep, 10).kill(block=False)
        seen.put("now")
        socket.wait()

    running = one(consumer)
    running.open()
    seen.get(timeout=2)
    (socket,) = running.server.sockets
    until(lambda: not socket._children)


def test_a_child_may_take_its_time_to_clean_up(one):
    """It is asked to end once, whoever ends first, and waited for."""
    seen = Queue()

    def child():
        try:
            gevent.sleep(60)
        finally:
            gevent.sleep(20 * MS)
            seen.put("cleaned up")

    def consumer(socket):
        socket.spawn(child)
        socket.wait()

    running = one(consumer)
    peer = running.open()
    peer.send_close()
    assert seen.get(timeout=2) == "cleaned up"


def test_the_consumer_may_be_killed_from_outside(one):
    """Its socket is closed, its memberships end, and no error is logged."""
    seen = Queue()

    def consumer(socket):
        socket.join("g")
        socket.spawn(gevent.sleep, 10)
        seen.put(gevent.getcurrent())
        socket.wait()

    running = one(consumer)
    peer = running.open()
    seen.get(timeout=1).kill()
    assert peer.closing().code in (1000, 1011, 1001)
    until(lambda: not running.server.connections)
    assert running.server.layer.stats()["groups"] == 0


def test_a_consumer_killed_again_while_its_children_end_still_closes_its_socket(one):
    """Whoever kills twice must not leave a connection that nobody serves."""
    seen = Queue()

    def slow_to_end():
        try:
            gevent.sleep(10)
        finally:
            seen.put("ending")
            gevent.sleep(50 * MS)

    def consumer(socket):
        socket.accept()
        socket.spawn(slow_to_end)
        seen.put(gevent.getcurrent())
        socket.wait()

    peer = one(consumer).open()
    greenlet = seen.get(timeout=1)
    greenlet.kill(block=False)
    assert seen.get(timeout=1) == "ending"
    greenlet.kill(block=False)
    assert peer.closing().code == 1011


def test_a_consumer_that_blocks_for_ever_is_killed_after_its_socket_has_ended(
    one, caplog
):
    """The connection does not wait for it; the log says so."""
    seen = Queue()

    def consumer(socket):
        socket.accept()
        try:
            gevent.sleep(60)
        except gevent.GreenletExit:
            seen.put("killed")
            raise

    running = one(consumer, limits=Limits(stop_timeout=60 * MS))
    peer = running.open()
    peer.send_close()
    assert peer.closing() == Closed(1000)
    assert peer.ended() == "closed"
    assert seen.empty()
    assert seen.get(timeout=2) == "killed"
    assert "did not end" in caplog.text
    until(lambda: not running.server.consumers)


# Expiry.


@pytest.mark.parametrize("kind", ["number", "aware", "naive"])
def test_a_socket_that_expires_is_closed_with_4401(one, kind):
    """At a time, however it is written."""
    seen = Queue()

    def consumer(socket):
        socket.accept()
        when = time.time() + 60 * MS
        if kind == "aware":
            when = datetime.now(UTC) + timedelta(milliseconds=60)
        elif kind == "naive":
            when = datetime.now() + timedelta(milliseconds=60)
        socket.expires = when
        assert socket.expires == pytest.approx(time.time(), abs=1)
        socket.wait()
        seen.put(socket.close_code)

    start = time.monotonic()
    peer = one(consumer).open()
    assert peer.closing().code == 4401
    assert time.monotonic() - start > 55 * MS
    assert seen.get(timeout=1) == 4401


def test_an_expiry_can_be_refreshed_and_taken_back(one):
    """Assigning again replaces it; None is never."""

    def consumer(socket):
        socket.accept()
        socket.expires = time.time() + 30 * MS
        socket.expires = time.time() + 10_000
        gevent.sleep(100 * MS)
        socket.expires = time.time() + 30 * MS
        socket.expires = None
        assert socket.expires is None
        gevent.sleep(100 * MS)
        socket.send("alive")
        socket.expires = time.time() - 10
        socket.wait()

    peer = one(consumer).open()
    assert peer.hear() == "alive"
    assert peer.closing().code == 4401


def test_a_socket_that_expires_before_it_is_accepted_is_refused(one):
    """There is nothing yet to close with 4401."""

    def consumer(socket):
        socket.expires = time.time() + 20 * MS
        gevent.sleep(200 * MS)

    assert one(consumer).refused().status in (401, 403)


# Users.


def test_a_user_is_reached_on_all_sockets(one):
    """By text, bytes, JSON; ids compare by str()."""

    class Account:
        pk = 7

    class Both:
        id = 7
        pk = 8

    def consumer(socket):
        socket.user = {"a": 7, "b": "7", "c": Account(), "d": Both(), "e": 8}[
            socket.receive()
        ]
        socket.send("in")
        socket.wait()

    running = one(consumer)
    peers = [running.open() for _ in "abcde"]
    for peer, who in zip(peers, "abcde", strict=True):
        peer.say(who)
        assert peer.hear() == "in"
    User(7).send("hello")
    User("7").send(b"bytes")
    User(7).send_json([1])
    Group("7").send("not this")
    for peer in peers[:4]:
        assert [peer.hear() for _ in range(3)] == ["hello", b"bytes", "[1]"]
    assert peers[4].silent()


def test_a_user_can_be_closed_everywhere(one):
    """With code and reason; others stay."""

    def consumer(socket):
        socket.user = socket.receive()
        socket.send("in")
        socket.wait()

    running = one(consumer)
    peers = [running.open() for _ in "aab"]
    for peer, who in zip(peers, "aab", strict=True):
        peer.say(who)
        assert peer.hear() == "in"
    User("a").close(4002, "logged out")
    assert [peer.closing() for peer in peers[:2]] == [Closed(4002, "logged out")] * 2
    assert peers[2].silent()


def test_a_user_can_be_assigned_again_and_taken_away(one):
    """A new one leaves the old; None belongs to nobody."""

    def consumer(socket):
        for who in socket.json():
            socket.user = who
            assert socket.user == who
            socket.send("ok")

    peer = one(consumer).open()
    for who, reached in [("1", {1}), ("2", {2}), ("2", {2}), ("null", set())]:
        peer.say(who)
        assert peer.hear() == "ok"
        for user in (1, 2):
            User(user).send(f"to {user}")
            if user in reached:
                assert peer.hear() == f"to {user}"
    assert peer.silent()


def test_a_user_who_is_nobody_joins_nothing(one):
    """Such as an anonymous user, whose id is None."""

    class Anonymous:
        id = None
        pk = None

    def consumer(socket):
        socket.user = Anonymous()
        socket.send("in")
        socket.wait()

    running = one(consumer)
    peer = running.open()
    assert peer.hear() == "in"
    User("None").send("x")
    User(None).send("x")
    assert peer.silent()


def test_the_user_of_the_scope_counts_from_accept(serve):
    """Middleware finds out who it is, and User(id) reaches the socket."""

    def login(inner):
        return lambda scope, receive, send: inner({**scope, "user": 5}, receive, send)

    seen = Queue()

    def consumer(socket):
        seen.put(socket.user)
        socket.accept()
        socket.wait()

    for middleware in ([login], [login, between]):
        running = serve([websocket("/", consumer, middleware=middleware)])
        peer = running.open()
        assert seen.get(timeout=1) == 5
        User(5).send("hello")
        assert peer.hear() == "hello"
        running.stop()


def test_a_user_assigned_after_the_end_leaves_no_membership(one):
    """Membership follows the connection and ends with it."""
    seen = Queue()

    def consumer(socket):
        socket.accept()
        socket.wait()
        with contextlib.suppress(ConnectionEnded):
            socket.user = 99
        seen.put("assigned")

    running = one(consumer)
    running.open().send_close()
    seen.get(timeout=1)
    until(lambda: not running.server.consumers)
    assert running.server.layer.stats()["groups"] == 0


@pytest.mark.parametrize("ways", [[], [between]])
def test_a_user_found_after_the_peer_has_left_leaves_no_membership(serve, ways):
    """A middleware may take its time."""

    def slow_login(inner):
        def consumer(scope, receive, send):
            gevent.sleep(50 * MS)
            inner({**scope, "user": 5}, receive, send)

        return consumer

    running = serve([websocket("/", echo, middleware=[slow_login, *ways])])
    peer = running.peer()
    peer.handshake()
    gevent.sleep(10 * MS)
    peer.close()
    until(lambda: not running.server.consumers)
    assert running.server.layer.stats()["groups"] == 0


# Groups and channels, as the socket sees them.


def test_a_socket_is_reached_by_its_channel_name(one):
    """From outside of its consumer; the name stays the same."""
    names = Queue()

    def consumer(socket):
        names.put(socket.channel_name)
        names.put(socket.channel_name)
        for event in socket.events():
            socket.send_json(event)

    peer = one(consumer).open()
    name = names.get(timeout=1)
    assert names.get(timeout=1) == name
    channel = Channel(name)
    channel.send("text")
    channel.send(b"bytes")
    assert [peer.hear(), peer.hear()] == ["text", b"bytes"]
    channel.send({"type": "event", "n": 1})
    assert peer.hear() == '{"type":"event","n":1}'


def test_a_channel_name_whose_socket_has_gone_is_counted(one):
    """Not an error: sockets go at any time."""
    names = Queue()

    def consumer(socket):
        names.put(socket.channel_name)
        socket.wait()

    running = one(consumer)
    running.open().send_close()
    until(lambda: not running.server.consumers)
    Channel(names.get(timeout=1)).send("x")
    assert running.counters["sent to channels that have gone"] == 1


def test_channel_names_are_never_used_twice(one):
    """Not even by a socket at the same place in memory."""
    names = Queue()
    running = one(lambda socket: names.put(socket.channel_name) or socket.accept())
    for _ in range(20):
        running.open().closing()
    found = {names.get(timeout=1) for _ in range(20)}
    assert len(found) == 20


def test_a_socket_may_be_in_so_many_groups(one):
    """TooManyGroups beyond; leaving one makes room; joining twice counts once."""
    seen = Queue()

    def consumer(socket):
        socket.accept()
        for n in range(3):
            socket.join(f"g{n}")
            socket.join(Group(f"g{n}"))
        try:
            socket.join("one too many")
        except TooManyGroups as error:
            seen.put(str(error))
        socket.leave("g0")
        socket.leave("never joined")
        socket.join("g3")
        socket.send("ready")
        socket.wait()

    running = one(consumer, limits=Limits(max_groups=3))
    peer = running.open()
    assert peer.hear() == "ready"
    assert "3" in seen.get(timeout=1)
    for n in (0, 1, 2, 3):
        Group(f"g{n}").send(f"{n}")
    Group("one too many").send("x")
    assert [peer.hear() for _ in range(3)] == ["1", "2", "3"]
    assert peer.silent()


def test_joined_lasts_as_long_as_its_block(one):
    """Also when the block ends by an exception."""

    def consumer(socket):
        with Group("g").joined(socket) as group:
            assert group == Group("g")
            group.send("in")
            socket.receive()
        try:
            with Group("g").joined(socket):
                raise KeyError
        except KeyError:
            pass
        socket.send("out")
        socket.wait()

    running = one(consumer)
    peer = running.open()
    assert peer.hear() == "in"
    Group("g").send("also")
    assert peer.hear() == "also"
    peer.say("leave")
    assert peer.hear() == "out"
    Group("g").send("missed")
    assert peer.silent()
    assert running.server.layer.stats()["groups"] == 0


def test_membership_ends_with_the_socket(one):
    """However it ends, and although its consumer goes on."""
    go, joined = Event(), Queue()

    def consumer(socket):
        socket.accept()
        for name in ("a", "b"):
            socket.join(name)
        socket.user = 1
        joined.put(socket)
        go.wait(5)

    running = one(consumer)
    for leave in ("send_close", "reset", "close", "half_close"):
        peer = running.open()
        joined.get(timeout=1)
        getattr(peer, leave)()
        until(lambda: running.server.layer.stats()["groups"] == 0)
    go.set()


def test_the_sender_can_be_excluded(one):
    """By its socket, or by its channel name."""

    def consumer(socket):
        socket.join("room")
        group = Group("room")
        socket.send("in")
        for message in socket:
            who = socket if message == "socket" else socket.channel_name
            group.send(message, exclude=who)
            group.send_json([message], exclude=who)
            group.send("to all")

    running = one(consumer)
    one_peer, other = running.open(), running.open()
    assert [one_peer.hear(), other.hear()] == ["in", "in"]
    for way in ("socket", "name"):
        one_peer.say(way)
        assert one_peer.hear() == "to all"
        assert [other.hear() for _ in range(3)] == [way, f'["{way}"]', "to all"]


def test_a_group_adds_and_discards_by_socket_and_by_name(one):
    """From anywhere in the process."""
    sockets = Queue()

    def consumer(socket):
        socket.accept()
        socket.channel_name  # noqa: B018
        sockets.put(socket)
        socket.wait()

    peer = one(consumer).open()
    socket = sockets.get(timeout=1)
    group = Group("g")
    for member in (socket, socket.channel_name):
        group.add(member)
        group.add(member)
        group.send("once")
        assert peer.hear() == "once"
        group.discard(member)
        group.discard(member)
        group.send("missed")
        assert peer.silent(20 * MS)


def test_what_is_no_member_cannot_be_added(serve):
    """TypeError, or ConfigurationError for a name that nobody has."""
    serve(echo)
    with pytest.raises(TypeError, match="can be in no group"):
        Group("g").add(object())
    with pytest.raises(ConfigurationError, match="nobody"):
        Group("g").add("nobody!1")
    Group("g").discard("nobody!1")


# What each route may say.


def test_a_routes_limits_replace_the_servers(serve):
    """For its own sockets only."""
    limits = replace(Limits(), max_message=10)
    running = serve([websocket("/small", echo, limits=limits), websocket("/", echo)])
    peer = running.open("/small")
    peer.say("x" * 11)
    assert peer.closing().code == 1009
    peer = running.open()
    peer.say("x" * 11)
    assert peer.hear() == "x" * 11


def test_middleware_that_passes_on_keeps_the_servers_own_socket(serve):
    """The very object; what it put into the scope is seen."""
    seen = Queue()

    def consumer(socket):
        own = socket.scope["extensions"]["greenchannels"]["socket"]
        seen.put((socket is own, socket.scope.get("seen", False)))
        socket.accept()

    for middleware, direct, changed in [
        ([], True, False),
        ([passing_on], True, True),
        ([passing_on, passing_on], True, True),
        ([between], False, False),
        ([passing_on, between], False, True),
    ]:
        running = serve([websocket("/", consumer, middleware=middleware)])
        running.open().closing()
        assert seen.get(timeout=1) == (direct, changed)
        running.stop()


def test_every_socket_has_the_same_interface(one):
    """Whoever carries its messages."""
    seen = Queue()

    def consumer(socket):
        assert isinstance(socket, WebSocket)
        socket.state["mine"] = 1
        assert socket.state == {"mine": 1}
        assert socket.close_code is None
        assert socket.path == "/"
        assert repr(socket)
        socket.accept()
        seen.put("ok")

    one(consumer).open().closing()
    assert seen.get(timeout=1) == "ok"


def test_timeouts_of_one_socket_do_not_disturb_another(one):
    """A thousand timeouts here, an echo there."""

    def consumer(socket):
        for message in socket:
            if message == "hurry":
                for _ in range(100):
                    with gevent.Timeout(1 * MS, False):
                        socket.receive()
            socket.send(message)

    running = one(consumer, timeouts=Timeouts(ping_interval=30 * MS))
    busy, other = running.open(), running.open()
    busy.say("hurry")
    for n in range(20):
        other.frame(TEXT, f"{n}".encode())
        while (frame := other.next()).opcode != TEXT:
            assert frame.opcode == PING
            other.frame(PONG, frame.payload)
        assert frame.payload == f"{n}".encode()


def test_a_close_frame_while_the_consumer_works_is_answered_at_once(one):
    """The hub answers, not the consumer."""
    go = Event()

    def consumer(socket):
        socket.accept()
        go.wait(5)

    peer = one(consumer).open()
    peer.send(frames("unread"))
    peer.frame(PING, b"1")
    assert peer.next().opcode == PONG
    peer.frame(CLOSE, b"\x03\xe8")
    assert peer.next().opcode == CLOSE
    go.set()
