"""The Redis servers of a round: started for it, on the load generator's core."""

import contextlib
import shutil
import subprocess
import tempfile
from dataclasses import replace

from .process import ServerError, await_port, free_port, tail

#: Either will do.
PROGRAMS = ("redis-server", "valkey-server")
#: Seconds between two looks whether one listens: one figure begins at that moment.
LOOK_INTERVAL = 0.001


class RedisServer:
    """
    A server on a free port that keeps nothing. It has the core of who starts it.

    Args:
        folder: Where it runs.

    Raises:
        ServerError: If it is not installed, or does not start.

    """

    def __init__(self, folder):
        self._program = next(filter(None, map(shutil.which, PROGRAMS)), None)
        if self._program is None:
            raise ServerError(f"neither {' nor '.join(PROGRAMS)} is installed")
        self._folder = folder
        self._process = None
        self.port = free_port()
        self.start()

    def start(self):
        """Start it; blocks until it accepts connections."""
        command = [self._program, "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendonly", "no"]
        with tempfile.TemporaryFile() as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            try:
                await_port(self._process, self.port, LOOK_INTERVAL)
            except ServerError as error:
                error.add_note(f"{self._program} said:\n{tail(log)}")
                self.kill()
                raise

    def kill(self):
        """Kill it with SIGKILL; connections end, and nobody listens any more."""
        self._process.kill()
        self._process.wait()

    def client(self):
        """Return a client, to be used by ``with``."""
        import redis  # other rows do without it

        return redis.Redis(port=self.port, decode_responses=True)


@contextlib.contextmanager
def beside(contestant):
    """
    Have the servers that a contestant needs for the length of a ``with`` block.

    Yields:
        The contestant, which knows them.

    Raises:
        ServerError: If one does not start.

    """
    with contextlib.ExitStack() as stack:
        servers = []
        for _ in range(contestant.hosts):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            servers.append(RedisServer(folder))
            stack.callback(servers[-1].kill)
        yield replace(contestant, redis=tuple(servers)) if servers else contestant
