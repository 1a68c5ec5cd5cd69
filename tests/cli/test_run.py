"""``greenchannels run`` as a process: starting, serving, logging, ending."""

import contextlib
import os
import re
import select
import signal
import socket as stdlib_socket
import subprocess
import sys
import textwrap
import time

import pytest

from tests.servers.harness import Client, Closed, Peer, request

APP = """
    import time
    import gevent
    from greenchannels import Group, http, websocket

    def echo(socket):
        with Group("all").joined(socket) as group:
            for message in socket:
                if message == "raise":
                    raise LookupError("the consumer's cause")
                group.send(message)

    def stubborn(socket):
        socket.send("in")
        gevent.sleep(600)

    def slow(request):
        gevent.sleep(0.5)
        return "finished"

    def fail(request):
        raise LookupError("the view's cause")

    routing = [
        websocket("/", echo),
        websocket("/deep/<name>", lambda socket, name: socket.wait()),
        websocket("/stubborn", stubborn),
        http("/", lambda request: "page"),
        http("/slow", slow),
        http("/fail", fail),
    ]
    number = 5
    numbers = [1, 2]

    class holder:
        routing = routing
"""


class Process:
    """A ``greenchannels run`` that is read line by line."""

    def __init__(self, folder, *arguments, app="app:routing", env=None, prefix=()):
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "greenchannels", "run", app, *arguments],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.getcwd(), **(env or {})},
        )
        self.error = b""

    def address(self):
        """Wait for the line that says where it listens."""
        found = self.wait_for(rb"Listening on (?:http://([\d.]+):(\d+)|unix:(\S+))")
        if found[3]:
            return found[3].decode()
        return found[1].decode(), int(found[2])

    def wait_for(self, pattern, seconds=20):
        """Read the standard error until it has ``pattern``."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.error)):
            left = end - time.monotonic()
            assert left > 0, self.error
            if select.select([self.process.stderr], [], [], left)[0]:
                data = os.read(self.process.stderr.fileno(), 65536)
                assert data, self.error
                self.error += data
        return found

    def signal(self, number):
        """Send a signal."""
        self.process.send_signal(number)

    def end(self, seconds=20):
        """Wait for the end; return exit code, standard output and error."""
        out, error = self.process.communicate(timeout=seconds)
        return self.process.returncode, out.decode(), (self.error + error).decode()


@pytest.fixture
def run(tmp_path):
    """A function that starts the command in a folder with an app."""
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    started = []

    def start(*arguments, port="0", **options):
        if port is not None:
            arguments = ("--port", port, *arguments)
        started.append(Process(tmp_path, *arguments, **options))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.communicate()


@contextlib.contextmanager
def opened(address, path="/"):
    """Return a WebSocket client, for as long as the block lasts."""
    peer = Peer(address)
    try:
        peer.open(path)
        yield peer
    finally:
        peer.close()


def get(address, path="/", **options):
    """Return the response to one request."""
    client = Client(address)
    try:
        client.send(request(path, **options))
        return client.response()
    finally:
        client.close()


def test_it_serves_sockets_and_pages_and_ends_by_sigterm(run):
    """Exit code 0, and everything about the life of each connection is noted."""
    server = run()
    address = server.address()
    assert get(address).body == b"page"
    with opened(address) as one, opened(address) as other:
        one.say("hello")
        assert [one.hear(), other.hear()] == ["hello", "hello"]
        one.send_close(3001)
        assert one.hear() == Closed(3001)
        server.signal(signal.SIGTERM)
        assert other.closing().code == 1012
    code, out, error = server.end()
    assert code == 0, error
    assert "Traceback" not in error
    lines = out.splitlines()
    start = r"127\.0\.0\.1:\d+ - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "
    assert all(re.match(start, line) for line in lines), lines
    assert re.search(r'"GET / HTTP/1.1" 200 4 \d+\.\d{3}$', lines[0])
    assert sum('"WSCONNECT /" 101' in line for line in lines) == 2
    ends = [line for line in lines if "WSDISCONNECT" in line]
    assert re.search(r'"WSDISCONNECT /" 3001 - \d+\.\d{3}$', ends[0])
    assert re.search(r'"WSDISCONNECT /" 1012 - \d+\.\d{3}$', ends[1])


def test_ctrl_c_drains_and_a_second_one_ends_at_once(run):
    """The first waits for those who do not answer, the second for nobody."""
    server = run()
    with opened(server.address(), "/stubborn") as peer:
        assert peer.hear() == "in"
        server.signal(signal.SIGINT)
        assert peer.hear() == Closed(1012, "restarting")
        start = time.monotonic()
        server.signal(signal.SIGINT)
        code, _, error = server.end()
        assert time.monotonic() - start < 5
        assert code != 0
        assert "Traceback" not in error


def test_a_single_ctrl_c_ends_with_exit_code_0(run):
    """As SIGTERM does."""
    server = run()
    server.address()
    server.signal(signal.SIGINT)
    code, _, error = server.end()
    assert (code, "Traceback" in error) == (0, False)


def test_the_whole_drain_ends_within_its_bound(run):
    """Neither a silent peer nor a consumer that sleeps holds it up."""
    server = run("--drain", "1")
    with opened(server.address(), "/stubborn") as peer:
        assert peer.hear() == "in"
        start = time.monotonic()
        server.signal(signal.SIGTERM)
        assert peer.hear().code == 1012
        assert peer.ended() == "reset"
        code, _, error = server.end()
        assert time.monotonic() - start < 4
        assert code == 0, error


def test_a_request_in_flight_finishes_before_the_end(run):
    """Its answer is whole."""
    server = run()
    client = Client(server.address())
    try:
        client.send(request("/slow"))
        time.sleep(0.1)
        server.signal(signal.SIGTERM)
        assert client.response().body == b"finished"
    finally:
        client.close()
    assert server.end()[0] == 0


def test_a_port_in_use_is_one_clear_line_and_exit_code_1(run):
    """Not a traceback."""
    with contextlib.closing(stdlib_socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, error = run(port=str(port)).end()
    assert code == 1
    (line,) = error.splitlines()
    assert str(port) in line and "in use" in line
    assert out == ""


@pytest.mark.parametrize("host", ["203.0.113.1", "no.such.host.invalid"])
def test_an_address_that_is_not_ours_is_one_clear_line_and_exit_code_1(run, host):
    """Likewise."""
    code, _, error = run("--host", host).end()
    assert code == 1
    (line,) = error.splitlines()
    assert host in line


@pytest.mark.parametrize(
    "app, says",
    [
        ("missing:routing", "missing"),
        ("app:missing", "missing"),
        ("app.missing:routing", "missing"),
        ("app:number", "routing"),
        ("app:numbers", "route"),
        ("app/routing", "module"),
        ("", "module"),
    ],
)
def test_what_is_no_routing_is_one_clear_line_and_exit_code_2(run, app, says):
    """Module, attribute, or what it is."""
    code, out, error = run(app=app).end()
    assert code == 2, error
    (line,) = error.splitlines()
    assert says in line
    assert out == ""


def test_an_app_may_be_named_in_other_ways(run):
    """The module alone, or something deeper."""
    for app in ("app", "app:holder.routing"):
        assert get(run(app=app).address()).body == b"page"


@pytest.mark.parametrize(
    "source, says",
    [
        ("def f():\n    raise KeyError('cause')\nf()\n", "KeyError"),
        ("import no_such_module\n", "no_such_module"),
        ("def f(:\n", "SyntaxError"),
        ("raise SystemExit(3)\n", "SystemExit"),
    ],
)
def test_an_app_that_raises_has_its_traceback_and_one_line(run, tmp_path, source, says):
    """Exit code 2; the traceback shows the app's lines and nobody else's."""
    (tmp_path / "broken.py").write_text(source)
    code, _, error = run(app="broken:routing").end()
    assert code == 2
    last = error.splitlines()[-1]
    assert says in last and "broken" in last
    assert 'broken.py", line' in error
    assert "importlib" not in error
    assert f"greenchannels{os.sep}cli" not in error


def test_wrong_routes_are_explained(run, tmp_path):
    """ConfigurationError of the app's own lines, with its traceback."""
    source = "from greenchannels import http\nrouting = [http('no-slash', print)]\n"
    (tmp_path / "wrong.py").write_text(source)
    code, _, error = run(app="wrong").end()
    assert code == 2
    assert "a path begins with '/'" in error.splitlines()[-1]


def test_a_lifespan_that_fails_is_exit_code_1(run, tmp_path):
    """Its traceback, and one line; nothing was served, nothing is left."""
    source = """
        from contextlib import contextmanager
        from greenchannels import lifespan

        @contextmanager
        def broken():
            raise LookupError("no database")
            yield

        routing = [lifespan(broken)]
    """
    (tmp_path / "life.py").write_text(textwrap.dedent(source))
    path = tmp_path / "s.sock"
    code, _, error = run("--unix", str(path), app="life").end()
    assert code == 1
    assert "no database" in error.splitlines()[-1]
    assert "Traceback" in error
    assert not path.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--max-message", "2m", "--max-body", "1g", "--max-head", "64KiB"],
        ["--max-message", "none", "--ping-interval", "none", "--drain", "none"],
        ["--max-message", "65536", "--ping-interval", "0.5", "--max-inbox", "5"],
        ["--proxy", "10.0.0.0/8", "--proxy", "unix", "--origin", "*"],
        ["--max-connections", "none", "--log-level", "warning", "--debug"],
    ],
)
def test_options_are_understood(run, arguments):
    """Sizes with units, durations, none, repetition."""
    assert get(run(*arguments).address()).body == b"page"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--max-message", "2x"],
        ["--max-message", "-1"],
        ["--max-message", "0"],
        ["--max-message", ""],
        ["--ping-interval", "-1"],
        ["--ping-interval", "soon"],
        ["--ping-interval", "nan"],
        ["--ping-interval", "inf"],
        ["--ping-interval", "0"],
        ["--drain", "-1"],
        ["--max-connections", "0"],
        ["--port", "70000"],
        ["--port", "x"],
        ["--proxy", "not a network"],
        ["--origin", "http://a/b"],
        ["--layer", "carrier-pigeon://"],
        ["--log-level", "loud"],
        ["--no-such-option"],
        ["--access-log", "/no/such/folder/log"],
    ],
    ids=" ".join,
)
def test_bad_options_are_explained_with_exit_code_2(run, arguments):
    """And never by a traceback."""
    code, out, error = run(*arguments).end()
    assert code == 2, error
    assert "Traceback" not in error
    assert error.strip()
    assert out == ""


def test_an_option_reaches_the_engine(run):
    """--max-message is what the peer meets."""
    server = run("--max-message", "10")
    with opened(server.address()) as peer:
        peer.say("x" * 11)
        assert peer.closing().code == 1009


def test_help_is_readable():
    """Every limit has its option, its default and a sentence."""
    run = [sys.executable, "-m", "greenchannels"]
    top = subprocess.run([*run, "--help"], capture_output=True, text=True, check=True)
    assert "run" in top.stdout
    found = subprocess.run(
        [*run, "run", "-h"], capture_output=True, text=True, check=True
    ).stdout
    for option, default in [
        ("--max-message", "1m"),
        ("--max-head", "64k"),
        ("--max-inbox", "100"),
        ("--ping-interval", "20"),
        ("--drain", "25"),
        ("--keep-alive", "75"),
        ("--port", "8000"),
        ("--max-connections", "10000"),
    ]:
        text = found[found.index(option) :]
        assert f"[default: {default}" in " ".join(text.split())[:160], option
    for option in [
        "--host",
        "--unix",
        "--log-level",
        "--access-log",
        "--proxy",
        "--origin",
        "--debug",
    ]:
        assert option in found
    assert max(map(len, found.splitlines())) <= 100


def test_a_unix_socket_is_served_and_removed_at_the_end(run, tmp_path):
    """Requests and sockets; the log has no address for them."""
    path = str(tmp_path / "s.sock")
    server = run("--unix", path)
    assert server.address() == path
    assert get(path).body == b"page"
    with opened(path) as peer:
        peer.say("x")
        assert peer.hear() == "x"
        peer.send_close()
        peer.closing()
    server.signal(signal.SIGTERM)
    code, out, error = server.end()
    assert code == 0, error
    assert not os.path.exists(path)
    assert out.startswith("unix - - [")


def test_a_stale_unix_socket_is_replaced_and_a_live_one_is_not(run, tmp_path):
    """One clear line and exit code 1 when somebody listens."""
    path = str(tmp_path / "s.sock")
    stale = stdlib_socket.socket(stdlib_socket.AF_UNIX)
    stale.bind(path)
    stale.close()
    server = run("--unix", path)
    assert get(server.address()).body == b"page"
    code, _, error = run("--unix", path).end()
    assert code == 1
    (line,) = error.splitlines()
    assert path in line
    assert get(path).body == b"page"
    (tmp_path / "file").write_text("precious")
    code, _, error = run("--unix", str(tmp_path / "file")).end()
    assert code == 1 and len(error.splitlines()) == 1
    assert (tmp_path / "file").read_text() == "precious"


def test_the_access_log_can_go_to_a_file_or_nowhere(run, tmp_path):
    """Each line at once; appended to what is there."""
    path = tmp_path / "access.log"
    path.write_text("before\n")
    server = run("--access-log", str(path))
    get(server.address())
    for _ in range(100):
        if len(lines := path.read_text().splitlines()) == 2:
            break
        time.sleep(0.02)
    assert lines[0] == "before" and '"GET / HTTP/1.1" 200' in lines[1]
    server.signal(signal.SIGTERM)
    assert server.end()[1] == ""
    server = run("--access-log", "off")
    get(server.address())
    server.signal(signal.SIGTERM)
    assert server.end()[1] == ""


def test_the_access_log_is_written_at_once(run):
    """Although the standard output is a pipe: whoever reads it reads along."""
    server = run()
    get(server.address())
    assert select.select([server.process.stdout], [], [], 5)[0]
    assert b'"GET / HTTP/1.1" 200' in os.read(server.process.stdout.fileno(), 65536)


def test_nobody_writes_lines_of_his_own_into_the_logs(run):
    """Line breaks in paths and fields are escaped, on both streams."""
    server = run("--log-level", "debug")
    address = server.address()
    path = "/deep/x%0d%0a%1b[31mforged%22"
    with opened(address, path) as peer:
        peer.send_close()
        peer.closing()
    with opened(address, path) as peer:
        peer.send(b"\x81\x01x")
        peer.closing()
    for wrong in (path + "/y", path):
        peer = Peer(address)
        peer.handshake(wrong, [("Origin", "http://evil%0aforged\tx")])
        assert peer.response().status in (403, 404)
        peer.close()
    get(address, path)
    server.signal(signal.SIGTERM)
    _, out, error = server.end()
    for line in (out + error).splitlines():
        assert not line.lstrip("\x1b[31m").startswith("forged"), line
        assert "\x1b" not in line
    assert '"WSCONNECT /deep/x\\x0d\\x0a\\x1b[31mforged\\x22" 101' in out


def test_failures_are_in_the_log_with_their_tracebacks(run):
    """On the standard error; what peers and browsers get does not tell."""
    server = run()
    address = server.address()
    answer = get(address, "/fail")
    assert answer.status == 500 and b"cause" not in answer.body
    with opened(address) as peer:
        peer.say("raise")
        assert peer.closing().code == 1011
    server.wait_for(rb"the view's cause")
    server.wait_for(rb"the consumer's cause")
    server.signal(signal.SIGTERM)
    code, out, error = server.end()
    assert code == 0
    assert error.count("Traceback") == 2
    assert '"GET /fail HTTP/1.1" 500' in out
    assert '"WSDISCONNECT /" 1011' in out


def test_debug_shows_the_traceback_to_the_browser(run):
    """As the option's help says."""
    server = run("--debug")
    answer = get(server.address(), "/fail")
    assert answer.status == 500
    assert b"the view's cause" in answer.body


def test_the_standard_library_is_patched_before_the_app_is_imported(run, tmp_path):
    """A consumer may block with whatever it likes."""
    source = """
        import time, socket, threading
        from gevent import monkey
        from greenchannels import http
        state = [monkey.is_module_patched(m) for m in ("socket", "time", "threading")]

        def sleepy(request):
            time.sleep(0.2)
            return state

        routing = [http("/", sleepy)]
    """
    (tmp_path / "patched.py").write_text(textwrap.dedent(source))
    address = run(app="patched").address()
    clients = [Client(address) for _ in range(10)]
    start = time.monotonic()
    for client in clients:
        client.send(request())
    for client in clients:
        assert client.response().body == b"[true,true,true]"
        client.close()
    assert time.monotonic() - start < 1.9


def test_a_broken_pipe_for_the_access_log_does_not_stop_the_service(run):
    """Whoever read it has gone; sockets go on."""
    server = run()
    address = server.address()
    server.process.stdout.close()
    for _ in range(3):
        with contextlib.suppress(EOFError, OSError):
            get(address)
    with opened(address) as peer:
        peer.say("x")
        assert peer.hear() == "x"
    server.process.stdout = None
    server.signal(signal.SIGTERM)
    with server.process.stderr:
        assert server.process.wait(timeout=20) == 0


def test_a_hangup_drains_where_there_are_no_certificates(run):
    """The terminal has gone; nobody would end it otherwise."""
    server = run()
    with opened(server.address(), "/"):
        server.signal(signal.SIGHUP)
        server.wait_for(rb"Stopping")
    code, _, _ = server.end()
    assert code == 0


@pytest.mark.parametrize(
    "arguments, code, says",
    [
        (["--bind", "x..y:80"], 1, "this cannot be the name of a host"),
        (["--bind", "a" * 64 + ".example:80"], 1, "this cannot be the name of a host"),
        (["--host", ""], 2, "--host is empty"),
        (["--unix", ""], 2, "--unix is empty"),
    ],
)
def test_addresses_that_are_none_are_explained(run, arguments, code, says):
    """In one line."""
    found, _, error = run(*arguments, port=None).end()
    assert found == code
    assert says in error.splitlines()[-1]
    assert "Traceback" not in error


def test_a_very_long_write_timeout_is_no_problem(run):
    """Longer than the kernel can count in milliseconds."""
    assert run("--write-timeout", "99999999").address()
