"""Django Channels with its in-memory layer, on uvicorn with uvloop."""

import sys

import django
import uvicorn
from django.conf import settings

LAYER = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
settings.configure(
    SECRET_KEY="benchmark",
    INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={"default": LAYER},
)
django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path  # noqa: E402


class Echo(AsyncWebsocketConsumer):
    """Return each message."""

    async def receive(self, text_data=None, bytes_data=None):
        """Handle one message."""
        await self.send(text_data=text_data, bytes_data=bytes_data)


class Broadcast(AsyncWebsocketConsumer):
    """Send each message to everybody here."""

    groups = ["all"]

    async def receive(self, text_data=None, bytes_data=None):
        """Handle one message."""
        await self.channel_layer.group_send("all", {"type": "said", "text": text_data})

    async def said(self, event):
        """Pass on what somebody said."""
        await self.send(text_data=event["text"])


class Idle(AsyncWebsocketConsumer):
    """Wait until the peer has gone."""


urls = [
    path("echo", Echo.as_asgi()),
    path("broadcast", Broadcast.as_asgi()),
    path("idle", Idle.as_asgi()),
]
application = ProtocolTypeRouter({"websocket": URLRouter(urls)})


def main():
    """Serve until SIGTERM."""
    uvicorn.run(
        application,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        lifespan="off",
        access_log=False,
        log_level="warning",
        ws_per_message_deflate=False,
    )


if __name__ == "__main__":
    main()
