"""The smallest server: what somebody sends comes back."""

from greenchannels import websocket


def echo(socket):
    """Send every message back, text as text and binary as binary."""
    for message in socket:
        socket.send(message)


routing = [websocket("/", echo)]
