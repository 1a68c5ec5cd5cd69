"""aiohttp on uvloop: the yardstick of all ratios."""

import ssl
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


def context(certificate, key):
    """Return the context of a server over TLS."""
    found = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    found.load_cert_chain(certificate, key)
    return found


def main():
    """Serve until SIGTERM, over TLS when there are a certificate and its key."""
    app = web.Application()
    app.router.add_get("/echo", echo)
    app.router.add_get("/broadcast", broadcast)
    app.router.add_get("/idle", idle)
    loop = uvloop.new_event_loop()
    web.run_app(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        access_log=None,
        print=None,
        loop=loop,
        ssl_context=context(*sys.argv[2:4]) if sys.argv[2:] else None,
    )


if __name__ == "__main__":
    main()
