"""``static``: how files are sent, and what happens when they change meanwhile."""

import contextlib
import gzip
import hashlib
import os
import shutil

import gevent
import pytest
from gevent import subprocess

from greenchannels import static
from greenchannels.hosting.files import CHUNK, ZERO_COPY, ZERO_COPY_FROM, Folder
from tests.hosting.static_calls import WAYS, call, routing, settle
from tests.servers.harness import request, until

#: More than sockets buffer.
HUGE = 24 * 1024 * 1024


@pytest.fixture
def folder(tmp_path):
    """A folder with files of sizes that matter."""
    sizes = 0, 1, ZERO_COPY_FROM - 1, ZERO_COPY_FROM, CHUNK, CHUNK + 1, 3 * CHUNK
    for size in sizes:
        (tmp_path / f"{size}").write_bytes(os.urandom(size))
    return tmp_path


SIZES = [0, 1, ZERO_COPY_FROM - 1, ZERO_COPY_FROM, CHUNK, CHUNK + 1, 3 * CHUNK]


@pytest.mark.parametrize("size", SIZES)
def test_a_large_part_is_left_to_the_server(folder, size):
    """In one event with the open file; a small one is read and sent with its head."""
    data = (folder / str(size)).read_bytes()
    seen = []

    def send(event):
        if event["type"] == ZERO_COPY:
            fd = event["file"].fileno()
            body = os.pread(fd, event["count"], event["offset"])
            event = {**event, "body": body}
        seen.append(event)

    call(folder, f"/{size}", zero_copy=True, send=send)
    start, body = seen
    assert (b"content-length", b"%d" % size) in start["headers"]
    assert body["type"] == (
        ZERO_COPY if size >= ZERO_COPY_FROM else "http.response.body"
    )
    assert body["body"] == data
    assert body["more_body"] is False


@pytest.mark.parametrize("size", SIZES)
def test_without_the_extension_files_are_read_in_pieces(folder, size):
    """Of 256 KiB; the last one says that it is."""
    _, *bodies = call(folder, f"/{size}")
    assert {event["type"] for event in bodies} == {"http.response.body"}
    assert b"".join(e["body"] for e in bodies) == (folder / f"{size}").read_bytes()
    assert [e["more_body"] for e in bodies] == [True] * (len(bodies) - 1) + [False]
    assert max(len(event["body"]) for event in bodies) <= CHUNK
    assert len(bodies) == max(1, -(-size // CHUNK))


def test_a_part_is_told_by_offset_and_count(folder):
    """Of several, all but the end of their frame have more behind them."""
    size = 3 * CHUNK
    field = (b"range", b"bytes=10-%d" % (size - 11))
    _, body = call(folder, f"/{size}", [field], zero_copy=True)
    assert (body["offset"], body["count"]) == (10, size - 20)
    assert body["more_body"] is False
    field = (b"range", b"bytes=%d-,0-%d,-1" % (size - CHUNK, CHUNK))
    start, *bodies = call(folder, f"/{size}", [field], zero_copy=True)
    parts = [e for e in bodies if e["type"] == ZERO_COPY]
    assert [(e["offset"], e["count"]) for e in parts] == [
        (0, CHUNK + 1),
        (size - CHUNK, CHUNK),
    ]
    assert [e["more_body"] for e in bodies] == [True] * 4 + [False]
    framed = sum(len(e.get("body", b"")) + e.get("count", 0) for e in bodies)
    assert (b"content-length", b"%d" % framed) in start["headers"]


@pytest.mark.parametrize("zero_copy", WAYS)
@pytest.mark.parametrize("headers", [[], [(b"if-none-match", b"*")]])
def test_what_has_no_body_reads_nothing(folder, monkeypatch, zero_copy, headers):
    """HEAD, and 304."""
    monkeypatch.setattr(os, "pread", None)
    method = "GET" if headers else "HEAD"
    _, body = call(folder, f"/{CHUNK}", headers, method, zero_copy=zero_copy)
    expected = {"type": "http.response.body", "body": b"", "more_body": False}
    assert body == expected


def test_a_peer_that_is_fast_does_not_make_others_wait(folder):
    """Others have their turn between two pieces, even if sending never blocks."""
    turns = []

    def other():
        while True:
            turns.append(len(sent))
            gevent.sleep(0)

    sent = []
    greenlet = gevent.spawn(other)
    call(folder, f"/{3 * CHUNK}", send=sent.append)
    greenlet.kill()
    assert {2, 3} <= set(turns)


@pytest.mark.parametrize("error", [OSError("gone"), gevent.Timeout(), KeyError("x")])
def test_a_file_is_closed_when_sending_fails(folder, error):
    """Whatever comes out of ``send``, it goes on."""

    def send(event):
        if "file" in event:
            files.append(event["file"])
        if event["type"] != "http.response.start":
            raise error

    files = []
    with pytest.raises(type(error)):
        call(folder, f"/{CHUNK}", zero_copy=True, send=send)
    assert files[0].closed


def test_a_file_is_closed_when_its_greenlet_is_killed(serve, tmp_path):
    """While a peer reads nothing, and goes."""
    (tmp_path / "huge").write_bytes(bytes(HUGE))
    running = serve([static("/", tmp_path)], send_buffer=65536)
    client = running.client(receive_buffer=65536)
    client.send(request("/huge"))
    client.read_until(b"\r\n\r\n")
    assert is_open(tmp_path / "huge")
    client.reset()
    until(lambda: not is_open(tmp_path / "huge"))


def is_open(path):
    """Say whether this process has a file open."""
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}") == str(path):
                return True
    return False


@pytest.fixture
def half_way(serve, tmp_path):
    """A function that reads the beginning of a download, and returns its client."""
    path = tmp_path / "huge"
    path.write_bytes(bytes(HUGE))

    def start(zero_copy):
        running = serve(routing(tmp_path, zero_copy), send_buffer=65536)
        client = running.client(receive_buffer=65536)
        client.send(request("/huge"))
        head = client.read_until(b"\r\n\r\n")
        assert f"content-length: {HUGE}".encode() in head
        client.read(1000)
        return client, path

    return start


@pytest.mark.parametrize("zero_copy", WAYS)
def test_a_file_that_shrinks_while_it_is_sent_cuts_the_connection(half_way, zero_copy):
    """Rather than being shorter than was said, or being filled up."""
    client, path = half_way(zero_copy)
    os.truncate(path, 1_000_000)
    received = len(client.data)
    with contextlib.suppress(EOFError, ConnectionResetError):
        while True:
            received += len(client.data)
            client.data.clear()
            client._more(5.0)
    assert received < HUGE - 1000


@pytest.mark.parametrize("zero_copy", WAYS)
def test_a_file_that_grows_while_it_is_sent_has_the_length_it_had(half_way, zero_copy):
    """The next request comes right behind."""
    client, path = half_way(zero_copy)
    with path.open("ab") as file:
        file.write(b"more")
    assert client.read(HUGE - 1000) == bytes(HUGE - 1000)
    client.send(request("/huge", headers=[("Range", "bytes=-6")]))
    assert client.response().body == b"\0\0more"


@pytest.mark.parametrize("zero_copy", WAYS)
def test_a_file_that_is_replaced_while_it_is_sent_stays_the_old_one(
    half_way, zero_copy
):
    """No download has parts of two."""
    client, path = half_way(zero_copy)
    path.with_name("new").write_bytes(b"\1" * HUGE)
    os.replace(path.with_name("new"), path)
    assert client.read(HUGE - 1000) == bytes(HUGE - 1000)
    client.send(request("/huge", headers=[("Range", "bytes=-2")]))
    assert client.response().body == b"\1\1"


def test_a_disk_that_fails_cuts_the_connection(serve, tmp_path, monkeypatch):
    """After some of the file there is no other way to say so."""
    (tmp_path / "a").write_bytes(bytes(2 * CHUNK))
    running = serve(routing(tmp_path, zero_copy=False))
    client = running.client()
    original = os.pread

    def fail(fd, count, offset):
        if offset:
            raise OSError(5, "Input/output error")
        return original(fd, count, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", fail)
        client.send(request("/a"))
        with pytest.raises((EOFError, ConnectionResetError)):
            client.response()
    assert running.get("/a").body == bytes(2 * CHUNK)


def test_several_clients_download_at_once(serve, tmp_path):
    """Each its own part, in one process."""
    data = os.urandom(4_000_000)
    (tmp_path / "data").write_bytes(data)
    running = serve([static("/", tmp_path)])

    def fetch(n):
        value = f"bytes={n * 400_000}-{n * 400_000 + 399_999}"
        return running.get("/data", headers=[("Range", value)]).body

    jobs = [gevent.spawn(fetch, n) for n in range(10)]
    gevent.joinall(jobs, timeout=10)
    assert b"".join(job.value for job in jobs) == data


def test_a_folder_called_by_itself_answers_404():
    """As a consumer without a route that has looked before."""
    start, body = call(Folder("/etc"), "/none/such")
    assert (start["status"], body["body"]) == (404, b"Not Found\n")


def run(*command, cwd):
    """Run a program while the server goes on; return what it printed."""
    done = subprocess.run(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_resumes_revalidates_and_unpacks(serve, tmp_path, monkeypatch):
    """What a real client makes of the answers."""
    settle(monkeypatch)
    root, here = tmp_path / "files", tmp_path / "here"
    root.mkdir()
    here.mkdir()
    data = os.urandom(3_000_000)
    (root / "data").write_bytes(data)
    (root / "a.js").write_bytes(b"let a;")
    (root / "a.js.gz").write_bytes(gzip.compress(b"let packed;"))
    host, port = serve([static("/", root)]).address
    url = f"http://{host}:{port}"
    (here / "part").write_bytes(data[:1_234_567])
    run("curl", "-sS", "-C", "-", "-o", "part", f"{url}/data", cwd=here)
    assert digest(here / "part") == digest(root / "data")
    assert run("curl", "-sS", "-r", "5-9", f"{url}/data", cwd=here) == data[5:10]
    unpacked = run("curl", "-sS", "--compressed", f"{url}/a.js", cwd=here)
    assert unpacked == b"let packed;"
    code = ("-w", "%{http_code}", "-o", "out")
    again = ("--etag-save", "tag", "--etag-compare", "tag")
    fetch = ("curl", "-sS", *code, *again, f"{url}/data")
    assert [run(*fetch, cwd=here) for _ in range(2)] == [b"200", b"304"]
    since = ("curl", "-sS", *code, "-z", "out", "-R", f"{url}/data")
    (here / "out").unlink()
    assert [run(*since, cwd=here) for _ in range(2)] == [b"200", b"304"]


@pytest.mark.skipif(shutil.which("wget") is None, reason="needs wget")
def test_wget_resumes(serve, tmp_path):
    """What is complete already is not fetched again."""
    root, here = tmp_path / "files", tmp_path / "here"
    root.mkdir()
    here.mkdir()
    (root / "data").write_bytes(os.urandom(2_000_000))
    (here / "data").write_bytes((root / "data").read_bytes()[:777_777])
    host, port = serve([static("/", root)]).address
    for _ in range(2):
        run("wget", "-q", "-c", f"http://{host}:{port}/data", cwd=here)
        assert digest(here / "data") == digest(root / "data")


def digest(path):
    """Return what stands for a file's contents."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
