"""
Server-sent events as bytes (WHATWG HTML, section 9.2, "server-sent events").

An event is a few lines of UTF-8 and an empty line. Only CR, LF and CRLF end a
line: other characters that Python takes for line ends are data.
"""

from __future__ import annotations

import re

#: What a browser takes for nothing, and a proxy for life (section 9.2.7).
HEARTBEAT = b": \n\n"

_LINE_END = re.compile(r"\r\n|\r|\n")


def encode_event(
    data: str | None,
    *,
    event: str | None = None,
    event_id: str | None = None,
    retry: float | None = None,
) -> bytes:
    """
    Return one event, its empty line included (section 9.2.5).

    Args:
        data: The text; ``None`` dispatches nothing in the browser, which notes
            id and retry all the same.
        event: What the browser calls it; "message" without.
        event_id: What ``Last-Event-ID`` will say when the browser comes back;
            "" makes it forget.
        retry: Seconds until then; sent as whole milliseconds.

    Raises:
        ValueError: If ``event`` or ``event_id`` holds a line break,
            ``event_id`` NUL, or ``retry`` is negative.

    """
    lines: list[str] = []
    if event is not None:
        lines.append(f"event: {_one_line(event, 'event')}")
    if event_id is not None:
        # A browser ignores an id with NUL (section 9.2.6).
        if "\0" in event_id:
            raise ValueError(f"an event's id cannot hold NUL: {event_id!r}")
        lines.append(f"id: {_one_line(event_id, 'id')}")
    if retry is not None:
        lines.append(f"retry: {_milliseconds(retry)}")
    if data is not None:
        lines.extend(f"data: {line}" for line in _LINE_END.split(data))
    return "\n".join([*lines, "", ""]).encode()


def _one_line(text: str, what: str) -> str:
    if _LINE_END.search(text):
        raise ValueError(f"an event's {what} is one line: {text!r}")
    return text


def _milliseconds(seconds: float) -> int:
    if not 0 <= seconds < 2**31:
        raise ValueError(f"retry is a number of seconds, not {seconds}")
    return round(seconds * 1000)
