"""A child that a view or a consumer forks serves none of its parent's connections."""

import os
import textwrap
import time
from pathlib import Path

import pytest

from tests.cli.processes import Family
from tests.cli.test_run import get, opened
from tests.servers.harness import Client, request

APP = """
    import multiprocessing, os, time
    import gevent
    from gevent.monkey import get_original
    from gevent.threadpool import ThreadPoolExecutor
    from greenchannels import Group, http, lifespan, websocket
    from contextlib import contextmanager

    context = multiprocessing.get_context("fork")
    children = []

    def linger():
        # The child's hub runs: all that is watched would be served.
        time.sleep(60)

    def fork(request):
        children.append(context.Process(target=linger))
        children[-1].start()
        return str(children[-1].pid)

    def bare(request):
        pid = os.fork()
        if pid == 0:
            linger()
            os._exit(0)
        return str(pid)

    def native():
        pid = get_original("os", "fork")()
        if pid == 0:
            get_original("time", "sleep")(60)
            os._exit(0)
        return pid

    def threaded(request):
        with ThreadPoolExecutor(1) as pool:
            return str(pool.submit(native).result())

    def end(request):
        for child in children:
            child.terminate()
            child.join()
        return str([child.exitcode for child in children])

    def brief(request):
        # Each is told to end before it knows that it is a child.
        for _ in range(20):
            child = context.Process(target=linger)
            child.start()
            child.terminate()
            child.join()
            children.append(child)
        return str({child.exitcode for child in children})

    def chat(socket):
        with Group("all").joined(socket) as group:
            socket.send(str(os.getpid()))
            for text in socket:
                group.send(text)

    @contextmanager
    def noted():
        yield
        print("left by", os.getpid(), flush=True)

    routing = [
        http("/fork", fork), http("/bare", bare), http("/threaded", threaded),
        http("/end", end), http("/brief", brief),
        http("/pid", lambda r: str(os.getpid())),
        websocket("/ws", chat), lifespan(noted),
    ]
"""


@pytest.fixture
def server(tmp_path):
    """A real one, and its address."""
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    found = Family(tmp_path, "greenchannels", "run", "app:routing", "--port", "0")
    yield found, found.address()
    found.kill()


@pytest.mark.parametrize("way", ["fork", "bare", "threaded"])
def test_a_forked_child_answers_nobody(server, way):
    """Neither new connections nor old ones, whatever its hub does."""
    server, address = server
    parent = str(server.pid).encode()
    with opened(address, "/ws") as peer:
        assert peer.hear() == parent.decode()
        client = Client(address)
        client.send(request("/" + way))
        child = client.response().body
        assert child != parent
        for _ in range(100):
            assert get(address, "/pid").body == parent
            client.send(request("/pid"))
            assert client.response().body == parent
            peer.say("hello")
            assert peer.hear() == "hello"
        client.close()
        assert holds(int(child)) == []
        peer.send_close()
        assert peer.closing().code == 1000
        assert peer.ended() == "closed"


def test_a_child_that_is_told_to_end_leaves_nothing_of_its_parents(server):
    """Its end is no drain, and no lifespan is left by it."""
    server, address = server
    with opened(address, "/ws") as peer:
        peer.hear()
        get(address, "/fork")
        assert get(address, "/end").body == b"[-15]"
        peer.say("still here")
        assert peer.hear() == "still here"
        peer.close()
    server.signal(15)
    code, out, error = server.end()
    assert (code, out.count("left by")) == (0, 1), (out, error)
    assert f"left by {server.pid}" in out


def test_a_signal_that_comes_at_once_ends_a_child(server):
    """It is not taken by what handles its parent's."""
    server, address = server
    assert get(address, "/brief").body == b"{-15}"
    with opened(address, "/ws") as peer:
        assert peer.hear() == str(server.pid)


def test_a_child_of_a_worker_lives_on(tmp_path):
    """It is no worker, and misses no arbiter."""
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    options = ("--port", "0", "--workers", "2")
    server = Family(tmp_path, "greenchannels", "run", "app:routing", *options)
    try:
        address = server.address()
        child = int(get(address, "/fork").body)
        worker = int(get(address, "/pid").body)
        time.sleep(2.5)  # a worker looks each second
        assert Path(f"/proc/{child}/stat").read_text().split()[2] == "S"
        assert {child, worker} <= set(server.members())
    finally:
        server.kill()


def holds(pid):
    """Return the TCP sockets that a process has."""
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    tables = "".join(Path("/proc/net", n).read_text() for n in ("tcp", "tcp6"))
    sockets = [link[8:-1] for link in links if link.startswith("socket:")]
    return [inode for inode in sockets if f" {inode} " in tables]
