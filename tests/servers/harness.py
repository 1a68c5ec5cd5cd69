"""
A server on this hub, and clients that can send it anything.

The clients know nothing of the package but its masking: what they read they take
apart themselves, so that a mistake shared by both ends cannot hide.
"""

import base64
import contextlib
import gc
import hashlib
import io
import logging
import os
import socket as stdlib_socket
import struct
import time
from dataclasses import dataclass, field
from types import FunctionType

import gevent
import gevent.socket
import pytest

from greenchannels import HTTPLimits, Limits, Server, ServerOptions, Timeouts, websocket
from greenchannels.net.binding import bind_tcp
from greenchannels.servers.access import AccessLog
from greenchannels.wire.frames import encode_masked

MS = 0.001

#: Objects among which each test may look for greenlets that were left.
SEARCHED_EACH_TIME = 20_000

#: Seconds in which anything that must happen has happened.
PATIENCE = 20.0

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

MASK = b"\x37\xfa\x21\x3d"
KEY = base64.b64encode(b"the sample nonce")
ACCEPT = base64.b64encode(
    hashlib.sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
)

#: What the engine logs only when it has a bug.
BUGS = (
    "failed in the hub",
    "a clock callback failed",
    "a slice of work failed",
    "failed at its end",
    "could not take a message",
    "a new connection failed",
)


def until(condition, seconds=PATIENCE):
    """Wait until ``condition()`` is true, and return its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not true within {seconds} s: {condition}")
        gevent.sleep(MS)
    return value


@contextlib.contextmanager
def patience(seconds=PATIENCE):
    """Fail if the block takes too long."""
    with gevent.Timeout(seconds, AssertionError(f"nothing happened for {seconds} s")):
        yield


@dataclass
class Response:
    """What came as an answer."""

    status: int
    headers: list
    body: bytes = b""
    head: bytes = b""

    def __getitem__(self, name):
        """Return the one field called ``name``."""
        found = [v for n, v in self.headers if n == name]
        assert len(found) == 1, (name, self.headers)
        return found[0]

    def get(self, name):
        """Return the fields called ``name``."""
        return [v for n, v in self.headers if n == name]


@dataclass
class Frame:
    """What came in a frame."""

    opcode: int
    payload: bytes = b""
    fin: bool = True


@dataclass
class Closed:
    """What a close frame said."""

    code: int
    reason: str = ""
    payload: bytes = field(default=b"", compare=False)


class Client:
    """A TCP or Unix connection that sends and reads bytes."""

    def __init__(self, address, *, receive_buffer=None):
        family = gevent.socket.AF_INET
        if isinstance(address, str):
            family = gevent.socket.AF_UNIX
        elif len(address) == 4:
            family = gevent.socket.AF_INET6
        self.sock = gevent.socket.socket(family)
        if receive_buffer is not None:
            self.sock.setsockopt(
                stdlib_socket.SOL_SOCKET, stdlib_socket.SO_RCVBUF, receive_buffer
            )
        if family != gevent.socket.AF_UNIX:
            self.sock.setsockopt(
                stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1
            )
        try:
            with patience():
                self.sock.connect(address)
        except BaseException:
            self.sock.close()
            raise
        self.data = bytearray()
        self.opened = b""

    def send(self, data):
        """Send all of ``data``."""
        with patience():
            self.sock.sendall(data)

    def _more(self, seconds):
        with patience(seconds):
            data = self.sock.recv(256 * 1024)
        if not data:
            raise EOFError(bytes(self.data))
        self.data += data

    def read(self, size, seconds=PATIENCE):
        """Return the next ``size`` bytes."""
        while len(self.data) < size:
            self._more(seconds)
        found = bytes(self.data[:size])
        del self.data[:size]
        return found

    def read_until(self, end, seconds=PATIENCE):
        """Return what comes until ``end``, and ``end``."""
        while end not in self.data:
            self._more(seconds)
        return self.read(self.data.index(end) + len(end))

    def response(self, *, method="GET", seconds=PATIENCE):
        """Return the next response."""
        head = self.read_until(b"\r\n\r\n", seconds)
        lines = head.decode("latin-1").split("\r\n")[:-2]
        assert lines[0].startswith("HTTP/1.1 "), lines[0]
        pairs = [line.split(": ", 1) for line in lines[1:]]
        status = int(lines[0].split(" ")[1])
        found = Response(status, [(n.lower(), v) for n, v in pairs], head=head)
        if method == "HEAD" or found.status in (101, 204, 304) or found.status < 200:
            return found
        if found.get("transfer-encoding"):
            assert found["transfer-encoding"] == "chunked"
            assert not found.get("content-length")
            while size := int(self.read_until(b"\r\n"), 16):
                found.body += self.read(size)
                assert self.read(2) == b"\r\n"
            assert self.read(2) == b"\r\n"
        elif found.get("content-length"):
            found.body = self.read(int(found["content-length"]))
        else:
            found.body = self.rest()
        return found

    def rest(self, seconds=PATIENCE):
        """Return what comes until the peer's end of the stream."""
        with contextlib.suppress(EOFError):
            while True:
                self._more(seconds)
        return self.read(len(self.data))

    def ended(self, seconds=PATIENCE):
        """Return how the peer ended the connection: "closed" or "reset"."""
        try:
            while True:
                self._more(seconds)
                self.data.clear()
        except EOFError:
            return "closed"
        except OSError:
            return "reset"

    def silent(self, seconds=50 * MS):
        """Return whether nothing comes for a while."""
        if self.data:
            return False
        with gevent.Timeout(seconds, False):
            self.data += self.sock.recv(65536) or b"EOF"
        return not self.data

    def half_close(self):
        """Send no more, but go on reading."""
        self.sock.shutdown(stdlib_socket.SHUT_WR)

    def reset(self):
        """Close with a reset."""
        self.sock.setsockopt(
            stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.sock.close()

    def close(self):
        """Close."""
        self.sock.close()


class Peer(Client):
    """A WebSocket client."""

    def handshake(self, path="/", headers=(), *, subprotocols=(), host="localhost"):
        """Send the request and return nothing."""
        fields = list(headers)
        if subprotocols:
            fields.append(("Sec-WebSocket-Protocol", ", ".join(subprotocols)))
        self.send(handshake(path, fields, host=host))

    def open(self, path="/", headers=(), **options):
        """Do the handshake, and return the 101."""
        self.handshake(path, headers, **options)
        answer = self.response()
        assert answer.status == 101, (answer, answer.body)
        assert answer["sec-websocket-accept"].encode() == ACCEPT
        return answer

    def frame(self, opcode, payload=b"", *, fin=True, rsv=0):
        """Send one masked frame."""
        self.send(encode_masked(opcode, payload, MASK, fin=fin, rsv=rsv))

    def say(self, *messages):
        """Send messages, all in one piece."""
        self.send(frames(*messages))

    def send_close(self, code=1000, reason=""):
        """Send a close frame; ``None`` leaves out the code."""
        payload = b"" if code is None else code.to_bytes(2, "big") + reason.encode()
        self.frame(CLOSE, payload)

    def next(self, seconds=PATIENCE):
        """Return the next frame."""
        first, second = self.read(2, seconds)
        assert not first & 0x70, "reserved bits"
        assert not second & 0x80, "a server does not mask"
        size = second & 127
        if size == 126:
            size = int.from_bytes(self.read(2), "big")
            assert size > 125
        elif size == 127:
            size = int.from_bytes(self.read(8), "big")
            assert size > 65535
        payload = self.read(size, seconds)
        return Frame(first & 15, payload, bool(first & 0x80))

    def hear(self, seconds=PATIENCE):
        """Return the next message, or ``Closed``."""
        frame = self.next(seconds)
        assert frame.fin
        if frame.opcode == TEXT:
            return frame.payload.decode()
        if frame.opcode == BINARY:
            return frame.payload
        assert frame.opcode == CLOSE, frame
        if not frame.payload:
            return Closed(1005)
        code = int.from_bytes(frame.payload[:2], "big")
        return Closed(code, frame.payload[2:].decode(), frame.payload)

    def closing(self, seconds=PATIENCE):
        """Return code and reason of the next close frame, and answer it."""
        while not isinstance(found := self.hear(seconds), Closed):
            pass
        with contextlib.suppress(OSError):
            self.frame(CLOSE, found.payload[:2])
        return found


def frames(*messages):
    """Return messages as masked frames."""
    return b"".join(
        encode_masked(
            TEXT if isinstance(m, str) else BINARY,
            m.encode() if isinstance(m, str) else m,
            MASK,
        )
        for m in messages
    )


def handshake(path="/", headers=(), *, host="localhost"):
    """Return a handshake's request."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {KEY.decode()}",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def request(path="/", method="GET", headers=(), body=b"", version="1.1"):
    """Return an HTTP request."""
    lines = [f"{method} {path} HTTP/{version}", "Host: localhost"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class Running:
    """A server that runs, and its clients."""

    def __init__(
        self,
        routing,
        *,
        limits=None,
        timeouts=None,
        http=None,
        send_buffer=None,
        host="127.0.0.1",
        **options,
    ):
        if isinstance(routing, FunctionType):
            routing = [websocket("/", routing)]
        self.access = io.StringIO()
        self.clients = []
        self.server = Server(
            routing,
            options=ServerOptions(
                limits=limits or Limits(),
                timeouts=timeouts or Timeouts(),
                http=http or HTTPLimits(),
                **options,
            ),
            access_log=AccessLog(self.access),
        )
        self.server.start()
        sock = bind_tcp(host, 0)
        if send_buffer is not None:
            sock.setsockopt(
                stdlib_socket.SOL_SOCKET, stdlib_socket.SO_SNDBUF, send_buffer
            )
        self.address = self.server.listen(sock).address

    def client(self, **options):
        """Return a new TCP connection."""
        client = Client(self.address, **options)
        self.clients.append(client)
        return client

    def peer(self, **options):
        """Return a new WebSocket client, before its handshake."""
        peer = Peer(self.address, **options)
        self.clients.append(peer)
        return peer

    def open(self, path="/", headers=(), **options):
        """Return a new WebSocket client, after its handshake."""
        peer = self.peer()
        peer.open(path, headers, **options)
        return peer

    def refused(self, path="/", headers=(), **options):
        """Return the response that refuses a handshake."""
        peer = self.peer()
        peer.handshake(path, headers, **options)
        return peer.response()

    def get(self, path="/", method="GET", headers=(), body=b"", version="1.1"):
        """Return the response to one request."""
        client = self.client()
        client.send(request(path, method, headers, body, version))
        return client.response(method=method)

    @property
    def counters(self):
        """What the layer has counted."""
        return self.server.layer.counters

    def stop(self):
        """Close all clients, then the server, and look for what is left."""
        for client in self.clients:
            client.close()
        if not self.server.layer.started:
            return  # a test has stopped it
        for transport in tuple(self.server.connections):
            transport.abort()
        until(lambda: not self.server.connections)
        left = self.server.layer.stats()
        sockets = len(self.server.sockets)
        self.server.close()
        assert not self.server.consumers
        assert sockets == 0, "sockets without a connection"
        assert left.get("groups", 0) == 0, "memberships that outlived their sockets"
        assert left.get("channels", 0) == 0, "channels that outlived their sockets"


@pytest.fixture
def serve(no_leaks):
    """A function that starts a server for a routing, or for one consumer at "/"."""
    running = []

    def start(routing, **options):
        running.append(Running(routing, **options))
        return running[-1]

    yield start
    for each in running:
        each.stop()


class BugHandler(logging.Handler):
    """Keeps what the engine should never log."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.found = []

    def emit(self, record):
        """Note it."""
        if any(text in record.getMessage() for text in BUGS):
            self.found.append(self.format(record))


@pytest.fixture(autouse=True)
def no_leaks():
    """Fail on greenlets and descriptors that a test leaves, and on the hub's errors."""
    hub = gevent.get_hub()
    gevent.sleep(0)
    if len(gc.get_objects()) > SEARCHED_EACH_TIME:
        gc.freeze()  # what has been imported need not be searched at each test
    before = set(unfinished_greenlets()), descriptors()
    handler = BugHandler()
    logging.getLogger("greenchannels").addHandler(handler)
    stream, hub.exception_stream = hub.exception_stream, io.StringIO()
    yield handler
    errors, hub.exception_stream = hub.exception_stream.getvalue(), stream
    logging.getLogger("greenchannels").removeHandler(handler)
    end = time.monotonic() + 1.0
    while True:
        gevent.sleep(0)
        greenlets = [g for g in unfinished_greenlets() if g not in before[0]]
        opened = {d: n for d, n in descriptors().items() if d not in before[1]}
        if not greenlets and not opened or time.monotonic() > end:
            break
        gevent.sleep(20 * MS)
        gc.collect()
    assert not greenlets, f"greenlets left: {greenlets}"
    assert not opened, f"descriptors left: {opened}"
    assert not handler.found, "\n".join(handler.found)
    assert not errors, errors


def unfinished_greenlets():
    """Return the greenlets that have neither ended nor been forgotten."""
    found = (g for g in gc.get_objects() if issubclass(type(g), gevent.Greenlet))
    return [g for g in found if not g.dead]


def descriptors():
    """Return the open descriptors and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found
