"""What the fuzzing client talks to: an echo of text and bytes."""

from greenchannels import websocket


def echo(socket):
    """Send every message back."""
    for message in socket:
        socket.send(message)


routing = [websocket("/", echo)]
