"""gevent-websocket on gevent's pywsgi, with wsaccel when it is installed."""

import sys

from gevent import monkey

monkey.patch_all()

import geventwebsocket.websocket as engine  # noqa: E402
from geventwebsocket import WebSocketServer  # noqa: E402

try:
    from wsaccel.utf8validator import Utf8Validator
    from wsaccel.xormask import XorMaskerSimple
except ImportError:
    XorMaskerSimple = None

members = set()


def accelerate():
    """Let wsaccel mask and validate; it has no patch for this library itself."""

    def unmask(header, payload):
        # A bytearray, as the library's own method returns.
        return bytearray(XorMaskerSimple(header.mask).process(bytes(payload)))

    engine.Header.unmask_payload = unmask
    engine.Utf8Validator = Utf8Validator


def messages(socket):
    """Yield messages until the peer has left."""
    while (message := socket.receive()) is not None:
        yield message


def echo(socket):
    """Return each message."""
    for message in messages(socket):
        socket.send(message)


def broadcast(socket):
    """Send each message to everybody here."""
    members.add(socket)
    try:
        for message in messages(socket):
            for member in list(members):
                member.send(message)
    finally:
        members.discard(socket)


def idle(socket):
    """Wait until the peer has gone."""
    socket.receive()


def application(environ, start_response):
    """Route by path."""
    consumers = {"/echo": echo, "/broadcast": broadcast, "/idle": idle}
    consumers[environ["PATH_INFO"]](environ["wsgi.websocket"])
    return []


def main():
    """Serve until SIGTERM."""
    if XorMaskerSimple is not None:
        accelerate()
    address = ("127.0.0.1", int(sys.argv[1]))
    WebSocketServer(address, application, log=None).serve_forever()


if __name__ == "__main__":
    main()
