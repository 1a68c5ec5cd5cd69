"""
Class-based consumers, policies, compression and rates, run by greenchannels' own
command line beside the functions that they are compared with.
"""

import greenchannels_app as functions

from greenchannels import Group, Limits, Rate, http, websocket
from greenchannels.generic.websocket import JsonWebsocketConsumer, WebsocketConsumer
from greenchannels.layers.registry import current_layer

#: More than any load here sends.
MANY_MESSAGES, MANY_BYTES = 10_000_000, 10_000_000_000


class Echo(WebsocketConsumer):
    """Return each message."""

    def receive(self, text_data=None, bytes_data=None):
        """Send it back."""
        self.send(text_data=text_data, bytes_data=bytes_data)


class JsonEcho(JsonWebsocketConsumer):
    """Return each message, decoded and encoded."""

    def receive_json(self, content):
        """Send it back."""
        self.send_json(content)


class Idle(WebsocketConsumer):
    """Accept, and wait for what never comes."""


class Visitor(WebsocketConsumer):
    """Look at the path and be in a group that it names; then wait."""

    groups = ["room.{room}"]

    def connect(self):
        """Keep the name of the room, as most of Channels' examples do."""
        self.room = self.scope["url_route"]["kwargs"]["room"]
        self.accept()


class Member(WebsocketConsumer):
    """Send each message to everybody here, as an event that each one answers."""

    groups = ["members"]

    def receive(self, text_data=None, bytes_data=None):
        """Send it to all."""
        Group("members").send({"type": "chat.message", "text": text_data})

    def chat_message(self, event):
        """Send it on to the peer."""
        self.send(text_data=event["text"])


class Counter(WebsocketConsumer):
    """Send each message to everybody here; answer once all have counted it."""

    groups = ["counters"]
    #: How many are here, how many have counted the last event, who has sent it.
    here, counted, sender = 0, 0, None

    def connect(self):
        """Count the members."""
        Counter.here += 1
        self.accept()

    def receive(self, text_data=None, bytes_data=None):
        """Send it to all."""
        Counter.sender = self
        Group("counters").send({"type": "chat.message", "text": text_data})

    def chat_message(self, event):
        """Count it; the last one tells who has sent it."""
        Counter.counted += 1
        if Counter.counted == Counter.here:
            Counter.counted = 0
            Counter.sender.send(text_data=event["text"])

    def disconnect(self, code):
        """Count the members."""
        Counter.here -= 1


def stats(request):
    """Tell what the layer has counted."""
    return current_layer().stats()


def rated(path, each):
    """Return the route of an echo that asks a rate about each message."""
    rate = Rate(MANY_MESSAGES, MANY_BYTES, each=each)
    limits = Limits(rates=(rate,))
    return websocket(path, functions.echo, limits=limits, deflate=False)


routing = [
    websocket("/echo", functions.echo, deflate=False),
    websocket("/class/echo", Echo, deflate=False),
    websocket("/class/json", JsonEcho, deflate=False),
    websocket("/idle", functions.idle, deflate=False),
    websocket("/class/idle", Idle, deflate=False),
    websocket("/class/room/<room>", Visitor, deflate=False),
    websocket("/deflate/class/idle", Idle),
    websocket("/class/member", Member, deflate=False),
    websocket("/class/counter", Counter, deflate=False),
    websocket("/broadcast", functions.broadcast, deflate=False),
    websocket("/deflate/broadcast", functions.broadcast),
    rated("/rated/connection", "connection"),
    rated("/rated/address", "address"),
    http("/stats", stats),
]
for policy in ("close", "drop", "latest"):
    routing += [
        websocket(f"/storm/{policy}", functions.broadcast, slow=policy, deflate=False),
        websocket(f"/storm/class/{policy}", Member, slow=policy, deflate=False),
    ]
