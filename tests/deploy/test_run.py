"""docs/deploy/run.md."""

import os
import shutil
import signal
import subprocess

import pytest

from tests.deploy.chatters import all_hear_each_other, crowd, talk_at
from tests.deploy.pages import RUN, executes
from tests.deploy.site import waited

LOGROTATE = shutil.which("logrotate", path=os.environ["PATH"] + ":/usr/sbin")


@executes(RUN, "One process")
def test_one_process(site):
    """It serves the chat, tells sockets at the end, and exits with 0."""
    (command,) = RUN.commands("One process")
    program = site.start(command)
    said = site.here("Listening on http://127.0.0.1:8000 (Ctrl-C to stop)")
    RUN.says("Listening on http://127.0.0.1:8000 (Ctrl-C to stop)")
    assert said in program.said
    with crowd(site.address(), count=2) as people:
        all_hear_each_other(people)
        program.process.send_signal(signal.SIGTERM)
        assert [person.told() for person in people] == [1012, 1012]
    assert program.end(None)[0] == 0


@pytest.mark.skipif(LOGROTATE is None, reason="logrotate is not installed")
@executes(RUN, "Several processes", "The access log")
def test_several_processes(site):
    """They share their groups; what an operator does to them works."""
    folders, start, change, stop = RUN.commands("Several processes")
    site.run(folders)
    program = site.start(start)
    assert RUN.says("Groups over ipc://") in program.said
    program.has_said("is up", 4)
    talk_at(site.address())
    rotated(site)
    with crowd(site.address()) as people:
        site.run(change)
        assert {person.told() for person in people} == {1012}
    program.has_said("is up", 9)
    waited(lambda: site.meeting() == 5, lambda: program.said)
    talk_at(site.address())
    with crowd(site.address()) as people:
        site.run(stop)
        assert {person.told() for person in people} == {1012}
    code, said = program.end(None)
    assert (code, "Traceback" in said) == (0, False), said
    assert not site.path("/run/chat/pid").exists()


def rotated(site):
    """Have logrotate rotate the access log, which loses no line."""
    (file,) = RUN.files("The access log")
    (command,) = RUN.commands("The access log")
    site.write(file)
    state = f'exec {LOGROTATE} --state {site.root}/state "$@"'
    site.program(site.root / "bin/logrotate", state)
    log = site.path("/var/log/chat/access.log")
    before = log.read_text()
    assert before.count('"WSCONNECT /chat/lobby" 101') > 0
    site.run(command)
    waited(log.exists)
    talk_at(site.address(), count=3)
    waited(lambda: log.read_text().count('"WSCONNECT') == 3, log.read_text)
    assert log.with_name("access.log.1").read_text().startswith(before)


def test_what_goes_wrong(site):
    """Each says what the page says."""
    start = RUN.commands("One process")[0]
    command = ["bash", "-ec", site.here(start.text)]
    first = site.start(start)
    second = site.spawn([*command[:2], f"{command[2].strip()} --pid p"], None)
    busy = RUN.says("Error: cannot listen on 127.0.0.1:8000: Address already in use")
    assert site.here(busy) in second.end(None)[1]
    other = "greenchannels run app:routing --port 0 --pid p"
    site.spawn(["bash", "-ec", other], "Listening on")
    third = site.spawn(["bash", "-ec", other], None)
    assert RUN.says("Error: Already running on PID") in third.end(None)[1]
    many = f"{other}2 --workers 2"
    env = {"GREENCHANNELS_LAYER": "memory://"}
    fourth = site.spawn(["bash", "-ec", many], "Listening on", env=env)
    assert (
        RUN.says("with memory:// the groups of each worker are its own") in fourth.said
    )
    elsewhere = subprocess.run(
        [
            *(
                "curl",
                "-sS",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "--max-time",
                "9",
            ),
            *("-H", "Connection: Upgrade", "-H", "Upgrade: websocket"),
            *("-H", "Sec-WebSocket-Version: 13", "-H", "Origin: http://elsewhere"),
            *("-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
            f"http://127.0.0.1:{site.port(8000)}/chat/lobby",
        ],
        capture_output=True,
        text=True,
    )
    assert elsewhere.stdout == RUN.says("403"), elsewhere.stderr
    first.wait_for("http://elsewhere")
