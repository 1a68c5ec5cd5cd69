"""A real HAProxy in front, which writes every kind of PROXY header."""

import contextlib
import json
import os
import shutil
import signal

import pytest
from gevent import subprocess

from greenchannels import http, websocket
from tests.servers.harness import Client, Peer, request, until
from tests.servers.test_proxies_nginx import answers, echo, free_port, show

HAPROXY = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin")

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")

CONF = """
global
    maxconn 64
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen app
    bind 127.0.0.1:%(port)d
    server app1 %(upstream)s %(options)s
"""


@pytest.fixture
def haproxy(no_leaks, tmp_path):
    """A function that starts HAProxy and returns its address."""
    started = []
    # Watching children opens descriptors of gevent's, once for the process.
    subprocess.Popen(["true"]).wait()

    def start(running, options):
        port = free_port()
        upstream = "{}:{}".format(*running.address)
        conf = tmp_path / "haproxy.cfg"
        conf.write_text(CONF % {"port": port, "upstream": upstream, "options": options})
        process = subprocess.Popen(
            [HAPROXY, "-db", "-q", "-f", str(conf)], stdin=subprocess.DEVNULL
        )
        started.append(process)
        until(lambda: process.poll() is not None or answers(("127.0.0.1", port)))
        assert process.poll() is None
        return "127.0.0.1", port

    yield start
    for process in started:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=10)


@pytest.mark.parametrize(
    "options",
    [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2 proxy-v2-options crc32c,unique-id",
        "send-proxy-v2 check inter 50",
    ],
)
def test_haproxy_names_its_clients(serve, haproxy, options, caplog):
    """By all its headers; its health checks, LOCAL or not, are no strangers."""
    running = serve(
        [http("/", show), websocket("/s", echo)],
        proxies=("127.0.0.1",),
        proxy_protocol=True,
    )
    address = haproxy(running, options)
    with contextlib.closing(Client(address)) as client:
        client.send(request("/"))
        found = json.loads(client.response().body)
        assert found[:2] == list(client.sock.getsockname())
    with contextlib.closing(Peer(address)) as peer:
        peer.open("/s")
        assert json.loads(peer.hear()) == list(peer.sock.getsockname())
    assert "malformed" not in caplog.text and "there is no" not in caplog.text
