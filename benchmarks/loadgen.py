"""The load generator as seen from Python: build it, run it, read its report."""

import contextlib
import hashlib
import json
import os
import subprocess
from pathlib import Path

from .assets import CACHE
from .cores import LOAD_CORE

SOURCE = Path(__file__).with_name("loadgen.c")
#: Only who measures TLS needs OpenSSL, or compression zlib: what to compile with.
FEATURES = {
    "tls": ["-DTLS", "-lssl", "-lcrypto"],
    "deflate": ["-DDEFLATE", "-lz"],
}
#: What is missing where the compiler does not find a header.
HEADERS = {
    "openssl/": "OpenSSL's headers are missing (apt-get install libssl-dev)",
    "zlib.h": "zlib's headers are missing (apt-get install zlib1g-dev)",
}
#: Above this share of its core, the load generator is what was measured.
BUSY = 0.85
#: Longer than any run beside its window, in seconds: the load generator ends by
#: itself before.
TIMEOUT = 120


class LoadError(Exception):
    """The load generator, its compiler or the server's answers failed."""


def built(features):
    """Return the program's path, compiled when its source has changed."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    program = CACHE / "-".join(["loadgen", *features, digest])
    if not program.exists():
        CACHE.mkdir(exist_ok=True)
        compile_to(program, [option for name in features for option in FEATURES[name]])
    return program


def compile_to(program, options):
    """Compile beside the target and rename, so that two runs may do it at once."""
    unfinished = program.with_suffix(f".{os.getpid()}")
    compiler = os.environ.get("CC", "cc")
    command = [compiler, "-O2", "-Wall", "-Wextra", "-o", unfinished, SOURCE, *options]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        for header, missing in HEADERS.items():
            if header in result.stderr:
                raise LoadError(missing)
        raise LoadError(f"{compiler} failed:\n{result.stderr}")
    unfinished.rename(program)


def options_of(row, contestant):
    """Return a load's options by name: the row's, then a variant's or server's."""
    return {"mode": row.command, "path": row.path, **row.load, **contestant.load}


def command_of(row, contestant, port, pids):
    """Return the command that puts a row's load on a server."""
    options = options_of(row, contestant)
    command = [built([name for name in FEATURES if options.get(name)])]
    options |= {"port": port, "pid": ",".join(map(str, pids)), "cpu": LOAD_CORE}
    for name, value in options.items():
        command += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return command


def run(row, contestant, port, pids):
    """
    Put a row's load on a server.

    Args:
        row: The row.
        contestant: The server, which may need options of its own.
        port: The server's port on 127.0.0.1.
        pids: The server's processes, whose CPU time is read; and the first one's
            memory.

    Returns:
        The report, as a dict.

    Raises:
        LoadError: If a connection failed or an answer was wrong.

    """
    command = command_of(row, contestant, port, pids)
    timeout = TIMEOUT + options_of(row, contestant).get("seconds", 0)
    result = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    if result.returncode:
        raise LoadError(result.stderr.strip() or f"status {result.returncode}")
    return json.loads(result.stdout)


@contextlib.contextmanager
def held(row, contestant, port, pids):
    """
    Put a row's load on a server; its connections are kept for a ``with`` block.

    They are not served meanwhile: the block has to end before pings are overdue.

    Yields:
        The report.

    Raises:
        LoadError: As ``run`` does, or if a connection ended within the block.

    """
    command = [*command_of(row, contestant, port, pids), "--hold"]
    pipe = subprocess.PIPE
    load = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    try:
        report = load.stdout.readline()
        if report:
            yield json.loads(report)
        _, said = load.communicate(timeout=TIMEOUT)
    finally:
        load.kill()
        load.wait()
    if load.returncode:
        raise LoadError(said.strip() or f"status {load.returncode}")
