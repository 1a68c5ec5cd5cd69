"""docs/redis.md: its tables of faults name tests that exist, its limits are so."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from greenchannels.layers import codec, remote
from greenchannels.layers.redis import bus, connection, link, publisher

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "redis.md").read_text()
FAULTS = TEXT.partition("\n## Faults\n")[2]
ROWS = [line for line in FAULTS.splitlines() if re.search(r"\btest_\w+`", line)]


@cache
def names_in(folder):
    """Return the names of a folder's tests."""
    return {
        node.name
        for path in (ROOT / folder).glob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }


def test_the_tables_have_faults_of_every_kind():
    """Of one server, of sentinels, of a Cluster, and of two tiers."""
    assert len(ROWS) > 35
    for word in ("kill -9", "SIGSTOP", "sentinels", "Cluster", "gateway", "TCP"):
        assert any(word in row for row in ROWS), word


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_each_row_names_tests_that_exist(row):
    """All that it names, perhaps as the beginning of several."""
    *_, last, end = row.split("|")
    assert end == ""
    names = re.findall(r"(test_\w+)`", last)
    assert names or "the same" in last
    known = names_in("tests/layers")
    for name in names:
        assert any(each.startswith(name) for each in known), name


def test_limits_are_those_of_the_code():
    """The table of limits."""
    rows = dict(re.findall(r"^\| ([^|]+) \| ([\d.]+) (?:MiB|s)\b", TEXT, re.MULTILINE))
    expected = {
        "a message": codec.MAX_MESSAGE / 2**20,
        "what waits for Redis": publisher.MAX_QUEUED_BYTES / 2**20,
        "connecting and logging in": connection.CONNECT_TIMEOUT,
        "Redis answers a publish, or takes what is sent": 2 * connection.REPLY_TIMEOUT,
        "`Group.add(name)` of a socket elsewhere": remote.CALL_TIMEOUT,
        "a probe comes back": link.ECHO_TIMEOUT,
        "nothing is acknowledged on a connection (TCP)": connection.USER_TIMEOUT / 1000,
        "`close` sends what waits": bus.CLOSE_TIMEOUT,
    }
    assert {name: float(rows[name]) for name in expected} == expected
