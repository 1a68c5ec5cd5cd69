"""Every example runs, and does what its README says."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from .browser import Browser, find_chromium
from .browser.chromium import wait_until
from .layers.redis_harness import BINARY

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path.parent.name for path in ROOT.glob("examples/*/__init__.py"))

#: Seconds for anything that a server or a peer does: ten times what it takes.
PATIENCE = 30


class Server:
    """
    ``greenchannels run`` of one example, in a process of its own.

    Args:
        example: Its folder's name.
        folder: Where its output is written.
        port: To listen on; 0 takes any free one.

    """

    def __init__(self, example, folder, port=0, options=()):
        self.output = folder / "server.log"
        app = f"examples.{example}:routing"
        command = ["run", app, "--port", str(port), *options]
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "greenchannels", *command],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            self.port = int(wait_until(self._listening, "the server's start")[1])
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        self.address = f"127.0.0.1:{self.port}"

    def said(self):
        """Return everything it has written so far."""
        return self.output.read_text()

    def stop(self):
        """Ask it to end as an operator would; it ends well."""
        self.process.terminate()
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        assert code == 0, self.said()
        assert "Traceback" not in self.said()

    def _listening(self):
        found = re.search(r"Listening on http://127\.0\.0\.1:(\d+)", self.said())
        if found is None and self.process.poll() is not None:
            raise RuntimeError(f"the server ended at its start:\n{self.said()}")
        return found


@contextmanager
def serving(example, folder):
    """Run an example for the length of a ``with`` block."""
    server = Server(example, folder)
    try:
        yield server
    finally:
        server.stop()


def test_there_are_examples():
    """The tests below have something to run."""
    assert {"chat", "echo"} <= set(EXAMPLES)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_starts_and_stops(example, tmp_path):
    """By the command that its README names, and with exit code 0."""
    readme = (ROOT / "examples" / example / "README.md").read_text()
    assert f"greenchannels run examples.{example}:routing\n" in readme
    with serving(example, tmp_path):
        pass


# Echo.


def test_echo_sends_back_what_it_gets(tmp_path):
    """Text as text, binary as binary, in order, and until the peer leaves."""
    with (
        serving("echo", tmp_path) as server,
        connect(f"ws://{server.address}/") as socket,
    ):
        messages = ["hello", b"\x00\xff", "", "\N{SLOTH}" * 30_000]
        for message in messages:
            socket.send(message)
        assert [socket.recv(timeout=PATIENCE) for _ in messages] == messages
        socket.close()
        assert socket.close_code == 1000


# The chat's protocol.


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    """A server of the chat, for tests that leave it as it was."""
    with serving("chat", tmp_path_factory.mktemp("chat")) as server:
        yield server


@pytest.fixture
def join(chat):
    """Join a room: ``join(name, room)`` is a socket that the server has let in."""
    with ExitStack() as stack:
        yield lambda name, room: stack.enter_context(
            connect(
                f"ws://{chat.address}/chat/{quote(room, safe='')}"
                f"?{urlencode({'name': name})}"
            )
        )


def hear(socket):
    """Return the next message, decoded."""
    return json.loads(socket.recv(timeout=PATIENCE))


def tell(socket, **message):
    """Send a message as JSON."""
    socket.send(json.dumps(message))


def meet(join, room):
    """Let Ann and then Bob into a room; return both, nothing unread."""
    ann = join("Ann", room)
    # Her own answer says that she is in the room: what comes now reaches her.
    tell(ann, type="text", text="first")
    assert hear(ann)["type"] == "sent"
    bob = join("Bob", room)
    assert hear(ann) == {"type": "join", "name": "Bob"}
    return ann, bob


def test_a_message_reaches_both_and_counts(join):
    """The others get the text, its writer the confirmation; each has a counter."""
    ann, bob = meet(join, "tea")
    for n, text in enumerate(["hello", "anybody?"], 2):
        tell(ann, type="text", text=text)
        said = {"name": "Ann", "text": text, "count": n}
        assert hear(bob) == {"type": "text", **said}
        assert hear(ann) == {"type": "sent", **said}
    tell(bob, type="text", text="here")
    assert hear(ann) == {"type": "text", "name": "Bob", "text": "here", "count": 1}


def test_typing_is_told_to_the_others_only(join):
    """The next that the writer hears is the confirmation of what they said then."""
    ann, bob = meet(join, "typing")
    tell(ann, type="typing")
    assert hear(bob) == {"type": "typing", "name": "Ann"}
    tell(ann, type="text", text="done")
    assert hear(ann)["type"] == "sent"


def test_rooms_do_not_hear_each_other(join):
    """Who is elsewhere hears nothing, whatever the rooms are called."""
    ann, _ = meet(join, "größe 10% ?#")
    eve, _ = meet(join, "größe 10%")
    tell(ann, type="text", text="psst")
    assert hear(ann)["type"] == "sent"
    tell(eve, type="text", text="alone")
    assert hear(eve)["text"] == "alone"


def test_who_leaves_is_missed(join):
    """The others are told, and it is the last they hear of them."""
    ann, bob = meet(join, "leaving")
    bob.close()
    assert hear(ann) == {"type": "leave", "name": "Bob"}


@pytest.mark.parametrize("text", ["{", "", "[1", '"\\ud800'])
def test_bad_json_closes_with_1007(join, text):
    """It is no speaker of the protocol; the others see them leave."""
    ann, bob = meet(join, "nonsense")
    bob.send(text)
    with pytest.raises(ConnectionClosed):
        bob.recv(timeout=PATIENCE)
    assert bob.close_code == 1007
    assert hear(ann) == {"type": "leave", "name": "Bob"}


@pytest.mark.parametrize(
    "message", [{}, [], 1, None, {"type": "text"}, {"type": "text", "text": 7}]
)
def test_json_of_another_form_is_ignored(join, message):
    """Nobody hears of it, and it does not count."""
    ann, bob = meet(join, "strange")
    bob.send(json.dumps(message))
    tell(bob, type="text", text=" ")
    tell(bob, type="text", text="sorry")
    assert hear(bob)["count"] == 1
    assert hear(ann)["text"] == "sorry"


def test_names_and_texts_are_bounded(join):
    """Long ones are cut, white space in names is folded, no name is a name too."""
    ann, _ = meet(join, "bounds")
    long = join("  A\tB\n" + "x" * 100, "bounds")
    name = "A B " + "x" * 36
    assert hear(ann) == {"type": "join", "name": name}
    tell(long, type="text", text="y" * 5000)
    assert hear(ann) == {"type": "text", "name": name, "text": "y" * 1000, "count": 1}
    join(" ", "bounds")
    assert hear(ann) == {"type": "join", "name": "Somebody"}


@pytest.mark.parametrize("room", ["x" * 300, "a\x07b"])
def test_a_room_that_cannot_be_is_404(join, room):
    """The handshake is refused before anything is sent."""
    with pytest.raises(InvalidStatus) as refused:
        join("Ann", room)
    assert refused.value.response.status_code == 404


def test_the_page_allows_nothing_from_elsewhere(chat):
    """Its policy forbids scripts in the page, and it has none."""
    with urllib.request.urlopen(
        f"http://{chat.address}/?room=tea", timeout=PATIENCE
    ) as response:
        policy = response.headers["Content-Security-Policy"]
        html = response.read().decode()
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert re.findall(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=", html) == []
    for url in re.findall(r'(?:src|href)="([^"]+)"', html):
        with urllib.request.urlopen(
            f"http://{chat.address}/{url}", timeout=PATIENCE
        ) as file:
            assert file.status == 200
    with pytest.raises(urllib.error.HTTPError) as missing:
        urllib.request.urlopen(
            f"http://{chat.address}/static/../__init__.py", timeout=PATIENCE
        )
    with missing.value as error:
        assert error.code == 404


# The chat in a browser.

needs_chromium = pytest.mark.skipif(
    find_chromium() is None, reason="there is no Chromium on the path"
)

#: What Chromium itself writes to the console when a server is not there.
REFUSED = re.compile(r"WebSocket connection to '.*' failed")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """A browser for all tests."""
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def browser(chromium):
    """The browser, whose pages are closed after the test."""
    yield chromium
    chromium.close_pages()


def shown(page, selector):
    """Return what an element says."""
    return page.evaluate(f"document.querySelector({json.dumps(selector)}).textContent")


def wait_shown(page, selector, text):
    """Wait until some element says ``text`` and nothing else."""
    page.wait(
        f"[...document.querySelectorAll({json.dumps(selector)})]"
        f".some((each) => each.textContent === {json.dumps(text)})"
    )


def wait_status(page, *states):
    """Wait until the page shows one of these states of its connection."""
    page.wait(
        f"{json.dumps(states)}.includes(document.querySelector('#status').dataset.state)"
    )


def enter(browser, server, name, room, **window):
    """Follow a link to a room, give a name, and return the page, connected."""
    query = urlencode({"room": room})
    page = browser.open(f"http://{server.address}/?{query}", **window)
    page.wait("!document.querySelector('#door').hidden")
    assert page.evaluate("document.querySelector('#room').value") == room
    page.evaluate("document.querySelector('#name').select()")
    page.type(name)
    page.press("Enter")
    wait_status(page, "connected")
    return page


def write(page, text):
    """Type into the box, without sending."""
    page.evaluate("document.querySelector('#text').focus()")
    page.type(text)


def send(page, text):
    """Type a message, send it, and wait for the server's confirmation."""
    write(page, text)
    page.press("Enter")
    wait_shown(page, "#messages .own .said", text)


def check_errors(page):
    """Nothing was written to the console but that a server was not there."""
    page.evaluate("1")  # what was written before has arrived after this
    assert [error for error in page.errors if not REFUSED.search(error)] == []


@needs_chromium
@pytest.mark.browser
def test_two_pages_chat(browser, chat):
    """Who types is shown to the other only; messages arrive and are counted."""
    ann = enter(browser, chat, "Ann", "browser")
    bob = enter(browser, chat, "Bob", "browser", width=375, height=812)
    wait_shown(ann, "#messages .note", "Bob joined")
    write(ann, "hel")
    wait_shown(bob, "#typing", "Ann is typing…")
    assert shown(ann, "#typing") == ""
    assert shown(ann, "#count") == "0"
    write(ann, "lo")
    ann.press("Enter")
    wait_shown(bob, "#messages .message:not(.own) .said", "hello")
    wait_shown(ann, "#messages .own .said", "hello")
    assert shown(bob, "#messages .author") == "Ann"
    assert shown(bob, "#typing") == ""
    wait_shown(ann, "#count", "1")
    assert shown(bob, "#count") == "0"
    send(ann, "again")
    wait_shown(ann, "#count", "2")
    # Typing ends by itself.
    write(bob, "hm")
    wait_shown(ann, "#typing", "Bob is typing…")
    wait_shown(ann, "#typing", "")
    bob.click("#leave")
    wait_shown(ann, "#messages .note", "Bob left")
    for page in (ann, bob):
        page.evaluate("1")
        assert page.errors == []


@needs_chromium
@pytest.mark.browser
def test_what_peers_write_is_text(browser, chat, join):
    """Markup is shown as it was written, in messages and in names."""
    markup = "<img src=x onerror='document.title = 1'><b>&amp;"
    page = enter(browser, chat, "Ann", "markup")
    eve = join("<i>Eve</i>", "markup")
    tell(eve, type="text", text=markup)
    tell(eve, type="typing")
    wait_shown(page, "#messages .said", markup)
    wait_shown(page, "#typing", "<i>Eve</i> is typing…")
    assert (
        page.evaluate("document.querySelectorAll('#chat :is(b, i, img)').length") == 0
    )
    check_errors(page)


@needs_chromium
@pytest.mark.browser
@pytest.mark.parametrize("width", [375, 1280])
def test_nothing_is_wider_than_the_window(browser, chat, join, width):
    """Not the door, not the room, whatever the names and words in it."""
    page = browser.open(f"http://{chat.address}/", width=width, height=800)
    page.wait("!document.querySelector('#door').hidden")
    fits = (
        "document.documentElement.scrollWidth <= innerWidth"
        " && document.documentElement.scrollHeight <= innerHeight"
    )
    assert page.evaluate(fits)
    room, name = "r" * 40, "W" * 40
    page = enter(browser, chat, name, room, width=width, height=800)
    peer = join(name, room)
    for text in ("x" * 1000, "many short words " * 50, "line\n" * 30):
        tell(peer, type="text", text=text)
        send(page, text.strip()[:900].replace("\n", " "))
    tell(peer, type="typing")
    wait_shown(page, "#typing", f"{name} is typing…")
    assert page.evaluate(fits)
    inner = "document.querySelector('#scroller')"
    assert page.evaluate(f"{inner}.scrollWidth <= {inner}.clientWidth")
    check_errors(page)


@needs_chromium
@pytest.mark.browser
def test_the_list_is_bounded_and_follows_only_who_reads_its_end(browser, chat, join):
    """Who has scrolled back stays there, and is told of what is new."""
    page = enter(browser, chat, "Ann", "many", height=600)
    peer = join("Bob", "many")
    for n in range(400):
        tell(peer, type="text", text=f"message {n}")
        assert hear(peer)["count"] == n + 1
    wait_shown(page, "#messages .said", "message 399")
    assert page.evaluate("document.querySelectorAll('#messages li').length") == 300
    at_end = (
        "(({scrollHeight, scrollTop, clientHeight}) =>"
        " scrollHeight - scrollTop - clientHeight < 2)"
        "(document.querySelector('#scroller'))"
    )
    assert page.evaluate(at_end)
    page.resize(375, 500)
    page.draw()
    assert page.evaluate(at_end)
    page.evaluate("document.querySelector('#scroller').scrollTop = 200")
    page.draw()
    tell(peer, type="text", text="new")
    tell(peer, type="text", text="newer")
    wait_shown(page, "#newer", "2 new messages")
    assert not page.evaluate(at_end)
    page.click("#newer")
    page.wait(at_end)
    assert page.evaluate("document.querySelector('#newer').hidden")
    check_errors(page)


@needs_chromium
@pytest.mark.browser
def test_a_page_comes_back_after_the_server_did(browser, tmp_path):
    """It says that it is not connected, keeps what was typed, and reconnects."""
    server = Server("chat", tmp_path)
    try:
        ann = enter(browser, server, "Ann", "lobby")
        bob = enter(browser, server, "Bob", "lobby")
        send(ann, "before")
        for page in (ann, bob):
            page.evaluate("1")
            assert page.errors == []
        server.stop()
        for page in (ann, bob):
            wait_status(page, "waiting", "connecting")
            page.wait(
                "/^Reconnecting in/.test(document.querySelector('#status').innerText)"
            )
        write(ann, "do not lose me")
        ann.press("Enter")
        ann.wait("/Not connected/.test(document.querySelector('#hint').textContent)")
        assert ann.evaluate("document.querySelector('#text').value") == "do not lose me"
        server = Server("chat", tmp_path, server.port)
        for page in (ann, bob):
            wait_status(page, "connected")
        assert shown(ann, "#count") == "0"
        ann.press("Enter")
        wait_shown(bob, "#messages .message:not(.own) .said", "do not lose me")
        wait_shown(ann, "#count", "1")
        assert ann.evaluate("document.querySelector('#text').value") == ""
        send(bob, "welcome back")
        wait_shown(ann, "#messages .message:not(.own) .said", "welcome back")
        check_errors(ann)
        check_errors(bob)
    finally:
        server.stop()


@needs_chromium
@pytest.mark.browser
def test_a_message_that_was_not_confirmed_goes_back_into_the_box(browser, tmp_path):
    """Before what was typed since, and with a word on what that means."""
    server = Server("chat", tmp_path)
    try:
        page = enter(browser, server, "Ann", "lobby")
        send(page, "confirmed")
        server.process.send_signal(signal.SIGSTOP)
        write(page, "into the void")
        page.press("Enter")
        wait_shown(page, "#pending .said", "into the void")
        assert page.evaluate("document.querySelector('#text').value") == ""
        write(page, "and more")
    finally:
        server.process.kill()
        server.process.wait()
    wait_status(page, "waiting", "connecting")
    box = page.evaluate("document.querySelector('#text').value")
    assert box == "into the void\nand more"
    assert "may not have arrived" in shown(page, "#hint")
    assert shown(page, "#pending") == ""
    page.click("#leave")
    page.wait("!document.querySelector('#door').hidden")
    check_errors(page)


@needs_chromium
@pytest.mark.browser
def test_a_reload_and_the_back_button_go_on(browser, chat):
    """A reload keeps name, room and draft; going back leads through the door."""
    page = enter(browser, chat, "Ann", "history")
    write(page, "half a sent")
    page.go(f"http://{chat.address}/?room=history")
    wait_status(page, "connected")
    assert shown(page, "#me") == "Ann"
    assert page.evaluate("document.querySelector('#text').value") == "half a sent"
    page.click("#leave")
    page.wait("!document.querySelector('#door').hidden && location.search === ''")
    page.evaluate("history.back()")
    page.wait("document.querySelector('#door').hidden")
    wait_status(page, "connected")
    assert shown(page, "#here") == "history"
    check_errors(page)


@needs_chromium
@pytest.mark.browser
def test_waiting_is_jittered_bounded_and_ends_when_online(browser, chat):
    """Delays are anything up to a bound that doubles to 30 s; "online" ends them."""
    page = browser.open(f"http://{chat.address}/")
    bounds = page.evaluate(
        """import("/static/connection.js").then(({ backoff }) =>
            [0, 1, 2, 5, 6, 7, 2000].map((n) => backoff(n, () => 1)))"""
    )
    assert bounds == [500, 1000, 2000, 16000, 30000, 30000, 30000]
    assert page.evaluate(
        """import("/static/connection.js").then(({ backoff }) => {
            const some = Array.from({ length: 200 }, () => backoff(9));
            return Math.min(...some) < 10000 && Math.max(...some) > 20000
                && Math.max(...some) <= 30000;
        })"""
    )
    states = page.evaluate(
        """(async () => {
            const { Connection } = await import("/static/connection.js");
            const sockets = [], states = [];
            class Fake {
                static OPEN = 1;
                constructor() { this.readyState = 0; sockets.push(this); }
                close() {}
            }
            const real = window.WebSocket, random = Math.random;
            window.WebSocket = Fake;
            Math.random = () => 1;
            const connection = new Connection("ws://x/", {
                onstate: (state) => {
                    if (state !== states.at(-1)) states.push(state);
                },
                onmessage() {},
            });
            connection.open();
            sockets[0].onclose();
            dispatchEvent(new Event("online"));
            sockets[1].onopen();
            connection.drop();
            connection.close();
            dispatchEvent(new Event("online"));
            window.WebSocket = real;
            Math.random = random;
            return [...states, sockets.length];
        })()"""
    )
    assert states == [
        *("connecting", "waiting", "connecting", "connected", "waiting", "closed"),
        2,
    ]
    check_errors(page)


# The live blog.


@pytest.fixture(scope="module")
def blog(tmp_path_factory):
    """A server of the live blog."""
    with serving("liveblog", tmp_path_factory.mktemp("blog")) as server:
        yield server


def post(server, slug, content, kind="application/json"):
    """Post to a blog; return status and answer."""
    request = urllib.request.Request(
        f"http://{server.address}/blogs/{quote(slug)}/posts",
        data=content.encode(),
        headers={"Content-Type": kind},
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def read_blog(server, slug):
    """Return a socket that reads a blog."""
    return connect(f"ws://{server.address}/blogs/{quote(slug, safe='')}/live")


def test_a_post_is_shown_to_all_who_read_and_who_come_later(blog):
    """Each blog has its own readers; numbers grow."""
    with (
        read_blog(blog, "launch") as ann,
        read_blog(blog, "launch") as bob,
        read_blog(blog, "garden") as eve,
    ):
        status, first = post(blog, "launch", '{"text": " We are live. "}')
        assert (status, first["text"]) == (201, "We are live.")
        assert hear(ann) == hear(bob) == first
        assert post(blog, "garden", '{"text": "Rain."}')[1] == hear(eve)
        second = post(blog, "launch", json.dumps({"text": "x" * 2000}))[1]
        assert hear(ann) == hear(bob) == second
        assert second["text"] == "x" * 1000 and second["number"] > first["number"]
        with read_blog(blog, "launch") as late:
            assert [hear(late), hear(late)] == [first, second]


@pytest.mark.parametrize("slug", ["nowhere", "größe", "x" * 150])
def test_a_blog_that_is_not_there(blog, slug):
    """An answer and a code of its own; a post is 404."""
    with read_blog(blog, slug) as socket:
        assert hear(socket) == {"error": "There is no such blog."}
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=PATIENCE)
        assert socket.close_code == 4404
    assert post(blog, slug, '{"text": "hello"}')[0] == 404


@pytest.mark.parametrize("slug", ["x" * 300, "a\x07b"])
def test_a_blog_that_cannot_be_is_404(blog, slug):
    """Its name is none for a group."""
    with pytest.raises(InvalidStatus) as refused, read_blog(blog, slug):
        pass
    assert refused.value.response.status_code == 404


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        *(("nonsense", "application/json"), ("[]", "application/json")),
        *(("{}", "application/json"), ('{"text": " "}', "application/json")),
        *(('{"text": 7}', "application/json"), ('{"text": "x"}', "text/plain")),
    ],
)
def test_what_is_no_post_is_refused(blog, content, kind):
    """Forms of other sites cannot send JSON without being asked first."""
    assert post(blog, "garden", content, kind) == (400, {"error": "A post has a text."})


@pytest.mark.parametrize("said", ["nonsense", '{"text": "x"}', b"\x00"])
def test_readers_only_read(blog, said):
    """Whatever they say: 1008."""
    with read_blog(blog, "garden") as socket:
        socket.send(said)
        with pytest.raises(ConnectionClosed):
            while True:
                socket.recv(timeout=PATIENCE)
        assert socket.close_code == 1008


@needs_chromium
@pytest.mark.browser
def test_two_pages_read_a_blog(browser, blog):
    """What one posts, both show, as text; a page without a blog says so."""
    url = f"http://{blog.address}/blogs/launch"
    ann, bob = browser.open(url), browser.open(url, width=375, height=800)
    for page in (ann, bob):
        page.wait("document.querySelector('#status').textContent === 'Live'")
    markup = "<img src=x onerror='document.title = 1'><b>&amp;"
    ann.evaluate("document.querySelector('#text').focus()")
    ann.type(markup)
    ann.click("#write button")
    for page in (ann, bob):
        wait_shown(page, "#posts li", markup)
        assert page.evaluate("document.querySelectorAll('#posts img').length") == 0
    ann.wait("document.querySelector('#text').value === ''")
    assert bob.evaluate("document.documentElement.scrollWidth <= innerWidth")
    nowhere = browser.open(f"http://{blog.address}/blogs/nowhere")
    wait_shown(nowhere, "#status", "No such blog")
    for page in (ann, bob, nowhere):
        check_errors(page)


@needs_chromium
@pytest.mark.browser
def test_a_blogs_page_comes_back_after_the_server_did(browser, tmp_path):
    """And shows what is there now."""
    server = Server("liveblog", tmp_path)
    try:
        page = browser.open(f"http://{server.address}/blogs/garden")
        page.wait("document.querySelector('#status').textContent === 'Live'")
        post(server, "garden", '{"text": "before"}')
        wait_shown(page, "#posts li", "before")
        server.stop()
        page.wait("document.querySelector('#status').textContent !== 'Live'")
        server = Server("liveblog", tmp_path, server.port)
        page.wait("document.querySelector('#status').textContent === 'Live'")
        post(server, "garden", '{"text": "after"}')
        wait_shown(page, "#posts li", "after")
        assert page.evaluate("document.querySelectorAll('#posts li').length") == 1
        check_errors(page)
    finally:
        server.stop()


# Hosts.


def test_two_hosts_meet_at_a_redis():
    """The script shows it, serves both pages, and leaves nothing behind."""
    script = subprocess.Popen(
        [sys.executable, "-u", "-m", "examples.hosts"],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{os.environ['PATH']}:{Path(BINARY).parent}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said = []
        while not (said and said[-1].startswith("Open both pages")):
            line = script.stdout.readline()
            assert line, said
            said.append(line)
        assert sum("is heard at the other" in line for line in said) == 2
        pages = re.findall(r"http://127\.0\.0\.1:\d+/", "".join(said))
        assert len(pages) == 2
        for page in pages:
            assert urllib.request.urlopen(page, timeout=PATIENCE).status == 200
        script.send_signal(signal.SIGINT)
        assert (script.wait(PATIENCE), script.stdout.read()) == (0, "")
        for page in pages:
            with pytest.raises(urllib.error.URLError):
                urllib.request.urlopen(page, timeout=PATIENCE)
    finally:
        script.terminate()
        script.wait(PATIENCE)
        script.stdout.close()
