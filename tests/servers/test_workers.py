"""Workers: greenlets that run one consumer after another."""

import contextvars
import time
import weakref

import gevent
import gevent.event
import pytest
from gevent import GreenletExit, getcurrent

from greenchannels.net.reactor import Reactor
from greenchannels.servers import workers as module
from greenchannels.servers.workers import Workers
from tests.servers.harness import until

VALUE = contextvars.ContextVar("VALUE", default="unset")


@pytest.fixture
def workers(no_leaks):
    """Workers of this hub, closed at the end."""
    reactor = Reactor()
    found = Workers(reactor, contextvars.Context())
    yield found
    found.close()
    until(lambda: not found.all)
    reactor.close()


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


# Tasks that can wait for the hub's turn.


def test_tasks_of_soon_share_a_worker(workers):
    """In order, each in its own context, and not before the hub's turn."""
    seen = []

    def task(n):
        seen.append((n, VALUE.get(), weakref.ref(getcurrent())))

    for n in range(5):
        context = contextvars.Context()
        context.run(VALUE.set, n)
        workers.soon(lambda n=n: task(n), context)
    assert seen == []
    until(lambda: len(seen) == 5)
    assert [(n, value) for n, value, _ in seen] == [(n, n) for n in range(5)]
    assert len({greenlet for _, _, greenlet in seen}) == 1


def test_a_task_of_soon_that_waits_holds_up_nobody(workers):
    """The next one gets another worker."""
    seen, done = [], gevent.event.Event()
    workers.soon(lambda: (seen.append(1), done.wait()), contextvars.Context())
    workers.soon(lambda: seen.append(2), contextvars.Context())
    until(lambda: seen == [1, 2])
    assert len(workers.busy) == 1
    done.set()


def test_tasks_of_soon_leave_others_their_turns(workers):
    """They take a bounded time of one turn of the hub."""
    seen, before = [], []
    many = 100

    def compute(n):
        seen.append(n)
        end = time.perf_counter() + module.SLICE_TIME / 10
        while time.perf_counter() < end:
            pass

    for n in range(many):
        workers.soon(lambda n=n: compute(n), contextvars.Context())
    timer = gevent.get_hub().loop.timer(0)
    timer.start(lambda: before.append(len(seen)))
    until(lambda: len(seen) == many)
    timer.close()
    assert seen == list(range(many))
    assert before and before[0] < many


def test_a_task_of_soon_may_put_another_there(workers):
    """Without end, and others still have their turns."""
    count = [0]

    def again():
        count[0] += 1
        if count[0] < 1000:
            workers.soon(again, contextvars.Context())

    workers.soon(again, contextvars.Context())
    until(lambda: count[0] == 1000)


def test_a_task_of_soon_that_raises_does_not_stop_the_rest(workers, no_leaks):
    """The hub shows what it raised, the others run."""
    seen = []
    stream = gevent.get_hub().exception_stream

    def fail():
        raise KeyError("of a task")

    workers.soon(fail, contextvars.Context())
    workers.soon(lambda: seen.append(1), contextvars.Context())
    until(lambda: seen)
    assert "of a task" in stream.getvalue()
    stream.seek(0)
    stream.truncate()


@pytest.mark.parametrize(
    "leave_behind",
    [
        lambda: gevent.Timeout(0.02).start(),
        lambda: gevent.spawn_later(0.02, getcurrent().kill),
    ],
    ids=["timeout", "kill"],
)
def test_what_a_task_of_soon_leaves_behind_does_not_hit_the_next(workers, leave_behind):
    """Although it begins at once: in another worker."""
    seen = []

    def second():
        seen.append(weakref.ref(getcurrent()))
        gevent.sleep(0.1)
        seen.append("unharmed")

    def first():
        seen.append(weakref.ref(getcurrent()))
        leave_behind()

    workers.soon(first, contextvars.Context())
    workers.soon(second, contextvars.Context())
    until(lambda: seen[2:] == ["unharmed"])
    assert seen[0] != seen[1]
