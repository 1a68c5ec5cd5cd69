"""
A stand-in for systemd as process 1, which tests have not.

It holds the sockets of a .socket file and runs the command of its .service file through
``systemd-socket-activate``, which hands them over as systemd does. What it heeds is
what decides whether the service works: ListenStream, ExecStart, ExecReload,
Environment, RuntimeDirectory, KillMode, TimeoutStopSec. Hardening it cannot do.
"""

import re
import shlex
import shutil
import signal
import socket as stdlib_socket
import subprocess
import sys

from tests.cli.test_binds import LAUNCHER


class Manager:
    """
    ``systemctl`` for one service with its socket.

    Args:
        site: Where the unit files are.
        name: What both files are called.

    """

    def __init__(self, site, name="chat"):
        self._site, self._name = site, name
        self._socks, self.program = [], None

    def __call__(self, verb, *arguments):
        """Do what ``systemctl VERB ...`` does."""
        getattr(self, verb.replace("-", "_"))(*arguments)

    def read(self, kind):
        """Return the settings of a unit file: a list of values for each name."""
        path = self._site.path(f"/etc/systemd/system/{self._name}.{kind}")
        found = {}
        for line in path.read_text().splitlines():
            if match := re.fullmatch(r"(\w+)=(.*)", line):
                found.setdefault(match[1], []).append(match[2])
        return found

    def daemon_reload(self):
        """Files are read whenever they are needed."""

    def enable(self, now, *units):
        """Listen, and start."""
        assert now == "--now" and units == (
            f"{self._name}.socket",
            f"{self._name}.service",
        )
        for where in self.read("socket")["ListenStream"]:
            self._socks.append(listen(where))
        self._start()

    def restart(self, unit):
        """Stop the service, and start it again; the sockets stay."""
        assert unit == f"{self._name}.service"
        self.stop()
        self._start()

    def reload(self, unit):
        """Do what the file says."""
        assert unit == f"{self._name}.service"
        (command,) = self.read("service")["ExecReload"]
        command = command.replace("$MAINPID", str(self.program.pid))
        subprocess.run(shlex.split(command), check=True)

    def stop(self):
        """Signal the main process; kill all that is left when the time is over."""
        service = self.read("service")
        assert service["KillMode"] == ["mixed"], "what this stand-in does"
        self.program.process.send_signal(signal.SIGTERM)
        try:
            code = self.program.process.wait(float(service["TimeoutStopSec"][0]))
        finally:
            self.program.kill()
            shutil.rmtree(self._runtime, ignore_errors=True)
        assert code == 0, self.program.said

    def close(self):
        """Let go of the sockets."""
        for sock in self._socks:
            sock.close()

    @property
    def _runtime(self):
        (name,) = self.read("service")["RuntimeDirectory"]
        return self._site.path(f"/run/{name}")

    def _start(self):
        service = self.read("service")
        self._runtime.mkdir(int(service["RuntimeDirectoryMode"][0], 8))
        given = dict(each.split("=", 1) for each in service["Environment"])
        env = [f"--setenv={name}={value}" for name, value in given.items()]
        fds = [sock.fileno() for sock in self._socks]
        self.program = self._site.spawn(
            [
                *(sys.executable, "-c", LAUNCHER, ",".join(map(str, fds)), "self", ""),
                *(shutil.which("systemd-socket-activate"), *env),
                *shlex.split(service["ExecStart"][0]),
            ],
            None,
            cwd=service["WorkingDirectory"][0],
            pass_fds=fds,
        )
        # The tool waits for the first connection; a service that is started does not.
        stdlib_socket.create_connection(self._socks[0].getsockname()).close()


def listen(where):
    """Return a listening socket for a ListenStream=."""
    if where.startswith("/"):
        sock = stdlib_socket.socket(stdlib_socket.AF_UNIX)
        sock.bind(where)
    else:
        host, _, port = where.rpartition(":")
        sock = stdlib_socket.socket()
        sock.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_REUSEADDR, 1)
        sock.bind((host, int(port)))
    sock.listen(128)
    return sock
