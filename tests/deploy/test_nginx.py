"""docs/deploy/nginx.md, with Debian's nginx in a folder of the test's own."""

import os
import signal
import subprocess
import urllib.error
import urllib.request

import pytest
from websockets.exceptions import InvalidStatus

from tests.certificates import authority, localhost
from tests.deploy.chatters import Chatter, nobody_refused, talk_at, trusting
from tests.deploy.pages import NGINX, executes
from tests.deploy.site import waited
from tests.servers.test_proxies_nginx import NGINX as PROGRAM

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="nginx is not installed")

#: What Debian has in /etc/nginx/nginx.conf, as far as it matters here.
MAIN = """
%(user)s
worker_processes 1;
pid /run/nginx.pid;
events { worker_connections 512; }
http {
    types { text/javascript js; }
    access_log off;
    client_body_temp_path /var/log/body;
    proxy_temp_path /var/log/proxy;
    fastcgi_temp_path /var/log/fastcgi;
    uwsgi_temp_path /var/log/uwsgi;
    scgi_temp_path /var/log/scgi;
    include /etc/nginx/conf.d/*.conf;
}
"""


@pytest.fixture
def front(site):
    """A function that starts nginx by the page's files; it returns a TLS context."""
    folder = site.path("/etc/nginx")
    folder.mkdir()
    user = {"user": "user root;" if os.geteuid() == 0 else ""}
    (folder / "nginx.conf").write_text(site.here(MAIN % user))
    log = site.path("/var/log/nginx.log")
    call = f"{PROGRAM} -p {site.root} -c {folder}/nginx.conf -e {log}"
    site.program(site.root / "bin/nginx", f'exec {call} "$@"')
    certificates = site.path("/etc/ssl/chat")
    certificates.mkdir(parents=True)
    chain, key = localhost()
    (certificates / "fullchain.pem").symlink_to(chain)
    (certificates / "privkey.pem").symlink_to(key)
    pid = site.path("/run/nginx.pid")

    def start(upstream, edit=lambda text: text):
        (file,) = NGINX.files("The site")
        site.write(upstream)
        site.write(file, edit(file.text))
        for command in NGINX.commands("The site"):
            site.run(command)
        waited(pid.exists)
        return trusting(authority().file)

    yield start
    if pid.exists():
        os.kill(int(pid.read_text()), signal.SIGTERM)
        waited(lambda: not pid.exists())


@pytest.mark.parametrize("way", ["Over a Unix socket", "Over TCP"])
@executes(
    NGINX, "Over a Unix socket", "Over TCP", "The site", "How to see that it works"
)
def test_nginx_in_front(site, front, way):
    """TLS, the redirect, files, sockets that hear each other, and addresses."""
    (upstream,), (start,) = NGINX.files(way), NGINX.commands(way)
    site.used.update(NGINX.under("Over a Unix socket", "Over TCP"))  # the other case
    program = site.start(start)
    context = front(upstream)
    for command in NGINX.commands("How to see that it works"):
        site.run(command)
    talk_at(site.address(443), context=context)
    assert (
        "127.0.0.1:0 - - [" in program.said
        and '"WSCONNECT /chat/lobby" 101' in program.said
    )
    assert "unix - -" not in program.said
    assert "/static/chat.js" not in program.said, "nginx serves files by itself"
    site_url = f"http://127.0.0.1:{site.port(80)}/x"
    found = subprocess.run(
        [
            "curl",
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{redirect_url}",
            site_url,
        ],
        capture_output=True,
        text=True,
    )
    assert found.stdout == "301 https://127.0.0.1/x", found.stderr
    assert program.end()[0] == 0


def test_a_reload_of_nginx_is_not_noticed(site, front):
    """Sockets stay open, and nobody is refused."""
    (upstream,), (start,) = NGINX.files("Over TCP"), NGINX.commands("Over TCP")
    program = site.start(start)
    context = front(upstream)
    person = Chatter(site.address(443), context=context)
    assert NGINX.says("nginx -s reload")
    with nobody_refused(site.address(443), context=context):
        subprocess.run(["nginx", "-s", "reload"], env=site.env, check=True)
    person.say("still here")
    assert person.hear("sent")["text"] == "still here"
    person.close()
    assert program.end()[0] == 0


def test_what_goes_wrong(site, front):
    """Each says what the page says."""
    way = "Over a Unix socket"
    (upstream,), (start,) = NGINX.files(way), NGINX.commands(way)
    context = front(
        upstream,
        lambda text: text.replace("proxy_set_header X-Forwarded-Host $http_host;", ""),
    )
    log = site.path("/var/log/nginx.log")
    url = f"https://localhost:{site.port(443)}/"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(url, context=context)
    caught.value.close()
    assert f"{caught.value.code} {caught.value.reason}" == NGINX.says("502 Bad Gateway")
    assert NGINX.says("(2: No such file or directory)") in log.read_text()
    program = site.start(start)
    with pytest.raises(InvalidStatus) as refused:
        Chatter(site.address(443), context=context)
    assert str(refused.value.response.status_code) == NGINX.says("403")
    site.write(
        NGINX.files("The site")[0],
        NGINX.files("The site")[0].text.replace("proxy_set_header Upgrade", "#"),
    )
    subprocess.run(["nginx", "-s", "reload"], env=site.env, check=True)

    def status():
        try:
            Chatter(site.address(443), context=context).close()
        except InvalidStatus as error:
            return str(error.response.status_code)

    waited(lambda: status() == NGINX.says("404"))
    assert program.end()[0] == 0
