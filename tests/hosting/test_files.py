"""``static``: whole files, and no way out of the folder."""

import os
import socket as stdlib_socket

import pytest

from greenchannels import static
from greenchannels.hosting.files import Folder, content_type
from tests.servers.harness import request


@pytest.fixture
def folder(tmp_path):
    """A folder with a secret beside it."""
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "files-too").mkdir()
    (tmp_path / "files-too" / "secret.txt").write_text("secret")
    root = tmp_path / "files"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "a.txt").write_text("a")
    (root / "deep" / "index.html").write_text("<p>index")
    (root / "deep" / "er" / "ä b.css").write_text("p {}")
    (root / "empty").write_bytes(b"")
    (root / "big.bin").write_bytes(bytes(range(256)) * 4000)
    (root / "..hidden").write_text("not a way out")
    (root / "inside").symlink_to(root / "a.txt")
    (root / "outside").symlink_to(tmp_path / "secret.txt")
    (root / "out").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    os.mkfifo(root / "pipe")
    return root


@pytest.mark.parametrize(
    "path, body, kind",
    [
        ("/f/a.txt", b"a", "text/plain; charset=utf-8"),
        ("/f//a.txt", b"a", "text/plain; charset=utf-8"),
        ("/f/deep/", b"<p>index", "text/html; charset=utf-8"),
        ("/f/deep", b"<p>index", "text/html; charset=utf-8"),
        ("/f/deep/er/%C3%A4%20b.css", b"p {}", "text/css; charset=utf-8"),
        ("/f/empty", b"", "application/octet-stream"),
        ("/f/inside", b"a", "text/plain; charset=utf-8"),
        ("/f/..hidden", b"not a way out", None),
        ("/f/a.txt?query=1", b"a", "text/plain; charset=utf-8"),
    ],
)
def test_files_are_served_whole(serve, folder, path, body, kind):
    """With length and type."""
    answer = serve([static("/f", str(folder))]).get(path)
    assert (answer.status, answer.body) == (200, body)
    assert answer["content-length"] == str(len(body))
    if kind is not None:
        assert answer["content-type"] == kind


def test_a_large_file_arrives_whole_and_its_connection_goes_on(serve, folder):
    """In many pieces."""
    client = serve([static("/", folder)]).client()
    client.send(request("/big.bin") + request("/big.bin", "HEAD") + request("/a.txt"))
    assert client.response().body == bytes(range(256)) * 4000
    assert client.response(method="HEAD")["content-length"] == str(256 * 4000)
    assert client.response().body == b"a"


@pytest.mark.parametrize(
    "path",
    [
        "/f/../secret.txt",
        "/f/%2e%2e/secret.txt",
        "/f/..%2fsecret.txt",
        "/f/%2e%2e%2fsecret.txt",
        "/f/deep/../../secret.txt",
        "/f/deep/%2e%2e/a.txt",
        "/f/..%5csecret.txt",
        "/f/outside",
        "/f/out/secret.txt",
        "/f/out",
        "/f-too/secret.txt",
        "/f/../files-too/secret.txt",
        "/f//etc/passwd",
        "/f/%2fetc%2fpasswd",
        "/f/%00",
        "/f/a.txt%00.html",
        "/f/loop",
        "/f/pipe",
        "/f/",
        "/f",
        "/f/deep/er",
        "/f/a.txt/b",
        "/f/none",
        "/f/" + "x" * 5000,
        "/f/" + "x/" * 3000,
    ],
)
def test_there_is_no_way_out_of_the_folder(serve, folder, path):
    """404 for all that is not a regular file within."""
    answer = serve([static("/f", str(folder))]).get(path)
    assert answer.status == 404
    assert b"secret" not in answer.body


def test_a_file_that_may_not_be_read_is_not_found(serve, folder, monkeypatch):
    """Also when it goes away between the two looks."""
    running = serve([static("/f", str(folder))])
    path = folder / "a.txt"
    original = Folder.find

    def find(self, name):
        found = original(self, name)
        if path.exists() and len(calls) == 1:
            path.unlink()
        calls.append(name)
        return found

    calls = []
    monkeypatch.setattr(Folder, "find", find)
    assert running.get("/f/a.txt").status == 404


def test_a_socket_in_the_folder_is_no_file(serve, folder):
    """Opening it would fail."""
    sock = stdlib_socket.socket(stdlib_socket.AF_UNIX)
    sock.bind(str(folder / "s"))
    sock.close()
    assert serve([static("/f", str(folder))]).get("/f/s").status == 404


@pytest.mark.parametrize(
    "name, kind",
    [
        ("a.html", "text/html; charset=utf-8"),
        ("a.json", "application/json; charset=utf-8"),
        ("a.svg", "image/svg+xml; charset=utf-8"),
        ("a.png", "image/png"),
        ("a.tar.gz", "application/octet-stream"),
        ("a", "application/octet-stream"),
    ],
)
def test_the_content_type_is_that_of_the_name(name, kind):
    """Compressed files are served as they are."""
    assert content_type(name) == kind


def test_a_file_is_no_folder(serve, folder):
    """A slash behind its name makes another name."""
    running = serve([static("/", folder)])
    assert running.get("/a.txt").status == 200
    assert running.get("/a.txt/").status == 404
