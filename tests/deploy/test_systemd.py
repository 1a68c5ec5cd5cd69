"""docs/deploy/systemd.md."""

import re
import shutil

import pytest

from greenchannels import ServerOptions
from greenchannels.cli.workers import LEAVE_TIME
from tests.deploy.chatters import all_hear_each_other, crowd, nobody_refused, talk_at
from tests.deploy.pages import SYSTEMD, executes
from tests.deploy.site import waited
from tests.deploy.systemd import Manager

pytestmark = pytest.mark.skipif(
    not (shutil.which("systemd-analyze") and shutil.which("systemd-socket-activate")),
    reason="systemd-analyze and systemd-socket-activate are not installed: they come"
    " with the package systemd",
)


@pytest.fixture
def systemctl(site):
    """The stand-in for ``systemctl``, with the page's files."""
    for file in SYSTEMD.files("The files"):
        site.write(file)
    manager = Manager(site)
    yield manager
    manager.close()


@executes(SYSTEMD, "The files", "The commands", "How to see that it works")
def test_the_units(site, systemctl):
    """They verify; both sockets serve; a reload and a restart refuse nobody."""
    start, reload, restart = SYSTEMD.commands("The commands")
    assert site.run(start, systemctl=systemctl) == "", "what verify has to say"
    see, tool = SYSTEMD.commands("How to see that it works")
    site.run(see)
    places = [site.address(), str(site.path("/run/chat.sock"))]
    talk_at(*places)
    listening = re.findall(r"Listening on (\S+)", systemctl.program.said)
    assert listening[-2:] == [site.here("http://127.0.0.1:8000"), f"unix:{places[1]}"]
    names = [path.name for path in site.path("/run/chat/greenchannels").iterdir()]
    assert len(names) == 1, "the workers meet in the service's own folder"
    first = systemctl.program
    for command in (reload, restart):
        workers = set(site.strays()) - {systemctl.program.pid}
        with nobody_refused(site.address()), crowd(*places) as people:
            all_hear_each_other(people)
            site.run(command, systemctl=systemctl)
            assert {person.told() for person in people} == {1012}
        waited(lambda old=workers: not old & set(site.strays()))
        talk_at(*places)
    assert systemctl.program is not first
    systemctl.stop()
    systemctl.close()
    with_tool(site, tool)


def with_tool(site, command):
    """Try the page's command with systemd's own listening."""
    systemd = site.start(command, ready="Listening on")
    talk_at(site.address())
    code, said = systemd.end()
    assert (code, "Traceback" in said) == (0, False), said


def test_the_service_has_more_time_than_it_needs(systemctl):
    """The drain's default and what lifespans may take fit into TimeoutStopSec."""
    (seconds,) = systemctl.read("service")["TimeoutStopSec"]
    assert float(seconds) > ServerOptions().drain + LEAVE_TIME


def test_descriptors_suffice_for_all_connections(systemctl):
    """LimitNOFILE is above the default of --max-connections, which is one worker's."""
    (limit,) = systemctl.read("service")["LimitNOFILE"]
    assert int(limit) > 2 * ServerOptions().max_connections
