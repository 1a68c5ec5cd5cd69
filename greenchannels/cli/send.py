"""``greenchannels send``: say something to a group from a shell."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import click
import msgspec
from gevent.os import tp_read

from ..errors import GreenchannelsError, LayerUnavailable
from ..layers.codec import MAX_MESSAGE, make_broadcast
from ..layers.layer import group_topic
from ..layers.outside import Outside, close_outposts
from ..layers.registry import make_layer
from ..types import Event
from .outside import choose_layer, fail, layer_options, leave
from .run import EXIT_OK, say

#: Bytes of the standard input that are read at a time.
READ_SIZE = 64 * 1024

EPILOG = """It returns when the message is with all processes that want it. Exit codes:
0; 1 if there is no way to one of them; 2 for what cannot be sent.

\b
  greenchannels send chat.lobby "We restart at noon." --app app:routing
  greenchannels send prices '{"type": "price.changed", "id": 7}' --event
  journalctl -f | greenchannels send log - --layer ipc://site
"""


@click.command(epilog=EPILOG)
@click.argument("group")
@click.argument("text")
@click.option(
    "--event",
    "is_event",
    is_flag=True,
    help='TEXT is JSON, an object with a "type": an event for the consumers.',
)
@layer_options
@click.pass_context
def send(
    context: click.Context, /, group: str, text: str, is_event: bool, **layer: Any
) -> None:
    """Send TEXT to all members of GROUP.

    "-" stands for the standard input: each line is a message, sent as it comes.
    """
    outside = Outside(choose_layer(context), make_layer)
    read = read_event if is_event else bytes.decode
    heard: bool | None = None
    place = ""
    try:
        topic = group_topic(group)
        for number, data in enumerate(messages(text), 1):
            place = f"line {number}: " if text == "-" else ""
            outside.send(topic, make_broadcast(read(data)))
            heard = heard or outside.is_wanted(topic)
    except (GreenchannelsError, ValueError) as error:
        close_outposts()
        fail(located(error, place))
    if heard is False:
        say(f"Nobody is in {group!r} now.")
    close_outposts()
    leave(EXIT_OK)


def messages(text: str) -> Iterator[bytes]:
    """Give what is to be sent; blocks for the standard input."""
    if text != "-":
        yield text.encode(errors="surrogateescape")
        return
    with contextlib.suppress(KeyboardInterrupt):
        yield from read_lines(sys.stdin.fileno())


def read_lines(fd: int) -> Iterator[bytes]:
    """
    Give the lines of a file as they come, while the hub goes on.

    A line that is longer than any message is cut somewhere above that.
    """
    kept = b""
    while data := tp_read(fd, READ_SIZE):
        *lines, kept = (kept + data).split(b"\n")
        yield from lines
        if len(kept) > MAX_MESSAGE:
            yield kept  # which is refused
    if kept:
        yield kept


def read_event(data: bytes) -> Event:
    """
    Return the event that JSON describes.

    Raises:
        ValueError: If it is none.

    """
    try:
        found = msgspec.json.decode(data)
    except msgspec.MsgspecError as error:
        raise ValueError(f"no JSON: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("type"), str):
        raise ValueError('an event is a JSON object with a "type"')
    return found


def located(error: Exception, place: str) -> Exception:
    """Return an error that says where it happened, and has the same exit code."""
    if isinstance(error, UnicodeDecodeError):
        return ValueError(f"{place}the text is not UTF-8")
    kind = LayerUnavailable if isinstance(error, LayerUnavailable) else ValueError
    return kind(f"{place}{error}")
