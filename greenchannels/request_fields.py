"""
What a handshake's request said, for those who have its scope.

Nothing here is built before it is asked for, and nothing of it is kept: a
connected socket is idle most of its life.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .types import Scope

if TYPE_CHECKING:
    from werkzeug.datastructures import Headers, MultiDict


class RequestFields:
    """The fields of ``scope``, as they are convenient."""

    __slots__ = ()

    @property
    def scope(self) -> Scope:
        """The GSGI scope: a dict as in ASGI 3."""
        raise NotImplementedError

    @property
    def path(self) -> str:
        """The path asked for, percent-decoded."""
        return str(self.scope["path"])

    @property
    def query(self) -> MultiDict[str, str]:
        """The query's fields; ``get`` returns the first, ``getlist`` all."""
        from urllib.parse import parse_qsl

        from werkzeug.datastructures import MultiDict

        text = self.scope["query_string"].decode("utf-8", "replace")
        return MultiDict(parse_qsl(text, keep_blank_values=True))

    @property
    def headers(self) -> Headers:
        """The request's fields; names in any case."""
        from werkzeug.datastructures import Headers

        return Headers(
            [
                (k.decode("latin-1"), v.decode("latin-1"))
                for k, v in self.scope["headers"]
            ]
        )

    @property
    def cookies(self) -> Mapping[str, str]:
        """The request's cookies."""
        from werkzeug.http import parse_cookie

        return parse_cookie("; ".join(self.headers.getlist("cookie")))

    @property
    def client(self) -> tuple[str, int] | None:
        """Address and port of the peer, through trusted proxies."""
        client: tuple[str, int] | None = self.scope.get("client")
        return client

    @property
    def subprotocols(self) -> list[str]:
        """The subprotocols that the peer offers, in its order."""
        return list(self.scope.get("subprotocols", ()))

    @property
    def session(self) -> Any:
        """The session that a middleware put into the scope, or ``None``."""
        return self.scope.get("session")
