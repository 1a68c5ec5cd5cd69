"""URLs of Redis, what we say to it, and what our payloads look like."""

import pytest

from greenchannels.errors import ConfigurationError
from greenchannels.layers.redis.frames import (
    MAX_CHANNELS,
    PLAIN,
    encode_command,
    encode_head,
    read_head,
)
from greenchannels.layers.redis.url import read_url
from greenchannels.layers.registry import make_layer


@pytest.mark.parametrize(
    ("url", "where", "user", "password", "prefix"),
    [
        ("redis://host", "host:6379", None, None, "greenchannels:"),
        ("redis://host:1/0", "host:1", None, None, "greenchannels:"),
        ("redis://:p%40w@host", "host:6379", None, "p@w", "greenchannels:"),
        ("redis://a%3Ab:pw@10.0.0.1/", "10.0.0.1:6379", "a:b", "pw", "greenchannels:"),
        ("redis://[::1]:2?prefix=a.b-c/d", "[::1]:2", None, None, "a.b-c/d:"),
        ("redis://host/7?prefix=x", "host:6379", None, None, "x:db7:"),
        ("rediss://host", "host:6379", None, None, "greenchannels:"),
    ],
)
def test_a_url_says_where_who_and_what(url, where, user, password, prefix):
    """Percent signs escape; a number of a database is part of the prefix."""
    found = read_url(url)
    (address,) = found.addresses
    assert str(address) == where
    assert (address.username, address.password) == (user, password)
    assert found.prefix == prefix
    assert (address.tls_context() is not None) is url.startswith("rediss")
    assert password is None or password not in repr(address)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://", "names a host"),
        ("redis:///1", "names a host"),
        ("redis://host:port", "not a URL"),
        ("redis://host:99999", "not a URL"),
        ("redis://host/one", "not a number of a database"),
        ("redis://host?prefix=", "not a prefix"),
        ("redis://host?prefix=a:b", "not a prefix"),
        ("redis://host?prefix", "not a URL"),
        ("redis://host?socket_timeout=5", "no option socket_timeout"),
        ("redis://host?ssl_ca_certs=x", "no option ssl_ca_certs"),
        ("rediss://host?ssl_ca_certs=/none", "No such file"),
        ("rediss://host?ssl_cert_reqs=maybe", "rediss:// options"),
        ("rediss://host?ssl_min_version=1", "rediss:// options"),
        ("redis+sentinel://host", "what they call the server"),
    ],
)
def test_a_url_that_means_nothing_is_refused(url, says):
    """When the layer is made; the text holds no password."""
    secret = url.replace("://", "://me:secret@", 1)
    for each in (url, secret):
        with pytest.raises(ConfigurationError, match=says) as raised:
            make_layer(each)
        assert "secret" not in str(raised.value)


def test_commands_are_arrays_of_bulk_strings():
    """A publish is one of three, whose last is head and data."""
    command = b"*3\r\n$7\r\nPUBLISH\r\n$1\r\nc\r\n$5\r\nhdata\r\n"
    assert PLAIN.encode_publish(b"c", b"h", b"data") == command
    assert encode_command(b"PUBLISH", b"c", b"hdata") == command


def test_payloads_name_their_sender():
    """In front of the message."""
    payload = encode_head("12-abc") + b"message"
    origin, start = read_head(payload)
    assert (origin, payload[start:]) == ("12-abc", b"message")


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b"g", b"gc\x01", b"gc\x01\x00", b"gc\x01\x00data", b"gc\x01\x05ab"),
        *(b"gc\x02\x01ax", b"GC\x01\x01ax", b"gc\x01\x01\xff", b"\x96\x01"),
    ],
)
def test_other_payloads_are_not_ours(payload):
    """Whatever they are."""
    with pytest.raises(ValueError):
        read_head(payload)


def test_channels_are_asked_for_in_portions():
    """Of 512."""
    channels = [b"%d" % number for number in range(1100)]
    found = PLAIN.batches(channels)
    assert [len(each) for each in found] == [MAX_CHANNELS, MAX_CHANNELS, 76]
    assert sum(found, []) == channels
    assert PLAIN.batches([]) == []
