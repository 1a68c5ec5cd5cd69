"""Routes: patterns, order, includes, and mistakes that are explained."""

from uuid import UUID

import pytest

from greenchannels import (
    ConfigurationError,
    Limits,
    Router,
    gsgi,
    http,
    include,
    lifespan,
    static,
    websocket,
)
from greenchannels.routing import CONVERTERS, Match, NoMatch, Pattern
from tests.servers.harness import no_leaks, request, serve

__all__ = ["no_leaks", "serve"]

ID = "8c0ef3a5-1b5c-4a0e-9d4f-2f9a4f3a0b11"


def view(request, **fields):
    """Return what the pattern found."""
    return {name: [type(v).__name__, str(v)] for name, v in fields.items()}


def consumer(socket, **fields):
    """A consumer that is never called here."""


def other(socket, **fields):
    """Another."""


@pytest.mark.parametrize(
    "pattern, path, found",
    [
        ("/", "/", {}),
        ("/a", "/a", {}),
        ("/a", "/a/", None),
        ("/a", "/ab", None),
        ("/a", "/A", None),
        ("/a/", "/a", None),
        ("/a.b", "/axb", None),
        ("/a.b", "/a.b", {}),
        ("/(a|b)*", "/(a|b)*", {}),
        ("/<x>", "/hello", {"x": "hello"}),
        ("/<x>", "/", None),
        ("/<x>", "/a/b", None),
        ("/<x>", "/a\nb", {"x": "a\nb"}),
        ("/<x>", "/hello\n", {"x": "hello\n"}),
        ("/<str:x>", "/ä 1", {"x": "ä 1"}),
        ("/<x>-<y>", "/a-b", {"x": "a", "y": "b"}),
        ("/<int:n>", "/007", {"n": 7}),
        ("/<int:n>", "/-1", None),
        ("/<int:n>", "/1.0", None),
        ("/<int:n>", "/٣", None),
        ("/<int:n>", "/" + "9" * 18, {"n": 10**18 - 1}),
        ("/<int:n>", "/" + "9" * 5000, None),
        ("/<float:x>", "/1.5", {"x": 1.5}),
        ("/<float:x>", "/2", {"x": 2.0}),
        ("/<float:x>", "/nan", None),
        ("/<float:x>", "/1e5", None),
        ("/<uuid:i>", f"/{ID}", {"i": UUID(ID)}),
        ("/<uuid:i>", f"/{ID.upper()}", {"i": UUID(ID)}),
        ("/<uuid:i>", "/" + ID.replace("-", ""), None),
        ("/<path:p>", "/a/b/c", {"p": "a/b/c"}),
        ("/<path:p>", "/", None),
        ("/x/<path:p>/y", "/x/a/b/y", {"p": "a/b"}),
        ("/<a>/<int:b>/<path:c>", "/q/3/r/s", {"a": "q", "b": 3, "c": "r/s"}),
    ],
)
def test_a_pattern_matches_a_whole_path(pattern, path, found):
    """And its fields are what their converters make of them."""
    matched = Pattern(pattern).match(path)
    assert (None if matched is None else matched[0]) == found
    if found:
        assert [type(v) for v in matched[0].values()] == [
            type(v) for v in found.values()
        ]


@pytest.mark.parametrize(
    "path, says",
    [
        ("a", "begins with '/'"),
        ("", "begins with '/'"),
        (None, "begins with '/'"),
        ("/<", "not closed"),
        ("/<a", "not closed"),
        ("/a>", "not closed"),
        ("/<integer:a>", "unknown converter 'integer'.*known are"),
        ("/<a b>", "cannot name a field"),
        ("/<>", "cannot name a field"),
        ("/<1>", "cannot name a field"),
        ("/<_rest>", "cannot name a field"),
        ("/<a>/<a>", "not twice"),
    ],
)
@pytest.mark.parametrize("make", [websocket, http, gsgi])
def test_a_path_that_is_no_pattern_is_explained(make, path, says):
    """ConfigurationError, when the routes are written."""
    with pytest.raises(ConfigurationError, match=says):
        make(path, consumer)


def test_the_first_route_that_takes_it_gets_it():
    """In list order."""
    router = Router(
        [
            http("/<x>", view),
            http("/a", view),
            websocket("/a", consumer),
            websocket("/<x>", other),
        ]
    )
    assert router.find("http", "GET", "/a").route.path == "/<x>"
    assert router.find("websocket", "GET", "/a").route.target is consumer
    assert router.find("websocket", "GET", "/b") == Match(router.routes[3], {"x": "b"})


def test_405_only_when_no_later_route_takes_path_and_method():
    """With all the methods that would do."""
    router = Router(
        [
            http("/a", view),
            http("/a", view, methods=["PUT"]),
            http("/<x>", view, methods=["delete"]),
            websocket("/w", consumer),
        ]
    )
    assert router.find("http", "PUT", "/a").route.methods == ("PUT",)
    assert router.find("http", "DELETE", "/a").route.path == "/<x>"
    assert router.find("http", "POST", "/a") == NoMatch(
        405, ("GET", "HEAD", "PUT", "DELETE")
    )
    assert router.find("http", "POST", "/a/b") == NoMatch(404)
    assert router.find("http", "GET", "/w") == NoMatch(405, ("DELETE",))
    assert router.find("websocket", "GET", "/a") == NoMatch(404)


def test_405_says_what_is_allowed(serve):
    """In the Allow field."""
    running = serve([http("/a", view), http("/a", view, methods=["PUT"])])
    answer = running.get("/a", "POST")
    assert answer.status == 405
    assert answer["allow"] == "GET, HEAD, PUT"
    assert running.get("/b", "POST").status == 404


def test_fields_reach_views_and_consumers(serve):
    """As arguments, percent-decoded and converted."""
    seen = []

    def consumer(socket, **fields):
        seen.append(fields)

    routing = [
        http("/v/<a>/<int:b>/<uuid:c>", view),
        websocket("/w/<a>/<float:b>/<path:c>", consumer),
    ]
    running = serve(routing)
    answer = running.get(f"/v/%C3%A4%20b/12/{ID}")
    assert answer.body.decode() == (
        f'{{"a":["str","ä b"],"b":["int","12"],"c":["UUID","{ID}"]}}'
    )
    assert running.refused("/w/x/2.5/y/z").status == 403
    assert seen == [{"a": "x", "b": 2.5, "c": "y/z"}]


def test_a_percent_encoded_slash_is_a_slash(serve):
    """As everywhere: the path is decoded, then matched."""
    running = serve([http("/<x>", view), http("/<x>/<y>", lambda r, x, y: "two")])
    assert running.get("/a%2Fb").body == b"two"


def test_include_puts_routes_under_a_prefix(serve):
    """With fields in the prefix, nested, with and without slashes."""
    inner = [http("/", view), http("/x/<b>", view), websocket("/w", consumer)]
    routing = [
        include("/api", inner),
        include("/team/<int:team>/", [include("/deep/", inner)]),
        include("", [http("/top", view)]),
        include("/", [http("/top2", view)]),
    ]
    running = serve(routing)
    assert running.get("/api/").status == 200
    assert running.get("/api").status == 404
    assert running.get("/api/x/1").body == b'{"b":["str","1"]}'
    answer = running.get("/team/7/deep/x/1")
    assert answer.body == b'{"team":["int","7"],"b":["str","1"]}'
    assert running.refused("/team/7/deep/w").status == 403
    assert running.refused("/team/x/deep/w").status == 404
    assert running.get("/top").status == running.get("/top2").status == 200


def test_a_field_of_the_prefix_may_not_come_again(serve):
    """Found when the routing is put together."""
    with pytest.raises(ConfigurationError, match="not twice"):
        Router([include("/<a>", [http("/<a>", view)])])


def test_middleware_stands_around_each_route_outermost_first(serve):
    """Of includes, then of the route itself; for requests as for sockets."""
    order = []

    def named(name):
        def middleware(inner):
            def consumer(scope, receive, send):
                order.append(name)
                inner(scope, receive, send)

            return consumer

        return middleware

    routing = [
        include(
            "/a",
            [
                include(
                    "/b",
                    [
                        websocket("/w", consumer, middleware=[named("5"), named("6")]),
                        http("/v", view),
                        gsgi(
                            "/g", lambda *a: order.append("g"), middleware=[named("5")]
                        ),
                    ],
                    [named("3"), named("4")],
                )
            ],
            middleware=[named("1"), named("2")],
        ),
        http("/outside", view),
    ]
    running = serve(routing)
    order.clear()
    assert running.refused("/a/b/w").status == 403
    assert order == [*"123456"]
    order.clear()
    assert running.get("/a/b/v").status == 200
    assert order == [*"1234"]
    order.clear()
    assert running.get("/a/b/g").status == 500
    assert order == [*"12345", "g"]
    order.clear()
    assert running.get("/outside").status == 200
    assert order == []


def test_static_passes_on_what_it_has_not(serve, tmp_path):
    """The next route gets it, also for another method or a handshake."""
    (tmp_path / "a.txt").write_text("file")
    routing = [
        static("/", str(tmp_path)),
        http("/<path:x>", lambda r, x: "view", methods=["GET", "POST"]),
        websocket("/a.txt", consumer),
    ]
    running = serve(routing)
    assert running.get("/a.txt").body == b"file"
    assert running.get("/b.txt").body == b"view"
    assert running.get("/a.txt", "POST").body == b"view"
    assert running.refused("/a.txt").status == 403
    running = serve([static("/", str(tmp_path))])
    answer = running.get("/a.txt", "POST")
    assert answer.status == 405 and answer["allow"] == "GET, HEAD"
    assert running.get("/b.txt", "POST").status == 404


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: websocket("/", 5), "not a function"),
        (lambda: websocket("/", None), "not a function"),
        (lambda: websocket("/", consumer, slow="explode"), "policy 'explode'"),
        (lambda: websocket("/", consumer, subprotocols="chat"), "lists"),
        (lambda: websocket("/", consumer, origins="*"), "lists"),
        (lambda: websocket("/", consumer, origins=["http://a/b"]), "origin pattern"),
        (lambda: websocket("/", consumer, middleware=[5]), "no middleware"),
        (lambda: http("/", "page"), "not callable"),
        (lambda: http("/", view, methods="GET"), "list"),
        (lambda: static("/", "/no/such/folder"), "no such folder"),
        (lambda: gsgi("/", 5), "not callable"),
        (lambda: lifespan(5), "not callable"),
        (lambda: include("x", []), "begins with '/'"),
        (lambda: include("/x", 5), "list"),
        (lambda: Router(5), "list of routes, not int"),
        (lambda: Router("abc"), "list of routes, not str"),
        (lambda: Router([5]), "not a route: 5"),
        (lambda: Router([include("/x", [view])]), "not a route"),
        (lambda: Router([("/", view)]), "not a route"),
    ],
)
def test_a_mistake_in_a_routing_is_explained(make, says):
    """ConfigurationError, which is a ValueError, with helpful text."""
    with pytest.raises(ConfigurationError, match=says):
        make()


def test_routes_keep_what_they_were_given():
    """For those who look at a routing."""
    limits = Limits(max_message=5)
    route = websocket("/a", consumer, limits=limits, subprotocols=["x"], origins=["*"])
    assert (route.kind, route.path, route.target) == ("websocket", "/a", consumer)
    assert (route.limits, route.subprotocols, route.origins) == (limits, ("x",), ("*",))
    assert route.direct
    assert "consumer" in repr(route)
    assert set(CONVERTERS) == {"str", "int", "float", "uuid", "path"}


def test_a_router_is_a_gsgi_consumer(serve):
    """So it can stand inside another, or be called by hand."""
    inner = Router([http("/in/<x>", view), websocket("/in/w", consumer)])
    running = serve([http("/out", view), gsgi("/<path:rest>", inner)])
    assert running.get("/out").status == 200
    assert running.get("/in/1").body == b'{"x":["str","1"]}'
    assert running.get("/nowhere").status == 404
    assert running.get("/in/1", "POST").status == 405
    assert running.refused("/in/w").status == 403
    assert running.refused("/nowhere").status == 404
    sent = []
    scope = {"type": "http", "method": "GET", "path": "/nowhere"}
    inner(scope, None, sent.append)
    assert sent[0]["status"] == 404
    with pytest.raises(ValueError, match="mqtt"):
        inner({"type": "mqtt", "path": "/"}, None, None)


def test_one_consumer_can_be_the_whole_routing(serve):
    """Every path and method, and lifespans too."""

    def everything(scope, receive, send):
        if scope["type"] != "http":
            raise ValueError(scope["type"])
        send({"type": "http.response.start", "status": 200, "headers": []})
        send({"type": "http.response.body", "body": scope["path"].encode()})

    running = serve(Router(everything))
    assert running.get("/any/thing").body == b"/any/thing"
    assert running.get("/", "DELETE").body == b"/"
    client = running.client()
    client.send(request("*", "OPTIONS"))
    assert client.response().body == b"*"
    assert running.refused("/").status == 500
