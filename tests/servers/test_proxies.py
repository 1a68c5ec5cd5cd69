"""What is believed of Forwarded and X-Forwarded-*, of whom, and what it changes."""

import pytest
from gevent.queue import Queue

from greenchannels import ConfigurationError, ServerOptions, http, websocket
from greenchannels.options import check_options
from greenchannels.servers.proxies import UNKNOWN_CLIENT, Peer, TrustedProxies
from tests.servers.harness import until

PROXY = ("10.0.0.1", 50000)

#: Fields, and what is believed of them when 10.0.0.1 sends them; trusted are
#: 10.0.0.0/8 and fd00::/8.
BELIEVED = [
    ("", ("10.0.0.1", 50000), False, "inner.example"),
    ("X-Forwarded-For: 1.2.3.4", ("1.2.3.4", 0), False, "inner.example"),
    ("X-Forwarded-For: 1.2.3.4:51000", ("1.2.3.4", 51000), False, "inner.example"),
    ("X-Forwarded-For: [2001:db8::1]:51000", ("2001:db8::1", 51000), False, ""),
    ("X-Forwarded-For: 6.6.6.6, 1.2.3.4, fd00::1, 10.9.9.9", ("1.2.3.4", 0), False, ""),
    ("X-Forwarded-For: 6.6.6.6|X-Forwarded-For: 1.2.3.4", ("1.2.3.4", 0), False, ""),
    ("X-Forwarded-For: 10.1.1.1, 10.1.1.2", ("10.1.1.1", 0), False, ""),
    ("X-Forwarded-For: 6.6.6.6, unknown", None, False, ""),
    ("X-Forwarded-For: 6.6.6.6, unknown, 10.1.1.1", None, False, ""),
    ("X-Forwarded-For: <script>", None, False, ""),
    ("X-Forwarded-For: , ,", ("10.0.0.1", 50000), False, ""),
    ("X-Forwarded-Proto: https", ("10.0.0.1", 50000), True, ""),
    ("X-Forwarded-Proto: http, WSS", ("10.0.0.1", 50000), True, ""),
    ("X-Forwarded-Proto: https, gopher", ("10.0.0.1", 50000), False, ""),
    ("X-Forwarded-Host: evil, a.example:81", PROXY, False, "a.example:81"),
    ("X-Forwarded-Host: a/b@c", PROXY, False, "inner.example"),
    ("X-Forwarded-Host: a b", PROXY, False, "inner.example"),
    ("X-Forwarded-Host:", PROXY, False, "inner.example"),
    (
        'Forwarded: for="[2001:db8::1]:51";proto=https;host=a.example',
        ("2001:db8::1", 51),
        True,
        "a.example",
    ),
    (
        "Forwarded: for=6.6.6.6;host=evil, for=1.2.3.4",
        ("1.2.3.4", 0),
        False,
        "inner.example",
    ),
    (
        "Forwarded: for=6.6.6.6;proto=https|Forwarded: for=1.2.3.4",
        ("1.2.3.4", 0),
        False,
        "",
    ),
    (
        "Forwarded: for=1.2.3.4;proto=https, for=10.2.2.2;proto=http;host=b",
        ("1.2.3.4", 0),
        True,
        "b",
    ),
    ("Forwarded: for=10.1.1.1, for=10.1.1.2", ("10.1.1.1", 0), False, ""),
    ("Forwarded: for=6.6.6.6, for=_hidden", None, False, ""),
    ("Forwarded: for=6.6.6.6, for=unknown;proto=https", None, True, ""),
    ("Forwarded: for=6.6.6.6, proto=https", None, True, ""),
    ("Forwarded: for=6.6.6.6, for=", None, False, "inner.example"),
    ('Forwarded: for="6.6.6.6, for=1.2.3.4', None, False, ""),
    ('Forwarded: for="6.6.6.6|Forwarded: for=1.2.3.4', ("1.2.3.4", 0), False, ""),
    ("Forwarded:", PROXY, False, ""),
    # Both kinds.
    (
        "Forwarded: for=1.2.3.4;proto=https"
        "|X-Forwarded-For: 1.2.3.4|X-Forwarded-Proto: https",
        ("1.2.3.4", 0),
        True,
        "",
    ),
    ("Forwarded: for=6.6.6.6|X-Forwarded-For: 1.2.3.4", None, False, ""),
    ("X-Forwarded-For: 6.6.6.6|Forwarded: for=1.2.3.4", None, False, ""),
    ("Forwarded: nonsense|X-Forwarded-For: 1.2.3.4", None, False, ""),
    ("Forwarded:|X-Forwarded-For: 1.2.3.4", None, False, ""),
    ("Forwarded: for=1.2.3.4|X-Forwarded-Proto: https", None, False, ""),
    (
        "Forwarded: for=1.2.3.4;host=evil|X-Forwarded-For: 1.2.3.4",
        ("1.2.3.4", 0),
        False,
        "inner.example",
    ),
    (
        "Forwarded: for=1.2.3.4;proto=http"
        "|X-Forwarded-For: 1.2.3.4|X-Forwarded-Proto: https",
        ("1.2.3.4", 0),
        False,
        "",
    ),
    (
        "Forwarded: for=1.2.3.4;host=a|X-Forwarded-For: 1.2.3.4|X-Forwarded-Host: a",
        ("1.2.3.4", 0),
        False,
        "a",
    ),
]
BELIEVED = [(text, Peer(*of, host or "inner.example")) for text, *of, host in BELIEVED]


def fields(text):
    """Return the fields of a line of the table."""
    pairs = [each.partition(":")[::2] for each in text.split("|") if each]
    named = [(n.lower().encode(), v.strip().encode("latin-1")) for n, v in pairs]
    return [(b"host", b"inner.example"), *named]


@pytest.mark.parametrize("text, peer", BELIEVED)
def test_a_trusted_proxy_is_believed(text, peer):
    """As far as what it says is whole, and says one thing."""
    trusted = TrustedProxies(["10.0.0.0/8", "fd00::/8"])
    assert trusted.peer(PROXY, fields(text)) == peer


@pytest.mark.parametrize("text", [text for text, _ in BELIEVED])
@pytest.mark.parametrize(
    "networks, client",
    [
        ([], PROXY),
        ([], None),
        (["10.0.0.2", "192.168.0.0/16", "unix"], PROXY),
        (["10.0.0.0/8", "127.0.0.1"], None),
        (["10.0.0.0/8"], ("11.0.0.1", 1)),
        (["10.0.0.0/8"], ("::1", 1, 0, 0)),
        (["*"], UNKNOWN_CLIENT),
        (["unix"], UNKNOWN_CLIENT),
    ],
)
def test_nobody_else_is_believed_whatever_they_send(networks, client, text):
    """Nor a client that even its proxy does not know."""
    own = client[:2] if client else None
    for secure in (False, True):
        found = TrustedProxies(networks).peer(client, fields(text), secure)
        assert found == Peer(own, secure, "inner.example")


def test_who_is_trusted():
    """Networks of both families, mapped and scoped addresses, Unix sockets, all."""
    some = TrustedProxies(["10.0.0.0/8", "fe80::/10", "::1"])
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fe80::1%eth0", "::1"):
        assert some.trusts((address, 1)), address
    for client in (("11.0.0.1", 1), ("::2", 1), None, UNKNOWN_CLIENT, ("", 0)):
        assert not some.trusts(client), client
    every = TrustedProxies(["*"])
    assert every.trusts(("8.8.8.8", 1)) and every.trusts(("::8", 1))
    assert every.trusts(None) and not every.trusts(UNKNOWN_CLIENT)
    assert TrustedProxies(["unix"]).trusts(None)
    with pytest.raises(ConfigurationError, match="not a network"):
        TrustedProxies(["10.0.0.0/33"])


def test_the_proxy_says_whether_the_client_uses_tls():
    """Else it is as the connection itself."""
    trusted = TrustedProxies(["10.0.0.1"])
    for text, secure in [("", True), ("X-Forwarded-Proto: http", False)]:
        assert trusted.peer(PROXY, fields(text), True).secure is secure


def test_contradicting_fields_are_in_the_log_once(caplog):
    """With what to do about it."""
    trusted = TrustedProxies(["10.0.0.1"])
    for _ in range(3):
        trusted.peer(PROXY, fields("Forwarded: for=6.6.6.6|X-Forwarded-For: 1.2.3.4"))
    (record,) = caplog.records
    assert "remove one of them" in record.getMessage()


def show(request):
    """Answer with what a view sees of the client and of its address."""
    environ = request.environ
    return [
        environ["REMOTE_ADDR"],
        environ.get("REMOTE_PORT", ""),
        environ["wsgi.url_scheme"],
        f"{environ['SERVER_NAME']}:{environ['SERVER_PORT']}",
        environ["SCRIPT_NAME"],
        environ["PATH_INFO"],
        environ["greenchannels.scope"]["root_path"],
        environ["greenchannels.scope"]["path"],
        environ["greenchannels.scope"]["raw_path"].decode(),
    ]


FORWARDED = [
    ("Forwarded", 'for="203.0.113.9:999";proto=https;host=public.example'),
]
X_FORWARDED = [
    ("X-Forwarded-For", "203.0.113.9:999"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "public.example"),
]


@pytest.mark.parametrize("headers", [FORWARDED, X_FORWARDED, FORWARDED + X_FORWARDED])
def test_views_sockets_and_logs_see_the_client_of_a_trusted_proxy(serve, headers):
    """Address and port, scheme, host; and the page of that host may connect."""
    seen = Queue()

    def consumer(socket):
        seen.put([socket.client, socket.scope["scheme"], socket.scope["server"]])
        socket.wait()

    running = serve(
        [http("/", show), websocket("/s", consumer)], proxies=("127.0.0.1",)
    )
    body = running.get("/", headers=headers).body
    assert body.startswith(b'["203.0.113.9","999","https","public.example:443"')
    running.open("/s", [*headers, ("Origin", "https://public.example")])
    found = seen.get(timeout=5)
    assert found == [("203.0.113.9", 999), "wss", ("public.example", 443)]
    until(lambda: running.access.getvalue().count("\n") == 2)
    lines = running.access.getvalue().splitlines()
    assert all(line.startswith("203.0.113.9:999 ") for line in lines), lines


@pytest.mark.parametrize("headers", [FORWARDED, X_FORWARDED, FORWARDED + X_FORWARDED])
@pytest.mark.parametrize("proxies", [(), ("10.0.0.0/8", "unix")])
def test_strangers_are_never_believed(serve, headers, proxies):
    """By views, sockets, the Origin rule or the log."""
    running = serve([http("/", show), websocket("/s", print)], proxies=proxies)
    body = running.get("/", headers=headers).body
    assert body.startswith(b'["127.0.0.1","') and b'"http","localhost:80"' in body
    page = [*headers, ("Origin", "https://public.example")]
    assert running.refused("/s", page).status == 403
    until(lambda: running.access.getvalue().count("\n") == 2)
    assert "203.0.113.9" not in running.access.getvalue()


def test_a_client_that_is_not_known_has_no_address(serve):
    """It does not become its proxy, whom applications may trust."""
    headers = [("Forwarded", "for=127.0.0.1"), ("X-Forwarded-For", "1.2.3.4")]
    running = serve([http("/", show)], proxies=("127.0.0.1",))
    assert running.get("/", headers=headers).body.startswith(b'["","","http",')


# A prefix.


@pytest.mark.parametrize(
    "asked, path",
    [
        ("/app/a%20b", "/app/a b"),
        ("/a%20b", "/app/a b"),
        ("/apple", "/app/apple"),
        ("/", "/app/"),
        ("/app", "/app"),
        ("/app/", "/app/"),
        ("/app/app/x", "/app/app/x"),
    ],
)
def test_a_prefix_is_in_the_scope_and_not_in_the_routes(serve, asked, path):
    """Whether the proxy removed it or not."""
    route = path.removeprefix("/app") or "/"
    routing = [http(route, show)]
    running = serve(routing, root_path="/app")
    answer = running.get(asked)
    assert answer.status == 200, answer
    found = answer.body.decode()
    info = path.removeprefix("/app")
    raw = path.replace(" ", "%20")
    assert found.endswith(f'"/app","{info}","/app","{path}","{raw}"]'), found


def test_a_prefix_is_in_the_scope_of_sockets(serve):
    """And their routes are without it, too."""
    seen = Queue()

    def consumer(socket, room):
        seen.put((room, socket.path, socket.scope["path"], socket.scope["root_path"]))
        socket.wait()

    running = serve([websocket("/chat/<room>", consumer)], root_path="/a b")
    for path in ("/chat/x", "/a%20b/chat/x"):
        running.open(path)
        path = "/a b/chat/x"
        assert seen.get(timeout=5) == ("x", path, path, "/a b")
    assert running.refused("/a%20b/a%20b/chat/x").status == 404


def test_a_prefix_leaves_an_asterisk_alone(serve):
    """OPTIONS * asks for no path."""
    running = serve([http("/", show)], root_path="/app")
    assert running.get("*", method="OPTIONS").status == 404


@pytest.mark.parametrize(
    "root_path", ["app", "/app/", "/", "/a?b", "/a#b", "/%20", "/\n"]
)
def test_a_prefix_is_a_path(root_path):
    """Percent-encoding, which proxies do differently, is not for us to undo."""
    with pytest.raises(ConfigurationError, match="root_path"):
        check_options(ServerOptions(root_path=root_path))
