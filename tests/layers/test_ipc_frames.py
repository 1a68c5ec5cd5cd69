"""What processes say to each other: bytes in, frames out."""

import pytest

from greenchannels.layers.ipc_frames import (
    MAX_BODY,
    FrameError,
    FrameReader,
    Kind,
    encode_frame,
    encode_message,
    is_message,
    read_body,
    read_message,
)

FRAMES = [
    encode_frame(Kind.HELLO, (1, "1-ab")),
    encode_frame(Kind.READY, None),
    encode_message("g:\u20ac", b""),
    encode_message("", b"data"),
    encode_message("g:x", bytes(range(256)) * 300),
    encode_frame(Kind.WANT, (7, ["a", "b"])),
]
WIRE = b"".join(FRAMES)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 4096, len(WIRE)])
def test_frames_do_not_depend_on_how_bytes_arrive(size):
    """Whole, byte by byte, or with others."""
    reader = FrameReader()
    chunks = [WIRE[i : i + size] for i in range(0, len(WIRE), size)]
    got = [frame for chunk in chunks for frame in reader.feed(chunk)]
    assert [kind for kind, _ in got] == [1, 6, 7, 7, 7, 3]
    assert read_body(got[0][1], tuple[int, str]) == (1, "1-ab")
    assert [read_message(got[i][1])[0] for i in (2, 3, 4)] == ["g:\u20ac", "", "g:x"]
    assert read_message(got[3][1])[1] == b"data"
    assert read_message(got[4][1])[1] == bytes(range(256)) * 300
    assert read_body(got[5][1], tuple[int, list[str]]) == (7, ["a", "b"])


def test_only_messages_are_messages():
    """So that what is lost with a link can be counted."""
    assert [is_message(frame) for frame in FRAMES] == [
        *(False, False, True, True, True, False)
    ]


@pytest.mark.parametrize("whole", [True, False])
def test_a_frame_that_is_too_long_is_an_error_at_once(whole):
    """Before anything of it is kept."""
    head = (MAX_BODY + 1).to_bytes(4, "big") + b"\x07"
    reader = FrameReader()
    with pytest.raises(FrameError):
        if not whole:
            assert reader.feed(head[:4]) == []
        reader.feed(head if whole else head[4:])


@pytest.mark.parametrize("body", [b"", b"\0", b"\0\2a", b"\0\1\xff"])
def test_a_message_needs_its_topic(body):
    """All of it, in UTF-8."""
    with pytest.raises(FrameError):
        read_message(body)


@pytest.mark.parametrize("body", [b"", b"\x92\x01", b"\xa1a", b"\x91\x01", b"\xc1"])
def test_a_body_has_the_form_of_its_kind(body):
    """Else the frame is none."""
    with pytest.raises(FrameError):
        read_body(body, tuple[int, str])
