"""``static``: opening files while the folder changes, and what must not be opened."""

import contextlib
import errno
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from greenchannels import ConfigurationError, include, static
from greenchannels.hosting import folders
from greenchannels.hosting.files import Folder
from greenchannels.hosting.folders import Opener
from tests.servers.harness import request, until


@pytest.fixture
def folder(tmp_path):
    """A folder with a secret beside it."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "a.txt").write_text("secret")
    root = tmp_path / "files"
    (root / "deep").mkdir(parents=True)
    (root / "a.txt").write_text("public")
    (root / "deep" / "a.txt").write_text("public")
    return root


def content(opener, path):
    """Return what a path leads to; ``None`` for nothing."""
    file = opener.open_path(path)
    if file is None:
        return None
    with file:
        return os.pread(file.fileno(), 100, 0)


def open_files(folder):
    """Return the names of those files of a folder that are open."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [name for name in found if name.startswith(str(folder))]


def swap_for_link(path, target):
    """Put a symbolic link in the place of a file or folder."""
    path.rename(path.with_name("away"))
    path.symlink_to(target)


def after(function, name, change):
    """Return ``function``, which does ``change()`` after its call for ``name``."""

    def changed(path, *args, **kwargs):
        result = function(path, *args, **kwargs)
        if os.fsdecode(path) == str(name) and todo:
            todo.pop()()
        return result

    todo = [change]
    return changed


@pytest.mark.parametrize("part", ["deep/a.txt", "deep"])
@pytest.mark.parametrize("known", [False, True])
def test_a_link_that_comes_between_two_looks_leads_nowhere(
    folder, monkeypatch, part, known
):
    """What has been opened is judged, not what was there before."""
    target = folder.parent / "secret" / "a.txt"
    target = target if part == "deep/a.txt" else target.parent
    opener = Opener(folder)
    if known:
        assert content(opener, "/deep/a.txt") == b"public"
        swap_for_link(folder / part, target)
    else:
        monkeypatch.setattr(
            os,
            "stat",
            after(
                os.stat,
                folder / "deep" / "a.txt",
                lambda: swap_for_link(folder / part, target),
            ),
        )
    assert content(opener, "/deep/a.txt") is None
    assert (folder / part).is_symlink()
    assert not open_files(folder)


def test_a_fifo_that_comes_between_two_looks_does_not_block(folder, monkeypatch):
    """It is closed again."""

    def swap():
        (folder / "a.txt").unlink()
        os.mkfifo(folder / "a.txt")

    monkeypatch.setattr(os, "stat", after(os.stat, folder / "a.txt", swap))
    assert content(Opener(folder), "/a.txt") is None
    assert (folder / "a.txt").is_fifo()
    assert not open_files(folder)


def test_a_fifo_that_comes_after_a_file_does_not_block(folder):
    """Even though the name is known."""
    opener = Opener(folder)
    assert content(opener, "/a.txt") == b"public"
    (folder / "a.txt").unlink()
    os.mkfifo(folder / "a.txt")
    assert content(opener, "/a.txt") is None


def test_a_file_that_goes_between_two_looks_is_not_found(folder, monkeypatch):
    """As if it never was."""
    gone = folder / "a.txt"
    monkeypatch.setattr(os, "stat", after(os.stat, gone, gone.unlink))
    assert content(Opener(folder), "/a.txt") is None


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_what_is_no_file_is_not_opened(folder, monkeypatch, kind):
    """Opening a FIFO wakes its writer, opening a device may do anything."""
    thing = folder / "thing"
    if kind == "fifo":
        os.mkfifo(thing)
    elif kind == "device":
        thing.symlink_to("/dev/tty")
    else:
        thing.mkdir()
    opener = Opener(folder)
    opened = []
    original = os.open
    monkeypatch.setattr(
        os, "open", lambda p, *a, **k: (opened.append(p), original(p, *a, **k))[1]
    )
    assert content(opener, "/thing") is None
    assert opened == []
    assert content(opener, "/a.txt") == b"public"
    assert opened == [os.fsencode(folder / "a.txt")]


def test_a_folder_moved_out_is_out_within_a_second(folder, monkeypatch):
    """Though a link leads where it went, and its files are the same."""
    opener = Opener(folder)
    assert content(opener, "/deep/a.txt") == b"public"
    swap_for_link(folder / "deep", folder.parent / "elsewhere")
    (folder / "away").rename(folder.parent / "elsewhere")
    monkeypatch.setattr(folders, "TRUST", 0.0)
    until(lambda: content(opener, "/deep/a.txt") is None)


def test_a_file_moved_out_is_out_at_once(folder):
    """Though a link leads where it went: moving changes it."""
    opener = Opener(folder)
    path = folder / "a.txt"
    assert content(opener, "/a.txt") == b"public"
    changed = path.stat().st_ctime_ns

    def moved():
        path.rename(folder.parent / "elsewhere.txt")
        (folder.parent / "elsewhere.txt").rename(path)
        return path.stat().st_ctime_ns > changed

    until(moved)  # by more than the clock's tick
    path.rename(folder.parent / "elsewhere.txt")
    path.symlink_to(folder.parent / "elsewhere.txt")
    assert content(opener, "/a.txt") is None


def test_a_new_file_is_served_at_once(folder):
    """However it took the old one's place."""
    opener = Opener(folder)
    path = folder / "a.txt"
    assert content(opener, "/a.txt") == b"public"
    path.write_text("writte")
    assert content(opener, "/a.txt") == b"writte"
    (folder / "new").write_text("rename")
    os.replace(folder / "new", path)
    assert content(opener, "/a.txt") == b"rename"
    swap_for_link(path, folder / "deep" / "a.txt")
    assert content(opener, "/a.txt") == b"public"
    path.unlink()
    assert content(opener, "/a.txt") is None
    path.mkdir()
    (path / "index.html").write_text("index")
    assert content(opener, "/a.txt") == b"index"
    shutil.rmtree(path)
    path.write_text("back")
    assert content(opener, "/a.txt") == b"back"


def test_the_names_that_are_remembered_are_bounded(folder, monkeypatch):
    """A folder may have millions."""
    monkeypatch.setattr(folders, "MAX_KNOWN", 3)
    opener = Opener(folder)
    for n in range(10):
        (folder / f"{n}").write_text("x")
        assert content(opener, f"/{n}") == b"x"
        assert len(opener._known) <= 3


@contextlib.contextmanager
def unprivileged():
    """Be nobody for a while, if this is root, whom no file denies anything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_to_all():
    """A folder that everybody may enter, below others of that kind."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.mark.parametrize("part", ["private/a.txt", "private"])
def test_what_may_not_be_read_is_not_found(serve, open_to_all, part, caplog):
    """404, and a line at debug that says why."""
    (open_to_all / "private").mkdir()
    (open_to_all / "private" / "a.txt").write_text("private")
    (open_to_all / "a.txt").write_text("public")
    running = serve([static("/", open_to_all)])
    (open_to_all / part).chmod(0)
    caplog.set_level(logging.DEBUG, "greenchannels.hosting")
    try:
        with unprivileged():
            assert running.get("/a.txt").body == b"public"
            assert running.get("/private/a.txt").status == 404
    finally:
        (open_to_all / part).chmod(0o700)
    lines = [r.getMessage() for r in caplog.records if r.name.endswith("hosting")]
    assert len(lines) == 1 and "private/a.txt" in lines[0], lines


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.EIO])
def test_a_system_that_fails_is_no_missing_file(serve, folder, monkeypatch, error):
    """500: a 404 would be believed, and cached."""
    running = serve([static("/", folder)])
    original = os.open

    def fail(path, *args, **kwargs):
        if os.fsdecode(path) == str(folder / "a.txt"):
            raise OSError(error, os.strerror(error))
        return original(path, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", fail)
        assert running.get("/a.txt").status == 500
    assert running.get("/a.txt").body == b"public"


def test_a_name_that_is_not_utf_8_cannot_be_asked_for(serve, folder):
    """Paths are text; and surrogates make none of it."""
    with open(os.fsencode(folder) + b"/\xff.txt", "w") as file:
        file.write("latin")
    running = serve([static("/", folder)])
    assert running.get("/%ff.txt").status == 400
    assert Folder(folder).find("/\udcff.txt") is None


@pytest.mark.parametrize("length", [255, 256, 4000])
def test_long_names_are_names(serve, folder, length):
    """Up to what the system has room for; beyond, there is no such file."""
    name = "n" * length
    if length == 255:
        (folder / name).write_text("long")
    running = serve([static("/", folder)])
    assert running.get(f"/{name}").status == (200 if length == 255 else 404)


def test_a_file_found_for_a_request_that_goes_elsewhere_is_closed(serve, folder):
    """A middleware that refuses, or a method that is not allowed."""

    def refuse(inner):
        def consumer(scope, receive, send):
            send({"type": "http.response.start", "status": 403, "headers": []})
            send({"type": "http.response.body"})

        return consumer

    guarded = include("/guarded", [static("/", folder)], [refuse])
    running = serve([guarded, static("/", folder)])
    assert running.get("/guarded/a.txt").status == 403
    assert running.get("/a.txt", "POST").status == 405
    assert not open_files(folder)


def test_a_middleware_may_serve_a_file_twice(serve, folder):
    """It is found again."""
    events = []

    def look_ahead(inner):
        def consumer(scope, receive, send):
            inner(scope, receive, events.append)
            inner(scope, receive, send)

        return consumer

    running = serve([include("", [static("/", folder)], [look_ahead])])
    assert running.get("/a.txt").body == b"public"
    assert [event.get("body") for event in events] == [None, b"public"]


def test_a_middleware_may_serve_another_file(serve, folder):
    """What was found is sent only if it is what is asked for."""

    def turn(inner):
        def consumer(scope, receive, send):
            route = {**scope["url_route"], "kwargs": {"path": "/b.txt"}}
            inner({**scope, "url_route": route}, receive, send)

        return consumer

    (folder / "b.txt").write_text("other")
    running = serve([include("", [static("/", folder)], [turn])])
    assert running.get("/a.txt").body == b"other"
    assert not open_files(folder)


def test_a_file_that_was_found_may_be_gone_when_it_is_sent(serve, folder):
    """It is sent: it was there when it was asked for."""

    def remove(inner):
        def consumer(scope, receive, send):
            (folder / "a.txt").unlink(missing_ok=True)
            inner(scope, receive, send)

        return consumer

    client = serve([include("", [static("/", folder)], [remove])]).client()
    client.send(request("/a.txt") * 2)
    assert client.response().body == b"public"
    assert client.response().status == 404


def test_a_closed_file_has_no_descriptor(folder):
    """Its number may be another's by now."""
    file = Opener(folder).open_path("/a.txt")
    assert repr(file) == f"<OpenFile {str(folder / 'a.txt')!r}>"
    file.close()
    file.close()
    assert file.closed
    with pytest.raises(ValueError, match="closed"):
        file.fileno()


def test_without_proc_a_folder_is_refused(folder, monkeypatch):
    """Rather than serving nothing, or everything."""

    def fail(path, *args, **kwargs):
        raise FileNotFoundError(errno.ENOENT, "no /proc", path)

    monkeypatch.setattr(os, "readlink", fail)
    with pytest.raises(ConfigurationError, match="/proc"):
        Opener(folder)


def test_descriptors_do_not_reach_other_programs(folder):
    """A subprocess started meanwhile has none of them."""
    with Opener(folder).open_path("/a.txt") as file:
        code = f"import os; os.fstat({file.fileno()})"
        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, timeout=60
        )
        assert b"Bad file descriptor" in ran.stderr
