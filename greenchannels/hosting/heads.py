"""The head of a request that another WSGI server has read, from its environ."""

from __future__ import annotations

from typing import Any, TypeAlias
from urllib.parse import quote

Environ: TypeAlias = dict[str, Any]

#: Fields whose keys do not begin as those of the others do.
_LENGTH_AND_TYPE = ("CONTENT_LENGTH", "CONTENT_TYPE")


def head_of(environ: Environ) -> bytes:
    """Return a request's head, as far as its environ tells."""
    target = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    if not target or environ.get("SCRIPT_NAME"):
        target = quote(environ.get("PATH_INFO", "").encode("latin-1")) or "/"
        if environ.get("QUERY_STRING"):
            target += "?" + environ["QUERY_STRING"]
    method, version = environ["REQUEST_METHOD"], environ["SERVER_PROTOCOL"]
    lines = [f"{method} {target} {version}"]
    for key, value in environ.items():
        if key.startswith("HTTP_"):
            name = key[5:]
        elif key in _LENGTH_AND_TYPE and value:
            name = key
        else:
            continue
        text = str(value).replace("\r", " ").replace("\n", " ")
        lines.append(f"{name.replace('_', '-').lower()}: {text}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


def as_answered(head: bytes, subprotocol: str | None) -> bytes:
    """Return the head that would have been answered as this one has been."""
    names = (b"sec-websocket-extensions:", b"sec-websocket-protocol:")
    lines = [n for n in head.split(b"\r\n") if not n.startswith(names)]
    if subprotocol is not None:
        lines.insert(1, b"sec-websocket-protocol: " + subprotocol.encode("latin-1"))
    return b"\r\n".join(lines)


def address_of(environ: Environ) -> tuple[str, int] | None:
    """Return the client's address and port, if it has one."""
    client, port = environ.get("REMOTE_ADDR"), str(environ.get("REMOTE_PORT") or "")
    return (client, int(port) if port.isdecimal() else 0) if client else None


def scope_of(environ: Environ) -> dict[str, Any] | None:
    """Return what the scope has of the other server, beside the request."""
    scope: dict[str, Any] = {}
    if environ.get("wsgi.url_scheme") == "https":
        scope["scheme"] = "wss"
    if environ.get("SCRIPT_NAME"):
        root_path, below = (
            environ.get(key, "").encode("latin-1").decode("utf-8", "replace")
            for key in ("SCRIPT_NAME", "PATH_INFO")
        )
        path = root_path + (below or "/")
        scope.update(root_path=root_path, path=path, raw_path=quote(path).encode())
    return scope or None
