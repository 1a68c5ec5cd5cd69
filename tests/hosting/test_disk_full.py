"""Spooling a body on a disk that is full: 507, and nothing stays behind."""

import contextlib
import os
import shutil
import signal
import subprocess
import textwrap

import pytest

from tests.cli.test_run import Process
from tests.servers.harness import Client, request

APP = """
from greenchannels import http

def upload(request):
    return str(len(request.get_data()))

routing = [http("/", upload, methods=["POST", "GET"])]
"""


def can_mount():
    """Return whether this process may mount a file system of its own."""
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.fixture
def server(tmp_path):
    """A server whose temporary files have 4 MiB of room."""
    if not can_mount():
        pytest.skip("mounting a tmpfs needs root and unshare")
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    disk = tmp_path / "disk"
    disk.mkdir()
    script = 'mount -t tmpfs -o size=4m tmpfs "$TMPDIR" && exec "$@"'
    prefix = ["unshare", "-m", "sh", "-c", script, "sh"]
    env = {"TMPDIR": str(disk)}
    process = Process(tmp_path, "--port", "0", prefix=prefix, env=env)
    yield process
    process.signal(signal.SIGTERM)
    process.end()


def spooled(process):
    """Return the bytes that deleted temporary files still hold, by their links."""
    folder = f"/proc/{process.process.pid}/fd"
    links = [os.path.join(folder, name) for name in os.listdir(folder)]
    return [link for link in links if "/disk/" in os.readlink(link)]


def test_a_body_that_the_disk_cannot_hold_is_answered_with_507(server):
    """The next ones are served, for nothing stays behind."""
    address = server.address()
    for _ in range(3):
        client = Client(address)
        client.send(request(method="POST", headers=[("Content-Length", "8000000")]))
        with contextlib.suppress(OSError):  # it may answer before the end
            client.send(b"x" * 8_000_000)
        assert client.response().status == 507
        client.close()
    client = Client(address)
    client.send(request(method="POST", body=b"x" * 3_000_000))
    assert client.response().body == b"3000000"
    client.close()
    assert spooled(server) == []
