"""
What a layer promises, as tests: for those who write a bus.

Subclass ``LayerConformance`` in a test module, say by ``layer_url`` or ``make_layer``
how a layer is made, and let pytest collect it::

    class TestMyBus(LayerConformance):
        def make_layer(self, url):
            return Layer(MyBus(url))

Two layers that are made in one test must reach each other, unless ``alone`` is set.
Whoever rewrites assertions registers this module first
(``pytest.register_assert_rewrite``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import gevent
import pytest
from gevent import subprocess
from gevent.threadpool import ThreadPool

from ..errors import ConnectionEnded, MessageTooLarge, TooManyGroups
from ..layers import registry
from ..layers.codec import MAX_MESSAGE, make_broadcast
from ..layers.layer import MAX_NAME, Layer, group_topic, user_topic
from ..net.reactor import Reactor
from .recording import PATIENCE, RecordingMember, text, until

#: Seconds in which what must not come would have come.
LATE = 0.05

#: How programs begin, by whether they patch. gevent heeds SIGCHLD from its first child
#: watcher on, made after the fork: a child that ends sooner would never be waited for.
BEGINNINGS = {
    "plain": "",
    "patched": "import gevent.monkey\ngevent.monkey.patch_all()\n"
    "gevent.get_hub().loop.install_sigchld()\n",
}

#: A program that joins, says so, and answers the first text.
JOINING_SCRIPT = """
import sys
from greenchannels.layers.codec import make_broadcast
from greenchannels.layers.layer import group_topic
from greenchannels.layers.registry import make_layer
from greenchannels.net.reactor import Reactor
from greenchannels.testing.recording import RecordingMember, until

layer, member = make_layer(sys.argv[1]), RecordingMember()
layer.start(Reactor())
layer.add(group_topic("questions"), member)
layer.send(group_topic("answers"), make_broadcast("ready"))
if sys.argv[2] == "alone":
    layer.send(group_topic("questions"), make_broadcast("why"))
until(lambda: member.texts)
layer.send(group_topic("answers"), make_broadcast("to " + member.texts[0]))
layer.close()
print("done")
"""

#: A program that forks: the child has no layer of its parent's, but may make one.
FORKING_SCRIPT = """
import os, sys, gevent
from greenchannels.errors import ConfigurationError
from greenchannels.layers.codec import make_broadcast
from greenchannels.layers.layer import group_topic
from greenchannels.layers.registry import make_layer, start_layer, stop_layer
from greenchannels.net.reactor import Reactor
from greenchannels.testing.recording import RecordingMember, until

def child():
    try:
        layer.send(group_topic("answers"), make_broadcast("never"))
    except ConfigurationError:
        pass
    else:
        return 1
    gevent.reinit()
    own = make_layer(sys.argv[1])
    own.start(Reactor())
    if own.origin == origin:
        return 2
    own.send(group_topic("answers"), make_broadcast("from the child"))
    own.close()
    return 0

layer, member = make_layer(sys.argv[1]), RecordingMember()
start_layer(layer, Reactor())
origin = layer.origin
layer.add(group_topic("questions"), member)
pid = os.fork()
if pid == 0:
    status = 9
    try:
        status = child()
    finally:
        os._exit(status)
gevent.sleep(0.1)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
assert status == 0, status
layer.send(group_topic("answers"), make_broadcast("from the parent"))
if sys.argv[2] == "alone":
    layer.send(group_topic("questions"), make_broadcast("why"))
until(lambda: member.texts)
layer.send(group_topic("answers"), make_broadcast("to " + member.texts[0]))
stop_layer(layer)
print("done")
"""


class LayerConformance:
    """
    The promises of groups and sockets' channels.

    Attributes:
        alone: Whether a layer reaches nobody else; then what takes two is skipped.

    """

    alone: ClassVar[bool] = False

    # What a subclass says.

    @pytest.fixture
    def layer_url(self, tmp_path: Path) -> str:
        """Return the URL of this test's layers; new for each test."""
        raise NotImplementedError

    def make_layer(self, url: str) -> Layer:
        """Return a layer of that URL, not yet started."""
        return registry.make_layer(url)

    # Fixtures.

    @pytest.fixture
    def reactor(self) -> Iterator[Reactor]:
        """What serves the layers of a test."""
        reactor = Reactor()
        yield reactor
        reactor.close()

    @pytest.fixture
    def new_layer(
        self, layer_url: str, reactor: Reactor
    ) -> Iterator[Callable[[], Layer]]:
        """Return a function that starts one more layer."""
        started: list[Layer] = []

        def start_layer() -> Layer:
            layer = self.make_layer(layer_url)
            layer.start(reactor)
            started.append(layer)
            return layer

        yield start_layer
        for layer in started:
            layer.close()

    @pytest.fixture
    def here(self, new_layer: Callable[[], Layer]) -> Layer:
        """A layer."""
        return new_layer()

    @pytest.fixture
    def there(self, here: Layer, new_layer: Callable[[], Layer]) -> Layer:
        """Another layer, or the same if it is alone."""
        return here if self.alone else new_layer()

    @pytest.fixture
    def elsewhere(self, there: Layer) -> Layer:
        """A layer that is another one than ``here``."""
        if self.alone:
            pytest.skip("this layer reaches nobody else")
        return there

    # Groups.

    def test_members_get_what_is_sent_in_any_process(
        self, here: Layer, there: Layer
    ) -> None:
        """Those of the group, each once, and nobody else."""
        near, far, other = (RecordingMember() for _ in range(3))
        here.add(group_topic("room"), near)
        there.add(group_topic("room"), far)
        there.add(group_topic("hall"), other)
        here.send(group_topic("room"), text("hello"))
        until(lambda: near.got and far.got)
        gevent.sleep(LATE)
        assert (near.texts, far.texts, other.texts) == (["hello"], ["hello"], [])

    def test_what_is_sent_after_a_join_arrives(self, here: Layer, there: Layer) -> None:
        """At once, also for the first member and after the last has left."""
        topic, member = group_topic("room"), RecordingMember()
        for number in range(100):
            there.add(topic, member)
            here.send(topic, text(number))
            until(lambda number=number: len(member.got) > number)  # type: ignore[misc]
            there.discard(topic, member)
        assert member.texts == [str(n) for n in range(100)]

    def test_who_has_left_gets_nothing(self, here: Layer, there: Layer) -> None:
        """From when its discard has returned."""
        topic, member, stays = group_topic("room"), RecordingMember(), RecordingMember()
        there.add(topic, member)
        there.add(topic, stays)
        there.discard(topic, member)
        here.send(topic, text("late"))
        until(lambda: stays.got)
        assert not member.got

    def test_messages_of_a_sender_keep_their_order(
        self, here: Layer, there: Layer
    ) -> None:
        """In each group; senders may overtake each other."""
        topic, member = group_topic("room"), RecordingMember()
        there.add(topic, member)

        def send(layer: Layer, name: str) -> None:
            for number in range(300):
                layer.send(topic, text(f"{name} {number}"))
                if number % 7 == 0:
                    gevent.sleep(0)

        senders = [gevent.spawn(send, here, "a"), gevent.spawn(send, there, "b")]
        gevent.joinall(senders, raise_error=True)
        until(lambda: len(member.got) >= 600)
        for name in "ab":
            mine = [t for t in member.texts if t.startswith(name)]
            assert mine == [f"{name} {number}" for number in range(300)]

    def test_nothing_comes_twice(self, here: Layer, there: Layer) -> None:
        """Not to who joined twice, nor back to the sender's process."""
        topic, near, far = group_topic("room"), RecordingMember(), RecordingMember()
        for _ in range(2):
            here.add(topic, near)
            there.add(topic, far)
        for number in range(50):
            here.send(topic, text(number))
        until(lambda: len(far.got) >= 50)
        gevent.sleep(LATE)
        assert near.texts == far.texts == [str(n) for n in range(50)]

    def test_messages_are_copies(self, here: Layer, there: Layer) -> None:
        """Changing what was sent, or what was got, changes nothing elsewhere."""
        topic, near, far = group_topic("room"), RecordingMember(), RecordingMember()
        here.add(topic, near)
        there.add(topic, far)
        event = {"type": "chat.line", "words": ["a", "b"]}
        broadcast = make_broadcast(event)
        event["words"] = []
        here.send(topic, broadcast)
        until(lambda: near.got and far.got)
        near.events[0]["words"].append("c")
        for member in (near, far):
            assert member.events == [{"type": "chat.line", "words": ["a", "b"]}]

    def test_every_kind_of_content_arrives_as_it_was_sent(
        self, here: Layer, there: Layer
    ) -> None:
        """Text with any character, bytes with any value, nothing at all."""
        topic, member = group_topic("room"), RecordingMember()
        there.add(topic, member)
        contents = ["", "\0é\u20ac\U0001f600", b"", bytes(range(256))]
        for content in contents:
            here.send(topic, make_broadcast(content))
        until(lambda: len(member.got) >= len(contents))
        assert member.texts == contents

    def test_messages_have_up_to_a_mebibyte(self, here: Layer, there: Layer) -> None:
        """That much arrives, more is refused."""
        topic, member = group_topic("room"), RecordingMember()
        there.add(topic, member)
        sent = [b"\xff" * MAX_MESSAGE, "x" * MAX_MESSAGE, "last"]
        for content in sent:
            here.send(topic, make_broadcast(content))
        until(lambda: len(member.got) >= 3)
        assert member.texts == sent
        with pytest.raises(MessageTooLarge):
            make_broadcast(b"x" * (MAX_MESSAGE + 1))

    @pytest.mark.parametrize(
        "name",
        ["a", "chat.room-1_x", "a b/c?d=e&f%20", "g:x", "\u20ac" * (MAX_NAME // 3)],
    )
    def test_groups_may_have_any_name(
        self, here: Layer, there: Layer, name: str
    ) -> None:
        """No name means another group, or a user."""
        wanted, others = RecordingMember(), RecordingMember()
        there.add(group_topic(name), wanted)
        for topic in (group_topic(name + "x"), group_topic("g:" + name)):
            there.add(topic, others)
        there.add(user_topic(name), others)
        here.send(group_topic(name), text("hello"))
        until(lambda: wanted.got)
        gevent.sleep(LATE)
        assert wanted.texts == ["hello"] and not others.got

    def test_excluded_members_get_nothing(self, here: Layer, there: Layer) -> None:
        """By themselves, or by a channel name that belongs to any process."""
        topic, near, far = group_topic("room"), RecordingMember(), RecordingMember()
        here.add(topic, near)
        there.add(topic, far)
        near.channel_name = here.new_channel(near)
        far.channel_name = there.new_channel(far)
        here.send(topic, text("not near"), exclude=near)
        here.send(topic, text("not far"), exclude=far.channel_name)
        there.send(topic, text("not near"), exclude=near.channel_name)
        here.send(topic, text("all"))
        until(lambda: len(near.got) >= 2 and len(far.got) >= 3)
        gevent.sleep(LATE)
        assert near.texts == ["not far", "all"]
        assert sorted(far.texts) == ["all", "not near", "not near"]

    # Channels.

    def test_a_channel_reaches_its_socket(self, here: Layer, there: Layer) -> None:
        """Alone, from any process, in order."""
        member, other = RecordingMember(), RecordingMember()
        name, _ = there.new_channel(member), there.new_channel(other)
        for number in range(50):
            here.send_channel(name, text(number))
        until(lambda: len(member.got) >= 50)
        assert member.texts == [str(n) for n in range(50)] and not other.got

    def test_sends_to_sockets_that_have_gone_are_counted(
        self, here: Layer, there: Layer
    ) -> None:
        """They raise nothing, whether the process lives or not."""
        name = there.new_channel(RecordingMember())
        there.close_channel(name)
        here.send_channel(name, text("late"))
        here.send_channel("1-0123456789ab!1", text("late"))

        def counted() -> int:
            layers = {here, there}
            return sum(
                e.stats().get("sent to channels that have gone", 0) for e in layers
            )

        until(lambda: counted() == 2)

    def test_sockets_of_other_processes_are_added_by_name(
        self, here: Layer, there: Layer
    ) -> None:
        """The membership holds when it returns, and so does its end."""
        topic, member = group_topic("room"), RecordingMember()
        name = there.new_channel(member)
        here.add_channel(topic, name)
        here.send(topic, text("in"))
        until(lambda: member.got)
        here.discard_channel(topic, name)
        assert member not in there.members(topic)
        here.send(topic, text("out"))
        gevent.sleep(LATE)
        assert member.texts == ["in"]

    def test_adding_by_name_fails_as_it_does_for_the_socket_itself(
        self, here: Layer, there: Layer
    ) -> None:
        """It has gone, or is in too many groups."""
        name = there.new_channel(RecordingMember(max_groups=1))
        here.add_channel(group_topic("one"), name)
        with pytest.raises(TooManyGroups):
            here.add_channel(group_topic("two"), name)
        there.close_channel(name)
        with pytest.raises(ConnectionEnded):
            here.add_channel(group_topic("two"), name)
        here.discard_channel(group_topic("two"), name)

    # What is lost.

    def test_holes_are_counted_and_announced(
        self, here: Layer, elsewhere: Layer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With the next message of the same sender and group, and only once."""
        topic = group_topic("room")
        deaf, member = RecordingMember(), RecordingMember(listens=("layer.gap",))
        elsewhere.add(topic, member)
        elsewhere.add(topic, deaf)
        here.send(topic, text("before"))
        with monkeypatch.context() as patch:
            patch.setattr(here._bus, "publish", lambda topic, data: True)
            for _ in range(3):
                here.send(topic, text("lost"))
        for _ in range(2):
            here.send(topic, text("after"))
        until(lambda: len(deaf.got) >= 3)
        assert elsewhere.stats()["messages missed"] == 3
        assert member.events == [{"type": "layer.gap", "missed": 3, "group": "room"}]
        assert not deaf.events
        assert member.texts == deaf.texts == ["before", "after", "after"]

    def test_lost_tails_are_found_by_probes(
        self, here: Layer, elsewhere: Layer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Though no message comes after them; and only by those that were in."""
        topic, member = group_topic("room"), RecordingMember(listens=("layer.gap",))
        elsewhere.add(topic, member)
        here.send(topic, text("before"))
        with monkeypatch.context() as patch:
            patch.setattr(here._bus, "publish", lambda topic, data: True)
            here.send(topic, text("lost"))
        here.probe()
        until(lambda: member.events)
        here.probe()
        here.send(topic, text("after"))
        until(lambda: len(member.texts) >= 2)
        assert elsewhere.stats()["messages missed"] == 1
        assert member.texts == ["before", "after"]

    def test_what_was_sent_before_a_join_is_no_loss(
        self, here: Layer, elsewhere: Layer, new_layer: Callable[[], Layer]
    ) -> None:
        """Nor what was sent between leaving and joining again."""
        topic, other, member = group_topic("room"), RecordingMember(), RecordingMember()
        new_layer().add(topic, other)
        for number in range(3):
            here.send(topic, text("unwanted"))
            elsewhere.add(topic, member)
            here.send(topic, text(number))
            until(lambda number=number: len(member.got) > number)  # type: ignore[misc]
            elsewhere.discard(topic, member)
        here.probe()
        gevent.sleep(LATE)
        assert "messages missed" not in elsewhere.stats()

    def test_nothing_is_missed_when_nothing_is_lost(
        self, here: Layer, there: Layer
    ) -> None:
        """Many groups, both ways, with probes between."""
        members = [RecordingMember(), RecordingMember()]
        topics = [group_topic(f"room {n}") for n in range(50)]
        for topic in topics:
            here.add(topic, members[0])
            there.add(topic, members[1])
        for _ in range(5):
            for topic in topics:
                here.send(topic, text("x"))
                there.send(topic, text("y"))
            here.probe()
            there.probe()
            gevent.sleep(0)
        until(lambda: all(len(member.got) >= 500 for member in members))
        for layer in (here, there):
            assert "messages missed" not in layer.stats()
            assert "messages heard twice" not in layer.stats()

    def test_a_layer_may_be_closed_and_started_again(
        self, here: Layer, there: Layer, reactor: Reactor
    ) -> None:
        """By another name, and without members; what was sent meanwhile is no loss."""
        topic, member, origin = group_topic("room"), RecordingMember(), there.origin
        for number in range(2):
            there.add(topic, member)
            here.send(topic, text(number))
            until(lambda number=number: len(member.got) > number)  # type: ignore[misc]
            there.close()
            assert not there.started
            if here is not there:
                here.send(topic, text("meanwhile"))
            there.start(reactor)
        here.probe()
        gevent.sleep(LATE)
        assert there.origin != origin
        assert member.texts == ["0", "1"]
        assert "messages missed" not in there.stats()

    # Where it runs.

    def test_native_threads_may_send(self, here: Layer, there: Layer) -> None:
        """To groups and channels; the hub takes it from them, in order."""
        topic, member = group_topic("room"), RecordingMember()
        there.add(topic, member)
        name = there.new_channel(member)

        def send() -> None:
            for number in range(50):
                here.send(topic, text(number))
                here.send_channel(name, text(f"c{number}"))

        pool = ThreadPool(1)
        try:
            pool.apply(send)
        finally:
            pool.kill()
        until(lambda: len(member.got) >= 100)
        for prefix in ("", "c"):
            mine = [t for t in member.texts if t.startswith("c") is bool(prefix)]
            assert mine == [f"{prefix}{number}" for number in range(50)]

    def _run(self, script: str, url: str, layer: Layer, expected: list[str]) -> None:
        """
        Run a program on the same URL.

        It answers in one group, and gives its last answer when it has been asked in
        another.
        """
        member = RecordingMember()
        layer.add(group_topic("answers"), member)
        mode = "alone" if self.alone else "joined"
        command = [sys.executable, "-W", "error", "-c", script, url, mode]
        program = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            if not self.alone:
                until(lambda: member.texts == expected[:-1])
                layer.send(group_topic("questions"), text("why"))
            out, _ = program.communicate(timeout=PATIENCE)
        finally:
            if program.poll() is None:
                program.kill()
                program.wait()
        assert out == b"done\n"
        if not self.alone:
            until(lambda: len(member.got) >= len(expected))
            assert member.texts == expected

    @pytest.mark.parametrize("kind", BEGINNINGS)
    def test_any_program_takes_part(
        self, here: Layer, layer_url: str, kind: str
    ) -> None:
        """It joins, gets and sends, with monkey-patching and without."""
        script = BEGINNINGS[kind] + JOINING_SCRIPT
        self._run(script, layer_url, here, ["ready", "to why"])

    @pytest.mark.parametrize("kind", BEGINNINGS)
    def test_a_forked_child_has_nothing_of_its_parents_layer(
        self, here: Layer, layer_url: str, kind: str
    ) -> None:
        """It may make its own; the parent's goes on as before."""
        expected = ["from the child", "from the parent", "to why"]
        self._run(BEGINNINGS[kind] + FORKING_SCRIPT, layer_url, here, expected)


__all__ = ["LayerConformance"]
