"""URLs of Redis, what we say to it, and what our payloads look like."""

import pytest

from greenchannels.errors import ConfigurationError
from greenchannels.layers.redis.cluster import PARTS, TAG_SLOTS, TAGS
from greenchannels.layers.redis.frames import (
    MAX_CHANNELS,
    PLAIN,
    SHARDED,
    SLOTS,
    encode_command,
    encode_head,
    read_head,
    slot_of,
)
from greenchannels.layers.redis.url import read_url
from greenchannels.layers.registry import make_layer, shown_url


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
    ("url", "sentinels", "service", "prefix"),
    [
        ("a/mymaster", ["a:26379"], "mymaster", "greenchannels:"),
        ("a,b:1,[::1]:2,[::2]/m.1", ["a:26379", "b:1", "[::1]:2", "[::2]:26379"])
        + ("m.1", "greenchannels:"),
        ("a/m/3?prefix=x", ["a:26379"], "m", "x:db3:"),
        ("a/m/", ["a:26379"], "m", "greenchannels:"),
    ],
)
@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_a_url_of_sentinels_says_what_they_call_the_server(
    scheme, url, sentinels, service, prefix
):
    """The user before the hosts is the server's; sentinels have their own."""
    secret = "sentinel_username=s&sentinel_password=p%26w"
    url = f"{scheme}+sentinel://me:p%40w@{url}{'&' if '?' in url else '?'}{secret}"
    found = read_url(url)
    assert (found.kind, found.service, found.prefix) == ("sentinel", service, prefix)
    assert [str(each) for each in found.addresses] == sentinels
    for each in found.addresses:
        assert (each.username, each.password) == ("s", "p&w")
    server = found.server.at("c", 5)
    assert (str(server), server.username, server.password) == ("c:5", "me", "p@w")
    for each in (server, *found.addresses):
        assert (each.tls_context() is not None) is (scheme == "rediss")
    assert "p@w" not in repr(found) and "p&w" not in repr(found)
    shown = shown_url(url)
    assert "p%40w" not in shown and "p%26w" not in shown and "me" not in shown[:20]


def test_sentinels_have_no_user_but_their_own():
    """The server's is not told to them."""
    found = read_url("redis+sentinel://me:secret@a,b/mymaster")
    assert {(e.username, e.password) for e in found.addresses} == {(None, None)}
    assert (found.server.username, found.server.password) == ("me", "secret")


@pytest.mark.parametrize(
    ("url", "nodes", "pubsub", "prefix"),
    [
        ("a", ["a:6379"], "auto", "greenchannels:"),
        ("a:1,b,[::1]:7000,[::2]", ["a:1", "b:6379", "[::1]:7000", "[::2]:6379"])
        + ("auto", "greenchannels:"),
        ("a,b/0?pubsub=plain", ["a:6379", "b:6379"], "plain", "greenchannels:"),
        ("a/2?pubsub=sharded&prefix=x", ["a:6379"], "sharded", "x:db2:"),
    ],
)
@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_a_url_of_a_cluster_names_some_nodes(scheme, url, nodes, pubsub, prefix):
    """All nodes are entered in the same way, also those that it does not name."""
    found = read_url(f"{scheme}+cluster://me:p%40w@{url}")
    assert (found.kind, found.pubsub, found.prefix) == ("cluster", pubsub, prefix)
    assert [str(each) for each in found.addresses] == nodes
    for each in (*found.addresses, found.server.at("c", 5)):
        assert (each.username, each.password) == ("me", "p@w")
        assert (each.tls_context() is not None) is (scheme == "rediss")
    assert "p@w" not in repr(found)


def test_names_of_a_cluster_belong_to_slots_that_are_spread_evenly():
    """One to each 64th of all; a channel's is that of its tag."""
    assert [slot * PARTS // SLOTS for slot in TAG_SLOTS] == list(range(PARTS))
    assert slot_of(b"123456789") == 0x31C3  # the specification's example
    channels = [b"test:{%b}g:%d" % (tag, n) for n in range(3) for tag in TAGS]
    batches = SHARDED.batches(channels)
    assert len(batches) == PARTS
    for batch in batches:
        assert len({SHARDED.slot_of(channel) for channel in batch}) == 1
    assert [SHARDED.slot_of(b"a:{%b}b}" % tag) for tag in TAGS] == TAG_SLOTS


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
        ("redis+sentinel://host/", "what they call the server"),
        ("redis+sentinel://host/a b", "what they call the server"),
        ("redis+sentinel:///mymaster", "names a host"),
        ("redis+sentinel://a,,b/mymaster", "names a host"),
        ("redis+sentinel://a,b:port/mymaster", "not a URL"),
        ("redis+sentinel://a/mymaster/one", "what they call the server"),
        ("redis+sentinel://a/mymaster?pubsub=plain", "no option pubsub"),
        ("redis+cluster://", "names a host"),
        ("redis+cluster://a,b:0x1", "not a URL"),
        ("redis+cluster://a/mymaster", "not a number of a database"),
        ("redis+cluster://a?pubsub=other", "pubsub is one of auto, sharded, plain"),
        ("redis+cluster://a?sentinel_password=x", "no option sentinel_password"),
        ("redis+cluster://a?ssl_ca_certs=x", "no option ssl_ca_certs"),
        ("rediss+cluster://a?ssl_ca_certs=/none", "No such file"),
        ("rediss+sentinel://a/mymaster?ssl_cert_reqs=maybe", "rediss:// options"),
        ("redis+other://a", "no layer for"),
        ("redis://a,b", "names one host"),
        ("redis+cluster://a,redis+cluster://b", "it is one URL"),
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
