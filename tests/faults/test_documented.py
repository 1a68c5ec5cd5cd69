"""docs/processes.md: its table of faults names tests that exist, its limits are so."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "processes.md").read_text()
ROWS = [line for line in TEXT.splitlines() if re.search(r"`tests/\S+\.py::", line)]


def names_in(path):
    """Return the names of a module's tests."""
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_table_has_all_faults():
    """Those of layers, of workers, and of folders."""
    assert len(ROWS) > 20 and "@" not in TEXT
    assert {re.search(r"`tests/(\w+)/", row)[1] for row in ROWS} == {
        "cli",
        "faults",
        "layers",
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_each_row_names_a_test_that_exists(row):
    """Five cells, the last one a test."""
    *_, last, end = row.split("|")
    assert row.count("|") == 6 and end == ""
    path, name = re.fullmatch(r" `(tests/\S+\.py)::(test_\w+)` ", last).groups()
    assert name in names_in(path)


def test_each_test_of_a_fault_of_workers_is_in_the_table():
    """Nothing that is promised to happen is kept back."""
    for path in ("tests/faults/test_workers.py", "tests/faults/test_reload.py"):
        for name in names_in(path):
            assert not name.startswith("test_") or f"`{path}::{name}`" in TEXT


def test_limits_are_those_of_the_code():
    """The table of limits, and the promise of what waits."""
    from greenchannels.layers import codec, ipc, ipc_links, remote
    from greenchannels.layers.numbers import PROBE_INTERVAL, WARNING_INTERVAL

    rows = dict(re.findall(r"^\| ([^|]+) \| ([\d.]+) (?:MiB|s) \|", TEXT, re.MULTILINE))
    expected = {
        "a message": codec.MAX_MESSAGE / 2**20,
        "what waits for one process": ipc_links.MAX_WAITING / 2**20,
        "a process takes no byte of what waits": ipc_links.WRITE_TIMEOUT,
        "a process does not confirm a join": ipc.SILENCE,
        "a start waits for others' topics": ipc.START_TIMEOUT,
        "`Group.add(name)` of a socket elsewhere": remote.CALL_TIMEOUT,
        "who connects does not say who it is": ipc_links.HELLO_TIMEOUT,
        "`close` sends what waits": ipc.CLOSE_TIMEOUT,
    }
    assert {name: float(rows[name]) for name in expected} == expected
    assert f"told each {PROBE_INTERVAL:.0f} s" in TEXT
    assert f"one warning in {WARNING_INTERVAL:.0f} s" in TEXT
