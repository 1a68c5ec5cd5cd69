"""
One routing on the WSGI servers that there are: sockets taken over on gevent.

gunicorn's stock workers, ``gevent.pywsgi``, and the handler, the server and the worker
of gevent-websocket. The same chat on each.
"""

import contextlib
import os
import re
import signal
import ssl
import textwrap
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.certificates import client_context, localhost
from tests.cli.processes import Family, lose_one, pages, spread, waited
from tests.cli.test_run import get, opened
from tests.cli.test_tls import connected
from tests.servers.harness import Client, Closed, Peer, frames, handshake, request
from tests.test_gunicorn import gunicorn, up

__all__ = ["gunicorn"]

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")

APP = """
    import os
    import gevent
    import greenchannels
    from greenchannels import Group, Limits, ServerOptions, Timeouts
    from greenchannels import http, lifespan, websocket

    def chat(socket):
        with Group("all").joined(socket) as group:
            socket.send(str(os.getpid()))
            for message in socket:
                group.send(message)

    def facts(socket):
        scope = socket.scope
        socket.send_json([
            scope["path"], scope["root_path"], scope["scheme"],
            scope["client"][0], socket.query.get("q"), socket.headers.get("x-one"),
            scope["extensions"]["greenchannels"].get("multiprocess", False),
        ])

    def late(socket):
        gevent.sleep(0.2)
        socket.accept()
        socket.send(next(iter(socket)))

    def send(request):
        Group("all").send("x" * int(request.args.get("size", "5")))
        return "sent"

    def sockets(request):
        import gc
        found = [type(each).__name__ for each in gc.get_objects()]
        return str(found.count("ServerSocket"))

    def life():
        return contextlib.nullcontext()

    import contextlib

    @contextlib.contextmanager
    def noted():
        with open("life.txt", "a") as file:
            print("entered", file=file)
        yield
        with open("life.txt", "a") as file:
            print("left", file=file)

    routing = [
        http("/pid", lambda request: str(os.getpid())),
        http("/send", send),
        http("/sockets", sockets),
        http("/slots", lambda request: str(len(os.listdir("/proc/self/fd")))),
        websocket("/ws", chat),
        websocket("/facts", facts),
        websocket("/late", late),
        websocket("/reject", lambda socket: socket.reject(418)),
        websocket("/raise", lambda socket: 1 / 0),
        websocket("/speaks", chat, subprotocols=["chat.v2", "chat.v1"]),
        lifespan(noted),
    ]
    application = greenchannels.application(routing)
    brief = greenchannels.application(
        routing, options=ServerOptions(timeouts=Timeouts(close_timeout=0.5))
    )
    small = greenchannels.application(
        routing, options=ServerOptions(limits=Limits(max_message=10))
    )

    def below(environ, start_response):
        environ["SCRIPT_NAME"], path = "/below", environ["PATH_INFO"]
        environ["PATH_INFO"] = path.removeprefix("/below")
        return application(environ, start_response)

    starts = 0

    @contextlib.contextmanager
    def at_second():
        global starts
        starts += 1
        if starts == 1:
            raise LookupError("no database")
        yield

    failing = greenchannels.application([*routing, lifespan(at_second)])
"""

#: A program that serves the application by one of gevent's own servers.
PROGRAM = """
    from gevent import monkey; monkey.patch_all()
    import sys, gevent, signal
    from gevent.pywsgi import WSGIServer
    from app import {app} as application
    {imports}
    server = {server}(("127.0.0.1", 0), application{options})
    server.start()
    gevent.signal_handler(signal.SIGTERM, lambda: gevent.spawn(server.stop, 2))
    print("Listening at: http://127.0.0.1:%d (" % server.server_port, file=sys.stderr)
    sys.stderr.flush()
    server.serve_forever()
"""

#: By name: gunicorn's worker class, or the class, the options and the imports.
GEVENT, PYWSGI = ["-k", "gevent"], ["-k", "gevent_pywsgi"]
HANDLED = ["-k", "geventwebsocket.gunicorn.workers.GeventWebSocketWorker"]
WORKERS = {"gevent": GEVENT, "gevent_pywsgi": PYWSGI, "gevent-websocket": HANDLED}
SERVERS = {
    "pywsgi": ("WSGIServer", "", ""),
    "handler": (
        "WSGIServer",
        ", handler_class=WebSocketHandler",
        "from geventwebsocket.handler import WebSocketHandler",
    ),
    "WebSocketServer": ("WebSocketServer", "", "from geventwebsocket import *"),
}

#: Those that answer a handshake before the application is asked.
ANSWERED = {"gevent-websocket", "handler", "WebSocketServer"}

#: Those on which everything is tried in the short lanes, too.
QUICKLY = {"gevent", "pywsgi", "handler"}


def each(names):
    """Return a mark that has a test run on servers, on some in the long lane only."""
    params = [
        pytest.param(name, marks=[] if name in QUICKLY else [pytest.mark.slow])
        for name in names
    ]
    return pytest.mark.parametrize("name", params)


WORKER = each(WORKERS)
EVERYWHERE = each([*WORKERS, *SERVERS])


@pytest.fixture
def front(gunicorn, tmp_path):
    """A function that starts one of the servers; returns it and its address."""
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    started = []

    def start(name, *arguments, app="application", tls=False):
        if name in WORKERS:
            if tls:
                chain, key = localhost()
                arguments = (*arguments, "--certfile", chain, "--keyfile", key)
            found = gunicorn(*WORKERS[name], *arguments, app=f"app:{app}")
            started.append(found)
            return found, up(found, 1)[0]
        server, options, imports = SERVERS[name]
        if tls:
            options += ", certfile={!r}, keyfile={!r}".format(*localhost())
        text = PROGRAM.format(server=server, options=options, imports=imports, app=app)
        (tmp_path / "program.py").write_text(textwrap.dedent(text))
        found = Family(tmp_path, "program")
        started.append(found)
        listening = found.wait_for(rb"Listening at: http://([\d.]+):(\d+) ")
        return found, (listening[1].decode(), int(listening[2]))

    yield start
    for each in started:
        each.kill()


def ended(server):
    """End a server as one does; return its output, in which nothing went wrong."""
    out, error = server.stopped()
    assert "Error" not in error and "Exception" not in error, error
    return out + error


def well(server, expected=None):
    """End a server at once; nothing has gone wrong in it but what is expected."""
    os.killpg(server.pid, signal.SIGKILL)
    _, _, error = server.end()
    error = error.replace("DeprecationWarning: ssl.PROTOCOL_TLS", "")  # of gevent's
    found = set(re.findall(r"\w+(?:Warning|Error|Exception)\b", error))
    assert found == ({expected} if expected else set()), error


def ended_with_tls(server):
    """End a server at once; only handshakes that never came have failed in it."""
    os.killpg(server.pid, signal.SIGKILL)
    _, _, error = server.end()
    assert error.count("Traceback") == error.count("ssl.SSLEOFError"), error


# The chat.


@WORKER
def test_two_workers_serve_one_chat(front, name, tmp_path):
    """Views send to it, too; sockets leave no line in the access log."""
    server, address = front(name, "-w", "2", "--access-logfile", "-")
    pids = waited(server.workers, lambda found: len(found) == 2)
    assert pages(address, lambda found: len(found) == 2) == {str(p) for p in pids}
    with spread(address, pids) as peers:
        one, other = peers.values()
        for sender in (one, other):
            sender.say("hello")
            assert [one.hear(), other.hear()] == ["hello", "hello"]
        assert get(address, "/send").body == b"sent"
        assert [one.hear(), other.hear()] == ["xxxxx", "xxxxx"]
        server.signal(signal.SIGTERM)
        for peer in peers.values():
            assert peer.closing() == Closed(1012, "restarting")
            assert peer.ended() == "closed"
    text = ended(server)
    assert "/ws" not in text
    assert "/pid" in text or name in ANSWERED, "gevent-websocket logs elsewhere"
    # Each worker entered what it has to, and left it.
    lines = (tmp_path / "life.txt").read_text().splitlines()
    assert sorted(lines) == ["entered"] * 2 + ["left"] * 2


@each(SERVERS)
def test_gevents_own_servers_serve_the_chat(front, name):
    """When the server is stopped, sockets are told."""
    server, address = front(name)
    with opened(address, "/ws") as one, opened(address, "/ws") as other:
        assert [one.hear(), other.hear()] == [str(server.pid)] * 2
        one.say("hello")
        assert [one.hear(), other.hear()] == ["hello", "hello"]
        assert get(address, "/send").body == b"sent"
        assert [one.hear(), other.hear()] == ["xxxxx", "xxxxx"]
        server.signal(signal.SIGTERM)
        for peer in (one, other):
            assert peer.closing() == Closed(1012, "restarting")
            assert peer.ended() == "closed"
    text = ended(server)
    assert "/ws" not in text


@EVERYWHERE
def test_a_client_of_others_speaks_to_it(front, name):
    """Messages of all sizes and both kinds, by the library websockets."""
    server, (host, port) = front(name)
    with connect(f"ws://{host}:{port}/ws") as socket:
        socket.recv(timeout=20)
        for message in ("", "text ä", b"bytes", "x" * 70_000, b"y" * 1_000_000):
            socket.send(message)
            assert socket.recv(timeout=20) == message
    well(server)


@EVERYWHERE
def test_wss_ends_with_a_goodbye_of_tls(front, name):
    """TLS is the other server's."""
    server, address = front(name, tls=True)
    with connected(address, Peer) as one, connected(address, Peer) as other:
        for peer in (one, other):
            peer.open("/ws")
            peer.hear()
        one.say("x" * 300_000)
        assert [len(one.hear()), len(other.hear())] == [300_000] * 2
        one.send_close(1000)
        assert one.hear() == Closed(1000)
        assert one.ended() == "closed"
        other.close()
    with connected(address, Peer) as peer:
        peer.open("/facts?q=%C3%A4", [("X-One", "1")])
        facts = ["/facts", "", "wss", "127.0.0.1", "ä", "1", False]
        assert peer.hear() == str(facts).replace("'", '"').replace(", ", ",").replace(
            "False", "false"
        )
    ended_with_tls(server)


# What is refused.


@EVERYWHERE
def test_refusals_have_a_status_or_what_stands_for_it(front, name):
    """Where the handshake has been answered, a close frame says it."""
    server, address = front(name)
    for path, headers, status in (
        ("/nowhere", [], 404),
        ("/pid", [], 404),
        ("/reject", [], 418),
        ("/raise", [], 500),
        ("/ws", [("Origin", "http://elsewhere.example")], 403),
    ):
        with contextlib.closing(Peer(address)) as peer:
            if name in ANSWERED:
                peer.open(path, headers)
                code = 1011 if status == 500 else 1008
                assert peer.closing() == Closed(code, f"refused with {status}")
            else:
                peer.handshake(path, headers)
                assert peer.response().status == status
            assert peer.ended() == "closed"
    well(server, "ZeroDivisionError")


@EVERYWHERE
def test_rules_and_limits_are_those_of_our_own_server(front, name):
    """Masks, sizes, UTF-8."""
    server, address = front(name, app="small")
    for bad, code in (
        (b"\x81\x01x", 1002),
        (frames("x" * 11), 1009),
        (b"\x81\x81\x00\x00\x00\x00\xff", 1007),
    ):
        with contextlib.closing(Peer(address)) as peer:
            peer.open("/ws")
            peer.send(bad)
            assert peer.closing().code == code
    well(server)


@each(["gevent", "gevent_pywsgi", "pywsgi"])
def test_a_malformed_handshake_gets_the_answer_of_our_own_server(front, name):
    """Two keys, no key, an old version."""
    server, address = front(name)
    good = handshake("/ws")
    for bad, status in (
        (good.replace(b"Version: 13", b"Version: 8"), 426),
        (good.replace(b"Sec-WebSocket-Key", b"X-Key"), 400),
        (good.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Key: again\r\n\r\n"), 400),
    ):
        with contextlib.closing(Client(address)) as client:
            client.send(bad)
            assert client.response().status == status
            assert client.ended() == "closed"
    well(server)


def test_a_worker_without_greenlets_refuses_with_501(gunicorn, tmp_path):
    """And its log says which ones can."""
    server = gunicorn("-k", "gthread")
    address, _ = up(server)
    with contextlib.closing(Peer(address)) as peer:
        peer.handshake("/ws")
        assert peer.response().status == 501
    server.wait_for(rb"refused with 501.*-k gevent")
    server.stopped()


# What a client sends ahead of its turn.


@EVERYWHERE
def test_frames_behind_the_request_are_not_lost(front, name):
    """In one piece with it, and while the consumer decides."""
    server, address = front(name)
    with contextlib.closing(Peer(address)) as peer:
        peer.send(handshake("/late") + frames("early"))
        assert peer.response().status == 101
        assert peer.hear() == "early"
        assert peer.closing().code == 1000
    with contextlib.closing(Peer(address)) as peer:
        peer.send(handshake("/ws") + frames("x" * 20_000, "second"))
        assert peer.response().status == 101
        peer.hear()
        assert [len(peer.hear()), peer.hear()] == [20_000, "second"]
    well(server)


@EVERYWHERE
def test_a_handshake_may_follow_requests_on_its_connection(front, name):
    """As Firefox has it: Connection: keep-alive, Upgrade."""
    server, address = front(name)
    with contextlib.closing(Peer(address)) as peer:
        for _ in range(2):
            peer.send(request("/pid"))
            assert peer.response().status == 200
        peer.send(handshake("/ws").replace(b": Upgrade", b": keep-alive, Upgrade"))
        assert peer.response().status == 101
        peer.hear()
        peer.say("hello")
        assert peer.hear() == "hello"
    well(server)


# The request, as consumers see it.


@each(["gevent", "gevent_pywsgi", "pywsgi"])
def test_an_application_below_a_prefix_of_the_server(front, name):
    """``SCRIPT_NAME`` is the scope's root_path; routes see what is below."""
    server, address = front(name, app="below")
    with opened(address, "/below/facts?q=1") as peer:
        assert (
            peer.hear() == '["/below/facts","/below","ws","127.0.0.1","1",null,false]'
        )
    well(server)


@EVERYWHERE
def test_subprotocols(front, name):
    """gevent-websocket can be told of one for each path, before we are asked."""
    server, address = front(name)
    with contextlib.closing(Peer(address)) as peer:
        answer = peer.open("/speaks", subprotocols=["chat.v1", "chat.v2"])
        assert answer["sec-websocket-protocol"] == "chat.v2"
    with contextlib.closing(Peer(address)) as peer:
        answer = peer.open("/speaks", subprotocols=["other"])
        assert not answer.get("sec-websocket-protocol")
        peer.hear()
    with contextlib.closing(Peer(address)) as peer:
        answer = peer.open("/ws", [("Sec-WebSocket-Extensions", "permessage-deflate")])
        assert bool(answer.get("sec-websocket-extensions")) == (name not in ANSWERED)
        peer.hear()
        peer.say("hello")
        assert peer.hear() == "hello"
    well(server)


# Faults.


@EVERYWHERE
def test_a_member_that_does_not_read_keeps_nobody_waiting(front, name):
    """What waits for it is bounded; then it is closed, and the others go on."""
    server, address = front(name, app="brief")
    stalled = Peer(address, receive_buffer=4096)
    with contextlib.closing(stalled), opened(address, "/ws") as peer:
        stalled.open("/ws")
        peer.hear()
        for _ in range(40):
            get(address, "/send?size=500000")
            assert len(peer.hear()) == 500_000
        waited(lambda: get(address, "/sockets").body, lambda body: body == b"1")
    well(server)


@EVERYWHERE
def test_connections_that_end_in_any_way_leave_nothing(front, name):
    """Closed, reset, half-closed, cut off in the handshake: descriptors come back."""
    server, address = front(name)

    def sockets():
        return int(get(address, "/slots").body)

    with opened(address, "/ws") as peer:
        peer.hear()
    before = waited(sockets, lambda n: n == sockets())
    for _ in range(5):
        with contextlib.closing(Peer(address)) as peer:
            peer.open("/ws")
            peer.send_close()
            peer.ended()
        for end in (Peer.reset, Peer.half_close, Peer.close):
            peer = Peer(address)
            peer.open("/ws")
            peer.hear()
            end(peer)
            if end is Peer.half_close:
                assert peer.ended() == "closed"
                peer.close()
        with contextlib.closing(Peer(address)) as peer:
            peer.handshake("/late")
    waited(sockets, lambda n: n <= before)
    well(server)


@WORKER
def test_each_socket_holds_one_of_the_workers_slots(front, name):
    """At the limit others wait in the kernel until one ends."""
    server, address = front(name, "--worker-connections", "3")
    peers = [Peer(address) for _ in range(3)]
    try:
        for peer in peers:
            peer.open("/ws")
            peer.hear()
        with contextlib.closing(Client(address)) as client:
            client.send(request("/pid"))
            assert client.silent(0.2)
            peers[0].send_close()
            assert client.response().status == 200
    finally:
        for peer in peers:
            peer.close()
    well(server)


@WORKER
@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGINT])
def test_a_quick_end_tells_sockets_all_the_same(front, name, number):
    """And waits for nobody."""
    server, address = front(name)
    with opened(address, "/ws") as peer:
        peer.hear()
        server.signal(number)
        assert peer.closing().code == 1012
        code, _, error = server.end()
    assert (code, server.members()) == (0, []), error
    assert "Traceback" not in error


def test_a_worker_that_has_served_its_requests_tells_its_sockets(front):
    """Without it, they would hold the worker until gunicorn kills it."""
    server, address = front("gevent", "--max-requests", "3")
    before = server.workers()
    with opened(address, "/ws") as peer:
        peer.hear()
        for _ in range(2):
            assert get(address, "/pid").status == 200
        assert peer.closing().code == 1012
    server.wait_for_workers(lambda found: found and not found & before)
    assert get(address, "/pid").status == 200
    ended(server)


@WORKER
def test_a_killed_worker_is_replaced_and_the_others_go_on(front, name):
    """Its own sockets end."""
    server, address = front(name, "-w", "2")
    pids = waited(server.workers, lambda found: len(found) == 2)
    lose_one(server, address, pids)
    well(server)


def test_a_lifespan_that_fails_fails_requests_until_it_works(front):
    """Each is a new attempt."""
    server, address = front("gevent", app="failing")
    assert get(address, "/pid").status == 500
    assert get(address, "/pid").status == 200
    with opened(address, "/ws") as peer:
        peer.hear()
    server.signal(signal.SIGTERM)
    _, _, error = server.end()
    assert error.count("LookupError: no database") == 1


def test_an_application_that_was_imported_before_the_fork(front):
    """Nothing starts in the arbiter."""
    server, address = front("gevent", "-w", "2", "--preload")
    pids = waited(server.workers, lambda found: len(found) == 2)
    with spread(address, pids) as peers:
        one, other = peers.values()
        one.say("hello")
        assert [one.hear(), other.hear()] == ["hello", "hello"]
    well(server)


def test_what_a_worker_does_while_it_drains_is_in_its_log(front):
    """In gunicorn's form."""
    server, address = front("gevent")
    with opened(address, "/ws") as peer:
        peer.hear()
        server.signal(signal.SIGTERM)
        assert peer.closing().code == 1012
    assert re.search(r"\[INFO\] draining: 1 sockets", ended(server))


def test_a_client_with_tls_of_its_own_trusts_the_chain(front):
    """The library websockets over wss."""
    server, (host, port) = front("gevent", tls=True)
    context = client_context(alpn=())
    # Two threads of that client use one SSL object, which CPython does not lock before
    # 3.13; with TLS 1.2 nothing comes while the request is sent.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with connect(f"wss://{host}:{port}/ws", ssl=context) as socket:
        socket.recv(timeout=20)
        socket.send("hello")
        assert socket.recv(timeout=20) == "hello"
    ended_with_tls(server)
