"""h11 and llhttp as oracles: nothing passes that another parser reads differently."""

import dataclasses

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz import oracles
from tests.fuzz.batches import run_batch
from tests.fuzz.oracles import check, compare, read, see_with_h11, see_with_llhttp
from tests.fuzz.wires import cuts, wires

HEAD = b"POST /a?b HTTP/1.1\r\nHost: c\r\n"
LENGTH = HEAD + b"Content-Length: 3\r\n\r\nabc"
CHUNKS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n"
ORACLES = pytest.mark.parametrize("see", [see_with_h11, see_with_llhttp])


@given(wires(), cuts)
@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_reaches_a_consumer_is_what_h11_and_llhttp_read(wire, places):
    """The same method, target, fields, body and end, however the bytes arrive."""
    check(wire, places)


@ORACLES
@pytest.mark.parametrize("wire", [LENGTH, CHUNKS])
def test_an_oracle_reads_the_first_request(see, wire):
    """All of it, and no more."""
    seen = see(wire + b"GET")
    assert seen.start == ("POST", b"/a?b", "1.1")
    assert seen.headers[0] == (b"host", b"c")
    assert (seen.body, seen.ended, seen.size) == (b"abc", True, len(wire))
    assert seen.trailers == ([(b"x", b"y")] if wire is CHUNKS else [])


@ORACLES
@pytest.mark.parametrize(
    "change",
    [
        {"start": ("POST", b"/a", "1.1")},
        {"start": ()},
        {"headers": []},
        {"body": b"ab"},
        {"trailers": [(b"x", b"z")]},
        {"ended": False},
        {"size": len(CHUNKS) - 1},
        {"size": len(CHUNKS) + 1},
    ],
)
def test_an_oracle_that_reads_something_else_is_noticed(see, change):
    """Whatever it is."""
    wire = CHUNKS + LENGTH
    assert compare(wire, see, "it") == 2
    with pytest.raises(AssertionError):
        compare(wire, lambda data: dataclasses.replace(see(data), **change), "it")


def test_an_end_that_only_the_other_parser_sees_is_noticed():
    """While ours waits for more it might go on in the middle of a body."""
    found, _, _, _ = read([LENGTH[:-1]])
    seen = dataclasses.replace(see_with_h11(LENGTH), body=b"ab")
    oracles.check_request(found[0], True, seen, "it")
    with pytest.raises(AssertionError, match="sees an end"):
        oracles.check_request(found[0], False, seen, "it")


def test_a_difference_that_cuts_make_is_noticed(monkeypatch):
    """What comes may not depend on how it arrives."""
    check(LENGTH, [500])
    monkeypatch.setattr(oracles, "read", lambda pieces: len(pieces))
    with pytest.raises(AssertionError, match="cuts change"):
        check(LENGTH, [500])


def test_a_batch_tries_what_it_is_told_to():
    """And counts what passed."""
    tried, passed = run_batch(1, 30)
    assert tried == 30
    assert passed > 0
