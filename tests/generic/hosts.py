"""Where a class-based consumer may live, and what its tests write down."""

import contextlib

from greenchannels import websocket
from tests.servers.harness import until

#: What ``websocket()`` takes.
ROUTE = (
    *("slow", "limits", "origins", "subprotocols", "deflate", "announce_drops"),
    "middleware",
)


def handing_on(inner):
    """Middleware that looks at the scope: the socket stays the server's own."""

    def consumer(scope, receive, send):
        inner({**scope, "seen": True}, receive, send)

    return consumer


def wrapping(inner):
    """Middleware that sees every event: the socket behind it speaks GSGI."""

    def consumer(scope, receive, send):
        inner(scope, lambda: receive(), lambda event: send(event))

    return consumer


#: In bursts; in a greenlet on the server's socket; in a greenlet over events.
MODES = {"direct": (), "handed on": (handing_on,), "wrapped": (wrapping,)}


class Host:
    """
    Serves one class-based consumer.

    Args:
        serve: The fixture of that name.
        mode: One of ``MODES``.

    """

    def __init__(self, serve, mode):
        self._serve = serve
        self.mode = mode
        self.running = None

    def __call__(self, consumer, path="/", **options):
        """Serve ``consumer`` at ``path``; return what runs."""
        route = {name: options.pop(name) for name in ROUTE if name in options}
        route.setdefault("middleware", MODES[self.mode])
        self.running = self._serve([websocket(path, consumer, **route)], **options)
        return self.running

    def rest(self):
        """Wait until no handler runs: idle consumers wait, ended ones have gone."""
        until(lambda: all(each.waiting for each in self.running.server.sockets))


class Notes(list):
    """What consumers have seen, in order."""

    def wait(self, *expected):
        """Wait until exactly this has been written down."""
        with contextlib.suppress(AssertionError):
            until(lambda: len(self) >= len(expected))
        if self != list(expected):
            raise AssertionError(f"noted was {list(self)}, not {list(expected)}")

    def wait_for(self, note):
        """Wait until this has been written down."""
        until(lambda: note in self)


def errors(caplog):
    """Return the messages that were logged above "info"."""
    return [r.getMessage() for r in caplog.records if r.levelname not in QUIET]


#: Levels of the log that nobody need look at.
QUIET = ("DEBUG", "INFO")
