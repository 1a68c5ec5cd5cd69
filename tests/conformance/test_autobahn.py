"""The short form of Autobahn's cases; ``python -m tests.conformance`` is full."""

import pytest

from .autobahn import SHORT, our_server, run_cases, table_of
from .python2 import NoPython2, find_python2

pytestmark = pytest.mark.conformance

SECTIONS = sorted({int(case.split(".")[0]) for case in SHORT})


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """What the suite says of our server."""
    try:
        python2 = find_python2()
    except NoPython2 as error:
        pytest.skip(f"Autobahn's suite needs a Python 2.7: {error}")
    folder = tmp_path_factory.mktemp("autobahn")
    with our_server(folder / "server.log") as url:
        return run_cases(python2, url, folder, cases=SHORT, timeout=240)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_case_of_a_section_is_answered_strictly(verdicts, section):
    """OK or informational, also in how the connection ends."""
    of_section = [verdict for verdict in verdicts if verdict.section == section]
    assert of_section
    assert all(verdict.passed for verdict in of_section), table_of(of_section)
