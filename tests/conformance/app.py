"""What the fuzzing client talks to: an echo of text and bytes."""

from greenchannels import Deflate, websocket


def echo(socket):
    """Send every message back."""
    for message in socket:
        socket.send(message)


#: Everything compressed, with all that earlier messages give.
TAKEOVER = Deflate(context_takeover=True, min_size=0)

routing = [
    websocket("/", echo),
    websocket("/takeover", echo, deflate=TAKEOVER),
]
