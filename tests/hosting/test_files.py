"""``static``: which file a path names, and what is said about it."""

import os
import socket as stdlib_socket
import subprocess
import sys

import pytest

from greenchannels import ConfigurationError, http, static
from greenchannels.hosting.content_types import content_type
from greenchannels.hosting.files import Folder
from tests.hosting.static_calls import WAYS, routing
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
    (root / "back\\slash").write_text("a name")
    (root / "new\nline").write_text("a name")
    (root / "inside").symlink_to(root / "a.txt")
    (root / "logo.svg").symlink_to(root / "empty")
    (root / "indexless").mkdir()
    (root / "strange" / "index.html").mkdir(parents=True)
    (root / "outside").symlink_to(tmp_path / "secret.txt")
    (root / "out").symlink_to(tmp_path)
    (root / "above").symlink_to("..")
    (root / "loop").symlink_to(root / "loop")
    (root / "nowhere").symlink_to(root / "none")
    (root / "null").symlink_to("/dev/null")
    (root / "environ").symlink_to("/proc/self/environ")
    os.mkfifo(root / "pipe")
    return root


@pytest.mark.parametrize(
    "path, body, kind",
    [
        ("/f/a.txt", b"a", "text/plain; charset=utf-8"),
        ("/f/deep/", b"<p>index", "text/html; charset=utf-8"),
        ("/f/deep", b"<p>index", "text/html; charset=utf-8"),
        ("/f/deep/index.html", b"<p>index", "text/html; charset=utf-8"),
        ("/f/deep/er/%C3%A4%20b.css", b"p {}", "text/css; charset=utf-8"),
        ("/f/deep%2fer%2f%C3%A4%20b.css", b"p {}", "text/css; charset=utf-8"),
        ("/f/empty", b"", "application/octet-stream"),
        ("/f/inside", b"a", "text/plain; charset=utf-8"),
        ("/f/logo.svg", b"", "image/svg+xml; charset=utf-8"),
        ("/f/..hidden", b"not a way out", "application/octet-stream"),
        ("/f/back%5cslash", b"a name", "application/octet-stream"),
        ("/f/new%0aline", b"a name", "application/octet-stream"),
        ("/f/a.txt?query=1", b"a", "text/plain; charset=utf-8"),
    ],
)
def test_files_are_served_whole(serve, folder, path, body, kind):
    """With length, type, and the order to believe that type."""
    answer = serve([static("/f", str(folder))]).get(path)
    assert (answer.status, answer.body) == (200, body)
    assert answer["content-length"] == str(len(body))
    assert answer["content-type"] == kind
    assert answer["x-content-type-options"] == "nosniff"
    assert answer["accept-ranges"] == "bytes"


@pytest.mark.parametrize("zero_copy", WAYS)
def test_a_large_file_arrives_whole_and_its_connection_goes_on(
    serve, folder, zero_copy
):
    """In many pieces."""
    client = serve(routing(folder, zero_copy)).client()
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
        "/f/..%5csecret.txt",
        "/f/outside",
        "/f/out/secret.txt",
        "/f/out/files-too/secret.txt",
        "/f/above/secret.txt",
        "/f/out",
        "/f-too/secret.txt",
        "/f/../files-too/secret.txt",
        "/f//etc/passwd",
        "/f/%2fetc%2fpasswd",
        "/f/%00",
        "/f/a.txt%00.html",
        "/f/loop",
        "/f/nowhere",
        "/f/null",
        "/f/environ",
        "/f/pipe",
        "/f/",
        "/f",
        "/f/deep/er",
        "/f/indexless/",
        "/f/strange/",
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


@pytest.mark.parametrize(
    "path",
    [
        "/f//a.txt",
        "/f/./a.txt",
        "/f/%2e/a.txt",
        "/f/deep/../a.txt",
        "/f/deep//index.html",
        "/f/deep//",
        "/f/deep/.",
        "/f/deep/er/..",
        "/f/.",
        "/f/..",
    ],
)
def test_a_file_has_one_name(serve, folder, path):
    """Another would lead around what earlier routes guard."""
    (folder / "index.html").write_text("index")
    running = serve([static("/f", folder)])
    assert running.get(path).status == 404
    assert running.get("/f/").body == b"index"
    assert running.get("/f").body == b"index"


def test_what_a_folder_has_not_goes_to_later_routes(serve, folder):
    """What leads out of it or is no file, too."""
    later = http("/<path:x>", lambda request, x: "later")
    running = serve([static("/", folder), later])
    for path in ("/none", "/outside", "/pipe", "/indexless/", "/deep//index.html"):
        assert running.get(path).body == b"later"
    assert running.get("/a.txt").body == b"a"


def test_a_file_is_no_folder(serve, folder):
    """A slash behind its name makes another name."""
    running = serve([static("/", folder)])
    assert running.get("/a.txt").status == 200
    assert running.get("/a.txt/").status == 404


def test_a_socket_in_the_folder_is_no_file(serve, folder):
    """Opening it would fail."""
    sock = stdlib_socket.socket(stdlib_socket.AF_UNIX)
    sock.bind(str(folder / "s"))
    sock.close()
    assert serve([static("/f", str(folder))]).get("/f/s").status == 404


def test_the_root_of_all_files_is_a_folder_too():
    """Its name ends with the slash that others need."""
    with Folder("/").find("/etc/passwd") as file:
        assert os.pread(file.fileno(), 5, 0) == b"root:"
    assert Folder("/").find("") is None


@pytest.mark.parametrize("name", ["none", "a.txt", "a\0b", "nowhere"])
def test_a_folder_that_is_none_is_a_mistake_of_configuration(folder, name):
    """Told at once, with its name."""
    with pytest.raises(ConfigurationError, match="no such folder"):
        Folder(os.path.join(folder, name))


def test_a_folder_may_be_given_by_a_link(folder, tmp_path):
    """The link is followed when the routing is made."""
    (tmp_path / "link").symlink_to(folder)
    files = Folder(tmp_path / "link")
    assert repr(files) == f"Folder({str(folder)!r})"
    (tmp_path / "link").unlink()
    with files.find("/a.txt") as file:
        assert os.pread(file.fileno(), 5, 0) == b"a"


@pytest.mark.parametrize(
    "name, kind",
    [
        ("a.html", "text/html; charset=utf-8"),
        ("a.HTML", "text/html; charset=utf-8"),
        ("a.b.css", "text/css; charset=utf-8"),
        ("a.js", "text/javascript; charset=utf-8"),
        ("a.mjs", "text/javascript; charset=utf-8"),
        ("a.json", "application/json; charset=utf-8"),
        ("a.map", "application/json; charset=utf-8"),
        ("a.svg", "image/svg+xml; charset=utf-8"),
        ("a.webmanifest", "application/manifest+json; charset=utf-8"),
        ("a.txt", "text/plain; charset=utf-8"),
        ("a.xml", "application/xml"),
        ("a.png", "image/png"),
        ("a.webp", "image/webp"),
        ("a.wasm", "application/wasm"),
        ("a.woff2", "font/woff2"),
        ("a.pdf", "application/pdf"),
        ("a.tar.gz", "application/gzip"),
        ("a.css.br", "application/octet-stream"),
        (".css", "application/octet-stream"),
        ("a.", "application/octet-stream"),
        ("a", "application/octet-stream"),
        ("data:text/html,x", "application/octet-stream"),
    ],
)
def test_the_content_type_is_that_of_the_name(name, kind):
    """Compressed files are served as they are."""
    assert content_type(name) == kind


def test_the_content_type_does_not_depend_on_the_machine(tmp_path):
    """A line in its mime.types changes nothing."""
    types = tmp_path / "mime.types"
    types.write_text("text/weird css\n")
    code = (
        f"import mimetypes; mimetypes.knownfiles[:] = [{str(types)!r}];"
        "from greenchannels.hosting.content_types import content_type;"
        "print(mimetypes.guess_type('a.css')[0], content_type('a.css'))"
    )
    printed = subprocess.check_output([sys.executable, "-c", code], timeout=60)
    assert printed == b"text/weird text/css; charset=utf-8\n"
