"""
A client in the process of its server, on the same hub.

The server is the real one; only the network is missing: each connection is a
socket pair. Works in patched and unpatched processes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import urlencode

from ..groups import to_json
from ..layers.layer import Layer
from ..options import ServerOptions
from ..servers.server import Server
from .links import Fields, Link, Response, at_most, encode_request
from .settling import settle
from .websockets import ClientSocket, Handshake

#: Names and values of a form or a query.
Form: TypeAlias = Mapping[str, Any] | Iterable[tuple[str, Any]]

#: Seconds that anything may take.
DEFAULT_TIMEOUT = 1.0

#: Between the path and the query.
_QUERY = {True: "&", False: "?"}


class Client:
    """
    Run a server for ``routing`` on this hub, and speak to it.

    ``with`` or ``open`` starts the server, its lifespans included; leaving or
    ``close`` ends it.

    Args:
        routing: What ``Server`` takes.
        options: What ``Server`` takes.
        layer: What ``Server`` takes.
        timeout: Seconds that each step of a test may take.

    """

    def __init__(
        self,
        routing: Any,
        *,
        options: ServerOptions | None = None,
        layer: Layer | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        self.server = Server(routing, options=options, layer=layer)
        self.timeout = timeout
        self._numbers = itertools.count(1)
        self._links: list[Link] = []
        self._sockets: list[ClientSocket] = []
        self._is_open = False

    def __enter__(self) -> Client:
        self.open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def open(self) -> None:
        """Start the server; blocks while its lifespans do."""
        self.server.start()
        self._is_open = True

    def close(self) -> None:
        """End connections, consumers and the server; closing twice is no error."""
        if not self._is_open:
            return
        self._is_open = False
        for socket in self._sockets:
            socket.drop()
        for link in self._links:
            link.close()
        self.server.close()

    def _connect(self, scope: dict[str, Any] | None = None) -> Link:
        if not self._is_open:
            raise RuntimeError("the client is not open: use it in a with statement")
        self._links = [
            each for each in self._links if each.in_flight or not each.closed
        ]
        link = Link(self.server, next(self._numbers), scope)
        self._links.append(link)
        return link

    # WebSockets.

    def websocket(
        self,
        path: str,
        *,
        user: Any = None,
        headers: Fields = (),
        origin: str | None = None,
        subprotocols: Sequence[str] = (),
        deflate: bool = False,
    ) -> ClientSocket:
        """
        Return a WebSocket to ``path``, to be entered by ``with``.

        Args:
            path: May have a query.
            user: Becomes ``scope["user"]``, as an authenticating middleware
                would have it; ``None`` is nobody.
            headers: More fields of the request.
            origin: The origin of the page that asks.
            subprotocols: What to offer.
            deflate: Whether to offer compression; what is sent stays plain.

        """
        scope = None if user is None else {"user": user}
        request = Handshake(path, headers, origin, subprotocols, deflate)
        socket = ClientSocket(self.server, self._connect(scope), request, self.timeout)
        self._sockets.append(socket)
        return socket

    # HTTP.

    def get(self, path: str, **options: Any) -> Response:
        """Send a GET; see ``request``."""
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> Response:
        """Send a POST; see ``request``."""
        return self.request("POST", path, **options)

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Fields = (),
        json: Any = None,
        data: Form | None = None,
        body: bytes = b"",
        query: Form | None = None,
    ) -> Response:
        """
        Send a request on a connection of its own, and return the response.

        Args:
            method: Such as "GET".
            path: The path, percent-encoded, with or without a query.
            headers: More fields; they replace those of the same name.
            json: What to send as JSON.
            data: What to send as an HTML form would.
            body: What to send, if it is neither.
            query: Names and values to put behind the path.

        Raises:
            TimeoutError: If the response was not complete in ``timeout`` seconds.
            ConnectionBroken: If the server closed before its end.

        """
        kind, body = _encode_body(json, data, body)
        fields = [("Host", "localhost"), ("Connection", "close"), *kind]
        if body or method not in ("GET", "HEAD"):
            fields.append(("Content-Length", str(len(body))))
        if query is not None:
            path += _QUERY["?" in path] + _encode_form(query)
        encoded = encode_request(method, path, fields, headers, body)
        return self._exchange(method, path, encoded)

    def _exchange(self, method: str, path: str, request: bytes) -> Response:
        link = self._connect()
        try:
            with at_most(self.timeout, f"{method} {path}"):
                link.send(request)
                return link.response(method)
        finally:
            link.close()

    # Waiting.

    def settle(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        """
        Block until the server has nothing left to do, and all has arrived.

        That is: every consumer of a WebSocket waits for input or has ended, no
        HTTP request is served, nothing waits to be sent, delivered or read.

        Raises:
            TimeoutError: If that takes longer; it names the consumers that do
                not wait, and where they are.

        """
        settle(self.server, self._links, timeout)


def _encode_body(
    json: Any, data: Form | None, body: bytes
) -> tuple[list[tuple[str, str]], bytes]:
    """Return the field that says what a body is, and the body."""
    if json is not None:
        return [("Content-Type", "application/json")], to_json(json).encode()
    if data is not None:
        form = "application/x-www-form-urlencoded"
        return [("Content-Type", form)], _encode_form(data).encode()
    return [], body


def _encode_form(form: Form) -> str:
    items = form.items() if isinstance(form, Mapping) else form
    return urlencode(list(items), doseq=True)
