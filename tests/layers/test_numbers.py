"""Numbers of messages, holes, probes, and what is forgotten."""

import logging

import msgspec
import pytest

from greenchannels.layers import numbers as module
from greenchannels.layers.numbers import Accounts, Heard, LossLog, Published


@pytest.fixture
def missed():
    return []


@pytest.fixture
def accounts(missed):
    """Accounts whose bus acknowledges."""
    return Accounts(lambda *loss: missed.append(loss), acknowledged=lambda origin: True)


@pytest.fixture
def clock(monkeypatch):
    """The time, as a list of one number."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def deliver(accounts, topic, last):
    """Give a message to accounts; return whether it is news."""
    return accounts.take(topic, "1-a", *last)


# Publishing.


def test_each_topic_has_numbers_of_its_own():
    """From one on, in one epoch."""
    published = Published()
    numbers = [published.number(topic) for topic in "aab"]
    assert numbers == [(1, 1), (1, 2), (1, 1)]
    assert [published.last(topic) for topic in "abc"] == [(1, 2), (1, 1), (0, 0)]


def test_idle_topics_are_forgotten_and_begin_a_new_epoch():
    """Not those that are used at least once a page."""
    published = Published()
    for topic in ("idle", "busy"):
        published.number(topic)
    for number in (2, 3):
        published.turn_page()
        assert published.number("busy") == (1, number)
    assert len(published) == 1
    assert published.number("idle") == (2, 1)


def test_pages_turn_after_a_minute(accounts, clock):
    """When a probe is due."""
    accounts = Accounts(lambda *loss: None, acknowledged=lambda origin: True)
    accounts.published.number("a")
    for _ in range(2):
        clock[0] += module.IDLE_TIME - 1
        accounts.probes()
        assert accounts.published.last("a") == (1, 1)
        clock[0] += 1
        accounts.probes()
    assert accounts.published.last("a") == (0, 0)


# Hearing.


def test_holes_are_found_by_the_next_message(accounts, missed):
    """And told with their size."""
    accounts.heard.learn("a", "1-a", 1, 5)
    for number in (6, 7, 10, 11):
        assert deliver(accounts, "a", (1, number))
    assert missed == [("a", 2)]


def test_what_was_heard_already_is_told_apart(accounts, missed):
    """Also of an epoch that is over."""
    accounts.heard.learn("a", "1-a", 2, 5)
    assert deliver(accounts, "a", (2, 6))
    for last in ((2, 6), (2, 1), (1, 9)):
        assert not deliver(accounts, "a", last)
    assert missed == []


def test_a_new_epoch_begins_with_one(accounts, missed):
    """What it lacks before is missed."""
    accounts.heard.learn("a", "1-a", 1, 5)
    deliver(accounts, "a", (2, 1))
    deliver(accounts, "a", (4, 3))
    assert missed == [("a", 2)]


def test_nothing_published_yet_is_a_base_line(accounts, missed):
    """What the acknowledgement of a quiet process says."""
    accounts.learn("1-a", ["a", "b"], accounts.describe(["a", "b"]))
    deliver(accounts, "a", (3, 1))
    deliver(accounts, "b", (3, 2))
    assert missed == [("b", 1)]


def test_of_a_younger_process_all_counts(accounts, missed):
    """Of the topics that were wanted already, from its first message on."""
    there = Accounts(lambda *loss: None, acknowledged=lambda origin: True)
    accounts.expect("1-a", ["a", "b"])
    for topic in "aac":
        there.published.number(topic)
    accounts.learn("1-a", ["a", "b", "c"], there.describe(["a", "b", "c"]))
    assert missed == [("a", 2)]
    assert deliver(accounts, "a", there.published.number("a"))
    assert deliver(accounts, "b", (1, 3))
    assert missed == [("a", 2), ("b", 2)]
    accounts.forget("1-a")
    assert len(accounts.heard) == 0


def test_without_a_base_line_nothing_is_missed(accounts, missed):
    """Before the acknowledgement, and of origins never heard of."""
    for number in (5, 9):
        assert deliver(accounts, "a", (1, number))
    assert missed == [] and len(accounts.heard) == 0


def test_the_first_number_counts_where_nothing_is_acknowledged():
    """As over Redis."""
    heard = Heard(first_counts=lambda origin: True)
    taken = [heard.take("a", "1-a", 1, number) for number in (5, 6, 9, 9)]
    assert taken == [0, 0, 2, -1]


def test_an_acknowledgement_after_an_interruption_tells_what_was_missed(
    accounts, missed
):
    """The base line is where it was before."""
    here = Accounts(lambda *loss: None, acknowledged=lambda origin: True)
    for _ in range(3):
        here.published.number("a")
    accounts.learn("1-a", ["a", "b", None], here.describe(["a", "b", "c"]))
    assert missed == []
    for topic in "aab":
        here.published.number(topic)
    accounts.learn("1-a", ["a", "b", None], here.describe(["a", "b", "c"]))
    assert missed == [("a", 2), ("b", 1)]
    assert deliver(accounts, "a", here.published.number("a"))
    assert missed == [("a", 2), ("b", 1)]


def test_a_sender_that_has_forgotten_a_topic_is_no_loss(accounts, missed):
    """It says that it published nothing."""
    accounts.heard.learn("a", "1-a", 1, 5)
    accounts.heard.learn("a", "1-a", 0, 0)
    assert deliver(accounts, "a", (2, 1))
    assert missed == []


def test_leaving_forgets_and_so_does_the_end_of_a_process(accounts, missed):
    """Then numbers begin anew."""
    for origin in ("1-a", "2-b"):
        accounts.heard.learn("a", origin, 1, 5)
        accounts.heard.learn("b", origin, 1, 5)
    accounts.heard.forget_topics(["a", "c"])
    assert len(accounts.heard) == 2
    accounts.forget("1-a")
    assert len(accounts.heard) == 1
    assert accounts.take("a", "1-a", 1, 9) and accounts.take("b", "1-a", 1, 9)
    assert missed == []


# Probes.


def test_a_probe_tells_the_tails(accounts, missed):
    """Of topics that are wanted; once."""
    there = Accounts(lambda *loss: None, acknowledged=lambda origin: True)
    accounts.learn("1-a", ["a"], there.describe(["a"]))
    for topic in "aab":
        there.published.number(topic)
    ((_, probe),) = there.probes()
    accounts.take_probe("1-a", probe)
    accounts.take_probe("1-a", probe)
    assert missed == [("a", 2)]
    assert deliver(accounts, "a", there.published.number("a"))
    assert missed == [("a", 2)]


def test_a_topic_is_in_the_two_probes_after_its_last_use():
    """The first may be lost."""
    accounts = Accounts(lambda *loss: None, acknowledged=lambda origin: True)
    accounts.published.number("a")
    assert [len(accounts.probes()) for _ in range(4)] == [1, 1, 0, 0]


def test_many_topics_make_several_probes(missed, accounts):
    """None is left out."""
    there = Accounts(lambda *loss: None, acknowledged=lambda origin: True)
    topics = [f"t{n}" for n in range(2 * module.MAX_PROBED + 1)]
    accounts.learn("1-a", topics, there.describe(topics))
    for topic in topics:
        there.published.number(topic)
    probes = there.probes()
    assert len(probes) == 3
    for _, probe in probes:
        accounts.take_probe("1-a", probe)
    assert missed == [(topic, 1) for topic in topics]


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x91\x91\xa1a", b"\x91\x01"])
def test_what_is_no_probe_or_note_is_refused(accounts, data):
    """With one kind of error."""
    with pytest.raises(ValueError):
        accounts.take_probe("1-a", data)
    with pytest.raises(ValueError):
        accounts.learn("1-a", ["a"], data)


def test_a_note_describes_what_was_asked(accounts):
    """Neither more nor less."""
    with pytest.raises(ValueError):
        accounts.learn("1-a", ["a"], accounts.describe(["a", "b"]))


# Warnings.


def test_losses_are_warned_of_at_once_and_then_together(clock, caplog):
    """At most each ten seconds."""
    log = LossLog()
    with caplog.at_level(logging.WARNING):
        log.add("a", 1)
        assert len(caplog.records) == 1
        for topic in "abb":
            log.add(topic, 2)
        log.warn()
        assert len(caplog.records) == 1
        clock[0] += module.WARNING_INTERVAL
        log.warn()
        log.warn()
    assert len(caplog.records) == 2
    assert (
        "6 messages of 2 topics" in caplog.messages[1] and "'b'" in caplog.messages[1]
    )


# Over a broker, which does not say who has ended.


@pytest.fixture
def brokered(missed, clock):
    """Accounts whose bus acknowledges nothing."""
    return Accounts(
        lambda *loss: missed.append(loss), acknowledged=lambda origin: False
    )


def echoes(accounts, clock, count):
    """Have own probes come back, as each 5 s."""
    for _ in range(count):
        clock[0] += 5.0
        accounts.note_echo()


def test_who_sends_no_probe_for_a_minute_is_forgotten(brokered, clock):
    """Who does is not, even if it sends nothing else."""
    for origin in ("1-a", "2-b"):
        brokered.take("g:room", origin, 1, 1)
        brokered.take_probe(origin, module.NO_NUMBERS)
    for _ in range(3):
        echoes(brokered, clock, 11)
        brokered.take_probe("1-a", module.NO_NUMBERS)
        echoes(brokered, clock, 1)
    assert len(brokered.heard) == 1
    assert brokered.heard_lately("1-a") and not brokered.heard_lately("2-b")
    assert brokered.heard.take("g:room", "1-a", 1, 3) == 1


def test_time_without_echoes_does_not_count(brokered, clock, missed):
    """After an outage of any length holes are counted."""
    brokered.take("g:room", "1-a", 1, 1)
    brokered.take_probe("1-a", module.NO_NUMBERS)
    echoes(brokered, clock, 1)
    clock[0] += 3600
    echoes(brokered, clock, 1)
    brokered.take("g:room", "1-a", 1, 10)
    assert missed == [("g:room", 8)]


def test_echoes_in_quick_succession_are_one(brokered, clock):
    """Connections that come and go do not let time fly."""
    brokered.take("g:room", "1-a", 1, 1)
    echoes(brokered, clock, 1)
    for _ in range(100):
        brokered.note_echo()
    assert len(brokered.heard) == 1


def test_tails_are_told_until_they_can_be(brokered, clock):
    """However long nobody could be told, and not for ever after."""
    brokered.published.number("g:room")
    for _ in range(50):
        clock[0] += 5.0
        ((_, probe),) = brokered.probes()
        assert msgspec.msgpack.decode(probe) == [["g:room", 1, 1]]
        brokered.told(False)
    for _ in range(2):
        assert len(brokered.probes()) == 1
        brokered.told(True)
    assert brokered.probes() == []


def test_what_nobody_can_be_told_is_bounded(brokered, clock, monkeypatch):
    """Of more topics than that the idle are forgotten."""
    monkeypatch.setattr(module, "MAX_UNTOLD", 10)
    for number in range(20):
        brokered.published.number(f"g:{number}")
    for _ in range(50):
        clock[0] += 5.0
        brokered.probes()
        brokered.told(False)
    assert len(brokered.published) == 0 and brokered.probes() == []
