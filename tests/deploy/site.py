"""
A place on this machine where the pages' commands run as they stand.

Only paths (/srv, /run, /etc, /var, /src, /wheels) and port numbers are replaced, by
ones of this test's own. What is started is ended with the site.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import greenchannels
from tests.deploy.pages import README
from tests.ports import free_port

ROOT = Path(__file__).parents[2]

#: Seconds for what takes a few on a machine that is not busy.
PATIENCE = 30

_PATH = re.compile(r"(?<![\w./%-])/(srv|run|etc|var|src|wheels)(?=[/\s;:'\")]|$)", re.M)
_PORT = re.compile(r"(?<![\w.%-])(8000|443|80)(?![\w.%-])")


class Site:
    """
    Folders, ports and processes of one test.

    Attributes:
        root: What stands for ``/``; its path is short enough for Unix sockets.
        used: The blocks that have been executed or written.

    """

    def __init__(self):
        self.root = Path(tempfile.mkdtemp(prefix="gd-", dir="/tmp"))
        os.chmod(self.root, 0o755)  # nginx's workers may be somebody else
        self.used = set()
        self._ports, self._started = {}, []
        for name in ("srv/chat", "run/user", "etc", "var/log", "home", "bin"):
            (self.root / name).mkdir(parents=True)
        (self.root / "run/user").chmod(0o700)
        package = str(Path(greenchannels.__file__).parents[1])
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("GREENCHANN")},
            "HOME": str(self.root / "home"),
            "XDG_RUNTIME_DIR": str(self.root / "run/user"),
            "PYTHONPATH": package,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PATH": os.pathsep.join(
                [
                    str(self.root / "bin"),
                    str(self.root / "srv/chat/venv/bin"),
                    os.environ["PATH"],
                    "/usr/sbin:/sbin",
                ]
            ),
        }

    def prepare(self):
        """Have the application as README.md says, with this run's Python."""
        shutil.copytree(ROOT / "examples/chat", self.root / "srv/chat/chat")
        for block in README.files("The application"):
            self.write(block)
        programs = self.root / "srv/chat/venv/bin"
        where = f"PYTHONPATH={self.env['PYTHONPATH']}"
        call = f'{where} exec {sys.executable} -m greenchannels "$@"'
        self.program(programs / "greenchannels", call)
        (programs / "gunicorn").symlink_to(Path(sys.executable).parent / "gunicorn")

    def program(self, path, text):
        """Make a shell script."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    # What the pages say, with paths and ports of this site.

    def path(self, path):
        """Return what stands for an absolute path."""
        return self.root / path.lstrip("/")

    def port(self, number):
        """Return what stands for a port."""
        return self._ports.setdefault(int(number), free_port())

    def address(self, number=8000):
        """Return host and port."""
        return "127.0.0.1", self.port(number)

    def here(self, text):
        """Return a page's text with paths and ports of this site."""
        return self.below(self.root, text)

    def below(self, root, text):
        """Return a page's text with ports of this site and paths below a folder."""
        text = _PATH.sub(lambda found: f"{root}{found[0]}", text)
        return _PORT.sub(lambda found: str(self.port(found[1])), text)

    def write(self, block, text=None):
        """Make the file that a block is."""
        self.used.add(block)
        path = self.root / block.path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.here(text or block.text))
        return path

    def run(self, block, *, cwd=None, seconds=PATIENCE, **stand_ins):
        """
        Execute commands that end; return what they have printed.

        Args:
            block: The commands.
            cwd: Where; by default where the application is.
            seconds: How long they may take.
            stand_ins: Functions for programs that only an operating system can be;
                each gets the arguments.

        """
        self.used.add(block)
        printed = ""
        for line in _lines(block.text) if stand_ins else [block.text]:
            words = self.here(line).split()
            if words[0] in stand_ins:
                stand_ins[words[0]](*words[1:])
                continue
            done = subprocess.run(
                ["bash", "-ec", self.here(line)],
                cwd=cwd or self.path("/srv/chat"),
                env=self.env,
                capture_output=True,
                text=True,
                timeout=seconds,
            )
            assert done.returncode == 0, (line, done.stdout, done.stderr)
            printed += done.stdout + done.stderr
        return printed

    def start(self, block, *, ready=r"Listening (?:on|at)", **options):
        """Execute commands of which the last one stays; wait until it says so."""
        self.used.add(block)
        return self.spawn(["bash", "-ec", self.here(block.text)], ready, **options)

    def spawn(self, command, ready, *, env=None, only=None, cwd=None, **options):
        """
        Start a program; wait until it has said something.

        Args:
            command: The program and its arguments.
            ready: A pattern of what it says; ``None`` does not wait.
            env: Variables to add.
            only: All variables that it has.
            cwd: Where; by default where the application is.
            options: For ``Popen``.

        """
        program = Program(
            command,
            cwd=cwd or self.path("/srv/chat"),
            env=self.env | (env or {}) if only is None else only,
            **options,
        )
        self._started.append(program)
        if ready is not None:
            program.wait_for(ready)
        return program

    def server_of(self, person):
        """Return the process that has the other end of somebody's connection."""
        ends = [f":{each[1]:04X}" for each in (self.address(), person.local_address)]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, remote, *_, inode = line.split()[:10]
            if (local[-5:], remote[-5:]) == tuple(ends):
                return next(
                    p for p in self.strays() if has_open(p, f"socket:[{inode}]")
                )
        raise AssertionError("not connected")

    def meeting(self):
        """Return how many processes meet in the user's folder of ``ipc://``."""
        return len(list(self.path("/run/user/greenchannels").glob("*/*.lock")))

    def close(self):
        """End all that is left, daemons too; remove the folders."""
        for program in self._started:
            program.kill()
        for pid in self.strays():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.root, ignore_errors=True)

    def strays(self):
        """Return the processes whose working folder is in this site."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(path / "cwd").startswith(f"{self.root}/"):
                    found.append(int(path.name))
        return found


class Program:
    """A program that stays, in a session of its own; it is read by a thread."""

    def __init__(self, command, **options):
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )
        self._said = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        while data := self.process.stdout.read1(65536):
            self._said += data

    @property
    def said(self):
        """What it has printed until now."""
        return self._said.decode("utf-8", "replace")

    @property
    def pid(self):
        """The process that the commands ended in."""
        return self.process.pid

    def wait_for(self, pattern):
        """Wait until it has printed something; return the match."""

        def look():
            found = re.search(pattern, self.said)
            assert found or self.process.poll() is None, self.said
            return found

        return waited(look, lambda: self.said)

    def has_said(self, text, times):
        """Wait until it has printed a text so many times."""

        def look():
            found = self.said.count(text)
            assert found >= times or self.process.poll() is None, self.said
            return found >= times

        waited(look, lambda: self.said)

    def end(self, number=signal.SIGTERM):
        """End it as one does; return the exit code and what it has printed."""
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code, self.said

    def kill(self):
        """End it and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()


def _lines(text):
    """Return a script's commands, one a line."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def has_open(pid, name):
    """Return whether a process has a descriptor of this name."""
    found = False
    for path in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(OSError):
            found = found or os.readlink(path) == name
    return found


def waited(look, explain=lambda: ""):
    """Return what ``look`` returns once it is true."""
    end = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < end, explain()
        time.sleep(0.02)
    return found
