"""
Class-based consumers of WebSockets.

The names, signatures and their meaning are those of Django Channels 4
(``channels.generic.websocket``) without ``async``: a method is an ordinary function
and may block. Where Channels loses something or ends in a traceback, this does not;
``docs/class-based.md`` has the whole table.

::

    class Chat(WebsocketConsumer):
        groups = ["chat.{room}"]

        def receive(self, text_data=None, bytes_data=None):
            group = Group("chat." + self.params["room"])
            group.send({"type": "chat.said", "text": text_data})

        def chat_said(self, event):
            self.send(text_data=event["text"])

    routing = [websocket("/chat/<room>", Chat)]
"""

from __future__ import annotations

from .consumer import SyncConsumer
from .demultiplexer import WebsocketDemultiplexer
from .websocket_consumers import JsonWebsocketConsumer, WebsocketConsumer

__all__ = [
    "JsonWebsocketConsumer",
    "SyncConsumer",
    "WebsocketConsumer",
    "WebsocketDemultiplexer",
]
