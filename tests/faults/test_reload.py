"""SIGHUP under 1,000 connects a second: all are served, sockets end with 1012 only."""

import contextlib
import signal
import socket as stdlib_socket
import time
from collections import Counter

import gevent
import pytest
from gevent import socket

from tests.faults.lane import ROUNDS
from tests.faults.test_workers import begin, runtime, start
from tests.servers.harness import handshake, request

__all__ = ["runtime", "start"]

#: Connects in a second, and how many are begun at a time.
RATE, BATCH = 1000, 10

#: Every so many, one is a WebSocket.
SOCKETS = 10

PAGE = request("/version", headers=[("Connection", "close")])
SOCKET = handshake("/brief")


@contextlib.contextmanager
def asked(address, is_socket):
    """Give a connection whose request is sent at once, without a turn of the hub."""
    with stdlib_socket.create_connection(address) as connecting:
        connecting.sendall(SOCKET if is_socket else PAGE)
        sock = socket.socket(fileno=connecting.detach())
    with contextlib.closing(sock):
        yield sock


class Storm:
    """
    New connections at a rate, each with one request.

    Attributes:
        answers: How often each came: a status, or the name of an error.
        slowest: Seconds of the slowest answer.

    """

    def __init__(self, address):
        self.address = address
        self.answers = Counter()
        self.slowest = 0.0
        self._under_way = set()
        self._began = time.monotonic()
        self._rising = gevent.spawn(self._rise)

    def _rise(self):
        begun = 0
        while True:
            due = int((time.monotonic() - self._began) * RATE)
            for _ in range(min(due - begun, 5 * BATCH)):
                begun += 1
                greenlet = gevent.spawn(self._ask, begun % SOCKETS == 0)
                self._under_way.add(greenlet)
                greenlet.rawlink(self._under_way.discard)
            gevent.sleep(BATCH / RATE)

    def _ask(self, is_socket):
        began = time.monotonic()
        try:
            with asked(self.address, is_socket) as sock, gevent.Timeout(30):
                data = b""
                while b"\r\n\r\n" not in data:
                    more = sock.recv(4096)
                    if not more:
                        raise EOFError
                    data += more
            answer = f"{'socket' if is_socket else 'page'} {data[9:12].decode()}"
        except (OSError, EOFError, gevent.Timeout) as error:
            answer = type(error).__name__
        self.answers[answer] += 1
        self.slowest = max(self.slowest, time.monotonic() - began)

    def stop(self):
        """Wait for the last answers; return how many came in a second."""
        self._rising.kill()
        took = time.monotonic() - self._began
        gevent.joinall(list(self._under_way), raise_error=True)
        return sum(self.answers.values()) / took


@pytest.mark.slow
def test_a_reload_refuses_nobody(start, record_property):
    """While workers are replaced, one by one: all are answered, and members told."""
    crowd = start(workers=2)
    pids = begin(crowd, each=2)
    crowd.start()
    storm = Storm(crowd.fleet.address())
    reloads = max(1, ROUNDS // 5)
    for _ in range(reloads):
        old, still = pids, list(crowd.members)
        crowd.fleet.signal(signal.SIGHUP)
        pids = crowd.fleet.replaced(old)
        crowd.await_end(old)
        crowd.bury(old, codes=(1012,))
        assert crowd.ended[1012] >= len(still)
        crowd.fill(pids)
        crowd.heard_anew(pids)
    rate = storm.stop()
    crowd.settle()
    record_property("reloads", reloads)
    record_property("connects a second", round(rate))
    record_property("answers", dict(storm.answers))
    record_property("slowest answer, s", round(storm.slowest, 2))
    # A handshake that comes to a worker that has just been told to go.
    late = storm.answers.pop("socket 503", 0)
    assert storm.answers.keys() == {"page 200", "socket 101"}, storm.answers
    assert late <= storm.answers["socket 101"] / 10
    assert rate > RATE / 10
    assert crowd.missed == 0
    crowd.close()
    crowd.fleet.leave()
