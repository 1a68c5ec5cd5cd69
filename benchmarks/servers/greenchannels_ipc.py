"""
The routes for several processes of greenchannels, and for one beside them.

Sockets are told in the 101 which process has accepted them, so that the load
generator can give each its share.
"""

import json
import os
import time

import gevent

import greenchannels
from greenchannels import Group, websocket
from greenchannels.layers.registry import current_layer

GROUPS = 1000
#: Sends before the hub has its turn, and the kernel what was sent.
BATCH = 100
TEXT = "x" * 64
#: The close code that fails a round.
UNCONFIRMED = 4000
#: For the other processes to be linked, in seconds.
LINK_TIMEOUT = 10


def whoami():
    """Return the field of a 101 that names this process."""
    return [("X-Process", str(os.getpid()))]


def broadcast(socket):
    """Send each message to everybody, in all processes; a 101 says who is there."""
    with Group("all").joined(socket) as group:
        socket.accept(headers=whoami())
        for message in socket:
            group.send(message)


def join(socket):
    """Join one of 1,000 groups for each message, and return it when that holds."""
    socket.accept(headers=whoami())
    layer = current_layer()
    for message in socket:
        socket.join(Group(f"room.{int(message[:8], 16) % GROUPS}"))
        if layer.counters["unconfirmed joins"]:
            socket.close(UNCONFIRMED, "a join was not confirmed by all processes")
        socket.send(message)


def sends(socket, members, others, warmup, seconds):
    """Send to a group that one here is in, or nobody; tell how long a send takes."""
    await_links(others)
    group = Group("few")
    if members:
        group.add(socket)
    send_for(socket, group, warmup)
    socket.send(json.dumps(send_for(socket, group, seconds)))
    socket.wait()


def await_links(others):
    """Wait until this process has links to so many others."""
    with gevent.Timeout(LINK_TIMEOUT):
        while linked() != others:
            gevent.sleep(0.05)


def linked():
    """Return how many other processes this one has links to."""
    return greenchannels.stats().get("bus", {}).get("processes linked", 0)


def send_for(socket, group, seconds):
    """Send for a time; return how often, and the time and CPU time that it took."""
    count, cpu, at = 0, time.process_time(), time.perf_counter()
    end = at + seconds
    while time.perf_counter() < end:
        for _ in range(BATCH):
            group.send(TEXT)
        count += BATCH
        socket.flush()
        gevent.sleep(0)
    taken, cpu = time.perf_counter() - at, time.process_time() - cpu
    return {"messages": count, "seconds": taken, "cpu": cpu}


routing = [
    websocket("/spread/broadcast", broadcast, deflate=False),
    websocket("/spread/join", join, deflate=False),
    websocket(
        "/sends/<int:members>/<int:others>/<float:warmup>/<float:seconds>",
        sends,
        deflate=False,
    ),
]
#: The same for gunicorn.
application = greenchannels.application(routing)
