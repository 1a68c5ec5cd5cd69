"""``greenchannels run --workers N``: processes that share a port and their groups."""

import contextlib
import functools
import os
import signal
import socket as stdlib_socket
import tempfile
import textwrap
import time
from collections import Counter
from pathlib import Path

import gevent
import pytest
from gevent.event import Event

from tests.certificates import authority
from tests.cli.processes import Family, pages, spread, waited
from tests.cli.test_run import get, opened
from tests.cli.test_tls import connected, names, options, secure_address
from tests.servers.harness import Client, request

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")

APP = """
    import os
    import gevent
    from greenchannels import Group, http, websocket

    with open("imported", "a") as file:
        file.write(f"{os.getpid()}\\n")

    def chat(socket):
        with Group("all").joined(socket) as group:
            socket.send(str(os.getpid()))
            for message in socket:
                group.send(message)

    def stubborn(socket):
        socket.send("in")
        while True:
            try:
                gevent.sleep(600)
            except Exception:
                pass

    def block(request):
        while True:
            pass

    routing = [
        http("/pid", lambda request: str(os.getpid())),
        http("/version", lambda request: "one"),
        http("/block", block),
        websocket("/ws", chat),
        websocket("/stubborn", stubborn),
    ]
"""


@pytest.fixture
def run(tmp_path):
    """A function that starts workers in a folder with an app."""
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    started = []

    def start(*arguments, workers=2, port="0", app="app", **more):
        if port is not None:
            arguments = ("--port", port, *arguments)
        if workers is not None:
            arguments = ("--workers", str(workers), *arguments)
        command = ("greenchannels", "run", app, *arguments)
        started.append(Family(tmp_path, *command, **more))
        return started[-1]

    yield start
    for each in started:
        each.kill()


def rewrite(folder, old, new, name="app.py"):
    """Change the source of the app."""
    path = folder / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def up(server, count=2):
    """Wait until so many workers are up; return address and process ids."""
    server.wait_for(rb"(?s)(worker \d+ is up.*){%d}" % count)
    return server.address(), server.workers()


def test_workers_share_a_port_and_their_groups(run):
    """Each member hears each message once; SIGTERM tells all and ends all."""
    server = run()
    address, pids = up(server)
    assert len(pids) == 2
    assert pages(address, lambda found: len(found) == 2) == {str(p) for p in pids}
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
    assert error.count("Listening on http://127.0.0.1:") == 1
    assert out.count('"WSDISCONNECT /ws" 1012') == 2


def test_who_looks_after_the_workers_has_neither_app_nor_hub(run, tmp_path):
    """Only workers import the application; the arbiter has no event loop or thread."""
    server = run("--layer", "memory://")
    _, pids = up(server)
    imported = (tmp_path / "imported").read_text().split()
    assert sorted(imported) == sorted(map(str, pids))
    proc = Path(f"/proc/{server.pid}")
    links = [os.readlink(path) for path in (proc / "fd").iterdir()]
    assert not [each for each in links if "event" in each], links
    assert len(list((proc / "task").iterdir())) == 1
    worker = Path(f"/proc/{pids.pop()}")
    links = [os.readlink(path) for path in (worker / "fd").iterdir()]
    assert [each for each in links if "event" in each], links
    server.stopped()


def test_a_killed_worker_is_replaced_and_the_others_go_on(run):
    """Its own sockets end; those of others hear each other and the newcomer's."""
    server = run()
    address, pids = up(server)
    with spread(address, pids) as peers:
        victim, survivor = pids
        os.kill(victim, signal.SIGKILL)
        assert peers[victim].ended() in ("closed", "reset")
        peers[survivor].say("alone")
        assert peers[survivor].hear() == "alone"
        now = server.wait_for_workers(lambda w: len(w) == 2 and victim not in w)
        up(server, 3)
        (newcomer,) = now - {survivor}
        with spread(address, {newcomer}) as more:
            more[newcomer].say("together")
            assert more[newcomer].hear() == "together"
            assert peers[survivor].hear() == "together"
    server.stopped()


def test_a_hangup_replaces_the_code_and_refuses_nobody(run, tmp_path):
    """Worker by worker: sockets are told, requests are answered all the time."""
    server = run("--drain", "5")
    address, pids = up(server)
    rewrite(tmp_path, '"one"', '"two"')
    with spread(address, pids) as peers:
        server.signal(signal.SIGHUP)
        versions = [get(address, "/version").body]
        while not server.workers().isdisjoint(pids) and len(versions) < 10_000:
            versions.append(get(address, "/version").body)
            for pid, peer in tuple(peers.items()):
                if pid not in server.workers() or not peer.silent(0.001):
                    assert peer.closing().code == 1012
                    peers.pop(pid).close()
        assert set(versions) <= {b"one", b"two"}
        for peer in peers.values():
            assert peer.closing().code == 1012
    for _ in range(5):
        assert get(address, "/version").body == b"two"
    assert len(server.wait_for_workers(lambda found: len(found) == 2)) == 2
    server.stopped()


def test_code_that_does_not_work_replaces_nothing(run, tmp_path):
    """The old workers stay, with their sockets; the next hangup is another chance."""
    server = run()
    address, pids = up(server)
    with spread(address, pids) as peers:
        rewrite(tmp_path, '"one"', '("two"')
        server.signal(signal.SIGHUP)
        server.wait_for(rb"did not start; the others stay")
        assert server.workers() == pids
        rewrite(tmp_path, '("two"', '"two"')
        for peer in peers.values():
            peer.say("still there")
            assert peer.hear() == "still there"
            assert [p.hear() for p in peers.values() if p is not peer] == [
                "still there"
            ]
        server.signal(signal.SIGHUP)
        for peer in peers.values():
            assert peer.closing().code == 1012
    server.wait_for_workers(lambda found: len(found) == 2 and not found & pids)
    assert get(address, "/version").body == b"two"
    server.signal(signal.SIGTERM)
    code, _, error = server.end()
    assert code == 0, error
    assert "SyntaxError" in error and server.members() == []


@pytest.mark.slow
def test_a_dead_worker_is_not_replaced_in_a_hurry_by_what_does_not_start(run, tmp_path):
    """The others serve; there is a pause between attempts, and it ends by itself."""
    server = run()
    address, pids = up(server)
    rewrite(tmp_path, '"one"', "1/0")
    rewrite(tmp_path, "routing = [", "1/0\nrouting = [")
    victim, survivor = pids
    os.kill(victim, signal.SIGKILL)
    server.wait_for(rb"did not start")
    assert {get(address).status for _ in range(5)} == {404}
    assert server.error.count(b"did not start") <= 2
    rewrite(tmp_path, "1/0\nrouting = [", "routing = [")
    server.wait_for_workers(lambda found: len(found) == 2)
    up(server, 3)
    assert survivor in server.workers()
    server.signal(signal.SIGTERM)
    assert server.end()[0] == 0


def test_workers_become_more_and_fewer_by_signals(run):
    """SIGTTIN, SIGTTOU, and never fewer than one."""
    server = run("--drain", "1")
    address, pids = up(server)
    server.signal(signal.SIGTTIN)
    up(server, 3)
    now = server.wait_for_workers(lambda found: len(found) == 3)
    assert pids < now
    with spread(address, now) as peers:
        server.signal(signal.SIGTTOU)
        (left,) = now - server.wait_for_workers(lambda found: len(found) == 2)
        assert peers[left].closing().code == 1012
        for _ in range(2):
            server.signal(signal.SIGTTOU)
            time.sleep(0.2)  # two signals at once are one
        (last,) = server.wait_for_workers(lambda found: len(found) == 1)
        for pid in now - {left, last}:
            assert peers[pid].closing().code == 1012
        peers[last].say("still there")
        assert peers[last].hear() == "still there"
    server.stopped()


def test_a_stubborn_consumer_does_not_outlive_the_drain(run):
    """Whatever it does, all ends in time and with exit code 0."""
    server = run("--drain", "1")
    address, _ = up(server)
    with opened(address, "/stubborn") as peer:
        assert peer.hear() == "in"
        start = time.monotonic()
        server.signal(signal.SIGTERM)
        assert peer.closing().code == 1012
        code, _, error = server.end()
    assert (code, server.members()) == (0, []), error
    assert time.monotonic() - start < 10
    assert "Traceback" not in error


def test_ctrl_c_drains_and_a_second_one_ends_at_once(run):
    """Although the terminal sends it to the workers, too."""
    server = run()
    address, _ = up(server)
    with opened(address, "/stubborn") as peer:
        assert peer.hear() == "in"
        os.killpg(server.pid, signal.SIGINT)
        assert peer.closing().code == 1012
        os.killpg(server.pid, signal.SIGINT)
        code, _, error = server.end()
    assert (code, server.members()) == (130, []), error
    assert "Stopping." in error and "Traceback" not in error
    assert error.endswith("Stopped without waiting.\n")


def test_a_port_in_use_is_one_line_and_exit_code_1(run):
    """As without workers; none is started."""
    with contextlib.closing(stdlib_socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, out, error = run(port=str(taken.getsockname()[1])).end()
    assert (code, out) == (1, ""), error
    (line,) = error.splitlines()
    assert "in use" in line


@pytest.mark.parametrize(
    "app, code, lines, says",
    [
        ("missing:routing", 2, 1, "no module named 'missing'"),
        ("app:missing", 2, 1, "has no 'missing'"),
        ("broken", 2, None, "LookupError: the cause"),
        ("life", 1, None, "no database"),
    ],
)
def test_an_app_that_does_not_work_is_explained_once(
    run, tmp_path, app, code, lines, says
):
    """By one worker, with the exit codes of a single process, and no restart."""
    (tmp_path / "broken.py").write_text("raise LookupError('the cause')\n")
    (tmp_path / "life.py").write_text(
        "from greenchannels import lifespan\n"
        "def enter():\n    raise LookupError('no database')\n"
        "routing = [lifespan(enter)]\n"
    )
    path = tmp_path / "s.sock"
    server = run("--unix", str(path), workers=3, app=app, port=None)
    found, out, error = server.end()
    assert (found, out) == (code, ""), error
    assert says in error.splitlines()[-1]
    assert error.count("Error: ") - error.count("LookupError: ") == 1
    if lines is not None:
        assert len(error.splitlines()) == lines
    assert not path.exists() and server.members() == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_layer_that_cannot_start_is_one_line(run, tmp_path, workers):
    """Exit code 2 for a folder that is open to others, 1 for one that cannot be."""
    with tempfile.TemporaryDirectory(prefix="gc-", dir="/tmp") as above:
        os.mkdir(f"{above}/greenchannels")
        os.chmod(f"{above}/greenchannels", 0o755)
        for name, code, says in (
            ("x", 2, "its mode is 755"),
            (f"{above}/none/x", 1, f"'{above}/none/x'"),
        ):
            server = run(
                *("--layer", f"ipc://{name}"),
                workers=workers,
                env={"XDG_RUNTIME_DIR": above},
            )
            found, out, error = server.end()
            assert (found, out, server.members()) == (code, "", []), error
            (line,) = error.splitlines()
            assert line.startswith("Error: ") and says in line


@pytest.mark.parametrize("workers", [1, 2])
def test_wsgi_applications_know_whether_there_are_other_processes(
    run, tmp_path, workers
):
    """``wsgi.multiprocess``; also behind middleware, in views, and in sockets."""
    (tmp_path / "hosted.py").write_text(
        textwrap.dedent(
            """
            from greenchannels import http, include, wsgi

            def app(environ, start_response):
                text = str(environ["wsgi.multiprocess"])
                if "wsgi.websocket" in environ:
                    environ["wsgi.websocket"].send(text)
                    return []
                start_response("200 OK", [])
                return [text.encode()]

            def through(inner):
                return lambda scope, receive, send: inner(scope, receive, send)

            def view(request):
                return str(request.environ["wsgi.multiprocess"])

            routing = [
                http("/view", view),
                include("/inner", [wsgi("/", app)], middleware=[through]),
                wsgi("/", app, websocket=True),
            ]
            """
        )
    )
    server = run(app="hosted", workers=workers)
    address = server.address()
    expected = str(workers > 1)
    for path in ("/view", "/inner/", "/"):
        assert get(address, path).body.decode() == expected, path
    with opened(address) as peer:
        assert peer.hear() == expected
    server.stopped()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--workers", "0"],
        ["--workers", "2", "--reload"],
        ["--max-requests-jitter", "5"],
        ["--workers", "2", "--proxy", "not a network"],
        ["--workers", "2", "--access-log", "/no/such/folder/log"],
    ],
    ids=" ".join,
)
def test_bad_options_are_explained_with_exit_code_2(run, arguments):
    """Before anything is started."""
    code, out, error = run(*arguments, workers=None).end()
    assert (code, out) == (2, ""), error
    assert error.strip() and "Traceback" not in error


def test_the_pid_file(run, tmp_path):
    """The arbiter's, or the only process's; a second server is refused."""
    path = tmp_path / "server.pid"
    for workers, other in ((None, 2), (2, None)):
        server = run("--pid", str(path), workers=workers)
        server.address()
        assert int(path.read_text()) == server.pid
        code, _, error = run("--pid", str(path), workers=other).end()
        assert code == 1, error
        (line,) = error.splitlines()
        assert str(server.pid) in line
        server.stopped()
        assert not path.exists()


def test_a_worker_is_replaced_after_its_requests(run):
    """The next one is up before it goes; its sockets are told."""
    server = run("--max-requests", "20", "--drain", "1", workers=1)
    address, pids = up(server, 1)
    (first,) = pids
    with spread(address, pids) as peers:
        answers = pages(address, lambda found: len(found) == 3)
        assert str(first) in answers
        assert peers[first].closing().code == 1012
    server.wait_for_workers(lambda found: first not in found)
    server.stopped()


def test_a_blocked_worker_is_replaced_and_its_log_says_what_blocked(run):
    """After --worker-timeout; others are not concerned."""
    server = run("--worker-timeout", "1")
    address, pids = up(server)
    with contextlib.closing(Client(address)) as client, spread(address, pids) as peers:
        client.send(request("/block"))
        server.wait_for(rb"(?s)was blocked, by:.*app\.py.*in block")
        now = server.wait_for_workers(lambda w: len(w) == 2 and w != pids)
        (survivor,) = now & pids
        peers[survivor].say("fine")
        assert peers[survivor].hear() == "fine"
    server.signal(signal.SIGTERM)
    assert server.end()[0] == 0


@pytest.mark.slow
def test_a_stopped_worker_is_replaced(run):
    """After --worker-timeout, by another; its sockets end."""
    server = run("--worker-timeout", "1")
    address, pids = up(server)
    victim, survivor = pids
    with spread(address, pids) as peers:
        os.kill(victim, signal.SIGSTOP)
        server.wait_for_workers(lambda w: len(w) == 2 and victim not in w)
        assert peers[victim].ended() in ("closed", "reset")
        peers[survivor].say("fine")
        assert peers[survivor].hear() == "fine"
    server.stopped()


@pytest.mark.slow
def test_members_elsewhere_miss_nothing_when_a_worker_is_killed(run):
    """Round after round: who is in another worker hears all of a third one's."""
    server = run("--access-log", "off", workers=3)
    address, pids = up(server, 3)
    for victim in sorted(pids):
        with spread(address, server.workers()) as peers:
            listener, sender = (p for pid, p in peers.items() if pid != victim)
            for n in range(300):
                sender.say(str(n))
                if n == 100:
                    os.kill(victim, signal.SIGKILL)
                assert sender.hear() == str(n)
            assert [listener.hear() for _ in range(300)] == [str(n) for n in range(300)]
        server.wait_for_workers(lambda w, gone=victim: len(w) == 3 and gone not in w)
        address, _ = up(server, server.error.count(b"is up") + 1)
    server.stopped()


@pytest.mark.slow
def test_nobody_is_refused_while_workers_are_replaced_under_load(run):
    """Each connection is accepted, and its request answered, at any rate."""
    server = run("--access-log", "off")
    address, pids = up(server)
    stop, statuses = Event(), Counter()

    def ask():
        while not stop.is_set():
            with contextlib.closing(Client(address)) as client:
                client.send(request("/version", headers=[("Connection", "close")]))
                statuses[client.response(seconds=20).status] += 1

    clients = [gevent.spawn(ask) for _ in range(20)]
    for _ in range(3):
        server.signal(signal.SIGHUP)
        while not server.workers().isdisjoint(pids):
            gevent.sleep(0.02)
        pids = server.workers()
    stop.set()
    gevent.joinall(clients, raise_error=True)
    assert set(statuses) == {200} and statuses[200] > 500
    server.stopped()


def test_workers_do_not_outlive_who_looks_after_them(run):
    """They drain when the arbiter has been killed."""
    server = run()
    address, pids = up(server)
    with spread(address, pids) as peers:
        server.signal(signal.SIGKILL)
        for peer in peers.values():
            assert peer.closing().code == 1012
    waited(server.members, lambda found: not found)


def test_a_unix_socket_stays_while_workers_come_and_go(run, tmp_path):
    """Its file is removed at the end, by the arbiter."""
    path = str(tmp_path / "s.sock")
    server = run("--unix", path, "--unix-mode", "600", port=None)
    address, pids = up(server)
    assert address == path and os.stat(path).st_mode & 0o777 == 0o600
    server.signal(signal.SIGHUP)
    server.wait_for_workers(lambda found: len(found) == 2 and not found & pids)
    assert get(path, "/version").body == b"one"
    server.stopped()
    assert not os.path.exists(path)


def test_https_by_workers_reads_certificates_again_at_a_hangup(run, tmp_path):
    """The new workers have what is in the files then."""

    def issue(name):
        return authority().issue("localhost", name, folder=tmp_path, label="site")

    def names_served():
        with connected(address) as client:
            client.send(request("/version"))
            assert client.response().body == b"one"
            return names(client)

    server = run(*options(issue("first.example")))
    address = secure_address(server)
    assert "first.example" in names_served()
    issue("second.example")
    server.signal(signal.SIGHUP)
    waited(names_served, lambda found: "second.example" in found)
    server.stopped()


def test_sockets_of_systemd_are_served_by_all_workers(run):
    """They stay open when the workers have gone: they are the launcher's."""
    with contextlib.closing(stdlib_socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        server = run(port=None, socks=[sock])
        address, pids = up(server)
        assert address == sock.getsockname()
        assert pages(address, lambda found: len(found) == 2) == set(map(str, pids))
        server.stopped()
        Client(address).close()


def test_a_changed_source_is_served_again(run, tmp_path):
    """Its sockets are told; code that does not work is shown, and mended."""
    server = run("--reload", workers=None)
    address, _ = up(server, 1)
    with opened(address, "/ws") as peer:
        peer.hear()
        rewrite(tmp_path, '"one"', '"two"')
        assert peer.closing().code == 1012
    shown = functools.partial(pages, address, path="/version", tries_again=True)
    shown(lambda found: "two" in found)
    rewrite(tmp_path, '"two"', '("two"')
    shown(lambda found: any("SyntaxError" in page for page in found))
    rewrite(tmp_path, '("two"', '"six"')
    shown(lambda found: "six" in found)
    server.signal(signal.SIGTERM)
    code, _, error = server.end()
    assert (code, server.members()) == (0, []), error


def test_one_worker_is_no_worker(run):
    """The default is one process, whose signals and messages are as ever."""
    for workers in (None, 1):
        server = run(workers=workers)
        assert get(server.address(), "/pid").body == str(server.pid).encode()
        assert server.workers() == set()
        with opened(server.address(), "/ws") as peer:
            peer.hear()
            server.signal(signal.SIGHUP)
            assert peer.closing().code == 1012
        assert server.end()[0] == 0
