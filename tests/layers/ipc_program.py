"""
A process of ``ipc://`` as tests drive it.

``python -m tests.layers.ipc_program FD`` imports what there is to import and then, for
each URL and connection that come by the socket FD, forks such a process: it reads one
JSON list a line, ``[command, argument, ...]``, and answers each with one line of JSON.
It is not patched, and its main greenlet is in the hub all the time.
"""

import gc
import json
import os
import signal
import socket as stdlib_socket
import sys
import time
from collections import Counter

import gevent
from gevent import socket

from greenchannels.layers import ipc_links
from greenchannels.layers.codec import Kind, make_broadcast, unpack_event
from greenchannels.layers.layer import group_topic
from greenchannels.layers.registry import make_layer
from greenchannels.net.reactor import Reactor

#: Seconds between two bursts of a flood.
TICK = 0.002


class CountingMember:
    """Keeps the texts that are sent by command, and counts those of floods."""

    def __init__(self):
        self.memberships = None
        self.max_groups = None
        self.texts = []
        self.flood = Counter()
        self.last = {}
        self.disorder = 0
        self.events = []

    def listens_to(self, kind):
        """It takes all events."""
        return True

    def deliver(self, broadcast):
        """Take a message."""
        text = broadcast.payload
        if broadcast.kind is Kind.EVENT:
            self.events.append(unpack_event(text))
            return
        if text[:1] != "#":
            self.texts.append(text if len(text) < 100 else len(text))
            return
        origin, number, _ = text[1:].split(" ", 2)
        self.flood[origin] += 1
        self.disorder += int(number) <= self.last.get(origin, 0)
        self.last[origin] = int(number)


class Program:
    """Carries out commands."""

    def __init__(self, url):
        self.layer = make_layer(url)
        self.reactor = Reactor()
        self.members = {}
        self.published = 0
        self.flooding = None

    def start(self):
        """Start the layer; return its origin and how long that took."""
        began = time.monotonic()
        self.layer.start(self.reactor)
        return [self.layer.origin, time.monotonic() - began]

    def join(self, group, name="member"):
        """Add a member; return how long that took."""
        member = self.members.setdefault(name, CountingMember())
        began = time.monotonic()
        self.layer.add(group_topic(group), member)
        return time.monotonic() - began

    def leave(self, group, name="member"):
        """Take a member out."""
        self.layer.discard(group_topic(group), self.members[name])

    def rejoin_blindly(self, group, seconds, name="member"):
        """Take a member out and put it in again, reading nothing in between."""
        self.leave(group, name)
        bus = self.layer._bus
        for peer in getattr(bus, "_local", bus)._mesh.peers.values():
            peer.link.write_now()
        time.sleep(seconds)
        self.join(group, name)

    def channel(self, name="member"):
        """Return a channel name that reaches a member."""
        return self.layer.new_channel(self.members.setdefault(name, CountingMember()))

    def send(self, group, text, count=1):
        """Send texts to a group, in one turn of the hub."""
        for _ in range(count):
            self.layer.send(group_topic(group), make_broadcast(text))

    def send_strictly(self, group, text):
        """Send a text that has to reach the others."""
        self.layer.send(group_topic(group), make_broadcast(text), strict=True)

    def send_channel(self, name, text):
        """Send a text to a channel."""
        self.layer.send_channel(name, make_broadcast(text))

    def texts(self, name="member"):
        """Return what a member got by command."""
        return self.members[name].texts

    def flood(self, group, burst, size=20):
        """Publish numbered messages until ``stop``."""
        self.flooding = gevent.spawn(self._flood, group_topic(group), burst, "x" * size)

    def _flood(self, topic, burst, filling):
        while True:
            for _ in range(burst):
                self.published += 1
                text = f"#{self.layer.origin} {self.published} {filling}"
                self.layer.send(topic, make_broadcast(text))
            gevent.sleep(TICK)

    def stop(self):
        """End the flood; return how many messages were published."""
        self.flooding.kill()
        return self.published

    def flooded(self, name="member"):
        """Return how many messages of floods a member got by origin, and disorder."""
        member = self.members[name]
        return [dict(member.flood), member.disorder]

    def stats(self):
        """Return what the layer counts."""
        return self.layer.stats()

    def others(self):
        """Return who is known, and who is linked and has told all that it wants."""
        peers = self.layer._bus._mesh.peers
        linked = [name for name, peer in peers.items() if peer.link and peer.settled]
        return [sorted(peers), sorted(linked)]

    def holds(self):
        """Return how many greenlets there are, and descriptors that are no links."""
        found = (g for g in gc.get_objects() if issubclass(type(g), gevent.Greenlet))
        links = self.layer.stats()["bus"]["processes linked"]
        open_now = len(os.listdir("/proc/self/fd"))
        return [sum(not g.dead for g in found), open_now - links]

    def events(self, name="member"):
        """Return the events about the layer that a member got."""
        return self.members[name].events

    def add_channel(self, group, name):
        """Add the socket of any process."""
        self.layer.add_channel(group_topic(group), name)

    def limit(self, size):
        """Let that many bytes wait for a process."""
        ipc_links.MAX_WAITING = size

    def fork(self, seconds):
        """Fork a child that does nothing for a while, but has its hub work."""
        pid = os.fork()
        if pid == 0:
            gevent.sleep(seconds)
            os._exit(0)
        return pid

    def probe(self):
        """Tell the others the last numbers now."""
        self.layer.probe()

    def close(self):
        """Leave."""
        self.layer.close()

    def __call__(self, command, *arguments):
        """Return the answer to one command."""
        try:
            return getattr(self, command)(*arguments)
        except Exception as error:
            return {"error": type(error).__name__, "text": str(error)}


def serve(url, fd):
    """Answer commands until there are no more."""
    program = Program(url)
    connection = socket.socket(fileno=fd)
    for line in connection.makefile("rb"):
        answer = program(*json.loads(line))
        connection.sendall(json.dumps(answer).encode() + b"\n")


def main():
    """Fork a process for each connection; the children need not be waited for."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    control = stdlib_socket.socket(fileno=int(sys.argv[1]))
    while True:
        url, fds, _, _ = stdlib_socket.recv_fds(control, 4096, 1)
        if not url:
            return
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            serve(url.decode(), fds[0])
            os._exit(0)
        os.close(fds[0])
        control.sendall(b"%d\n" % pid)


if __name__ == "__main__":
    main()
