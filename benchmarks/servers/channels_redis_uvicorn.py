"""Django Channels over Redis pub/sub, on two uvicorns with uvloop that share a port."""

import os
import signal
import socket
import sys

import django
import uvicorn
from django.conf import settings

#: Processes that serve, beside the one that started them.
PROCESSES = 2

LAYER = {
    "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
    "CONFIG": {"hosts": [("127.0.0.1", int(sys.argv[2]))]},
}
settings.configure(
    SECRET_KEY="benchmark",
    INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={"default": LAYER},
)
django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path  # noqa: E402


class Broadcast(AsyncWebsocketConsumer):
    """Send each message to everybody, in both processes; the 101 says who is there."""

    groups = ["all"]

    async def connect(self):
        """Accept."""
        await self.accept(headers=[(b"X-Process", str(os.getpid()).encode())])

    async def receive(self, text_data=None, bytes_data=None):
        """Handle one message."""
        await self.channel_layer.group_send("all", {"type": "said", "text": text_data})

    async def said(self, event):
        """Pass on what somebody said."""
        await self.send(text_data=event["text"])


urls = [path("spread/broadcast", Broadcast.as_asgi())]
application = ProtocolTypeRouter({"websocket": URLRouter(urls)})


def serve(listener):
    """Serve until SIGTERM."""
    config = uvicorn.Config(
        application,
        loop="uvloop",
        lifespan="off",
        access_log=False,
        log_level="warning",
        ws_per_message_deflate=False,
    )
    uvicorn.Server(config).run(sockets=[listener])


def main():
    """Serve in children until SIGTERM."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(sys.argv[1])))  # who serves listens: uvicorn
    children = []
    for _ in range(PROCESSES):
        pid = os.fork()
        if pid == 0:
            serve(listener)
            os._exit(0)
        children.append(pid)
    signal.signal(
        signal.SIGTERM, lambda *_: [os.kill(c, signal.SIGKILL) for c in children]
    )
    for pid in children:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
