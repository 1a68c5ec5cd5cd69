"""HTTPS and wss:// as clients meet them: curl, openssl, websockets, Python's ssl."""

import contextlib
import logging
import os
import re
import shutil
import socket as stdlib_socket
import ssl
import time

import gevent
import gevent.subprocess
import pytest
from websockets.sync.client import connect

from greenchannels import Group, Limits, Timeouts, gsgi, http, websocket
from greenchannels.net.binding import bind_tcp
from greenchannels.net.certificates import Certificates
from greenchannels.net.tls import CUT, DONE, FAILED_ONES
from greenchannels.options import TLS
from tests.certificates import authority, client_context, localhost, wrap
from tests.net.test_tls import Wire
from tests.servers.harness import (
    CLOSE,
    MS,
    TEXT,
    Client,
    Closed,
    Peer,
    frames,
    handshake,
    patience,
    request,
    until,
)

#: Bytes that no buffer between the two ends holds.
MUCH = 3_000_000


def echo(socket):
    """Return every message."""
    for message in socket:
        socket.send(message)


def everybody(socket):
    """Send every message to all members."""
    with Group("all").joined(socket) as group:
        for message in socket:
            group.send(message)


def flood(socket):
    """Send more than anybody takes."""
    while True:
        socket.send(b"x" * 10_000)


def listen(socket):
    """Be a member, and take no input."""
    with Group("all").joined(socket):
        socket.send("in")
        socket.wait()


def page(request):
    """Return how the page was asked for."""
    return f"{request.method} {request.scheme} {request.url}"


def upload(request):
    """Return the body."""
    return request.get_data()


def large(request):
    """Return a large body."""
    return b"0123456789" * (MUCH // 10)


ROUTES = [
    websocket("/", echo),
    websocket("/all", everybody),
    websocket("/flood", flood),
    websocket("/listen", listen, limits=Limits(max_write_buffer=100_000)),
    http("/page", page, methods=("GET", "HEAD")),
    http("/upload", upload, methods=("POST",)),
    http("/large", large),
]


class Secure:
    """A server with a port for TLS beside its plain one."""

    def __init__(self, running, tls):
        self.running = running
        self.server = running.server
        self.certificates = Certificates(tls)
        sock = bind_tcp("127.0.0.1", 0)
        self.address = self.server.listen(sock, self.certificates).address
        self.url = f"https://localhost:{self.address[1]}"
        self.wss = f"wss://localhost:{self.address[1]}"

    @property
    def counters(self):
        """What the server has counted."""
        return self.server.layer.counters

    def raw(self, kind=Client):
        """Return a connection without TLS."""
        client = kind(self.address)
        self.running.clients.append(client)
        return client

    def client(self, kind=Client, *, receive_buffer=None, **options):
        """Return a connection with TLS."""
        client = kind(self.address, receive_buffer=receive_buffer)
        self.running.clients.append(client)
        with patience():
            client.sock = wrap(client.sock, **options)
        return client

    def open(self, path="/", headers=(), **options):
        """Return a WebSocket client, after its handshake."""
        peer = self.client(Peer, **options)
        peer.open(path, headers)
        return peer

    def hello(self):
        """Return a ClientHello."""
        outgoing = ssl.MemoryBIO()
        tls = client_context().wrap_bio(
            ssl.MemoryBIO(), outgoing, server_hostname="localhost"
        )
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        return outgoing.read()


@pytest.fixture
def secure(serve):
    """A function that starts a server with TLS."""

    def start(routes=ROUTES, tls=None, **options):
        return Secure(serve(routes, **options), tls or TLS((localhost(),)))

    return start


def elsewhere(function, *args):
    """Call a function that blocks its thread."""
    with patience(20):
        return gevent.get_hub().threadpool.apply(function, args)


def run(*command, data=b"", check=True):
    """Run a program; return its output and its standard error."""
    with patience(20):
        process = gevent.subprocess.Popen(
            command,
            stdin=gevent.subprocess.PIPE,
            stdout=gevent.subprocess.PIPE,
            stderr=gevent.subprocess.PIPE,
        )
        out, error = process.communicate(data)
    assert not check or process.returncode == 0, error
    return out, error


def curl(*arguments, **options):
    """Run curl, which trusts the authority."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    command = ["curl", "-sS", "--cacert", authority().file, "--noproxy", "*"]
    return run(*command, *arguments, **options)[0]


def s_client(secure, *arguments, data=b"", **options):
    """Run openssl s_client; return all that it says."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{secure.address[1]}"]
    command += ["-servername", "localhost", "-CAfile", authority().file]
    return b"".join(run(*command, *arguments, data=data, **options)).decode()


# What works.


def test_curl_gets_heads_and_posts(secure):
    """With a verified certificate, and ALPN."""
    started = secure()
    url = f"{started.url}/page"
    assert curl(url) == f"GET https {url}".encode()
    head = curl("-I", url)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert head.endswith(b"\r\n\r\n")
    body = os.urandom(300_000)
    sent = ("--data-binary", "@-", f"{started.url}/upload")
    assert curl(*sent, data=body) == body
    assert curl(f"{started.url}/large") == large(None)


def test_curl_keeps_its_connection(secure):
    """Several requests, one handshake."""
    started = secure()
    url = f"{started.url}/page"
    assert curl(url, url, url).count(b"GET https") == 3
    assert started.counters[DONE] == 1


def test_many_requests_at_once_are_answered_in_order(secure):
    """Pipelined, in one record."""
    client = secure().client()
    client.send(request("/page") * 50)
    for _ in range(50):
        assert client.response().status == 200


@pytest.mark.parametrize("size", [0, 1, 125, 126, 16_384, 65_536, 1_048_576])
def test_the_websockets_package_has_its_messages_echoed(secure, size):
    """Up to 1 MiB in both directions."""
    started = secure()
    message = os.urandom(size)

    def talk():
        context = client_context()
        with connect(
            started.wss,
            ssl=context,
            max_size=None,
            compression=None,
            proxy=None,
            open_timeout=5,
        ) as socket:
            socket.send(message)
            return socket.recv()

    def talk_until_it_was_sent():
        # Two threads of that client use one SSL object, which CPython does not lock
        # before 3.13: once in thousands its request is lost before it is sent.
        for _ in range(2):
            with contextlib.suppress(TimeoutError):
                return talk()
        return talk()

    assert elsewhere(talk_until_it_was_sent) == message


def test_a_broadcast_reaches_members_with_and_without_tls(secure):
    """The same frames; large ones, too."""
    started = secure()
    members = [started.open("/all") for _ in range(3)]
    members += [started.running.open("/all") for _ in range(3)]
    until(lambda: len(started.server.sockets) == 6)
    for message in ["hello", "x" * 200_000, b"\0" * 16_384]:
        members[0].say(message)
        assert [member.hear() for member in members] == [message] * 6


def test_the_scope_says_that_it_is_secure(secure):
    """``https`` and ``wss``, and what is known of the encryption."""
    scopes = []

    def consumer(scope, receive, send):
        scopes.append(scope)
        if scope["type"] == "websocket":
            send({"type": "websocket.close"})
        elif scope["type"] == "http":
            send({"type": "http.response.start", "status": 200})
            send({"type": "http.response.body"})

    started = secure([gsgi("/", consumer)])
    client = started.client()
    client.send(request())
    assert client.response().status == 200
    client = started.client(Peer)
    client.handshake()
    assert client.response().status == 403
    assert started.running.get("/").status == 200
    found, socket, plain = [s for s in scopes if s["type"] != "lifespan"]
    assert (found["scheme"], socket["scheme"], plain["scheme"]) == (
        "https",
        "wss",
        "http",
    )
    assert found["server"] == ("localhost", 443)
    assert "tls" not in plain["extensions"]
    for scope in (found, socket):
        assert scope["extensions"]["tls"] == {
            "server_cert": None,
            "client_cert_chain": [],
            "client_cert_name": None,
            "client_cert_error": None,
            "tls_version": 0x0304,
            "cipher_suite": 0x1302,
        }


def test_the_scope_names_the_owner_of_a_clients_certificate(secure):
    """When authorities for them are given."""
    names = []

    def consumer(socket):
        tls = socket.scope["extensions"]["tls"]
        names.append((tls["client_cert_name"], len(tls["client_cert_chain"])))
        socket.send("in")

    options = TLS((localhost(),), authority().file)
    started = secure([websocket("/", consumer)], options)
    issued = authority().issue("client.example")
    assert started.open(certificate=issued).hear() == "in"
    assert started.open().hear() == "in"
    (name, chain), without = names
    assert re.fullmatch(r"OU=Testing cert.*,O=trustme v[\d.]+", name)
    assert chain == 1
    assert without == (None, 0)


@pytest.mark.parametrize(
    "origin, allowed",
    [
        ("https://localhost", True),
        ("https://localhost:443", True),
        ("http://localhost", False),
        ("http://localhost:443", False),
        ("https://other", False),
        ("null", False),
    ],
)
def test_the_origin_of_a_page_over_tls_is_https(secure, origin, allowed):
    """A page that came without TLS may be anybody's."""
    peer = secure().client(Peer)
    peer.handshake("/", [("Origin", origin)])
    assert peer.response().status == (101 if allowed else 403)


def test_the_plain_port_has_its_rule_still(secure):
    """Behind a proxy that ends TLS the page is https and the request is not."""
    running = secure().running
    for origin in ("http://localhost", "https://localhost"):
        running.open("/", [("Origin", origin)])


def test_a_pattern_lets_plain_pages_in_over_tls(secure):
    """As it says."""
    started = secure(origins=("http://localhost",))
    started.open("/", [("Origin", "http://localhost")])


def test_a_file_is_sent_over_tls(secure, tmp_path):
    """By the event that lets the kernel do it without TLS."""
    data = os.urandom(1_000_000)
    path = tmp_path / "file"
    path.write_bytes(data)

    def consumer(scope, receive, send):
        if scope["type"] == "http":
            send({"type": "http.response.start", "status": 200})
            with path.open("rb") as file:
                send({"type": "http.response.zerocopysend", "file": file})

    client = secure([gsgi("/", consumer)]).client()
    client.send(request())
    assert client.response().body == data


# openssl.


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_openssl_is_refused_with_an_old_version(secure, version):
    """The alert says why."""
    started = secure()
    said = s_client(
        started, version, "-cipher", "ALL:@SECLEVEL=0", check=False, data=b"Q\n"
    )
    assert "alert protocol version" in said
    until(lambda: started.counters[FAILED_ONES] == 1)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_agrees_on_version_and_protocol(secure, version):
    """ALPN http/1.1 among others; no compression."""
    said = s_client(secure(), version, "-alpn", "h2,http/1.1", data=b"Q\n")
    assert "ALPN protocol: http/1.1" in said
    assert "Verify return code: 0 (ok)" in said
    assert "Compression: NONE" in said


def test_openssl_may_not_renegotiate(secure):
    """Its client can ask in TLS 1.2; the private key does nothing for it."""
    started = secure()
    said = s_client(started, "-tls1_2", data=b"R\n", check=False)
    assert "RENEGOTIATING" in said
    assert "no renegotiation" in said
    assert started.counters[DONE] == 1


def test_openssl_resumes_its_session(secure, tmp_path):
    """By a ticket."""
    started = secure()
    path = str(tmp_path / "session")
    s_client(started, "-tls1_2", "-sess_out", path, data=b"Q\n")
    said = s_client(started, "-tls1_2", "-sess_in", path, data=b"Q\n")
    assert "Reused, TLSv1.2" in said


# Bad input and faults.


def test_plain_http_on_the_tls_port_is_told_so(secure, caplog):
    """One line in the log."""
    started = secure()
    client = started.raw()
    with caplog.at_level(logging.INFO, "greenchannels"):
        client.send(request())
        answer = client.response()
    assert answer.status == 400
    assert b"HTTPS" in answer.body
    assert client.ended() == "closed"
    (record,) = [r for r in caplog.records if r.name == "greenchannels.net"]
    assert record.levelname == "INFO" and "without TLS" in record.getMessage()
    assert started.counters[FAILED_ONES] == 1


def test_a_handshake_byte_by_byte_is_a_handshake(secure):
    """However slowly it comes, within the head timeout."""
    started = secure()
    client = started.raw()
    for byte in started.hello():
        client.send(bytes([byte]))
        gevent.sleep(0)
    assert client.read(1) == b"\x16"  # the ServerHello


@pytest.mark.parametrize("sent", ["nothing", "half", "hello", "dribble"])
def test_a_handshake_that_stalls_meets_the_head_timeout(secure, sent):
    """Wherever it stops; also when a byte comes now and then."""
    started = secure(timeouts=Timeouts(head_timeout=0.2))
    client = started.raw()
    hello = started.hello()
    start = time.monotonic()
    if sent == "dribble":

        def dribble():
            with contextlib.suppress(OSError):
                for byte in hello:
                    client.sock.sendall(bytes([byte]))
                    gevent.sleep(10 * MS)

        dribbling = gevent.spawn(dribble)
    else:
        client.send({"nothing": b"", "half": hello[:50], "hello": hello}[sent])
    assert client.ended() in ("closed", "reset")
    assert 0.15 < time.monotonic() - start < 2
    client.close()
    until(lambda: not started.server.connections)
    assert started.counters[FAILED_ONES] == 1
    if sent == "dribble":
        dribbling.kill()


def test_the_head_timeout_goes_on_after_the_handshake(secure):
    """One limit for both."""
    started = secure(timeouts=Timeouts(head_timeout=0.3))
    start = time.monotonic()
    client = started.client()
    client.send(b"GET / HT")
    assert client.response().status == 408
    assert time.monotonic() - start < 3
    assert client.ended() == "closed"


RESET_PHASES = [
    "connected",
    "half hello",
    "hello",
    "shaken",
    "half request",
    "request",
    "download",
    "open",
    "half frame",
    "flood",
]


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("phase", RESET_PHASES)
def test_an_end_in_any_phase_ends_one_connection_only(secure, caplog, phase, how):
    """Nothing is left of it, nothing is logged as an error, others go on."""
    started = secure()
    if phase in ("connected", "half hello", "hello"):
        client = started.raw()
        sent = {"connected": 0, "half hello": 40, "hello": 10**6}[phase]
        client.send(started.hello()[:sent])
    else:
        client = started.client(Peer)
        sent = {
            "shaken": b"",
            "half request": b"GET /page HT",
            "request": request("/page"),
            "download": request("/large"),
            "open": handshake("/"),
            "half frame": handshake("/") + frames("x" * 1000)[:500],
            "flood": handshake("/flood"),
        }[phase]
        client.send(sent)
        if phase in ("download", "open", "half frame", "flood"):
            client.read(20)
    gevent.sleep(5 * MS)
    getattr(client, how)()
    until(lambda: not started.server.connections)
    until(lambda: not started.server.consumers)
    other = started.open()
    other.say("still here")
    assert other.hear() == "still here"
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


def test_a_frame_cut_without_close_notify_is_no_message(secure):
    """The consumer sees an end; the cut is counted."""
    got = []

    def note(socket):
        got.extend(socket)

    started = secure([websocket("/", note)])
    peer = started.open()
    peer.say("whole")
    peer.send(frames("cut" * 100)[:50])
    peer.close()
    until(lambda: not started.server.connections)
    until(lambda: not started.server.consumers)
    assert got == ["whole"]
    assert started.counters[CUT] == 1


def test_a_response_ends_with_close_notify(secure):
    """A client can tell it from one that was cut."""
    client = secure().client()
    client.send(request("/page", headers=[("Connection", "close")]))
    assert client.response().status == 200
    assert client.ended() == "closed"


@pytest.mark.parametrize("path", ["/page", "/large"])
@pytest.mark.parametrize("connection", ["keep-alive", "close"])
def test_a_client_that_has_said_goodbye_still_gets_its_answer(secure, path, connection):
    """close_notify is for one direction (RFC 8446, section 6.1)."""
    started = secure()
    wire = Wire(started.raw().sock).shake_hands()
    wire.tls.write(request(path, headers=[("Connection", connection)]))
    wire.say_goodbye()
    head, _, body = wire.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert len(body) == int(re.search(rb"(?i)content-length: (\d+)", head)[1])


def test_many_connect_at_once(secure):
    """All of them are served."""
    started = secure()

    def visit():
        client = started.client()
        client.send(request("/page"))
        return client.response().status

    visits = [gevent.spawn(visit) for _ in range(60)]
    gevent.joinall(visits, timeout=20)
    assert [each.value for each in visits] == [200] * 60
    assert started.counters[DONE] == 60


def test_an_open_socket_goes_on_while_many_shake_hands(secure):
    """Tenfold of what an echo and the slices between its turns take."""
    started = secure()
    peer = started.open()
    hello = started.hello()
    clients = [started.raw() for _ in range(300)]

    def echo_time():
        start = time.perf_counter()
        peer.say("x")
        assert peer.hear() == "x"
        return time.perf_counter() - start

    alone = max(echo_time() for _ in range(20))
    senders = [gevent.spawn(client.send, hello) for client in clients]
    gevent.sleep(0)
    took = []
    done = []
    until_all = gevent.spawn(
        lambda: done.append([client.read(1) for client in clients])
    )
    while not done:
        took.append(echo_time())
    gevent.joinall([*senders, until_all], timeout=5)
    assert len(took) > 3
    assert max(took) < 10 * (alone + 0.005)


# Slow readers.


def test_a_slow_reader_is_closed_with_1013(secure):
    """Whole frames come first; none is cut by what is dropped."""
    started = secure()
    sock = bind_tcp("127.0.0.1", 0)
    sock.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_SNDBUF, 8192)
    started.address = started.server.listen(sock, started.certificates).address
    peer = started.open("/listen", receive_buffer=8192)
    assert peer.hear() == "in"
    talker = started.running.open("/all")
    count = 0
    while not started.counters["closed for being slow"]:
        talker.say("m" * 20_000)
        talker.hear()
        count += 1
        assert count < 500
    assert started.counters["frames dropped for slow members"] > 0
    heard = 0
    while not isinstance(found := peer.hear(), Closed):
        assert found == "m" * 20_000
        heard += 1
    assert found == Closed(1013, "too slow")
    assert heard < count
    peer.frame(CLOSE, b"\x03\xf5")
    assert peer.ended() == "closed"


def test_a_consumer_waits_while_its_reader_is_slow(secure):
    """And goes on when it reads."""
    sent = []

    def busy(socket):
        for n in range(400):
            socket.send(b"%04d" % n * 2500)
            sent.append(n)

    started = secure([websocket("/", busy)])
    peer = started.open(receive_buffer=8192)
    before = -1
    while len(sent) != before:
        before = len(sent)
        gevent.sleep(50 * MS)
    assert 0 < before < 400
    for n in range(400):
        assert peer.hear() == b"%04d" % n * 2500
    assert peer.closing().code == 1000
    assert len(sent) == 400


def test_a_reader_that_stops_is_cut_after_the_write_timeout(secure):
    """However much waits."""
    started = secure(timeouts=Timeouts(write_timeout=0.1))
    started.open("/flood", receive_buffer=8192)
    until(lambda: not started.server.connections)


def test_pings_are_answered_while_the_consumer_is_busy(secure):
    """And records that hold several frames are taken apart."""

    def sleepy(socket):
        socket.send("in")
        gevent.sleep(0.2)
        socket.send("".join(text for text in (socket.receive(), socket.receive())))

    peer = secure([websocket("/", sleepy)]).open()
    assert peer.hear() == "in"
    peer.send(frames("a", "b"))
    peer.frame(9, b"are you there")
    assert peer.next().payload == b"are you there"
    frame = peer.next()
    assert (frame.opcode, frame.payload) == (TEXT, b"ab")


# The drain.


def test_a_drain_says_1012_and_goodbye(secure):
    """To sockets; idle connections and handshakes are closed as well."""
    started = secure()
    peer, idle = started.open(), started.client()
    idle.send(request("/page"))
    idle.response()
    shaking = started.raw()
    shaking.send(started.hello()[:40])
    until(lambda: len(started.server.connections) == 3)
    stopping = gevent.spawn(started.server.stop, 5)
    assert peer.closing() == Closed(1012, "restarting")
    assert peer.ended() == "closed"
    assert idle.ended() == "closed"
    assert shaking.ended() == "closed"
    for client in (peer, idle, shaking):
        client.close()
    stopping.join(timeout=5)
    assert stopping.ready()
    assert not started.server.connections


def test_what_does_not_end_is_reset(secure):
    """Also over TLS."""
    started = secure()
    peer = started.open()
    stopping = gevent.spawn(started.server.stop, 0.5)
    assert peer.hear() == Closed(1012, "restarting")
    assert peer.ended() == "reset"
    stopping.join(timeout=5)
    assert stopping.ready()


def test_reloaded_certificates_are_for_new_connections(secure, tmp_path):
    """Open sockets go on."""
    issue = authority().issue
    files = issue("localhost", folder=tmp_path, label="site")
    started = secure(tls=TLS((files,)))
    peer = started.open()
    serial = peer.sock.getpeercert()["serialNumber"]
    issue("localhost", folder=tmp_path, label="site")
    started.certificates.reload()
    other = started.open()
    assert other.sock.getpeercert()["serialNumber"] != serial
    for each in (peer, other):
        each.say("x")
        assert each.hear() == "x"
