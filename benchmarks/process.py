"""One server: started on its core, awaited, and stopped by its own id."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from .cores import SERVER_CORE

#: From starting the process to its first accepted connection, in seconds.
START_TIMEOUT = 15.0
#: From SIGTERM to SIGKILL, in seconds; nothing is measured any more by then.
STOP_TIMEOUT = 3.0
#: Lines of a failed server's output that are shown.
TAIL = 25


class ServerError(Exception):
    """A server that did not start, ended by itself, or kept something quiet."""


def free_port():
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def output(log):
    """Return what a server has said so far; its own place in the file stays."""
    size = os.fstat(log.fileno()).st_size
    return os.pread(log.fileno(), size, 0).decode(errors="replace")


def check_said(log, text):
    """Raise unless ``text`` is in a server's output."""
    if text not in output(log):
        raise ServerError(f"did not say {text!r}")


def tail(log):
    """Return the last lines of a server's output."""
    lines = output(log).splitlines()[-TAIL:]
    return "\n".join(f"    {line}" for line in lines) or "    (no output)"


def pin():
    """Keep the new process on the server's core; runs between fork and exec."""
    os.sched_setaffinity(0, {SERVER_CORE})


@contextlib.contextmanager
def running(contestant):
    """
    Serve for the length of a ``with`` block.

    Yields:
        The port, the ids of the processes that serve, and the file that the
        output goes to.

    Raises:
        ServerError: If the process does not listen in time. The end of its
            output is also noted on an error of the block.

    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        process = start(contestant, port, folder, log)
        try:
            await_port(process, port)
            yield port, serving(contestant, process), log
        except Exception as error:
            error.add_note(f"{contestant.label} said:\n{tail(log)}")
            raise
        finally:
            stop(process)


def start(contestant, port, folder, log):
    """Start a server in an empty folder, so that it imports nothing by chance."""
    contestant.write_files(folder, port)
    command, environment = contestant.command(port), contestant.environment(folder)
    program = shutil.which(command[0], path=environment["PATH"])
    if program is None:
        raise ServerError(f"{command[0]} is not installed")
    return subprocess.Popen(
        command,
        executable=program,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        preexec_fn=pin,
    )


def await_port(process, port, interval=0.05):
    """Wait until the process accepts connections; look again after so many seconds."""
    until = time.monotonic() + START_TIMEOUT
    while time.monotonic() < until:
        if process.poll() is not None:
            raise ServerError(f"ended with status {process.returncode}")
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(interval)
    raise ServerError(f"did not listen within {START_TIMEOUT:g} s")


def serving(contestant, process):
    """Return the ids of the processes that serve, and of who looks after ours."""
    if contestant.forks:
        return children_of(process, 1)
    return [process.pid, *children_of(process, contestant.workers)]


def children_of(process, count):
    """Return the ids of the children of a process, which may not be there yet."""
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until = time.monotonic() + START_TIMEOUT
    while time.monotonic() < until:
        children = listed.read_text().split()
        if len(children) == count:
            return [int(child) for child in children]
        time.sleep(0.05)
    raise ServerError(f"has {len(children)} children, not {count}")


def stop(process):
    """End a server: SIGTERM, then SIGKILL."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
