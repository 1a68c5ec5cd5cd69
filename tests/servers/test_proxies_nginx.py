"""A real nginx in front, with the configuration that docs/deployment.md gives."""

import contextlib
import glob
import json
import os
import shutil
import signal

import gevent.socket
import pytest
from gevent import subprocess

from greenchannels import http, websocket
from greenchannels.net.binding import bind_unix
from tests.ports import free_port
from tests.servers.harness import Client, Peer, request, until

NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")

#: Debian's package libnginx-mod-stream.
STREAM = glob.glob("/usr/lib/nginx/modules/ngx_stream_module.so")

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

CONF = """
%(modules)s
%(user)s
daemon off;
worker_processes 1;
pid %(folder)s/pid;
error_log %(folder)s/error.log;
events { worker_connections 512; }
%(stream)s
http {
    access_log off;
    client_body_temp_path %(folder)s/body;
    proxy_temp_path %(folder)s/proxy;
    fastcgi_temp_path %(folder)s/fastcgi;
    uwsgi_temp_path %(folder)s/uwsgi;
    scgi_temp_path %(folder)s/scgi;
    map $http_upgrade $connection_upgrade { default upgrade; "" ""; }
    upstream app { server %(upstream)s; }
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
    proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Host $http_host;
    proxy_set_header Forwarded "";
    server {
        listen 127.0.0.1:%(port)d;
        location / { proxy_pass http://app; }
        location /kept/ { proxy_pass http://app; }
        location /removed/ { proxy_pass http://app/; }
    }
    server {
        listen 127.0.0.1:%(outer)d;
        location / { proxy_pass http://127.0.0.1:%(port)d; }
    }
}
"""

STREAM_CONF = """
stream {
    upstream app { server %(upstream)s; }
    server { listen 127.0.0.1:%(tcp)d; proxy_pass app; proxy_protocol on; }
}
"""


def answers(address):
    """Return whether somebody listens there."""
    with contextlib.suppress(OSError):
        Client(address).close()
        return True
    return False


class Nginx:
    """An nginx of its own, with everything it writes in one folder."""

    def __init__(self, folder, upstream, *, stream=False):
        self.folder = folder
        ports = {name: free_port() for name in ("port", "outer", "tcp")}
        names = {"folder": folder, "upstream": upstream, **ports}
        names["modules"] = f"load_module {STREAM[0]};" if stream else ""
        names["user"] = "user root;" if os.geteuid() == 0 else ""
        names["stream"] = STREAM_CONF % names if stream else ""
        (folder / "nginx.conf").write_text(CONF % names)
        self.address = ("127.0.0.1", ports["port"])
        self.outer = ("127.0.0.1", ports["outer"])
        self.tcp = ("127.0.0.1", ports["tcp"])
        conf = str(folder / "nginx.conf")
        self.process = subprocess.Popen(
            [NGINX, "-p", str(folder), "-c", conf, "-e", str(folder / "error.log")],
            stdin=subprocess.DEVNULL,
        )

    def wait(self):
        """Wait until it listens."""
        pid = self.folder / "pid"  # written when all ports are open
        until(lambda: self.process.poll() is not None or pid.exists())
        assert self.process.poll() is None, (self.folder / "error.log").read_text()

    def stop(self):
        """Stop it, and wait for its end."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=10)


@pytest.fixture
def nginx(no_leaks, tmp_path):
    """A function that starts nginx in front of an upstream."""
    os.chmod(tmp_path, 0o755)
    started = []
    # Watching children opens descriptors of gevent's, once for the process.
    subprocess.Popen(["true"]).wait()

    def start(upstream, **options):
        started.append(Nginx(tmp_path, upstream, **options))
        started[-1].wait()
        return started[-1]

    yield start
    for each in started:
        each.stop()


class Stranger(Client):
    """A client that comes from 127.0.0.2, which nobody trusts here."""

    def __init__(self, address):
        self.sock = gevent.socket.create_connection(
            address, timeout=5, source_address=("127.0.0.2", 0)
        )
        self.data = bytearray()


def show(request):
    """Answer with what a view sees of the client and of its address."""
    scope = request.environ["greenchannels.scope"]
    return [
        *(scope["client"] or ["-"]),
        scope["scheme"],
        request.host,
        request.script_root,
        request.path,
    ]


def echo(socket):
    """Say who it is, then echo."""
    socket.send(json.dumps(socket.client))
    for message in socket:
        socket.send(message)


ROUTES = [
    http("/", show),
    http("/<path:rest>", lambda r, rest: show(r)),
    websocket("/s", echo),
]


def get(address, path="/", headers=()):
    """Return what a view has seen."""
    with contextlib.closing(Client(address)) as client:
        client.send(request(path, headers=headers))
        answer = client.response()
        assert answer.status == 200, answer
        return json.loads(answer.body)


def upstream_of(running):
    """Return a server's address as nginx writes it."""
    return "{}:{}".format(*running.address)


SPOOFED = [
    ("X-Forwarded-For", "6.6.6.6"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "evil.example"),
    ("Forwarded", "for=6.6.6.6;proto=https;host=evil.example"),
]


@pytest.mark.parametrize("headers", [[], SPOOFED])
def test_the_client_of_nginx_is_seen_and_cannot_lie(serve, nginx, headers):
    """Whatever it says of itself."""
    running = serve(ROUTES, proxies=("127.0.0.1",))
    proxy = nginx(upstream_of(running))
    with contextlib.closing(Stranger(proxy.address)) as client:
        client.send(request("/", headers=headers))
        found = json.loads(client.response().body)
    assert found == ["127.0.0.2", 0, "http", "localhost", "", "/"]
    until(lambda: running.access.getvalue())
    assert running.access.getvalue().startswith("127.0.0.2:0 ")


@pytest.mark.parametrize(
    "proxies, found", [("127.0.0.1", "127.0.0.2"), ("*", "6.6.6.6")]
)
def test_a_chain_of_proxies_is_walked_to_the_first_that_is_not_trusted(
    serve, nginx, proxies, found
):
    """nginx behind nginx: three hops, of which the client made up the first."""
    running = serve(ROUTES, proxies=(proxies,))
    proxy = nginx(upstream_of(running))
    with contextlib.closing(Stranger(proxy.outer)) as client:
        client.send(request("/", headers=[("X-Forwarded-For", "6.6.6.6")]))
        assert json.loads(client.response().body)[0] == found


def test_a_websocket_goes_through_nginx(serve, nginx):
    """Handshake, messages both ways, and the page's own Origin."""
    running = serve(ROUTES, proxies=("127.0.0.1",))
    address = nginx(upstream_of(running)).address
    origin = f"http://{address[0]}:{address[1]}"
    with contextlib.closing(Peer(address)) as peer:
        peer.open("/s", [("Origin", origin)], host=origin[7:])
        assert json.loads(peer.hear())[0] == "127.0.0.1"
        for message in ("x", "y" * 100_000, b"z"):
            peer.say(message)
            assert peer.hear() == message
        peer.send_close()
        assert peer.closing().code == 1000
    with contextlib.closing(Peer(address)) as peer:
        peer.handshake("/s", [("Origin", "http://evil.example")], host=origin[7:])
        assert peer.response().status == 403


def test_nginx_reaches_a_unix_socket(serve, nginx, tmp_path):
    """Which is trusted by its name."""
    running = serve(ROUTES, proxies=("unix",))
    path = str(tmp_path / "app.sock")
    running.server.listen(bind_unix(path, 0o666))
    proxy = nginx(f"unix:{path}")
    headers = [("X-Forwarded-For", "127.0.0.1"), ("Forwarded", "for=6.6.6.6")]
    assert get(proxy.address, headers=headers)[0] == "127.0.0.1"
    with contextlib.closing(Peer(proxy.address)) as peer:
        peer.open("/s")
        assert json.loads(peer.hear()) == ["127.0.0.1", 0]


def test_nginx_on_a_unix_socket_that_is_not_trusted_is_not_believed(
    serve, nginx, tmp_path
):
    """There is no address then."""
    running = serve(ROUTES, proxies=("127.0.0.1",))
    path = str(tmp_path / "app.sock")
    running.server.listen(bind_unix(path, 0o666))
    found = get(nginx(f"unix:{path}").address, headers=SPOOFED)
    assert found[:3] == ["-", "http", "localhost"]


@pytest.mark.parametrize("place", ["/kept", "/removed"])
def test_a_prefix_may_be_removed_by_nginx_or_not(serve, nginx, place):
    """proxy_pass with a path removes it."""
    running = serve(ROUTES, root_path=place)
    proxy = nginx(upstream_of(running))
    assert get(proxy.address, f"{place}/a/b")[-2:] == [place, "/a/b"]
    assert get(proxy.address, f"{place}/")[-2:] == [place, "/"]


@pytest.mark.skipif(not STREAM, reason="nginx's stream module is not installed")
def test_nginx_sends_a_proxy_header(serve, nginx):
    """Version 1, before requests and handshakes; who comes without one is cut off."""
    running = serve(ROUTES, proxies=("127.0.0.1",), proxy_protocol=True)
    proxy = nginx(upstream_of(running), stream=True)
    with contextlib.closing(Client(proxy.tcp)) as client:
        client.send(request("/"))
        found = json.loads(client.response().body)
        assert found[:2] == list(client.sock.getsockname())
    with contextlib.closing(Peer(proxy.tcp)) as peer:
        peer.open("/s")
        assert json.loads(peer.hear()) == list(peer.sock.getsockname())
        peer.say("x")
        assert peer.hear() == "x"
    with contextlib.closing(Client(running.address)) as client:
        client.send(request("/"))
        assert client.ended() in ("closed", "reset")
