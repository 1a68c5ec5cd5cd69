"""picows, a WebSocket engine in Cython, on uvloop, for orientation."""

import sys

import uvloop
from picows import WSListener, WSMsgType, ws_create_server

members = set()


class Idle(WSListener):
    """Wait until the peer has gone; answer its close."""

    def on_ws_frame(self, transport, frame):
        """Handle one frame."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        else:
            self.receive(transport, frame.msg_type, frame.get_payload_as_bytes())

    def receive(self, transport, kind, payload):
        """Handle one message."""


class Echo(Idle):
    """Return each message."""

    def receive(self, transport, kind, payload):
        """Handle one message."""
        transport.send(kind, payload)


class Broadcast(Idle):
    """Send each message to everybody here."""

    def on_ws_connected(self, transport):
        """Join."""
        members.add(transport)

    def on_ws_disconnected(self, transport):
        """Leave."""
        members.discard(transport)

    def receive(self, transport, kind, payload):
        """Handle one message."""
        for member in list(members):
            member.send(kind, payload)


def route(request):
    """Route by path."""
    return {b"/echo": Echo, b"/broadcast": Broadcast, b"/idle": Idle}[request.path]()


async def main():
    """Serve until SIGTERM."""
    server = await ws_create_server(route, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
