"""
``http`` views: a function of a Werkzeug request, as a GSGI consumer.

What a view returns is what a Flask view may return.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any

import msgspec

from ..types import Event, Receive, Scope, Send

if TYPE_CHECKING:
    from werkzeug.wrappers import Response

#: Bytes of a body that are kept in memory; the rest is spooled to disk.
BODY_IN_MEMORY = 1024 * 1024


class ClientGone(Exception):
    """The peer went away while its request was being read."""


class ViewConsumer:
    """Serve HTTP requests by a view."""

    def __init__(self, view: Callable[..., Any]) -> None:
        self.view = view

    def __repr__(self) -> str:
        return f"ViewConsumer({self.view!r})"

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, call the view, send what it returned."""
        from werkzeug.exceptions import HTTPException
        from werkzeug.wrappers import Request

        extensions = scope.get("extensions", {}).get("greenchannels", {})
        in_memory = extensions.get("max_body_in_memory", BODY_IN_MEMORY)
        with tempfile.SpooledTemporaryFile(in_memory or 0) as body:
            try:
                read_body(receive, body)
            except ClientGone:
                return
            with Request(make_environ(scope, body)) as request:
                params = scope.get("url_route", {}).get("kwargs", {})
                try:
                    response = make_response(self.view(request, **params))
                except HTTPException as error:
                    response = error.get_response(request.environ)
                send_response(response, request.environ, send)


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


def make_environ(scope: Scope, body: IO[bytes]) -> dict[str, Any]:
    """Return the WSGI environ (PEP 3333) of a scope of type "http"."""
    server = scope.get("server") or ("localhost", None)
    client = scope.get("client") or ("", None)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": scope.get("root_path", ""),
        "PATH_INFO": scope["path"].encode().decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "SERVER_NAME": str(server[0]),
        "SERVER_PORT": str(server[1] or 80),
        "REMOTE_ADDR": str(client[0]),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.input": body,
        "wsgi.input_terminated": True,
        "wsgi.errors": None,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "greenchannels.scope": scope,
    }
    for raw_name, raw_value in scope["headers"]:
        name = raw_name.decode("latin-1").upper().replace("-", "_")
        if name not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            name = "HTTP_" + name
        value = raw_value.decode("latin-1")
        environ[name] = f"{environ[name]},{value}" if name in environ else value
    return environ


def make_response(result: Any) -> Response:
    """
    Return the response that a view's result stands for.

    Raises:
        TypeError: If it stands for none.

    """
    from werkzeug.wrappers import Response

    status: Any = None
    headers: Any = None
    if isinstance(result, tuple):
        result, status, headers = _unpack(result)
    if isinstance(result, Response):
        response = result
    elif isinstance(result, dict | list):
        response = Response(msgspec.json.encode(result), mimetype="application/json")
    elif isinstance(result, bytearray):
        response = Response(bytes(result), mimetype="text/html")
    elif isinstance(result, (str, bytes, Iterator)):
        response = Response(result, mimetype="text/html")
    elif callable(result):
        response = Response.force_type(result, {})
    else:
        raise TypeError(
            f"a view returned {type(result).__name__}: it may return str, bytes,"
            " dict, list, tuple, Response or an iterator"
        )
    if status is not None:
        if isinstance(status, int):
            response.status_code = status
        else:
            response.status = status
    if headers is not None:
        response.headers.update(headers)
    return response


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


def send_response(response: Response, environ: dict[str, Any], send: Send) -> None:
    """Send a Werkzeug response as GSGI events; its iterable is closed."""
    body, status, headers = response.get_wsgi_response(environ)
    fields = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in headers
    ]
    send(
        {
            "type": "http.response.start",
            "status": int(status.split(" ", 1)[0]),
            "headers": fields,
        }
    )
    try:
        if response.is_sequence:
            send(_body(b"".join(body), more=False))
            return
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
