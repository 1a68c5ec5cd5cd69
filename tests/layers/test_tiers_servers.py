"""Servers of two tiers, and programs beside them; what their URLs mean."""

import concurrent.futures
import contextlib
import os
import re
import signal
import tempfile
import textwrap
import urllib.request

import pytest
from gevent.threadpool import ThreadPool

import greenchannels
from greenchannels.errors import ConfigurationError, LayerRefused, LayerUnavailable
from greenchannels.layers.ipc_folder import Folder
from greenchannels.layers.layer import group_topic
from greenchannels.layers.registry import (
    VARIABLE,
    make_layer,
    shown_url,
    with_name,
)
from greenchannels.layers.tiers import TiersBus
from greenchannels.net.reactor import Reactor
from greenchannels.testing.recording import RecordingMember
from greenchannels.testing.recording import until as until_in_hub
from tests.cli.processes import Family, spread
from tests.cli.test_run import Process
from tests.cli.test_send import APP, Command
from tests.layers.redis_harness import free_port, redis_server
from tests.layers.test_outside import BEGINNINGS, Program
from tests.layers.test_tiers import BACK, listening, start
from tests.servers.harness import no_leaks
from tests.test_gunicorn import APP as GUNICORN_APP
from tests.test_gunicorn import OURS, up

__all__ = ["no_leaks", "redis_server", "start"]

pytestmark = pytest.mark.usefixtures("no_leaks")

ROOM = group_topic("room")


@pytest.fixture
def families(tmp_path):
    """A function that starts programs, each on a machine of its own."""
    started = []

    def start_family(*command, env=None):
        started.append(Family(tmp_path, *command, env=env))
        return started[-1]

    yield start_family
    for each in started:
        each.kill()


def hear_all(peers, said):
    """Check that each gets what each says."""
    for number, speaker in enumerate(peers):
        speaker.say(f"{said} {number}")
        for peer in peers:
            assert peer.hear() == f"{said} {number}"


def heard_again(speaker, peers):
    """Say something until all get it: what comes before the next gateway is lost."""
    heard = set()
    for number in range(100):
        speaker.say(f"again {number}")
        for peer in peers:
            with contextlib.suppress(AssertionError):  # there is nothing
                peer.hear(0.5)
                heard.add(peer)
        if heard == set(peers):
            return
    raise AssertionError("not all hear it")


def answering(address, pids):
    """Wait until each of these workers has answered, which may load a lot before."""
    url = "http://{}:{}/pid".format(*address)
    left = {str(pid).encode() for pid in pids}
    while left:
        with urllib.request.urlopen(url, timeout=60) as answer:
            left.discard(answer.read())


def test_workers_of_two_machines_hear_each_other(families, redis_server, tmp_path):
    """With one listener a machine, and the name that ipc has by default."""
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    redis = redis_server.url()
    command = ("greenchannels", "run", "app:routing", "--port", "0", "--workers", "2")
    machines = [families(*command, "--layer", f"ipc://+{redis}") for _ in "ab"]
    with contextlib.ExitStack() as stack:
        peers = []
        for machine in machines:
            machine.wait_for(rb"(?s)(worker \d+ is up.*){2}")
            opened = spread(machine.address(), machine.workers())
            peers += stack.enter_context(opened).values()
        hear_all(peers, "hello")
        assert listening(redis_server) == 2
        url = machines[0].wait_for(rb"Groups over (ipc://[0-9a-f]{16}\+redis\S+)")[1]
        env = {"XDG_RUNTIME_DIR": machines[1]._runtime.name}
        words = ("-m", "greenchannels", "send", "all", "by hand", "--layer")
        sending = Command(tmp_path, *words, url.decode(), env=env)
        assert sending.end() == (0, "", "")
        for peer in peers:
            assert peer.hear() == "by hand"
    for machine in machines:
        machine.signal(signal.SIGTERM)
        code, _, error = machine.end()
        assert code == 0 and "Traceback" not in error, error


def test_sockets_outlive_a_gateway(families, redis_server, tmp_path):
    """Those of the other workers of its machine, and of the other machine."""
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    url = f"ipc://chat+{redis_server.url()}"
    command = ("greenchannels", "run", "app:routing", "--port", "0", "--workers", "2")
    machine, other = (families(*command, "--layer", url) for _ in "ab")
    for each in (machine, other):
        each.wait_for(rb"(?s)(worker \d+ is up.*){2}")
    names = [
        int(re.search(r"name=greenchannels-(\d+)", line)[1])
        for line in redis_server.clients()
        if not re.search(r"\bsub=0\b", line)
    ]
    (victim,) = set(names) & machine.workers()
    (survivor,) = machine.workers() - {victim}
    with (
        spread(machine.address(), {victim, survivor}) as mine,
        spread(other.address(), other.workers()) as theirs,
    ):
        os.kill(victim, signal.SIGKILL)
        mine[victim].ended()
        heard_again(next(iter(theirs.values())), [mine[survivor], *theirs.values()])


@pytest.mark.slow
def test_gunicorns_of_two_machines_hear_each_other(families, redis_server, tmp_path):
    """Our worker there, gevent's here; the layer is named by the environment."""
    (tmp_path / "app.py").write_text(textwrap.dedent(GUNICORN_APP))
    env = {VARIABLE: f"ipc://+{redis_server.url()}"}
    options = ("-b", "127.0.0.1:0", "--no-control-socket", "-w", "2")
    with contextlib.ExitStack() as stack:
        peers = []
        for kind in (OURS, ("-k", "gevent")):
            command = ("gunicorn", *options, *kind, "app:application")
            machine = families(*command, env=env)
            address, pids = up(machine, 2)
            answering(address, pids)
            peers += stack.enter_context(spread(address, pids)).values()
        hear_all(peers, "hello")
        assert listening(redis_server) == 2


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_programs_without_a_server_send_on_both_tiers(start, redis_server, kind):
    """Sockets of their machine and of others have it, in order; children, too."""
    near, far = start("a", redis_server.url()), start("b", redis_server.url())
    members = [RecordingMember(), RecordingMember()]
    names = []
    for layer, member in zip((near, far), members, strict=True):
        layer.add(ROOM, member)
        names.append(layer.new_channel(member))
    folder = near._bus._local._path
    program = Program(
        f"ipc://{folder}+{redis_server.url()}",
        f"""
        room.send("one")
        for name in {names!r}:
            Channel(name).send("two")
            Group("by name").add(name)
        Group("by name").send("three")
        pid = os.fork()
        if pid == 0:
            room.send("child")
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        room.send("four")
        stats = greenchannels.stats()
        print(stats.get("lost publishes", 0), stats["bus"]["gateway"], flush=True)
        os._exit(0)
        """,
        kind,
    )
    pool = ThreadPool(1)  # the layers here have to answer meanwhile
    try:
        assert pool.apply(program.end) == ["0 0"]
    finally:
        pool.kill()
    until_in_hub(lambda: all(len(member.texts) == 5 for member in members))
    for member in members:
        assert member.texts == ["one", "two", "three", "child", "four"]


def test_a_send_without_a_server_fails_if_one_tier_is_away(start):
    """Those on the machine have got it all the same."""
    redis = f"redis://127.0.0.1:{free_port()}"
    near = start("a", redis)
    member = RecordingMember()
    near.add(ROOM, member)
    program = Program(
        f"ipc://{near._bus._local._path}+{redis}",
        """
        try:
            room.send("hello")
        except LayerUnavailable:
            print("not to all")
        """,
    )
    pool = ThreadPool(1)
    try:
        assert pool.apply(program.end, ("no connection to Redis",)) == ["not to all"]
    finally:
        pool.kill()
    until_in_hub(lambda: member.texts == ["hello"])


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_a_wrong_password_is_one_line(redis_server, tmp_path, workers):
    """It says what to look at, and not the password; the exit code is 1."""
    redis_server("CONFIG", "SET", "requirepass", "right")
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    url = f"ipc://{tmp_path}/a+redis://:wrong@127.0.0.1:{redis_server.port}"
    server = Process(tmp_path, "--port", "0", "--layer", url, *workers)
    code, out, error = server.end()
    redis_server.password = "right"
    assert (code, out) == (1, ""), error
    (line,) = [each for each in error.splitlines() if "Error: " in each]
    assert "refuses the default user" in line
    assert "wrong" not in error and "Traceback" not in error


def test_a_gateway_that_may_not_listen_is_an_error_for_all(redis_server):
    """At the start of each process of the machine."""
    rights = ("resetchannels", "&test:*", "-@all", "+publish")
    redis_server("ACL", "SETUSER", "shop", "on", ">pw", *rights)
    url = redis_server.url().replace("redis://", "redis://shop:pw@")
    reactor = Reactor()
    with tempfile.TemporaryDirectory(prefix="gc-") as above:
        for _ in range(2):
            layer = make_layer(f"ipc://{above}/app+{url}")
            with pytest.raises(LayerRefused, match="no permissions"):
                layer.start(reactor)
            assert not layer.started
    reactor.close()


def test_rights_that_a_gateway_lacks_later_are_an_outage(start, redis_server):
    """Joins return; when it may listen again, their gap is announced."""
    rights = ("resetchannels", "&test:*", "-@all", "+publish", "+subscribe")
    redis_server("ACL", "SETUSER", "shop", "on", ">pw", *rights)
    url = redis_server.url().replace("redis://", "redis://shop:pw@")
    gateway, near = start("a", url), start("a", url)
    redis_server("ACL", "SETUSER", "shop", "-subscribe")
    gateway.close()
    until_in_hub(lambda: near.stats()["bus"]["gateway"] == 1)
    member = RecordingMember(listens=("layer.gap",))
    near.add(ROOM, member)
    assert near.stats()["unconfirmed joins"] == 1
    redis_server("ACL", "SETUSER", "shop", "+subscribe")
    until_in_hub(lambda: member.events, BACK)
    assert redis_server.listeners("test:g:room") == 1


def test_there_must_be_a_folder(redis_server, tmp_path):
    """As for ipc alone; nothing is left."""
    reactor = Reactor()
    (tmp_path / "file").write_text("")
    for path in (f"{tmp_path}/file", "/proc/none"):
        layer = make_layer(f"ipc://{path}+{redis_server.url()}")
        with pytest.raises((ConfigurationError, LayerUnavailable)):
            layer.start(reactor)
        assert not layer.started and not redis_server.clients()
    reactor.close()


# URLs.


@pytest.mark.parametrize(
    ("url", "name", "redis"),
    [
        ("ipc://a+redis://h", "a", "redis://h"),
        ("ipc:///tmp/a+b+rediss://h", "/tmp/a+b", "rediss://h"),
        ("ipc://a+redis+sentinel://h/m", "a", "redis+sentinel://h/m"),
        ("ipc://a+rediss+cluster://h?prefix=x", "a", "rediss+cluster://h?prefix=x"),
        ("ipc://a+redis://h,redis://i", "a", "redis://h,redis://i"),
        ("ipc://a+redis://:a+redis@h", "a", "redis://:a+redis@h"),
    ],
)
def test_the_second_tier_is_any_url_of_redis(monkeypatch, url, name, redis):
    """The first plus before one ends the name."""
    found = []
    monkeypatch.setattr("greenchannels.layers.redis.making.make_bus", fake(found))
    monkeypatch.setattr("greenchannels.layers.registry.IpcBus", fake(found))
    assert isinstance(make_layer(url)._bus, TiersBus)
    assert found == [name, redis]


def fake(found):
    """Return what stands for the maker of a bus, and notes of what."""

    class Bus:
        topics = ()

        def __init__(self, what, *more):
            found.append(what)

    return Bus


@pytest.mark.parametrize(
    "url",
    [
        "ipc://a+",
        "ipc://a+redis",
        "ipc://a b+redis://h",
        "ipc://+redis://h",
        "a+redis://h",
    ],
)
def test_what_is_no_url_of_two_tiers_is_refused(url):
    """Before anything starts."""
    with pytest.raises(ConfigurationError):
        make_layer(url)


def test_a_url_without_a_name_gets_one(monkeypatch):
    """Where the application is known; it may be configured so."""
    assert with_name("ipc://+redis://h", "a") == "ipc://a+redis://h"
    for url in ("ipc://b+redis://h", "redis://h", "memory://", "ipc://b"):
        assert with_name(url, "a") == url
    monkeypatch.delenv(VARIABLE, raising=False)
    try:
        greenchannels.configure(layer="ipc://+redis://h")
    finally:
        greenchannels.configure(layer=None)


def test_passwords_are_not_shown():
    """As in other URLs."""
    shown = shown_url("ipc://a+redis://user:secret@h?prefix=x")
    assert shown == "ipc://a+redis://h?prefix=x"


# The folder's token.


@pytest.fixture
def folder():
    """An empty one."""
    with tempfile.TemporaryDirectory(prefix="gc-") as above:
        yield Folder(os.path.join(above, "app"))


def test_all_who_ask_at_once_get_the_same_token(folder):
    """Whoever is the first."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(50):
            asked = [pool.submit(folder.token) for _ in range(8)]
            (token,) = {each.result() for each in asked}
            assert os.listdir(folder.path) == ["token"]
            assert re.fullmatch(r"[0-9a-f]{12}", token)
            os.unlink(folder.socket_path("token"))


def test_a_token_that_was_lost_is_made_again(folder):
    """By those who know it; what is no token is replaced."""
    token = folder.token()
    os.unlink(folder.socket_path("token"))
    assert folder.token(token) == token
    with open(folder.socket_path("token"), "wb") as file:
        file.write(b"\xff" * 12)
    assert folder.token(token) == token == folder.token()


def test_a_token_that_is_used_does_not_age(folder):
    """Cleaners of temporary files leave it."""
    token, path = folder.token(), folder.socket_path("token")
    os.utime(path, (1, 1))
    assert folder.token(token) == token
    assert os.stat(path).st_mtime > 1


def test_processes_keep_the_token(start, redis_server, monkeypatch):
    """With their probes."""
    monkeypatch.setattr("greenchannels.layers.tiers.TOKEN_INTERVAL", 0.0)
    layer = start("a", redis_server.url())
    path = os.path.join(layer._bus._local._path, "token")
    os.unlink(path)
    layer.probe()
    with open(path) as file:
        assert layer.origin.startswith(file.read() + ".")
