"""Which process is the gateway: a machine of played processes and a played time."""

import pytest

from greenchannels.layers import tiers_election as module
from greenchannels.layers.tiers_election import (
    BEAT_INTERVAL,
    SILENCE,
    SOON,
    STEP,
    Election,
)
from greenchannels.layers.tiers_frames import Beat, Who

#: Seconds between two looks at the played machine.
TICK = 0.02


class Alarm:
    """One deadline."""

    def __init__(self, when, callback):
        self.when, self.callback = when, callback

    def cancel(self):
        """Never ring."""
        self.callback = None


class Process:
    """
    A process that may be stopped.

    Attributes:
        stopped: Whether it does nothing; what it is told waits.
        serves: Whether it has members.
        changes: The gateways that it had, in order.

    """

    def __init__(self, machine, name, serves=True):
        self.machine, self.name, self.serves = machine, name, serves
        #: Those of whose end it has heard.
        self.ended = set(machine.serving) - set(machine.processes) - {name}
        self.stopped = False
        self.inbox, self.alarms, self.changes = [], [], []
        self.election = Election(name, self, self)

    def call_later(self, delay, callback):
        """Be the clock."""
        alarm = Alarm(self.machine.now + delay, callback)
        self.alarms.append(alarm)
        return alarm

    def candidates(self):
        """Return all, servers first."""
        serving = self.machine.serving
        found = [name for name in serving if name not in self.ended]
        return sorted(found, key=lambda name: (not serving[name], name))

    def fits(self, name):
        """Servers want a server."""
        return not self.serves or self.machine.serving[name]

    def tell_all(self, control):
        """It arrives with the next tick."""
        for each in self.machine.processes.values():
            if each is not self:
                each.inbox.append((self.name, control))

    def elected(self):
        """Note it."""
        self.changes.append(self.election.gateway)

    def live(self):
        """Ring what is due, and then read, as a hub does that was busy."""
        due = [a for a in self.alarms if a.when <= self.machine.now]
        self.alarms = [a for a in self.alarms if a.when > self.machine.now]
        for alarm in due:
            if alarm.callback is not None:
                alarm.callback()
        inbox, self.inbox = self.inbox, []
        for name, control in inbox:
            if isinstance(control, Beat):
                self.election.take_beat(name, control.term)
            elif isinstance(control, Who):
                self.election.take_who()
            else:
                self.ended.add(name)
                self.election.process_ended(name)


class Machine:
    """Processes that hear each other."""

    def __init__(self):
        self.now = 1000.0
        self.processes = {}
        #: All that there ever were, and whether they serve.
        self.serving = {}

    def monotonic(self):
        """Be the time."""
        return self.now

    def start(self, name, serves=True):
        """Have one more process, and return it."""
        self.serving[name] = serves
        process = self.processes[name] = Process(self, name, serves)
        process.election.join()
        return process

    def end(self, name):
        """Have a process end; the others hear of it."""
        del self.processes[name]
        for each in self.processes.values():
            each.inbox.append((name, None))

    def run(self, seconds):
        """Let time pass."""
        end = self.now + seconds
        while self.now < end:
            self.now += TICK
            for each in tuple(self.processes.values()):
                if not each.stopped:
                    each.live()

    def gateway(self):
        """Return the one on which all agree that are not stopped."""
        living = [each for each in self.processes.values() if not each.stopped]
        (name,) = {each.election.gateway for each in living}
        assert [e.name for e in living if e.election.won] == [name]
        return name


@pytest.fixture
def machine(monkeypatch):
    """One without processes."""
    machine = Machine()
    monkeypatch.setattr(module, "time", machine)
    return machine


def test_the_first_process_is_the_gateway_and_stays(machine):
    """Others that come know it at once, whatever their names."""
    for name in "cab":
        machine.start(name)
        machine.run(3 * TICK)
        assert machine.gateway() == "c"
    machine.run(100)
    assert all(each.changes == ["c"] for each in machine.processes.values())


def test_all_that_begin_at_once_agree(machine):
    """Though each may have seen nobody."""
    for name in "bca":
        found, machine.processes, machine.serving = machine.processes, {}, {}
        machine.start(name)
        machine.processes.update(found)
    machine.serving = dict.fromkeys("abc", True)
    machine.run(2 * BEAT_INTERVAL)
    assert machine.gateway() == "c"


def test_who_comes_next_takes_over_at_once(machine):
    """When the gateway has ended; each of the others follows."""
    for name in "abcd":
        machine.start(name)
        machine.run(1)
    for expected in "bcd":
        machine.end(machine.gateway())
        machine.run(SOON + 3 * TICK)
        assert machine.gateway() == expected


def test_a_gateway_that_is_stopped_is_replaced_within_seconds(machine):
    """When it goes on, it follows, before it does anything else as the gateway."""
    for name in "abc":
        machine.start(name)
        machine.run(1)
    stopped = machine.processes["a"]
    stopped.stopped = True
    machine.run(SILENCE + BEAT_INTERVAL + STEP)
    assert machine.gateway() == "b"
    machine.run(30)
    stopped.stopped = False
    machine.run(2 * TICK)
    assert machine.gateway() == "b"
    assert stopped.changes == ["a", "b"]
    assert machine.processes["c"].changes == ["a", None, "b"]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_candidates_that_are_stopped_are_passed_over(machine, count):
    """Each costs a moment."""
    names = "abcde"
    for name in names:
        machine.start(name)
        machine.run(1)
    for name in names[1 : count + 1]:
        machine.processes[name].stopped = True
    machine.end("a")
    machine.run(SOON + (count + 1) * STEP + 3 * TICK)
    assert machine.gateway() == names[count + 1]
    for each in machine.processes.values():
        each.stopped = False
    machine.run(2 * BEAT_INTERVAL)
    assert machine.gateway() == names[count + 1]


def test_a_process_that_was_busy_deposes_nobody(machine):
    """What it was told meanwhile is read after its alarm has rung."""
    for name in "ab":
        machine.start(name)
        machine.run(1)
    machine.processes["b"].stopped = True
    machine.run(10 * SILENCE)
    machine.processes["b"].stopped = False
    machine.run(10)
    assert machine.processes["b"].changes == ["a"]
    assert machine.processes["a"].changes == ["a"]


def test_a_process_that_comes_deposes_nobody_who_is_busy(machine):
    """It asks who is the gateway, and waits."""
    machine.start("b").stopped = True
    machine.start("a")
    machine.run(SILENCE / 2)
    machine.processes["b"].stopped = False
    machine.run(SILENCE)
    assert machine.gateway() == "b"
    assert machine.processes["a"].changes == ["b"]


def test_who_comes_while_the_gateway_is_stopped_does_not_wait_for_ever(machine):
    """Nobody else is there to take over."""
    machine.start("a").stopped = True
    machine.start("b")
    machine.run(SILENCE + 3 * STEP)
    assert machine.gateway() == "b"
    machine.processes["a"].stopped = False
    machine.run(2 * BEAT_INTERVAL)
    assert machine.gateway() == "b"


def test_servers_come_before_programs_without_members(machine):
    """And take over from them; programs follow only if there is no server."""
    machine.start("a", serves=False)
    machine.run(1)
    assert machine.gateway() == "a"
    for name in "bc":
        machine.start(name)
    machine.run(2 * BEAT_INTERVAL)
    assert machine.gateway() == "b"
    machine.end("b")
    machine.run(SOON + 3 * TICK)
    assert machine.gateway() == "c"
    machine.end("c")
    machine.run(SOON + 3 * TICK)
    assert machine.gateway() == "a"


def test_who_was_elected_earlier_is_no_gateway(machine):
    """Whatever the names, it hears of the later election."""
    for name in "abc":
        machine.start(name)
        machine.run(1)
    for _ in "ab":
        machine.end(machine.gateway())
        machine.run(1)
    assert machine.processes["c"].election.number == 3
    machine.start("d").election.take_beat("z", 1)
    assert machine.processes["d"].election.gateway == "z"
    machine.run(2 * BEAT_INTERVAL)
    assert machine.gateway() == "c"
