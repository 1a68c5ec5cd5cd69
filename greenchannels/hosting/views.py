"""
``http`` views: a function of a Werkzeug request, as a GSGI consumer.

What a view returns is what a Flask view may return, or an ``EventStream``.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any

from ..errors import ConfigurationError
from ..groups import to_json
from ..types import Event, Receive, Scope, Send
from .environ import environ_of
from .streams import HEADERS, EventStream

if TYPE_CHECKING:
    from werkzeug.wrappers import Request, Response

#: Bytes of a body that are kept in memory; the rest is spooled to disk.
BODY_IN_MEMORY = 1024 * 1024

#: Statuses whose responses have no body.
NO_BODY = (204, 304)

_NOT_ASYNC = "views are plain functions that may block; leave out async and await"

_WHAT_VIEWS_RETURN = (
    "it may return str, bytes, dict, list, tuple, Response, EventStream or an iterator"
)


class ClientGone(Exception):
    """The peer went away while its request was being read."""


class ViewConsumer:
    """
    Serve HTTP requests by a view.

    Raises:
        ConfigurationError: If the view is an ``async def``.

    """

    def __init__(self, view: Callable[..., Any]) -> None:
        if inspect.iscoroutinefunction(view) or inspect.isasyncgenfunction(view):
            raise ConfigurationError(f"{view!r} is async: {_NOT_ASYNC}")
        self.view = view

    def __repr__(self) -> str:
        return f"ViewConsumer({self.view!r})"

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, call the view, send what it returned."""
        from werkzeug.wrappers import Request

        extensions = scope.get("extensions", {}).get("greenchannels", {})
        in_memory = extensions.get("max_body_in_memory", BODY_IN_MEMORY)
        with tempfile.SpooledTemporaryFile(in_memory or 0) as body:
            try:
                read_body(receive, body)
            except ClientGone:
                return
            with Request(environ_of(scope, body)) as request:
                try:
                    self._answer(request, scope, receive, send)
                finally:
                    # Each holds the other: without this the collector's work.
                    request.environ.pop("werkzeug.request", None)

    def _answer(
        self, request: Request, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Call the view, and send what it returned."""
        from werkzeug.exceptions import HTTPException

        params = scope.get("url_route", {}).get("kwargs", {})
        environ = request.environ
        try:
            response = make_response(self.view(request, **params), environ)
        except HTTPException as error:
            response = error.get_response(environ)
        stream = response.response
        if isinstance(stream, EventStream) and _has_body(response, environ):
            start = start_event(response, environ)
            stream.serve(start, scope, receive, send)
        else:
            send_response(response, environ, send)


def read_body(receive: Receive, body: IO[bytes]) -> None:
    """
    Write the request's body into ``body`` and rewind it.

    Raises:
        ClientGone: If the peer went away before its end.

    """
    more = True
    while more:
        event = receive()
        if event["type"] == "http.disconnect":
            raise ClientGone
        body.write(event.get("body", b""))
        more = event.get("more_body", False)
    body.seek(0)


def make_response(result: Any, environ: dict[str, Any]) -> Response:
    """
    Return the response that a view's result stands for.

    Args:
        result: What the view returned.
        environ: Of the request, for a result that is a WSGI application.

    Raises:
        TypeError: If it stands for none.

    """
    status: Any = None
    headers: Any = None
    if isinstance(result, tuple):
        result, status, headers = _unpack(result)
    response = _wrap(result, environ)
    if status is not None:
        if isinstance(status, int):
            response.status_code = status
        else:
            response.status = status
    if headers is not None:
        response.headers.update(headers)
    return response


def _wrap(result: Any, environ: dict[str, Any]) -> Response:
    """Return the response of a result without status and headers."""
    from werkzeug.wrappers import Response

    if isinstance(result, Response):
        return result
    if isinstance(result, dict | list):
        return Response(to_json(result), mimetype="application/json")
    if isinstance(result, EventStream):
        return Response(result, headers=HEADERS)  # type: ignore[arg-type]
    if isinstance(result, bytearray):
        result = bytes(result)
    if isinstance(result, (str, bytes, Iterator)):
        return Response(result, mimetype="text/html")
    if callable(result):
        return Response.force_type(result, environ)
    if inspect.iscoroutine(result):
        result.close()
    is_async = inspect.isawaitable(result) or inspect.isasyncgen(result)
    raise TypeError(
        f"a view returned {type(result).__name__}: "
        + (_NOT_ASYNC if is_async else _WHAT_VIEWS_RETURN)
    )


def _unpack(result: tuple[Any, ...]) -> tuple[Any, Any, Any]:
    """Return body, status and headers of a view's tuple."""
    if len(result) == 3:
        return result
    if len(result) == 2:
        body, second = result
        if isinstance(second, int | str):
            return body, second, None
        return body, None, second
    raise TypeError(
        "a view's tuple is (body, status), (body, headers) or (body, status, headers)"
    )


def _has_body(response: Response, environ: dict[str, Any]) -> bool:
    """Return whether a response has a body (RFC 9110, section 6.4.1)."""
    return environ["REQUEST_METHOD"] != "HEAD" and response.status_code not in NO_BODY


def start_event(response: Response, environ: dict[str, Any]) -> Event:
    """Return how a Werkzeug response begins."""
    headers = response.get_wsgi_headers(environ).to_wsgi_list()
    return {
        "type": "http.response.start",
        "status": response.status_code,
        "headers": [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in headers
        ],
    }


def send_response(response: Response, environ: dict[str, Any], send: Send) -> None:
    """Send a Werkzeug response as GSGI events; its iterable is closed."""
    body = response.get_app_iter(environ)
    try:
        send(start_event(response, environ))
        if response.is_sequence:
            send(_body(b"".join(body), more=False))
            return
        if environ["REQUEST_METHOD"] == "HEAD":
            # Of a length that nobody knows, rather than of none.
            send(_body(b"", more=True))
        for chunk in body:
            if chunk:
                send(_body(chunk, more=True))
        send(_body(b"", more=False))
    finally:
        close = getattr(body, "close", None)
        if close is not None:
            close()


def _body(data: bytes, *, more: bool) -> Event:
    return {"type": "http.response.body", "body": data, "more_body": more}
