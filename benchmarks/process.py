"""One server process: started on its core, awaited, and stopped by its own id."""

import contextlib
import os
import socket
import subprocess
import tempfile
import time

from .cores import SERVER_CORE

#: From starting the process to its first accepted connection, in seconds.
START_TIMEOUT = 15.0
#: From SIGTERM to SIGKILL, in seconds; nothing is measured any more by then.
STOP_TIMEOUT = 3.0
#: Lines of a failed server's output that are shown.
TAIL = 25


class ServerError(Exception):
    """A server that did not start, or ended by itself."""


def free_port():
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def tail(log):
    """Return the last lines of a server's output."""
    log.seek(0)
    lines = log.read().decode(errors="replace").splitlines()[-TAIL:]
    return "\n".join(f"    {line}" for line in lines) or "    (no output)"


def pin():
    """Keep the new process on the server's core; runs between fork and exec."""
    os.sched_setaffinity(0, {SERVER_CORE})


@contextlib.contextmanager
def running(contestant):
    """
    Serve for the length of a ``with`` block.

    Yields:
        The port and the process id.

    Raises:
        ServerError: If the process does not listen in time. The end of its
            output is also noted on an error of the block.

    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        process = start(contestant, port, folder, log)
        try:
            await_port(process, port)
            yield port, process.pid
        except Exception as error:
            error.add_note(f"{contestant.label} said:\n{tail(log)}")
            raise
        finally:
            stop(process)


def start(contestant, port, folder, log):
    """Start a server in an empty folder, so that it imports nothing by chance."""
    return subprocess.Popen(
        contestant.command(port),
        cwd=folder,
        env=contestant.environment(),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        preexec_fn=pin,
    )


def await_port(process, port):
    """Wait until the process accepts connections."""
    until = time.monotonic() + START_TIMEOUT
    while time.monotonic() < until:
        if process.poll() is not None:
            raise ServerError(f"ended with status {process.returncode}")
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.05)
    raise ServerError(f"did not listen within {START_TIMEOUT:g} s")


def stop(process):
    """End a server: SIGTERM, then SIGKILL."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
