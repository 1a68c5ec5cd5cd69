"""A Flask site, its sockets and its event stream on one port, behind a real nginx."""

import os
import re
import shutil
import signal
import subprocess
import time

import pytest
import requests

from tests.browser import Browser, find_chromium
from tests.browser.chromium import wait_until
from tests.servers.harness import Peer
from tests.servers.test_proxies_nginx import NGINX, Nginx
from tests.test_examples import Server

pytest.importorskip("flask")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The example behind nginx; returns nginx's address."""
    folder = tmp_path_factory.mktemp("notes")
    os.chmod(folder, 0o755)
    server = Server("notes", folder, options=["--proxy", "127.0.0.1"])
    nginx = Nginx(folder, server.address)
    nginx.wait()
    yield f"{nginx.address[0]}:{nginx.address[1]}"
    nginx.process.send_signal(signal.SIGTERM)
    nginx.process.wait(timeout=10)
    server.stop()


def address(site):
    """Return host and port of an address."""
    host, _, port = site.partition(":")
    return host, int(port)


def opened(site):
    """Return a socket that a page of the site would have opened."""
    peer = Peer(address(site))
    peer.open("/live", [("Origin", f"http://{site}")], host=site)
    return peer


def test_a_note_that_a_form_sends_reaches_open_sockets(site):
    """Flask's view sends to the group that the sockets have joined."""
    peer = opened(site)
    answer = requests.post(f"http://{site}/", data={"note": "by requests"}, timeout=10)
    assert answer.status_code == 200
    assert "<li>by requests</li>" in answer.text
    assert [each.status_code for each in answer.history] == [303]
    assert peer.hear() == "by requests"
    peer.send_close()
    peer.closing()
    peer.close()


def test_pages_of_other_sites_open_no_socket(site):
    """The Origin rule knows which host nginx was asked for."""
    peer = Peer(address(site))
    peer.handshake("/live", [("Origin", "http://elsewhere.example")], host=site)
    assert peer.response().status == 403
    peer.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_sees_pages_files_and_events(site):
    """As a stranger would try it."""

    def curl(*arguments):
        command = ["curl", "-sS", "--max-time", "10", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True)

    assert "200 OK" in curl("-I", f"http://{site}/").stdout
    assert curl(f"http://{site}/static/notes.js").stdout.startswith("const list")
    assert "404" in curl("-I", f"http://{site}/none").stdout
    stream = subprocess.Popen(
        ["curl", "-sSN", "--max-time", "10", f"http://{site}/feed"],
        stdout=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 10
        os.set_blocking(stream.stdout.fileno(), False)
        data = b""
        while b"data: by curl\n" not in data and time.monotonic() < deadline:
            curl("-d", "note=by curl", f"http://{site}/")
            data += stream.stdout.read() or b""
        assert b"data: by curl\n" in data
    finally:
        stream.terminate()
        stream.wait()
        stream.stdout.close()


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_a_short_load_has_no_failures(site):
    """On pages, with a socket open beside them."""
    peer = opened(site)
    command = ["wrk", "-t1", "-c32", "-d1s", f"http://{site}/"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(re.search(r"(\d+) requests in", out)[1]) > 0
    assert "Non-2xx" not in out
    assert "Socket errors" not in out
    requests.post(f"http://{site}/", data={"note": "after the load"}, timeout=10)
    assert peer.hear() == "after the load"
    peer.close()


@pytest.mark.browser
@pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium on the path")
def test_two_pages_show_a_note_at_once(site, tmp_path):
    """One writes it into Flask's form; both get it over their sockets."""
    with Browser(tmp_path) as browser:
        first = browser.open(f"http://{site}/")
        second = browser.open(f"http://{site}/", width=375, height=700)
        for page in (first, second):
            page.wait("document.getElementById('status').textContent === 'live'")
        first.click("#note")
        first.type("by a browser")
        first.press("Enter")
        for page in (first, second):
            page.wait("document.querySelector('li')?.textContent === 'by a browser'")
        width = second.evaluate("document.documentElement.scrollWidth")
        assert width <= 375
        wait_until(lambda: first.evaluate("document.forms[0].note.value") == "", "")
        if folder := os.environ.get("SCREENSHOTS"):
            first.screenshot(f"{folder}/notes-1280.png")
            second.screenshot(f"{folder}/notes-375.png")
