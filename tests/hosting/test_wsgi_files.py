"""``wsgi.file_wrapper``: what is sent is what the file reads, from where it stands."""

import gzip
import io
import os
import tempfile
from functools import partial

import gevent
import pytest
from flask import Flask, send_file

from greenchannels import wsgi
from greenchannels.hosting.wsgi import FileWrapper
from greenchannels.net.transport import Transport
from tests.hosting.hosts import HOSTS, PLAIN, as_it_is, behind_middleware
from tests.servers.harness import request, until

DATA = bytes(range(256)) * 1000


@pytest.fixture
def path(tmp_path):
    """A file."""
    path = tmp_path / "data.bin"
    path.write_bytes(DATA)
    return path


@pytest.fixture(params=HOSTS, ids=lambda each: each.__name__)
def host(request, serve):
    """A function that serves an application, in each of the ways."""
    return lambda app: serve([request.param("/", app)])


@pytest.fixture
def sendfiles(monkeypatch):
    """What has been sent by ``sendfile``: its offsets and sizes."""
    calls, original = [], Transport.send_file

    def send_file(self, head, fd, offset, count):
        calls.append((offset, count))
        return original(self, head, fd, offset, count)

    monkeypatch.setattr(Transport, "send_file", send_file)
    return calls


def sending(open_file, headers=PLAIN, opened=None, block=()):
    """Return an application that answers with what ``open_file()`` returns."""

    def app(environ, start_response):
        file = open_file()
        if opened is not None:
            opened.append(file)
        start_response("200 OK", list(headers))
        return environ["wsgi.file_wrapper"](file, *block)

    return app


def positioned(file, offset):
    """Return a file that has been read up to an offset."""
    file.read(offset)
    return file


def tempfile_with(kind, **options):
    """Return a temporary file with our data, at its beginning."""
    file = kind(**options)
    file.write(DATA)
    file.seek(0)
    return file


def piped():
    """Return a pipe that has something in it."""
    read, write = os.pipe()
    os.write(write, DATA[:1000])
    os.close(write)
    return os.fdopen(read, "rb")


class OnlyReads:
    """As little of a file as PEP 3333 asks for; not even ``close``."""

    def __init__(self):
        self._file = io.BytesIO(DATA)

    def read(self, size):
        """Read."""
        return self._file.read(size)


FILES = {
    "a file": (lambda p: p.open("rb"), DATA),
    "an unbuffered file": (lambda p: p.open("rb", buffering=0), DATA),
    "a file for reading and writing": (lambda p: p.open("r+b"), DATA),
    "a file in the middle": (lambda p: positioned(p.open("rb"), 1000), DATA[1000:]),
    "a file at its end": (lambda p: positioned(p.open("rb"), len(DATA)), b""),
    "bytes": (lambda p: io.BytesIO(DATA), DATA),
    "bytes in the middle": (lambda p: positioned(io.BytesIO(DATA), 9), DATA[9:]),
    "a temporary file": (lambda p: tempfile_with(tempfile.TemporaryFile), DATA),
    "a named one": (lambda p: tempfile_with(tempfile.NamedTemporaryFile), DATA),
    "a spooled one": (lambda p: tempfile_with(tempfile.SpooledTemporaryFile), DATA),
    "one spooled to disk": (
        lambda p: tempfile_with(tempfile.SpooledTemporaryFile, max_size=10),
        DATA,
    ),
    "a pipe": (lambda p: piped(), DATA[:1000]),
    "a device": (lambda p: os.fdopen(os.open("/dev/null", os.O_RDONLY), "rb"), b""),
    "what only reads": (lambda p: OnlyReads(), DATA),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_sent_from_where_it_stands(host, path, name):
    """To its end; then it is closed."""
    open_file, expected = FILES[name]
    opened = []
    client = host(sending(lambda: open_file(path), opened=opened)).client()
    client.send(request())
    answer = client.response()
    assert answer.status == 200 and answer.body == expected
    until(lambda: getattr(opened[0], "closed", True))
    client.send(request(method="HEAD"))
    assert client.response(method="HEAD").status == 200
    until(lambda: getattr(opened[1], "closed", True))


def test_a_file_of_the_kernel_that_says_nothing_of_its_size_is_sent(host):
    """Those of /proc have none."""
    answer = host(sending(partial(open, "/proc/self/cmdline", "rb"))).get()
    with open("/proc/self/cmdline", "rb") as file:
        assert answer.body == file.read()


@pytest.mark.parametrize("name", ["a file", "an unbuffered file", "a named one"])
def test_a_plain_file_is_sent_by_the_kernel(serve, path, sendfiles, name):
    """With its length, which the application need not know."""
    running = serve([as_it_is("/", sending(lambda: FILES[name][0](path)))])
    answer = running.get()
    assert answer["content-length"] == str(len(DATA)) and answer.body == DATA
    assert sendfiles == [(0, len(DATA))]


def test_the_kernel_sends_from_where_the_file_stands(serve, path, sendfiles):
    """What has been read ahead counts as not read."""
    running = serve([as_it_is("/", sending(lambda: positioned(path.open("rb"), 1000)))])
    assert running.get().body == DATA[1000:]
    assert sendfiles == [(1000, len(DATA) - 1000)]


@pytest.mark.parametrize("kind", ["rb", "r"])
def test_a_compressed_file_is_sent_as_it_reads(host, tmp_path, sendfiles, kind):
    """Never as its descriptor's bytes are."""
    path = tmp_path / "data.gz"
    with gzip.open(path, "wb") as file:
        file.write(DATA)
    assert host(sending(partial(gzip.open, path, kind))).get().body == DATA
    assert sendfiles == []


def test_a_text_file_is_an_error(host, tmp_path, sendfiles, caplog):
    """Its bytes are not what it reads."""
    (tmp_path / "text").write_text("text")
    answer = host(sending((tmp_path / "text").open)).get()
    assert answer.status == 500
    assert sendfiles == []
    assert any(record.exc_info for record in caplog.records)


def test_a_closed_file_is_an_error(host, path, caplog):
    """It cannot be read."""

    def closed():
        file = path.open("rb")
        file.close()
        return file

    assert host(sending(closed)).get().status == 500
    assert any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("name", ["a file", "bytes", "a temporary file"])
@pytest.mark.parametrize("offset, size", [(0, 10), (100, 70_000), (0, 0), (9, 1)])
@pytest.mark.parametrize("way", [as_it_is, behind_middleware])
def test_no_more_is_sent_than_content_length_says(serve, way, path, name, offset, size):
    """So are ranges sent: positioned, and ended by their length."""
    headers = [*PLAIN, ("Content-Length", str(size))]

    def open_file():
        return positioned(FILES[name][0](path), offset)

    client = serve([way("/", sending(open_file, headers))]).client()
    for _ in range(2):
        client.send(request())
        assert client.response().body == DATA[offset : offset + size]


@pytest.mark.parametrize("name", ["a file", "bytes"])
def test_a_file_shorter_than_content_length_says_cuts_the_connection(
    host, path, name, caplog
):
    """The client must not take it for whole."""
    headers = [*PLAIN, ("Content-Length", str(len(DATA) + 1))]
    client = host(sending(lambda: FILES[name][0](path), headers)).client()
    client.send(request())
    assert client.ended() in ("closed", "reset")
    assert any(record.exc_info for record in caplog.records)


def test_a_range_of_a_big_file_is_sent_without_reading_the_rest(serve, tmp_path):
    """A hole of a terabyte, with something in it."""
    path, offset = tmp_path / "sparse", 1 << 40
    with path.open("wb") as file:
        file.seek(offset)
        file.write(b"here")
        file.truncate(offset + (1 << 30))

    def open_file():
        file = path.open("rb")
        file.seek(offset - 2)
        return file

    headers = [*PLAIN, ("Content-Length", "8")]
    running = serve([wsgi("/", sending(open_file, headers))])
    assert running.get().body == b"\0\0here\0\0"


def test_a_range_by_flask_is_sent_without_reading_what_is_before(serve, tmp_path):
    """Its file is closed."""
    path, offset = tmp_path / "sparse", 1 << 40
    with path.open("wb") as file:
        file.seek(offset)
        file.write(b"here")
    app = Flask(__name__)
    app.add_url_rule("/", view_func=lambda: send_file(path))
    field = ("Range", f"bytes={offset - 2}-{offset + 1}")
    answer = serve([wsgi("/", app)]).get(headers=[field])
    assert (answer.status, answer.body) == (206, b"\0\0he")


def test_a_file_may_follow_what_has_been_written(serve, path):
    """By ``write``, before it was returned."""

    def app(environ, start_response):
        start_response("200 OK", PLAIN)(b"first ")
        return environ["wsgi.file_wrapper"](path.open("rb"))

    assert serve([wsgi("/", app)]).get().body == b"first " + DATA


def test_a_file_without_start_response_is_an_error(serve, path):
    """And is closed."""
    opened = []

    def app(environ, start_response):
        opened.append(path.open("rb"))
        return environ["wsgi.file_wrapper"](opened[0])

    assert serve([wsgi("/", app)]).get().status == 500
    assert opened[0].closed


@pytest.mark.parametrize("name", ["a file", "bytes"])
def test_a_file_is_closed_when_the_client_leaves(serve, tmp_path, name):
    """It had read little of it."""
    path, opened = tmp_path / "big", []
    path.write_bytes(b"x" * 20_000_000)

    def open_file():
        return path.open("rb") if name == "a file" else io.BytesIO(path.read_bytes())

    app = sending(open_file, opened=opened)
    client = serve([wsgi("/", app)], send_buffer=65536).client(receive_buffer=65536)
    client.send(request())
    client.read_until(b"\r\n\r\n")
    assert not opened[0].closed
    client.reset()
    until(lambda: opened[0].closed)


def test_a_file_that_shrinks_while_it_is_sent_cuts_the_connection(serve, tmp_path):
    """The client was promised more."""
    path, opened = tmp_path / "big", []
    path.write_bytes(b"x" * 20_000_000)
    app = sending(lambda: path.open("rb"), opened=opened)
    client = serve([wsgi("/", app)], send_buffer=65536).client(receive_buffer=65536)
    client.send(request())
    head = client.read_until(b"\r\n\r\n")
    assert b"content-length: 20000000" in head
    os.truncate(path, 1000)
    assert client.ended() in ("closed", "reset")
    until(lambda: opened[0].closed)


def test_others_are_served_while_a_file_is_sent(serve, tmp_path):
    """Its reader takes its time."""
    path = tmp_path / "big"
    path.write_bytes(b"x" * 20_000_000)

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/small":
            start_response("200 OK", PLAIN)
            return [b"small"]
        return sending(lambda: path.open("rb"))(environ, start_response)

    running = serve([wsgi("/", app)], send_buffer=65536)
    client = running.client(receive_buffer=65536)
    client.send(request())
    client.read_until(b"\r\n\r\n")
    assert running.get("/small").body == b"small"
    assert client.read(20_000_000, seconds=30) == b"x" * 20_000_000
    gevent.sleep(0)


def test_a_wrapper_reads_blocks_of_the_size_asked_for():
    """And closes what can be closed."""
    wrapper = FileWrapper(io.BytesIO(b"abcde"), 2)
    assert list(wrapper) == [b"ab", b"cd", b"e"]
    wrapper.close()
    assert wrapper.file.closed
    FileWrapper(OnlyReads()).close()


def test_a_wrapper_can_be_moved_in_if_its_file_can():
    """Werkzeug does so to send a range."""
    wrapper = FileWrapper(io.BytesIO(b"abcde"), 2)
    assert wrapper.seekable()
    wrapper.seek(3)
    assert wrapper.tell() == 3 and list(wrapper) == [b"de"]
    assert not FileWrapper(OnlyReads()).seekable()
