"""
Workers of ``greenchannels run`` that are killed, stopped and replaced under load.

Real clients are spread over them and publish all the time: what one sent while another
was in is what that one got and what its worker counted, and nobody's connection is
closed but those of the dead.
"""

import os
import signal
import subprocess
import tempfile
import time

import gevent
import pytest

from tests.faults.crowd import Crowd
from tests.faults.fleet import Fleet, until
from tests.faults.lane import LONGEST_STOP, ROUNDS, chances


@pytest.fixture
def runtime():
    """A folder with a short path for the sockets' folder."""
    with tempfile.TemporaryDirectory(prefix="gc-", dir="/tmp") as folder:
        yield folder


@pytest.fixture
def start(tmp_path, runtime):
    """A function that starts workers with a crowd in them."""
    started = []

    def start_fleet(*arguments, folder=tmp_path, size=0, **options):
        fleet = Fleet(folder, runtime, *arguments, **options)
        started.append(Crowd(fleet, size))
        return started[-1]

    yield start_fleet
    for crowd in started:
        crowd.close()
        crowd.fleet.kill()


def begin(crowd, each=2):
    """Wait until all are up, fill them, and begin to publish; return the ids."""
    pids = crowd.fleet.up()
    crowd.fill(pids, each)
    return pids


def check_no_leak(before, after):
    """Who lived through it has the descriptors and greenlets of before."""
    for pid in before.keys() & after.keys():
        one, other = before[pid], after[pid]
        assert other["descriptors"] == one["descriptors"]
        pooled = 20  # kept for the next
        assert other["greenlets"] <= one["greenlets"] + pooled


@pytest.mark.slow
def test_workers_are_killed_under_load(start, record_property):
    """One or two at once, also those that are just starting: others miss nothing."""
    crowd, chance = start(workers=4), chances("killed")
    pids = begin(crowd)
    elder = min(pids)
    before = crowd.looks(pids)
    crowd.start()
    kills = 0
    for _ in range(ROUNDS):
        victims = set(chance.sample(sorted(pids - {elder}), chance.choice((1, 1, 2))))
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        if chance.random() < 0.5:  # a start while others die, and its own death
            born = crowd.fleet.wait_for_workers(lambda now, old=pids: now - old) - pids
            gevent.sleep(chance.uniform(0, 0.4))
            victims.add(pid := min(born))
            os.kill(pid, signal.SIGKILL)
        kills += len(victims)
        crowd.await_end(victims)
        crowd.heard_anew(pids - victims)
        pids = crowd.fleet.replaced(victims)
        crowd.bury(victims)
        crowd.fill(pids)
    crowd.settle()
    assert crowd.missed == 0
    check_no_leak(before, crowd.looks(pids))
    until(lambda: len(crowd.fleet.files()) == 2 * len(pids))
    record_property("killed", kills)
    record_property("published", sum(m.sent for m in crowd.members) + crowd.published)
    crowd.close()
    crowd.fleet.leave()


@pytest.mark.slow
def test_any_process_is_stopped_under_load(start, record_property):
    """
    Workers, and who looks after them: the others go on, and nobody misses anything.

    Meanwhile others may be killed, so that some start beside the stopped.
    """
    crowd, chance = start(workers=3), chances("stopped")
    pids = begin(crowd)
    before = crowd.looks(pids)
    crowd.start()
    stops, kills, seconds = 0, 0, 0.0
    for number in range(ROUNDS):
        stopped = chance.choice([*sorted(pids), crowd.fleet.pid])
        victims = set()
        pause = chance.uniform(0, LONGEST_STOP)
        os.kill(stopped, signal.SIGSTOP)
        stops, seconds = stops + 1, seconds + pause
        began = time.monotonic()
        if number % 3 == 2:
            victims = {chance.choice(sorted(pids - {stopped}))}
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
            kills += 1
            crowd.await_end(victims)
        crowd.heard_anew(pids - victims - {stopped})
        gevent.sleep(max(0, began + pause - time.monotonic()))
        os.kill(stopped, signal.SIGCONT)
        pids = crowd.fleet.replaced(victims)
        crowd.bury(victims)
        crowd.fill(pids)
        crowd.heard_anew(pids)
    crowd.settle()
    check_no_leak(before, crowd.looks(pids))
    until(lambda: len(crowd.fleet.files()) == 2 * len(pids))
    record_property("stopped", stops)
    record_property("seconds stopped", round(seconds, 1))
    record_property("killed meanwhile", kills)
    record_property("published", sum(m.sent for m in crowd.members) + crowd.published)
    record_property("missed and counted", crowd.missed)
    crowd.close()
    crowd.fleet.leave()


@pytest.mark.slow
def test_who_looks_after_the_workers_is_killed_under_load(start, record_property):
    """Sockets are told 1012; the next start finds its groups, beside those who end."""
    crowd = start(workers=2)
    pids = begin(crowd)
    published = 0
    for _ in range(ROUNDS):
        crowd.start()
        crowd.heard_anew(pids)
        old = crowd
        old.fleet.signal(signal.SIGKILL)
        old.fleet.process.wait()
        crowd = start(workers=2)
        pids_then, pids = pids, begin(crowd)
        old.await_end(pids_then)
        old.quiet()
        old.bury(pids_then, codes=(1012,))
        published += old.published
        until(lambda fleet=old.fleet: not fleet.members(), note=old.fleet)
    crowd.start()
    crowd.heard_anew(pids)
    crowd.settle()
    assert crowd.missed == 0
    assert len(crowd.looks(pids)) == 2
    assert len(crowd.fleet.files()) == 4
    record_property("killed", ROUNDS)
    record_property("published", published + sum(m.sent for m in crowd.members))
    crowd.close()
    crowd.fleet.leave()


def test_all_of_a_server_is_killed_at_once(start):
    """What it leaves in the folder is removed by who starts next."""
    crowd = start(workers=2)
    begin(crowd, each=1)
    crowd.start()
    crowd.close()
    crowd.fleet.kill()
    assert len(crowd.fleet.files()) == 4
    crowd = start(workers=2)
    pids = begin(crowd, each=1)
    crowd.start()
    crowd.heard_anew(pids)
    crowd.settle()
    assert len(crowd.fleet.files()) == 4
    crowd.close()
    crowd.fleet.leave()


@pytest.mark.slow
def test_members_know_how_much_they_missed(start, record_property):
    """A worker that is stopped is cut off; its members are told each hole's size."""
    crowd = start(workers=3, size=4000, env={"MAX_WAITING": "300000"})
    pids = begin(crowd, each=2)
    crowd.start()
    crowd.heard_anew(pids)
    for stopped in sorted(pids)[: 3 if ROUNDS > 5 else 1]:
        os.kill(stopped, signal.SIGSTOP)
        others = pids - {stopped}

        def cut(others=others):
            looks = [crowd.of(pid).look() for pid in others]
            return all(look["stats"]["bus"]["processes linked"] == 1 for look in looks)

        until(cut, note=crowd.fleet)
        crowd.heard_anew(others)
        os.kill(stopped, signal.SIGCONT)
        crowd.heard_anew(pids)
        crowd.bury()
    crowd.settle()
    looks = crowd.looks(pids)
    for member in crowd.members:
        assert member.missed == looks[member.pid]["stats"].get("messages missed", 0)
    assert crowd.missed > 0
    record_property("missed and counted", crowd.missed)
    crowd.close()
    crowd.fleet.leave()


def test_what_user_code_forks_keeps_nothing(start):
    """Programs it runs, and forks that live on when their worker has been killed."""
    crowd = start(workers=2)
    pids = begin(crowd, each=2)
    before = crowd.looks(pids)
    victim, survivor = sorted(pids)
    for pid in pids:
        crowd.of(pid).say("!execute 60", "!fork 60")
    until(lambda: len(crowd.fleet.members()) == 7, note=crowd.fleet)
    crowd.start()
    crowd.heard_anew(pids)
    check_no_leak(before, crowd.looks(pids))
    os.kill(victim, signal.SIGKILL)
    pids = crowd.fleet.replaced({victim})
    look = crowd.of(survivor).look
    until(lambda: look()["stats"]["bus"]["processes"] == 1, note=crowd.fleet)
    gone = [member for member in crowd.members if member.pid == victim]
    for member in gone:
        crowd.members.remove(member)
        member.close()  # the fork still has its connection
    crowd.fill(pids)
    crowd.heard_anew(pids)
    crowd.settle()
    assert crowd.missed == 0
    assert len(crowd.fleet.files()) == 4
    crowd.close()


def test_two_applications_never_meet(start, tmp_path):
    """The same routing in two folders, under one user: two names, and two crowds."""
    crowds = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        crowds.append(start(workers=2, folder=tmp_path / name))
    for crowd in crowds:
        pids = begin(crowd, each=1)
        crowd.start()
        crowd.heard_anew(pids)
    for crowd in crowds:
        crowd.settle()
        assert len(crowd.looks({m.pid for m in crowd.members})) == 2
        for member in crowd.members:
            assert member.heard.keys() <= crowd.numbers
            assert member.missed == 0
    for crowd in crowds:
        crowd.close()
        crowd.fleet.signal(signal.SIGTERM)
    for crowd in crowds:
        until(lambda c=crowd: c.fleet.process.poll() == 0, note=crowd.fleet)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_folder_of_another_user_is_refused_at_once(start, runtime):
    """In one line, with exit code 2; nobody serves without the groups of the others."""
    os.mkdir(f"{runtime}/greenchannels", 0o700)
    os.chown(f"{runtime}/greenchannels", 12345, 12345)
    fleet = start(workers=2).fleet
    until(lambda: fleet.process.poll() is not None, note=fleet)
    assert fleet.process.returncode == 2
    (line,) = fleet.error.decode().splitlines()
    assert line.startswith("Error: ") and "another user (12345)" in line


@pytest.fixture
def small_disk(runtime):
    """The folder's disk has room for a few files."""
    mounted = ["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=9", "none", runtime]
    if os.geteuid() != 0 or subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs")
    yield runtime
    subprocess.run(["umount", "-l", runtime], check=True)


def test_on_a_full_disk_workers_go_on_and_are_replaced_when_there_is_room(
    small_disk, start
):
    """The log says why they are not; members of the others miss nothing."""
    crowd = start(workers=2)
    pids = begin(crowd, each=2)
    victim, survivor = sorted(pids)
    crowd.start()
    crowd.fleet.signal(signal.SIGSTOP)
    os.kill(victim, signal.SIGKILL)
    crowd.await_end({victim})
    crowd.bury({victim})
    until(lambda: len(crowd.fleet.files()) == 2)
    filling = []
    with pytest.raises(OSError, match="No space"):
        while True:
            filling.append(f"{small_disk}/{len(filling)}")
            with open(filling[-1], "x"):
                pass
    crowd.fleet.signal(signal.SIGCONT)
    crowd.fleet.wait_for(rb"did not start")
    assert b"No space left" in crowd.fleet.error
    crowd.heard_anew({survivor})
    for path in filling[:-1]:
        os.unlink(path)
    pids = crowd.fleet.replaced({victim})
    crowd.fill(pids)
    crowd.heard_anew(pids)
    crowd.settle()
    assert crowd.missed == 0
    crowd.close()
    crowd.fleet.leave()
