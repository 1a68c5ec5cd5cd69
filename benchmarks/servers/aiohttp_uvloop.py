"""aiohttp on uvloop: the yardstick of all ratios."""

import sys

import uvloop
from aiohttp import WSMsgType, web

members = set()


async def opened(request):
    """Return the WebSocket of a request, after its handshake."""
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    return socket


async def echo(request):
    """Return each message."""
    socket = await opened(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


async def broadcast(request):
    """Send each message to everybody here."""
    socket = await opened(request)
    members.add(socket)
    try:
        async for message in socket:
            for member in list(members):
                await member.send_str(message.data)
    finally:
        members.discard(socket)
    return socket


async def idle(request):
    """Wait until the peer has gone."""
    socket = await opened(request)
    await socket.receive()
    return socket


def main():
    """Serve until SIGTERM."""
    app = web.Application()
    app.router.add_get("/echo", echo)
    app.router.add_get("/broadcast", broadcast)
    app.router.add_get("/idle", idle)
    loop = uvloop.new_event_loop()
    port = int(sys.argv[1])
    web.run_app(
        app, host="127.0.0.1", port=port, access_log=None, print=None, loop=loop
    )


if __name__ == "__main__":
    main()
