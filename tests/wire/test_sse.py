"""Server-sent events: what is encoded, a reader written after the standard reads."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenchannels.wire.sse import HEARTBEAT, encode_event


def read(stream):
    """Return the events of a stream, as WHATWG HTML 9.2.6 says, step by step."""
    text = stream.decode().replace("\r\n", "\n").replace("\r", "\n")
    assert text.endswith("\n")
    events, data, name, last_id, retry = [], "", "", "", None
    for line in text.split("\n")[:-1]:
        if not line:
            if data:
                events.append((name or "message", data.removesuffix("\n"), last_id))
            data = name = ""
        elif not line.startswith(":"):
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                name = value
            elif field == "data":
                data += value + "\n"
            elif field == "id" and "\0" not in value:
                last_id = value
            elif field == "retry" and value.isascii() and value.isdigit():
                retry = int(value)
    return events, last_id, retry


@pytest.mark.parametrize(
    "data, options, encoded",
    [
        ("x", {}, b"data: x\n\n"),
        ("", {}, b"data: \n\n"),
        (" x", {}, b"data:  x\n\n"),
        ("a\nb\rc\r\nd", {}, b"data: a\ndata: b\ndata: c\ndata: d\n\n"),
        ("a\n", {}, b"data: a\ndata: \n\n"),
        ("\n\r", {}, b"data: \ndata: \ndata: \n\n"),
        ("ä\u2028\x0b\x85", {}, "data: ä\u2028\x0b\x85\n\n".encode()),
        ("x", {"event": "price"}, b"event: price\ndata: x\n\n"),
        ("x", {"event_id": "7"}, b"id: 7\ndata: x\n\n"),
        ("x", {"event_id": ""}, b"id: \ndata: x\n\n"),
        (None, {"event_id": "7"}, b"id: 7\n\n"),
        (None, {"retry": 2.5}, b"retry: 2500\n\n"),
        ("x", {"retry": 0}, b"retry: 0\ndata: x\n\n"),
        (
            "x",
            {"event": "e", "event_id": "i", "retry": 1},
            b"event: e\nid: i\nretry: 1000\ndata: x\n\n",
        ),
        (None, {}, b"\n"),
    ],
)
def test_an_event_is_encoded_as_the_standard_says(data, options, encoded):
    """Lines of fields, and an empty line."""
    assert encode_event(data, **options) == encoded


@pytest.mark.parametrize(
    "options, message",
    [
        ({"event_id": "a\0b"}, "NUL"),
        ({"event_id": "a\nb"}, "one line"),
        ({"event_id": "a\rb"}, "one line"),
        ({"event": "a\nb"}, "one line"),
        ({"event": "a\r\nb"}, "one line"),
        ({"retry": -1}, "seconds"),
        ({"retry": math.inf}, "seconds"),
        ({"retry": math.nan}, "seconds"),
    ],
)
def test_what_a_field_cannot_hold_is_an_error(options, message):
    """It would end the field, or the browser would ignore it."""
    with pytest.raises(ValueError, match=message):
        encode_event("x", **options)


def test_half_a_character_is_an_error():
    """A lone surrogate has no UTF-8."""
    with pytest.raises(ValueError):
        encode_event("\ud800")


def test_a_heartbeat_is_nothing_to_a_browser():
    """A comment between two events changes neither."""
    stream = encode_event("a") + HEARTBEAT + encode_event("b", event_id="1")
    assert read(stream) == (
        [("message", "a", ""), ("message", "b", "1")],
        "1",
        None,
    )


def test_an_event_without_data_sets_the_id_and_dispatches_nothing():
    """A browser that comes back says where it was."""
    stream = encode_event(None, event_id="9", retry=1.5)
    assert read(stream) == ([], "9", 1500)


LINE = st.text(
    st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), min_size=1
)


@given(
    st.lists(
        st.tuples(
            LINE,
            st.lists(st.one_of(LINE, st.just(""), st.sampled_from(["\r", "\n"]))),
            LINE,
        ),
        max_size=3,
    )
)
def test_what_was_sent_is_what_is_read(items):
    """Any text, with any line breaks, which all become LF."""
    sent = [(name, "".join(data), key) for name, data, key in items]
    stream = b"".join(
        encode_event(data, event=name, event_id=key) for name, data, key in sent
    )
    normal = [
        (name, data.replace("\r\n", "\n").replace("\r", "\n"), key)
        for name, data, key in sent
    ]
    assert read(stream or b"\n")[0] == normal
