"""The clock: alarms in the hub, never early, cheap to cancel."""

import time

import gevent
import pytest

from greenchannels.net import clock as clock_module
from greenchannels.net.clock import RESOLUTION, Clock

MS = 0.001


@pytest.fixture
def clock():
    clock = Clock(gevent.get_hub().loop)
    yield clock
    clock.close()


def test_an_alarm_rings_once_and_never_early(clock):
    """It rings between its time and one bucket later, plus what the machine adds."""
    rung = []
    start = time.monotonic()
    clock.call_later(50 * MS, lambda: rung.append(time.monotonic() - start))
    gevent.sleep(300 * MS)
    assert len(rung) == 1
    assert 50 * MS <= rung[0] < 10 * (50 * MS + RESOLUTION)


def test_a_cancelled_alarm_never_rings(clock):
    """Cancelling twice changes nothing."""
    rung = []
    alarm = clock.call_later(30 * MS, lambda: rung.append(1))
    alarm.cancel()
    alarm.cancel()
    gevent.sleep(100 * MS)
    assert rung == []


def test_an_earlier_alarm_set_later_rings_first(clock):
    """The timer is moved forward for it."""
    rung = []
    clock.call_later(150 * MS, lambda: rung.append("late"))
    clock.call_later(20 * MS, lambda: rung.append("early"))
    gevent.sleep(90 * MS)
    assert rung == ["early"]
    gevent.sleep(200 * MS)
    assert rung == ["early", "late"]


def test_an_alarm_set_by_an_alarm_rings(clock):
    """Also when no other alarm is left."""
    rung = []
    clock.call_later(0, lambda: clock.call_later(0, lambda: rung.append(1)))
    gevent.sleep(200 * MS)
    assert rung == [1]


def test_a_failing_callback_is_logged_and_stops_nothing(clock, caplog):
    """The others of its bucket still ring."""
    rung = []

    def fail():
        raise RuntimeError("broken callback")

    clock.call_later(10 * MS, fail)
    clock.call_later(10 * MS, lambda: rung.append(1))
    gevent.sleep(100 * MS)
    assert rung == [1]
    assert "broken callback" in caplog.text


def test_many_alarms_at_once_leave_turns_to_others(clock, monkeypatch):
    """At most ALARMS_PER_TURN ring in one turn of the hub."""
    monkeypatch.setattr(clock_module, "ALARMS_PER_TURN", 10)
    rung = []
    turns = []
    for i in range(100):
        clock.call_later(20 * MS, lambda i=i: rung.append(i))

    def count_turns():
        while len(rung) < 100:
            turns.append(len(rung))
            gevent.sleep(0)

    gevent.spawn(count_turns).join(timeout=5)
    assert len(rung) == 100
    seen = {n for n in turns if 0 < n < 100}
    assert len(seen) >= 5


def test_cancelled_alarms_leave_no_buckets_behind(clock):
    """Buckets go when their time comes, or when they are the first and empty."""
    alarms = [clock.call_later(i * 30 * MS, lambda: None) for i in range(5)]
    for alarm in alarms:
        alarm.cancel()
    gevent.sleep(300 * MS)
    clock.call_later(0, lambda: None)
    gevent.sleep(50 * MS)
    assert clock._order == []
    assert clock._buckets == {}
