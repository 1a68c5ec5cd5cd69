"""The README's example runs, and its two commands are the ones that CI runs."""

import os
import re
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.sync.client import connect

import greenchannels

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FIRST_SCREEN = "\n".join(README.splitlines()[:60])

PAGE = "<title>chat</title>"


def blocks(language, text=README):
    """Return the fenced code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@contextmanager
def serving(arguments, folder):
    """Run ``greenchannels`` in a folder on a free port; yield host and port."""
    installed = str(Path(greenchannels.__file__).parents[1])
    path = os.pathsep.join(filter(None, [installed, os.environ.get("PYTHONPATH")]))
    with subprocess.Popen(
        [sys.executable, "-m", "greenchannels", *arguments, "--port", "0"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield listening(process)
        finally:
            process.terminate()
            try:
                process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def listening(process):
    """Return where a server says that it listens."""
    said = []
    for line in process.stderr:
        said.append(line)
        found = re.search(r"http://(127\.0\.0\.1:\d+)", line)
        if found:
            return found[1]
    raise AssertionError(f"the server did not start:\n{''.join(said)}")


@pytest.fixture
def example(tmp_path):
    """The server of the README's example."""
    (source,) = blocks("python")
    (tmp_path / "app.py").write_text(source)
    (tmp_path / "chat.html").write_text(PAGE)
    with serving(["run", "app:routing"], tmp_path) as address:
        yield address


def test_the_example_serves_its_page(example):
    """GET / is the page."""
    with urllib.request.urlopen(f"http://{example}/", timeout=10) as response:
        assert response.status == 200
        assert response.read().decode() == PAGE


def test_the_example_brings_a_message_to_the_room_and_to_no_other(example):
    """Both who are in the room get what one says; who is elsewhere does not."""
    room = f"ws://{example}/chat/tea"
    with (
        connect(room) as ann,
        connect(room) as bob,
        connect(f"ws://{example}/chat/coffee") as eve,
    ):
        bob.send("anybody here?")
        ann.send("hello")
        eve.send("alone")
        for socket in (ann, bob):
            heard = {socket.recv(timeout=10), socket.recv(timeout=10)}
            assert heard == {"anybody here?", "hello"}
        assert eve.recv(timeout=10) == "alone"


def test_the_first_screen_has_the_example_and_exactly_two_commands():
    """All set-up on a fresh machine is one line each."""
    assert len(blocks("python", FIRST_SCREEN)) == 1
    assert len(blocks("python")[0].splitlines()) <= 16
    commands = "".join(blocks("sh", FIRST_SCREEN)).splitlines()
    assert len(commands) == 2
    assert all(command.startswith("python3 -m venv .venv && ") for command in commands)


def test_the_first_command_runs_an_example_that_exists():
    """What it starts answers a browser."""
    chat = "".join(blocks("sh")).splitlines()[0]
    arguments = chat.rpartition(".venv/bin/greenchannels ")[2].split()
    with (
        serving(arguments, ROOT) as address,
        urllib.request.urlopen(f"http://{address}/", timeout=10) as response,
    ):
        assert response.status == 200
        assert "html" in response.headers["Content-Type"]


def test_ci_runs_the_second_command():
    """The same words, so that it cannot rot."""
    assert "".join(blocks("sh")).splitlines()[1] in (ROOT / ".ci/run").read_text()


def test_links_lead_to_files():
    """Every relative link of the README exists."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
