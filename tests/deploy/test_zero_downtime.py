"""docs/deploy/zero-downtime.md: while people come, and others are there."""

import shutil
import signal

import pytest

from tests.deploy.chatters import all_hear_each_other, crowd, nobody_refused, talk_at
from tests.deploy.pages import SYSTEMD, ZERO_DOWNTIME, executes
from tests.deploy.site import waited
from tests.deploy.systemd import Manager


@executes(ZERO_DOWNTIME, "run")
def test_workers_are_replaced_one_by_one(site):
    """By new ones that share the groups of those who are still there."""
    start, hangup = ZERO_DOWNTIME.commands("run")
    program = site.start(start)
    program.has_said("is up", 4)
    module = site.path("/srv/chat/chat/__init__.py")
    old, new = '"sent", **said', '"sent", "version": 2, **said'
    module.write_text(module.read_text().replace(old, new))
    with nobody_refused(site.address()), crowd(site.address()) as people:
        all_hear_each_other(people)
        site.run(hangup)
        assert {person.told() for person in people} == {1012}
    assert ZERO_DOWNTIME.says("replacing all workers") in program.said
    program.has_said("is up", 8)
    waited(lambda: site.meeting() == 4, lambda: program.said)
    with crowd(site.address(), count=1) as (person,):
        person.say("hello")
        assert person.hear("sent")["version"] == 2
    assert program.end()[0] == 0


@executes(ZERO_DOWNTIME, "gunicorn")
def test_two_generations_of_gunicorn(site):
    """They hear each other; the first one goes, and the second is the only one."""
    start, second, drain, end = ZERO_DOWNTIME.commands("gunicorn")
    site.run(start)
    pid, log = site.path("/run/chat/pid"), site.path("/var/log/chat/error.log")
    waited(lambda: log.exists() and log.read_text().count("Booting worker") == 4)
    first = pid.read_text()
    with nobody_refused(site.address()), crowd(site.address()) as old:
        all_hear_each_other(old)
        generation = set(site.strays())

        def some_are_new(people):
            return {site.server_of(each) for each in people} - generation

        site.run(second)
        waited(lambda: site.meeting() == 8, log.read_text)
        with crowd(site.address(), enough=some_are_new) as new:
            all_hear_each_other([*old, *new])
            stay = [each for each in new if site.server_of(each) not in generation]
            site.run(drain)
            leave = {*old, *new} - {*stay}
            assert {person.told() for person in leave} == {1012}
            site.run(end)
            waited(lambda: pid.exists() and pid.read_text() not in ("", first))
            all_hear_each_other(stay)
    site.run(end)
    waited(lambda: not site.strays(), log.read_text)
    said = log.read_text()
    assert "Traceback" not in said, said


@pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None,
    reason="systemd-socket-activate is not installed: it comes with systemd",
)
@executes(ZERO_DOWNTIME, "systemd")
def test_who_comes_while_systemd_restarts_waits(site):
    """In the kernel, and is served."""
    for file in SYSTEMD.files("The files"):
        site.write(file)
    (restart,) = ZERO_DOWNTIME.commands("systemd")
    systemctl = Manager(site)
    systemctl("enable", "--now", "chat.socket", "chat.service")
    try:
        with nobody_refused(site.address()), crowd(site.address()) as people:
            all_hear_each_other(people)
            site.run(restart, systemctl=systemctl)
            assert {person.told() for person in people} == {1012}
        talk_at(site.address())
        systemctl.stop()
    finally:
        systemctl.close()


def test_what_goes_wrong(site):
    """Each says what the page says."""
    start = ZERO_DOWNTIME.commands("run")[0]
    program = site.start(start)
    program.has_said("is up", 4)
    program.process.send_signal(signal.SIGUSR2)
    program.wait_for(
        ZERO_DOWNTIME.says("SIGUSR2 is not followed: SIGHUP reloads the code")
    )
    site.path("/srv/chat/app.py").write_text("1/0\n")
    program.process.send_signal(signal.SIGHUP)
    said = ZERO_DOWNTIME.says("worker N did not start; the others stay as they are")
    program.wait_for(said.replace("N", r"\d+"))
    talk_at(site.address())
    assert program.end()[0] == 0
