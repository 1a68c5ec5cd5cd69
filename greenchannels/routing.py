"""
Routes: which consumer takes a request, and the paths they match.

A routing is a list of routes, tried in order. ``Router`` flattens includes,
compiles patterns, and is itself a GSGI consumer. It sees neither bytes nor
sockets.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, get_args
from uuid import UUID

from .errors import ConfigurationError
from .event_sockets import socket_of
from .hosting.files import Folder
from .hosting.views import ViewConsumer
from .hosting.wsgi import WSGIHost
from .options import Deflate, Limits, check_deflate, check_limits
from .security.origin import check_pattern
from .types import (
    Consumer,
    Lifespan,
    Middleware,
    Receive,
    Scope,
    Send,
    SlowPolicy,
    SocketHandlers,
)

#: Converters of a pattern's fields: a regular expression and what it becomes.
CONVERTERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "str": (r"[^/]+", str),
    "int": (r"[0-9]{1,18}", int),
    "float": (r"[0-9]{1,18}(?:\.[0-9]{1,18})?", float),
    "uuid": (r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", UUID),
    "path": (r".+", str),
}

#: What each kind of route serves.
SERVES: dict[str, tuple[str, ...]] = {
    "websocket": ("websocket",),
    "http": ("http",),
    "static": ("http",),
    "wsgi": ("http",),
    "wsgi websocket": ("websocket",),
    "gsgi": ("http", "websocket"),
}

#: Kinds whose targets need no GSGI between them and the server.
DIRECT = ("websocket", "wsgi", "static")

#: What may happen to what a slow consumer has no room for.
SLOW_POLICIES: tuple[SlowPolicy, ...] = get_args(SlowPolicy)

#: Kinds whose paths are prefixes.
PREFIXES = ("static", "wsgi", "wsgi websocket")

_FIELD = re.compile(r"<(?:(?P<kind>[^<>:]*):)?(?P<name>[^<>:]*)>")


class Pattern:
    """
    A path with fields: ``<name>``, ``<int:id>``, ``<path:rest>`` and so on.

    Args:
        text: The pattern; begins with "/" or is empty.
        prefix: Whether more path may follow, from a "/" on.

    Raises:
        ConfigurationError: If it is not a pattern.

    """

    __slots__ = ("_convert", "_literal", "_prefix", "_regex", "text")

    def __init__(self, text: str, *, prefix: bool = False) -> None:
        self.text = text
        self._convert: dict[str, Callable[[str], Any]] = {}
        regex, end = "", 0
        for match in _FIELD.finditer(text):
            regex += re.escape(text[end : match.start()]) + self._field(match)
            end = match.end()
        rest = text[end:]
        if "<" in rest or ">" in rest:
            raise ConfigurationError(f"a field is not closed in the path {text!r}")
        regex += re.escape(rest)
        if prefix:
            regex = regex.removesuffix("/") + r"(?P<_rest>(?:/.*)?)"
        self._regex = re.compile(regex, re.DOTALL)
        #: The path itself, where there is nothing to find in it.
        self._literal = None if prefix or self._convert else text
        self._prefix: str | None = None
        if prefix and not self._convert:
            self._prefix = text.removesuffix("/")

    def _field(self, match: re.Match[str]) -> str:
        kind, name = match["kind"] or "str", match["name"]
        if kind not in CONVERTERS:
            known = ", ".join(CONVERTERS)
            raise ConfigurationError(
                f"unknown converter {kind!r} in the path {self.text!r}:"
                f" known are {known}"
            )
        if not name.isidentifier() or name.startswith("_") or name in self._convert:
            raise ConfigurationError(
                f"{name!r} cannot name a field, or not twice, in {self.text!r}"
            )
        regex, self._convert[name] = CONVERTERS[kind]
        return f"(?P<{name}>{regex})"

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of its fields."""
        return tuple(self._convert)

    def match(self, path: str) -> tuple[dict[str, Any], str] | None:
        """Return the fields, converted, and the rest of a prefix's path."""
        if self._literal is not None:
            return ({}, "") if path == self._literal else None
        if self._prefix == "" and path.startswith("/"):
            return {}, path
        if self._prefix is not None:
            rest = path[len(self._prefix) :]
            found = path.startswith(self._prefix) and rest[:1] in ("", "/")
            return ({}, rest) if found else None
        match = self._regex.fullmatch(path)
        if match is None:
            return None
        values = match.groupdict()
        rest = values.pop("_rest", "")
        return {name: self._convert[name](text) for name, text in values.items()}, rest


@dataclass(frozen=True, slots=True)
class Route:
    """
    One line of a routing. Made by ``websocket``, ``http`` and their like.

    Attributes:
        kind: "websocket", "http", "static", "wsgi", "wsgi websocket" or "gsgi".
        path: The pattern as written.
        target: What the user gave: a function, a view, a folder, a consumer.
        consumer: The target as a GSGI consumer, middleware included.
        middleware: What stands around the target, outermost first.
        methods: HTTP methods it takes; empty for all.

    """

    kind: str
    path: str
    target: Any
    consumer: Consumer = field(repr=False)
    middleware: tuple[Middleware, ...] = ()
    methods: tuple[str, ...] = ()
    slow: SlowPolicy = "close"
    announce_drops: bool = False
    limits: Limits | None = None
    origins: tuple[str, ...] | None = None
    subprotocols: tuple[str, ...] = ()
    #: How messages are compressed; ``False``: they are not, ``None``: as the server's.
    deflate: Deflate | Literal[False] | None = None
    #: Makes the consumer object of each socket, for a class-based consumer.
    handlers: Callable[[], SocketHandlers] | None = None

    #: Whether the target can be given the server's own object, without GSGI.
    direct: bool = field(init=False)

    def __post_init__(self) -> None:
        """Note what is asked for at each request."""
        direct = self.kind in DIRECT and not self.middleware
        object.__setattr__(self, "direct", direct)


@dataclass(frozen=True, slots=True)
class Include:
    """A list of routes under a prefix."""

    prefix: str
    routes: tuple[Any, ...]
    middleware: tuple[Middleware, ...] = ()


@dataclass(frozen=True, slots=True)
class LifespanRoute:
    """A context manager around a worker's life."""

    enter: Lifespan


@dataclass(slots=True)
class Match:
    """
    A route that takes a request, and what its pattern found.

    Not frozen, only because that costs a microsecond a request.
    """

    route: Route
    params: dict[str, Any]
    #: Path behind a prefix.
    rest: str = ""
    #: The open file that a static route has for it.
    file: Any = None


@dataclass(frozen=True, slots=True)
class NoMatch:
    """Nothing takes the request: 404, or 405 with the methods that would."""

    status: int = 404
    allow: tuple[str, ...] = ()


def websocket(
    path: str,
    function: Callable[..., Any],
    *,
    slow: SlowPolicy = "close",
    announce_drops: bool = False,
    limits: Limits | None = None,
    origins: Iterable[str] | None = None,
    subprotocols: Iterable[str] = (),
    deflate: Deflate | bool | None = None,
    middleware: Iterable[Middleware] = (),
) -> Route:
    """
    Serve WebSockets at ``path`` by ``function(socket, **fields)``.

    Args:
        path: A pattern, as "/chat/<room>".
        function: A function that blocks; it runs in a greenlet of its own for
            as long as the socket lives. Or a class-based consumer, or what its
            ``as_asgi()`` returns (see ``greenchannels.generic.websocket``).
        slow: What happens to a message of a group when more than
            ``limits.max_write_buffer`` bytes wait for the peer, or to an event when
            as many wait for the consumer as may: ``"close"`` closes with 1013,
            ``"drop"`` drops it, ``"latest"`` has it replace those of its group
            that wait. See ``docs/slow-consumers.md``.
        announce_drops: Whether the consumer gets an event "layer.dropped" when
            messages have been dropped. A class-based consumer that has a method
            ``layer_dropped`` gets it in any case.
        limits: Replaces the server's limits for these sockets.
        origins: Patterns of allowed origins, beside the server's own; ``None``
            allows the host asked for.
        subprotocols: What the function speaks, best first.
        deflate: How messages are compressed, in place of the server's: ``False``
            for not at all, ``True`` for the defaults.
        middleware: Consumers around the function, outermost first.

    Raises:
        ConfigurationError: If something of this is wrong.

    """
    application = getattr(function, "as_asgi", None)
    if isinstance(function, type) and application is not None:
        function = application()
    if not callable(function) or isinstance(function, type):
        raise ConfigurationError(f"{path}: {function!r} is not a function")
    _check_consumer(path, function)
    handlers = getattr(function, "new_handlers", None)
    _check_slow(path, slow)
    if isinstance(subprotocols, str) or isinstance(origins, str):
        raise ConfigurationError(f"{path}: subprotocols and origins are lists of str")
    route = Route(
        "websocket",
        _checked(path),
        function,
        partial(run_function, function) if handlers is None else function,
        slow=slow,
        announce_drops=_takes_drops(path, announce_drops, function),
        limits=None if limits is None else check_limits(limits),
        origins=None if origins is None else tuple(map(check_pattern, origins)),
        subprotocols=tuple(subprotocols),
        deflate=_checked_deflate(path, deflate),
        handlers=handlers,
    )
    return _wrap(route, tuple(middleware))


def http(
    path: str,
    view: Callable[..., Any],
    *,
    methods: Iterable[str] = ("GET", "HEAD"),
) -> Route:
    """
    Serve HTTP requests at ``path`` by ``view(request, **fields)``.

    The view gets a Werkzeug ``Request`` and may block. It returns whatever a
    Flask view may: str, bytes, a dict or list as JSON, a tuple with status and
    headers, a Werkzeug ``Response``, or an iterator of str or bytes.

    Args:
        path: A pattern.
        view: The function.
        methods: What it takes; others are answered with 405.

    Raises:
        ConfigurationError: If something of this is wrong.

    """
    if not callable(view):
        raise ConfigurationError(f"{path}: {view!r} is not callable")
    if hasattr(view, "as_asgi") or hasattr(view, "check_consumer"):
        raise ConfigurationError(
            f"{path}: {view!r} is a consumer of WebSockets: it needs websocket()"
        )
    _check_plain(path, view)
    if isinstance(methods, str):
        raise ConfigurationError(f"{path}: methods is a list, as ['GET', 'POST']")
    names = tuple(name.upper() for name in methods)
    return Route("http", _checked(path), view, ViewConsumer(view), methods=names)


def static(path: str, folder: str | os.PathLike[str]) -> Route:
    """
    Serve the files of ``folder`` below ``path``; passes on what it has not.

    Args:
        path: A prefix; the rest of the path names the file. A folder's
            ``index.html`` stands for the folder.
        folder: A directory; nothing outside of it is served. See
            ``docs/static.md``.

    Raises:
        ConfigurationError: If ``folder`` is no directory.

    """
    files = Folder(folder)
    return Route("static", _checked(path), files, files, methods=("GET", "HEAD"))


def wsgi(
    path: str, app: Callable[..., Any], *, websocket: bool = False
) -> Route | Include:
    """
    Serve everything below ``path`` by a WSGI application (PEP 3333).

    Each request runs in a greenlet. ``SCRIPT_NAME`` is the part of the path that
    led here, ``PATH_INFO`` the rest. See ``docs/wsgi.md``.

    Args:
        path: A prefix; "/" for all that earlier routes leave.
        app: ``app(environ, start_response)``: a Flask or Django application.
        websocket: Whether it serves WebSockets, too: it finds them in
            ``environ["wsgi.websocket"]``, as gevent-websocket has it.

    Raises:
        ConfigurationError: If ``app`` is not callable.

    """
    if not callable(app):
        raise ConfigurationError(f"{path}: {app!r} is not a WSGI application")
    _check_plain(path, app)
    host = WSGIHost(app)
    route = Route("wsgi", _checked(path), host, host)
    if not websocket:
        return route
    # Only for those that want it: it imports that package, if there is one.
    from .hosting.wsgi_websocket import WebSocketHost

    sockets = WebSocketHost(app)
    return Include("", (route, Route("wsgi websocket", path, sockets, sockets)))


def gsgi(
    path: str,
    consumer: Consumer,
    *,
    slow: SlowPolicy = "close",
    announce_drops: bool = False,
    middleware: Iterable[Middleware] = (),
    origins: Iterable[str] | None = None,
    limits: Limits | None = None,
    deflate: Deflate | bool | None = None,
) -> Route:
    """
    Serve HTTP and WebSockets at ``path`` by ``consumer(scope, receive, send)``.

    The consumer gets the lifespan scope as well; raising there means that it
    does not support it. See ``docs/gsgi.md``. ``slow`` and ``announce_drops`` are
    those of ``websocket``.
    """
    if not callable(consumer):
        raise ConfigurationError(f"{path}: {consumer!r} is not callable")
    _check_consumer(path, consumer)
    _check_slow(path, slow)
    route = Route(
        "gsgi",
        _checked(path),
        consumer,
        consumer,
        slow=slow,
        announce_drops=_takes_drops(path, announce_drops, consumer),
        limits=None if limits is None else check_limits(limits),
        origins=None if origins is None else tuple(map(check_pattern, origins)),
        deflate=_checked_deflate(path, deflate),
    )
    return _wrap(route, tuple(middleware))


def include(
    prefix: str, routes: Sequence[Any], middleware: Iterable[Middleware] = ()
) -> Include:
    """
    Put ``routes`` under ``prefix``, with ``middleware`` around each of them.

    Raises:
        ConfigurationError: If ``routes`` is not a list of routes.

    """
    if not isinstance(routes, list | tuple):
        raise ConfigurationError(f"{prefix}: {routes!r} is not a list of routes")
    return Include(_checked(prefix, empty=True), tuple(routes), tuple(middleware))


def lifespan(enter: Lifespan) -> LifespanRoute:
    """
    Enter the context manager ``enter()`` before a worker accepts.

    It is left after the worker's drain. An exception on entering ends the
    worker before it served anything.
    """
    if not callable(enter):
        raise ConfigurationError(f"{enter!r} is not callable")
    return LifespanRoute(enter)


def run_function(
    function: Callable[..., Any], scope: Scope, receive: Receive, send: Send
) -> None:
    """Run a function consumer behind GSGI: directly if nothing stands between."""
    socket = socket_of(scope, receive, send, "a function consumer")
    function(socket, **socket.params)
    # The server ends the socket: once its children have ended.


def _takes_drops(path: str, announce: bool, consumer: Any) -> bool:
    """Say whether a consumer is told of drops: if asked for, or if it handles that."""
    if not isinstance(announce, bool):
        raise ConfigurationError(
            f"{path}: announce_drops is True or False, not {announce!r}"
        )
    if announce or not hasattr(consumer, "check_consumer"):
        return announce
    return bool(consumer.handles("layer.dropped"))


def _check_consumer(path: str, consumer: Any) -> None:
    """Check what can be known of a consumer before anybody connects."""
    if hasattr(consumer, "as_asgi"):
        needed = "as_asgi() of it" if isinstance(consumer, type) else "its class"
        raise ConfigurationError(f"{path}: {needed} is needed, not {consumer!r}")
    _check_plain(path, consumer)
    if hasattr(consumer, "check_consumer"):
        with _naming(path):
            consumer.check_consumer()


def _check_plain(path: str, function: Callable[..., Any]) -> None:
    """Check that calling a function runs it."""
    for each in (function, getattr(function, "__call__", None)):  # noqa: B004
        if inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each):
            raise ConfigurationError(
                f"{path}: {function!r} is async; here functions are plain and"
                f" block: leave out async and await"
            )


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Say in what is wrong which path it is about."""
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def _check_slow(path: str, slow: str) -> None:
    if slow not in SLOW_POLICIES:
        known = ", ".join(map(repr, SLOW_POLICIES))
        raise ConfigurationError(f"{path}: no policy {slow!r}: known are {known}")


def _checked(path: str, *, empty: bool = False) -> str:
    if not isinstance(path, str) or not (path.startswith("/") or (empty and not path)):
        raise ConfigurationError(f"a path begins with '/', not {path!r}")
    Pattern(path)
    return path


def _checked_deflate(
    path: str, deflate: Deflate | bool | None
) -> Deflate | Literal[False] | None:
    if deflate is None or deflate is False:
        return deflate
    with _naming(path):
        return check_deflate(Deflate() if deflate is True else deflate)


def _wrap(route: Route, middleware: tuple[Middleware, ...]) -> Route:
    """Return ``route`` with ``middleware`` around it, outermost first."""
    consumer = route.consumer
    for each in reversed(middleware):
        if not callable(each):
            raise ConfigurationError(f"{route.path}: {each!r} is no middleware")
        consumer = each(consumer)
    return replace(route, consumer=consumer, middleware=middleware + route.middleware)


class Router:
    """
    A GSGI consumer that gives each request to the first route that takes it.

    Args:
        routes: What ``websocket``, ``http``, ``include`` and their like return;
            or one GSGI consumer for everything.

    Raises:
        ConfigurationError: If ``routes`` is not a routing.

    """

    def __init__(self, routes: Any) -> None:
        self.routes: list[Route] = []
        self.lifespans: list[LifespanRoute] = []
        #: What may serve each kind of request, in order.
        self._candidates: dict[str, list[tuple[Route, Pattern]]] = {}
        if callable(routes):
            routes = [gsgi("/<path:_all>".replace("_all", "all"), routes)]
            self._catch_all = True
        else:
            self._catch_all = False
        if not isinstance(routes, list | tuple):
            raise ConfigurationError(
                f"a routing is a list of routes, not {type(routes).__name__}"
            )
        self._add(routes, "", ())

    def _add(
        self, routes: Iterable[Any], prefix: str, middleware: tuple[Middleware, ...]
    ) -> None:
        for route in routes:
            if isinstance(route, Include):
                self._add(
                    route.routes,
                    prefix.removesuffix("/") + route.prefix,
                    middleware + route.middleware,
                )
            elif isinstance(route, Route):
                whole = prefix.removesuffix("/") + route.path
                self._add_route(_wrap(replace(route, path=whole), middleware))
            elif isinstance(route, LifespanRoute):
                self.lifespans.append(route)
            else:
                raise ConfigurationError(f"not a route: {route!r}")

    def _add_route(self, route: Route) -> None:
        pattern = Pattern(route.path, prefix=route.kind in PREFIXES)
        # Middleware may hand on other fields than those of the path.
        if hasattr(route.target, "check_consumer") and not route.middleware:
            with _naming(route.path):
                route.target.check_fields(() if self._catch_all else pattern.fields)
        self.routes.append(route)
        for kind in SERVES[route.kind]:
            self._candidates.setdefault(kind, []).append((route, pattern))

    def find(self, kind: str, method: str, path: str) -> Match | NoMatch:
        """
        Return the first route that takes the request.

        Args:
            kind: "http" or "websocket".
            method: Of the request; ignored for "websocket".
            path: Percent-decoded.

        """
        if self._catch_all:
            return Match(self.routes[0], {})
        allow: list[str] = []
        for route, pattern in self._candidates.get(kind, ()):
            found = pattern.match(path)
            if found is None:
                continue
            params, rest = found
            file = route.target.find(rest) if route.kind == "static" else None
            if route.kind == "static" and file is None:
                continue
            if route.methods and method not in route.methods:
                allow += (name for name in route.methods if name not in allow)
                continue
            return Match(route, params, rest, file)
        return NoMatch(405, tuple(allow)) if allow else NoMatch()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] not in ("http", "websocket"):
            raise ValueError(f"a routing cannot serve {scope['type']!r}")
        path = path_below(scope["path"], scope.get("root_path", ""))
        match = self.find(scope["type"], scope.get("method", "GET"), path)
        if isinstance(match, NoMatch):
            refuse(scope, send, match)
        else:
            match.route.consumer(scope_of(scope, match), receive, send)


def path_below(path: str, root_path: str) -> str:
    """Return what follows ``root_path`` in a path, or the path if nothing does."""
    if root_path and (path + "/").startswith(root_path + "/"):
        return path[len(root_path) :] or "/"
    return path


def scope_of(scope: Scope, match: Match) -> Scope:
    """Return ``scope`` with what the route's pattern found."""
    url_route: dict[str, Any] = {"args": (), "kwargs": match.params}
    if match.route.kind == "static":
        url_route["kwargs"] = {"path": match.rest}
        url_route["file"] = match.file
    elif match.route.kind in ("wsgi", "wsgi websocket"):
        root_path = scope["path"].removesuffix(match.rest)
        return {**scope, "url_route": url_route, "root_path": root_path}
    return {**scope, "url_route": url_route}


def refuse(scope: Scope, send: Send, no: NoMatch) -> None:
    """Answer a request that nothing takes."""
    text = b"Not Found\n" if no.status == 404 else b"Method Not Allowed\n"
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    if no.allow:
        headers.append((b"allow", ", ".join(no.allow).encode()))
    kind = "http" if scope["type"] == "http" else "websocket.http"
    send({"type": f"{kind}.response.start", "status": no.status, "headers": headers})
    send({"type": f"{kind}.response.body", "body": text})
