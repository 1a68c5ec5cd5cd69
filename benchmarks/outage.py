"""A Redis that is killed and started again: when all is subscribed to anew."""

import time

from . import loadgen
from .loadgen import LoadError
from .usage import cpu_ns

#: Seconds without Redis: servers are in the longest of their pauses by then.
AWAY = 5.0
#: Groups that the sockets have joined, at least.
GROUPS = 1000
#: Seconds between two looks, and for all to be there again.
LOOK_INTERVAL, TIMEOUT = 0.02, 30.0


def run(row, contestant, port, pids):
    """
    Have sockets join groups, restart Redis, and wait for all topics.

    Returns:
        A report with the fields of ``loadgen``'s; a message is a subscription of one
        process to one topic. The time begins when Redis accepts connections, CPU time
        when it is killed.

    Raises:
        LoadError: If a socket ended, or a topic did not come back.

    """
    (redis,) = contestant.redis
    with loadgen.held(row, contestant, port, pids) as joined:
        before = subscriptions(redis)
        if len(before) < GROUPS:
            raise LoadError(f"{len(before)} topics")
        server = cpu_ns(pids)
        redis.kill()
        time.sleep(AWAY)
        redis.start()
        own, at = time.process_time(), time.monotonic()
        await_subscriptions(redis, before)
        own, seconds = time.process_time() - own, time.monotonic() - at
        server = cpu_ns(pids) - server
    count = sum(before.values())
    return joined | {
        "messages": count,
        "seconds": seconds,
        "rate": count / seconds,
        "cpu_us": server / count / 1e3,
        "server_share": server / (seconds + AWAY) / 1e9,
        "own_share": own / seconds,
        "p50_us": 0,
        "p99_us": 0,
        "max_us": 0,
    }


def subscriptions(redis):
    """Return how many have subscribed to each topic."""
    with redis.client() as client:
        return dict(client.pubsub_numsub(*client.pubsub_channels()))


def await_subscriptions(redis, expected):
    """Wait until as many as before have subscribed to each topic."""
    until = time.monotonic() + TIMEOUT
    while (found := subscriptions(redis)) != expected:
        if time.monotonic() > until:
            missing = sum(expected.values()) - sum(found.values())
            raise LoadError(f"{missing} subscriptions are missing after {TIMEOUT:g} s")
        time.sleep(LOOK_INTERVAL)
