"""The routes for greenchannels, run by its own command line."""

from greenchannels import Group, websocket


def echo(socket):
    """Return each message."""
    for message in socket:
        socket.send(message)


def broadcast(socket):
    """Send each message to everybody here."""
    with Group("all").joined(socket) as group:
        for message in socket:
            group.send(message)


def idle(socket):
    """Wait until the peer has gone."""
    socket.wait()


routing = [
    websocket("/echo", echo),
    websocket("/broadcast", broadcast),
    websocket("/idle", idle),
]
