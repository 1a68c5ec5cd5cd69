"""docs/class-based.md: its table names tests that exist, its examples run."""

import ast
import re
from pathlib import Path

import pytest

from greenchannels import websocket
from greenchannels.generic.websocket import JsonWebsocketConsumer
from greenchannels.testing import Client

HERE = Path(__file__).parent
TEXT = (HERE.parents[1] / "docs" / "class-based.md").read_text()
ROWS = [line for line in TEXT.splitlines() if re.search(r"`test_\w+\.py::", line)]
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def names_in(name):
    """Return the names of a module's tests."""
    tree = ast.parse((HERE / name).read_text())
    return {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}


def test_the_table_is_long():
    """It is the one of Channels' behaviours."""
    assert len(ROWS) > 40


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_each_row_names_a_test_that_exists(row):
    """Four cells, the last one a test."""
    *_, last, end = row.split("|")
    assert row.count("|") == 5 and end == ""
    file, name = re.fullmatch(r" `(test_\w+\.py)::(test_\w+)` ", last).groups()
    assert name in names_in(file)


def test_the_first_example_chats():
    """As it stands."""
    names = {}
    exec(compile(EXAMPLES[0], "class-based.md", "exec"), names)
    with (
        Client(names["routing"]) as client,
        client.websocket("/chat/tea") as ann,
        client.websocket("/chat/tea") as bob,
    ):
        ann.send_json({"text": "hello"})
        assert ann.receive_json() == bob.receive_json() == {"text": "hello"}


def test_the_other_examples_fit():
    """A consumer that answers bad messages, and a demultiplexer with it."""
    method = EXAMPLES[1]
    names = {"Json": JsonWebsocketConsumer}
    source = f"class Chat(Json):\n{method}\nclass Stocks(Json):\n"
    source += "    def __init__(self, market):\n        self.market = market\n"
    exec(compile(source + EXAMPLES[2], "class-based.md", "exec"), names)
    with Client(
        [websocket("/chat", names["Chat"]), websocket("/", names["Site"])]
    ) as c:
        with c.websocket("/chat") as chat:
            chat.send("nonsense")
            assert chat.receive_json() == {"error": "JSON, please"}
        with c.websocket("/") as site:
            site.send_json({"stream": "chat", "payload": 1})
            site.nothing()
