"""``static``: files that have been compressed beforehand."""

import gzip
import os

import pytest

from greenchannels import static
from greenchannels.hosting.codings import wanted_codings
from tests.hosting.static_calls import call, settle

SCRIPT = b"let x = 1;\n" * 100


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A script with three siblings, a style with one, and a picture without."""
    settle(monkeypatch)
    files = {
        "app.js": SCRIPT,
        "app.js.gz": gzip.compress(SCRIPT),
        "app.js.br": b"brotli of " + SCRIPT[:20],
        "app.js.zst": b"zstd",
        "index.html": b"<p>index",
        "index.html.gz": gzip.compress(b"<p>index"),
        "pic.png": b"png",
        "only.css.br": b"no original",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def ask(running, accept, path="/app.js", *headers, method="GET"):
    """Return the answer to a request with an Accept-Encoding."""
    return running.get(path, method, [("Accept-Encoding", accept), *headers])


@pytest.mark.parametrize(
    "accept, coding",
    [
        ("gzip", "gzip"),
        ("br", "br"),
        ("zstd", "zstd"),
        ("GZip", "gzip"),
        ("x-gzip", "gzip"),
        ("gzip, deflate, br, zstd", "br"),
        ("gzip, deflate, zstd", "zstd"),
        ("gzip;q=0.9, br;q=0.8", "gzip"),
        ("gzip ; q=0.9 , br\t;\tQ=0.95", "br"),
        ("br;q=0, gzip", "gzip"),
        ("br;q=0.000, gzip;q=0.001", "gzip"),
        ("*", "br"),
        ("*;q=0.1", "br"),
        ("br;q=0, *", "zstd"),
        ("gzip, *;q=0", "gzip"),
        ("gzip;q=0.5, *;q=0.8", "br"),
        ("gzip, identity", "gzip"),
        ("gzip;q=0.5, identity;q=0.4", "gzip"),
        ("identity;q=0, gzip", "gzip"),
        (",, gzip ,", "gzip"),
        # None:
        ("", None),
        ("identity", None),
        ("deflate", None),
        ("gzip;q=0", None),
        ("*;q=0", None),
        ("identity;q=0", None),
        ("gzip;q=0.4, identity;q=0.5", None),
        ("gzip;q=0.5, identity, *;q=0", None),
        ("identity, *;q=0.5", None),
        ("gzip;q=1.5", None),
        ("gzip;q=0.1234", None),
        ("gzip;q=", None),
        ("gzip;level=9", None),
        ("gzip br", None),
        ("gzipped", None),
        ("gzip;q=-1", None),
    ],
)
def test_the_sibling_is_served_that_the_client_wants(serve, folder, accept, coding):
    """By weight; among equals, the smallest; what is malformed is not accepted."""
    answer = ask(serve([static("/", folder)]), accept)
    ending = {"gzip": ".gz", "br": ".br", "zstd": ".zst", None: ""}[coding]
    assert answer.status == 200
    assert answer.body == (folder / f"app.js{ending}").read_bytes()
    assert answer.get("content-encoding") == ([coding] if coding else [])
    assert answer["content-type"] == "text/javascript; charset=utf-8"
    assert answer["vary"] == "accept-encoding"
    assert answer["content-length"] == str(len(answer.body))


def test_several_lines_are_one_list(serve, folder):
    """As for every list."""
    running = serve([static("/", folder)])
    answer = ask(running, "gzip;q=0.5", "/app.js", ("Accept-Encoding", "br;q=0"))
    assert answer["content-encoding"] == "gzip"


def test_without_the_field_nothing_is_encoded(serve, folder):
    """But caches hear that it would have mattered."""
    running = serve([static("/", folder)])
    for path in ("/app.js", "/pic.png"):
        answer = running.get(path)
        assert not answer.get("content-encoding")
        assert answer["vary"] == "accept-encoding"
    assert not ask(running, "gzip, br", "/pic.png").get("content-encoding")


def test_a_field_of_unheard_of_length_is_not_read():
    """It is no browser's, and what has been read is kept."""
    assert wanted_codings(b"gzip" + b", x" * 50) == ("gzip",)
    assert wanted_codings(b"gzip" + b", x" * 500) == ()
    assert wanted_codings(None) == ()


def test_each_encoding_has_a_tag_of_its_own(serve, folder):
    """So that none is taken for another by a cache or a range."""
    running = serve([static("/", folder)])
    tags = [ask(running, a)["etag"] for a in ("br", "zstd", "gzip", "identity")]
    assert len(set(tags)) == 4
    for accept, tag in zip(("br", "zstd", "gzip"), tags, strict=False):
        assert ask(running, accept, "/app.js", ("If-None-Match", tag)).status == 304
        answer = ask(running, "identity", "/app.js", ("If-None-Match", tag))
        assert answer.status == 200
        headers = ("Range", "bytes=0-3"), ("If-Range", tag)
        assert ask(running, accept, "/app.js", *headers).status == 206
        assert ask(running, "identity", "/app.js", *headers).status == 200


def test_two_names_of_one_file_differ_in_their_tags(serve, folder):
    """Although all that the kernel knows is the same."""
    os.link(folder / "pic.png", folder / "pic.png.gz")
    running = serve([static("/", folder)])
    plain, encoded = (ask(running, a, "/pic.png")["etag"] for a in ("br", "gzip"))
    assert plain != encoded


def test_a_304_of_an_encoding_varies(serve, folder):
    """It updates the right one in a cache."""
    running = serve([static("/", folder)])
    tag = ask(running, "br")["etag"]
    answer = ask(running, "br", "/app.js", ("If-None-Match", tag))
    assert (answer["etag"], answer["vary"]) == (tag, "accept-encoding")


def test_ranges_are_those_of_the_encoded_file(serve, folder):
    """What is compressed is not unpacked to be cut."""
    running = serve([static("/", folder)])
    packed = (folder / "app.js.gz").read_bytes()
    answer = ask(running, "gzip", "/app.js", ("Range", "bytes=2-9"))
    assert (answer.status, answer.body) == (206, packed[2:10])
    assert answer["content-encoding"] == "gzip"
    assert answer["content-range"] == f"bytes 2-9/{len(packed)}"
    assert answer["content-type"] == "text/javascript; charset=utf-8"
    answer = ask(running, "gzip", "/app.js", ("Range", f"bytes={len(packed)}-"))
    assert answer["content-range"] == f"bytes */{len(packed)}"
    assert not answer.get("content-encoding")


def test_several_ranges_of_an_encoded_file_are_the_whole(serve, folder):
    """Whether the frame was encoded, too, would be a guess."""
    running = serve([static("/", folder)])
    answer = ask(running, "gzip", "/app.js", ("Range", "bytes=0-1,5-6"))
    assert answer.status == 200
    assert gzip.decompress(answer.body) == SCRIPT


def test_head_tells_of_the_encoded_file(serve, folder):
    """Like GET."""
    running = serve([static("/", folder)])
    answer = ask(running, "gzip", method="HEAD")
    size = (folder / "app.js.gz").stat().st_size
    assert (answer["content-length"], answer["content-encoding"]) == (str(size), "gzip")


def test_an_index_may_have_siblings(serve, folder):
    """They are beside it, not beside its folder."""
    running = serve([static("/", folder)])
    answer = ask(running, "gzip", "/")
    assert gzip.decompress(answer.body) == b"<p>index"
    assert answer["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("age, used", [(0, True), (-1, True), (1, False)])
def test_a_sibling_older_than_its_original_is_not_used(serve, folder, age, used):
    """It was made of something else; the next best is taken. In nanoseconds."""
    when = 10**18
    for name in ("app.js", "app.js.gz"):
        os.utime(folder / name, ns=(when, when))
    os.utime(folder / "app.js.br", ns=(when, when - age))
    running = serve([static("/", folder)])
    coding = ask(running, "br, gzip")["content-encoding"]
    assert coding == ("br" if used else "gzip")
    assert bool(ask(running, "br").get("content-encoding")) is used


def test_a_sibling_that_comes_or_goes_is_noticed_at_once(serve, folder):
    """As every other file."""
    running = serve([static("/", folder)])
    assert ask(running, "br")["content-encoding"] == "br"
    (folder / "app.js.br").unlink()
    assert not ask(running, "br").get("content-encoding")
    (folder / "app.js.br").write_bytes(b"new")
    assert ask(running, "br").body == b"new"


def test_a_sibling_without_original_is_only_itself(serve, folder):
    """A name that is not there stays so."""
    running = serve([static("/", folder)])
    assert ask(running, "br", "/only.css").status == 404
    answer = ask(running, "br", "/only.css.br")
    assert answer.body == b"no original"
    assert answer["content-type"] == "application/octet-stream"


def test_a_compressed_file_asked_for_by_its_name_is_no_encoding(serve, folder):
    """It is a download of its own type."""
    answer = ask(serve([static("/", folder)]), "gzip", "/app.js.gz")
    assert answer["content-type"] == "application/gzip"
    assert not answer.get("content-encoding")


@pytest.mark.parametrize("kind", ["outside", "folder", "pipe", "nowhere"])
def test_a_sibling_is_as_good_as_any_file_or_not_used(serve, folder, tmp_path, kind):
    """It leads no way out either."""
    sibling = folder / "pic.png.gz"
    if kind == "outside":
        sibling.symlink_to("/etc/passwd")
    elif kind == "folder":
        sibling.mkdir()
    elif kind == "pipe":
        os.mkfifo(sibling)
    else:
        sibling.symlink_to(folder / "none")
    answer = ask(serve([static("/", folder)]), "gzip", "/pic.png")
    assert (answer.status, answer.body) == (200, b"png")


def test_the_original_is_closed_whichever_is_sent(folder):
    """A descriptor for each request would soon be none for any."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        assert call(folder, "/app.js", [(b"accept-encoding", b"gzip")])
    assert len(os.listdir("/proc/self/fd")) == before
