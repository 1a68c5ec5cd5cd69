"""A master fails, or is changed by hand, and its sentinels name another one."""

import signal

import gevent
import pytest
from gevent.threadpool import ThreadPool

from greenchannels.errors import LayerRefused
from greenchannels.layers.layer import group_topic
from greenchannels.layers.redis import publisher, sentinel
from greenchannels.layers.registry import make_layer
from greenchannels.net.reactor import Reactor
from greenchannels.testing.recording import RecordingMember, text, until
from tests.cli.test_run import opened, run
from tests.layers.redis_harness import free_port, redis_server
from tests.layers.redis_sentinel_harness import SERVICE, running_sentinels
from tests.layers.test_outside import BEGINNINGS, Program
from tests.layers.test_redis_outages import BACK, ROOM, Pair, reactor, start
from tests.servers.harness import no_leaks

__all__ = ["no_leaks", "reactor", "redis_server", "run", "start"]

pytestmark = pytest.mark.usefixtures("no_leaks")

#: A program that sends, forks, and has its child send.
SENDING_SCRIPT = """
    room.send("one")
    Group("by name").add({!r})
    Group("by name").send("two")
    pid = os.fork()
    if pid == 0:
        room.send("child")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    room.send("three")
    print(greenchannels.stats().get("lost publishes", 0), flush=True)
    os._exit(0)
"""


@pytest.fixture(scope="module")
def group():
    """A master with a replica, and three sentinels."""
    with running_sentinels() as it:
        yield it


@pytest.fixture
def watched(group):
    """The same, whole at the test's begin."""
    group.settle()
    return group


@pytest.fixture
def pair(start, watched):
    """Two layers on it."""
    return Pair(start, watched.url())


def listens_on(server):
    """Say whether two processes listen and publish on a server."""
    return len(server.clients()) == 4


def test_a_killed_master_is_replaced(pair, watched, caplog):
    """All that was lost meanwhile is counted, gaps are announced; the log says so."""
    before = watched.master
    assert listens_on(before)
    before.kill()
    pair.send(10)
    watched.agree(before)
    pair.whole()
    pair.exact()
    assert listens_on(watched.master)
    assert pair.count("outages of the layer") == 2
    assert pair.missed(0) >= 10 and pair.missed(1) >= 10
    assert all(gaps >= 1 for gaps in pair.gaps())
    assert caplog.text.count("members of this process still hear") == 2
    assert caplog.text.count("is back after") == 2


def test_under_load_all_that_a_failover_loses_is_counted(pair, watched):
    """Greenlets send all the time."""
    before, over = watched.master, False

    def send():
        while not over:
            pair.send()
            gevent.sleep(0.005)

    sender = gevent.spawn(send)
    try:
        gevent.sleep(0.2)
        before.kill()
        watched.agree(before)
        before.start()
        until(lambda: listens_on(watched.master), BACK)
    finally:
        over = True
        sender.join()
    pair.whole()
    pair.exact()
    assert pair.missed(0) and pair.missed(1)
    assert pair.count("messages heard twice") == 0


def test_a_stopped_master_that_comes_back_as_a_replica_is_left(pair, watched):
    """It does not know yet that it is none any more; nobody stays there."""
    before = watched.master
    before.signal(signal.SIGSTOP)
    pair.send(5)
    watched.agree(before)
    until(lambda: listens_on(watched.master), BACK)
    before.signal(signal.SIGCONT)
    pair.whole()
    pair.exact()
    until(lambda: not before.clients(), BACK)
    assert listens_on(watched.master)
    assert pair.missed(0) >= 5 and pair.missed(1) >= 5


def test_a_master_that_is_changed_by_hand_is_left(pair, watched):
    """By SENTINEL FAILOVER."""
    before = watched.master
    watched.fail_over()
    watched.agree(before)
    until(lambda: listens_on(watched.master) and not before.clients(), BACK)
    pair.whole()
    pair.exact()


@pytest.mark.slow
def test_a_server_that_is_a_replica_by_now_is_left(pair, watched):
    """Though nobody ends its connections."""
    before = watched.master
    (other,) = [it for it in watched.servers if it is not before]
    before("REPLICAOF", "127.0.0.1", other.port)
    watched.agree(before)
    until(lambda: listens_on(other) and not before.clients(), BACK)
    pair.whole()
    pair.exact()


def test_sentinels_that_die_change_nothing(pair, watched, monkeypatch):
    """What is connected stays; whoever needs one asks one that lives."""
    monkeypatch.setattr(sentinel, "WATCH_INTERVAL", 0.1)
    watched.sentinels[0].kill()
    watched.master("CLIENT", "KILL", "TYPE", "pubsub")
    until(lambda: all(pair.gaps()) and listens_on(watched.master), BACK)
    for it in watched.sentinels[1:]:
        it.kill()
        gevent.sleep(0.5)
        pair.send(5)
        pair.exact()
    assert pair.missed(0) == pair.missed(1) == 0
    assert pair.count("outages of the layer") == 2


def test_a_sentinel_that_is_stopped_is_passed_over(start, watched):
    """It costs a second, and the next one is asked."""
    stopped = watched.sentinels[0]
    stopped.signal(signal.SIGSTOP)
    try:
        pair = Pair(start, watched.url())
        assert pair.count("outages of the layer") == 0
    finally:
        stopped.signal(signal.SIGCONT)
    pair.exact()


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_programs_without_a_server_send(start, watched, kind):
    """Also a child that they fork; Redis has a message when the send returns."""
    layer, member = start(watched.url()), RecordingMember()
    layer.add(ROOM, member)
    name = layer.new_channel(member)
    program = Program(watched.url(), SENDING_SCRIPT.format(name), kind)
    pool = ThreadPool(1)  # the layer here has to answer meanwhile
    try:
        assert pool.apply(program.end) == ["0"]
    finally:
        pool.kill()
    until(lambda: len(member.texts) == 4)
    assert member.texts == ["one", "two", "child", "three"]


# At the start.


def test_sentinels_that_are_away_at_the_start_are_one_warning(start, watched, caplog):
    """It serves, and joins when they come."""
    for it in watched.sentinels:
        it.kill()
    layer, member = start(watched.url()), RecordingMember()
    layer.add(ROOM, member)
    layer.send(ROOM, text("here"))
    assert member.texts == ["here"]
    (warning,) = [r for r in caplog.records if r.levelname == "WARNING"]
    assert "members of this process still hear" in warning.message
    watched.settle()
    other = start(watched.url())

    def heard():
        other.send(ROOM, text("there"))
        gevent.sleep(0.05)
        return "there" in member.texts

    until(heard, BACK)


def refusal(url):
    """Return what is said at the start by a layer that does not start."""
    layer, reactor = make_layer(url), Reactor()
    with pytest.raises(LayerRefused) as raised:
        layer.start(reactor)
    reactor.close()
    assert not layer.started
    said = str(raised.value)
    assert "\n" not in said and "secret" not in said
    return said


def test_what_sentinels_do_not_know_is_an_error(watched):
    """It names the sentinel and the name."""
    url = watched.url().replace(SERVICE, "another")
    assert "knows no server 'another'" in refusal(url)


def test_a_server_is_no_sentinel_and_a_sentinel_no_server(watched):
    """It is said what to use."""
    master, sentinel = watched.master.port, watched.sentinels[0].port
    said = refusal(f"redis+sentinel://127.0.0.1:{master}/{SERVICE}")
    assert said == f"Redis at 127.0.0.1:{master} is no sentinel: use redis://"
    said = refusal(f"redis://127.0.0.1:{sentinel}")
    assert said == f"Redis at 127.0.0.1:{sentinel} is a sentinel: use redis+sentinel://"


def test_passwords_of_the_server_and_of_the_sentinels_are_two(run, start):
    """Each that is wrong is one line and exit code 1; the right ones are not shown."""
    with running_sentinels(password="secret1", sentinel_password="secret2") as group:
        port, sentinel = group.servers[0].port, group.sentinels[0].port
        right = group.url(sentinel_password="secret2")
        wrong = right.replace("secret1", "secret3")
        assert f"Redis at 127.0.0.1:{port} refuses the default user" in refusal(wrong)
        wrong = right.replace("secret2", "secret3")
        assert f"127.0.0.1:{sentinel} refuses the default user" in refusal(wrong)
        code, out, error = run("--layer", wrong).end()
        assert (code, out) == (1, "") and "secret" not in error, error
        (line,) = [each for each in error.splitlines() if "Error: " in each]
        assert f"127.0.0.1:{sentinel} refuses the default user" in line
        layer, member = start(right), RecordingMember()
        layer.add(group_topic("all"), member)
        server = run("--layer", right, "--workers", "2")
        with opened(server.address()) as peer:
            peer.say("hello")
            assert peer.hear() == "hello"
        until(lambda: member.texts == ["hello"])
        server.process.terminate()
        code, out, error = server.end()
        assert code == 0 and "secret" not in out + error, error
        assert f"Groups over redis+sentinel://127.0.0.1:{sentinel},127" in error
        assert "sentinel_password=..." in error, error


# A server that is named by its address.


def test_a_server_that_becomes_a_replica_is_warned_of(
    start, redis_server, caplog, monkeypatch
):
    """What is sent there reaches only those that listen there, too."""
    monkeypatch.setattr(publisher, "CHECK_INTERVAL", 0.1)
    pair = Pair(start, redis_server.url())
    redis_server("REPLICAOF", "127.0.0.1", free_port())
    until(lambda: caplog.text.count("is a replica") == 2, BACK)
    pair.send(5)
    pair.exact()
    assert pair.missed(0) == pair.missed(1) == 0
    assert pair.count("outages of the layer") == 0
