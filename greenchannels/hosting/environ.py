"""The environ of a request (PEP 3333), for WSGI applications and for views."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable
from typing import Any

from ..types import Scope

#: Fields whose lines are joined by something else than a comma.
_JOINTS = {"HTTP_COOKIE": "; "}


@functools.lru_cache(maxsize=512)
def environ_key(name: bytes) -> str:
    """
    Return the key of a header field, nothing for one that has none.

    A name with an underscore would share its key with another name, and so
    pass for a field that a proxy has set: it is left out.

    Args:
        name: In lower case.

    """
    if b"_" in name:
        return ""
    key = name.decode("latin-1").upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key


def make_environ(
    *,
    method: str,
    script_name: str,
    path_info: str,
    query_string: bytes,
    http_version: str,
    scheme: str,
    server: tuple[str, int | None],
    client: tuple[str, int] | None,
    headers: Iterable[tuple[bytes, bytes]],
    body: Any,
    multiprocess: bool = False,
) -> dict[str, Any]:
    """
    Return an environ.

    Args:
        method: As sent.
        script_name: The part of the path that led to the application.
        path_info: The rest of it; both percent-decoded.
        query_string: As sent.
        http_version: "1.0" or "1.1".
        scheme: "http" or "https".
        server: Name and port.
        client: Address and port; ``None`` if it has none.
        headers: Names in lower case, and values.
        body: What is read as ``wsgi.input``; it ends where the body does.
        multiprocess: Whether other processes serve the same application.

    """
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": script_name,
        "PATH_INFO": path_info,
        "QUERY_STRING": query_string.decode("latin-1"),
        "SERVER_PROTOCOL": "HTTP/" + http_version,
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1] or (443 if scheme == "https" else 80)),
        "REMOTE_ADDR": "",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        "wsgi.input": body,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": multiprocess,
        "wsgi.run_once": False,
    }
    if not path_info.isascii() or not script_name.isascii():
        environ["SCRIPT_NAME"] = _as_latin_1(script_name)
        environ["PATH_INFO"] = _as_latin_1(path_info)
    if client is not None:
        environ["REMOTE_ADDR"] = client[0]
        environ["REMOTE_PORT"] = str(client[1])
    for name, value in headers:
        key = environ_key(name) if len(name) < 64 else environ_key.__wrapped__(name)
        text = value.decode("latin-1")
        if key in environ:
            environ[key] += _JOINTS.get(key, ",") + text
        elif key:
            environ[key] = text
    if "HTTP_TRANSFER_ENCODING" in environ:
        # Only then: frameworks tell a body that breaks off by Content-Length.
        environ["wsgi.input_terminated"] = True
    return environ


def environ_of(scope: Scope, body: Any) -> dict[str, Any]:
    """Return the environ of a GSGI scope of type "http" or "websocket"."""
    server = scope.get("server") or ("localhost", None)
    script_name, path = scope.get("root_path", ""), scope["path"]
    if script_name and (path + "/").startswith(script_name + "/"):
        path = path[len(script_name) :]
    scheme: str = scope["scheme"]
    told = (scope.get("extensions") or {}).get("greenchannels", {})
    environ = make_environ(
        method=scope.get("method", "GET"),
        script_name=script_name,
        path_info=path,
        query_string=scope["query_string"],
        http_version=scope["http_version"],
        scheme={"ws": "http", "wss": "https"}.get(scheme, scheme),
        server=(server[0], server[1]),
        client=scope.get("client"),
        headers=scope["headers"],
        body=body,
        multiprocess=told.get("multiprocess", False),
    )
    environ["greenchannels.scope"] = scope
    return environ


def _as_latin_1(path: str) -> str:
    """Return a path as WSGI has it: bytes, each as a character."""
    return path.encode().decode("latin-1")
