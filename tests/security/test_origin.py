"""The Origin rule as a function; over the wire it is in test_handshake."""

import pytest

from greenchannels import ConfigurationError
from greenchannels.security.origin import check_pattern, origin_allowed


@pytest.mark.parametrize(
    "origin, host, allowed",
    [
        ("http://example.org", "example.org", True),
        ("https://example.org", "example.org", True),
        ("http://EXAMPLE.org", "example.ORG", True),
        ("http://example.org", "example.org:80", True),
        ("http://example.org:80", "example.org", True),
        ("https://example.org", "example.org:443", True),
        ("http://example.org:8000", "example.org:8000", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://127.0.0.1", "127.0.0.1", True),
        ("http://example.org:8000", "example.org", False),
        ("http://example.org", "example.org:8000", False),
        ("http://example.org", "www.example.org", False),
        ("http://www.example.org", "example.org", False),
        ("http://localhost", "127.0.0.1", False),
        ("ftp://example.org", "example.org", False),
        ("null", "null", False),
        ("", "", False),
        ("null", "", False),
        ("http://", "", False),
        ("http://example.org:x", "example.org:x", False),
    ],
)
def test_a_page_of_the_host_asked_for_is_allowed(origin, host, allowed):
    """Scheme aside: a proxy may have ended TLS."""
    assert origin_allowed(origin, host=host, patterns=()) is allowed


@pytest.mark.parametrize(
    "pattern, origin, allowed",
    [
        ("*", "null", True),
        ("*", "http://any.example", True),
        ("a.example", "http://a.example", True),
        ("a.example", "https://a.example:444", True),
        ("a.example", "https://b.a.example", False),
        ("A.example", "http://a.EXAMPLE", True),
        ("a.example:81", "http://a.example:81", True),
        ("a.example:81", "http://a.example", False),
        ("a.example:80", "http://a.example", True),
        (".a.example", "http://a.example", True),
        (".a.example", "http://b.c.a.example", True),
        (".a.example", "http://ba.example", False),
        ("https://a.example", "https://a.example", True),
        ("https://a.example", "https://a.example:443", True),
        ("https://a.example", "http://a.example", False),
        ("https://a.example:8443", "https://a.example:8443", True),
        ("https://a.example:8443", "https://a.example", False),
        ("a.example", "null", False),
        ("a.example", "http://a.example.evil", False),
        ("a.example", "http://evil/a.example", False),
        ("a.example", "http://a.example@evil", False),
    ],
)
def test_patterns_allow_further_origins(pattern, origin, allowed):
    """Hosts, domains, ports, whole origins, or all."""
    patterns = [check_pattern(pattern)]
    assert origin_allowed(origin, host="other", patterns=patterns) is allowed


@pytest.mark.parametrize(
    "pattern", ["", "/", "http://", "http://a/b", "a/b", "a:x", "http://["]
)
def test_what_is_no_pattern_is_refused(pattern):
    """Rather than never matching."""
    with pytest.raises(ConfigurationError, match="origin pattern"):
        check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern", ["*.a.example", "https://.a.example", "a b.example"]
)
def test_a_pattern_either_matches_something_or_is_refused(pattern):
    """One that is accepted and then never matches helps nobody."""
    try:
        check_pattern(pattern)
    except ConfigurationError:
        return
    assert origin_allowed("https://b.a.example", host="other", patterns=[pattern])
