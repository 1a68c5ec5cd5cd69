"""The routes for several processes of greenchannels over Redis, and for one beside."""

import json
import time

import gevent
from greenchannels_ipc import TEXT, broadcast, join

import greenchannels
from greenchannels import Group, websocket
from greenchannels.layers.layer import group_topic
from greenchannels.layers.registry import current_layer

GROUP = "few"
#: Seconds for Redis to answer; a send that it has not answered then fails the round.
TIMEOUT = 10


def sends(socket, greenlets, batch, warmup, seconds):
    """Have greenlets send to a group that nobody is in; tell what a send takes."""
    send_for(greenlets, batch, warmup)
    socket.send(json.dumps(send_for(greenlets, batch, seconds)))
    socket.wait()


def send_for(greenlets, batch, seconds):
    """Send for a time; return how often, and the time and CPU time that it took."""
    cpu, at = time.process_time(), time.perf_counter()
    end = at + seconds
    senders = [gevent.spawn(send_until, end, batch) for _ in range(greenlets)]
    count = sum(sender.get() for sender in senders)
    taken, cpu = time.perf_counter() - at, time.process_time() - cpu
    return {"messages": count, "seconds": taken, "cpu": cpu}


def send_until(end, batch):
    """Send, and let others; wait after each batch until Redis has answered."""
    layer, group, topic = current_layer(), Group(GROUP), group_topic(GROUP)
    count = 0
    while time.perf_counter() < end:
        for _ in range(batch - 1):
            group.send(TEXT, strict=True)
            gevent.sleep(0)
        group.send(TEXT, strict=True)
        if not layer.flush(topic, TIMEOUT):
            raise RuntimeError("Redis did not answer")
        count += batch
    return count


routing = [
    websocket("/spread/broadcast", broadcast, deflate=False),
    websocket("/spread/join", join, deflate=False),
    websocket(
        "/sends/<int:greenlets>/<int:batch>/<float:warmup>/<float:seconds>",
        sends,
        deflate=False,
    ),
]
#: The same for gunicorn.
application = greenchannels.application(routing)
