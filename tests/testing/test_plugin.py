"""The pytest plugin, in a pytest of its own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import greenchannels

#: Where the package under test is, installed or not.
ROOT = str(Path(greenchannels.__file__).parents[1])


@pytest.fixture
def run(tmp_path):
    """A function that runs tests under the plugin, and returns what pytest says."""

    def run_tests(source, *options):
        (tmp_path / "test_it.py").write_text(textwrap.dedent(source))
        (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
        command = [sys.executable, "-W", "error", "-m", "pytest", "-p"]
        command += ["greenchannels.testing.plugin", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*command, *options],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": ROOT},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.stdout + done.stderr

    return run_tests


def test_the_process_is_patched_before_tests_are_imported(run):
    """No warning, and the standard library is gevent's."""
    out = run(
        """
        import socket, threading, time
        import gevent.socket
        from gevent import monkey

        ours = socket.socket is gevent.socket.socket

        def test_it():
            assert ours and monkey.is_module_patched("threading")
            assert time.sleep is not monkey.get_original("time", "sleep")
        """
    )
    assert "1 passed" in out, out


def test_the_fixtures_serve(run):
    """A client and a live server."""
    out = run(
        """
        import urllib.request
        from greenchannels import http, websocket

        def echo(socket):
            for message in socket:
                socket.send(message)

        def test_client(client):
            with client([websocket("/", echo)]).websocket("/") as ws:
                ws.send("hi")
                assert ws.receive() == "hi"

        def test_client_left_open(client):
            client([websocket("/", echo)], timeout=2).websocket("/").__enter__()

        def test_live_server(live_server):
            live = live_server([http("/", lambda request: "hello")])
            with urllib.request.urlopen(live.url) as response:
                assert response.read() == b"hello"
        """
    )
    assert "3 passed" in out, out


LEAKS = """
import gevent, socket

kept = []

def forgotten():
    gevent.sleep(60)

def test_greenlet(no_leaks):
    kept.append(gevent.spawn(forgotten))

def test_descriptor(client):
    kept.append(socket.socket())

def test_unchecked():
    kept.append(gevent.spawn(forgotten))

def test_clean(no_leaks):
    with socket.socket():
        gevent.spawn(gevent.sleep, 0.01)
"""


def test_leaks_are_errors(run):
    """They are named; tests that ask for no fixture are not checked."""
    out = run(LEAKS)
    assert "4 passed, 2 errors" in out, out
    assert "the test leaves greenlet Greenlet-" in out
    assert "running forgotten" in out
    assert "the test leaves descriptor " in out
    assert "(socket:[" in out


def test_leaks_can_be_warnings(run):
    """For projects on their way."""
    out = run(LEAKS, "-o", "greenchannels_leaks=warn", "-W", "default")
    assert "4 passed, 2 warnings" in out, out
    assert "PytestWarning: the test leaves greenlet" in out


def test_leaks_can_be_left_alone(run):
    """Nothing is looked for."""
    out = run(LEAKS, "-o", "greenchannels_leaks=off")
    assert "4 passed" in out and "warning" not in out, out


def test_the_option_is_checked(run):
    """A misspelt one would check nothing."""
    out = run(LEAKS, "-o", "greenchannels_leaks=eror")
    assert "greenchannels_leaks is error, warn or off" in out, out
