"""
Real-time applications in plain blocking Python, on gevent.

=====================  =======================================================
``websocket, http``    routes; also ``static``, ``wsgi``, ``gsgi``, ``include``
``Router``             a routing as one GSGI consumer
``Group, User``        broadcast to members, or to all sockets of a user
``Channel``            one socket, from anywhere
``WebSocket``          what a consumer function is given
``EventStream``        what a view returns for server-sent events
``Compression``        a middleware around HTTP routes
``Server``             serve a routing on this thread's hub
``application``        a routing for gunicorn and other WSGI servers
``configure, stats``   the layer of this process, and what it counted
errors                 ``ConnectionEnded`` and all others, in ``errors.py``
=====================  =======================================================
"""

from .applications import Application, application
from .channels import Channel
from .errors import (
    ChannelFull,
    ConfigurationError,
    ConnectionBroken,
    ConnectionClosed,
    ConnectionEnded,
    GreenchannelsError,
    HandshakeRefused,
    LayerRefused,
    LayerUnavailable,
    LocalProtocolError,
    MessageTooLarge,
    ProtocolError,
    RemoteProtocolError,
    TooManyGroups,
)
from .groups import Group, User
from .hosting.compression import Compression
from .hosting.events import ServerSentEvent
from .hosting.streams import EventStream, last_event_id
from .layers.registry import configure, stats
from .options import Deflate, HTTPLimits, Limits, Rate, ServerOptions, Timeouts
from .routing import Router, gsgi, http, include, lifespan, static, websocket, wsgi
from .servers.server import Server
from .sockets import WebSocket

__version__ = "0.1.0"

__all__ = [
    "Application",
    "Channel",
    "ChannelFull",
    "Compression",
    "ConfigurationError",
    "ConnectionBroken",
    "ConnectionClosed",
    "ConnectionEnded",
    "Deflate",
    "EventStream",
    "GreenchannelsError",
    "Group",
    "HTTPLimits",
    "HandshakeRefused",
    "LayerRefused",
    "LayerUnavailable",
    "Limits",
    "LocalProtocolError",
    "MessageTooLarge",
    "ProtocolError",
    "Rate",
    "RemoteProtocolError",
    "Router",
    "Server",
    "ServerOptions",
    "ServerSentEvent",
    "Timeouts",
    "TooManyGroups",
    "User",
    "WebSocket",
    "application",
    "configure",
    "gsgi",
    "http",
    "include",
    "last_event_id",
    "lifespan",
    "static",
    "stats",
    "websocket",
    "wsgi",
]
