"""Programs that meet on a Redis: servers, senders without one, and those shut out."""

import contextlib
import os
import subprocess
import sys

import pytest
from gevent.threadpool import ThreadPool

from greenchannels.layers.layer import group_topic
from greenchannels.layers.registry import make_layer
from greenchannels.net.reactor import Reactor
from greenchannels.testing.recording import RecordingMember, text, until
from tests.certificates import authority
from tests.cli.test_run import opened, run
from tests.layers.redis_harness import (
    free_port,
    redis_server,
    running_redis,
)
from tests.layers.test_outside import BEGINNINGS, Program
from tests.servers.harness import no_leaks

__all__ = ["no_leaks", "redis_server", "run"]

pytestmark = pytest.mark.usefixtures("no_leaks")

ROOM = group_topic("room")


@pytest.fixture
def start():
    """A function that starts layers."""
    reactor, started = Reactor(), []

    def start_layer(url):
        layer = make_layer(url)
        layer.start(reactor)
        started.append(layer)
        return layer

    yield start_layer
    for layer in started:
        layer.close()
    reactor.close()


def test_two_servers_hear_each_other(run, redis_server):
    """Also after their Redis was killed; their sockets stay open."""
    servers = [run("--layer", redis_server.url()) for _ in "ab"]
    addresses = [server.address() for server in servers]
    with opened(addresses[0]) as one, opened(addresses[1]) as other:
        for number in range(20):
            one.say(f"a{number}")
            assert one.hear() == other.hear() == f"a{number}"
        redis_server.kill()
        for server in servers:
            server.wait_for(b"no connection to Redis")
        one.say("alone")
        assert one.hear() == "alone"
        redis_server.start()
        for server in servers:
            server.wait_for(b"is back after", 50)
        heard = False
        for _ in range(10):
            other.say("again")
            assert other.hear() == "again"
            with contextlib.suppress(AssertionError):
                heard = one.hear(2) == "again"
            if heard:
                break
        assert heard
    for server in servers:
        server.process.terminate()
        code, _, error = server.end()
        assert code == 0 and "Traceback" not in error, error


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_a_wrong_password_is_one_line_and_exit_code_1(run, redis_server, workers):
    """It says what to look at, and not the password."""
    redis_server("CONFIG", "SET", "requirepass", "right")
    url = f"redis://:wrong@127.0.0.1:{redis_server.port}"
    code, out, error = run("--layer", url, *workers).end()
    redis_server.password = "right"
    assert (code, out) == (1, ""), error
    (line,) = [each for each in error.splitlines() if "Error: " in each]
    assert f"127.0.0.1:{redis_server.port} refuses the default user" in line
    assert "wrong" not in error and "Traceback" not in error


@pytest.mark.parametrize("machine", ["", "ipc://+"])
def test_workers_patch_before_they_import_a_client(run, redis_server, machine):
    """Who looks after them has not imported it for them: nobody warns."""
    url = machine + redis_server.url()
    server = run("--layer", url, "--workers", "2")
    with opened(server.address()) as peer:
        peer.say("hello")
        assert peer.hear() == "hello"
    server.process.terminate()
    code, _, error = server.end()
    assert code == 0 and "Warning" not in error, error


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://a,redis://a", "named twice"),
        ("redis+sentinel://a", "what they call the server"),
        ("rediss://a?ssl_ca_certs=/none", "No such file"),
        ("ipc://+redis://a?colour=red", "no option colour"),
        ("redis://a?symmetric_encryption_keys_file=/none", "No such file"),
    ],
)
@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_a_layer_that_means_nothing_is_one_line_and_exit_code_2(
    run, url, says, workers
):
    """Before anything listens."""
    code, out, error = run("--layer", url, *workers).end()
    assert (code, out) == (2, "")
    (line,) = error.splitlines()
    assert line.startswith("Error: ") and says in line


def test_a_server_starts_without_its_redis(run):
    """It serves, and warns once."""
    server = run("--layer", f"redis://127.0.0.1:{free_port()}")
    with opened(server.address()) as peer:
        peer.say("hello")
        assert peer.hear() == "hello"
    server.process.terminate()
    code, _, error = server.end()
    assert code == 0 and error.count("WARNING") == 1, error


def test_without_redis_py_it_is_said_how_to_install_it():
    """In one line."""
    source = (
        "import sys; sys.modules['redis'] = None\n"
        "from greenchannels.layers.registry import make_layer\n"
        "make_layer('redis://localhost')\n"
    )
    command = [sys.executable, "-c", source]
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    error = subprocess.run(command, env=env, stderr=subprocess.PIPE).stderr.decode()
    assert "pip install greenchannels[redis]" in error.splitlines()[-1]


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_programs_without_a_server_send(start, redis_server, kind):
    """Redis has a message when the send returns; the program may end at once."""
    layer, member = start(redis_server.url()), RecordingMember()
    layer.add(ROOM, member)
    name = layer.new_channel(member)
    program = Program(
        redis_server.url(),
        f"""
        room.send("one")
        Channel({name!r}).send("two")
        Group("by name").add({name!r})
        Group("by name").send("three")
        pid = os.fork()
        if pid == 0:
            room.send("child")
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        room.send("four")
        print(greenchannels.stats().get("lost publishes", 0), flush=True)
        os._exit(0)
        """,
        kind,
    )
    pool = ThreadPool(1)  # the layer here has to answer meanwhile
    try:
        assert pool.apply(program.end) == ["0"]
    finally:
        pool.kill()
    until(lambda: len(member.texts) == 5)
    assert member.texts == ["one", "two", "three", "child", "four"]
    assert redis_server("CLIENT", "LIST", whole=True).count(b"name=greenchannels-") == 2


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_sends_without_a_server_fail_when_redis_is_away(redis_server, kind):
    """They say so; when it is back, the same program sends again."""
    program = Program(
        redis_server.url(),
        """
        room.send("one")
        print("sent", flush=True)
        input()
        try:
            room.send("two")
        except LayerUnavailable as error:
            print("lost", flush=True)
        input()
        end = time.monotonic() + 50
        while True:
            try:
                room.send("three")
                break
            except LayerUnavailable:
                assert time.monotonic() < end
                time.sleep(0.1)
        print("back", flush=True)
        """,
        kind,
    )
    assert program.line() == "sent"
    redis_server.kill()
    program.go_on()
    assert program.line() == "lost"
    redis_server.start()
    program.go_on()
    assert program.line() == "back"
    program.end("no connection to Redis")


def test_tls_is_checked(start, tmp_path):
    """Against the authority that the URL names, and by the host's name."""
    chain, key = authority().issue("localhost", folder=tmp_path)
    port = free_port()
    options = ("--tls-port", str(port), "--tls-auth-clients", "no")
    files = ("--tls-cert-file", chain, "--tls-key-file", key)
    with contextlib.ExitStack() as stack:
        files += ("--tls-ca-cert-file", authority().file)
        try:
            stack.enter_context(running_redis(*options, *files))
        except RuntimeError as error:
            if "Failed finding TLS support" in str(error):
                pytest.skip("this server was built without TLS")
            raise
        right = f"rediss://localhost:{port}?ssl_ca_certs={authority().file}"
        layers, members = [start(right), start(right)], []
        for layer in layers:
            members.append(RecordingMember())
            layer.add(ROOM, members[-1])
        for number in range(100):
            layers[number % 2].send(ROOM, text(number))
        until(lambda: all(len(member.texts) == 100 for member in members))
        for url in (
            f"rediss://localhost:{port}?ssl_ca_certs={authority(1).file}",
            f"rediss://127.0.0.1:{port}?ssl_ca_certs={authority().file}",
        ):
            assert start(url).stats()["outages of the layer"] == 1
        blind = f"rediss://127.0.0.1:{port}?ssl_cert_reqs=none"
        assert "outages of the layer" not in start(blind).stats()
