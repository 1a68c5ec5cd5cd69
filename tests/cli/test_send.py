"""``greenchannels send`` and ``tail``, and programs, beside a real server."""

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
from datetime import datetime
from pathlib import Path

import gevent
import pytest

from greenchannels.cli import tail as tail_module
from greenchannels.cli.tail import Line, Printer, describe
from greenchannels.layers.codec import make_broadcast
from greenchannels.layers.registry import VARIABLE
from tests.cli.processes import Family, spread
from tests.cli.test_run import Process

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")

#: Seconds for what takes a fraction of one.
PATIENCE = 30

APP = """
    import os
    from greenchannels import Group, websocket

    def chat(socket):
        socket.user = "anna"
        with Group("all").joined(socket) as group:
            socket.send(str(os.getpid()))
            for message in socket.events():
                if message == "name":
                    socket.send(socket.channel_name)
                elif isinstance(message, dict):
                    socket.send_json(message)
                else:
                    group.send(message)

    routing = [websocket("/ws", chat)]
"""

#: A program without a server; "name" is the channel name of a socket.
PROGRAM = """
import sys
from greenchannels import Channel, ConnectionEnded, Group, User
everybody, name = Group("all"), sys.argv[1]
everybody.send("to all")
everybody.send_json({"to": "all"})
everybody.send({"type": "an.event", "n": 1})
everybody.send("but one", exclude=name)
Channel(name).send("to one")
User("anna").send("to anna")
Group("new").add(name)
Group("new").send("to the new")
Group("new").discard(name)
Group("new").send("to nobody")
try:
    Group("new").add(name + "999")
except ConnectionEnded:
    everybody.send("there is no such socket")
User("anna").close(3001, "bye")
"""


class Command(Process):
    """A program that is read line by line, with a standard input."""

    def __init__(self, folder, *command, env=None, **streams):
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", *command],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.getcwd(), **(env or {})},
            stdin=subprocess.PIPE,
            stdout=streams.get("stdout", subprocess.PIPE),
            stderr=subprocess.PIPE,
        )
        self.error = b""

    def line(self):
        """Return the next line of its output."""
        return self.process.stdout.readline().decode()

    def write(self, data):
        """Write to its standard input."""
        self.process.stdin.write(data)
        self.process.stdin.flush()


@pytest.fixture
def command(tmp_path, monkeypatch):
    """A function that starts ``greenchannels`` with these arguments."""
    monkeypatch.delenv(VARIABLE, raising=False)
    started = []

    def start(*arguments, folder=tmp_path, **more):
        arguments = ("-m", "greenchannels", *arguments)
        started.append(Command(folder, *arguments, **more))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        with contextlib.suppress(ValueError):
            each.process.communicate()


@pytest.fixture
def url(tmp_path):
    """The URL of a layer that nobody else has."""
    path = tmp_path / "app"
    return f"ipc://{path}"


@pytest.fixture
def tail(command, url):
    """A function that starts ``tail``; it listens when it returns."""

    def start(*arguments, **more):
        found = command("tail", *arguments, "--layer", url, **more)
        found.wait_for(rb"Listening to .*\n")
        return found

    return start


@pytest.fixture
def say(command, url):
    """A function that runs ``send`` to its end, and returns what it printed."""

    def run(*arguments, stdin=b"", code=0):
        sending = command("send", *arguments, "--layer", url)
        sending.write(stdin)
        found, out, error = sending.end(PATIENCE)
        assert (found, out) == (code, ""), error
        return error

    return run


@pytest.fixture
def server(tmp_path):
    """A chat in two workers."""
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    command = ("greenchannels", "run", "app:routing", "--workers", "2", "--port", "0")
    family = Family(tmp_path, *command)
    family.wait_for(rb"(?s)(worker \d+ is up.*){2}")
    family.env = {"XDG_RUNTIME_DIR": family._runtime.name}
    yield family
    family.kill()


# A real server.


def test_a_program_reaches_the_sockets_of_all_workers(server, tmp_path):
    """By group, user and channel name; and adds and removes by name."""
    layer = server.wait_for(rb"ipc://[0-9a-f]+")[0].decode()
    with spread(server.address(), server.workers()) as peers:
        one, other = peers.values()
        one.say("name")
        name = one.hear()
        env = {**server.env, VARIABLE: layer}
        program = Command(tmp_path, "-c", PROGRAM, name, env=env)
        code, out, error = program.end(PATIENCE)
        assert (code, out, error) == (0, "", "")
        both = ["to all", '{"to":"all"}', '{"type":"an.event","n":1}']
        mine = ["to one", "to anna", "to the new", "there is no such socket"]
        others = ["but one", "to anna", "there is no such socket"]
        for peer, texts in ((one, both + mine), (other, both + others)):
            # What a consumer answers to the event may come later than what follows it.
            assert sorted(peer.hear() for _ in texts) == sorted(texts)
        for peer in (one, other):
            assert peer.closing().code == 3001


def test_the_shell_finds_the_layer_of_an_app(server, command, tmp_path):
    """By its name, in the folder where it was started; both ways."""
    app = ("--app", "app:routing")
    listening = command("tail", "all", *app, env=server.env)
    listening.wait_for(rb"Listening to 'all' by ipc://[0-9a-f]{16} ")
    with spread(server.address(), server.workers()) as peers:
        sending = command("send", "all", "grün", *app, env=server.env)
        assert sending.end(PATIENCE) == (0, "", "")
        for peer in peers.values():
            assert peer.hear() == "grün"
        assert listening.line() == "grün\n"
        next(iter(peers.values())).say("back")
        assert listening.line() == "back\n"


# send


def test_lines_of_the_standard_input_are_sent_as_they_come(command, tail, url):
    """Also the last without an end; an empty one is a message, too."""
    listening = tail("a")
    sending = command("send", "a", "-", "--layer", url)
    for line in (b"one", b"two words", b"", "grün".encode()):
        sending.write(line + b"\n")
        assert listening.line().encode() == line + b"\n"
    sending.write(b"three\nthe last")
    assert sending.end(PATIENCE) == (0, "", "")
    assert [listening.line() for _ in range(2)] == ["three\n", "the last\n"]


def test_events_are_json(tail, say):
    """On the command line, or a line each."""
    listening = tail("a", "--json")
    say("a", '{"type": "x", "list": [1, null]}', "--event")
    found = [json.loads(listening.line())]
    say("a", "-", "--event", stdin=b'{"type": "y"}\n{"type": "z"}\n')
    found += [json.loads(listening.line()) for _ in range(2)]
    assert [each["kind"] for each in found] == ["event"] * 3
    events = [{"type": "x", "list": [1, None]}, {"type": "y"}, {"type": "z"}]
    assert [each["data"] for each in found] == events


def test_it_is_told_that_nobody_is_there(tail, say):
    """That is no failure; nothing said is nothing sent."""
    assert say("a", "hello") == "Nobody is in 'a' now.\n"
    tail("a")
    assert say("a", "hello") == ""
    assert say("b", "hello") == "Nobody is in 'b' now.\n"
    assert say("b", "-") == ""


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (("", "x"), b"", "not a name for a group"),
        (("a", "{", "--event"), b"", "no JSON"),
        (("a", '["type"]', "--event"), b"", 'an event is a JSON object with a "type"'),
        (("a", '{"type": 5}', "--event"), b"", "an event is a JSON object"),
        (("a", "-"), b"one\n\xff\n", "line 2: the text is not UTF-8"),
        (("a", "-"), b"x" * (1024 * 1024 + 5), "line 1: a message of "),
        (("a", b"\xff"), b"", "the text is not UTF-8"),
    ],
)
def test_what_cannot_be_sent_is_one_line(say, arguments, stdin, message):
    """And exit code 2."""
    error = say(*arguments, stdin=stdin, code=2)
    assert error.startswith("Error: ") and message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["send", "tail"])
@pytest.mark.parametrize(
    ("options", "env", "code", "message"),
    [
        ((), {}, 2, "no layer: name the servers' by --layer"),
        (("--layer", "memory://"), {}, 2, "memory:// lives inside one server"),
        ((), {VARIABLE: "memory://"}, 2, "memory:// lives inside one server"),
        (("--layer", "ipc://a", "--app", "b"), {}, 2, "give one of them"),
        (("--layer", "carrier://pigeon"), {}, 2, "no layer for 'carrier://pigeon'"),
        (("--layer", "ipc:///proc/none/app"), {}, 1, "no socket for ipc:// there"),
        ((), {VARIABLE: "ipc:///proc/none/app"}, 1, "no socket for ipc:// there"),
    ],
)
def test_without_a_layer_nothing_is_done(command, name, options, env, code, message):
    """Each reason is one line, and has its exit code."""
    arguments = ("a", "text") if name == "send" else ("a",)
    found, out, error = command(name, *arguments, *options, env=env).end(PATIENCE)
    assert (found, out, error.count("\n")) == (code, "", 1), error
    assert message in error


def test_a_layer_on_the_command_line_counts_more_than_the_environment(
    command, tail, url
):
    """As all options do."""
    listening = tail("a", env={VARIABLE: "ipc://nobody-is-here"})
    env = {VARIABLE: "ipc://nobody-is-here"}
    sending = command("send", "a", "hello", "--layer", url, env=env)
    assert sending.end(PATIENCE) == (0, "", "")
    assert listening.line() == "hello\n"


# tail


def test_messages_are_lines(tail, say):
    """Whatever is in them; groups are named where there are several."""
    listening = tail("a", "b")
    say("a", "two\nlines\x1b[31m\t\\n")
    assert listening.line() == "a: two\\nlines\\x1b[31m\t\\n\n"
    say("b", '{"type": "x"}', "--event")
    assert listening.line() == 'b: [event] {"type":"x"}\n'


def test_lines_of_json_are_exact(tail, say):
    """Group, kind, time and data."""
    listening = tail("a", "--json")
    say("a", "two\nlines")
    found = json.loads(listening.line())
    time = found.pop("time")
    assert found == {"group": "a", "kind": "text", "data": "two\nlines"}
    assert time.endswith("+00:00") and time[10] == "T"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_ends_by_a_signal(tail, tmp_path, number):
    """With exit code 0 and without noise; its socket is removed."""
    listening = tail("a")
    assert len(list((tmp_path / "app").iterdir())) == 2
    listening.signal(number)
    code, out, error = listening.end(PATIENCE)
    assert (code, out, error.count("\n")) == (0, "", 1), error
    assert not list((tmp_path / "app").iterdir())


def test_it_ends_when_nobody_reads_any_more(tail, say):
    """At once, as in ``tail GROUP | head -1``."""
    listening = tail("a")
    say("a", "hello")
    assert listening.line() == "hello\n"
    listening.process.stdout.close()
    assert listening.process.wait(PATIENCE) == 0
    assert listening.process.stderr.read() == b""


def test_an_output_that_is_full_is_an_error(command, say, url):
    """Exit code 1, and one line that says so."""
    with open("/dev/full", "wb") as full:
        listening = command("tail", "a", "--layer", url, stdout=full)
        listening.wait_for(rb"Listening")
        say("a", "hello")
        assert listening.process.wait(PATIENCE) == 1
    assert b"Error: cannot write: No space left" in listening.process.stderr.read()


@pytest.fixture
def printer():
    """A printer of a pipe, and the pipe's other end."""
    theirs, ours = os.pipe()
    assert stat.S_ISFIFO(os.fstat(ours).st_mode)
    printer = Printer(ours, Line(False))
    yield printer, theirs
    printer.stop()
    os.close(ours)
    os.close(theirs)


def test_an_output_that_is_too_slow_loses_messages(printer, monkeypatch, capsys):
    """So many that wait, then the standard error says how many were lost."""
    monkeypatch.setattr(tail_module, "MAX_WAITING", 1000)
    printer, theirs = printer
    for _ in range(100):
        message = make_broadcast("x" * 99)
        message.topic = "g:a"
        printer.deliver(message)
    printer.start()
    with gevent.Timeout(PATIENCE):
        while not (error := capsys.readouterr().err):
            gevent.sleep(0.001)
    assert error == "Dropped: 89, the output was too slow\n"
    assert os.read(theirs, 9999) == (b"x" * 99 + b"\n") * 11


@pytest.mark.parametrize(
    ("missed", "told"), [(3, "Missed: 3 of 'a'\n"), (None, "Missed: some of 'a'\n")]
)
def test_gaps_are_told_beside_the_output(printer, capsys, missed, told):
    """They are no messages."""
    printer, _ = printer
    gap = make_broadcast({"type": "layer.gap", "missed": missed, "group": "a"})
    gap.topic = "g:a"
    printer.deliver(gap)
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    ("content", "plain", "exact"),
    [
        (b"\x00a", "[binary, 2 bytes] 0061", "AGE="),
        ("\u2028", "\\u2028", "\u2028"),
        (
            {"type": "x", b"k": b"\x00a", "at": datetime(2026, 1, 2)},
            '[event] {"type":"x","aw==":"AGE=","at":"2026-01-02T00:00:00"}',
            {"type": "x", "aw==": "AGE=", "at": "2026-01-02T00:00:00"},
        ),
    ],
)
def test_every_kind_of_message_has_a_form(content, plain, exact):
    """For people and for programs."""
    broadcast = make_broadcast(content)
    read = tail_module.read_content(broadcast)
    assert Line(False)("a", broadcast.kind, read, 0.0) == plain
    found = json.loads(describe("a", broadcast.kind, read, 0.0))
    assert found["data"] == exact and found["time"].startswith("1970-01-01T00:00:00")
