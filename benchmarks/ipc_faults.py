"""
How long faults between processes of one machine last.

``python -m benchmarks.ipc_faults`` prints two tables for docs/processes.md.

Each figure is the median of the rounds, with the least and the most. The processes are
those of the tests of faults: bare layers (``tests/layers/ipc_program.py``) where the
figure is the layer's, workers of ``greenchannels run`` with clients (``tests/faults``)
where it is what users see. Nothing is pinned: all share the machine's cores.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import gevent

from benchmarks.machine import processor
from tests.faults.crowd import Crowd, Member
from tests.faults.fleet import Fleet, until
from tests.layers.ipc_harness import Family, Nursery

#: Bytes of a message that the kernel does not take at once.
LARGE = 1_000_000

#: Messages each 2 ms, and their size, that fill a link's buffer: 20 MB in a second.
BURST, SIZE = 10, 4000

#: Seconds of an undisturbed measurement, and of a stop.
CALM, STOP = 2.0, 1.0


def elapsed(condition, timeout=60):
    """Return the seconds until a condition is true, asked all the time."""
    began = time.perf_counter()
    while not condition():
        assert time.perf_counter() - began < timeout
    return time.perf_counter() - began


@contextlib.contextmanager
def layers(count):
    """Give so many processes that have linked up, and their family."""
    nursery = Nursery()
    with tempfile.TemporaryDirectory(prefix="gc-") as above:
        family = Family(os.path.join(above, "app"), nursery)
        try:
            started = family.start(count)
            for each in started:
                each("join", "flood")
            family.linked()
            yield family, started
        finally:
            family.end()
            nursery.close()


@contextlib.contextmanager
def workers(count, kind=None):
    """Give a crowd in so many workers, two in each, and their ids."""
    with (
        tempfile.TemporaryDirectory(prefix="gc-") as folder,
        tempfile.TemporaryDirectory(prefix="gc-", dir="/tmp") as runtime,
    ):
        fleet = Fleet(Path(folder), runtime, "--drain", "2", workers=count)
        crowd = (kind or Crowd)(fleet)
        try:
            pids = fleet.up()
            crowd.fill(pids)
            yield crowd, pids
        finally:
            crowd.close()
            fleet.kill()


class StampedMember(Member):
    """A member that notes how long messages of other workers took."""

    def publish(self):
        """Send the next number, and note when."""
        super().publish()
        self.crowd.times[self.number, self.sent] = time.perf_counter(), self.pid

    def _count(self, sender, number):
        super()._count(sender, number)
        sent = self.crowd.times.get((sender, number))
        if sent is not None and sent[1] != self.pid:
            late = time.perf_counter() - sent[0]
            self.crowd.latencies.append((sent[1], self.pid, late))


class StampedCrowd(Crowd):
    """A crowd that notes how long messages between workers took."""

    kind = StampedMember

    def __init__(self, fleet):
        super().__init__(fleet)
        self.times, self.latencies = {}, []

    def pause(self, without=()):
        """Return p99 and maximum since the last time, of others than these workers."""
        found, self.latencies = self.latencies, []
        kept = sorted(t for a, b, t in found if not {a, b} & set(without))
        return kept[len(kept) * 99 // 100], kept[-1]


# What is measured: each gives figures by name, in seconds.


def death(family, started):
    """Between layers: a death, and starts."""
    one, other, *_ = started
    (born,) = family.start()
    family.linked()
    yield "a start, all others running", born.start_time
    born.signal(signal.SIGKILL)
    gone = elapsed(lambda: one("stats")["bus"]["processes"] == len(started) - 1)
    yield "a death is noticed by the others", gone
    born.alive = False
    other.signal(signal.SIGSTOP)
    (born,) = family.start()
    yield "a start beside a stopped process", born.start_time
    yield "a join there", born("join", "room")
    other.signal(signal.SIGCONT)
    family.linked()
    born.kill()


def cut_off(family, started):
    """Between layers: a stopped process is cut off for what waits, and comes back."""
    one, stopped, *_ = started
    one("flood", "flood", BURST, SIZE)
    gevent.sleep(0.2)
    stopped.signal(signal.SIGSTOP)
    count = len(started) - 2
    yield (
        "a stopped process is cut off, 20 MB/s for it",
        elapsed(lambda: one("stats")["bus"]["processes linked"] == count),
    )
    stopped.signal(signal.SIGCONT)
    yield (
        "after SIGCONT: linked again",
        elapsed(lambda: one("stats")["bus"]["processes linked"] == count + 1),
    )
    one("stop")
    gevent.sleep(0.5)


def moment(family, started):
    """Between layers: after a short stop all that waited is heard."""
    one, stopped, *_ = started
    one("flood", "flood", 10)
    gevent.sleep(0.2)
    stopped.signal(signal.SIGSTOP)
    gevent.sleep(STOP)
    published = one("stop")
    stopped.signal(signal.SIGCONT)
    yield (
        "after SIGCONT: all that waited is heard, 5,000 messages",
        elapsed(lambda: stopped("flooded")[0].get(one.origin, 0) >= published),
    )


def silence(rounds):
    """Between layers: stopped processes for which little waits, all at once."""
    with layers(rounds + 1) as (_, (one, *stopped)):
        for each in stopped:
            each.signal(signal.SIGSTOP)
        one("send", "flood", "#0 1 " + "x" * LARGE)
        began = time.perf_counter()
        for left in reversed(range(rounds)):
            elapsed(lambda n=left: one("stats")["bus"]["processes linked"] <= n)
            took = time.perf_counter() - began
            yield "a stopped process is cut off, 1 MB for it", took
        for each in stopped:
            each.signal(signal.SIGCONT)


def replacement(crowd, pids):
    """Workers: one is killed, and another serves in its place."""
    victim = max(pids)
    crowd.start()
    gevent.sleep(CALM)
    yield "calm", crowd.pause()
    began = time.perf_counter()
    os.kill(victim, signal.SIGKILL)
    crowd.await_end({victim})
    yield "a killed worker's sockets end", time.perf_counter() - began
    now = crowd.fleet.wait_for_workers(
        lambda now: victim not in now and len(now) == len(pids)
    )
    crowd.fill(now - pids, 1)
    yield "a killed worker's replacement serves", time.perf_counter() - began
    yield "a kill", crowd.pause({victim, *(now - pids)})
    crowd.bury({victim})
    pids = crowd.fleet.up()
    crowd.fill(pids)
    stopped = min(pids)
    crowd.latencies.clear()
    os.kill(stopped, signal.SIGSTOP)
    gevent.sleep(STOP)
    yield "a stop", crowd.pause({stopped})
    began = time.perf_counter()
    os.kill(stopped, signal.SIGCONT)
    crowd.heard_anew(pids)
    yield "after SIGCONT: a worker's members hear anew", time.perf_counter() - began
    crowd.latencies.clear()
    began = time.perf_counter()
    crowd.fleet.signal(signal.SIGHUP)
    new = crowd.fleet.replaced(pids)
    yield "a reload of 3 workers", time.perf_counter() - began
    crowd.await_end(pids)
    crowd.bury(pids, codes=(1012,))
    yield "a reload", crowd.pause()
    crowd.fill(new)
    crowd.heard_anew(new)
    began = time.perf_counter()
    crowd.fleet.signal(signal.SIGKILL)
    crowd.await_end(new)
    yield "the arbiter is killed: sockets are told 1012", time.perf_counter() - began
    crowd.bury(new, codes=(1012,))
    until(lambda: not crowd.fleet.members())


def measure(rounds, told):
    """Return all figures by name; ``told`` is called with what is done."""
    figures = {}

    def note(found):
        for name, value in found:
            figures.setdefault(name, []).append(value)

    for number in range(rounds):
        told(f"layers, round {number + 1} of {rounds}")
        for part in (death, cut_off, moment):
            with layers(3) as (family, started):
                note(part(family, started))
    told("layers, the silent")
    note(silence(rounds))
    for number in range(rounds):
        told(f"workers, round {number + 1} of {rounds}")
        with workers(3, StampedCrowd) as (crowd, pids):
            note(replacement(crowd, pids))
    return figures


def table(figures):
    """Return the figures as two tables for a page."""
    pauses = [
        "",
        "| broadcasts of the others during | p99, ms | max, ms |",
        "| --- | --- | --- |",
    ]
    times = {}
    for name, values in figures.items():
        if isinstance(values[0], tuple):
            p99, most = (median(each) * 1000 for each in zip(*values, strict=True))
            pauses.append(f"| {name} | {p99:.1f} | {most:.1f} |")
        else:
            times[name] = values
    return "\n".join([table_of_times(times), *pauses])


def table_of_times(figures):
    """Return times by name as a table for a page."""
    lines = ["| until | median, s | least | most |", "| --- | --- | --- | --- |"]
    for name, values in figures.items():
        row = (median(values), min(values), max(values))
        lines.append(f"| {name} | " + " | ".join(f"{v:.3f}" for v in row) + " |")
    return "\n".join(lines)


def main(argv=None):
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ipc_faults")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all rounds")
    options = parser.parse_args(argv)
    print(f"{processor()}, {os.cpu_count()} cores, {options.rounds} rounds\n")
    figures = measure(options.rounds, lambda text: print(text, file=sys.stderr))
    print(table(figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
