"""
How long faults of a Redis last for those who hear each other by it.

``python -m benchmarks.redis_faults`` prints a table for docs/redis.md.

Each figure is the median of the rounds, with the least and the most. Two processes,
those of the tests (``tests/layers/ipc_program.py``), have a layer and a member each
and publish all the time. Redis, and the proxy that loses bytes, are the tests', too.
Each fault comes at some moment between two probes. What is heard again must have been
sent after what the time begins with. Nothing is pinned.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import gevent
from gevent import get_hub

from benchmarks.ipc_faults import table_of_times
from benchmarks.machine import processor
from tests.layers.ipc_harness import Nursery, Process
from tests.layers.redis_harness import Proxy, running_redis

#: Messages that a process publishes each 2 ms.
BURST = 1

#: Seconds without Redis: the pauses between attempts are the longest by then.
AWAY = 5.0

#: Seconds between two probes, and that all is well before a fault.
PROBES, CALM = 5.0, 2.0

#: What layers count when a connection is away, and their buses when one is deaf.
OUTAGES, DEAF = "outages of the layer", "deaf listeners"

#: Seconds between two looks, and that anything may take.
LOOK_INTERVAL, PATIENCE = 0.005, 60.0


class Peer:
    """A process with a layer; the hub works while it is asked."""

    def __init__(self, nursery, url):
        self._process = Process(nursery, url)
        self.origin, _ = self("start")
        self("join", "flood")
        self("flood", "flood", BURST)

    def __call__(self, *words):
        """Return the answer to a command."""
        return get_hub().threadpool.apply(self._process, words)

    def count(self, name):
        """Return what the layer, or its bus, has counted by a name."""
        stats = self("stats")
        return stats.get(name, 0) + stats["bus"].get(name, 0)

    def mark(self, number):
        """Send a number."""
        self("send", "flood", f"{self.origin} {number}")

    def heard(self, other, number):
        """Say whether such a number of another has come, or a later one."""
        found = [text.split() for text in self("texts")]
        return any(who == other.origin and int(n) >= number for who, n in found)

    def end(self):
        """End it."""
        self._process.end()


class Pair:
    """Two that hear each other, the first by a proxy, and their Redis."""

    def __init__(self, nursery, redis):
        self.redis = redis
        self.proxy = Proxy(redis.port)
        url = redis.url()
        through = url.replace(str(redis.port), str(self.proxy.port))
        self._numbers = itertools.count(1)
        self.peers = [Peer(nursery, each) for each in (through, url)]
        self.await_hearing()

    def close(self):
        """End all but Redis."""
        for each in self.peers:
            each.end()
        self.proxy.close()

    def counts(self, name):
        """Return what each has counted by a name."""
        return [each.count(name) for each in self.peers]

    def await_counts(self, name, before, which=(0, 1)):
        """Wait until some have counted more by a name; return the seconds."""
        those = [(self.peers[n], before[n]) for n in which]
        return elapsed(lambda: all(each.count(name) > n for each, n in those))

    def await_hearing(self, which=(0, 1)):
        """Wait until some hear what the other sends from now on; return the seconds."""
        first = next(self._numbers)
        those = [(self.peers[n], self.peers[1 - n]) for n in which]

        def all_hear():
            number = next(self._numbers)
            for _, other in those:
                other.mark(number)
            return all(each.heard(other, first) for each, other in those)

        return elapsed(all_hear)


def elapsed(condition):
    """Return the seconds until a condition is true."""
    began = time.perf_counter()
    while not condition():
        assert time.perf_counter() - began < PATIENCE
        gevent.sleep(LOOK_INTERVAL)
    return time.perf_counter() - began


# What is measured: each gives figures by name, in seconds.


def restart(pair):
    """Redis is killed and comes back."""
    for away in (0.0, AWAY):
        pair.redis.kill()
        gevent.sleep(away)
        pair.redis.start()
        what = f"Redis is back {away:g} s after a `kill -9`"
        yield f"{what}: both hear each other", pair.await_hearing()


def cut(pair):
    """Redis ends the connections that listen."""
    pair.redis("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")
    took = pair.await_hearing()
    yield "CLIENT KILL TYPE pubsub: both hear each other", took


def stop(pair):
    """Redis is stopped, and goes on."""
    outages = pair.counts(OUTAGES)
    pair.redis.signal(signal.SIGSTOP)
    yield "SIGSTOP: both notice", pair.await_counts(OUTAGES, outages)
    gevent.sleep(AWAY)
    pair.redis.signal(signal.SIGCONT)
    yield "after SIGCONT: both hear each other", pair.await_hearing()


def deaf(pair):
    """What Redis says to one that listens is lost."""
    found = pair.counts(DEAF)
    pair.proxy.deafens = True
    took = pair.await_counts(DEAF, found, (0,))
    pair.proxy.deafens = False
    yield "a deaf listener notices", took
    took = pair.await_hearing()
    yield "after that: both hear each other", took


def half_open(pair):
    """All bytes of one are lost, without a word from TCP."""
    pair.proxy.lose()
    took = pair.await_hearing()
    yield "TCP is half open, one that sends: both hear each other", took


def half_open_silent(pair):
    """The same, while that one sends nothing but its probes."""
    pair.peers[0]("stop")
    gevent.sleep(random.uniform(0, PROBES))
    pair.proxy.lose()
    took = pair.await_hearing((0,))
    yield "TCP is half open, one that sends nothing: it hears the other", took


#: The last leaves one without its flood.
PARTS = (restart, cut, stop, deaf, half_open, half_open_silent)


def one_round(nursery):
    """Give the figures of all faults, one after the other."""
    with running_redis() as redis, contextlib.closing(Pair(nursery, redis)) as pair:
        for part in PARTS:
            gevent.sleep(CALM + random.uniform(0, PROBES))
            yield from part(pair)


def measure(rounds, told):
    """Return all figures by name; ``told`` is called with what is done."""
    figures = {}
    with contextlib.closing(Nursery()) as nursery:
        for number in range(rounds):
            told(f"round {number + 1} of {rounds}")
            for name, value in one_round(nursery):
                figures.setdefault(name, []).append(value)
    return figures


def main(argv=None):
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.redis_faults")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all rounds")
    options = parser.parse_args(argv)
    print(f"{processor()}, {os.cpu_count()} cores, {options.rounds} rounds\n")
    figures = measure(options.rounds, lambda text: print(text, file=sys.stderr))
    print(table_of_times(figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
