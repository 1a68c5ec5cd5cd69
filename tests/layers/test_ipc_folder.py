"""Where processes meet: names, owners, modes, locks, and what the dead leave."""

import fcntl
import os
import socket
import subprocess
import sys
import tempfile

import pytest

from greenchannels.errors import ConfigurationError, LayerUnavailable
from greenchannels.layers import ipc_folder as module
from greenchannels.layers.ipc import IpcBus
from greenchannels.layers.ipc_folder import Folder, default_name, folder_of
from greenchannels.layers.registry import make_layer
from tests.servers.harness import no_leaks

__all__ = ["no_leaks"]

pytestmark = pytest.mark.usefixtures("no_leaks")

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def above():
    """A folder with a short path."""
    with tempfile.TemporaryDirectory(prefix="gc-") as path:
        yield path


@pytest.fixture
def folder(above):
    return Folder(os.path.join(above, "app"))


def run(code, *arguments):
    """Run a program of another process; return what it prints."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


HOLDER = """
import sys
from greenchannels.layers.ipc_folder import Folder
claim = Folder(sys.argv[1]).claim()
print(claim.name, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(folder):
    """Another process with a claim, and its name."""
    command = [sys.executable, "-c", HOLDER, folder.path]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        process.claim = process.stdout.readline().strip()
        yield process
        process.kill()


def leave_socket(folder, name):
    """Leave a socket file that nobody listens on."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(folder.socket_path(name))


# Names.


def test_the_runtime_folder_of_the_user_comes_first(above, monkeypatch):
    """If it is this user's."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", above)
    assert folder_of("chat") == f"{above}/greenchannels/chat"


@pytest.mark.parametrize("value", ["", "relative", "/does/not/exist"])
def test_without_a_runtime_folder_the_users_id_names_one(value, monkeypatch):
    """In /tmp, whatever TMPDIR says: all of a user must meet."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", value)
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    assert folder_of("chat") == f"/tmp/greenchannels-{os.geteuid()}/chat"


def test_a_runtime_folder_with_a_long_path_is_not_used(above, monkeypatch):
    """A socket's path has to fit there with every name; one that fits is used."""
    room = module.MAX_PATH - module.MAX_SOCKET_NAME - len("/greenchannels/chat/")
    for length, used in ((room, True), (room + 1, False)):
        runtime = above + "/" + "x" * (length - len(above) - 1)
        os.mkdir(runtime)
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        fallback = f"/tmp/greenchannels-{os.geteuid()}/chat"
        assert folder_of("chat") == (
            f"{runtime}/greenchannels/chat" if used else fallback
        )
        if used:
            name = "9" * 10 + "-" + "f" * 13
            leave_socket(Folder(folder_of("chat")), name)


@pytest.mark.parametrize("name", ["x" * 64, "/" + "x" * 90])
def test_a_name_that_is_too_long_for_every_folder_is_refused(name, monkeypatch):
    """With the path in the words."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp")
    with pytest.raises(ConfigurationError, match="/x+' is too long for a Unix"):
        folder_of(name)


@ROOT
def test_the_runtime_folder_of_another_user_is_not_used(above, monkeypatch):
    """As after sudo -E."""
    os.chown(above, 12345, 12345)
    monkeypatch.setenv("XDG_RUNTIME_DIR", above)
    assert folder_of("chat") == f"/tmp/greenchannels-{os.geteuid()}/chat"


def test_an_absolute_path_is_the_folder():
    """For services with a folder of their own."""
    assert folder_of("/run/chat/") == "/run/chat"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a b", "x" * 65, "\u20ac", "a\n", "/" + "x" * 90]
)
def test_other_names_are_refused(name):
    """By the URL already."""
    with pytest.raises(ConfigurationError):
        make_layer("ipc://" + name)


def test_the_default_name_tells_applications_users_and_folders_apart(above):
    """And nothing else: a link to the folder is the same folder."""
    name = default_name("app:routing", above, 1000)
    link = above + "-link"
    os.symlink(above, link)
    try:
        assert default_name("app:routing", link, 1000) == name
    finally:
        os.unlink(link)
    others = [("app:other", above, 1000), ("app:routing", "/", 1000)]
    others += [("app:routing", above, 1001)]
    assert name not in {default_name(*other) for other in others}
    assert folder_of(name).endswith(name)


# Owner and mode.


def test_folders_are_made_for_the_user_alone(above, monkeypatch):
    """Whatever the umask allows."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", above)
    old = os.umask(0)
    try:
        path = Folder(folder_of("chat")).path
    finally:
        os.umask(old)
    for each in (path, os.path.dirname(path)):
        assert os.stat(each).st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o701, 0o704, 0o777])
def test_a_folder_that_is_open_to_others_is_refused(folder, mode):
    """With its mode in the words."""
    os.chmod(folder.path, mode)
    with pytest.raises(ConfigurationError, match=f"{mode:o}"):
        IpcBus(folder.path).start(None, None)


@ROOT
def test_a_folder_of_another_user_is_refused(folder, above, monkeypatch):
    """The one itself, and the one above."""
    os.chown(folder.path, 12345, 12345)
    with pytest.raises(ConfigurationError, match="12345"):
        Folder(folder.path)
    os.mkdir(f"{above}/greenchannels", 0o700)
    os.chown(f"{above}/greenchannels", 12345, 12345)
    monkeypatch.setenv("XDG_RUNTIME_DIR", above)
    with pytest.raises(ConfigurationError, match="12345"):
        Folder(folder_of("chat"))


def test_a_link_or_a_file_is_no_folder(folder, above):
    """Whoever made it."""
    os.symlink(folder.path, f"{above}/link")
    with open(f"{above}/file", "w"):
        pass
    for name in ("link", "file"):
        with pytest.raises(ConfigurationError):
            Folder(f"{above}/{name}")


# Claims and locks.


def test_a_claim_holds_a_name_until_it_is_released(folder):
    """Its lock file goes with it."""
    claim = folder.claim()
    assert claim.name.startswith(f"{os.getpid()}-")
    assert os.listdir(folder.path) == [claim.name + ".lock"]
    claim.release()
    claim.release()
    assert os.listdir(folder.path) == []


def test_a_process_never_opens_its_own_lock_files(folder, monkeypatch):
    """Closing them would free the lock, for another layer of the process too."""
    claims = [folder.claim(), Folder(folder.path).claim()]
    opened = []
    monkeypatch.setattr(os, "open", lambda *a, **k: opened.append(a))
    for claim in claims:
        assert not folder.remove_if_dead(claim.name)
    folder.remove_abandoned()
    monkeypatch.undo()
    assert opened == []
    code = (
        "import sys; from greenchannels.layers.ipc_folder import Folder\n"
        "print([Folder(sys.argv[1]).remove_if_dead(n) for n in sys.argv[2:]])"
    )
    names = [claim.name for claim in claims]
    assert run(code, folder.path, *names) == "[False, False]\n"
    for claim in claims:
        claim.release()


def test_the_sockets_of_the_living_stay(folder, holder):
    """However often somebody looks, and though they do not listen."""
    leave_socket(folder, holder.claim)
    for _ in range(3):
        assert not folder.remove_if_dead(holder.claim)
    assert sorted(os.listdir(folder.path)) == [holder.claim, holder.claim + ".lock"]


def test_the_sockets_of_the_dead_are_removed(folder, holder):
    """With their lock files; and it may be said twice."""
    leave_socket(folder, holder.claim)
    holder.kill()
    holder.wait()
    assert folder.names() == [holder.claim]
    assert folder.remove_if_dead(holder.claim)
    assert folder.remove_if_dead(holder.claim)
    assert os.listdir(folder.path) == []


def test_a_socket_without_a_lock_file_is_left_alone(folder):
    """Nobody can say whose it is; but nobody waits for it."""
    leave_socket(folder, "1-ab")
    assert folder.remove_if_dead("1-ab")
    assert os.listdir(folder.path) == ["1-ab"]


def test_lock_files_that_never_had_a_socket_are_removed_when_old(folder, holder):
    """Those of the dead, whether they had their name yet or not."""
    for name in ("2-ab.new", "3-ab.lock", "4-ab.new", "other"):
        with open(os.path.join(folder.path, name), "w"):
            pass
        if name[0] in "23":
            os.utime(os.path.join(folder.path, name), (1, 1))
    os.utime(os.path.join(folder.path, holder.claim + ".lock"), (1, 1))
    folder.remove_abandoned()
    left = {"4-ab.new", "other", holder.claim + ".lock"}
    assert set(os.listdir(folder.path)) == left


def test_a_claim_is_made_anew_when_its_file_was_taken_for_abandoned(
    folder, monkeypatch
):
    """Somebody held its lock, or had removed it, before it had its name."""
    lockf, rename, calls = fcntl.lockf, os.rename, []

    def held_once(fd, *rest):
        calls.append("lockf")
        if len(calls) == 1:
            raise BlockingIOError
        return lockf(fd, *rest)

    def removed_once(source, target):
        calls.append("rename")
        if calls.count("rename") == 1:
            os.unlink(source)
        return rename(source, target)

    monkeypatch.setattr(module.fcntl, "lockf", held_once)
    monkeypatch.setattr(module.os, "rename", removed_once)
    claim = folder.claim()
    assert calls == ["lockf", "lockf", "rename", "lockf", "rename"]
    assert os.listdir(folder.path) == [claim.name + ".lock"]
    claim.release()


def test_a_lock_is_not_inherited_by_a_forked_child(folder):
    """Nor freed when the child closes the file."""
    code = """
import os, sys
from greenchannels.layers.ipc_folder import Folder
claim = Folder(sys.argv[1]).claim()
pid = os.fork()
if not pid:
    claim.abandon()
    os._exit(0)
os.waitpid(pid, 0)
print(claim.name, flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", code, folder.path]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        name = process.stdout.readline().strip()
        assert not folder.remove_if_dead(name)
        process.kill()


# When there is no room.


@pytest.fixture
def full_disk(above):
    """A file system that has no room for one more file."""
    mounted = ["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=4", "none", above]
    if os.geteuid() != 0 or subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs")
    yield above
    subprocess.run(["umount", "-l", above], check=True)


def test_on_a_full_disk_a_layer_cannot_start_and_says_why(full_disk):
    """Nothing is left, and it can start once there is room."""
    path = f"{full_disk}/app"
    Folder(path)
    for name in "ab":
        with open(f"{full_disk}/{name}", "w"):
            pass
    bus = IpcBus(path)
    with pytest.raises(LayerUnavailable, match="No space left"):
        bus.start(None, None)
    os.unlink(f"{full_disk}/a")
    with pytest.raises(LayerUnavailable, match="No space left"):
        bus.start(None, None)  # room for the lock file, but not for the socket
    assert os.listdir(path) == []
    os.unlink(f"{full_disk}/b")
    bus.start(None, None)
    bus.close()
    assert os.listdir(path) == []
