"""docs/deploy/container.md and the folder of README.md, installed from nothing."""

import shutil
import signal

import pytest

from tests.deploy.chatters import all_hear_each_other, crowd, talk_at
from tests.deploy.docker import NOT_COPIED, Docker
from tests.deploy.pages import CONTAINER, README, RUN, executes
from tests.deploy.site import PATIENCE, ROOT, waited

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (ROOT / "setup.py").exists(),
        reason="these files are no checkout that could be installed",
    ),
]


@executes(CONTAINER, "The files", "The commands")
def test_the_container(site):
    """It is built, is healthy, serves, and ends in time as process 1."""
    (file,) = CONTAINER.files("The files")
    start, stop = CONTAINER.commands("The commands")
    site.used.add(file)
    docker = Docker(site, file.text)
    site.run(start, docker=docker)
    waited(docker.healthy, lambda: docker.program.said)
    docker.program.has_said("is up", 2)
    with crowd(site.address()) as people:
        all_hear_each_other(people)
        site.run(stop, docker=docker)
        assert {person.told() for person in people} == {1012}
    said = docker.program.said
    assert '"GET / HTTP/1.1" 200' in said and "Traceback" not in said, said
    assert not docker.healthy()


@pytest.mark.parametrize("site", ["bare"], indirect=True)
@executes(README, "The application")
def test_the_application_is_installed_as_the_page_says(site):
    """Into a folder and a virtual environment of its own."""
    checkout = site.root / "checkout"
    shutil.copytree(ROOT, checkout, ignore=NOT_COPIED)
    del site.env["PYTHONPATH"]
    (commands,) = README.commands("The application")
    site.run(commands, cwd=checkout, seconds=10 * PATIENCE)
    for file in README.files("The application"):
        site.write(file)
    installed = site.path("/srv/chat/venv/bin/greenchannels")
    assert installed.exists()
    program = site.start(RUN.commands("One process")[0])
    talk_at(site.address(), count=2)
    assert program.end(signal.SIGTERM)[0] == 0
