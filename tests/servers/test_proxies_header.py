"""Connections that begin with a PROXY header."""

import contextlib

import gevent
import pytest
from gevent.queue import Queue

from greenchannels import ConfigurationError, ServerOptions, Timeouts, http, websocket
from greenchannels.net.binding import bind_tcp, bind_unix
from greenchannels.net.certificates import Certificates
from greenchannels.options import TLS, check_options
from tests.certificates import localhost, wrap
from tests.servers.harness import MS, Client, frames, handshake, request, until

V1 = b"PROXY TCP4 203.0.113.9 9.9.9.9 51000 80\r\n"
V2 = (
    b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0f"
    + bytes([203, 0, 113, 9, 9, 9, 9, 9])
    + (51000).to_bytes(2, "big")
    + b"\x00\x50"
    + b"\x04\x00\x00"
)
LOCAL = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
UNKNOWN = b"PROXY UNKNOWN\r\n"
UNIX = b"\r\n\r\n\x00\r\nQUIT\n\x21\x31\x00\xd8" + b"/s".ljust(216, b"\0")

SPOOF = [("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-Proto", "https")]


def show(request):
    """Answer with the client's address and the scheme."""
    return [
        *(request.environ["greenchannels.scope"]["client"] or ("-",)),
        request.scheme,
    ]


ROUTES = [
    http("/", show),
    websocket("/s", lambda socket: [socket.send(m) for m in socket]),
]


@pytest.fixture
def proxied(serve):
    """A function that starts a server whose connections begin with a header."""

    def start(routing=ROUTES, proxies=("127.0.0.1",), **options):
        return serve(routing, proxies=proxies, proxy_protocol=True, **options)

    return start


def waiting(running):
    """Return how many connections wait for their header."""
    return len(running.server._proxy_headers)


@pytest.mark.parametrize("header", [V1, V2])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_header_names_the_client(proxied, header, size):
    """In views, sockets and the log, however its bytes come."""
    running = proxied()
    client = running.client()
    data = header + request("/") + request("/")
    for start in range(0, len(data), size):
        client.send(data[start : start + size])
        gevent.sleep(0)
    assert client.response().body == b'["203.0.113.9",51000,"http"]'
    assert client.response().body == b'["203.0.113.9",51000,"http"]'
    peer = running.peer()
    peer.send(header + handshake("/s") + frames("x"))
    assert peer.response().status == 101
    assert peer.hear() == "x"
    until(lambda: running.access.getvalue().count("\n") == 3)
    lines = running.access.getvalue().splitlines()
    assert all(line.startswith("203.0.113.9:51000 ") for line in lines)
    assert waiting(running) == 0


@pytest.mark.parametrize("header", [V1, V2])
def test_the_client_that_a_header_names_is_no_proxy(proxied, header):
    """What it sends itself is believed only if its own address is trusted."""
    client = proxied().client()
    client.send(header + request("/", headers=SPOOF))
    assert client.response().body == b'["203.0.113.9",51000,"http"]'
    client = proxied(proxies=("127.0.0.1", "203.0.113.0/24")).client()
    client.send(header + request("/", headers=SPOOF))
    assert client.response().body == b'["6.6.6.6",0,"https"]'


@pytest.mark.parametrize("header", [UNKNOWN, UNIX])
@pytest.mark.parametrize("proxies", [("127.0.0.1", "unix"), ("*",)])
def test_a_client_that_the_proxy_does_not_know_has_no_address(proxied, header, proxies):
    """And nobody believes it anything."""
    client = proxied(proxies=proxies).client()
    client.send(header + request("/", headers=SPOOF))
    assert client.response().body == b'["-","http"]'


def test_a_proxy_may_speak_for_itself(proxied):
    """As its health checks do: the address is its own."""
    client = proxied().client()
    client.send(LOCAL + request("/"))
    body = client.response().body
    assert body == b'["127.0.0.1",%d,"http"]' % client.sock.getsockname()[1]


@pytest.mark.parametrize("header", [V1, V2])
@pytest.mark.parametrize("proxies", [("10.0.0.0/8",), ("unix",)])
def test_strangers_are_cut_off(proxied, header, proxies, caplog):
    """With a header or without, and nothing is served."""
    running = proxied(proxies=proxies)
    for data in (header + request("/"), request("/")):
        client = running.client()
        with contextlib.suppress(OSError):
            client.send(data)
        assert client.ended() in ("closed", "reset")
        port = client.sock.getsockname()[1]
        assert f"127.0.0.1:{port}: cut off: no trusted proxy" in caplog.text
    assert running.access.getvalue() == ""
    assert not running.server.connections and waiting(running) == 0


@pytest.mark.parametrize(
    "data",
    [
        request("/"),
        handshake("/s"),
        b"\x16\x03\x01\x02\x00\x01",
        b"PROXY TCP4 203.0.113.9 9.9.9.9 51000 x\r\n" + request("/"),
        V2.replace(b"\x21\x11", b"\x31\x11") + request("/"),
        b"PROXY " + b"x" * 200,
    ],
)
def test_who_sends_no_proper_header_is_cut_off(proxied, data, caplog):
    """Although the peer is trusted; the log says why."""
    running = proxied()
    client = running.client()
    client.send(data)
    assert client.ended() in ("closed", "reset")
    assert "PROXY header" in caplog.text and "127.0.0.1:" in caplog.text
    assert running.access.getvalue() == "" and waiting(running) == 0


@pytest.mark.parametrize("data", [b"", V1[:-1], V2[:-1]])
def test_a_header_must_come_in_time(proxied, data, caplog):
    """Within the time for a head; half of one does not help."""
    running = proxied(timeouts=Timeouts(head_timeout=100 * MS))
    client = running.client()
    client.send(data)
    assert client.ended() == "closed"
    assert "took too long" in caplog.text and waiting(running) == 0


@pytest.mark.parametrize("data", [b"", V1[:-1], V2[:-1]])
def test_a_proxy_may_leave_before_its_header_is_complete(proxied, data, caplog):
    """Closed or reset."""
    running = proxied()
    for leave in ("half_close", "reset"):
        client = running.client()
        client.send(data)
        until(lambda: waiting(running) == 1)
        getattr(client, leave)()
        until(lambda: waiting(running) == 0)
    assert caplog.text.count("cut off") == 2


def test_those_who_wait_count_for_the_limit_of_connections(proxied):
    """Accepting pauses, and resumes whichever way one leaves."""
    running = proxied(max_connections=3)
    clients = [running.client() for _ in range(3)]
    until(lambda: waiting(running) == 3)
    late = running.client()
    late.send(V1 + request("/"))
    assert late.silent()
    clients[0].close()
    assert late.response().status == 200
    clients[1].send(V1 + request("/"))
    assert clients[1].response().status == 200
    last = running.client()
    last.send(V1 + request("/"))
    assert last.silent()
    late.close()
    assert last.response().status == 200
    assert waiting(running) == 1 and len(running.server.connections) == 2


def test_a_drain_does_not_wait_for_headers(proxied):
    """Nothing has been asked yet."""
    running = proxied()
    clients = [running.client() for _ in range(3)]
    clients[0].send(V1[:5])
    until(lambda: waiting(running) == 3)
    with gevent.Timeout(5):
        running.server.stop(timeout=60)
    assert all(client.ended() in ("closed", "reset") for client in clients)


def test_the_header_stands_before_tls(proxied):
    """The handshake begins behind it; who leaves it out is cut off."""
    running = proxied()
    sock = bind_tcp("127.0.0.1", 0)
    running.server.listen(sock, tls=Certificates(TLS((localhost(),))))
    for header in (V1, V2):
        raw = gevent.socket.create_connection(sock.getsockname(), timeout=5)
        with raw:
            raw.sendall(header)
            with wrap(raw) as client:
                client.sendall(request("/", headers=SPOOF))
                answer = client.recv(65536)
                assert b'["203.0.113.9",51000,"https"]' in answer
    with Client(sock.getsockname()).sock as client:
        client.sendall(b"\x16\x03\x01\x00\x05hello")
        with contextlib.suppress(OSError):
            assert client.recv(100) == b""


def test_a_unix_socket_takes_headers_from_trusted_peers_only(proxied, tmp_path, caplog):
    """--proxy unix."""
    for proxies, body in [
        (("unix",), b'["203.0.113.9",51000,"http"]'),
        (("127.0.0.1",), None),
    ]:
        running = proxied(proxies=proxies)
        path = str(tmp_path / "-".join(proxies))
        running.server.listen(bind_unix(path))
        with contextlib.closing(Client(path)) as client:
            with contextlib.suppress(OSError):
                client.send(V2 + request("/"))
            if body is not None:
                assert client.response().body == body
            else:
                assert client.ended() in ("closed", "reset")
                assert "unix: cut off: no trusted proxy" in caplog.text


def test_the_header_stands_before_a_limit_of_its_own(proxied):
    """TLVs up to 4 KiB are skipped, more are refused; the request's limits stay."""
    running = proxied()
    for size, served in [(4096 - 16 - 12 - 3, True), (4096 - 16 - 12 - 2, False)]:
        tlv = b"\x04" + size.to_bytes(2, "big") + bytes(size)
        block = V2[16:28] + tlv
        client = running.client()
        client.send(V2[:14] + len(block).to_bytes(2, "big") + block)
        client.send(request("/"))
        if served:
            assert client.response().status == 200
        else:
            assert client.ended() in ("closed", "reset")


def test_a_header_without_the_option_is_no_request(serve):
    """It is never guessed whether there is one."""
    running = serve(ROUTES, proxies=("127.0.0.1",))
    client = running.client()
    client.send(V1 + request("/"))
    assert client.response().status == 400


def test_the_option_needs_proxies():
    """Else nobody could connect."""
    with pytest.raises(ConfigurationError, match="proxies"):
        check_options(ServerOptions(proxy_protocol=True))


def test_clients_of_sockets_are_seen_by_their_consumers(proxied):
    """With address and port."""
    seen = Queue()

    def consumer(socket):
        seen.put((socket.client, socket.scope["client"]))
        socket.wait()

    peer = proxied([websocket("/", consumer)]).peer()
    peer.send(V2 + handshake("/"))
    assert peer.response().status == 101
    assert seen.get(timeout=5) == (("203.0.113.9", 51000), ("203.0.113.9", 51000))
