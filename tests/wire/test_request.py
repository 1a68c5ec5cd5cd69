"""What the head of a request means: RFC 9110, RFC 9112."""

import pytest

from greenchannels.errors import RemoteProtocolError
from greenchannels.wire.grammar import read_head
from greenchannels.wire.request import KNOWN, Request, parse_headers, read_request


def read(line="GET / HTTP/1.1", *fields, host="a"):
    """Return what a head means."""
    lines = [line, *([] if host is None else [f"Host: {host}"]), *fields]
    head = "".join(f"{each}\r\n" for each in lines).encode("latin-1") + b"\r\n"
    request = read_request(head, read_head(head, KNOWN))
    assert parse_headers(head) == request.headers
    return request


def test_a_request_has_all_its_parts():
    """As they are described in the class."""
    request = read("GET /a%20%C3%A9/?q=%20 HTTP/1.1", "X-Y: \t z ", "x-y:", host="b:80")
    assert request == Request(
        method="GET",
        target=b"/a%20%C3%A9/?q=%20",
        path="/a é/",
        raw_path=b"/a%20%C3%A9/",
        query_string=b"q=%20",
        http_version="1.1",
        headers=[(b"host", b"b:80"), (b"x-y", b"z"), (b"x-y", b"")],
        fields={b"host": [b"b:80"]},
        head=b"GET /a%20%C3%A9/?q=%20 HTTP/1.1\r\n"
        b"Host: b:80\r\nX-Y: \t z \r\nx-y:\r\n\r\n",
        keep_alive=True,
        upgrade=False,
        content_length=None,
        chunked=False,
        expects_continue=False,
    )
    assert not request.has_body


@pytest.mark.parametrize(
    ("target", "raw_path", "path", "query"),
    [
        ("/", b"/", "/", b""),
        ("/?", b"/", "/", b""),
        ("/a?b?c", b"/a", "/a", b"b?c"),
        ("//a//b", b"//a//b", "//a//b", b""),
        ("/%2F%2e%zz%", b"/%2F%2e%zz%", "//.%zz%", b""),
        ("/a:b@c;d=e,f", b"/a:b@c;d=e,f", "/a:b@c;d=e,f", b""),
        ("/http://a/", b"/http://a/", "/http://a/", b""),
    ],
)
def test_a_target_is_path_and_query(target, raw_path, path, query):
    """What only looks like %XX is left alone."""
    request = read(f"GET {target} HTTP/1.1")
    assert (request.raw_path, request.path) == (raw_path, path)
    assert request.query_string == query
    assert request.target == target.encode()


@pytest.mark.parametrize(
    ("target", "host", "path", "query"),
    [
        ("http://b", b"b", "/", b""),
        ("http://b?x", b"b", "/", b"x"),
        ("HTTPS://b:443/c?d", b"b:443", "/c", b"d"),
        ("http://[::1]:8000/", b"[::1]:8000", "/", b""),
    ],
)
def test_the_authority_of_a_target_is_the_host(target, host, path, query):
    """Whatever Host says (RFC 9112, section 3.2.2)."""
    request = read(f"GET {target} HTTP/1.1", "X: y")
    assert request.headers == [(b"host", host), (b"x", b"y")]
    assert (request.path, request.query_string) == (path, query)
    assert read(f"GET {target} HTTP/1.0", "X: y", host=None).headers == [
        (b"x", b"y"),
        (b"host", host),
    ]


def test_options_may_ask_about_the_server():
    """The asterisk-form."""
    request = read("OPTIONS * HTTP/1.1")
    assert (request.path, request.raw_path, request.query_string) == ("*", b"*", b"")


@pytest.mark.parametrize(
    ("line", "fields", "keep_alive"),
    [
        ("GET / HTTP/1.1", [], True),
        ("GET / HTTP/1.1", ["Connection: close"], False),
        ("GET / HTTP/1.1", ["Connection: te, Close"], False),
        ("GET / HTTP/1.1", ["Connection: te", "Connection: close"], False),
        ("GET / HTTP/1.1", ["Connection: closed"], True),
        ("GET / HTTP/1.0", [], False),
        ("GET / HTTP/1.0", ["Connection: Keep-Alive"], True),
        ("GET / HTTP/1.0", ["Connection: keep-alive, close"], False),
    ],
)
def test_a_connection_is_kept_as_version_and_connection_say(line, fields, keep_alive):
    """RFC 9112, section 9.3."""
    assert read(line, *fields).keep_alive is keep_alive


@pytest.mark.parametrize(
    ("line", "fields", "upgrade"),
    [
        ("GET / HTTP/1.1", ["Connection: upgrade", "Upgrade: websocket"], True),
        ("GET / HTTP/1.1", ["Connection: x, Upgrade", "Upgrade: h2c, WebSocket"], True),
        ("POST / HTTP/1.1", ["Connection: upgrade", "Upgrade: websocket"], True),
        ("GET / HTTP/1.1", ["Connection: keep-alive", "Upgrade: websocket"], False),
        ("GET / HTTP/1.1", ["Upgrade: websocket"], False),
        ("GET / HTTP/1.1", ["Connection: upgrade", "Upgrade: h2c"], False),
        ("GET / HTTP/1.1", ["Connection: upgrade"], False),
        ("GET / HTTP/1.0", ["Connection: upgrade", "Upgrade: websocket"], False),
    ],
)
def test_an_upgrade_is_to_websocket_and_nothing_else(line, fields, upgrade):
    """In HTTP/1.1, where Connection names it."""
    assert read(line, *fields).upgrade is upgrade


@pytest.mark.parametrize(
    ("fields", "length", "chunked", "expects"),
    [
        ([], None, False, False),
        (["Content-Length: 0"], 0, False, False),
        (["Content-Length: 012"], 12, False, False),
        (["Content-Length: 5", "Expect: 100-Continue"], 5, False, True),
        (["Transfer-Encoding: Chunked", "Expect: 100-continue"], None, True, True),
        (["Transfer-Encoding:\tCHUNKED "], None, True, False),
        (["Content-Length: 5", "Expect: 200-ok"], 5, False, False),
        (["Expect: 100-continue"], None, False, False),
    ],
)
def test_a_body_has_a_length_or_is_chunked(fields, length, chunked, expects):
    """A 100 is awaited only where there is one."""
    request = read("POST / HTTP/1.1", *fields)
    assert (request.content_length, request.chunked) == (length, chunked)
    assert request.has_body is (chunked or bool(length))
    assert request.expects_continue is expects


def test_http_1_0_knows_no_100():
    """RFC 9110, section 10.1.1."""
    fields = ["Content-Length: 5", "Expect: 100-continue"]
    assert not read("POST / HTTP/1.0", *fields).expects_continue


@pytest.mark.parametrize(
    "host",
    [
        *("", "a", "a:", "a.b:80", "a:65535", "[::1]:8", "[::ffff:1.2.3.4]", "a_b-c~d"),
        *("1.2.3.4", "%C3%A9", "a,b;c"),
    ],
)
def test_a_host_is_a_name_or_an_address_and_perhaps_a_port(host):
    """It may be empty."""
    assert read(host=host).headers == [(b"host", host.encode())]


TWO_HOSTS = "a request has one Host"
HOST = "malformed Host"
TARGET = "malformed request target"
LENGTH = "malformed Content-Length"
NOT_HERE = "Transfer-Encoding is not allowed here"
LAST = "the last transfer coding must be chunked"
MORE = "transfer codings are not supported"
ODD = "malformed Transfer-Encoding"


def refusal(line, *fields, host=None):
    with pytest.raises(RemoteProtocolError) as caught:
        read(line, *fields, host=host)
    return caught.value.hint, caught.value.reason


@pytest.mark.parametrize(
    ("reason", "line", "hosts"),
    [
        (TWO_HOSTS, "GET / HTTP/1.1", []),
        (TWO_HOSTS, "GET http://a/ HTTP/1.1", []),
        (TWO_HOSTS, "GET / HTTP/1.1", ["a", "a"]),
        (TWO_HOSTS, "GET / HTTP/1.0", ["a", "b"]),
        (HOST, "GET / HTTP/1.1", ["a b"]),
        (HOST, "GET / HTTP/1.1", ["a/b"]),
        (HOST, "GET / HTTP/1.1", ["u@a"]),
        (HOST, "GET / HTTP/1.1", ["a,b:c"]),
        (HOST, "GET / HTTP/1.1", ["é"]),
        (HOST, "GET / HTTP/1.1", ["[::1"]),
        (HOST, "GET / HTTP/1.1", ["::1"]),
        (HOST, "GET / HTTP/1.0", ["a?"]),
        (HOST, "GET / HTTP/1.1", ["a:b"]),
        (HOST, "GET / HTTP/1.1", ["a:1:2"]),
        (HOST, "GET / HTTP/1.1", ["a:123456"]),
        (HOST, "GET / HTTP/1.1", ["a%"]),
        (HOST, "GET / HTTP/1.1", ["a%0g"]),
        (HOST, "GET / HTTP/1.1", ["[]"]),
        (HOST, "GET / HTTP/1.1", ["[1.2.3.4]"]),
        (HOST, "GET / HTTP/1.1", ["[::1]a"]),
        (HOST, "GET / HTTP/1.1", ["[fe80::1%eth0]"]),
        (HOST, "GET http://b/ HTTP/1.1", ["a b"]),
        (TARGET, "GET * HTTP/1.1", ["a"]),
        (TARGET, "GET a HTTP/1.1", ["a"]),
        (TARGET, "GET a:80 HTTP/1.1", ["a"]),
        (TARGET, "OPTIONS ** HTTP/1.1", ["a"]),
        (TARGET, "GET http:///b HTTP/1.1", ["a"]),
        (TARGET, "GET http://:80/b HTTP/1.1", ["a"]),
        (TARGET, "GET http://[a]/ HTTP/1.1", ["a"]),
        (TARGET, "GET http://u@b/ HTTP/1.1", ["a"]),
        (TARGET, "GET ftp://b/ HTTP/1.1", ["a"]),
        ("the path is not UTF-8", "GET /%ff HTTP/1.1", ["a"]),
    ],
)
def test_a_request_says_where_it_goes(reason, line, hosts):
    """In one well-formed way."""
    fields = [f"Host: {host}" for host in hosts]
    assert refusal(line, *fields) == (400, reason)


def test_connect_is_for_proxies():
    """501."""
    answer = refusal("CONNECT a:80 HTTP/1.1", host="a")
    assert answer == (501, "CONNECT is not supported")


@pytest.mark.parametrize(
    ("status", "reason", "values"),
    [
        (400, LENGTH, [""]),
        (400, LENGTH, ["-1"]),
        (400, LENGTH, ["+1"]),
        (400, LENGTH, ["1_0"]),
        (400, LENGTH, ["1, 1"]),
        (400, LENGTH, ["0x1"]),
        (400, LENGTH, ["\xb2"]),
        (400, LENGTH, ["1", "1"]),
        (413, "the body is too big", ["1" * 19]),
    ],
)
def test_a_content_length_is_one_number(status, reason, values):
    """In digits, and only once."""
    fields = [f"Content-Length: {value}" for value in values]
    assert refusal("POST / HTTP/1.1", *fields, host="a") == (status, reason)


@pytest.mark.parametrize(
    ("status", "reason", "values"),
    [
        (400, LAST, [""]),
        (400, LAST, ["gzip"]),
        (400, LAST, ["x"]),
        (400, LAST, ["identity"]),
        (400, LAST, ["chunked, gzip"]),
        (400, LAST, ["chunked", "gzip"]),
        (400, LAST, ["chunked, identity"]),
        (400, LAST, ["chunked, chunked"]),
        (400, LAST, ["chunked", "chunked"]),
        (400, LAST, ["gzip, chunked", "Chunked"]),
        (400, LAST, ["chunked;q=1"]),
        (400, LAST, ['"chunked"']),
        (400, LAST, ["xchunked"]),
        (400, LAST, ["chunked,"]),
        (400, LAST, ["\xa0chunked"]),
        (400, LAST, ["chun\u212aed".replace("\u212a", "\xe2\x84\xaa")]),
        (400, ODD, [", chunked"]),
        (400, ODD, ["", "chunked"]),
        (501, MORE, ["gzip, chunked"]),
        (501, MORE, ["x-gzip", "chunked"]),
        (501, MORE, ["identity, chunked"]),
        (501, MORE, ["x ,\tChunked"]),
    ],
)
def test_the_only_transfer_coding_is_chunked(status, reason, values):
    """Once, and nothing else."""
    fields = [f"Transfer-Encoding: {value}" for value in values]
    assert refusal("POST / HTTP/1.1", *fields, host="a") == (status, reason)


def test_a_body_has_one_end():
    """Content-Length beside chunks, or chunks in HTTP/1.0: who reads which?"""
    both = ["Transfer-Encoding: chunked", "Content-Length: 1"]
    assert refusal("POST / HTTP/1.1", *both, host="a") == (400, NOT_HERE)
    assert refusal("POST / HTTP/1.0", both[0], host="a") == (400, NOT_HERE)


@pytest.mark.parametrize(
    "names",
    [
        ["Content_Length"],
        ["content_type"],
        ["Transfer_Encoding"],
        ["HOST_", "host-"],
        ["X_Forwarded_For"],
        ["X-Forwarded_For"],
        ["X_Real_IP"],
        ["Remote_User"],
        ["Sec_WebSocket_Key"],
        ["X_User", "X-User"],
        ["x-user", "X_USER"],
        ["a_b-c", "a-b_c"],
    ],
)
def test_a_name_with_an_underscore_shadows_no_other(names):
    """CGI and WSGI would make one variable of both."""
    fields = [f"{name}: 1" for name in names]
    answer = refusal("GET / HTTP/1.1", *fields, host="a")
    assert answer == (400, "a field's name shadows another")


def test_other_names_with_underscores_pass():
    """Also repeated, and in any case."""
    request = read("GET / HTTP/1.1", "X_User: 1", "x_user: 2", "x-us: 3", "_: 4")
    names = [name for name, _ in request.headers]
    assert names == [b"host", b"x_user", b"x_user", b"x-us", b"_"]


@pytest.mark.parametrize(
    ("host", "good"), [("a" * 300, True), ("a" * 300 + "/", False)]
)
def test_a_very_long_host_is_read_as_any_other(host, good):
    """Although nobody is called so."""
    if good:
        assert read(host=host).headers == [(b"host", host.encode())]
    else:
        with pytest.raises(RemoteProtocolError, match="malformed Host"):
            read(host=host)
