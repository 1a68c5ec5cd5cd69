"""Server-sent events, read again as a browser does."""

import re

from greenchannels.wire.sse import encode_event
from tests.fuzz.source import Source, text_of

LINE_END = re.compile(r"\r\n|\r|\n")


def sse(data):
    """What an application puts into an event is what a browser takes out of it."""
    source = Source(data)
    name = text_of(source.some()) if source.flag() else None
    event_id = text_of(source.some()) if source.flag() else None
    retry = source.number(70_000) / 8 - 5 if source.flag() else None
    text = text_of(source.rest()) if source.flag() else None
    try:
        wire = encode_event(text, event=name, event_id=event_id, retry=retry)
    except ValueError:
        broken = [LINE_END.search(each or "") for each in (name, event_id)]
        assert any(broken) or "\0" in (event_id or "") or retry < 0
        return
    assert wire == b"\n" or wire.endswith(b"\n\n")
    assert b"\n\n" not in wire[:-1]
    events, last_id, wait = parse(wire.decode())
    assert last_id == event_id
    assert wait == (None if retry is None else round(retry * 1000))
    if text is None:
        assert events == []
    else:
        assert events == [(name or "message", "\n".join(LINE_END.split(text)))]


def parse(stream):
    """Interpret an event stream (WHATWG HTML, section 9.2.6)."""
    events, name, found, last_id, retry = [], "", [], None, None
    for line in LINE_END.split(stream)[:-1]:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if found:
                events.append((name or "message", "\n".join(found)))
            name, found = "", []
        elif field == "event":
            name = value
        elif field == "data":
            found.append(value)
        elif field == "id" and "\0" not in value:
            last_id = value
        elif field == "retry" and value.isdigit():
            retry = int(value)
    return events, last_id, retry
