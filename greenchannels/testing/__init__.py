"""
Test applications against the real server, without a port or with one.

==============  ==============================================================
``Client``      speaks to the real server on this hub: WebSockets and HTTP
``Rejected``    what entering ``client.websocket()`` raises on a refusal
``LiveServer``  a server on a free port, for browsers and other clients
``layers``      what a layer promises, as tests, for those who write a bus
==============  ==============================================================

Nothing here patches; ``-p greenchannels.testing.plugin`` gives pytest fixtures
over these, a leak check, and patches first of all.
"""

from .client import Client
from .live import LiveServer
from .websockets import Rejected

__all__ = ["Client", "LiveServer", "Rejected"]
