"""Class-based consumers that can never work are refused when routes are made."""

from types import MappingProxyType

import pytest

from greenchannels import (
    ConfigurationError,
    Router,
    gsgi,
    http,
    include,
    websocket,
    wsgi,
)
from greenchannels.generic.websocket import (
    JsonWebsocketConsumer,
    SyncConsumer,
    WebsocketConsumer,
    WebsocketDemultiplexer,
)


class Chat(WebsocketConsumer):
    """Takes a keyword."""

    def __init__(self, word="hello"):
        self.word = word


class Json(JsonWebsocketConsumer):
    """A stream's."""


class Needing(WebsocketConsumer):
    """Cannot be made without a keyword."""

    def __init__(self, word):
        self.word = word


class Foreign:
    """Channels' own consumers give such applications."""

    @classmethod
    def as_asgi(cls):
        return coroutine


class Callable:
    """Called, it gives a coroutine."""

    async def __call__(self, *args):
        """Never run."""


async def coroutine(*args):
    """Never run."""


async def generator(*args):
    yield args


def chat(**attributes):
    """Return a consumer class with these attributes."""
    return type("Chat", (WebsocketConsumer,), attributes)


def streams(consumers):
    """Return a demultiplexer class with these consumers."""
    return type("Site", (WebsocketDemultiplexer,), {"consumers": consumers})


def raw(**attributes):
    """Return a consumer class that speaks events."""
    return type("Raw", (SyncConsumer,), attributes)


BAD_CLASSES = [
    *(
        (chat(**{name: coroutine}), rf"Chat\.{name} is async; here handlers are plain")
        for name in ("connect", "receive", "disconnect", "chat_message", "dispatch")
    ),
    (chat(note=generator), r"Chat\.note is async"),
    (chat(note=staticmethod(coroutine)), r"Chat\.note is async"),
    (chat(note=classmethod(coroutine)), r"Chat\.note is async"),
    (type("Heir", (chat(connect=coroutine),), {}), r"Heir\.connect is async"),
    (raw(websocket_connect=coroutine), r"Raw\.websocket_connect is async"),
    *(
        (chat(max_concurrency=most), "max_concurrency is a whole number from 1 on")
        for most in (0, -3, "4", None, 1.0, True)
    ),
    (raw(max_concurrency=0), "max_concurrency is a whole number"),
    (chat(groups="name"), "groups is a list of names, not 'name'"),
    (chat(groups=b"name"), "groups is a list of names"),
    (chat(groups=5), "groups is a list of names, not 5"),
    (chat(groups=iter(["a"])), "groups is a list of names"),
    (chat(groups=["all", "a.{"]), r"groups has 'a\.{': "),
    (chat(groups=["a.}"]), r"groups has 'a\.}': "),
    (chat(groups=["a.{}"]), "a field needs the name"),
    (chat(groups=["a.{0}"]), "a field needs the name"),
    (chat(groups=["a.{room:{}}"]), "a field needs the name"),
    (chat(groups=["a\x07b"]), "not a name for a group"),
    (chat(groups=[""]), "not a name for a group"),
    (Chat.as_asgi(nosuch=1), "Chat cannot be made: .*nosuch"),
    (Needing, "Needing cannot be made: .*word"),
    (Needing.as_asgi(), "Needing cannot be made: .*word"),
    (streams([Json]), "Site.consumers is a dict"),
    (streams(None), "Site.consumers is a dict"),
    (streams({1: Json}), "a stream's name is a str, not 1"),
    *(
        (streams({"a": found}), "the stream 'a' needs a JsonWebsocketConsumer")
        for found in (WebsocketConsumer, Chat.as_asgi(), "x", int, Json(), None)
    ),
    (
        streams({"a": type("Json", (Json,), {"connect": coroutine})}),
        r"the stream 'a': Json\.connect is async",
    ),
    (streams({"a": Json.as_asgi(nosuch=1)}), "the stream 'a': Json cannot be made"),
    (type("Site", (WebsocketDemultiplexer,), {"groups": "name"}), "list of names"),
]


@pytest.mark.parametrize(("consumer", "says"), BAD_CLASSES)
def test_a_class_that_cannot_work_is_refused(consumer, says):
    """By each kind of route, with the path; behind middleware, too."""
    with pytest.raises(ConfigurationError, match=f"^/chat: .*{says}"):
        websocket("/chat", consumer)
    with pytest.raises(ConfigurationError, match=f"^/chat: .*{says}"):
        websocket("/chat", consumer, middleware=[lambda inner: inner])
    application = consumer.as_asgi() if isinstance(consumer, type) else consumer
    with pytest.raises(ConfigurationError, match=f"^/chat: .*{says}"):
        gsgi("/chat", application)


@pytest.mark.parametrize(
    "consumer",
    [
        chat(_helper=coroutine),
        chat(max_concurrency=100),
        chat(max_concurrency=property(lambda self: 2)),
        chat(groups=None),
        chat(groups=()),
        chat(groups={"a", "b"}),
        chat(groups=["a{{b}}"]),
        chat(groups=property(lambda self: [self.params["x"]])),
        Chat,
        Chat.as_asgi(word="bye"),
        Needing.as_asgi(word="hello"),
        streams({}),
        streams(MappingProxyType({"a": Json, "b": Json.as_asgi()})),
        streams({"a": streams({"b": Json})}),
        streams(property(lambda self: {})),
        raw(),
        raw(websocket_connect=lambda self, event: None),
    ],
)
def test_a_class_that_can_work_is_taken(consumer):
    """Also what is computed for each object, which nobody can know."""
    Router([websocket("/", consumer)])


def test_what_a_constructor_sets_is_not_looked_at():
    """The attribute of the class is not that of its objects."""

    class Late(WebsocketDemultiplexer):
        groups = ["chat.{room}", "{"]
        max_concurrency = None
        consumers = None

        def __init__(self):
            self.groups = ["all"]
            self.max_concurrency = 2
            self.consumers = {}
            super().__init__()

    Router([websocket("/", Late), websocket("/heir", type("Heir", (Late,), {}))])


# Functions and objects.


@pytest.mark.parametrize("function", [coroutine, generator, Callable()])
@pytest.mark.parametrize("make", [websocket, gsgi, http, wsgi])
def test_async_functions_are_refused(make, function):
    """By each kind of route."""
    with pytest.raises(ConfigurationError, match="^/a: .*is async.*leave out async"):
        make("/a", function)


def test_an_application_that_is_async_is_refused():
    """What as_asgi() of another framework gives."""
    with pytest.raises(ConfigurationError, match="^/a: .*is async"):
        websocket("/a", Foreign)


@pytest.mark.parametrize("make", [websocket, gsgi])
@pytest.mark.parametrize("consumer", [Chat(), Json(), raw()()])
def test_an_object_of_a_consumer_class_is_refused(make, consumer):
    """Each connection has one of its own."""
    with pytest.raises(ConfigurationError, match="^/a: its class is needed, not <"):
        make("/a", consumer)


def test_a_class_where_an_application_is_needed_is_refused():
    """The consumer of gsgi is called for each connection."""
    with pytest.raises(ConfigurationError, match=r"^/a: as_asgi\(\) of it is needed"):
        gsgi("/a", Chat)
    with pytest.raises(ConfigurationError, match=r"as_asgi\(\) of it is needed"):
        Router(Chat)


@pytest.mark.parametrize("view", [Chat, Chat(), Chat.as_asgi()])
def test_a_consumer_is_no_view(view):
    """It says what serves it."""
    with pytest.raises(ConfigurationError, match=r"^/a: .*it needs websocket\(\)"):
        http("/a", view)


# The fields of groups.

IN_ROOM = chat(groups=["all", "chat.{room}.{team.hex:>{width}}"])


@pytest.mark.parametrize(
    "routing",
    [
        [websocket("/<room>/<uuid:team>/<int:width>", IN_ROOM)],
        [include("/<room>", [websocket("/<uuid:team>/<int:width>", IN_ROOM)])],
        [
            include(
                "/<int:width>",
                [include("/<room>", [gsgi("/<team>", IN_ROOM.as_asgi())])],
            )
        ],
        [websocket("/", streams({"a": type("A", (Json,), {"groups": ["all"]})}))],
    ],
)
def test_groups_may_name_the_fields_of_the_whole_path(routing):
    """Those of prefixes, too."""
    Router(routing)


@pytest.mark.parametrize(
    ("routing", "says"),
    [
        (
            [websocket("/<room>/<int:width>", IN_ROOM)],
            "^/<room>/<int:width>: Chat.groups has .* no field <team>",
        ),
        (
            [include("/<team>", [websocket("/<room>", IN_ROOM)])],
            "^/<team>/<room>: .* no field <width>",
        ),
        ([gsgi("/<room>", IN_ROOM.as_asgi())], "^/<room>: .* no field <team>"),
        (chat(groups=["{all}"]).as_asgi(), "no field <all>"),
        (
            [websocket("/", streams({"a": type("A", (Json,), {"groups": ["{x}"]})}))],
            "^/: the stream 'a': A.groups has '{x}', but the path has no field <x>",
        ),
    ],
)
def test_groups_with_fields_that_the_path_has_not_are_refused(routing, says):
    """When the routing is put together: prefixes are known then."""
    with pytest.raises(ConfigurationError, match=says):
        Router(routing)


def test_middleware_may_add_the_fields_of_groups(serve):
    """So they are not looked for in the path, wherever it stands."""

    def adding(inner):
        def consumer(scope, receive, send):
            inner({**scope, "url_route": {"kwargs": {"room": "tea"}}}, receive, send)

        return consumer

    class InRoom(WebsocketConsumer):
        groups = ["chat.{room}"]

        def connect(self):
            self.accept()
            self.send(",".join(sorted(self.socket.member.memberships)))

    running = serve(
        [
            websocket("/own", InRoom, middleware=[adding]),
            include("/in", [websocket("/cluded", InRoom)], middleware=[adding]),
        ]
    )
    for path in ("/own", "/in/cluded"):
        assert running.open(path).hear() == "g:chat.tea"


# Announcements.


@pytest.mark.parametrize("make", [websocket, gsgi])
@pytest.mark.parametrize("value", [5, "yes", None, 0])
def test_announce_drops_is_true_or_false(make, value):
    """Nothing that only looks like it."""
    with pytest.raises(ConfigurationError, match="^/a: announce_drops is True or"):
        make("/a", Chat.as_asgi(), announce_drops=value)


TOLD = type("Told", (Json,), {"layer_dropped": lambda self, event: None})


@pytest.mark.parametrize(
    ("consumer", "told"),
    [
        (Json, False),
        (TOLD, True),
        (streams({"a": Json}), False),
        (streams({"a": Json, "b": TOLD}), True),
        (streams({"a": TOLD.as_asgi()}), True),
        (streams({"a": streams({"b": TOLD})}), True),
        (type("Heir", (streams({}), TOLD), {}), True),
    ],
)
def test_who_has_a_method_for_drops_is_told_of_them(consumer, told):
    """In streams, and in both kinds of route; others may ask for it."""
    assert websocket("/", consumer).announce_drops is told
    assert gsgi("/", consumer.as_asgi()).announce_drops is told
    assert gsgi("/", consumer.as_asgi(), announce_drops=True).announce_drops is True
