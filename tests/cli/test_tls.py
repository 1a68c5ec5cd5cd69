"""``greenchannels run`` with certificates: options, errors, SIGHUP."""

import contextlib
import re
import signal

import pytest

from tests.certificates import authority, localhost, wrap
from tests.cli.test_run import run
from tests.servers.harness import Client, Peer, request

__all__ = ["run"]


def secure_address(server):
    """Wait for the line that says where it listens with TLS."""
    found = server.wait_for(rb"Listening on https://([\d.]+):(\d+) ")
    return found[1].decode(), int(found[2])


@contextlib.contextmanager
def connected(address, kind=Client, before=b"", **options):
    """Return a client with TLS, for as long as the block lasts."""
    client = kind(address)
    try:
        if before:
            client.send(before)
        client.sock = wrap(client.sock, **options)
        yield client
    finally:
        client.close()


def names(client):
    """Return the names in the server's certificate."""
    return [name for _, name in client.sock.getpeercert()["subjectAltName"]]


def options(*pairs):
    """Return the options for pairs of chain and key."""
    return [o for c, k in pairs for o in ("--certfile", c, "--keyfile", k)]


def test_it_serves_https_and_wss(run):
    """And says so; a signal ends it as ever."""
    server = run(*options(localhost()))
    address = secure_address(server)
    with connected(address) as client, connected(address, Peer) as peer:
        assert client.sock.selected_alpn_protocol() == "http/1.1"
        client.send(request())
        assert client.response().body == b"page"
        peer.open()
        peer.say("hello")
        assert peer.hear() == "hello"
        server.signal(signal.SIGTERM)
        assert peer.closing().code == 1012
        assert peer.ended() == "closed"
    code, out, error = server.end()
    assert code == 0, error
    assert "Traceback" not in error
    assert '"GET / HTTP/1.1" 200' in out


def test_each_of_several_listeners_has_tls(run):
    """One command, one rule."""
    binds = ("--bind", "127.0.0.1:0", "--bind", "127.0.0.1:0")
    server = run(*options(localhost()), *binds, port=None)
    pattern = rb"Listening on https://127\.0\.0\.1:(\d+) "
    server.wait_for(pattern + rb"[^$]*" + pattern)
    ports = {int(port) for port in re.findall(pattern, server.error)}
    assert len(ports) == 2
    for port in ports:
        with connected(("127.0.0.1", port)) as client:
            client.send(request())
            assert client.response().body == b"page"


def test_the_name_asked_for_chooses_among_certificates(run):
    """The first is for all other names."""
    other = authority().issue("other.example")
    address = secure_address(run(*options(localhost(), other)))
    with connected(address, name="other.example") as client:
        assert names(client) == ["other.example"]
    with connected(address) as client:
        assert "localhost" in names(client)


def test_one_file_may_hold_chain_and_key(run, tmp_path):
    """Without --keyfile."""
    chain, key = localhost()
    both = tmp_path / "both.pem"
    with open(chain) as first, open(key) as second:
        both.write_text(first.read() + second.read())
    address = secure_address(run("--certfile", str(both)))
    with connected(address) as client:
        client.send(request())
        assert client.response().body == b"page"


def test_clients_without_a_certificate_are_refused_when_it_is_required(run):
    """Others are served."""
    server = run(
        *options(localhost()), "--ca-certs", authority().file, "--require-client-cert"
    )
    address = secure_address(server)
    with connected(address, certificate=authority().issue("me.example")) as client:
        client.send(request())
        assert client.response().body == b"page"
    with pytest.raises(OSError), connected(address) as client:
        client.send(request())
        client.response()
    server.wait_for(rb"INFO greenchannels.net: .*the TLS handshake failed: .*cert")


def test_a_client_without_tls_leaves_one_line_in_the_log(run):
    """And no traceback."""
    server = run(*options(localhost()))
    client = Client(secure_address(server))
    with contextlib.closing(client):
        client.send(request())
        assert client.response().status == 400
    server.wait_for(rb"a request without TLS to a port with TLS")
    server.signal(signal.SIGTERM)
    code, _, error = server.end()
    assert (code, "Traceback" in error) == (0, False)
    assert len([line for line in error.splitlines() if "INFO" in line]) <= 2


def test_a_proxy_header_comes_before_tls(run):
    """And its address stands in the access log."""
    server = run(*options(localhost()), "--proxy", "127.0.0.1", "--proxy-protocol")
    header = b"PROXY TCP4 203.0.113.7 127.0.0.1 4711 443\r\n"
    with connected(secure_address(server), before=header) as client:
        client.send(request())
        assert client.response().body == b"page"
    server.signal(signal.SIGTERM)
    _, out, _ = server.end()
    assert out.startswith("203.0.113.7:4711 - - [")


def test_sighup_reads_the_certificates_again(run, tmp_path):
    """For new connections; open ones go on; a broken file changes nothing."""
    files = authority().issue("localhost", folder=tmp_path, label="site")
    server = run(*options(files))
    address = secure_address(server)
    with connected(address, Peer) as peer:
        peer.open()
        before = peer.sock.getpeercert()["serialNumber"]
        authority().issue("localhost", folder=tmp_path, label="site")
        server.signal(signal.SIGHUP)
        server.wait_for(rb"INFO .*the certificates have been read again")
        with connected(address) as client:
            after = client.sock.getpeercert()["serialNumber"]
        assert after != before
        (tmp_path / "site.pem").write_text("broken")
        server.signal(signal.SIGHUP)
        server.wait_for(rb"ERROR .*the certificates stay as they were: .*site\.pem")
        with connected(address) as client:
            assert client.sock.getpeercert()["serialNumber"] == after
        peer.say("still here")
        assert peer.hear() == "still here"
    server.signal(signal.SIGTERM)
    code, _, error = server.end()
    assert (code, "Traceback" in error) == (0, False)


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--certfile", "/no/such.pem"], "the certificate /no/such.pem: No such file"),
        (["--certfile", "{chain}"], "holds no private key"),
        (["--certfile", "{chain}", "--keyfile", "/no/such.key"], "/no/such.key: No"),
        (["--certfile", "{chain}", "--keyfile", "{chain}"], "holds no private key"),
        (["--certfile", "{key}", "--keyfile", "{key}"], "holds no certificate"),
        (["--certfile", "{chain}", "--keyfile", "{other}"], "is not that of"),
        (["--certfile", "{folder}"], "Is a directory"),
        (["--keyfile", "{key}"], "--keyfile needs a --certfile"),
        (["--ca-certs", "{ca}"], "--ca-certs needs a --certfile"),
        (["--require-client-cert"], "--require-client-cert needs a --certfile"),
        (
            ["--certfile", "{chain}", "--keyfile", "{key}", "--require-client-cert"],
            "needs --ca-certs",
        ),
        (
            ["--certfile", "{chain}", "--keyfile", "{key}", "--keyfile", "{key}"],
            "1 and 2",
        ),
        (
            ["--certfile", "{chain}", "--keyfile", "{key}", "--ca-certs", "{key}"],
            "holds no certificates",
        ),
        (
            ["--certfile", "{chain}", "--keyfile", "{key}", "--ca-certs", "/no"],
            "authorities /no: No such file",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_wrong_certificates_are_one_clear_line_and_exit_code_2(
    run, tmp_path, arguments, says
):
    """It names the file or the option, and nothing has been served."""
    chain, key = localhost()
    files = {
        "chain": chain,
        "key": key,
        "other": authority().issue("other.example")[1],
        "ca": authority().file,
        "folder": str(tmp_path),
    }
    code, out, error = run(*(each.format(**files) for each in arguments)).end()
    assert code == 2, error
    (line,) = error.splitlines()
    assert line.startswith("Error: ") and says in line
    assert out == ""
