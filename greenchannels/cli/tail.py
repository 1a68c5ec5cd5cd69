"""``greenchannels tail``: see in a shell what groups are sent."""

from __future__ import annotations

import base64
import os
import signal
import stat
import sys
import time
from collections import deque
from datetime import UTC, datetime
from typing import Any

import click
import gevent
from gevent.event import Event as Signal
from gevent.monkey import get_original
from gevent.os import tp_write

from ..errors import ConfigurationError, LayerUnavailable
from ..groups import to_json
from ..layers.codec import Broadcast, Kind, read_close, unpack_event
from ..layers.layer import GAP_EVENT, Layer, group_topic
from ..layers.registry import make_layer, shown_url
from ..net.reactor import Reactor
from .outside import choose_layer, fail, layer_options, leave
from .run import EXIT_OK, EXIT_START, say

#: Bytes of messages that wait for a slow output; above, messages are dropped.
MAX_WAITING = 16 * 1024 * 1024

#: Signals that end it.
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_poll = get_original("select", "poll")

#: How control characters are written: a message is one line, and moves no cursor.
ESCAPES = {
    **{code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))},
    **{ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\t"},
    **{0x2028: "\\u2028", 0x2029: "\\u2029"},
}

EPILOG = """When the standard error says "Listening", whatever is sent from then on
arrives. A text is a line, with its control characters escaped; binary messages and
events are marked. With several groups each line begins with the group's name. What was
lost is told on the standard error.

\b
  greenchannels tail chat.lobby --app app:routing
  greenchannels tail prices orders --json --layer ipc://site | jq .data
"""


@click.command(epilog=EPILOG)
@click.argument("groups", nargs=-1, required=True, metavar="GROUP...")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="A JSON object a line: group, kind (text, binary, event), data (of binary:"
    " Base64), time.",
)
@layer_options
@click.pass_context
def tail(
    context: click.Context, /, groups: tuple[str, ...], as_json: bool, **layer: Any
) -> None:
    """Print what is sent to each GROUP from now on, until Ctrl-C."""
    url = choose_layer(context)
    named = len(set(groups)) > 1
    printer = Printer(sys.stdout.fileno(), describe if as_json else Line(named))
    reactor = Reactor()
    try:
        topics = [group_topic(group) for group in groups]
        layer_ = make_layer(url)
        layer_.start(reactor)
    except (ConfigurationError, LayerUnavailable, ValueError) as error:
        fail(error)
    leave(listen(layer_, reactor, topics, printer, url))


def listen(
    layer: Layer, reactor: Reactor, topics: list[str], printer: Printer, url: str
) -> int:
    """Print until the end; return the exit code."""
    for number in ENDINGS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            gevent.signal_handler(number, printer.ended.set)
    for topic in topics:
        layer.add(topic, printer)
    names = ", ".join(repr(topic[2:]) for topic in topics)
    say(f"Listening to {names} by {shown_url(url)} (Ctrl-C to stop)")
    printer.start()
    printer.ended.wait()
    printer.stop()
    layer.close()
    reactor.close()
    return EXIT_OK if printer.error is None else EXIT_START


class Printer:
    """
    A member of groups that writes what it gets.

    Args:
        fd: Where to; nobody else writes there meanwhile.
        form: Makes a line of group, message and the time when it came.

    Attributes:
        ended: Set when nothing more is to be, or can be, written.
        error: Why it cannot, if its reader has not just left.

    """

    def __init__(self, fd: int, form: Any) -> None:
        self.memberships: set[str] | None = None
        self.max_groups: int | None = None
        self.ended = Signal()
        self.error: OSError | None = None
        self._fd = fd
        self._form = form
        self._came = Signal()
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._writer: gevent.Greenlet[[], None] | None = None
        self._watcher: Any = None

    # A member.

    def listens_to(self, kind: str) -> bool:
        """It is told of gaps."""
        return kind == GAP_EVENT

    def deliver(self, broadcast: Broadcast) -> None:
        """Take a message; never blocks."""
        group = broadcast.topic[2:]
        content = read_content(broadcast)
        if broadcast.kind is Kind.EVENT and content.get("type") == GAP_EVENT:
            self._tell_gap(group, content["missed"])
        elif self._size > MAX_WAITING:
            self._dropped += 1
        else:
            line = self._form(group, broadcast.kind, content, time.time()) + "\n"
            data = line.encode(errors="backslashreplace")
            self._waiting.append(data)
            self._size += len(data)
            self._came.set()

    def _tell_gap(self, group: str, missed: int | None) -> None:
        number = "some" if missed is None else str(missed)
        say(f"Missed: {number} of {group!r}")

    # Writing.

    def start(self) -> None:
        """Begin to write, in a greenlet."""
        self._writer = gevent.spawn(self._write)
        self._writer.name = "greenchannels tail"
        if stat.S_ISFIFO(os.fstat(self._fd).st_mode):
            self._watcher = gevent.get_hub().loop.io(self._fd, 1)
            self._watcher.start(self._look_for_reader)

    def stop(self) -> None:
        """Write no more; what waits is lost."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
        if self._writer is not None:
            self._writer.kill(block=False)

    def _look_for_reader(self) -> None:
        """A pipe's writing end is seldom readable: its reader may have left."""
        poll = _poll()
        poll.register(self._fd, 0)
        if poll.poll(0):
            self.ended.set()
        elif self._watcher is not None:
            self._watcher.stop()  # somebody may read and write it

    def _write(self) -> None:
        try:
            while True:
                self._came.wait()
                self._came.clear()
                while self._waiting:
                    self._write_some()
        except BrokenPipeError:
            self.ended.set()
        except OSError as error:
            say(f"Error: cannot write: {error.strerror}")
            self.error = error
            self.ended.set()

    def _write_some(self) -> None:
        """Write what waits; blocks as long as the output does, but not the hub."""
        data = b"".join(self._waiting)
        self._waiting.clear()
        while data:
            written = tp_write(self._fd, data)
            data = data[written:]
            self._size -= written
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            say(f"Dropped: {dropped}, the output was too slow")


def read_content(broadcast: Broadcast) -> Any:
    """Return text, bytes, or what an event or a close holds."""
    payload: Any = broadcast.payload
    if broadcast.kind is Kind.EVENT:
        return unpack_event(payload)
    if broadcast.kind is Kind.CLOSE:
        return read_close(payload)
    return payload


def describe(group: str, kind: Kind, content: Any, when: float) -> str:
    """Return a message as a line of JSON."""
    data: Any = base64.b64encode(content).decode() if kind is Kind.BINARY else content
    moment = datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds")
    line = {"group": group, "kind": kind.name.lower(), "time": moment, "data": data}
    return to_json(line)


class Line:
    """
    Return messages as lines for people.

    Args:
        named: Whether a line begins with the name of the group.

    """

    def __init__(self, named: bool) -> None:
        self._named = named

    def __call__(self, group: str, kind: Kind, content: Any, when: float) -> str:
        """Return a line without its end."""
        if kind is Kind.TEXT:
            text = content.translate(ESCAPES)
        elif kind is Kind.BINARY:
            text = f"[binary, {len(content)} bytes] {content.hex()}"
        else:
            text = f"[{kind.name.lower()}] {to_json(content).translate(ESCAPES)}"
        return f"{group}: {text}" if self._named else text
