"""The rows of several processes on one machine, over ``ipc://``."""

from .contestants import Variant
from .row import Row

APP = "greenchannels_ipc:routing"
TIMED = {"warmup": 0.5, "seconds": 3}
ALL = 1000
MEMBERS = {"mode": "broadcast", "connections": ALL, "size": 64, **TIMED}
#: 200 broadcasts, whatever ``--seconds`` says: fewer have no 99th percentile.
PACED = {"mode": "paced", "connections": ALL, "size": 64, "window": 32, "last": True}
PACED |= {"pace": 10, "warmup": 0.5, "count": 200 * ALL}
BROADCAST = "/spread/broadcast"
DELIVERY = "us a delivery"

#: One process and its memory: what the others are compared with.
MEMORY = Variant("memory", {"spread": 1})


def over_ipc(workers, limited=True, gunicorn=False):
    """Return the variant of so many workers, with an equal share of the sockets."""
    label = f"{'gunicorn, ' if gunicorn else ''}{workers} workers"
    load = {"spread": workers}
    return Variant(label, load, limited=limited, workers=workers, gunicorn=gunicorn)


def sends(label, members, workers, limited):
    """Return the variant of a send to so many members, all in the same process."""
    load = {"members": members}
    return Variant(label, load, limited=limited, workers=workers)


PROCESSES = (
    MEMORY,
    over_ipc(2),
    over_ipc(4),
    over_ipc(2, limited=False, gunicorn=True),
)

ROWS = [
    Row(
        "ipc",
        "broadcast to 1,000 members in all processes, 1 in flight",
        BROADCAST,
        {**MEMBERS, "window": 1},
        limits={"memory": 1.15},
        unit=DELIVERY,
        app=APP,
        servers=(),
        variants=PROCESSES,
    ),
    Row(
        "ipc",
        "broadcast to 1,000 members in all processes, 8 in flight",
        BROADCAST,
        {**MEMBERS, "window": 8, "refill": 1},
        limits={"memory": None},
        unit=DELIVERY,
        app=APP,
        servers=(),
        variants=PROCESSES,
    ),
    Row(
        "ipc",
        "last of 1,000 members at 10 broadcasts a second",
        BROADCAST,
        PACED,
        limits={"memory": 2_000},
        differs=True,
        figure="p99_us",
        unit="us to the last delivery",
        beside="cpu_us",
        app=APP,
        servers=(),
        variants=(MEMORY, over_ipc(2), over_ipc(4, limited=False)),
        quick={"count": 30 * ALL},
    ),
    Row(
        "ipc",
        "send to a group without a member elsewhere",
        "/sends/{members}/{others}/{warmup:f}/{seconds:f}",
        TIMED,
        limits={"": 15},
        figure="wall_us",
        unit="us a send",
        beside="cpu_us",
        generator="sends",
        app=APP,
        servers=(),
        variants=(
            sends("memory, no member", 0, 0, limited=False),
            sends("2 workers, no member", 0, 2, limited=True),
            sends("memory, one member", 1, 0, limited=False),
            sends("2 workers, one member", 1, 2, limited=True),
        ),
    ),
    Row(
        "ipc",
        "10,000 sockets join 1,000 groups",
        "/spread/join",
        {"mode": "join", "connections": 10_000, "size": 64, "sources": 8},
        limits={"": 3},
        figure="seconds",
        unit="s until all have joined",
        beside="cpu_us",
        app=APP,
        options=("--max-connections", "20000"),
        servers=(),
        variants=(Variant("memory", {"spread": 1}, limited=False), over_ipc(4)),
    ),
]
