"""``static``: parts of files."""

import email
import os
from email.policy import HTTP

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenchannels import static
from greenchannels.hosting.ranges import MAX_RANGES, read_ranges
from tests.hosting.static_calls import WAYS, routing
from tests.servers.harness import request

LETTERS = b"abcdefghijklmnopqrstuvwxyz"

#: As much as makes a zero copy worth while, and more than one read.
BIG = bytes(range(251)) * 2500


@pytest.fixture
def folder(tmp_path):
    """A folder with a small, a big, and an empty file."""
    (tmp_path / "letters.txt").write_bytes(LETTERS)
    (tmp_path / "big.bin").write_bytes(BIG)
    (tmp_path / "empty.txt").write_bytes(b"")
    return tmp_path


def parts_of(answer):
    """Return type, Content-Range and data of each part, by Python's own parser."""
    head = f"Content-Type: {answer['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + answer.body, policy=HTTP)
    assert message.is_multipart() and not message.defects
    found = []
    for part in message.iter_parts():
        assert not part.defects
        data = part.get_payload(decode=True)
        kind = str(part["content-type"]).replace('"', "")
        found.append((kind, part["content-range"], data))
    return found


@pytest.mark.parametrize(
    "value, content_range, body",
    [
        ("bytes=0-0", "bytes 0-0/26", b"a"),
        ("bytes=0-2", "bytes 0-2/26", b"abc"),
        ("bytes=23-25", "bytes 23-25/26", b"xyz"),
        ("bytes=23-", "bytes 23-25/26", b"xyz"),
        ("bytes=25-99", "bytes 25-25/26", b"z"),
        ("bytes=0-", "bytes 0-25/26", LETTERS),
        ("bytes=0-" + "9" * 99, "bytes 0-25/26", LETTERS),
        ("bytes=-1", "bytes 25-25/26", b"z"),
        ("bytes=-3", "bytes 23-25/26", b"xyz"),
        ("bytes=-26", "bytes 0-25/26", LETTERS),
        ("bytes=-27", "bytes 0-25/26", LETTERS),
        ("bytes=-" + "9" * 99, "bytes 0-25/26", LETTERS),
        ("bytes=0000-0002", "bytes 0-2/26", b"abc"),
        ("BYTES=0-2", "bytes 0-2/26", b"abc"),
        ("bytes= 0-2\t", "bytes 0-2/26", b"abc"),
        ("bytes=,0-2,", "bytes 0-2/26", b"abc"),
        # Ranges that overlap or touch become one; what cannot be is left out.
        ("bytes=0-2,3-5", "bytes 0-5/26", b"abcdef"),
        ("bytes=2-5,0-3", "bytes 0-5/26", b"abcdef"),
        ("bytes=0-,0-,0-,0-", "bytes 0-25/26", LETTERS),
        ("bytes=0-2,26-", "bytes 0-2/26", b"abc"),
        ("bytes=99-,-3,-0", "bytes 23-25/26", b"xyz"),
    ],
)
@pytest.mark.parametrize("zero_copy", WAYS)
def test_a_range_is_answered_with_206(
    serve, folder, value, content_range, body, zero_copy
):
    """With the fields of the whole file but for its length."""
    running = serve(routing(folder, zero_copy))
    whole = running.get("/letters.txt")
    answer = running.get("/letters.txt", headers=[("Range", value)])
    assert (answer.status, answer.body) == (206, body)
    assert answer["content-range"] == content_range
    assert answer["content-length"] == str(len(body))
    for name in ("content-type", "etag", "last-modified", "cache-control", "vary"):
        assert answer[name] == whole[name]


@pytest.mark.parametrize(
    "value",
    ["bytes=26-", "bytes=26-30", "bytes=-0", "bytes=99-,-0", f"bytes={'9' * 100}-"],
)
def test_a_range_behind_the_end_is_answered_with_416(serve, folder, value):
    """Which says how long the file is; the connection goes on."""
    client = serve([static("/", folder)]).client()
    client.send(request("/letters.txt", headers=[("Range", value)]) * 2)
    for _ in range(2):
        answer = client.response()
        assert answer.status == 416
        assert answer["content-range"] == "bytes */26"


@pytest.mark.parametrize(
    "value",
    [
        "items=0-2",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes=-",
        "bytes=a-b",
        "bytes=0",
        "bytes=2-1",
        "bytes=0-2,2-1",
        "bytes=0-2,x",
        "bytes=0-2;3-4",
        "bytes=0 - 2",
        "bytes=+0-2",
        "bytes=0-+2",
        "bytes=0x0-0x2",
        "bytes=0-2-4",
        "bytes=--2",
        "bytes=0-1_0",
        "bytes =0-2",
        "bytes=\xb2-\xb3",
        "bytes=" + "9" * 101 + "-",
        "bytes=0-" + "9" * 5000,
        "bytes=" + "," * 5000 + "0-2",
        "0-2",
        "",
    ],
)
def test_what_is_no_range_is_ignored(serve, folder, value):
    """As a field nobody knows: 200."""
    answer = serve([static("/", folder)]).get("/letters.txt", "GET", [("Range", value)])
    assert (answer.status, answer.body) == (200, LETTERS)


def test_two_fields_are_no_range(serve, folder):
    """Which one was meant, nobody could say."""
    headers = [("Range", "bytes=0-2"), ("Range", "bytes=4-5")]
    answer = serve([static("/", folder)]).get("/letters.txt", headers=headers)
    assert (answer.status, answer.body) == (200, LETTERS)


@pytest.mark.parametrize("value", ["bytes=0-2", "bytes=99-", "bytes=0-1,5-6"])
def test_there_are_no_ranges_with_head(serve, folder, value):
    """It tells of the whole file (RFC 9110, section 14.2)."""
    answer = serve([static("/", folder)]).get(
        "/letters.txt", "HEAD", [("Range", value)]
    )
    assert (answer.status, answer["content-length"]) == (200, "26")
    assert not answer.get("content-range")


@pytest.mark.parametrize("value", ["bytes=0-", "bytes=0-0", "bytes=-5", "bytes=7-9"])
def test_an_empty_file_is_always_whole(serve, folder, value):
    """No Content-Range could say what is in it."""
    answer = serve([static("/", folder)]).get("/empty.txt", headers=[("Range", value)])
    assert (answer.status, answer["content-length"]) == (200, "0")


@pytest.mark.parametrize("zero_copy", WAYS)
def test_several_ranges_are_answered_in_parts(serve, folder, zero_copy):
    """In the order asked for; their length is told, so the connection goes on."""
    client = serve(routing(folder, zero_copy)).client()
    value = "bytes=23-,0-2,10-10"
    client.send(request("/letters.txt", headers=[("Range", value)]) * 2)
    boundaries = set()
    for _ in range(2):
        answer = client.response()
        assert answer.status == 206
        assert not answer.get("content-range")
        boundaries.add(answer["content-type"].partition("boundary=")[2])
        kind = "text/plain; charset=utf-8"
        assert parts_of(answer) == [
            (kind, "bytes 23-25/26", b"xyz"),
            (kind, "bytes 0-2/26", b"abc"),
            (kind, "bytes 10-10/26", b"k"),
        ]
    assert len(boundaries) == 2, "a boundary that can be known could be in the file"


@pytest.mark.parametrize("zero_copy", WAYS)
def test_parts_may_be_large(serve, folder, zero_copy):
    """They are sent like whole files."""
    size = len(BIG)
    value = f"bytes=0-299999,{size - 100000}-,300002-300003"
    answer = serve(routing(folder, zero_copy)).get(
        "/big.bin", headers=[("Range", value)]
    )
    found = [data for _, _, data in parts_of(answer)]
    assert found == [BIG[:300000], BIG[-100000:], BIG[300002:300004]]


def test_ranges_that_overlap_are_joined_in_the_order_of_the_file(serve, folder):
    """No byte is sent twice, however often it is asked for."""
    value = "bytes=20-22,0-5,3-8,21-"
    answer = serve([static("/", folder)]).get(
        "/letters.txt", headers=[("Range", value)]
    )
    assert [data for _, _, data in parts_of(answer)] == [b"abcdefghi", b"uvwxyz"]


def test_too_many_ranges_are_answered_with_the_whole(serve, folder):
    """Which is less than their frames."""
    running = serve([static("/", folder)])

    def ask(count):
        value = "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 2 * count, 2))
        return running.get("/big.bin", headers=[("Range", value)])

    assert len(parts_of(ask(MAX_RANGES))) == MAX_RANGES
    answer = ask(MAX_RANGES + 1)
    assert (answer.status, answer.body) == (200, BIG)
    assert ask(3000).status == 200


@pytest.mark.parametrize("zero_copy", WAYS)
def test_a_file_may_be_longer_than_four_gigabytes(serve, tmp_path, zero_copy):
    """Offsets and lengths have 64 bits."""
    size, mark = 5 << 30, (4 << 30) + 10
    with open(tmp_path / "huge.bin", "wb") as file:
        file.truncate(size)
        file.seek(mark)
        file.write(b"here")
        file.seek(-3, os.SEEK_END)
        file.write(b"end")
    running = serve(routing(tmp_path, zero_copy))
    assert running.get("/huge.bin", "HEAD")["content-length"] == str(size)

    def ask(value):
        return running.get("/huge.bin", headers=[("Range", value)])

    answer = ask(f"bytes={mark}-{mark + 3}")
    assert answer.body == b"here"
    assert answer["content-range"] == f"bytes {mark}-{mark + 3}/{size}"
    assert ask("bytes=-3").body == b"end"
    assert ask(f"bytes={size - 3}-{2**64}").body == b"end"
    assert ask(f"bytes={mark - 50000}-{mark + 49999}").body.strip(b"\0") == b"here"
    parts = parts_of(ask(f"bytes={mark}-{mark + 3},0-1,-3"))
    assert [data for _, _, data in parts] == [b"here", b"\0\0", b"end"]
    assert ask(f"bytes={size}-")["content-range"] == f"bytes */{size}"


NUMBERS = st.integers(0, 40)
SPECS = st.one_of(
    st.builds("{}-{}".format, NUMBERS, NUMBERS),
    st.builds("{}-".format, NUMBERS),
    st.builds("-{}".format, NUMBERS),
)


@given(st.lists(SPECS, min_size=1, max_size=MAX_RANGES + 1), st.integers(0, 30))
def test_ranges_hold_the_bytes_asked_for_once_each(specs, size):
    """Against the definition, byte by byte."""
    found = read_ranges(("bytes=" + ", ".join(specs)).encode(), size)
    asked = [positions(spec, size) for spec in specs]
    if not size or len(specs) > MAX_RANGES or None in asked:
        assert found is None
        return
    bytes_found = [n for start, stop in found for n in range(start, stop)]
    assert sorted(bytes_found) == sorted(set().union(*asked))
    assert all(0 <= start < stop <= size for start, stop in found)


def positions(spec, size):
    """Return which bytes a range names; ``None`` if it is none."""
    first, _, last = spec.partition("-")
    if not first:
        return set(range(size)[max(size - int(last), 0) :])
    if last and int(last) < int(first):
        return None
    return set(range(size)[int(first) : int(last) + 1 if last else None])
