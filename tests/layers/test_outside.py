"""Sends from processes that run no server, each a real one."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time

import gevent
import pytest
from gevent.threadpool import ThreadPool

import greenchannels
from greenchannels import Channel, ConfigurationError, Group, User
from greenchannels.layers import ipc_mesh, outside
from greenchannels.layers.ipc import IpcBus
from greenchannels.layers.ipc_frames import Kind, encode_frame, encode_message
from greenchannels.layers.registry import VARIABLE
from greenchannels.testing import Client
from greenchannels.testing.recording import RecordingMember
from tests.layers.ipc_harness import PATIENCE, family, nursery, until
from tests.layers.test_ipc_links import LARGE, PlayedPeer
from tests.servers.harness import no_leaks

__all__ = ["family", "no_leaks", "nursery"]

#: How programs begin: whether gevent has patched, and whose hub does the sending.
BEGINNINGS = {
    "plain": "",
    "patched": """
        import gevent.monkey
        gevent.monkey.patch_all()
        gevent.get_hub().loop.install_sigchld()  # no child that ends at once is lost
    """,
    "with a hub": """
        import gevent
        gevent.sleep(0.001)
    """,
}

#: What every program has.
COMMON = """
    import os, signal, sys, threading, time
    import greenchannels
    from greenchannels import Channel, Group, LayerUnavailable, User
    room = Group("room")
"""


class Program:
    """A Python program without a server; warnings are errors."""

    def __init__(self, url, source, kind="plain", options=("-W", "error"), **env):
        source = "\n".join(map(textwrap.dedent, (BEGINNINGS[kind], COMMON, source)))
        self.running = subprocess.Popen(
            [sys.executable, *options, "-c", source],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={
                **os.environ,
                "PYTHONPATH": os.getcwd(),
                **({VARIABLE: url} if url else {}),
                **env,
            },
        )

    def line(self):
        """Return the next line that it prints."""
        return self.running.stdout.readline().decode().rstrip()

    def go_on(self):
        """Send it an empty line."""
        self.running.stdin.write(b"\n")
        self.running.stdin.flush()

    def end(self, noise=""):
        """Wait for its end without an error; return the lines that it printed."""
        out, error = self.running.communicate(timeout=PATIENCE)
        assert self.running.returncode == 0, error.decode()
        assert noise in error.decode() if noise else error == b"", error.decode()
        return out.decode().splitlines()


@pytest.fixture
def program(family):
    """A function that starts programs which reach a family of processes."""
    started = []

    def start(source, kind="plain", url=None, **more):
        url = family.url if url is None else url
        started.append(Program(url, source, kind, **more))
        return started[-1]

    yield start
    for each in started:
        if each.running.poll() is None:
            each.running.send_signal(signal.SIGCONT)
            each.running.kill()
        with contextlib.suppress(ValueError):
            each.running.communicate()


@pytest.fixture
def pair(family):
    """Two processes with a member of "room" each."""
    pair = family.start(2)
    for each in pair:
        each("join", "room")
    return pair


def got(pair, count, *, in_order=True):
    """Wait until both have got so many texts; return them, sorted if several sent."""
    for each in pair:
        until(lambda each=each: len(each("texts")) >= count)
    texts = [each("texts") if in_order else sorted(each("texts")) for each in pair]
    assert texts[0] == texts[1]
    return texts[0]


@pytest.fixture
def configured(monkeypatch):
    """Configure layers in this process, and forget that in the end."""
    monkeypatch.delenv(VARIABLE, raising=False)
    yield greenchannels.configure
    greenchannels.configure(layer=None)


# Which layer.


def test_without_a_layer_nothing_can_be_sent(configured):
    """The message says how to name one, by either way."""
    for send in (Group("a").send, User(1).send, Channel("1-ab!1").send):
        with pytest.raises(ConfigurationError) as raised:
            send("hello")
        assert "greenchannels.configure(layer=" in str(raised.value)
        assert VARIABLE in str(raised.value)
    with pytest.raises(ConfigurationError):
        greenchannels.stats()


def test_nothing_is_sent_into_an_empty_memory(configured, monkeypatch):
    """However it was named."""
    configured(layer="memory://")
    with pytest.raises(ConfigurationError, match="memory://"):
        Group("a").send("hello")
    configured(layer=None)
    monkeypatch.setenv(VARIABLE, "memory://")
    with pytest.raises(ConfigurationError, match="memory://"):
        Group("a").send_json({})


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_the_environment_counts_more_than_what_is_configured(pair, program, kind):
    """As it does for servers; either is enough."""
    ways = [
        "greenchannels.configure(layer='ipc://nobody-is-here')",
        f"url = os.environ.pop({VARIABLE!r}); greenchannels.configure(layer=url)",
    ]
    for number, way in enumerate(ways):
        program(f"{way}; room.send('{number}')", kind).end()
    assert got(pair, 2, in_order=False) == ["0", "1"]


def test_who_has_no_sockets_can_add_none(configured, family):
    """Only sockets of other processes, by their names."""
    configured(layer=family.url)
    with pytest.raises(ConfigurationError, match="no sockets"):
        Group("a").add(RecordingMember())
    with pytest.raises(greenchannels.ConnectionEnded):
        Group("a").add("1-0123456789ab!1")
    Group("a").discard("1-0123456789ab!1")


def test_a_server_in_this_process_comes_first(configured, family):
    """Also one that starts later; when it has ended, sends go outside again."""
    peer = family.start()[0]
    peer("join", "room")
    configured(layer=family.url)

    def chat(socket):
        with Group("room").joined(socket):
            socket.send("in")
            socket.wait()

    Group("room").send("before")
    routing = [greenchannels.websocket("/", chat)]
    with Client(routing) as client, client.websocket("/") as socket:
        assert socket.receive() == "in"
        Group("room").send("meanwhile")
        assert socket.receive() == "meanwhile"
    Group("room").send("after")
    until(lambda: len(peer("texts")) >= 2)
    assert peer("texts") == ["before", "after"]


def test_a_url_that_is_configured_anew_is_used_from_then_on(configured, family):
    """What was there for the earlier one is closed."""
    peer = family.start()[0]
    peer("join", "room")
    configured(layer=f"{family.url}-other")
    Group("room").send("elsewhere")
    assert os.listdir(f"{family.folder}-other")
    configured(layer=family.url)
    Group("room").send("here")
    assert not os.listdir(f"{family.folder}-other")
    until(lambda: peer("texts") == ["here"])


# From where.


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_a_program_reaches_all_members(pair, program, family, kind):
    """In order; it leaves nothing behind, and ends at once."""
    source = """
        for number in range(200):
            room.send(str(number))
        room.send_json({"n": 1})
    """
    assert program(source, kind).end() == []
    assert got(pair, 201) == [*map(str, range(200)), '{"n":1}']
    assert len(family.files()) == 4
    for each in pair:
        until(lambda each=each: each("stats")["bus"]["processes"] == 1)
        assert "messages missed" not in each("stats")


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_what_was_sent_arrives_though_the_program_ends_at_once(pair, program, kind):
    """By ``os._exit``, with more than fits into the kernel's buffers."""
    source = """
        for size in (1024 * 1024, 1024 * 1024, 5):
            room.send("x" * size)
        os._exit(0)
    """
    program(source, kind).end()
    assert got(pair, 3) == [1024 * 1024, 1024 * 1024, "xxxxx"]


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_a_group_without_members_takes_what_is_sent(family, program, kind):
    """Whether there are other processes or not, and members elsewhere."""
    source = "room.send('to nobody'); User(1).send('to nobody'); User(1).close()"
    program(source, kind).end()
    other = family.start()[0]
    other("join", "elsewhere")
    program(source, kind).end()
    assert other("texts") == []


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_members_that_come_later_are_reached(family, program, kind):
    """Also in processes that start after the first send."""
    running = program(
        "room.send('early'); print('sent', flush=True); input(); room.send('late')",
        kind,
    )
    assert running.line() == "sent"
    newcomer = family.start()[0]
    newcomer("join", "room")
    running.go_on()
    running.end()
    until(lambda: newcomer("texts") == ["late"])


@pytest.mark.parametrize("kind", ["plain", "patched"])
def test_threads_send_at_the_same_time(pair, program, kind):
    """What each sends stays in its order."""
    source = """
        from concurrent.futures import ThreadPoolExecutor

        def send(name):
            for number in range(50):
                room.send(f"{name} {number}")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(send, "abcdefgh"))
    """
    program(source, kind).end()
    for each in pair:
        until(lambda each=each: len(each("texts")) >= 400)
        texts = each("texts")
        for name in "abcdefgh":
            mine = [text for text in texts if text.startswith(name)]
            assert mine == [f"{name} {number}" for number in range(50)]


def test_greenlets_send_at_the_same_time(pair, program):
    """The first sends wait for one start."""
    source = """
        import gevent
        jobs = [gevent.spawn(room.send, str(number)) for number in range(50)]
        gevent.joinall(jobs, raise_error=True)
        bus = greenchannels.stats()["bus"]
        assert (bus["processes"], bus["processes linked"]) == (2, 2), bus
    """
    program(source, "patched").end()
    expected = sorted(map(str, range(50)))
    assert got(pair, 50, in_order=False) == expected


def test_native_threads_of_a_patched_program_send(pair, program):
    """Those of gevent's thread pools, whose hubs do not run."""
    source = """
        import gevent
        pool = gevent.get_hub().threadpool
        jobs = [pool.spawn(room.send, str(number)) for number in range(20)]
        for job in jobs:
            job.get()
        room.send("own")
    """
    program(source, "patched").end()
    expected = sorted([*map(str, range(20)), "own"])
    assert got(pair, 21, in_order=False) == expected


def test_a_coroutine_sends(pair, program):
    """It blocks its event loop for the send only."""
    source = """
        import asyncio

        async def main():
            for number in range(10):
                room.send(str(number))
                await asyncio.sleep(0)

        asyncio.run(main(), debug=False)
    """
    program(source).end()
    assert got(pair, 10) == [str(n) for n in range(10)]


def test_sends_while_the_interpreter_ends_arrive(pair, program):
    """Those of ``atexit`` functions."""
    source = """
        import atexit
        atexit.register(lambda: room.send("last"))
        room.send("first")
    """
    program(source).end()
    assert got(pair, 2) == ["first", "last"]


@pytest.mark.parametrize(
    ("kind", "first"), [("patched", "unavailable"), ("with a hub", "sent")]
)
def test_hub_callbacks_send(pair, program, kind, first):
    """But for the first send in the main hub, which cannot wait there for the start."""
    source = """
        def send():
            try:
                room.send("from the hub")
            except LayerUnavailable:
                print("unavailable")
            else:
                print("sent")

        for _ in range(2):
            gevent.get_hub().loop.run_callback(send)
            gevent.sleep(0.001)
            room.send("from a greenlet")
    """
    assert program(source, kind).end() == [first, "sent"]
    texts = ["from the hub", "from a greenlet"] * 2
    assert got(pair, 3)[-3:] == texts[-3:]


def test_the_thread_that_sends_leaves_nothing(pair, configured, family, no_leaks):
    """When another layer, or none, is configured."""
    configured(layer=family.url)
    pool = ThreadPool(2)
    try:
        pool.map(Group("room").send, [str(n) for n in range(20)])
        assert len(family.names()) == 3
    finally:
        pool.kill()
    configured(layer=None)
    assert len(family.names()) == 2
    expected = sorted(map(str, range(20)))
    assert got(pair, 20, in_order=False) == expected


# Forks.


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_a_forked_child_sends_by_itself(pair, program, kind):
    """Its parent goes on; both end well."""
    source = """
        room.send("parent")
        pid = os.fork()
        if pid == 0:
            room.send("child")
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        room.send("parent again")
    """
    program(source, kind).end()
    assert got(pair, 3, in_order=False) == ["child", "parent", "parent again"]


def test_children_of_children_send(pair, program):
    """And one that ends as a program does."""
    source = """
        room.send("0")
        for number in (1, 2, 3):
            if pid := os.fork():
                os.waitpid(pid, 0)
                break
            room.send(str(number))
    """
    program(source).end()
    assert got(pair, 4, in_order=False) == ["0", "1", "2", "3"]


def test_processes_of_multiprocessing_send(pair, program):
    """Forked ones, that had a parent which sent, and a pool of them."""
    source = """
        import multiprocessing
        fork = multiprocessing.get_context("fork")
        room.send("parent")
        child = fork.Process(target=room.send, args=["child"])
        child.start()
        child.join()
        assert child.exitcode == 0
        with fork.Pool(2) as pool:
            pool.map(room.send, ["pool"] * 10)
            pool.close()
            pool.join()
        room.send("parent again")
    """
    program(source).end()
    expected = ["child", "parent", "parent again", *["pool"] * 10]
    assert got(pair, len(expected), in_order=False) == expected


def test_a_fork_while_others_send_stops_nobody(pair, program):
    """Whatever the threads of the parent hold at that moment."""
    source = """
        stop = threading.Event()
        room.send("start")

        def send():
            while not stop.is_set():
                Group("others").send("x" * 2000)

        threads = [threading.Thread(target=send) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(20):
            pid = os.fork()
            if pid == 0:
                room.send(f"child {number}")
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        stop.set()
        for thread in threads:
            thread.join()
        room.send("end")
    """
    for each in pair:
        each("join", "others", "another member")
    program(source).end()
    expected = ["start", *[f"child {n}" for n in range(20)], "end"]
    assert got(pair, len(expected), in_order=False) == sorted(expected)


def test_a_child_takes_no_lock_of_its_parents():
    """One that a thread of the parent held would stay locked for ever."""
    with outside._outposts._lock:
        pid = os.fork()
        if pid == 0:
            os._exit(0 if outside._outposts._lock.acquire(timeout=5) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# Losses.


#: Sends until one raises; prints how long the longest and the next took.
UNTIL_IT_RAISES = """
    from greenchannels.layers import outside
    outside.SEND_TIMEOUT = 1.0
    room.send("first")
    print("sent", flush=True)
    input()

    def timed():
        began = time.monotonic()
        try:
            room.send("x" * 50_000)
            return time.monotonic() - began, False
        except LayerUnavailable:
            return time.monotonic() - began, True

    count, longest, raised = 0, 0, False
    while not raised:
        took, raised = timed()
        count += 1
        longest = max(longest, took)
    again, raised = timed()
    assert raised
    print(count, longest, again, greenchannels.stats()[outside.NOT_TAKEN], flush=True)
    input()
    while timed()[1]:
        time.sleep(0.05)
"""


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_who_takes_nothing_is_waited_for_once(pair, program, kind):
    """Others get everything; the sends raise and are counted until it takes again."""
    stopped, other = pair
    running = program(UNTIL_IT_RAISES, kind)
    assert running.line() == "sent"
    stopped.signal(signal.SIGSTOP)
    running.go_on()
    count, longest, again, counted = running.line().split()
    assert 1 <= float(longest) < 10 and float(again) < 0.5
    assert int(counted) == 2
    until(lambda: len(other("texts")) >= int(count) + 2)
    stopped.signal(signal.SIGCONT)
    running.go_on()
    running.end()
    until(lambda: stopped("texts") == other("texts"))


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_who_says_nothing_is_not_waited_for_long(pair, program, kind):
    """The others are reached, and a warning tells of it."""
    stopped, other = pair
    stopped.signal(signal.SIGSTOP)
    began = time.monotonic()
    noise = "1 of 2 processes do not say what they want"
    program("room.send('hello')", kind).end(noise=noise)
    assert time.monotonic() - began < PATIENCE
    until(lambda: other("texts") == ["hello"])
    stopped.signal(signal.SIGCONT)


def test_a_process_that_dies_is_no_loss(pair, program):
    """Its members died with it."""
    running = program(
        "room.send('1'); print('sent', flush=True); input(); room.send('2')"
    )
    assert running.line() == "sent"
    pair[0].kill()
    until(lambda: pair[1]("stats")["bus"]["processes"] == 1)
    running.go_on()
    running.end()
    until(lambda: pair[1]("texts") == ["1", "2"])


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_without_a_folder_there_is_no_way(family, program, kind, tmp_path):
    """Each send says so, and the first after that works, works."""
    above = tmp_path / "above"
    source = f"""
        for _ in range(2):
            try:
                room.send("lost")
            except LayerUnavailable as error:
                print(error)
        os.mkdir({str(above)!r})
        room.send("to nobody")
    """
    lines = program(source, kind, url=f"ipc://{above}/app").end()
    assert len(lines) == 2 and all("No such file" in line for line in lines)


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_a_folder_that_is_open_to_others_is_refused(program, kind, tmp_path):
    """As a server refuses it."""
    folder = tmp_path / "app"
    folder.mkdir()
    folder.chmod(0o755)
    source = """
        try:
            room.send("lost")
        except greenchannels.ConfigurationError as error:
            print(error)
    """
    (line,) = program(source, kind, url=f"ipc://{folder}").end()
    assert "open to other users" in line


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_what_cannot_be_sent_is_refused(pair, program, kind):
    """More than 1 MiB, an event without a type; what follows is sent."""
    source = """
        for wrong in ("x" * (1024 * 1024 + 1), {"n": 1}):
            try:
                room.send(wrong)
            except ValueError as error:
                print(type(error).__name__)
        room.send("x" * 1024 * 1024)
    """
    assert program(source, kind).end() == ["MessageTooLarge", "ValueError"]
    assert got(pair, 1) == [1024 * 1024]


def test_the_counts_are_there_before_the_first_send(configured, family):
    """They start nothing."""
    configured(layer=family.url)
    assert greenchannels.stats()["bus"] == {"processes": 0, "processes linked": 0}
    assert not os.path.exists(family.folder)
    Group("room").send("hello")
    family.start()
    until(lambda: not gevent.sleep(0.001) and greenchannels.stats()["bus"]["processes"])


# What the bus does for it.


@pytest.fixture
def bus(family, monkeypatch):
    """A bus in this process that has started, with what it got."""
    monkeypatch.setattr(ipc_mesh, "RESCAN", 0.05)
    bus, got = IpcBus(family.folder), []
    origin = bus.start(lambda *message: got.append(message), lambda *state: None)
    yield bus, origin, got
    bus.close()


def test_who_leaves_without_reading_is_heard_to_the_end(bus, family):
    """Linux then refuses writes with ECONNRESET, once."""
    bus, origin, got = bus
    peer = PlayedPeer(family.folder, LARGE).dial(origin).settle("c")
    bus.publish("c", b"never read")
    gevent.sleep(0.01)
    for number in range(100):
        peer.send(encode_message("a", b"%d" % number))
    peer.leave()
    bus.publish("c", b"to nobody")
    until(lambda: not gevent.sleep(0.001) and not bus.stats()["processes linked"])
    assert [data for _, data, _ in got] == [b"%d" % n for n in range(100)]
    peer.end()


def test_flushing_waits_for_those_who_want_the_topic(bus, family):
    """Not for others, and not twice for who takes nothing."""
    bus, origin, _ = bus
    idle = PlayedPeer(family.folder, LARGE).dial(origin).settle("idle")
    assert bus.flush("nobody wants it", 1) and bus.flush("idle", 1)
    while bus.flush("idle", 0.05):
        bus.publish("idle", b"x" * 100_000)
    assert bus.flush("other", 5)
    began = time.monotonic()
    assert not bus.flush("idle", 30)
    assert time.monotonic() - began < 3
    reader = gevent.spawn(idle.until_end)
    until(lambda: not gevent.sleep(0.001) and bus.flush("idle", 1))
    idle.send(encode_frame(Kind.UNWANT, ["idle"]))
    bus.close()
    reader.join(PATIENCE)
    idle.end()
