"""Ways to ask a folder: over the server, with and without its zero copies, or not."""

import pytest

from greenchannels import include, static
from greenchannels.hosting import representations
from greenchannels.hosting.files import Folder
from greenchannels.hosting.responders import ZERO_COPY

#: For ``parametrize``: how the server is to send files.
WAYS = [pytest.param(True, id="zero copy"), pytest.param(False, id="read")]


def without_zero_copy(inner):
    """A middleware that hides the extension, as one does that changes bodies."""

    def consumer(scope, receive, send):
        kept = {k: v for k, v in scope["extensions"].items() if k != ZERO_COPY}
        inner({**scope, "extensions": kept}, receive, send)

    return consumer


def routing(folder, zero_copy=True, path="/"):
    """Return a routing that serves a folder."""
    route = static(path, folder)
    return [route] if zero_copy else [include("", [route], [without_zero_copy])]


def call(folder, path, headers=(), method="GET", *, zero_copy=False, send=None):
    """Call a ``Folder`` itself; return its events."""
    events = []
    consumer = folder if isinstance(folder, Folder) else Folder(folder)
    scope = {
        "type": "http",
        "method": method,
        "headers": list(headers),
        "url_route": {"args": (), "kwargs": {"path": path}},
        "extensions": {ZERO_COPY: {}} if zero_copy else {},
    }
    consumer(scope, None, send or events.append)
    return events


def settle(monkeypatch):
    """Make files count as settled at once, as if two seconds had passed."""
    monkeypatch.setattr(representations, "UNSETTLED", -3600.0)
