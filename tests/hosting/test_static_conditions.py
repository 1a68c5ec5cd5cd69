"""``static``: entity tags, dates, and requests that depend on them."""

import os
import time
from email.utils import formatdate

import pytest

from greenchannels import static
from greenchannels.hosting.conditions import matches, read_date
from tests.hosting.static_calls import call, settle
from tests.servers.harness import until

#: Sun, 06 Nov 1994 08:49:37 GMT.
WHEN = 784111777

BEFORE = "Sun, 06 Nov 1994 08:49:36 GMT"
AT = "Sun, 06 Nov 1994 08:49:37 GMT"
AFTER = "Sun, 06 Nov 1994 08:49:38 GMT"


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A file that has not been changed for long."""
    settle(monkeypatch)
    path = tmp_path / "page.html"
    path.write_text("<p>page")
    os.utime(path, (WHEN, WHEN))
    return path


@pytest.fixture
def ask(serve, page):
    """A function that asks for the page; in headers, TAG is its entity tag."""
    running = serve([static("/", page.parent)])
    tag = running.get("/page.html")["etag"]

    def get(*headers, method="GET"):
        sent = [(name, value.replace("TAG", tag)) for name, value in headers]
        return running.get("/page.html", method, sent)

    get.tag = tag
    return get


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "headers, status",
    [
        ([], 200),
        # If-None-Match: weak comparison (RFC 9110, 13.1.2).
        ([("If-None-Match", "TAG")], 304),
        ([("If-None-Match", "W/TAG")], 304),
        ([("If-None-Match", "*")], 304),
        ([("If-None-Match", '"other"')], 200),
        ([("If-None-Match", '"other", TAG')], 304),
        ([("If-None-Match", '"other",TAG,W/"third"')], 304),
        ([("If-None-Match", ' , "with,comma" ,, TAG , ')], 304),
        ([("If-None-Match", '"other"'), ("If-None-Match", "TAG")], 304),
        ([("If-None-Match", '"otherTAG')], 200),
        ([("If-None-Match", "w/TAG")], 200),
        ([("If-None-Match", "TAG TAG")], 200),
        ([("If-None-Match", 'TAG, "with space"')], 200),
        ([("If-None-Match", "*, TAG")], 200),
        ([("If-None-Match", "page")], 200),
        ([("If-None-Match", "")], 200),
        # If-Match: strong comparison (13.1.1).
        ([("If-Match", "TAG")], 200),
        ([("If-Match", '"other", TAG')], 200),
        ([("If-Match", "*")], 200),
        ([("If-Match", "W/TAG")], 412),
        ([("If-Match", '"other"')], 412),
        ([("If-Match", "nonsense")], 412),
        ([("If-Match", "")], 412),
        # If-Modified-Since (13.1.3).
        ([("If-Modified-Since", BEFORE)], 200),
        ([("If-Modified-Since", AT)], 304),
        ([("If-Modified-Since", AFTER)], 304),
        ([("If-Modified-Since", "Sunday, 06-Nov-94 08:49:37 GMT")], 304),
        ([("If-Modified-Since", "Sun Nov  6 08:49:37 1994")], 304),
        ([("If-Modified-Since", "Sun Nov  6 08:49:36 1994")], 200),
        ([("If-Modified-Since", "tomorrow")], 200),
        ([("If-Modified-Since", AT), ("If-Modified-Since", AT)], 200),
        # If-Unmodified-Since (13.1.4).
        ([("If-Unmodified-Since", BEFORE)], 412),
        ([("If-Unmodified-Since", AT)], 200),
        ([("If-Unmodified-Since", AFTER)], 200),
        ([("If-Unmodified-Since", "yesterday")], 200),
        # Precedence (13.2.2).
        ([("If-None-Match", '"other"'), ("If-Modified-Since", AT)], 200),
        ([("If-None-Match", "TAG"), ("If-Modified-Since", BEFORE)], 304),
        ([("If-Match", "TAG"), ("If-Unmodified-Since", BEFORE)], 200),
        ([("If-Match", '"other"'), ("If-Unmodified-Since", AT)], 412),
        ([("If-Match", "TAG"), ("If-None-Match", "TAG")], 304),
        ([("If-Match", '"other"'), ("If-None-Match", "TAG")], 412),
        ([("If-Unmodified-Since", BEFORE), ("If-None-Match", "TAG")], 412),
        ([("If-Unmodified-Since", AT), ("If-Modified-Since", AT)], 304),
        # A condition that fails comes before the range.
        ([("If-None-Match", "TAG"), ("Range", "bytes=0-1")], 304),
        ([("If-Match", '"other"'), ("Range", "bytes=99-")], 412),
    ],
)
def test_a_condition_decides_before_the_file_is_sent(ask, method, headers, status):
    """With 304 and 412, in the order of the RFC, for GET and HEAD alike."""
    answer = ask(*headers, method=method)
    assert answer.status == status
    assert answer["etag"] == ask.tag
    assert answer["last-modified"] == AT
    if method == "GET":
        bodies = {200: b"<p>page", 304: b"", 412: b"Precondition Failed\n"}
        assert answer.body == bodies[status]


def test_a_304_has_the_fields_that_a_200_would_have(ask):
    """Those that update a cache, not those of the content (15.4.5)."""
    whole, answer = ask(), ask(("If-None-Match", "TAG"))
    for name in ("etag", "last-modified", "cache-control", "vary"):
        assert answer[name] == whole[name]
    for name in ("content-length", "content-type", "transfer-encoding"):
        assert not answer.get(name)


@pytest.mark.parametrize(
    "value, status",
    [
        ("TAG", 206),
        (AT, 206),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 206),
        ("W/TAG", 200),
        ('"other"', 200),
        (BEFORE, 200),
        (AFTER, 200),
        ("*", 200),
        ('TAG, "other"', 200),
        ("nonsense", 200),
        ("", 200),
    ],
)
def test_if_range_gives_the_whole_file_unless_it_is_the_same(ask, value, status):
    """A strong tag that matches, or exactly the date (13.1.5)."""
    answer = ask(("Range", "bytes=0-2"), ("If-Range", value))
    assert answer.status == status
    assert answer.body == (b"<p>" if status == 206 else b"<p>page")


def test_if_range_does_not_replace_a_416(ask):
    """It holds; only then the range is looked at."""
    assert ask(("Range", "bytes=9-"), ("If-Range", "TAG")).status == 416
    assert ask(("Range", "bytes=9-"), ("If-Range", '"other"')).status == 200


def test_if_range_alone_means_nothing(ask):
    """Nor does it with HEAD, for which there are no ranges."""
    assert ask(("If-Range", '"other"')).status == 200
    headers = ("Range", "bytes=0-2"), ("If-Range", "TAG")
    assert ask(*headers, method="HEAD").status == 200


@pytest.mark.parametrize("change", ["written", "replaced", "dated back", "same size"])
def test_another_content_has_another_tag_and_is_served_at_once(
    serve, page, change, monkeypatch
):
    """Whatever of size and date has been kept."""
    running = serve([static("/", page.parent)])
    before = running.get("/page.html")
    changed = page.stat().st_ctime_ns
    until(lambda: clock_has_ticked(page.parent, changed))
    other = b"<p>longer" if change == "written" else b"<p>next"
    if change in ("replaced", "dated back"):
        (page.parent / "new").write_bytes(other)
        os.replace(page.parent / "new", page)
    else:
        page.write_bytes(other)
    if change in ("dated back", "same size"):
        os.utime(page, (WHEN, WHEN))
    after = running.get("/page.html", headers=[("If-None-Match", before["etag"])])
    assert (after.status, after.body) == (200, other)
    assert after["etag"] != before["etag"]


def clock_has_ticked(folder, changed):
    """Say whether a file made now would have a later time of change."""
    probe = folder / "probe"
    probe.write_bytes(b"")
    later = probe.stat().st_ctime_ns > changed
    probe.unlink()
    return later


def test_a_file_that_has_just_changed_has_a_weak_tag(serve, tmp_path):
    """Another change could leave the same times: it may be revalidated, not joined."""
    (tmp_path / "log.txt").write_text("one line")
    running = serve([static("/", tmp_path)])
    tag = running.get("/log.txt")["etag"]
    date = running.get("/log.txt")["last-modified"]
    assert tag.startswith('W/"')

    def status(*headers):
        return running.get("/log.txt", headers=headers).status

    assert status(("If-None-Match", tag)) == 304
    assert status(("If-None-Match", tag.removeprefix("W/"))) == 304
    assert status(("If-Match", tag)) == 412
    assert status(("If-Match", tag.removeprefix("W/"))) == 412
    assert status(("Range", "bytes=0-1"), ("If-Range", tag)) == 200
    assert status(("Range", "bytes=0-1"), ("If-Range", tag[2:])) == 200
    assert status(("Range", "bytes=0-1"), ("If-Range", date)) == 200
    assert status(("Range", "bytes=0-1")) == 206


def test_a_tag_becomes_strong_with_time(serve, tmp_path, monkeypatch):
    """And is otherwise the same, so that what has been cached stays good."""
    (tmp_path / "log.txt").write_text("one line")
    running = serve([static("/", tmp_path)])
    weak = running.get("/log.txt")["etag"]
    settle(monkeypatch)
    strong = running.get("/log.txt", headers=[("If-None-Match", weak)])
    assert strong.status == 304
    assert "W/" + strong["etag"] == weak


@pytest.mark.parametrize("when", [time.time() + 86400, -86400, 253402300800 * 2])
def test_a_date_that_cannot_be_is_not_told(serve, page, when):
    """Neither in the future (8.8.2.1) nor before time began; conditions skip it."""
    try:
        os.utime(page, (when, when))
    except OSError:
        pytest.skip("the file system has no such time")
    running = serve([static("/", page.parent)])
    answer = running.get("/page.html")
    assert answer.status == 200
    assert not answer.get("last-modified")
    far = formatdate(time.time() + 10 * 86400, usegmt=True)
    for name in ("If-Modified-Since", "If-Unmodified-Since"):
        assert running.get("/page.html", headers=[(name, far)]).status == 200
        assert running.get("/page.html", headers=[(name, AT)]).status == 200


def test_what_is_cached_is_asked_for_again(ask):
    """So that browsers see a new file at once, too."""
    assert ask()["cache-control"] == "no-cache"


def test_the_header_list_is_the_middlewares_own(page):
    """One that adds to it changes no other answer."""
    first = call(page.parent, "/page.html")[0]["headers"]
    first.append((b"x", b"y"))
    assert (b"x", b"y") not in call(page.parent, "/page.html")[0]["headers"]


@pytest.mark.parametrize(
    "value, seconds",
    [
        (b"Sun, 06 Nov 1994 08:49:37 GMT", WHEN),
        (b"Sunday, 06-Nov-94 08:49:37 GMT", WHEN),
        (b"Sun Nov  6 08:49:37 1994", WHEN),
        (b"Wed, 16 Nov 1994 08:49:37 GMT", WHEN + 864000),
        (b"Wed Nov 16 08:49:37 1994", WHEN + 864000),
        (b"Thu, 01 Jan 1970 00:00:00 GMT", 0),
        (b"Fri, 31 Dec 9999 23:59:59 GMT", 253402300799),
        (b"Sat, 31 Dec 2016 23:59:60 GMT", 1483228799),
        (b"Mon, 29 Feb 2016 00:00:00 GMT", 1456704000),
        (b"Sun, 29 Feb 2015 00:00:00 GMT", None),
        (b"Sun, 00 Nov 1994 08:49:37 GMT", None),
        (b"Sun, 06 Nov 0000 08:49:37 GMT", None),
        (b"Sun, 06 Nov 1994 24:00:00 GMT", None),
        (b"Sun, 06 Nov 1994 08:49:61 GMT", None),
        (b"Sun, 6 Nov 1994 08:49:37 GMT", None),
        (b"Sun, 06 Nov 1994 08:49:37 UTC", None),
        (b"Sun, 06 Nov 1994 08:49:37 +0000", None),
        (b"Sun, 06 Nov 1994 08:49:37", None),
        (b"sun, 06 nov 1994 08:49:37 gmt", None),
        (b" Sun, 06 Nov 1994 08:49:37 GMT", None),
        (b"Sun, 06 Nov 1994 08:49:37 GMT; length=5", None),
        (b"784111777", None),
        (b"0", None),
        (b"", None),
        (b"\xff" * 30, None),
        (b"Sun, " * 10000, None),
    ],
)
def test_dates_are_read_in_three_forms(value, seconds):
    """And in no other; what is none is ignored."""
    assert read_date(value) == seconds


def test_two_digits_are_a_year_within_fifty_of_this_one():
    """Further ahead means the past (5.6.7)."""
    this_year = time.gmtime().tm_year
    for years, back in ((0, 0), (49, 0), (51, 100), (-40, 0)):
        short = (this_year + years) % 100
        value = b"Sunday, 01-Jan-%02d 00:00:00 GMT" % short
        assert time.gmtime(read_date(value)).tm_year == this_year + years - back


def test_a_long_list_of_tags_is_read_in_little_time():
    """However it is malformed: nothing is tried twice."""
    start = time.process_time()
    for end in (b"", b'"', b"x", b'W/"'):
        for element in (b'"a",', b'"a" ,\t', b",", b'W/"a"', b'"', b" ,"):
            matches(element * (65536 // len(element)) + end, b'"b"', strong=False)
    assert time.process_time() - start < 5.0
