"""
The pytest plugin: ``-p greenchannels.testing.plugin``.

It patches the process as soon as it is loaded, before pytest has imported a
test, and gives fixtures: ``client``, ``live_server`` and ``no_leaks``.
"""

# ruff: noqa: E402
from gevent import monkey

monkey.patch_all()

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .client import Client
from .leaks import LeakCheck
from .live import LiveServer

#: The ini option that says what a leak is.
OPTION = "greenchannels_leaks"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the ini option."""
    parser.addini(
        OPTION,
        "what greenlets and descriptors that a test leaves are: error, warn or off",
        default="error",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Check the ini option."""
    if config.getini(OPTION) not in ("error", "warn", "off"):
        raise pytest.UsageError(f"{OPTION} is error, warn or off")


@pytest.fixture
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail if the test leaves greenlets that run or descriptors that are open."""
    mode = request.config.getini(OPTION)
    if mode == "off":
        yield
        return
    check = LeakCheck()
    yield
    found = check.find()
    if not found:
        return
    text = "the test leaves " + ", ".join(found)
    if mode == "error":
        pytest.fail(text, pytrace=False)
    warnings.warn(pytest.PytestWarning(text), stacklevel=1)


@pytest.fixture
def client(no_leaks: None) -> Iterator[Callable[..., Client]]:
    """Return a function that opens a ``Client``; what it opened is closed."""
    opened: list[Client] = []

    def open_client(routing: Any, **options: Any) -> Client:
        client = Client(routing, **options)
        client.open()
        opened.append(client)
        return client

    yield open_client
    for each in reversed(opened):
        each.close()


@pytest.fixture
def live_server(no_leaks: None) -> Iterator[Callable[..., LiveServer]]:
    """Return a function that starts a ``LiveServer``; what it started is stopped."""
    started: list[LiveServer] = []

    def start_server(routing: Any, **options: Any) -> LiveServer:
        server = LiveServer(routing, **options)
        server.start()
        started.append(server)
        return server

    yield start_server
    for each in reversed(started):
        each.stop()
