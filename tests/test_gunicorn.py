"""``gunicorn -k greenchannels.gunicorn.Worker``, and a routing on other workers."""

import contextlib
import io
import os
import re
import signal
import textwrap
from pathlib import Path
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

import greenchannels
from greenchannels import http
from tests.certificates import localhost
from tests.cli.processes import Family, lose_one, pages, spread, waited
from tests.cli.test_run import get, opened
from tests.cli.test_tls import connected
from tests.servers.harness import Client, Peer, request

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")

APP = """
    import os
    import flask
    import gevent
    import greenchannels
    from greenchannels import EventStream, Group, ServerOptions, http, websocket, wsgi

    site = flask.Flask("site")

    @site.get("/pid")
    def pid():
        return str(os.getpid())

    @site.get("/version")
    def version():
        return "one"

    @site.get("/multiprocess")
    def multiprocess():
        return str(flask.request.environ["wsgi.multiprocess"])

    @site.post("/echo")
    def echo():
        return flask.request.get_data()[::-1]

    @site.get("/peer")
    def peer():
        return f"{flask.request.remote_addr} {flask.request.scheme}"

    def chat(socket):
        with Group("all").joined(socket) as group:
            socket.send(str(os.getpid()))
            for message in socket:
                group.send(message)

    def stubborn(socket):
        socket.send("in")
        gevent.sleep(600)

    def block(request):
        while True:
            pass

    routing = [
        http("/greeting/<name>", lambda request, name: f"hello {name}"),
        http("/stream", lambda request: (str(n) for n in range(3))),
        http("/events", lambda request: EventStream(map(str, range(3)))),
        http("/block", block),
        http("/fail", lambda request: 1 / 0),
        websocket("/ws", chat),
        websocket("/stubborn", stubborn),
        wsgi("/", site),
    ]
    application = greenchannels.application(routing)
    small = greenchannels.application(
        routing, options=ServerOptions(limits=greenchannels.Limits(max_message=10))
    )
    wrong = ["no application"]
"""


def slowly(*cases):
    """Return parameters that are left out of the short lanes."""
    return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]


OURS = ("-k", "greenchannels.gunicorn.Worker")


@pytest.fixture
def gunicorn(tmp_path):
    """A function that starts gunicorn in a folder with an app."""
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    started = []

    def start(*arguments, app="app:application", bind="127.0.0.1:0"):
        options = ("-b", bind, "--no-control-socket", *arguments, app)
        started.append(Family(tmp_path, "gunicorn", *options))
        return started[-1]

    yield start
    for each in started:
        each.kill()


def up(server, count=1):
    """Wait until so many workers have started; return address and process ids."""
    server.wait_for(rb"(?s)(Booting worker.*){%d}" % count)
    text = server.wait_for(rb"Listening at: (?:https?|unix):/?/?(\S+) ")[1].decode()
    host, _, port = text.rpartition(":")
    address = (host, int(port)) if host else text
    pids = waited(server.workers, lambda found: len(found) >= count)
    if host:  # each of them answers
        waited(lambda: Peer(address).close() or True, bool)
    return address, pids


def test_flask_and_sockets_in_two_workers(gunicorn):
    """Groups reach across; the access log is gunicorn's; SIGTERM tells all."""
    server = gunicorn(*OURS, "-w", "2", "--access-logfile", "-")
    address, pids = up(server, 2)
    assert pages(address, lambda found: len(found) == 2) == {str(p) for p in pids}
    assert get(address, "/multiprocess").body == b"True"
    with spread(address, pids) as peers:
        one, other = peers.values()
        for sender in (one, other):
            sender.say("hello")
            assert [one.hear(), other.hear()] == ["hello", "hello"]
        server.signal(signal.SIGTERM)
        for peer in peers.values():
            assert peer.closing().code == 1012
            assert peer.ended() == "closed"
    code, out, error = server.end()
    assert (code, server.members()) == (0, []), error
    assert "Traceback" not in error and "Warning" not in error, error
    assert re.search(r'127\.0\.0\.1:\d+ - - \[.*\] "GET /pid HTTP/1\.1" 200', out)
    assert out.count('"WSDISCONNECT /ws" 1012') == 2


def test_the_arbiter_has_no_hub(gunicorn):
    """Nor a thread, although it imports the worker's module."""
    server = gunicorn(*OURS, "-w", "2")
    up(server, 2)
    proc = Path(f"/proc/{server.pid}")
    links = [os.readlink(path) for path in (proc / "fd").iterdir()]
    assert not [each for each in links if "event" in each], links
    assert len(list((proc / "task").iterdir())) == 1
    out, error = server.stopped()
    assert out == "" and " - - [" not in error, "no access log was asked for"
    assert "not followed" not in error


def test_a_killed_worker_is_replaced_and_the_others_go_on(gunicorn):
    """Its own sockets end."""
    server = gunicorn(*OURS, "-w", "2")
    address, pids = up(server, 2)
    lose_one(server, address, pids)
    server.stopped()


def test_a_hangup_replaces_the_code(gunicorn, tmp_path):
    """Sockets are told, and no request is refused."""
    server = gunicorn(*OURS, "-w", "2", "--graceful-timeout", "5")
    address, pids = up(server, 2)
    path = tmp_path / "app.py"
    path.write_text(path.read_text().replace('"one"', '"two"'))
    with spread(address, pids) as peers:
        server.signal(signal.SIGHUP)
        for peer in peers.values():
            assert peer.closing().code == 1012
            assert get(address, "/version").body in (b"one", b"two")
    server.wait_for_workers(lambda found: len(found) == 2 and not found & pids)
    for _ in range(4):
        assert get(address, "/version").body == b"two"
    server.stopped()


@pytest.mark.parametrize(
    "number", [signal.SIGQUIT, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_quick_end_tells_sockets_all_the_same(gunicorn, number):
    """And waits for nobody."""
    server = gunicorn(*OURS)
    address, _ = up(server)
    with opened(address, "/stubborn") as peer:
        assert peer.hear() == "in"
        server.signal(number)
        assert peer.closing().code == 1012
        code, _, error = server.end()
    assert (code, server.members()) == (0, []), error
    assert "Traceback" not in error


@pytest.mark.slow
def test_a_stubborn_consumer_does_not_outlive_the_graceful_timeout(gunicorn):
    """The worker exits by itself, before gunicorn kills it."""
    server = gunicorn(*OURS, "--graceful-timeout", "2")
    address, _ = up(server)
    with opened(address, "/stubborn") as peer:
        assert peer.hear() == "in"
        _, error = server.stopped()
    assert "SIGKILL" not in error


def test_a_worker_ends_after_its_requests(gunicorn):
    """Handshakes count; sockets are told; another worker takes its place."""
    server = gunicorn(*OURS, "--max-requests", "5", "--graceful-timeout", "5")
    address, pids = up(server)
    with spread(address, pids) as peers:
        (first,) = pids
        for _ in range(4):
            assert get(address, "/pid").body == str(first).encode()
        assert peers[first].closing().code == 1012
    assert get(address, "/pid").body != str(first).encode()
    server.stopped()


@pytest.mark.slow
def test_a_blocked_worker_is_replaced_and_its_log_says_what_blocked(gunicorn):
    """After gunicorn's --timeout."""
    server = gunicorn(*OURS, "--timeout", "1")
    address, pids = up(server)
    with contextlib.closing(Client(address)) as client:
        client.send(request("/block"))
        server.wait_for(rb"(?s)was blocked, by:.*app\.py.*in block")
    server.wait_for_workers(lambda found: found and not found & pids)
    assert get(address, "/version").body == b"one"
    server.signal(signal.SIGTERM)
    assert server.end()[0] == 0


@pytest.mark.slow
def test_workers_do_not_outlive_the_arbiter(gunicorn):
    """They drain when it has been killed."""
    server = gunicorn(*OURS, "-w", "2")
    address, pids = up(server, 2)
    with spread(address, pids) as peers:
        server.signal(signal.SIGKILL)
        for peer in peers.values():
            assert peer.closing().code == 1012
    waited(server.members, lambda found: not found)


def test_options_of_gunicorn_and_of_the_application(gunicorn):
    """TLS, the number of connections, proxies; and a message's size."""
    chain, key = localhost()
    server = gunicorn(
        *OURS,
        *("--certfile", chain, "--keyfile", key),
        *("--worker-connections", "3", "--forwarded-allow-ips", "127.0.0.1"),
        *("--keep-alive", "75", "--log-level", "debug"),
        app="app:small",
    )
    address, _ = up(server)
    with connected(address, Peer) as peer, connected(address) as client:
        peer.open("/ws")
        peer.say("x" * 11)
        assert peer.closing().code == 1009
        client.send(request("/peer", headers=[("X-Forwarded-For", "203.0.113.9")]))
        assert client.response().body == b"203.0.113.9 https"
        with connected(address) as third:
            third.send(request("/version"))
            assert third.response().body == b"one"
            server.wait_for(rb"accepting pauses: 3 connections")
    server.stopped()


def test_a_unix_socket_and_any_wsgi_application(gunicorn, tmp_path):
    """An application that knows nothing of us is served as well."""
    path = str(tmp_path / "s.sock")
    server = gunicorn(*OURS, app="app:site", bind=f"unix:{path}")
    server.wait_for(rb"Booting worker")
    waited(lambda: os.path.exists(path), bool)
    assert get(path, "/version").body == b"one"
    assert get(path, "/multiprocess").body == b"False"
    assert get(path, "/echo", method="POST", body=b"abc").body == b"cba"
    headers = [("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-Proto", "https")]
    assert get(path, "/peer", headers=headers).body == b"203.0.113.9 https"
    server.stopped()
    assert not os.path.exists(path)


@pytest.mark.parametrize(
    "app, says",
    [
        ("life:application", "no database"),
        ("bad:application", "a routing is a list"),
        *slowly(("app:missing", "Failed to find attribute 'missing'")),
        *slowly(("app:wrong", "must be callable"), ("broken:application", "the cause")),
    ],
)
def test_what_does_not_start_is_not_started_again_and_again(
    gunicorn, tmp_path, app, says
):
    """gunicorn's exit codes for what fails to boot."""
    (tmp_path / "broken.py").write_text("raise LookupError('the cause')\n")
    (tmp_path / "bad.py").write_text(
        "import greenchannels\napplication = greenchannels.application(5)\n"
    )
    (tmp_path / "life.py").write_text(
        "from greenchannels import application as a, lifespan\n"
        "def enter():\n    raise LookupError('no database')\n"
        "application = a([lifespan(enter)])\n"
    )
    server = gunicorn(*OURS, app=app)
    code, _, error = server.end()
    assert code in (3, 4), error
    assert says in error and error.count("Booting worker") == 1
    assert server.members() == []


def call(path, method="GET", body=b"", **more):
    """Call an application as a strict server does; return status, headers, body."""
    routes = [
        http("/size", lambda request: str(len(request.get_data())), methods=["POST"]),
        http("/caf\u00e9/<name>", lambda request, name: f"{name} {request.args['q']}"),
        http("/state", lambda request: ("made", 201, {"X-One": "1"})),
    ]
    app = validator(greenchannels.application(routes))
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": ""}
    environ = {**environ, "SCRIPT_NAME": "", **more}
    environ["wsgi.input"] = io.BytesIO(body)
    if body:
        environ["CONTENT_LENGTH"] = str(len(body))
    setup_testing_defaults(environ)
    written, started = [], []

    def start_response(status, headers, exc_info=None):
        started.append((status, dict(headers)))
        return written.append

    result = app(environ, start_response)
    written.extend(result)
    result.close()
    ((status, headers),) = started
    return status, headers, b"".join(written)


def test_an_application_keeps_to_wsgi():
    """PEP 3333, as the standard library checks it."""
    assert call("/size", "POST", b"x" * 200_000)[2] == b"200000"
    path = "/caf\u00e9/\u20ac".encode().decode("latin-1")
    assert call(path, QUERY_STRING="q=1")[2] == "\u20ac 1".encode()
    status, headers, body = call("/state")
    assert (status, headers["x-one"], body) == ("201 Created", "1", b"made")
    assert call("/size")[0] == "405 Method Not Allowed"
    assert call("/none", SCRIPT_NAME="/below")[0] == "404 Not Found"
    assert call("/state", SCRIPT_NAME="/below")[0] == "201 Created"
    status, _, body = call("/ws", HTTP_UPGRADE="WebSocket")
    assert status == "501 Not Implemented" and body


@pytest.mark.parametrize(
    "worker", ["gevent", "sync", *slowly(("gthread",), ("gevent_pywsgi",))]
)
def test_other_workers_serve_requests_and_perhaps_sockets(gunicorn, worker):
    """Or 501, and one line in the log, however often somebody tries."""
    can = worker.startswith("gevent")
    server = gunicorn("-k", worker)
    address, _ = up(server)
    assert get(address, "/greeting/you?x=y").body == b"hello you"
    assert get(address, "/echo", method="POST", body=b"abc").body == b"cba"
    assert get(address, "/fail").status == 500
    assert get(address, "/greeting/").status == 404
    with contextlib.closing(Client(address)) as client:
        client.send(request("/stream", version="1.0"))
        assert client.rest().endswith(b"\r\n\r\n012")
    events = get(address, "/events").body
    assert events.count(b"data: ") == 3, events
    for _ in range(2):
        with contextlib.closing(Peer(address)) as peer:
            peer.handshake("/ws")
            assert peer.response().status == (101 if can else 501)
    server.signal(signal.SIGTERM)
    code, _, error = server.end()
    assert code == 0, error
    assert error.count("cannot serve it") == (not can)
    assert error.count("Traceback") == 1, error  # of /fail
