"""docs/deploy/gunicorn.md."""

import contextlib
import signal
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from tests.cli.test_run import get
from tests.deploy.chatters import Chatter, all_hear_each_other, crowd
from tests.deploy.pages import GUNICORN, executes
from tests.deploy.site import waited


def started(site, heading):
    """Start gunicorn by a page's command, and wait for its four workers."""
    (command,) = GUNICORN.commands(heading)
    return up(site, site.start(command))


def up(site, program):
    """
    Wait until four workers have imported the application.

    Before that gunicorn's own workers on gevent forget a SIGTERM.
    """
    program.has_said("Booting worker", 4)

    def loaded():
        workers = [pid for pid in site.strays() if pid != program.pid]
        maps = [Path(f"/proc/{pid}/maps").read_text() for pid in workers]
        return len(maps) == 4 and all("httptools" in text for text in maps)

    waited(loaded, lambda: program.said)
    waited(lambda: answers(site), lambda: program.said)
    return program


def answers(site):
    """Return whether the page is served."""
    with contextlib.suppress(OSError, EOFError):
        return get(site.address()).status == 200


def check(site, heading):
    """Have people in all workers hear each other, and be told at the end."""
    program = started(site, heading)
    site.run(*GUNICORN.commands("How to see that it works"))
    with crowd(site.address(), enough=lambda _: site.meeting() > 1) as people:
        all_hear_each_other(people)
        program.process.send_signal(signal.SIGTERM)
        assert {person.told() for person in people} == {1012}
    code, said = program.end(None)
    assert (code, "Traceback" in said) == (0, False), said
    waited(lambda: not site.strays())


@executes(GUNICORN, "Our worker", "How to see that it works")
def test_our_worker(site):
    """Our server inside of gunicorn."""
    check(site, "Our worker")


@executes(GUNICORN, "gevent's worker", "How to see that it works")
def test_gevents_worker(site):
    """gunicorn's server, and sockets that are taken over from it."""
    check(site, "gevent's worker")


@executes(GUNICORN, "pywsgi", "How to see that it works")
def test_pywsgi(site):
    """gevent's server in gunicorn, and sockets that are taken over from it."""
    check(site, "pywsgi")


@pytest.mark.parametrize("heading", ["gevent's worker", "pywsgi"])
def test_gunicorns_access_log_has_requests_only(site, heading):
    """As the table says."""
    command = site.here(GUNICORN.commands(heading)[0].text).strip()
    log = f"{command} --access-logfile -"
    program = up(site, site.spawn(["bash", "-ec", log], "Booting worker"))
    with crowd(site.address(), count=2) as people:
        all_hear_each_other(people)
    code, said = program.end()
    assert code == 0, said
    assert '"GET / HTTP/1.1" 200' in said and "/chat/" not in said


def test_what_goes_wrong(site):
    """Each says what the page says."""
    command = site.here(GUNICORN.commands("Our worker")[0].text)

    def spawned(text, ready=None, **options):
        return site.spawn(["bash", "-ec", text], ready, **options)

    wrong = spawned(command.replace("app:application", "app:missing"))
    said = GUNICORN.says("Failed to find attribute 'application' in 'app'.")
    assert said.replace("application", "missing") in wrong.end(None)[1]
    preload = spawned(f"{command.strip()} --preload", "Booting worker")
    warning = "preload_app imports the application before it is patched"
    assert GUNICORN.says(warning) in preload.said
    preload.kill()
    sync = spawned(command.replace("greenchannels.gunicorn.Worker", "sync"), "Booting")
    waited(lambda: answers(site), lambda: sync.said)
    with pytest.raises(InvalidStatus) as refused:
        Chatter(site.address())
    assert str(refused.value.response.status_code) == GUNICORN.says("501")
    sync.wait_for(GUNICORN.says("a WebSocket is refused with 501"))
