"""What travels through the layer, and what does not."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from uuid import UUID

import pytest

from greenchannels.errors import MessageTooLarge
from greenchannels.layers.codec import (
    MAX_MESSAGE,
    Broadcast,
    Kind,
    decode_message,
    encode_message,
    make_broadcast,
    make_close,
    pack_event,
    read_close,
    unpack_event,
)
from greenchannels.net.backlog import SharedFrame
from greenchannels.net.reactor import Reactor


@pytest.fixture
def reactor():
    reactor = Reactor()
    yield reactor
    reactor.close()


EVENTS = [
    {"type": "x"},
    {"type": "x", "none": None, "true": True, "int": -5, "float": 1.5, "bytes": b"\0"},
    {"type": "x", "nested": {"list": [1, [2, {"k": "v"}]]}, "text": "grün 🌱"},
    {"type": "x", "at": datetime(2026, 11, 21, 3, 4, 5, 6)},
    {"type": "x", "at": datetime(2026, 11, 21, tzinfo=UTC)},
    {"type": "x", "at": datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=5)))},
    {"type": "x", "price": Decimal("19.90"), "big": Decimal("1E+400")},
    {"type": "x", "id": UUID("12345678-1234-5678-1234-567812345678")},
    {"type": "x", 1: "integer keys", b"b": "bytes keys"},
]


@pytest.mark.parametrize("event", EVENTS, ids=str)
def test_an_event_arrives_as_it_was_sent(event):
    """Types included."""
    assert unpack_event(pack_event(event)) == event


def test_tuples_arrive_as_lists_and_subclasses_as_what_they_are():
    """As MessagePack has neither."""

    class Colour(IntEnum):
        RED = 1

    class Text(str):
        __slots__ = ()

    packed = pack_event({"type": Text("x"), "t": (1, 2), "c": Colour.RED})
    assert unpack_event(packed) == {"type": "x", "t": [1, 2], "c": 1}


@pytest.mark.parametrize(
    "value",
    [object(), {1, 2}, 1j, 2**70, {None: 1}, {(1,): 1}, "\ud800", print],
    ids=repr,
)
def test_what_does_not_travel_is_a_type_error(value):
    """At the send, not at some receiver."""
    with pytest.raises(TypeError):
        make_broadcast({"type": "x", "value": value})


def test_a_circular_event_is_a_type_error():
    """And no endless loop."""
    event = {"type": "x"}
    event["self"] = event
    with pytest.raises(TypeError):
        make_broadcast(event)


def test_an_event_without_type_says_what_to_use_instead():
    """A dict without "type" is most often meant as JSON."""
    with pytest.raises(ValueError, match="send_json"):
        make_broadcast({"text": "hello"})


@pytest.mark.parametrize("value", [None, 1, ["a"], object()])
def test_only_str_bytes_and_events_are_messages(value):
    """Others say so."""
    with pytest.raises(TypeError, match="str, bytes or an event"):
        make_broadcast(value)


def test_a_sent_event_is_a_copy():
    """Changing the dict after the send, or at a receiver, changes nothing."""
    event = {"type": "x", "list": [1]}
    broadcast = make_broadcast(event)
    event["list"].append(2)
    first, second = unpack_event(broadcast.payload), unpack_event(broadcast.payload)
    first["list"].append(3)
    assert second == {"type": "x", "list": [1]}


@pytest.mark.parametrize(
    "message", ["x" * (MAX_MESSAGE + 1), b"x" * (MAX_MESSAGE + 1), "é" * MAX_MESSAGE]
)
def test_a_message_above_the_limit_is_too_large(message):
    """Counted in bytes as they travel."""
    with pytest.raises(MessageTooLarge) as caught:
        make_broadcast(message)
    assert caught.value.limit == MAX_MESSAGE
    assert caught.value.size > MAX_MESSAGE


def test_a_message_at_the_limit_fits():
    """1 MiB is allowed."""
    assert make_broadcast("x" * MAX_MESSAGE).size == MAX_MESSAGE


@pytest.mark.parametrize("message", ["text", b"bytes", {"type": "x"}, ""])
def test_messages_survive_the_way_between_processes(message):
    """With exclude, epoch and number."""
    sent = make_broadcast(message)
    data = encode_message(sent, exclude="1-a!2", epoch=3, number=4)
    received, exclude, epoch, number = decode_message(data)
    assert (received.kind, received.payload) == (sent.kind, sent.payload)
    assert (exclude, epoch, number) == ("1-a!2", 3, 4)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", b"hello", b"\x93\x01\x02\x03", b"\x96\x09\x01\x00\x00\xa0\xa0"],
)
def test_bytes_that_are_not_ours_are_a_value_error(data):
    """So that a stranger on our topic can be counted."""
    with pytest.raises(ValueError):
        decode_message(data)


def test_a_broadcast_is_encoded_once_for_each_encoding():
    """However many members ask."""
    calls = []

    def encode(payload):
        calls.append(payload)
        return payload.upper()

    broadcast = Broadcast(Kind.TEXT, "abc")
    assert [broadcast.encoded(encode) for _ in range(3)] == ["ABC"] * 3
    assert calls == ["abc"]


def test_shared_frames_know_their_topic_and_are_counted_by_whoever_made_them(reactor):
    """Also those that were made elsewhere and are only kept here."""

    def encode(payload):
        return SharedFrame(payload.encode())

    broadcast = Broadcast(Kind.TEXT, "abc")
    broadcast.topic, broadcast.backlog = "g:a", reactor.backlog
    frame = broadcast.encoded(encode)
    other = broadcast.keep("other", SharedFrame(b"xy"))
    assert broadcast.encodings == {encode: frame, "other": other}
    assert (frame.topic, other.topic) == ("g:a", "g:a")
    assert reactor.backlog.shared == 5
    assert broadcast.keep("plain", b"plain") == b"plain"
    assert reactor.backlog.shared == 5
    del broadcast, frame
    assert reactor.backlog.shared == 2
    del other
    assert reactor.backlog.shared == 0


def test_a_close_carries_code_and_reason():
    """For all sockets of a user."""
    assert read_close(make_close(4000, "bye").payload) == (4000, "bye")


@pytest.mark.parametrize("value", ["text", 1, None, [1, [2]], {"a": {"b": 1}}])
def test_every_member_has_an_event_of_its_own(value):
    """What one changes in it, or in what it holds, no other sees."""
    broadcast = make_broadcast({"type": "t", "value": value})
    first, second = broadcast.event(), broadcast.event()
    assert first == second == {"type": "t", "value": value}
    if isinstance(value, list):
        first["value"][1].append(3)
    elif isinstance(value, dict):
        first["value"]["a"]["b"] = 3
    first["more"] = first["value"]
    del first["value"]
    assert second == broadcast.event() == {"type": "t", "value": value}
