"""
Clients spread over the workers of a fleet, who publish all the time and keep accounts.

Each member numbers what it sends. Who hears another's numbers counts the holes, and
adds what its worker says to have missed: the two must be the same, to the message.
"""

import contextlib
import itertools
import json
import time
from collections import Counter

import gevent
from gevent.event import AsyncResult

from tests.faults.fleet import PATIENCE, until
from tests.servers.harness import CLOSE, PING, PONG, TEXT, Peer

#: Seconds between two messages of each member.
TICK = 0.02

_numbers = itertools.count(1)


class Member(Peer):
    """
    A client in the group.

    Attributes:
        pid: The worker that serves it.
        sent: The last number it has sent.
        heard: The last number heard, by number of the member who sent it.
        holes: Numbers between those that were heard of a member.
        heads: Numbers before the first that was heard, sent after it had joined.
        missed: What its worker said to have missed.
        unknown: How often its worker could not say how much it missed.
        wrong: What came twice, or in the wrong order.
        end: How the connection ended: the close frame's code, "closed" or "reset".

    """

    def __init__(self, crowd, number):
        super().__init__(crowd.fleet.address())
        self.crowd, self.number = crowd, number
        self.pid = self.sent = self.holes = self.heads = 0
        self.missed = self.unknown = 0
        self.heard, self.wrong = {}, []
        self.base = None  # until it is told that it is in; it may hear others before
        self.end = self.reader = None
        self._looks = []

    def join(self):
        """Wait until it is in the group."""
        self.handshake("/crowd")
        answer = self.response(seconds=PATIENCE)
        assert answer.status == 101, answer
        with gevent.Timeout(PATIENCE):
            while not self.pid:
                self._take(self.next(None))
        self.reader = gevent.spawn(self._read)

    def look(self):
        """Return what its worker has and counts."""
        self._looks.append(AsyncResult())
        found = self._looks[-1]
        self.say("?")
        return found.get(timeout=PATIENCE)

    def publish(self):
        """Send the next number."""
        self.sent += 1
        with contextlib.suppress(OSError):  # its worker may just have been killed
            self.say(f"#{self.number} {self.sent}{self.crowd.filling}")

    def close(self):
        """Leave."""
        if self.reader is not None:
            self.reader.kill()
        super().close()

    def _read(self):
        try:
            while self.end is None:
                self._take(self.next(None))
        except EOFError:
            self.end = "closed"
        except OSError:
            self.end = "reset"

    def _take(self, frame):
        if frame.opcode == TEXT:
            self._take_text(frame.payload.decode())
        elif frame.opcode == PING:
            self.frame(PONG, frame.payload)
        elif frame.opcode == CLOSE:
            self.end = int.from_bytes(frame.payload[:2], "big")
            with contextlib.suppress(OSError):
                self.frame(CLOSE, frame.payload[:2])

    def _take_text(self, text):
        kind, rest = text.split(" ", 1)
        if kind[0] == "#":
            self._count(int(kind[1:]), int(rest.split(" ", 1)[0]))
        elif kind == "in":
            self.base = {m.number: m.sent for m in self.crowd.members}
            self.pid = int(rest)
        elif kind == "gap" and rest == "None":
            self.unknown += 1
        elif kind == "gap":
            self.missed += int(rest)
        else:
            self._looks.pop(0).set(json.loads(rest))

    def _count(self, sender, number):
        last = self.heard.get(sender)
        if last is None:
            if sender in self.crowd.numbers and self.base is not None:
                self.heads += max(0, number - self.base.get(sender, 0) - 1)
        elif number <= last:
            self.wrong.append((sender, last, number))
        else:
            self.holes += number - last - 1
        self.heard[sender] = number

    def lacking(self, others):
        """Return how much is neither here nor counted, of what the others sent."""
        tails = 0
        for each in others:
            base = self.base.get(each.number, 0)
            tails += each.sent - self.heard.get(each.number, base)
        heads = self.heads if not self.unknown else 0
        return self.holes + heads + tails - self.missed


class Crowd:
    """
    The members of a fleet.

    Attributes:
        members: All whose connection is open, as far as is known.
        ended: Those whose connection has ended, by how.
        numbers: What all who ever were members are called.
        published: What those have sent who are no members any more.

    """

    #: What its members are.
    kind = Member

    def __init__(self, fleet, size=0):
        self.fleet = fleet
        self.filling = " " + "x" * size
        self.members = []
        self.ended = Counter()
        self.published = 0
        self.numbers = set()
        self._publishing = None

    # Who is in.

    def fill(self, pids, each=2):
        """Have so many members in each of these workers."""
        end = time.monotonic() + PATIENCE
        extra = []
        try:
            while self._short(pids, each):
                assert time.monotonic() < end, (pids, self.members, str(self.fleet))
                member = self._new()
                if member is None:
                    continue
                if self._short({member.pid}, each):
                    self.members.append(member)
                    continue
                extra.append(member)  # it keeps a worker busy, so that another accepts
                if len(extra) > 5:
                    extra.pop(0).close()
        finally:
            for member in extra:
                member.close()

    def _short(self, pids, each):
        there = Counter(member.pid for member in self.members)
        return [pid for pid in pids if there[pid] < each]

    def _new(self):
        """Return a new member, or ``None`` if its worker was killed meanwhile."""
        member = self.kind(self, next(_numbers))
        self.numbers.add(member.number)
        try:
            member.join()
        except (EOFError, OSError):
            member.close()
            return None
        return member

    def of(self, pid):
        """Return a member of a worker."""
        return next(member for member in self.members if member.pid == pid)

    def bury(self, killed=(), codes=("closed", "reset")):
        """Forget members whose end was to be expected; fail on any other's."""
        for member in [m for m in self.members if m.end is not None]:
            assert member.pid in killed, (member.pid, member.end, str(self.fleet))
            assert member.end in codes, member.end
            self.ended[member.end] += 1
            self._forget(member)

    def await_end(self, pids):
        """Wait until the members of these workers have noticed its end."""
        theirs = [member for member in self.members if member.pid in pids]
        until(lambda: all(m.end is not None for m in theirs), note=self.fleet)

    def _forget(self, member):
        assert not member.wrong, member.wrong
        self.published += member.sent
        self.members.remove(member)
        member.close()

    def close(self):
        """Have all leave."""
        self.quiet()
        for member in tuple(self.members):
            member.close()
        self.members.clear()

    # Publishing.

    def start(self):
        """Have all publish all the time."""
        self._publishing = gevent.spawn(self._publish)
        return self

    def quiet(self):
        """Have nobody publish any more."""
        if self._publishing is not None:
            self._publishing.kill()
            self._publishing = None

    def _publish(self):
        while True:
            for member in tuple(self.members):
                if member.end is None:
                    member.publish()
            gevent.sleep(TICK)

    def heard_anew(self, pids, seconds=PATIENCE):
        """Wait until members of each of these workers hear all the others anew."""
        those = [m for m in self.members if m.pid in pids and m.end is None]
        before = {m.number: dict(m.heard) for m in those}

        def progress():
            return all(
                m.heard.get(o.number, 0) > before[m.number].get(o.number, 0)
                for m in those
                for o in those
                if m.end is None and o.end is None
            )

        until(progress, seconds, self.fleet)

    # Accounts.

    def settle(self):
        """Stop publishing; wait until the accounts of all are even, and remain so."""
        self.quiet()
        self.bury()
        others = tuple(self.members)

        def lacking():
            return {m.number: m.lacking(others) for m in self.members}

        until(lambda: not any(lacking().values()), note=_Lazy(lacking))
        gevent.sleep(0.1)
        assert not any(lacking().values()), lacking()
        for member in self.members:
            assert member.end is None and not member.wrong, member.wrong

    @property
    def missed(self):
        """What members missed, by all that was counted."""
        return sum(member.missed for member in self.members)

    def looks(self, pids):
        """
        Return what each worker has, once it is linked to all others.

        It has no other sockets then than those of the members.

        Theirs and the links are taken off: what is left is the same at all times.
        """
        there = Counter(member.pid for member in self.members)
        others = len(pids) - 1

        def as_expected(pid, look):
            bus = look["stats"]["bus"]
            linked = bus["processes"], bus["processes linked"]
            return (look["sockets"], linked) == (there[pid], (others, others))

        def settled():
            found = {pid: self.of(pid).look() for pid in pids}
            return found if all(as_expected(*each) for each in found.items()) else None

        found = until(settled, note=self.fleet)
        for pid, look in found.items():
            look["descriptors"] -= there[pid] + others
            look["greenlets"] -= there[pid]
        return found


class _Lazy:
    """A note that is made when it is read."""

    def __init__(self, make):
        self._make = make

    def __str__(self):
        return str(self._make())
