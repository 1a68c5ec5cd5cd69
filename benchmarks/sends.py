"""Sends that reach no other process: what each takes the one who sends."""

import json
import socket
import time

from .loadgen import LoadError

#: For the server to say something, in seconds.
TIMEOUT = 30
#: Bytes read at once: the messages are small.
BUFFER = 2**20
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
#: The lengths of frames that have a longer header, and of what it has more.
EXTENDED = {126: 2, 127: 8}


def run(row, contestant, port, pids):
    """
    Have the server send for a time, and return what it tells of that.

    The row's path is a template: fields of the load, and ``others``, the number of
    processes beside the one that sends.

    Returns:
        A report with the fields of ``loadgen``'s; a message is a send.

    Raises:
        LoadError: If the server does not tell, or a member did not get everything.

    """
    load = {**row.load, **contestant.load}
    others = max(0, contestant.workers - 1)
    path = row.path.format(**load, others=others)
    own, at = time.process_time(), time.monotonic()
    told, received = ask(port, path)
    own_share = (time.process_time() - own) / (time.monotonic() - at)
    count, seconds, cpu = told["messages"], told["seconds"], told["cpu"]
    if load.get("members") and received < count:
        raise LoadError(f"{received} messages of more than {count} have come")
    return {
        "messages": count,
        "seconds": seconds,
        "rate": count / seconds,
        "wall_us": seconds / count * 1e6,
        "cpu_us": cpu / count * 1e6,
        "server_share": cpu / seconds,
        "own_share": own_share,
        "deflated": 0,
        "p50_us": 0,
        "p99_us": 0,
    }


def ask(port, path):
    """Open a WebSocket; return the object that comes last, and how many came before."""
    received = 0
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as peer:
            for message in messages(peer, port, path):
                if message.startswith(b"{"):
                    return json.loads(message), received
                received += 1
    except OSError as error:
        raise LoadError(f"{path}: {error!r}") from error
    raise LoadError(f"{path}: ended after {received} messages")


def messages(peer, port, path):
    """Open a WebSocket and return an iterator over its messages (RFC 6455)."""
    peer.sendall(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    stream = peer.makefile("rb", buffering=BUFFER)
    status = stream.readline()
    if not status.startswith(b"HTTP/1.1 101"):
        raise LoadError(f"{path}: {status!r}")
    while stream.readline() not in (b"\r\n", b""):
        pass
    return iter(lambda: message(stream), None)


def message(stream):
    """Return the payload of the next text frame, or ``None`` at the end."""
    head = stream.read(2)
    if len(head) < 2 or head[0] != 0x81:
        return None
    size = head[1]
    if size in EXTENDED:
        size = int.from_bytes(stream.read(EXTENDED[size]), "big")
    return stream.read(size)
