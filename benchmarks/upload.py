"""One long upload as a load: what it does to a server's memory."""

import http.client
import shutil
import socket
import tempfile
import time

from .loadgen import LoadError
from .usage import cpu_ns, forget_peak, peak_bytes, resident_bytes

MIB = 2**20
#: A piece of the body, not all alike.
PIECE = bytes(range(256)) * (MIB // 256)
#: For the server to take another piece, or to answer, in seconds.
TIMEOUT = 60


def run(row, contestant, port, pids):
    """
    Send a body and return what it cost; a short one before does not count.

    Returns:
        A report with the fields of ``loadgen``'s; a message is a MiB.

    Raises:
        LoadError: If there is no room to spool the body, or the answer is wrong.

    """
    count = row.load["mebibytes"]
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < 2 * count * MIB:
        raise LoadError(f"{free // MIB:,} MiB free in {tempfile.gettempdir()}")
    send(port, row.path, row.load["warmup-mebibytes"])
    (pid,) = pids
    forget_peak(pid)
    resident, before = resident_bytes(pid), cpu_ns(pids)
    own, at = time.process_time(), time.monotonic()
    send(port, row.path, count)
    own, seconds = time.process_time() - own, time.monotonic() - at
    server = cpu_ns(pids) - before
    return {
        "messages": count,
        "seconds": seconds,
        "rate": count / seconds,
        "cpu_us": server / count / 1e3,
        "server_share": server / seconds / 1e9,
        "own_share": own / seconds,
        "deflated": 0,
        "p50_us": 0,
        "p99_us": 0,
        "growth_bytes": peak_bytes(pid) - resident,
    }


def send(port, path, count):
    """Upload so many MiB; the server answers how many bytes it has read."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as peer:
            peer.sendall(
                f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
                f"Content-Length: {count * MIB}\r\nConnection: close\r\n\r\n".encode()
            )
            for _ in range(count):
                peer.sendall(PIECE)
            response = http.client.HTTPResponse(peer, method="POST")
            response.begin()
            answer = response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise LoadError(f"upload: {error!r}") from error
    if (response.status, answer) != (200, str(count * MIB)):
        raise LoadError(f"upload: {response.status} {answer[:200]}")
