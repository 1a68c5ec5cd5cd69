"""Rates: who is closed, what is dropped, who waits, and that nothing else is."""

import logging
import sys
import time
import zlib
from dataclasses import replace

import gevent
import pytest
from gevent.event import Event
from gevent.queue import Queue

from greenchannels import (
    Channel,
    ConfigurationError,
    Limits,
    Rate,
    Router,
    Server,
    ServerOptions,
    Timeouts,
    gsgi,
    websocket,
)
from greenchannels.generic.websocket import WebsocketConsumer
from greenchannels.net.binding import bind_tcp
from greenchannels.net.certificates import Certificates
from greenchannels.net.clock import Alarm
from greenchannels.options import TLS
from greenchannels.servers import rates as rates_module
from greenchannels.servers.buckets import Bucket, Terms
from greenchannels.servers.intake import Intake
from greenchannels.wire.frames import encode_masked
from tests.certificates import localhost, wrap
from tests.servers.harness import (
    BINARY,
    CLOSE,
    MASK,
    MS,
    PING,
    PONG,
    TEXT,
    Closed,
    Peer,
    frames,
    until,
)

#: A time in which nothing flows in that a test could notice.
LONG = 3600.0


def echo(socket):
    """Send back what comes."""
    for message in socket:
        socket.send(message)


def counted(socket):
    """Send back how long it is."""
    for message in socket:
        socket.send(f"{len(message)}")


def echo_gsgi(scope, receive, send):
    """Send back what comes, as GSGI has it."""
    if scope["type"] != "websocket":
        raise ValueError(scope["type"])
    receive()
    send({"type": "websocket.accept"})
    while (event := receive())["type"] != "websocket.disconnect":
        send({**event, "type": "websocket.send"})


def limited(*rates, **limits):
    """Return limits with rates."""
    return Limits(rates=rates, **limits)


def counts(running, route="/"):
    """Return what the server has counted for a route."""
    return running.server.layer.stats()["rates"][route]


def hear_all(peer):
    """Return what is answered to all that was sent; pings do not count in ``drop``."""
    heard = []
    for payload in b"read", b"answered":
        peer.frame(PING, payload)
        while (frame := peer.next()).opcode != PONG:
            heard.append(frame.payload.decode())
        assert frame.payload == payload
    return heard


def as_user(name):
    """Return an echo consumer that belongs to a user."""

    def consumer(socket):
        socket.user = name or socket.query.get("user")
        echo(socket)

    return consumer


# Each action, scope and kind of amount.

AMOUNTS = [
    pytest.param({"messages": 3}, "x", id="messages"),
    pytest.param({"bytes": 30}, "x" * 10, id="bytes"),
    pytest.param({"messages": 3, "bytes": 10**6}, "x", id="fewer messages"),
    pytest.param({"messages": 1000, "bytes": 30}, "x" * 10, id="fewer bytes"),
    pytest.param({"bytes": 30}, "äöüéß", id="bytes of UTF-8"),
]

#: How the close frame calls each.
REASONS = {"connection": "", "address": " from one address", "user": " from one user"}


@pytest.mark.parametrize("each", REASONS)
@pytest.mark.parametrize(("amount", "message"), AMOUNTS)
def test_close_closes_with_1008_and_says_which_rate(serve, each, amount, message):
    """What the rate allows is still answered."""
    rate = Rate(**amount, per=LONG, each=each, action="close")
    peer = serve(as_user("ann"), limits=limited(rate)).open()
    peer.say(*[message] * 3)
    assert [peer.hear() for _ in range(3)] == [message] * 3
    peer.say(message, message)
    what = "messages" if amount.get("messages") == 3 else "bytes"
    number = 3 if what == "messages" else 30
    assert peer.closing() == Closed(
        1008, f"more than {number} {what} in 3600 s{REASONS[each]}"
    )
    assert peer.ended() == "closed"


@pytest.mark.parametrize("each", REASONS)
@pytest.mark.parametrize(("amount", "message"), AMOUNTS)
def test_drop_discards_what_is_too_much_and_counts_it(serve, each, amount, message):
    """The socket goes on, and hears of nothing."""
    rate = Rate(**amount, per=LONG, each=each, action="drop")
    running = serve(as_user("ann"), limits=limited(rate))
    peer = running.open()
    peer.say(*[message] * 10)
    peer.frame(PING, b"behind")
    heard = [peer.next() for _ in range(4)]
    assert sorted(f.opcode for f in heard) == [1, 1, 1, PONG]
    assert peer.silent()
    assert counts(running) == {"closed": 0, "dropped": 7, "waits": 0}


@pytest.mark.parametrize("each", REASONS)
@pytest.mark.parametrize(
    ("amount", "size"), [({"messages": 5}, 1), ({"bytes": 500}, 100)]
)
def test_wait_loses_nothing_and_takes_its_time(serve, each, amount, size):
    """All comes, in order and whole, at the rate."""
    rate = Rate(**amount, per=0.1, each=each, action="wait")
    running = serve(as_user("ann"), limits=limited(rate))
    peer = running.open()
    messages = [f"{n}".rjust(size) for n in range(15)]
    start = time.monotonic()
    peer.say(*messages)
    assert [peer.hear() for _ in messages] == messages
    # The bucket held 5 of the 15; the others come at 50 a second.
    assert time.monotonic() - start > 10 / 50 - 0.03
    found = counts(running)
    assert found["waits"] > 0 and found["closed"] == found["dropped"] == 0


@pytest.mark.parametrize("action", ["close", "drop", "wait"])
def test_within_the_rate_nothing_happens(serve, action):
    """Not at its very limit either."""
    rate = Rate(messages=50, bytes=50, per=LONG, action=action)
    running = serve(echo, limits=limited(rate))
    peer = running.open()
    for _ in range(50):
        peer.say("x")
        assert peer.hear() == "x"
    assert counts(running) == {"closed": 0, "dropped": 0, "waits": 0}


@pytest.mark.parametrize("action", ["close", "drop", "wait"])
def test_tokens_come_back(serve, action):
    """After a pause as much may be sent again."""
    rate = Rate(messages=5, per=0.05, action=action)
    running = serve(echo, limits=limited(rate))
    peer = running.open()
    for _ in range(4):
        peer.say(*"abcde")
        assert [peer.hear() for _ in range(5)] == [*"abcde"]
        gevent.sleep(80 * MS)
    assert counts(running) == {"closed": 0, "dropped": 0, "waits": 0}


def test_burst_is_what_may_come_at_once(serve):
    """A long one saves up more than ``per`` does, a short one less."""
    long = Rate(messages=1, per=LONG, burst=10 * LONG, action="drop")
    short = Rate(messages=10, per=LONG, burst=LONG / 5, action="drop")
    running = serve(
        [
            websocket("/long", echo, limits=limited(long)),
            websocket("/short", echo, limits=limited(short)),
        ]
    )
    for path, count in ("/long", 10), ("/short", 2):
        peer = running.open(path)
        peer.say(*["x"] * 30)
        assert hear_all(peer) == ["x"] * count


# What counts.


def test_a_message_counts_once_however_it_is_fragmented(serve):
    """Frames are no messages, and bytes are those of all of them."""
    rate = Rate(messages=2, bytes=8, per=LONG)
    peer = serve(echo, limits=limited(rate)).open()
    for _ in range(2):
        peer.frame(BINARY, b"a", fin=False)
        peer.frame(0, b"b", fin=False)
        peer.frame(0, b"", fin=False)
        peer.frame(0, b"cd")
        assert peer.hear() == b"abcd"
    peer.say("x")
    assert peer.closing().code == 1008


def test_a_message_that_never_fits_is_closed_or_dropped(serve):
    """However full the bucket is."""
    running = serve(
        [
            websocket("/close", echo, limits=limited(Rate(bytes=100, per=0.01))),
            websocket(
                "/drop", echo, limits=limited(Rate(bytes=100, per=0.01, action="drop"))
            ),
        ]
    )
    peer = running.open("/close")
    peer.say("x" * 101)
    assert peer.closing() == Closed(1008, "more than 100 bytes in 0.01 s")
    peer = running.open("/drop")
    peer.say("x" * 101, "y")
    assert peer.hear() == "y"


def test_a_message_that_never_fits_passes_a_rate_that_waits_and_is_paid_off(serve):
    """The next one waits for as long as its bytes take."""
    running = serve(echo, limits=limited(Rate(bytes=100, per=0.01, action="wait")))
    peer = running.open()
    start = time.monotonic()
    peer.say("x" * 3000, "y")
    assert len(peer.hear()) == 3000
    assert peer.hear() == "y"
    assert time.monotonic() - start > 0.25


@pytest.mark.parametrize("action", ["close", "drop", "wait"])
def test_a_compressed_message_counts_with_what_it_inflates_to(serve, action):
    """However short it is on the wire."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    payload = deflater.compress(b"x" * 3000) + deflater.flush(zlib.Z_SYNC_FLUSH)
    assert len(payload) < 50
    rate = Rate(bytes=1000, per=0.1 if action == "wait" else LONG, action=action)
    running = serve(counted, limits=limited(rate))
    peer = running.peer()
    answer = peer.open(headers=[("Sec-WebSocket-Extensions", "permessage-deflate")])
    assert answer["sec-websocket-extensions"].startswith("permessage-deflate")
    start = time.monotonic()
    peer.frame(TEXT, payload[:-4], rsv=4)
    peer.say("y")
    if action == "close":
        assert peer.closing() == Closed(1008, "more than 1000 bytes in 3600 s")
        return
    heard = [peer.hear() for _ in range(1 if action == "drop" else 2)]
    assert heard == (["1"] if action == "drop" else ["3000", "1"])
    assert action == "drop" or time.monotonic() - start > 0.15


@pytest.mark.parametrize("action", ["close", "wait"])
def test_a_flood_of_pings_counts_as_messages(serve, action):
    """It closes the socket, or has it wait."""
    running = serve(echo, limits=limited(Rate(messages=10, per=LONG, action=action)))
    peer = running.open()
    for n in range(10):
        peer.frame(PING, b"%d" % n)
        assert peer.next().payload == b"%d" % n
    peer.frame(PING, b"more")
    if action == "close":
        assert peer.closing() == Closed(1008, "more than 10 messages in 3600 s")
    else:
        until(lambda: counts(running)["waits"] == 1)
        assert peer.silent()


def test_a_flood_of_empty_pings_in_one_go_closes(serve):
    """None of them is answered."""
    running = serve(echo, limits=limited(Rate(messages=10, per=LONG)))
    peer = running.open()
    peer.send(encode_masked(PING, b"", MASK) * 10_000)
    assert peer.closing().code == 1008


def test_pings_are_never_dropped_and_do_not_count_where_messages_are(serve):
    """They are answered at once, and the messages behind them pass."""
    rate = Rate(messages=3, bytes=300, per=LONG, action="drop")
    running = serve(echo, limits=limited(rate))
    peer = running.open()
    for n in range(20):
        peer.frame(PING, b"%d" % n * 50)
        assert peer.next().opcode == PONG
    peer.say(*"abcdef")
    assert hear_all(peer) == [*"abc"]
    assert counts(running)["dropped"] == 3


def test_a_flood_of_pings_costs_those_who_wait_one_bucket_at_most(serve):
    """Messages behind it come soon, although the pings would have taken minutes."""
    running = serve(echo, limits=limited(Rate(messages=10, per=0.1, action="wait")))
    peer = running.open()
    peer.send(encode_masked(PING, b"", MASK) * 5000)
    for _ in range(5000):
        assert peer.next().opcode == PONG
    peer.say("behind")
    assert peer.hear() == "behind"


@pytest.mark.parametrize("action", ["close", "wait"])
def test_answers_to_our_own_pings_do_not_count(serve, action):
    """One for each ping; all others do."""
    running = serve(
        echo,
        limits=limited(Rate(messages=1, per=LONG, action=action)),
        timeouts=Timeouts(ping_interval=30 * MS),
    )
    peer = running.open()
    for _ in range(5):
        frame = peer.next()
        assert frame.opcode == PING
        peer.frame(PONG, frame.payload)
    assert counts(running) == {"closed": 0, "dropped": 0, "waits": 0}
    for _ in range(4):
        peer.frame(PONG, b"unasked")
        gevent.sleep(5 * MS)
    name = {"close": "closed", "wait": "waits"}[action]
    until(lambda: counts(running)[name] == 1)


def test_a_close_frame_is_no_message(serve):
    """It is answered though nothing else is allowed any more."""
    running = serve(echo, limits=limited(Rate(messages=1, per=LONG)))
    peer = running.open()
    peer.say("x")
    peer.send_close(4000)
    assert peer.hear() == "x"
    assert peer.hear() == Closed(4000)
    assert counts(running)["closed"] == 0


def test_what_broke_a_rule_of_the_protocol_is_said_first(serve):
    """If it came within the rate."""
    running = serve(echo, limits=limited(Rate(messages=2, per=LONG)))
    peer = running.open()
    peer.send(frames("a", "b") + b"\x81\x01x")
    assert [peer.hear(), peer.hear()] == ["a", "b"]
    assert peer.closing().code == 1002


# Scopes.


def test_each_connection_has_a_bucket_of_its_own(serve):
    """Although it is the same peer."""
    running = serve(echo, limits=limited(Rate(messages=2, per=LONG)))
    for _ in range(3):
        peer = running.open()
        peer.say("a", "b")
        assert [peer.hear(), peer.hear()] == ["a", "b"]
    assert counts(running)["closed"] == 0


def test_sockets_of_one_address_share_a_bucket(serve):
    """Also those that come when others have gone."""
    rate = Rate(messages=3, per=LONG, each="address")
    running = serve(echo, limits=limited(rate))
    one, other = running.open(), running.open()
    one.say("a", "b")
    assert [one.hear(), one.hear()] == ["a", "b"]
    other.say("c", "d")
    assert other.hear() == "c"
    assert other.closing() == Closed(
        1008, "more than 3 messages in 3600 s from one address"
    )
    late = running.open()
    late.say("e")
    assert late.closing().code == 1008
    assert one.silent()


def test_addresses_are_those_that_trusted_proxies_name(serve):
    """And only trusted ones."""
    rate = Rate(messages=1, per=LONG, each="address", action="drop")
    for proxies, expected in (["127.0.0.1"], [*"abc"]), ([], ["a"]):
        running = serve(echo, limits=limited(rate), proxies=proxies)
        heard = []
        for client, text in (
            ("192.0.2.1", "a"),
            ("192.0.2.2", "b"),
            ("2001:db8::1", "c"),
        ):
            peer = running.open(headers=[("X-Forwarded-For", client)])
            peer.say(text, text)
            heard += hear_all(peer)
        assert heard == expected


def test_networks_of_ipv6_are_counted_together(serve):
    """A customer has a whole /64."""
    rate = Rate(messages=1, per=LONG, each="address", action="drop")
    running = serve(echo, limits=limited(rate), proxies=["127.0.0.1"])
    heard = []
    for client in "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1":
        peer = running.open(headers=[("X-Forwarded-For", client)])
        peer.say(client)
        heard += hear_all(peer)
    assert heard == ["2001:db8::1", "2001:db8:0:1::1"]


def test_the_scope_is_not_kept_for_the_address(serve):
    """It costs more than all the rest of an idle socket."""
    rate = Rate(messages=100, each="address")
    running = serve(echo, limits=limited(rate))
    peer = running.open()
    peer.say("x")
    assert peer.hear() == "x"
    (socket,) = running.server.sockets
    assert socket._scope is None


def test_a_unix_socket_has_no_address_to_be_limited_by(serve):
    """Nor has a client that its proxy does not know."""
    rate = Rate(messages=1, per=LONG, each="address")
    running = serve(echo, limits=limited(rate), proxies=["127.0.0.1"])
    peer = running.open(headers=[("X-Forwarded-For", "unknown")])
    peer.say(*"abc")
    assert [peer.hear() for _ in range(3)] == [*"abc"]
    ours, theirs = gevent.socket.socketpair()
    ours.setblocking(False)
    running.server.connect(ours, "")
    peer = running.peer()
    peer.sock.close()
    peer.sock = theirs
    peer.open()
    peer.say(*"abc")
    assert [peer.hear() for _ in range(3)] == [*"abc"]


def test_sockets_of_one_user_share_a_bucket_and_others_have_their_own(serve):
    """Who it is comes from ``socket.user``."""
    rate = Rate(messages=2, per=LONG, each="user", action="drop")
    running = serve(as_user(None), limits=limited(rate))
    heard = {}
    for name in "ann", "bob", "ann":
        peer = running.open(f"/?user={name}")
        peer.say(name, name)
        heard.setdefault(name, []).extend(hear_all(peer))
    assert heard == {"ann": ["ann"] * 2, "bob": ["bob"] * 2}


def test_a_user_who_is_assigned_later_counts_from_then_on(serve):
    """Before, nobody does; afterwards the next one does."""

    def consumer(socket):
        for message in socket:
            if message.startswith("user "):
                socket.user = message[5:] or None
            socket.send(message)

    rate = Rate(messages=2, per=LONG, each="user", action="drop")
    running = serve(consumer, limits=limited(rate))
    peer = running.open()
    for text in "a", "b", "c", "user ann":
        peer.say(text)
        assert peer.hear() == text
    peer.say("d", "e", "f")
    assert hear_all(peer) == ["d", "e"]
    (socket,) = running.server.sockets
    socket.user = "bob"
    peer.say("g", "user ", "h")
    assert hear_all(peer) == ["g", "user "]
    peer.say(*"ijk")
    assert hear_all(peer) == [*"ijk"]


def test_a_user_that_middleware_found_counts(serve):
    """From the first message on."""

    def member(inner):
        return lambda scope, receive, send: inner(
            {**scope, "user": "ann"}, receive, send
        )

    rate = Rate(messages=2, per=LONG, each="user", action="drop")
    route = websocket("/", echo, middleware=[member], limits=limited(rate))
    peer = serve([route]).open()
    peer.say(*"abcd")
    assert hear_all(peer) == [*"ab"]


def test_one_rate_object_is_one_set_of_buckets(serve):
    """Written twice it counts twice; replacing other limits changes nothing."""
    one = limited(Rate(messages=1, per=LONG, each="address", action="drop"))
    same = replace(one, max_message=1000)
    other = limited(Rate(messages=1, per=LONG, each="address", action="drop"))
    routes = [
        websocket("/one", echo, limits=one),
        websocket("/same", echo, limits=same),
        websocket("/other", echo, limits=other),
    ]
    running = serve(routes)
    heard = {}
    for path in "/one", "/same", "/other":
        peer = running.open(path)
        peer.say("x")
        heard[path] = hear_all(peer)
    assert heard == {"/one": ["x"], "/same": [], "/other": ["x"]}


# Several rates.


def test_all_rates_hold(serve):
    """A short one and a long one, of messages and of bytes."""
    rates = (
        Rate(messages=100, per=LONG),
        Rate(messages=3, per=0.02, action="wait"),
        Rate(bytes=1000, per=LONG, action="drop"),
    )
    running = serve(echo, limits=limited(*rates))
    peer = running.open()
    peer.say(*["x" * 300] * 5)
    assert [peer.hear() for _ in range(3)] == ["x" * 300] * 3
    peer.say(*["y"] * 95)
    assert [peer.hear() for _ in range(95)] == ["y"] * 95
    peer.say("z")
    assert peer.closing() == Closed(1008, "more than 100 messages in 3600 s")
    found = counts(running)
    assert (found["closed"], found["dropped"]) == (1, 2)


def test_what_is_dropped_counts_for_a_rate_that_closes(serve):
    """The excess is discarded, and who does not stop is closed."""
    rates = Rate(messages=2, per=LONG, action="drop"), Rate(messages=10, per=LONG)
    running = serve(echo, limits=limited(*rates))
    peer = running.open()
    peer.say(*["x"] * 11)
    assert [peer.hear(), peer.hear()] == ["x", "x"]
    assert peer.closing().reason == "more than 10 messages in 3600 s"
    assert counts(running) == {"closed": 1, "dropped": 8, "waits": 0}


# Waiting.


def test_messages_stay_whole_and_in_order_whatever_way_they_come(serve):
    """Also those of many kinds and sizes, in pieces, with pings between."""
    rate = Rate(messages=40, bytes=20_000, per=0.1, action="wait")
    running = serve(echo, limits=limited(rate))
    peer = running.open()
    messages = [
        "é" * (n * 37 % 900) if n % 3 else bytes(n * 91 % 3000) for n in range(90)
    ]
    ping = encode_masked(PING, b"?", MASK)
    data = b"".join(frames(m) + ping * (n % 5 == 0) for n, m in enumerate(messages))

    def send():
        for start in range(0, len(data), 7001):
            peer.send(data[start : start + 7001])
            gevent.sleep(0)

    sender = gevent.spawn(send)
    heard, pongs = [], 0
    while len(heard) < len(messages) or pongs < 18:
        frame = peer.next()
        pongs += frame.opcode == PONG
        if frame.opcode != PONG:
            text = frame.opcode == 1
            heard.append(frame.payload.decode() if text else frame.payload)
    assert heard == messages
    sender.join(timeout=1)


def test_reading_pauses_and_tcp_pushes_back(serve):
    """What the server holds of a flood is bounded."""
    rate = Rate(bytes=1000, per=LONG, action="wait")
    running = serve(echo, limits=limited(rate))
    peer = running.open()
    sender = gevent.spawn(peer.sock.sendall, frames(*[bytes(1000)] * 20_000))
    (socket,) = running.server.sockets
    until(lambda: not socket.transport.reading)
    gevent.sleep(50 * MS)
    assert not sender.ready() and not socket.transport.reading
    assert socket._wire.buffered < 600 * 1024
    sender.kill()


def test_who_has_sent_what_the_rate_allows_is_still_read(serve):
    """Reading pauses only when there comes more: a close frame is noticed at once."""
    running = serve(echo, limits=limited(Rate(messages=2, per=LONG, action="wait")))
    peer = running.open()
    peer.say("a", "b")
    assert [peer.hear(), peer.hear()] == ["a", "b"]
    (socket,) = running.server.sockets
    assert socket.transport.reading
    peer.reset()
    until(lambda: not running.server.sockets)


def test_the_ping_clock_cuts_nobody_who_is_not_read(serve):
    """Its answers wait with the rest."""
    running = serve(
        echo,
        limits=limited(Rate(messages=1, per=0.5, action="wait")),
        timeouts=Timeouts(ping_interval=30 * MS, ping_timeout=60 * MS),
    )
    peer = running.open()
    peer.say("a", "b")
    heard = []
    while len(heard) < 2:
        frame = peer.next()
        if frame.opcode != PING:
            heard.append(frame.payload)
    assert heard == [b"a", b"b"]


def test_the_inbox_and_a_rate_both_pause(serve):
    """Whichever is over first, nothing is lost or stuck."""
    running = serve(
        echo,
        limits=limited(Rate(messages=50, per=0.05, action="wait"), max_inbox=7),
    )
    peer = running.open()
    messages = [f"{n}" for n in range(300)]
    peer.say(*messages)
    assert [peer.hear() for _ in messages] == messages


def test_a_consumer_that_goes_on_does_not_read_on_for_a_peer_that_waits(serve):
    """The inbox has room again, but the bucket has nothing."""
    running = serve(
        echo, limits=limited(Rate(messages=5, per=LONG, action="wait"), max_inbox=2)
    )
    peer = running.open()
    peer.say(*"abcdefgh")
    assert [peer.hear() for _ in range(5)] == [*"abcde"]
    until(lambda: counts(running)["waits"] == 1)
    (socket,) = running.server.sockets
    assert not socket.transport.reading and socket._wire.pending
    gevent.sleep(30 * MS)
    assert not socket.transport.reading and counts(running)["waits"] == 1


def test_a_busy_consumer_is_not_given_more_than_the_inbox_holds(serve):
    """Tokens come back, but there is no room for what they allow."""
    go, seen = Event(), Queue()

    def consumer(socket):
        socket.accept()
        go.wait()
        for message in socket:
            seen.put(message)

    running = serve(
        consumer, limits=limited(Rate(messages=2, per=0.01, action="wait"), max_inbox=5)
    )
    peer = running.open()
    peer.say(*[f"{n}" for n in range(40)])
    (socket,) = running.server.sockets
    until(lambda: len(socket._inbox) == 5)
    gevent.sleep(50 * MS)
    assert len(socket._inbox) == 5
    go.set()
    assert [seen.get(timeout=2) for _ in range(40)] == [f"{n}" for n in range(40)]


def test_events_reach_a_consumer_whose_peer_waits(serve):
    """The rate is for what the peer sends."""

    def consumer(socket):
        for message in socket.events():
            socket.send(message if isinstance(message, str) else message["text"])

    running = serve(consumer, limits=limited(Rate(messages=1, per=LONG, action="wait")))
    peer = running.open()
    peer.say("a", "b")
    assert peer.hear() == "a"
    until(lambda: counts(running)["waits"] == 1)
    (socket,) = running.server.sockets
    for n in range(5):
        Channel(socket.channel_name).send({"type": "x", "text": f"{n}"})
        assert peer.hear() == f"{n}"


def test_a_consumer_may_close_while_its_peer_waits(serve):
    """The peer's close frame is found behind what was kept back."""

    def consumer(socket):
        socket.receive()
        gevent.sleep(30 * MS)
        socket.close(4000)

    running = serve(consumer, limits=limited(Rate(messages=1, per=LONG, action="wait")))
    peer = running.open()
    peer.say("a", "b", "c")
    assert peer.closing() == Closed(4000)
    assert peer.ended() == "closed"


def test_a_close_frame_that_was_kept_back_ends_what_the_consumer_closes(serve):
    """At once: no more needs to come for it to be found."""

    def consumer(socket):
        socket.receive()
        gevent.sleep(30 * MS)
        socket.close(4000)

    running = serve(consumer, limits=limited(Rate(messages=1, per=LONG, action="wait")))
    peer = running.open()
    peer.send(frames("a", "b") + encode_masked(CLOSE, b"\x03\xe8", MASK))
    assert peer.hear() == Closed(4000)
    assert peer.ended() == "closed"


def test_a_close_frame_that_was_kept_back_is_answered_in_the_end(serve):
    """After all that came before it."""
    running = serve(echo, limits=limited(Rate(messages=1, per=0.05, action="wait")))
    peer = running.open()
    peer.send(frames("a", "b", "c") + encode_masked(CLOSE, b"\x0f\xa0", MASK))
    assert [peer.hear() for _ in range(3)] == ["a", "b", "c"]
    assert peer.hear() == Closed(4000)
    assert peer.ended() == "closed"


@pytest.mark.parametrize("leave", ["close", "reset", "half_close"])
def test_a_peer_that_goes_while_we_wait_is_noticed_in_the_end(serve, leave):
    """When the tokens are back, or when a ping does not reach it."""
    seen = Queue()

    def consumer(socket):
        seen.put([*socket])
        seen.put(socket.close_code)

    running = serve(consumer, limits=limited(Rate(messages=1, per=0.1, action="wait")))
    peer = running.open()
    peer.say("a", "b", "c")
    until(lambda: counts(running)["waits"] == 1)
    getattr(peer, leave)()
    heard = seen.get(timeout=2)
    assert heard == [*"abc"][: len(heard)] and heard
    assert seen.get(timeout=2) == 1006


def test_a_peer_that_vanishes_for_a_long_wait_is_noticed_by_a_ping(serve):
    """Long before its turn would come."""
    seen = Queue()

    def consumer(socket):
        for _ in socket:
            pass
        seen.put(socket.close_code)

    running = serve(
        consumer,
        limits=limited(Rate(messages=1, per=LONG, action="wait")),
        timeouts=Timeouts(ping_interval=30 * MS),
    )
    peer = running.open()
    peer.say("a", "b", "c")
    until(lambda: counts(running)["waits"] == 1)
    peer.close()
    assert seen.get(timeout=2) == 1006


def test_a_slow_reader_does_not_read_itself_out_of_its_wait(serve):
    """Progress in writing is no reason to read."""

    def consumer(socket):
        socket.receive()
        for _ in range(100):
            socket.send(bytes(8192))
        socket.wait()

    running = serve(
        consumer,
        limits=limited(Rate(messages=1, per=LONG, action="wait")),
        send_buffer=16 * 1024,
    )
    peer = running.peer(receive_buffer=16 * 1024)
    peer.open()
    peer.say("a", "b")
    until(lambda: counts(running)["waits"] == 1)
    (socket,) = running.server.sockets
    sender = gevent.spawn(peer.sock.sendall, frames(*[bytes(1000)] * 10_000))
    for _ in range(100):
        assert len(peer.hear()) == 8192
    assert not socket.transport.reading
    assert socket._wire.buffered < 600 * 1024
    sender.kill()


def test_those_who_share_a_bucket_take_turns(serve):
    """One that floods does not keep out one that says little."""
    rate = Rate(messages=5, per=0.1, each="address", action="wait")
    running = serve(echo, limits=limited(rate))
    loud, quiet = running.open(), running.open()
    loud.say(*["x"] * 400)
    until(lambda: counts(running)["waits"] >= 1)
    heard = 0
    for n in range(5):
        quiet.say(f"{n}")
        assert quiet.hear(seconds=1) == f"{n}"
    while not loud.silent(1 * MS):
        loud.hear()
        heard += 1
    assert heard < 300


class Waiter:
    """A socket, as a line sees it."""

    def __init__(self, line):
        self.gate, self.line, self.turns = rates_module.Gate([]), line, []
        line.join(self, self.gate)

    def tokens_back(self):
        """Take one message, and wait for more."""
        self.turns.append(self.gate.turn)
        self.line._bucket.take(1, 0)
        self.line.join(self, self.gate)


class StandingClock:
    """Rings when it is told to."""

    def call_later(self, delay, callback):
        """Note what is to be called."""
        self.ring, self.delay = callback, delay
        return Alarm(callback, {})


def test_it_is_everybodys_turn_for_one_message():
    """Whoever waits for longest comes first, and no more than there are tokens for."""
    bucket, clock = Bucket(Terms(Rate(messages=5, per=LONG)), 0.0), StandingClock()
    bucket.line = line = rates_module.Line(bucket, clock)
    waiters = [Waiter(line) for _ in range(3)]
    clock.ring()
    assert [waiter.turns for waiter in waiters] == [[1], [1], [1]]
    assert clock.delay == 0
    clock.ring()
    assert [waiter.turns for waiter in waiters] == [[1, 1], [1, 1], [1]]
    assert clock.delay == pytest.approx(LONG / 5, rel=0.1)
    for waiter in waiters:
        line.leave(waiter)
    assert bucket.line is None


def test_who_waits_alone_may_take_all_there_is():
    """Nobody else is kept waiting by it."""
    bucket, clock = Bucket(Terms(Rate(messages=5, per=LONG)), 0.0), StandingClock()
    bucket.line = line = rates_module.Line(bucket, clock)
    waiter = Waiter(line)
    clock.ring()
    assert waiter.turns[0] > 1000


def test_who_comes_later_does_not_pass_those_who_wait():
    """Though there are tokens: they are for those whose turn it is."""
    rate, gate = Rate(messages=5, per=LONG, action="wait"), rates_module.Gate([])
    bucket = Bucket(Terms(rate), 0.0)
    intake = Intake(None, None, gate, [(rate, bucket)], None)
    assert intake.allowance()[0] == 5
    bucket.line = object()
    assert intake.allowance() == (0, 0)
    gate.turn = 1
    assert intake.allowance()[0] == 1
    assert intake.allowance() == (0, 0)


def test_many_who_share_a_bucket_all_get_their_turn(serve):
    """And those that leave the line hold up nobody."""
    rate = Rate(messages=20, per=0.1, each="user", action="wait")
    running = serve(as_user("ann"), limits=limited(rate))
    peers = [running.open() for _ in range(20)]
    for n, peer in enumerate(peers):
        peer.say(f"{n} a", f"{n} b", f"{n} c")
    until(lambda: counts(running)["waits"] >= 15)
    for peer in peers[::3]:
        peer.reset()
    for n, peer in enumerate(peers):
        if n % 3:
            assert [peer.hear() for _ in range(3)] == [f"{n} a", f"{n} b", f"{n} c"]


def test_a_rate_that_waits_holds_for_all_who_share_it(serve):
    """However many they are: it is not theirs each."""
    rate = Rate(messages=10, per=0.2, each="address", action="wait")
    running = serve(echo, limits=limited(rate))
    peers = [running.open() for _ in range(5)]
    start = time.monotonic()
    for peer in peers:
        peer.say(*["x"] * 6)
    for peer in peers:
        assert [peer.hear() for _ in range(6)] == ["x"] * 6
    assert time.monotonic() - start > 20 / 50 - 0.05


def test_a_drain_tells_those_who_wait(serve):
    """It does not wait for their tokens."""
    running = serve(
        echo, limits=limited(Rate(messages=1, per=LONG, action="wait")), drain=2.0
    )
    peer = running.open()
    peer.say("a", "b")
    assert peer.hear() == "a"
    until(lambda: counts(running)["waits"] == 1)
    start = time.monotonic()
    stopping = gevent.spawn(running.server.stop)
    assert peer.closing() == Closed(1012, "restarting")
    stopping.join(timeout=3)
    assert stopping.ready() and time.monotonic() - start < 1.5


def test_nothing_is_kept_of_a_socket_that_has_ended(serve):
    """Whether it waited, was closed or just went."""
    for action, counted in ("close", "closed"), ("drop", "dropped"), ("wait", "waits"):
        rate = Rate(messages=1, per=LONG, each="address", action=action)
        running = serve(echo, limits=limited(rate))
        peer, other = running.open(), running.open()
        for each in peer, other:
            each.say("a", "b", "c")
        until(lambda r=running, name=counted: counts(r)[name] >= 2)
        for each in peer, other:
            each.reset()
        for transport in tuple(running.server.connections):
            transport.abort()
        until(lambda r=running: not r.server.connections)
        admission = running.server.admission
        (endpoint,) = admission._endpoints.values()
        assert not endpoint.rates._gates
        (shared,) = admission._rates._shared.values()
        assert [bucket.line for bucket in shared._buckets.values()] == [None]


def test_a_socket_without_rates_pays_nothing(serve):
    """No object, not even a slot."""
    running = serve(echo)
    peer = running.open()
    peer.say("x")
    assert peer.hear() == "x"
    (endpoint,) = running.server.admission._endpoints.values()
    assert endpoint.rates is None
    assert running.server.layer.stats()["rates"] == {}


# All kinds of consumers and transports.


class Echo(WebsocketConsumer):
    """Send back what comes."""

    def receive(self, text_data=None, bytes_data=None):
        """Take a message."""
        self.send(text_data=text_data, bytes_data=bytes_data)


def outermost(inner):
    """Stand between server and consumer, so that all goes by events."""
    return lambda scope, receive, send: inner(scope, lambda: receive(), send)


KINDS = {
    "function": lambda limits: websocket("/", echo, limits=limits),
    "middleware": lambda limits: websocket(
        "/", echo, limits=limits, middleware=[outermost]
    ),
    "class": lambda limits: websocket("/", Echo, limits=limits),
    "gsgi": lambda limits: gsgi("/", echo_gsgi, limits=limits),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("action", ["close", "drop", "wait"])
def test_all_kinds_of_consumers_have_rates(serve, kind, action):
    """By their route's limits."""
    rate = Rate(messages=3, per=0.3 if action == "wait" else LONG, action=action)
    running = serve([KINDS[kind](limited(rate, max_inbox=2))])
    peer = running.open()
    peer.say(*"abcdef")
    assert [peer.hear() for _ in range(3)] == [*"abc"]
    if action == "close":
        assert peer.closing().code == 1008
    elif action == "drop":
        assert hear_all(peer) == []
    else:
        assert [peer.hear() for _ in range(3)] == [*"def"]


@pytest.mark.parametrize("action", ["close", "drop", "wait"])
def test_rates_hold_over_tls(serve, action):
    """What was decrypted already waits, too."""
    rate = Rate(messages=20, per=0.2 if action == "wait" else LONG, action=action)
    running = serve(echo, limits=limited(rate))
    listener = running.server.listen(
        bind_tcp("127.0.0.1", 0), Certificates(TLS((localhost(),)))
    )
    peer = Peer(listener.address)
    running.clients.append(peer)
    peer.sock = wrap(peer.sock)
    peer.open()
    messages = [f"{n}" * 1000 for n in range(60)]
    peer.say(*messages)
    assert [peer.hear() for _ in range(20)] == messages[:20]
    if action == "close":
        assert peer.closing().code == 1008
    elif action == "drop":
        assert hear_all(peer) == []
    else:
        assert [peer.hear() for _ in range(40)] == messages[20:]


def test_what_comes_before_the_101_counts(serve):
    """It is read after it."""

    def consumer(socket):
        gevent.sleep(30 * MS)
        echo(socket)

    running = serve(consumer, limits=limited(Rate(messages=2, per=LONG)))
    peer = running.peer()
    peer.handshake()
    peer.say(*"abc")
    peer.response()
    assert [peer.hear(), peer.hear()] == ["a", "b"]
    assert peer.closing().code == 1008


def test_a_consumer_that_has_not_received_what_was_allowed_is_closed(serve):
    """It learns why."""
    go, seen = Event(), Queue()

    def consumer(socket):
        socket.accept()
        go.wait()
        seen.put([*socket])
        seen.put((socket.close_code, socket.close_reason))

    running = serve(consumer, limits=limited(Rate(messages=2, per=LONG)))
    peer = running.open()
    peer.say(*"abc")
    assert peer.closing().code == 1008
    go.set()
    seen.get(timeout=1)
    assert seen.get(timeout=1) == (1008, "more than 2 messages in 3600 s")


def test_a_rate_that_is_exceeded_behind_a_full_inbox_closes(serve):
    """When the consumer has come so far."""

    def consumer(socket):
        socket.accept()
        gevent.sleep(20 * MS)
        for message in socket:
            socket.send(message)

    running = serve(consumer, limits=limited(Rate(messages=10, per=LONG), max_inbox=4))
    peer = running.open()
    peer.say(*[f"{n}" for n in range(12)])
    assert [peer.hear() for _ in range(8)] == [f"{n}" for n in range(8)]
    assert peer.closing().code == 1008


# The log.


def test_the_log_says_it_once_in_a_while(serve, caplog):
    """Not once a message: that would be a flood of its own."""
    rate = Rate(messages=1, per=LONG, action="drop")
    running = serve(echo, limits=limited(rate))
    peer = running.open()
    peer.say(*["x"] * 500)
    until(lambda: counts(running)["dropped"] == 499)
    lines = [r for r in caplog.records if r.name == "greenchannels.socket"]
    assert len(lines) == 1 and lines[0].levelno == logging.WARNING
    assert "/: dropped a message: more than 1 messages in 3600 s" in caplog.text


def test_the_log_says_it_again_later(serve, caplog, monkeypatch):
    """For each route and action."""
    monkeypatch.setattr(rates_module, "SAID_EVERY", 0.02)
    running = serve(echo, limits=limited(Rate(messages=1, per=LONG)))
    for _ in range(2):
        peer = running.open()
        peer.say("a", "b")
        assert peer.closing().code == 1008
        gevent.sleep(30 * MS)
    assert caplog.text.count("closed with 1008") == 2


# Options.


@pytest.mark.parametrize(
    ("rate", "reason"),
    [
        (Rate(), "needs messages or bytes"),
        (Rate(messages=0), "messages must be positive"),
        (Rate(bytes=-1), "bytes must be positive"),
        (Rate(messages=1, per=0), "per must be positive"),
        (Rate(messages=1, per=None), "per is a number"),
        (Rate(messages=1, per=float("inf")), "per is a number"),
        (Rate(messages=1, burst=0), "burst must be positive"),
        (Rate(messages=1, per="1"), "per is a number"),
        (Rate(messages=1, per=True), "per is a number"),
        (Rate(messages=1, per=float("nan")), "per is a number"),
        (Rate(messages=1, per=10**400), "per is a number of seconds up to 1000000000"),
        (Rate(messages=1, per=1e-320), "per is at least 1e-06 s"),
        (Rate(messages=1, burst=1e-320), "burst is at least 1e-06 s"),
        (Rate(messages="10"), "messages is a whole number"),
        (Rate(messages=float("nan")), "messages is a whole number"),
        (Rate(messages=True), "messages is a whole number"),
        (Rate(messages=10**400), f"messages is {sys.maxsize} at most"),
        (Rate(bytes=1e6), "bytes is a whole number"),
        (Rate(messages=1, each="host"), "'host'.*connection, address, user"),
        (Rate(messages=1, action="kick"), "'kick'.*close, drop, wait"),
        ("10/s", "no Rate"),
    ],
)
def test_rates_that_make_no_sense_are_refused(rate, reason):
    """By the server and by each kind of route, when they are made."""
    limits = Limits(rates=(rate,))
    with pytest.raises(ConfigurationError, match=reason):
        Server([], options=ServerOptions(limits=limits))
    with pytest.raises(ConfigurationError, match=reason):
        websocket("/", echo, limits=limits)
    with pytest.raises(ConfigurationError, match=reason):
        gsgi("/", echo_gsgi, limits=limits)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(rates=Rate(messages=1)), "tuple of rates"),
        (Limits(rates=[Rate(messages=1)]), "tuple of rates"),
        (Limits(max_message=-1), "max_message must be positive"),
        (Limits(max_message=1e6), "max_message is a whole number or None, not 1000000"),
        (Limits(stop_timeout="1"), "stop_timeout is a number of seconds, not '1'"),
        (Rate(messages=1), "a Limits object"),
    ],
)
def test_limits_of_a_route_are_checked(limits, reason):
    """As those of the server are."""
    with pytest.raises(ConfigurationError, match=reason):
        websocket("/", echo, limits=limits)
    with pytest.raises(ConfigurationError, match=reason):
        Router([gsgi("/", echo_gsgi, limits=limits)])
