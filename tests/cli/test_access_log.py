"""``--access-log FILE`` and the drill of logrotate: rename the file, send SIGUSR1."""

import contextlib
import logging
import os
import signal
import textwrap
from pathlib import Path

import pytest

from greenchannels.servers.access import AccessLog
from tests.cli.processes import Family, pages, waited
from tests.cli.test_run import get

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")

APP = """
    import os
    import signal
    from greenchannels import http

    os.kill(os.getpid(), signal.SIGUSR1)

    routing = [http("/pid", lambda request: str(os.getpid()))]
"""


@pytest.fixture
def run(tmp_path):
    """A function that starts the command in a folder with an app."""
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    started = []

    def start(*arguments):
        command = ("greenchannels", "run", "app:routing", "--port", "0", *arguments)
        started.append(Family(tmp_path, *command))
        return started[-1]

    yield start
    for each in started:
        each.kill()


def address_of(server):
    """Wait for the line that says where it listens."""
    found = server.wait_for(rb"Listening on http://([\d.]+):(\d+)")
    return found[1].decode(), int(found[2])


def open_files(server):
    """Return what all its processes have open."""
    found = []
    for pid in server.members():
        for path in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                found.append(os.readlink(path))
    return found


def rotate(server, path):
    """Do what logrotate does; return the text of the file until then."""
    old = path.with_suffix(".1")
    path.rename(old)
    server.signal(signal.SIGUSR1)
    waited(lambda: open_files(server), lambda found: str(old) not in found)
    return old.read_text()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_file_is_opened_again(run, tmp_path, workers):
    """By all processes; none holds the renamed one, not even the arbiter."""
    path = tmp_path / "access.log"
    server = run("--access-log", str(path), "--workers", str(workers))
    address = address_of(server)
    pids = pages(address, lambda found: len(found) == workers)
    assert open_files(server).count(str(path)) == workers
    assert rotate(server, path).count('"GET /pid ') >= workers
    assert pages(address, lambda found: len(found) == workers) == pids
    assert path.read_text().count('"GET /pid ') >= workers
    server.stopped()


@pytest.mark.parametrize("workers", [1, 2])
def test_without_a_file_the_signal_changes_nothing(run, workers):
    """Neither while the application is imported, which this one does to itself."""
    server = run("--workers", str(workers))
    address = address_of(server)
    server.signal(signal.SIGUSR1)
    assert pages(address, lambda found: len(found) == workers)
    out, _ = server.stopped()
    assert '"GET /pid ' in out


def test_a_file_that_cannot_be_opened_leaves_the_one_there_was(run, tmp_path):
    """The log says so, and no line is lost."""
    (tmp_path / "logs").mkdir()
    path = tmp_path / "logs" / "access.log"
    server = run("--access-log", str(path))
    address = address_of(server)
    (tmp_path / "logs").rename(tmp_path / "moved")
    server.signal(signal.SIGUSR1)
    server.wait_for(rb"the access log stays in the file it has: .*No such file")
    get(address, "/pid")
    assert '"GET /pid ' in (tmp_path / "moved" / "access.log").read_text()
    server.stopped()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_log_that_has_ended_begins_again(tmp_path, caplog):
    """Once the disk has room and somebody says so."""
    path = tmp_path / "access.log"
    path.symlink_to("/dev/full")
    log = AccessLog.in_file(str(path))
    with caplog.at_level(logging.ERROR):
        log.refused(("203.0.113.9", 5), 400)
    assert "the access log ends here" in caplog.text
    assert not log.enabled
    path.unlink()
    log.reopen()
    assert log.enabled
    log.refused(("203.0.113.9", 5), 431)
    log.close()
    assert path.read_text().endswith('"-" 431 - 0.000\n')
    assert not log.enabled
