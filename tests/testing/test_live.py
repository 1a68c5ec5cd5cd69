"""The server on a port, in processes that are patched and that are not."""

import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
import urllib.request
from contextlib import ExitStack
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from greenchannels import Group, http, websocket
from greenchannels.testing import LiveServer

def echo(socket):
    socket.join("room")
    for message in socket:
        Group("room").send(message)

routing = [websocket("/ws", echo), http("/", lambda request: "hello")]
for _ in range(2):
    with ExitStack() as stack:
        with LiveServer(routing) as live:
            assert live.url.startswith("http://127.0.0.1:")
            with urllib.request.urlopen(live.url + "/", timeout=5) as response:
                assert response.read() == b"hello"
            with connect(live.ws_url + "/ws") as ws:
                ws.send("hi")
                assert ws.recv(timeout=20) == "hi"
            left = stack.enter_context(connect(live.ws_url + "/ws"))
        try:
            left.recv(timeout=20)
        except ConnectionClosed as error:
            print(error.rcvd.code)
"""

FAILS = """
from contextlib import contextmanager
from greenchannels import lifespan
from greenchannels.testing import LiveServer

@contextmanager
def enter():
    raise LookupError("on purpose")
    yield

try:
    LiveServer([lifespan(enter)]).start()
except LookupError as error:
    print(error)
"""

PATCH = "from gevent import monkey; monkey.patch_all()\n"


def run(program):
    """Run it in a new interpreter; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize("patch", ["", PATCH], ids=["unpatched", "patched"])
def test_it_serves_clients_that_block(patch):
    """Those of the standard library too; sockets left open are told 1012."""
    assert run(patch + PROGRAM) == ("1012\n1012\n", "")


@pytest.mark.parametrize("patch", ["", PATCH], ids=["unpatched", "patched"])
def test_what_a_lifespan_raises_comes_out_of_start(patch):
    """Wherever the server runs."""
    assert run(patch + FAILS)[0] == "on purpose\n"
