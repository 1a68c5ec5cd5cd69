"""Where ``greenchannels run`` listens, and how it is told."""

import contextlib
import errno
import os
import re
import signal
import socket as stdlib_socket
import subprocess
import sys

import pytest

from greenchannels.cli.binds import (
    ActivationError,
    InheritedBind,
    TCPBind,
    UnixBind,
    read_activation,
    read_bind,
)
from greenchannels.net.binding import bind_all, bind_unix, close_listening
from tests.cli.test_run import Process, get, opened, run
from tests.ports import free_port
from tests.servers.harness import Client, request

__all__ = ["run"]

V1 = b"PROXY TCP4 203.0.113.9 9.9.9.9 51000 80\r\n"

#: Starts a command as systemd does: sockets from 3 on, LISTEN_PID of itself.
LAUNCHER = """
import os, sys
fds, pid, names, *command = sys.argv[1:]
fds = [int(fd) for fd in fds.split(",")]
moved = [os.dup(fd) for fd in fds]
high = [os.dup2(fd, 100 + i) for i, fd in enumerate(moved)]
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i)
    os.set_inheritable(3 + i, True)
os.closerange(3 + len(fds), 200)
os.environ["LISTEN_PID"] = pid if pid != "self" else str(os.getpid())
os.environ["LISTEN_FDS"] = str(len(fds))
os.environ["LISTEN_FDNAMES"] = names
os.execv(command[0], command)
"""

TELLING = """
    import os
    from greenchannels import http, websocket

    def environ(request):
        return sorted(name for name in os.environ if name.startswith("LISTEN_"))

    def client(request):
        scope = request.environ["greenchannels.scope"]
        return [scope["client"], scope["scheme"], request.script_root, request.path]

    routing = [
        http("/", client),
        http("/environ", environ),
        websocket("/", lambda socket: [socket.send(each) for each in socket]),
    ]
"""


class Launched(Process):
    """A ``greenchannels run`` that a launcher started, with descriptors."""

    def __init__(self, folder, socks, *arguments, pid="self", names=""):
        fds = ",".join(str(sock.fileno()) for sock in socks)
        command = [sys.executable, "-m", "greenchannels", "run", "telling", *arguments]
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, fds, pid, names, *command],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[sock.fileno() for sock in socks],
            env={**os.environ, "PYTHONPATH": os.getcwd()},
        )
        self.error = b""


@pytest.fixture
def telling(tmp_path):
    """The folder of an app that tells what it sees."""
    source = "\n".join(line[4:] for line in TELLING.splitlines())
    (tmp_path / "telling.py").write_text(source)
    return tmp_path


@pytest.fixture
def launch(telling):
    """A function that starts the command as systemd does."""
    started = []

    def start(*socks, arguments=(), **options):
        started.append(Launched(telling, socks, *arguments, **options))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.communicate()


@pytest.fixture
def listening(tmp_path):
    """A function that returns a listening socket of a family."""
    socks = []

    def start(family=stdlib_socket.AF_INET, listen=True):
        sock = stdlib_socket.socket(family)
        socks.append(sock)
        if family == stdlib_socket.AF_UNIX:
            sock.bind(str(tmp_path / f"{len(socks)}.sock"))
        else:
            sock.bind(("::1" if family == stdlib_socket.AF_INET6 else "127.0.0.1", 0))
        if listen:
            sock.listen()
        return sock

    yield start
    for sock in socks:
        sock.close()


def addresses(server, count):
    """Wait for as many lines that say where it listens; return what they say."""
    server.wait_for(rb"(?s)(Listening on [^\n]*\n.*?){%d}" % count)
    return re.findall(r"Listening on (\S+) \(", server.error.decode())


def tcp(url):
    """Return the address that a URL names."""
    host, port = re.fullmatch(r"http://\[?([^\]]+?)\]?:(\d+)", url).groups()
    return (host, int(port), 0, 0) if ":" in host else (host, int(port))


def stopped(server):
    """End a server as one does; return its standard output."""
    server.signal(signal.SIGTERM)
    code, out, error = server.end()
    assert (code, "Traceback" in error) == (0, False), error
    return out


@pytest.mark.parametrize(
    "text, bind",
    [
        ("127.0.0.1:8000", TCPBind("127.0.0.1", 8000)),
        ("example.org:0", TCPBind("example.org", 0)),
        ("[::1]:80", TCPBind("::1", 80)),
        ("[fe80::1%eth0]:80", TCPBind("fe80::1%eth0", 80)),
        ("unix:/run/a:b", UnixBind("/run/a:b")),
        ("unix:s", UnixBind("s")),
        ("fd:3", InheritedBind(3)),
        *((text, None) for text in ("", "8000", ":8000", "a:", "a:b", "a:65536")),
        *(
            (text, None)
            for text in ("::1:80", "[::1]", "[]:80", "unix:", "fd:", "fd:x")
        ),
        *(
            (text, None)
            for text in ("fd:-1", "http://a:80", "fd:9999999999", "a:8\u0660")
        ),
    ],
)
def test_an_address_is_one_of_four_kinds(text, bind):
    """IPv6 has brackets; everything else is refused."""
    assert read_bind(text) == bind


def test_each_address_has_a_line_and_is_served(run, tmp_path):
    """Both families at one port, and a Unix socket; its file goes at the end."""
    port, path = free_port(), str(tmp_path / "s.sock")
    binds = [f"0.0.0.0:{port}", f"[::]:{port}", f"unix:{path}"]
    server = run(*(x for each in binds for x in ("--bind", each)), port=None)
    assert addresses(server, 3) == [
        f"http://0.0.0.0:{port}",
        f"http://[::]:{port}",
        f"unix:{path}",
    ]
    for address in [("127.0.0.1", port), ("::1", port, 0, 0), path]:
        assert get(address).body == b"page"
        with opened(address) as peer:
            peer.say("x")
            assert peer.hear() == "x"
    stopped(server)
    assert not os.path.exists(path)


def test_a_name_is_bound_at_all_its_addresses(run):
    """At one port, although it was free to choose."""
    names = stdlib_socket.getaddrinfo(
        "localhost", 0, type=stdlib_socket.SOCK_STREAM, flags=stdlib_socket.AI_PASSIVE
    )
    server = run("--host", "localhost")
    found = [tcp(url) for url in addresses(server, len({n[4] for n in names}))]
    assert {each[0] for each in found} == {name[4][0] for name in names}
    assert len({each[1] for each in found}) == 1
    for address in found:
        assert get(address).body == b"page"
    stopped(server)


def resolving_to(monkeypatch, *found):
    """Have every name stand for these addresses."""
    stream = stdlib_socket.SOCK_STREAM
    inet = stdlib_socket.AF_INET
    infos = [(inet, stream, 6, "", (address, 0)) for address in found]
    monkeypatch.setattr(stdlib_socket, "getaddrinfo", lambda *a, **k: infos)


def test_an_address_that_this_machine_has_not_is_passed_over(monkeypatch):
    """As localhost's ::1 where IPv6 is off; if it is not the only one."""
    resolving_to(monkeypatch, "203.0.113.1", "127.0.0.1", "127.0.0.1", "127.0.0.2")
    socks = bind_all("name", 0)
    found = [sock.getsockname() for sock in socks]
    for sock in socks:
        sock.close()
    assert [each[0] for each in found] == ["127.0.0.1", "127.0.0.2"]
    assert found[0][1] == found[1][1] != 0
    resolving_to(monkeypatch, "203.0.113.1")
    with pytest.raises(OSError) as caught:
        bind_all("name", 0)
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_one_busy_address_of_a_name_leaves_none(monkeypatch):
    """The others are closed again."""
    own = f"127.{100 + os.getpid() // 250 % 100}.{os.getpid() % 250}"
    resolving_to(monkeypatch, f"{own}.1", f"{own}.2")  # no other run's, nor its ports
    with contextlib.closing(stdlib_socket.socket()) as taken:
        taken.bind((f"{own}.2", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError) as caught:
            bind_all("name", port)
        assert caught.value.errno == errno.EADDRINUSE
    with contextlib.closing(stdlib_socket.socket()) as free:
        free.bind((f"{own}.1", port))


def test_only_our_own_file_is_removed(tmp_path):
    """Not one that somebody has put in its place, nor after a failure to bind."""
    path = tmp_path / "s.sock"
    sock = bind_unix(str(path))
    path.unlink()
    path.write_text("precious")
    close_listening(sock)
    assert path.read_text() == "precious"
    with pytest.raises(OSError):
        bind_unix(str(tmp_path / ("x" * 200)))
    sock = bind_unix(str(tmp_path / "t.sock"), 0o600)
    close_listening(sock)
    assert os.listdir(tmp_path) == ["s.sock"]


@pytest.mark.parametrize("order", [1, -1])
def test_one_that_cannot_be_bound_leaves_none(run, tmp_path, order):
    """One clear line, exit code 1, and no file."""
    path = str(tmp_path / "s.sock")
    with contextlib.closing(stdlib_socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = f"127.0.0.1:{taken.getsockname()[1]}"
        binds = [f"unix:{path}", "127.0.0.1:0", busy][::order]
        arguments = (x for each in binds for x in ("--bind", each))
        code, out, error = run(*arguments, port=None).end()
    assert code == 1, error
    (line,) = error.splitlines()
    assert busy in line and "in use" in line
    assert not os.path.exists(path)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--bind", "8000"],
        ["--bind", "::1:80"],
        ["--bind", "127.0.0.1:0", "--port", "0"],
        ["--bind", "127.0.0.1:0", "--host", "localhost"],
        ["--fd", "x"],
        ["--unix", "s", "--unix-mode", "rw"],
        ["--unix", "s", "--unix-mode", "888"],
        ["--proxy-protocol"],
        ["--root-path", "app"],
        ["--root-path", "/a?b"],
    ],
    ids=" ".join,
)
def test_bad_options_are_explained_with_exit_code_2(run, arguments):
    """And never by a traceback."""
    code, out, error = run(*arguments, port=None).end()
    assert code == 2, error
    assert "Traceback" not in error and error.strip() and out == ""


@pytest.mark.parametrize("mode", ["600", "0o666", "0770"])
def test_a_unix_sockets_mode(run, tmp_path, mode):
    """Whatever the umask is."""
    path = tmp_path / "s.sock"
    server = run("--bind", f"unix:{path}", "--unix-mode", mode, port=None)
    addresses(server, 1)
    assert path.stat().st_mode & 0o7777 == int(mode.removeprefix("0o"), 8)
    assert get(str(path)).body == b"page"
    stopped(server)


@pytest.mark.parametrize("how", ["--fd", "--bind"])
@pytest.mark.parametrize(
    "family",
    [stdlib_socket.AF_INET, stdlib_socket.AF_INET6, stdlib_socket.AF_UNIX],
    ids=["IPv4", "IPv6", "Unix"],
)
def test_an_inherited_socket_is_served(launch, listening, family, how):
    """Of any family; a Unix socket's file belongs to whoever made it."""
    sock = listening(family)
    number = "3" if how == "--fd" else "fd:3"
    server = launch(sock, arguments=[how, number], pid="1")
    addresses(server, 1)
    assert get(sock.getsockname(), "/environ").status == 200
    stopped(server)
    if family == stdlib_socket.AF_UNIX:
        assert os.path.exists(sock.getsockname())


def test_what_is_no_listening_socket_is_one_clear_line_and_exit_code_2(
    run, launch, listening, tmp_path
):
    """A closed descriptor, a file, a datagram socket, one that does not listen."""
    datagrams = stdlib_socket.socket(type=stdlib_socket.SOCK_DGRAM)
    one, other = stdlib_socket.socketpair()
    with datagrams, one, other, open(os.devnull) as file:
        servers = [
            (run("--fd", "99", port=None), "99"),
            (run("--fd", "0", port=None), "fd 0"),
            (launch(file, arguments=["--fd", "3"], pid="1"), "fd 3"),
            (launch(datagrams, arguments=["--bind", "fd:3"]), "no stream"),
            (launch(listening(listen=False)), "not listen"),
            (launch(one, names="name"), "fd 3 (name)"),
        ]
        for server, says in servers:
            code, out, error = server.end()
            assert code == 2, error
            (line,) = error.splitlines()
            assert line.startswith("Error: cannot listen on fd ") and says in line


def test_systemd_hands_over_its_sockets(launch, listening):
    """All of them, without an option; the application's children hear nothing of it."""
    families = [stdlib_socket.AF_INET, stdlib_socket.AF_UNIX, stdlib_socket.AF_INET6]
    socks = [listening(family) for family in families]
    server = launch(*socks, names="http:app.socket:v6")
    found = addresses(server, 3)
    assert [found[1], tcp(found[0])] == [
        "unix:" + socks[1].getsockname(),
        socks[0].getsockname(),
    ]
    for sock in socks:
        assert get(sock.getsockname(), "/environ").body == b"[]"
    with opened(socks[1].getsockname()) as peer:
        peer.say("x")
        assert peer.hear() == "x"
    stopped(server)
    assert os.path.exists(socks[1].getsockname())


def test_sockets_for_another_process_are_left_alone(launch, listening):
    """LISTEN_PID is somebody else's: the variables came by inheritance."""
    sock = listening()
    server = launch(sock, arguments=["--port", "0"], pid="1")
    (url,) = addresses(server, 1)
    assert tcp(url) != sock.getsockname()
    assert get(tcp(url), "/environ").body == b"[]"
    stopped(server)


@pytest.mark.parametrize("argument", ["--bind", "--port"])
def test_an_address_of_ones_own_goes_before_systemds(launch, listening, argument):
    """What is asked for explicitly is what is done."""
    sock = listening()
    value = "127.0.0.1:0" if argument == "--bind" else "0"
    server = launch(sock, arguments=[argument, value])
    (url,) = addresses(server, 1)
    assert tcp(url) != sock.getsockname()
    assert get(tcp(url), "/environ").body == b"[]"
    stopped(server)


def test_what_systemd_says_is_read_once():
    """The variables are gone, whosever they were."""
    ours = str(os.getpid())
    environ = {"LISTEN_PID": ours, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a", "X": "y"}
    found = read_activation(environ)
    assert found == [InheritedBind(3, "a"), InheritedBind(4)]
    assert environ == {"X": "y"} and read_activation(environ) == []
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1"}
    assert read_activation(environ) == [] and environ == {}
    assert read_activation({"LISTEN_PID": ours, "LISTEN_FDS": "0"}) == []
    for wrong in ("", "x", "-1", "\u0661", "1000000"):
        with pytest.raises(ActivationError, match="LISTEN_FDS"):
            read_activation({"LISTEN_PID": ours, "LISTEN_FDS": wrong})


# Proxies, from the command line.


def test_proxies_are_believed_as_the_options_say(run, telling):
    """Fields of a trusted network, under a prefix; nobody else's."""
    headers = [
        ("Forwarded", 'for="[2001:db8::1]:99";proto=https'),
        ("X-Forwarded-For", "[2001:db8::1]:99"),
        ("X-Forwarded-Proto", "https"),
    ]
    arguments = ["--root-path", "/app/", "--proxy"]
    server = run(*arguments, "127.0.0.0/8", app="telling")
    answer = get(server.address(), "/app/", headers=headers)
    assert answer.body == b'[["2001:db8::1",99],"https","/app","/"]'
    assert stopped(server).startswith("[2001:db8::1]:99 - - ")
    server = run(*arguments, "10.0.0.0/8", app="telling")
    answer = get(server.address(), headers=headers)
    assert answer.body.startswith(b'[["127.0.0.1",') and b'"http"' in answer.body
    assert stopped(server).startswith("127.0.0.1:")


def test_a_proxy_header_is_read_as_the_options_say(run, telling):
    """From a trusted network; others are cut off, with a line in the log."""
    server = run("--proxy-protocol", "--proxy", "127.0.0.1", app="telling")
    with contextlib.closing(Client(server.address())) as client:
        client.send(V1 + request("/"))
        assert client.response().body == b'[["203.0.113.9",51000],"http","","/"]'
    assert stopped(server).startswith("203.0.113.9:51000 - - ")
    server = run("--proxy-protocol", "--proxy", "unix", app="telling")
    with contextlib.closing(Client(server.address())) as client:
        with contextlib.suppress(OSError):
            client.send(V1 + request("/"))
        assert client.ended() in ("closed", "reset")
    server.wait_for(rb"127\.0\.0\.1:\d+: cut off: no trusted proxy")
    assert stopped(server) == ""
