"""People in the chat: real WebSocket clients that know only its protocol."""

import contextlib
import json
import socket as stdlib_socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.deploy.site import PATIENCE, waited

#: So many that several workers have some of them.
CROWD = 8

#: So often somebody tries to come in.
ATTEMPTS = 3

#: So many are enough for anything.
MOST = 200

#: So many workers the pages start at most.
WORKERS = 4


class Chatter:
    """
    Somebody in a room.

    Args:
        address: Host and port, or the path of a Unix socket.
        context: For TLS.
        room: Which one.

    """

    def __init__(self, address, *, context=None, room="lobby"):
        for _ in range(ATTEMPTS - 1 if context else 0):
            with contextlib.suppress(TimeoutError):
                self._open(address, context, room)
                return
        self._open(address, context, room)

    def _open(self, address, context, room):
        """
        Connect.

        Over TLS perhaps again: two threads of this client use one SSL object, which
        CPython does not lock before 3.13, and its request may never be sent.
        """
        sock = stdlib_socket.socket(
            stdlib_socket.AF_UNIX if isinstance(address, str) else stdlib_socket.AF_INET
        )
        sock.settimeout(PATIENCE)
        self._stack = contextlib.ExitStack()
        try:
            sock.connect(address)
            scheme = "wss" if context else "ws"
            port = "" if isinstance(address, str) else f":{address[1]}"
            connecting = connect(
                f"{scheme}://localhost{port}/chat/{room}?name=Ann",
                sock=sock,
                ssl=context,
                origin=f"http{scheme[2:]}://localhost{port}",
                open_timeout=PATIENCE / ATTEMPTS if context else PATIENCE,
                close_timeout=1,
            )
            self.socket = self._stack.enter_context(connecting)
        except BaseException:
            sock.close()
            raise

    @property
    def local_address(self):
        """This end of the connection."""
        return self.socket.local_address

    def say(self, text):
        """Say something."""
        self.socket.send(json.dumps({"type": "text", "text": text}))

    def hear(self, *kinds):
        """Return the next message of these kinds."""
        while True:
            message = json.loads(self.socket.recv(timeout=PATIENCE))
            if message["type"] in kinds:
                return message

    def told(self):
        """Wait for the end; return the code that the server has given."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                self.socket.recv(timeout=PATIENCE)
        return self.socket.protocol.close_rcvd and self.socket.protocol.close_rcvd.code

    def close(self):
        """Leave."""
        self._stack.close()


@contextlib.contextmanager
def crowd(*addresses, count=CROWD, enough=lambda people: True, **options):
    """
    Return people who have come by these addresses, in turn.

    Args:
        addresses: Where.
        count: How many at a time: one worker might take all who come one by one.
        enough: Until this is true of them so many more come.
        options: For each of them.

    """
    found = []

    def come(number):
        found.append(Chatter(addresses[number % len(addresses)], **options))

    try:
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(come, range(count)))
            while not enough(found):
                assert len(found) < MOST, "a worker without people"
                list(pool.map(come, range(count)))
        yield found
    finally:
        for person in found:
            person.close()


def all_hear_each_other(people):
    """Have everybody say something that everybody hears."""
    for speaker in people:
        text = f"hello {id(speaker)} {time.monotonic()}"
        speaker.say(text)
        for person in people:
            kind = "sent" if person is speaker else "text"
            while person.hear(kind)["text"] != text:
                pass  # said before


def talk_at(*addresses, **options):
    """Have people come by these addresses, hear each other, and leave."""
    with crowd(*addresses, **options) as people:
        all_hear_each_other(people)


class Stream(threading.Thread):
    """
    People who come, say something, and leave, until told to stop.

    Who meets a worker that is about to go (503, or 1012 once inside) comes again, as
    pages do, but more often than there are workers nobody has to.

    Attributes:
        count: How many have been served.
        failures: What happened to the others.

    """

    def __init__(self, address, **options):
        super().__init__()
        self._address, self._options = address, options
        self._over = threading.Event()
        self.count, self.failures = 0, []

    def run(self):
        """Come and go."""
        while not self._over.is_set():
            try:
                self._visit()
            except Exception as error:
                self.failures.append(repr(error))

    def _visit(self):
        for last in (*[False] * WORKERS, True):
            try:
                person = Chatter(self._address, room="busy", **self._options)
            except InvalidStatus as error:
                if last or error.response.status_code != 503:
                    raise
                continue
            try:
                person.say("in and out")
                person.hear("sent")
            except ConnectionClosed as error:
                if last or error.rcvd is None or error.rcvd.code != 1012:
                    raise
                continue
            finally:
                person.close()
            break
        self.count += 1

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self._over.set()
        self.join()


@contextlib.contextmanager
def nobody_refused(address, **options):
    """Have people come and go meanwhile; all of them are served."""
    with Stream(address, **options) as stream:
        waited(lambda: stream.count > 0, lambda: stream.failures)
        yield stream
        before = stream.count
        waited(lambda: stream.count > before + 5, lambda: stream.failures)
    assert stream.failures == []


def trusting(chain):
    """Return a client's TLS context that trusts a certificate's issuer."""
    context = ssl.create_default_context()
    context.load_verify_locations(chain)
    return context
