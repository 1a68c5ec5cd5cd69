"""
A stand-in for ``docker``: it does what a Dockerfile says, in folders.

Each stage has a root folder and a fresh virtual environment; RUN, HEALTHCHECK and CMD
are executed with it. CMD is process 1 of a namespace where that may be made. The image
that FROM names, USER, and a network of its own there are not.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.deploy.site import PATIENCE, ROOT, waited

#: What a clean checkout has not.
NOT_COPIED = shutil.ignore_patterns(
    *(".git", ".tox", ".venv", "build", ".build", "*.egg-info", "*.so", "*.py[co]"),
    *("__pycache__", ".*_cache", ".hypothesis"),
)

#: Makes a process 1 of what follows.
NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child")


def can_be_process_1():
    """Return whether this machine lets us make a namespace."""
    try:
        return subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode == 0
    except OSError:
        return False


class Stage:
    """One FROM and what follows it."""

    def __init__(self, site, number):
        self.root = site.root / f"stage-{number}"
        self.cwd = self.root
        self.settings = {}
        subprocess.run([sys.executable, "-m", "venv", self.root / "venv"], check=True)
        path = f"{self.root}/venv/bin{os.pathsep}{os.environ['PATH']}"
        self.env = {"PATH": path, "HOME": "/nonexistent"}
        for name in (
            "PIP_INDEX_URL",
            "PIP_CACHE_DIR",
            "PIP_CONFIG_FILE",
            "XDG_CACHE_HOME",
        ):
            if name in os.environ:
                self.env[name] = os.environ[name]

    def place(self, path):
        """Return where an absolute or a relative path is."""
        return self.root / path[1:] if path.startswith("/") else self.cwd / path


class Docker:
    """
    ``docker build``, ``run`` and ``stop``.

    Args:
        site: Where.
        dockerfile: What is built.

    """

    def __init__(self, site, dockerfile):
        self._site, self._dockerfile = site, dockerfile
        self._images, self._stages = {}, {}
        self.program = self.image = self._stop_timeout = None

    def __call__(self, verb, *arguments):
        """Do what ``docker VERB ...`` does."""
        getattr(self, verb)(*arguments)

    def build(self, tag, name, context):
        """Execute the Dockerfile."""
        assert (tag, context) == ("--tag", ".")
        for line in self._dockerfile.splitlines():
            if line and not line.startswith("#"):
                word, _, rest = line.partition(" ")
                self._instructions.get(word, self._set)(word, rest)
        self._images[name] = self.image

    def _from(self, _, rest):
        self.image = Stage(self._site, len(self._stages))
        _, _, name = rest.partition(" AS ")
        self._stages[name or len(self._stages)] = self.image

    def _copy(self, _, rest):
        *options, source, target = rest.split()
        base = ROOT / source
        if options:
            base = self._stages[options[0].removeprefix("--from=")].place(source)
        target = self.image.place(target)
        shutil.copytree(base, target, ignore=NOT_COPIED, dirs_exist_ok=True)

    def _run(self, _, rest):
        self._execute(["bash", "-ec", self._site.below(self.image.root, rest)])

    def _workdir(self, _, rest):
        self.image.cwd = self.image.place(rest)
        self.image.cwd.mkdir(parents=True, exist_ok=True)

    def _set(self, word, rest):
        self.image.settings[word] = self._site.below(self.image.root, rest)

    def _execute(self, command):
        return subprocess.run(
            command,
            cwd=self.image.cwd,
            env=self.image.env,
            check=True,
            capture_output=True,
            timeout=10 * PATIENCE,
        )

    def run(self, *arguments):
        """Start CMD, which has to be in the form that needs no shell."""
        *_, name = arguments
        assert {"--detach", "--read-only"} <= set(arguments)
        assert f"{self._site.port(8000)}:{self._site.port(8000)}" in arguments
        self._stop_timeout = float(arguments[arguments.index("--stop-timeout") + 1])
        self.image = self._images[name]
        command = json.loads(self.image.settings["CMD"])
        program = shutil.which(command[0], path=self.image.env["PATH"])
        assert program.startswith(str(self.image.root)), program
        prefix = NAMESPACE if can_be_process_1() else ()
        self.program = self._site.spawn(
            [*prefix, *command], None, cwd=self.image.cwd, only=self.image.env
        )

    @property
    def _instructions(self):
        return {
            "FROM": self._from,
            "COPY": self._copy,
            "RUN": self._run,
            "WORKDIR": self._workdir,
        }

    @property
    def pid(self):
        """Process 1, as seen from outside."""
        if not can_be_process_1():
            return self.program.pid
        pid = self.program.pid
        children = Path(f"/proc/{pid}/task/{pid}/children")
        return int(waited(lambda: children.read_text().split())[0])

    def healthy(self):
        """Return whether the HEALTHCHECK succeeds."""
        command = self.image.settings["HEALTHCHECK"].partition("CMD ")[2]
        try:
            self._execute(json.loads(command))
        except subprocess.CalledProcessError:
            return False
        return True

    def stop(self, name):
        """Tell process 1; return nothing, but fail if it had to be killed."""
        os.kill(self.pid, signal.SIGTERM)
        code = self.program.process.wait(self._stop_timeout)
        assert code == 0, self.program.said
