"""Calls between layers: add and discard of sockets that live elsewhere."""

import os
import tempfile

import gevent
import msgspec
import pytest

from greenchannels.errors import ConnectionEnded, LayerUnavailable
from greenchannels.layers import remote
from greenchannels.layers.layer import group_topic
from greenchannels.layers.registry import make_layer
from greenchannels.net.reactor import Reactor
from greenchannels.testing.recording import RecordingMember, until
from tests.servers.harness import no_leaks

__all__ = ["no_leaks"]

pytestmark = pytest.mark.usefixtures("no_leaks")

TOPIC = group_topic("room")


@pytest.fixture
def layers():
    """Two layers over ipc."""
    reactor = Reactor()
    with tempfile.TemporaryDirectory(prefix="gc-") as above:
        url = f"ipc://{os.path.join(above, 'app')}"
        layers = [make_layer(url), make_layer(url)]
        for each in layers:
            each.start(reactor)
        yield layers
        for each in layers:
            each.close()
    reactor.close()


def call_and_catch(layer, name):
    """Return what adding a socket raises."""
    try:
        layer.add_channel(TOPIC, name)
    except Exception as error:
        return error
    return None


def test_many_calls_go_on_at_a_time(layers):
    """And each gets its own answer."""
    here, there = layers
    names = [there.new_channel(RecordingMember()) for _ in range(100)]
    for name in names[::2]:
        there.close_channel(name)
    calls = [gevent.spawn(call_and_catch, here, name) for name in names]
    gevent.joinall(calls)
    results = [type(each.value) for each in calls]
    assert results == [ConnectionEnded, type(None)] * 50
    assert len(list(there.members(TOPIC))) == 50


def test_too_many_calls_are_refused(layers, monkeypatch):
    """A process can be asked to do only so much at a time."""
    here, there = layers
    monkeypatch.setattr(remote, "MAX_CALLS", 0)
    error = call_and_catch(here, there.new_channel(RecordingMember()))
    assert isinstance(error, LayerUnavailable) and "too much" in str(error)


def test_a_call_that_fails_there_is_logged_there(layers, monkeypatch, caplog):
    """The caller is told the kind of error."""
    here, there = layers
    monkeypatch.setattr(there, "add", lambda topic, member: 1 / 0)
    error = call_and_catch(here, there.new_channel(RecordingMember()))
    assert isinstance(error, LayerUnavailable) and "ZeroDivisionError" in str(error)
    assert "a call of" in caplog.text and "ZeroDivisionError" in caplog.text


def test_without_an_answer_a_call_fails(layers, monkeypatch):
    """After two seconds; a late answer is nothing to anybody."""
    here, there = layers
    monkeypatch.setattr(remote, "CALL_TIMEOUT", 0.05)
    go = gevent.event.Event()
    add = there.add
    monkeypatch.setattr(there, "add", lambda *what: (go.wait(), add(*what)))
    member = RecordingMember()
    error = call_and_catch(here, there.new_channel(member))
    assert isinstance(error, LayerUnavailable) and "does not answer" in str(error)
    go.set()
    until(lambda: member in there.members(TOPIC))


def test_closing_fails_the_calls_that_wait(layers, monkeypatch):
    """And ends those of others."""
    here, there = layers
    asked = gevent.event.Event()
    monkeypatch.setattr(there, "add", lambda *what: (asked.set(), gevent.sleep(1000)))
    name = there.new_channel(RecordingMember())
    calling = gevent.spawn(call_and_catch, here, name)
    assert asked.wait(5)
    here.close()
    assert isinstance(calling.get(timeout=5), LayerUnavailable)


@pytest.mark.parametrize(
    "call",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode([1]),
        msgspec.msgpack.encode({}),
        msgspec.msgpack.encode(["a", 1, "add", "g:room", 7]),
    ],
)
def test_what_is_no_call_is_counted(layers, call):
    """And nothing else happens."""
    here, there = layers
    assert here._bus.publish("p:" + there.origin, remote.MARK + call)
    until(lambda: there.stats().get("messages that are not ours"))
    assert call_and_catch(here, there.new_channel(RecordingMember())) is None


def test_answers_to_nobody_are_dropped(layers):
    """As after the caller has stopped waiting."""
    here, there = layers
    answer = remote.MARK + msgspec.msgpack.encode([999, ""])
    assert here._bus.publish("p:" + there.origin, answer)
    assert call_and_catch(here, there.new_channel(RecordingMember())) is None
