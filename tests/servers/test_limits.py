"""When there are too many connections, or too few descriptors."""

import os
import re
import resource
import signal
import subprocess
import sys
import textwrap

import gevent
import pytest

from tests.servers.harness import MS, Peer, request, until


def waiting(socket):
    """Accept and wait for the peer to go."""
    socket.accept()
    socket.wait()


def test_accepting_pauses_at_the_limit_and_goes_on_below_it(serve, caplog):
    """The kernel holds who comes meanwhile."""
    running = serve(waiting, max_connections=3)
    peers = [running.open() for _ in range(3)]
    late = [running.peer() for _ in range(5)]
    for peer in late:
        peer.handshake()
    assert all(peer.silent(10 * MS) for peer in late)
    assert "accepting pauses" in caplog.text
    assert len(running.server.connections) == 3
    for n, peer in enumerate(peers + late[:2]):
        peer.send_close()
        peer.closing()
        assert late[n].response().status == 101
        assert len(running.server.connections) <= 3


def test_a_connection_that_never_speaks_counts_and_goes(serve):
    """Its head timeout makes room."""
    from greenchannels import Timeouts

    running = serve(waiting, max_connections=2, timeouts=Timeouts(head_timeout=60 * MS))
    silent = [running.client() for _ in range(2)]
    peer = running.peer()
    peer.handshake()
    assert peer.response().status == 101
    assert len(silent) == 2


def test_many_connections_at_once_stay_within_the_limit(serve):
    """Also when a burst comes in one turn of the hub."""
    running = serve(waiting, max_connections=10)
    peers = [running.peer() for _ in range(50)]
    for peer in peers:
        peer.handshake()
    gevent.sleep(20 * MS)
    assert len(running.server.connections) == 10
    for peer in peers:
        assert peer.response().status == 101
        assert len(running.server.connections) <= 10
        peer.reset()
    until(lambda: not running.server.connections)


APP = """
    from greenchannels import http, websocket

    def waiting(socket):
        socket.send("in")
        socket.wait()

    routing = [websocket("/", waiting), http("/", lambda request: "page")]
"""


def test_accepting_pauses_when_descriptors_have_run_out_and_goes_on(tmp_path):
    """Who is connected does not notice; who waits is served later."""
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    run = [sys.executable, "-m", "greenchannels", "run", "app", "--port", "0"]
    soft = 40
    process = subprocess.Popen(
        run,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft)),
    )
    log = []
    try:
        while not (found := re.search(rb":(\d+) \(", log[-1] if log else b"")):
            log.append(process.stderr.readline())
            assert log[-1], log
        address = ("127.0.0.1", int(found[1]))
        peers = [Peer(address) for _ in range(soft + 5)]
        for peer in peers:
            peer.handshake()
        served = []
        while not (line := process.stderr.readline()).count(b"accepting pauses"):
            assert line
        for peer in peers:
            if not peer.silent(20 * MS):
                served.append(peer)
        assert 5 < len(served) < soft
        first, waiting_peers = served[0], [p for p in peers if p not in served]
        first.response()
        assert first.hear() == "in"
        for peer in served[1:]:
            peer.reset()
        for peer in waiting_peers:
            assert peer.response().status == 101
        assert first.silent(10 * MS)
        late = Peer(address)
        late.send(request("/"))
        assert late.response().body == b"page"
        for peer in [first, late, *waiting_peers]:
            peer.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=5) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.parametrize("count", [64, 65, 200])
def test_a_burst_of_connections_is_accepted_whole(serve, count):
    """More than are accepted in one turn of the hub."""
    running = serve(waiting)
    peers = [running.peer() for _ in range(count)]
    for peer in peers:
        peer.handshake()
    assert {peer.response().status for peer in peers} == {101}
