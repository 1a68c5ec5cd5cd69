"""Messages that Redis cannot read."""

import subprocess
import sys

import pytest
from gevent import socket

import greenchannels
from greenchannels.errors import ConfigurationError
from greenchannels.layers import registry
from greenchannels.layers.layer import group_topic
from greenchannels.layers.redis.sealing import Sealer
from greenchannels.layers.registry import make_layer
from greenchannels.testing.recording import RecordingMember, text, until
from tests.layers.redis_harness import encode, reactor, redis_server, start
from tests.servers.harness import no_leaks

__all__ = ["no_leaks", "reactor", "redis_server", "start"]

pytestmark = pytest.mark.usefixtures("no_leaks")

ROOM = group_topic("room")


@pytest.fixture
def keyed(redis_server, tmp_path):
    """A function that returns the server's URL with keys."""

    def keyed_url(*keys):
        file = tmp_path / "-".join(keys)
        file.write_text("\n".join(keys) + "\n")
        return redis_server.url(symmetric_encryption_keys_file=file)

    return keyed_url


def test_redis_sees_no_text(start, redis_server, keyed):
    """Nor anybody who listens there."""
    here = start(keyed("secret"))
    with socket.create_connection(("127.0.0.1", redis_server.port)) as spy:
        spy.sendall(encode("PSUBSCRIBE", "*"))
        said = spy.recv(65536)
        here.send(ROOM, text("attack at dawn"))
        while b"test:g:room" not in said:
            said += spy.recv(65536)
    assert b"dawn" not in said


def test_the_first_key_encrypts_and_all_decrypt(start, keyed):
    """So keys are replaced without a pause: first known, then used, then removed."""
    old, both, new = start(keyed("a")), start(keyed("b", "a")), start(keyed("b"))
    members = {layer: RecordingMember() for layer in (old, both, new)}
    for layer, member in members.items():
        layer.add(ROOM, member)
    old.send(ROOM, text("of a"))
    both.send(ROOM, text("of b"))
    until(lambda: sorted(members[both].texts) == ["of a", "of b"])
    until(lambda: members[new].texts == ["of b"])
    assert members[old].texts == ["of a"]
    until(lambda: old.stats()["bus"]["payloads that are not ours"] >= 1)
    until(lambda: new.stats()["bus"]["payloads that are not ours"] >= 1)


def test_nothing_goes_out_in_the_clear(start, redis_server, keyed):
    """Not even the probes of connections that have been made again."""
    here, there = start(keyed("secret")), start(keyed("secret"))
    member = RecordingMember()
    for layer in (here, there):
        layer.add(ROOM, member)
    redis_server("CLIENT", "KILL", "TYPE", "pubsub")
    until(lambda: all("outages" in e.stats()["bus"] for e in (here, there)))
    until(lambda: redis_server.listeners("test:g:room") == 2)
    for layer in (here, there):
        layer.probe()
    here.send(ROOM, text("hello"))
    until(lambda: "hello" in member.texts)
    for layer in (here, there):
        counts = layer.stats()["bus"]
        assert counts.get("payloads that are not ours", 0) == 0


@pytest.mark.parametrize("writer_has_key", [True, False])
def test_who_has_no_key_is_not_heard(start, redis_server, keyed, writer_has_key):
    """Neither the sealed by those without, nor the clear by those with a key."""
    urls = [redis_server.url(), keyed("secret")]
    writer, reader = start(urls[writer_has_key]), start(urls[not writer_has_key])
    member = RecordingMember()
    reader.add(ROOM, member)
    before = reader.stats()["bus"].get("payloads that are not ours", 0)
    writer.send(ROOM, text("hello"), strict=True)
    key = "payloads that are not ours"
    until(lambda: reader.stats()["bus"].get(key, 0) > before)
    assert member.texts == []


def test_what_somebody_sends_again_is_not_taken(start, redis_server, keyed):
    """Neither on another topic nor on the same, where its number tells."""
    here, there = start(keyed("secret")), start(keyed("secret"))
    member = RecordingMember()
    there.add(ROOM, member)
    there.add(group_topic("hall"), member)
    with socket.create_connection(("127.0.0.1", redis_server.port)) as spy:
        spy.sendall(encode("SUBSCRIBE", "test:g:room"))
        spy.recv(65536)
        here.send(ROOM, text("pay 100"))
        until(lambda: member.texts)
        payload = spy.recv(65536).rpartition(b"\r\n")[0].rpartition(b"\r\n")[2]
    strangers = there.stats()["bus"].get("payloads that are not ours", 0)
    redis_server("PUBLISH", "test:g:hall", payload)
    redis_server("PUBLISH", "test:g:room", payload)
    key = "payloads that are not ours"
    until(lambda: there.stats()["bus"].get(key, 0) == strangers + 1)
    until(lambda: there.stats().get("messages heard twice") == 1)
    assert member.texts == ["pay 100"]


def test_what_is_sealed_is_bound_to_topic_and_sender():
    """And is opened only by the key."""
    token = Sealer(["key"]).seal("g:room", "1-a", b"data")
    opens = Sealer(["other", "key"]).open
    assert opens("g:room", "1-a", token) == b"data"
    for topic, origin in (("g:room2", "1-a"), ("g:room", "1-b"), ("g:room\x001-a", "")):
        with pytest.raises(ValueError):
            opens(topic, origin, token)
    other = b"B" if token[20:21] == b"A" else b"A"
    for data in (b"", b"\xff", token[:-4], token[:20] + other + token[21:]):
        with pytest.raises(ValueError):
            opens("g:room", "1-a", data)
    with pytest.raises(ValueError):
        Sealer(["other"]).open("g:room", "1-a", token)


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "No such file"), ("", "has no key"), ("\n \n", "has no key")],
)
def test_a_file_without_keys_is_refused(tmp_path, content, says):
    """Messages never go out in the clear because of a mistake."""
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigurationError, match=says):
        make_layer(f"redis://host?symmetric_encryption_keys_file={file}")


@pytest.fixture
def nothing_configured():
    """Undo what a test configures."""
    yield
    greenchannels.configure(layer=None)


@pytest.mark.usefixtures("nothing_configured")
def test_configure_takes_keys(start, redis_server, keyed):
    """For every layer over Redis that is made after it."""
    greenchannels.configure(
        layer=redis_server.url(), symmetric_encryption_keys=["secret"]
    )
    here, there = start(registry.configured_url()), start(keyed("secret"))
    member = RecordingMember()
    there.add(ROOM, member)
    here.send(ROOM, text("hello"))
    until(lambda: member.texts == ["hello"])


@pytest.mark.usefixtures("nothing_configured")
@pytest.mark.parametrize("keys", ["secret", [b"secret"], [""], [None]])
def test_keys_are_a_list_of_texts(keys):
    """Nothing else, and what was configured stays."""
    greenchannels.configure(layer="redis://before")
    with pytest.raises(ConfigurationError, match="list of texts"):
        greenchannels.configure(layer="redis://after", symmetric_encryption_keys=keys)
    assert registry.configured_url() == "redis://before"


def test_without_cryptography_there_is_one_clear_line():
    """It says what to install."""
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "import greenchannels\n"
        "greenchannels.configure(layer='redis://h', symmetric_encryption_keys=['k'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert "greenchannels[redis,encryption]" in done.stderr.splitlines()[-1]
