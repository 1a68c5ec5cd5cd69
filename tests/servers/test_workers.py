"""Workers: greenlets that run one consumer after another."""

import contextvars
import weakref

import gevent
import gevent.event
import pytest
from gevent import GreenletExit, getcurrent

from greenchannels.servers import workers as module
from greenchannels.servers.workers import Workers
from tests.servers.harness import until

VALUE = contextvars.ContextVar("VALUE", default="unset")


@pytest.fixture
def workers(no_leaks):
    """Workers of this hub, closed at the end."""
    found = Workers(gevent.get_hub(), contextvars.Context())
    yield found
    found.close()
    until(lambda: not found.all)


def run(workers, task):
    """Run a task as a hub callback does."""
    gevent.get_hub().loop.run_callback(workers.run, task)
    gevent.sleep(0)
    gevent.sleep(0)


def test_a_worker_is_used_again(workers):
    """By the next task."""
    seen = []
    for _ in range(3):
        run(workers, lambda: seen.append(weakref.ref(getcurrent())))
    assert len(seen) == 3
    assert len(set(seen)) == 1
    assert workers.busy == set()


def test_a_task_that_waits_keeps_its_worker(workers):
    """Others get one of their own."""
    seen, done = [], gevent.event.Event()

    def wait():
        seen.append(getcurrent())
        done.wait()

    run(workers, wait)
    run(workers, wait)
    assert len(set(seen)) == 2
    assert workers.busy == set(seen)
    assert "worker for" in seen[0].name
    done.set()
    until(lambda: not workers.busy)
    assert seen[0].name == "an idle worker"


def test_each_task_has_a_context_of_its_own(workers):
    """What one sets, the next does not see."""
    seen = []

    def task():
        seen.append(VALUE.get())
        VALUE.set("changed")

    run(workers, task)
    run(workers, task)
    assert seen == ["unset", "unset"]


def test_only_the_task_meant_is_killed(workers):
    """Not the one that its worker runs by then."""
    seen, done = [], gevent.event.Event()

    def first():
        seen.append(weakref.ref(getcurrent()))

    def second():
        seen.append(weakref.ref(getcurrent()))
        try:
            done.wait()
        except GreenletExit:
            seen.append("killed")
            raise

    run(workers, first)
    run(workers, second)
    assert seen[0] == seen[1]
    workers.kill(first)
    gevent.sleep(0)
    assert seen[2:] == []
    workers.kill(second)
    until(lambda: seen[2:] == ["killed"])
    until(lambda: not workers.all)
    run(workers, first)
    assert len(workers.all) == 1


def test_only_so_many_wait_for_a_task(workers, monkeypatch):
    """The others end."""
    monkeypatch.setattr(module, "MAX_IDLE", 2)
    done = gevent.event.Event()
    for _ in range(5):
        run(workers, done.wait)
    assert len(workers.all) == 5
    done.set()
    until(lambda: len(workers.all) == 2)
    assert len(workers.idle) == 2


def test_a_wake_up_that_comes_late_harms_nobody(workers):
    """It goes on waiting for a task."""
    seen = []
    run(workers, lambda: seen.append(weakref.ref(getcurrent())))
    gevent.get_hub().loop.run_callback(seen[0]().switch)
    gevent.sleep(0)
    assert len(workers.idle) == 1
    run(workers, lambda: seen.append(weakref.ref(getcurrent())))
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    "leave_behind",
    [
        lambda: gevent.Timeout(0.05).start(),
        lambda: gevent.spawn_later(0.05, getcurrent().kill),
        lambda: gevent.get_hub().loop.run_callback(getcurrent().throw, KeyError),
    ],
    ids=["timeout", "kill", "throw"],
)
def test_what_a_task_leaves_behind_does_not_hit_the_next(workers, leave_behind):
    """Its worker is not used again."""
    done = []

    def second():
        gevent.sleep(0.2)
        done.append(True)

    run(workers, leave_behind)
    run(workers, second)
    until(lambda: done)


def test_one_that_was_killed_while_idle_is_not_used(workers):
    """By somebody who kills all greenlets."""
    ran = []
    run(workers, lambda: ran.append(1))
    gevent.kill(workers.idle[0])
    until(lambda: not workers.idle)
    run(workers, lambda: ran.append(2))
    assert ran == [1, 2]
