"""The websockets library on uvloop, for orientation."""

import asyncio
import sys

import uvloop
from websockets.asyncio.server import broadcast as send_to_all
from websockets.asyncio.server import serve

members = set()


async def echo(socket):
    """Return each message."""
    async for message in socket:
        await socket.send(message)


async def broadcast(socket):
    """Send each message to everybody here."""
    members.add(socket)
    try:
        async for message in socket:
            send_to_all(members, message)
    finally:
        members.discard(socket)


async def idle(socket):
    """Wait until the peer has gone."""
    await socket.wait_closed()


async def route(socket):
    """Route by path."""
    consumers = {"/echo": echo, "/broadcast": broadcast, "/idle": idle}
    await consumers[socket.request.path](socket)


async def main():
    """Serve until SIGTERM."""
    async with serve(route, "127.0.0.1", int(sys.argv[1]), compression=None):
        await asyncio.Future()


if __name__ == "__main__":
    uvloop.run(main())
