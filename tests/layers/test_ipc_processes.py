"""
Processes of one machine that are killed, stopped, forked, or have no room.

Between those that live through it, what was published while a member was in is what
it got and what was counted as missed: to the message.
"""

import functools
import os
import signal
import subprocess
import tempfile
import time

import pytest

from tests.faults.lane import LONG, LONGEST_STOP, ROUNDS, chances
from tests.layers.ipc_harness import Family, family, nursery, until

__all__ = ["family", "nursery"]


def flood(processes, burst=10, size=20):
    """Have each publish all the time."""
    for each in processes:
        each("flood", "flood", burst, size)


def check_accounts(family, members):
    """Stop the floods; what ``members`` lack must be what they count as missed."""
    published = {each.origin: each("stop") for each in family.living}
    family.linked()
    for each in family.living:
        each("probe")

    def lacking(member):
        got, disorder = member("flooded")
        assert disorder == 0
        missed = member("stats").get("messages missed", 0)
        from_living = sum(got.get(origin, 0) for origin in published)
        return sum(published.values()) - from_living - missed

    for member in members:
        left = functools.partial(lacking, member)
        until(lambda left=left: left() == 0, note=left)
    time.sleep(0.05)
    assert [lacking(member) for member in members] == [0] * len(members)


def missed(process):
    """Return how many messages a process knows to have missed."""
    return process("stats").get("messages missed", 0)


def test_processes_that_start_together_all_meet(family):
    """With one link a pair, whoever dials first; and what is sent arrives once."""
    processes = family.start(6)
    for each in processes:
        each("join", "room")
    family.linked()
    for each in processes:
        each("send", "room", f"from {each.origin}")
    expected = sorted(f"from {each.origin}" for each in processes)
    for each in processes:
        until(lambda each=each: len(each("texts")) >= len(expected))
        assert sorted(each("texts")) == expected
    assert len(family.files()) == 12
    family.end()
    assert family.files() == []


def test_nobody_else_notices_that_a_process_is_killed(family):
    """Under load, again and again, while others start: nothing is missed."""
    stays = family.start(2)
    for each in stays:
        each("join", "flood")
    flood(stays)
    chance = chances("killed")
    for _ in range(ROUNDS):
        born = family.begin()[0]
        victims = [p for p in family.living if p not in stays and p is not born]
        victims += family.begin()
        time.sleep(chance.uniform(0, 0.03))
        for each in victims:
            each.kill()  # while two are starting, of which this kills one
        born.started()
        born("join", "flood")
        flood([born])
        for each in stays:
            until(lambda e=each, b=born: e("flooded")[0].get(b.origin, 0) > 100)
    check_accounts(family, stays)
    assert [missed(each) for each in stays] == [0, 0]
    until(lambda: family.names() == sorted(each.origin for each in family.living))


def test_who_is_stopped_for_a_moment_misses_nothing(family):
    """What was sent meanwhile waits for it."""
    processes = family.start(3)
    for each in processes:
        each("join", "flood")
    flood(processes)
    for number in range(ROUNDS):
        stopped = processes[number % 3]
        stopped.signal(signal.SIGSTOP)
        time.sleep(0.2)
        stopped.signal(signal.SIGCONT)
    check_accounts(family, processes)
    assert [missed(each) for each in processes] == [0, 0, 0]


def test_who_is_stopped_for_long_is_cut_off_and_counts_what_it_missed(family):
    """The others go on among themselves, and lose nothing of each other."""
    processes = family.start(3)
    for each in processes:
        each("limit", 10_000_000)
        each("join", "flood")
    flood(processes, burst=10, size=4000)
    *others, stopped = processes
    for _ in range(20 if LONG else 2):
        stopped.signal(signal.SIGSTOP)
        for each in others:
            until(lambda e=each: e("stats")["bus"]["processes linked"] == 1)
        time.sleep(LONGEST_STOP if LONG else 0)
        before = others[0]("flooded")[0][others[1].origin]
        until(lambda n=before: others[0]("flooded")[0][others[1].origin] > n)
        stopped.signal(signal.SIGCONT)
        family.linked()
    check_accounts(family, processes)
    assert missed(stopped) > 0
    for each in others:
        got, _ = each("flooded")
        assert [got[o.origin] for o in others] == [o("stop") for o in others]
    gaps = [e for e in stopped("events") if e["type"] == "layer.gap"]
    assert sum(gap["missed"] for gap in gaps) == missed(stopped)
    assert {gap["group"] for gap in gaps} == {"flood"}


def check_folder(family):
    """
    The dead have left nothing that stays.

    Those that were killed in their first moments leave a lock file, which a start
    removes when it is old.
    """
    until(lambda: family.names() == sorted(each.origin for each in family.living))
    lived = {each.origin for each in family.living}
    for name in family.files():
        if name.partition(".")[0] not in lived:
            os.utime(os.path.join(family.folder, name), (1, 1))
    family.start()
    assert len(family.files()) == 2 * len(family.living)


def test_processes_are_born_stopped_and_killed_at_random(family, record_property):
    """Many at once, any of them; who lives on misses nothing and keeps nothing."""
    elders = family.start(2)
    for each in elders:
        each("join", "flood")
    family.linked()
    before = [each("holds") for each in elders]
    flood(elders)
    chance, born, killed, stopped = chances("at random"), 0, 0, 0
    for _ in range(ROUNDS):
        children = family.begin(chance.randint(1, 4))
        born += len(children)
        halted = chance.sample(family.living, chance.randint(0, 2))
        for each in halted:
            each.signal(signal.SIGSTOP)
        stopped += len(halted)
        victims = [p for p in family.living if p not in elders]
        victims = chance.sample(victims, chance.randint(0, len(victims)))
        time.sleep(chance.uniform(0, 0.05))
        for each in victims:
            each.kill()
        killed += len(victims)
        longest = LONGEST_STOP if chance.random() < 0.5 else 0.3
        time.sleep(chance.uniform(0, longest))
        for each in halted:
            if each.alive:
                each.signal(signal.SIGCONT)
        children = [each for each in children if each.alive]
        for each in children:
            each.started()
        family.linked()
        for each in children:
            each("join", "flood")
        flood(children)
        newest = [p for p in family.living if p not in elders][-1:]
        for each in elders:
            for other in newest:
                until(lambda e=each, o=other: e("flooded")[0].get(o.origin, 0) > 100)
        for each in [p for p in family.living if p not in elders][4:]:
            each.kill()  # that many are enough for this machine
            killed += 1
    check_accounts(family, elders)
    family.linked()
    assert [each("holds") for each in elders] == before
    check_folder(family)
    record_property("born", born)
    record_property("killed", killed)
    record_property("stopped", stopped)
    record_property("published", sum(each("stop") for each in elders))
    assert [missed(each) for each in elders] == [0, 0]


def test_what_is_published_before_the_stopped_are_met_is_counted(family):
    """They wanted it all the time, and could not say so to who was born meanwhile."""
    stopped, other = family.start(2)
    stopped("join", "room")
    stopped.signal(signal.SIGSTOP)
    (born,) = family.start()
    born("send", "room", "unheard", 30)
    stopped.signal(signal.SIGCONT)
    until(lambda: missed(stopped) == 30)
    gap = {"type": "layer.gap", "missed": 30, "group": "room"}
    assert stopped("events") == [gap]
    born("send", "room", "heard")
    until(lambda: stopped("texts") == ["heard"])
    born("probe")
    other("join", "room")
    born("send", "room", "both")
    until(lambda: other("texts") == ["both"])
    assert (missed(stopped), missed(other)) == (30, 0)


def test_a_start_does_not_wait_for_the_stopped(family):
    """For more than two seconds; what it wants is confirmed late, which is a gap."""
    stopped, other = family.start(2)
    stopped.signal(signal.SIGSTOP)
    (born,) = family.start()
    assert 1 < born.start_time < 10
    assert born("join", "room") < 5
    other("send", "room", "from the living")
    until(lambda: born("texts") == ["from the living"])
    assert born("events") == []
    stopped.signal(signal.SIGCONT)
    family.linked()
    until(lambda: born("events"))
    gap = {"type": "layer.gap", "missed": None, "group": "room"}
    assert born("events") == [gap]
    stopped("send", "room", "again")
    until(lambda: born("texts")[1:] == ["again"])


def test_calls_to_the_stopped_and_the_dead_fail(family):
    """A stopped process does not answer; a dead one has no sockets."""
    caller, called = family.start(2)
    name = called("channel")
    called.signal(signal.SIGSTOP)
    answer = caller("add_channel", "room", name)
    assert answer["error"] == "LayerUnavailable" and "does not answer" in answer["text"]
    caller("limit", 100_000)
    caller("send_channel", name, "x" * 500_000)
    assert caller("send_channel", name, "y")["error"] == "LayerUnavailable"
    called.kill()
    until(lambda: caller("stats")["bus"]["processes"] == 0)
    assert caller("send_channel", name, "z") is None
    assert caller("stats")["sent to channels that have gone"] == 1
    assert caller("add_channel", "room", name)["error"] == "ConnectionEnded"


def test_forks_in_user_code_leave_the_links_to_the_parent(family):
    """While the child lives nothing is lost, and the parent's death is noticed."""
    parent, other = family.start(2)
    for each in (parent, other):
        each("join", "flood")
    flood([other])
    children = [parent("fork", seconds) for seconds in (0.1, 60)]
    try:
        until(lambda: parent("flooded")[0].get(other.origin, 0) > 500)
        parent("flood", "flood", 10)
        until(lambda: other("flooded")[0].get(parent.origin, 0) > 500)
        check_accounts(family, [parent, other])
        assert missed(parent) == missed(other) == 0
        parent.kill()
        until(lambda: other("stats")["bus"]["processes"] == 0)
        assert len(family.files()) == 2
    finally:
        os.kill(children[1], signal.SIGKILL)


def test_two_applications_never_meet(family, nursery):
    """Though their groups have the same names."""
    with tempfile.TemporaryDirectory(prefix="gc-") as above:
        others = Family(os.path.join(above, "other"), nursery)
        try:
            ours, theirs = family.start(2), others.start(2)
            for each in ours + theirs:
                each("join", "room")
            ours[0]("send", "room", "ours")
            theirs[0]("send", "room", "theirs")
            for each in ours:
                until(lambda each=each: each("texts") == ["ours"])
            for each in theirs:
                until(lambda each=each: each("texts") == ["theirs"])
            family.linked()
            others.linked()
            assert ours[1]("texts") == ["ours"]
        finally:
            others.end()


@pytest.fixture
def full_disk(nursery):
    """A family whose folder's disk can be filled."""
    with tempfile.TemporaryDirectory(prefix="gc-") as above:
        mounted = ["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=10", "none", above]
        if os.geteuid() != 0 or subprocess.run(mounted, capture_output=True).returncode:
            pytest.skip("cannot mount a tmpfs")
        family = Family(os.path.join(above, "app"), nursery)
        yield family
        family.end()
        subprocess.run(["umount", "-l", above], check=True)


def test_a_full_disk_stops_only_those_who_start(full_disk):
    """They say why; who runs goes on, and meets who starts when there is room."""
    family = full_disk
    processes = family.start(2)
    for each in processes:
        each("join", "room")
    above, filling = os.path.dirname(family.folder), []
    with pytest.raises(OSError, match="No space"):
        while True:
            filling.append(os.path.join(above, str(len(filling))))
            with open(filling[-1], "x"):
                pass
    (late,) = family.begin()
    answer = late.answer()
    assert answer["error"] == "LayerUnavailable" and "No space" in answer["text"]
    late.kill()
    processes[0]("send", "room", "still here")
    until(lambda: processes[1]("texts") == ["still here"])
    for path in filling[:-1]:
        os.unlink(path)
    (born,) = family.start()
    born("join", "room")
    processes[0]("send", "room", "all here")
    until(lambda: born("texts") == ["all here"])
