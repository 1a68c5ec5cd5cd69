"""The rows of class-based consumers, compression, rates, and of slow members."""

from .contestants import Variant
from .row import Row

KIB, MIB = 1024, 2**20
APP = "greenchannels_classes:routing"
TIMED = {"warmup": 0.5, "seconds": 3}
ECHO = {"mode": "echo", "connections": 64, "size": 64, **TIMED}
ONE_BY_ONE = {**ECHO, "window": 1}
BROWSERS = {"mode": "idle", "connections": 8000, "warmup-count": 200}
BROWSERS |= {"browser": True, "sources": 8}
MEMBERS = {"mode": "broadcast", "connections": 1001, "window": 1, **TIMED}
DELIVERY = "us a delivery"

FUNCTION = Variant("function", {"path": "/echo"})
CLASS = Variant("class", {"path": "/class/echo"})

STALLED, ALL = 100, 1000
MESSAGE = 4 * KIB
STORM = {"mode": "storm", "connections": ALL - STALLED, "deaf": STALLED, "window": 64}
STORM |= {"pace": 50, "size": MESSAGE, "warmup": 0.5, "seconds": 60}
#: 640 KiB a second: the limit of a member is reached within the 3 s.
SHORT_STORM = {"pace": 40, "size": 16 * KIB, "warmup": 0.2, "seconds": 3}
#: After 100 events that wait, and what a member was sent before, nothing changes.
EVENT_STORM = {**STORM, "seconds": 20}
SHORT_EVENT_STORM = {"warmup": 0.2, "seconds": 4}
#: For a minute nobody is to be cut by anything but the policy.
PATIENCE = ("--write-timeout", "300")

#: What may wait for one member is 1 MiB (``Limits.max_write_buffer``, and
#: ``max_inbox_bytes`` of events). What groups send exists once, whoever it waits for,
#: and the same waits for all; but members fill up at different times: twice as much.
SHARED = 2 * MIB
#: A list of 256 frames for each member that stalls, and room to grow.
QUEUES = STALLED * 4 * KIB
#: What a class sends on is each member's own: 64 KiB wait before ``send`` blocks, then
#: one message more. The handler that blocks has its event, a greenlet and a stack.
OWN = STALLED * (64 * KIB + MESSAGE + MESSAGE + 16 * KIB)
#: All others send one message on before any is written.
UNDER_WAY = ALL * MESSAGE
#: Whatever else a process needs in a minute, and what its allocator keeps.
SUNDRY = 2 * MIB


def storm(name, path, load, limit, quick):
    """Return the row of a storm, over the routes of all policies below a path."""
    policies = ("close", "drop", "latest")
    return Row(
        "storm",
        name,
        path,
        load,
        limits={"": limit},
        figure="growth_bytes",
        unit="bytes",
        beside="cpu_us",
        generator="storm",
        app=APP,
        options=PATIENCE,
        servers=(),
        variants=tuple(
            Variant(policy, {"path": f"{path}/{policy}"}) for policy in policies
        ),
        quick=quick,
    )


ROWS = [
    Row(
        "classes",
        "class echo 64 B, 64 connections, 1 in flight",
        "/class/echo",
        ONE_BY_ONE,
        limits={"function": 1.25},
        app=APP,
        servers=(),
        variants=(FUNCTION, CLASS),
    ),
    Row(
        "classes",
        "class echo 64 B, 64 connections, bursts of 16",
        "/class/echo",
        {**ECHO, "window": 16},
        limits={"function": 1.25},
        app=APP,
        servers=(),
        variants=(FUNCTION, CLASS),
    ),
    Row(
        "classes",
        "JSON echo 64 B, 64 connections, 1 in flight",
        "/class/json",
        {**ONE_BY_ONE, "json": True},
        limits={"function": 1.60},
        app=APP,
        servers=(),
        variants=(FUNCTION, Variant("JSON class", {"path": "/class/json"})),
    ),
    Row(
        "classes",
        "idle class consumers, 8,000 sockets",
        "/class/idle",
        BROWSERS,
        limits={"": 4_000},
        figure="rss_bytes",
        unit="bytes a socket",
        beside="cpu_us",
        app=APP,
        servers=(),
        variants=(
            Variant("class"),
            Variant("group and scope", {"path": "/class/room/lobby"}, limited=False),
            Variant("function", {"path": "/idle"}, limited=False),
        ),
    ),
    Row(
        "classes",
        "idle class consumers with deflate, 8,000 sockets",
        "/deflate/class/idle",
        {**BROWSERS, "deflate": True},
        limits={"": 5_000},
        figure="rss_bytes",
        unit="bytes a socket",
        beside="cpu_us",
        app=APP,
        servers=(),
    ),
    Row(
        "classes",
        "event to 1,000 class members, 1 in flight",
        "/class/member",
        {**MEMBERS, "size": 64},
        limits={"": 6.0},
        unit=DELIVERY,
        app=APP,
        servers=(),
        variants=(
            Variant("sent on"),
            Variant(
                "counted", {"path": "/class/counter", "counted": True}, limited=False
            ),
        ),
    ),
    Row(
        "classes",
        "deflate broadcast of 4 KiB to 1,000 members, 1 in flight",
        "/broadcast",
        {**MEMBERS, "size": MESSAGE, "records": True},
        limits={"plain": 1.30},
        unit=DELIVERY,
        app=APP,
        servers=(),
        variants=(
            Variant("plain"),
            Variant("deflate", {"path": "/deflate/broadcast", "deflate": True}),
        ),
    ),
    Row(
        "classes",
        "echo below a rate, 64 B, 64 connections, 1 in flight",
        "/echo",
        ONE_BY_ONE,
        limits={"no rate": 1.10},
        app=APP,
        servers=(),
        variants=(
            Variant("no rate"),
            Variant("each connection", {"path": "/rated/connection"}),
            Variant("each address", {"path": "/rated/address"}, limited=False),
        ),
    ),
    storm(
        "storm of 4 KiB broadcasts, 100 of 1,000 stalled",
        "/storm",
        STORM,
        SHARED + QUEUES + SUNDRY,
        SHORT_STORM,
    ),
    storm(
        "storm of 4 KiB events to classes, 100 of 1,000 stalled",
        "/storm/class",
        EVENT_STORM,
        SHARED + QUEUES + OWN + UNDER_WAY + SUNDRY,
        SHORT_EVENT_STORM,
    ),
]
