"""Token buckets, without a clock: what passes in any time, and what is kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenchannels.options import Rate
from greenchannels.servers.buckets import Bucket, SharedBuckets, Terms, network_of

#: Times between two messages, in seconds: none, short and long.
gaps = st.one_of(st.just(0.0), st.floats(0.0, 0.2), st.floats(0.0, 20.0))

rates = st.builds(
    Rate,
    messages=st.one_of(st.none(), st.integers(1, 50)),
    bytes=st.integers(1, 5000),
    per=st.floats(0.1, 10.0),
    burst=st.one_of(st.none(), st.floats(0.01, 30.0)),
)


def full_bucket(now=0.0, **rate):
    """Return a bucket of ``Rate(**rate)``."""
    return Bucket(Terms(Rate(**rate)), now)


def passes(bucket, now, size=0):
    """Let a message pass if it fits, and tell whether it did."""
    bucket.refill(now)
    if bucket.short_of(size) is not None:
        return False
    bucket.take(1, size)
    return True


def most_in_any_window(passed, per_second, room):
    """Check that no window of time has more than what flowed in and one bucket."""
    for start in range(len(passed)):
        total = 0
        for when, amount in passed[start:]:
            total += amount
            elapsed = when - passed[start][0]
            assert total <= elapsed * per_second + room + 1e-3


@given(rates, st.lists(st.tuples(gaps, st.integers(0, 6000)), max_size=60))
def test_never_more_than_the_rate_and_one_bucket_pass_in_any_window(rate, sent):
    """Messages and bytes each, for every rate and every way of sending."""
    bucket, now, passed = Bucket(Terms(rate), 1000.0), 1000.0, []
    for gap, size in sent:
        now += gap
        if passes(bucket, now, size):
            passed.append((now, size))
    burst = rate.per if rate.burst is None else rate.burst
    if rate.messages is not None:
        room = max(1, rate.messages * burst / rate.per)
        ones = [(when, 1) for when, _ in passed]
        most_in_any_window(ones, rate.messages / rate.per, room)
    room = max(1, rate.bytes * burst / rate.per)
    most_in_any_window(passed, rate.bytes / rate.per, room)


@given(rates, st.lists(st.tuples(gaps, st.integers(0, 6000)), max_size=60))
def test_what_waits_as_long_as_it_is_told_passes_at_the_rate(rate, sent):
    """Bytes may be owed by one message; what is owed is waited for."""
    bucket, now, passed = Bucket(Terms(rate), 1000.0), 1000.0, []
    for gap, size in sent:
        now += gap
        bucket.refill(now)
        if not bucket.ready:
            now += bucket.delay()
            bucket.refill(now)
            assert bucket.ready
        bucket.take(1, size)
        passed.append((now, size))
    burst = rate.per if rate.burst is None else rate.burst
    largest = max((size for _, size in passed), default=0)
    room = max(1, rate.bytes * burst / rate.per)
    most_in_any_window(passed, rate.bytes / rate.per, room + largest)


@given(rates, st.lists(gaps, max_size=20))
def test_a_bucket_is_like_one_that_is_refilled_all_the_time(rate, times):
    """It does not matter how often somebody looks."""
    often, once, now = Bucket(Terms(rate), 5.0), Bucket(Terms(rate), 5.0), 5.0
    for bucket in often, once:
        bucket.take(3, 700)
    for gap in times:
        now += gap
        often.refill(now)
    once.refill(now)
    assert often.bytes == pytest.approx(once.bytes, abs=1e-3)
    if rate.messages is not None:
        assert often.messages == pytest.approx(once.messages, abs=1e-6)


def test_a_bucket_holds_what_comes_in_per_unless_burst_says_otherwise():
    """A hundred a minute may come at once, and then one every 0.6 s."""
    bucket = full_bucket(messages=100, per=60.0)
    assert sum(passes(bucket, 0.0) for _ in range(1000)) == 100
    assert not passes(bucket, 0.59)
    assert passes(bucket, 0.61)
    bucket = full_bucket(messages=100, per=60.0, burst=3.0)
    assert sum(passes(bucket, 0.0) for _ in range(1000)) == 5
    bucket = full_bucket(messages=2, per=1.0, burst=10.0)
    assert sum(passes(bucket, 0.0) for _ in range(1000)) == 20


def test_a_bucket_has_room_for_one_message_however_small_it_is():
    """Or nothing would ever pass."""
    bucket = full_bucket(messages=1, per=60.0, burst=0.5)
    assert passes(bucket, 0.0)
    assert not passes(bucket, 59.0)
    assert passes(bucket, 60.0)


def test_what_is_not_limited_is_never_missing():
    """A rate of messages lets any bytes pass, and the other way round."""
    assert passes(full_bucket(messages=1), 0.0, 10**12)
    bucket = full_bucket(bytes=10)
    assert all(passes(bucket, 0.0, 0) for _ in range(1000))
    assert bucket.short_of(11) == "bytes"


def test_a_clock_that_stands_or_goes_back_adds_nothing():
    """And takes nothing."""
    bucket = full_bucket(now=100.0, messages=2)
    assert passes(bucket, 100.0) and passes(bucket, 100.0)
    assert not passes(bucket, 90.0) and not passes(bucket, 100.0)
    assert bucket.messages == 0


def test_pings_owe_one_bucket_at_most_whatever_is_owed_already():
    """So that a flood of them does not block who shares the bucket for hours."""
    bucket = full_bucket(messages=10, bytes=100)
    bucket.take_within(5, 50)
    assert (bucket.messages, bucket.bytes) == (5, 50)
    bucket.take_within(10_000, 10_000)
    assert (bucket.messages, bucket.bytes) == (-10, -100)
    assert bucket.delay() == pytest.approx(1.1)
    bucket.take(0, 1000)
    bucket.take_within(1, 1)
    assert (bucket.messages, bucket.bytes) == (-10, -1100)


# Shared buckets.


def test_a_full_bucket_is_forgotten_and_one_in_use_is_not():
    """Whoever comes next makes room."""
    shared = SharedBuckets(Rate(1, per=10.0))
    for n in range(100):
        passes(shared.get(n, 0.0), 0.0)
    assert len(shared) == 100
    busy = shared.get("busy", 9.0)
    passes(busy, 9.0)
    for n in range(100):
        shared.get(("late", n), 11.0)
    assert len(shared) < 10
    assert shared.get("busy", 11.0) is busy


@given(st.lists(st.tuples(st.integers(0, 30), gaps), max_size=200))
def test_forgetting_gives_nobody_more_than_the_rate(visits):
    """A forgotten bucket was full: it makes no difference that it is new."""
    shared, now = SharedBuckets(Rate(3, per=2.0)), 0.0
    kept = {}
    for key, gap in visits:
        now += gap
        reference = kept.setdefault(key, full_bucket(now, messages=3, per=2.0))
        assert passes(shared.get(key, now), now) == passes(reference, now)


def test_the_buckets_are_bounded_although_all_are_in_use():
    """What was used of late stays."""
    shared = SharedBuckets(Rate(1, per=1e6), most=50)
    mine = shared.get("mine", 0.0)
    passes(mine, 0.0)
    for n in range(1000):
        passes(shared.get(n, 0.0), 0.0)
        assert shared.get("mine", 0.0) is mine
    assert len(shared) <= 50
    assert not passes(shared.get(999, 1.0), 1.0)


def test_a_bucket_that_somebody_waits_for_is_never_forgotten():
    """Not even above the bound."""
    shared = SharedBuckets(Rate(1, per=1e6), most=5)
    waited_for = shared.get("x", 0.0)
    waited_for.line = object()
    for n in range(1000):
        shared.get(n, 0.0)
    assert shared.get("x", 0.0) is waited_for
    assert len(shared) <= 6


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:1:2:3", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("somebody", "somebody", True),
        ("somebody", "else", False),
        ("::", "0.0.0.0", False),
    ],
)
def test_addresses_are_counted_by_network(one, other, same):
    """IPv4 alone, IPv6 by /64, names as they are."""
    assert (network_of(one) == network_of(other)) is same
