"""The rows of several processes over Redis."""

from .contestants import CHANNELS_REDIS, Variant
from .ipc_rows import BROADCAST, DELIVERY, MEMBERS, PACED, TIMED
from .row import Row

APP = "greenchannels_redis:routing"
ONE = "redis://127.0.0.1:{redis[0].port}"
TWO = f"{ONE},redis://127.0.0.1:{{redis[1].port}}"
SEALED = f"{ONE}?symmetric_encryption_keys_file={{secret}}"
SEND = "/sends/{greenlets}/{batch}/{warmup:f}/{seconds:f}"

#: One process and its memory: what the others are compared with.
MEMORY = Variant("memory", {"spread": 1}, limited=False)


def over_redis(what="", layer=ONE, hosts=1, workers=2, limited=True):
    """Return the variant of so many workers, with an equal share of the sockets."""
    label = f"{workers} workers{what and ', '}{what}"
    load = {"spread": workers}
    return Variant(
        label, load, limited=limited, workers=workers, layer=layer, hosts=hosts
    )


WORKERS = over_redis()
#: All that messages may have to go through; the limits are those of the first.
WAYS = (
    WORKERS,
    over_redis("two hosts", TWO, hosts=2, limited=False),
    over_redis("encrypted", SEALED, limited=False),
    over_redis("two tiers", "ipc://bench+" + ONE, limited=False),
)

ROWS = [
    Row(
        "redis",
        "broadcast to 1,000 members in 2 processes, 1 in flight",
        BROADCAST,
        {**MEMBERS, "window": 1},
        limits={"memory": 1.25, CHANNELS_REDIS: 0.05},
        unit=DELIVERY,
        app=APP,
        servers=(CHANNELS_REDIS,),
        variants=(MEMORY, *WAYS),
    ),
    Row(
        "redis",
        "broadcast to 1,000 members in 2 processes, 8 in flight",
        BROADCAST,
        {**MEMBERS, "window": 8, "refill": 1},
        limits={"memory": None, CHANNELS_REDIS: None},
        unit=DELIVERY,
        app=APP,
        servers=(CHANNELS_REDIS,),
        variants=(MEMORY, *WAYS),
    ),
    Row(
        "redis",
        "last of 1,000 members in 2 processes at 10 broadcasts a second",
        BROADCAST,
        PACED,
        limits={"memory": 4_000},
        differs=True,
        figure="p99_us",
        unit="us to the last delivery",
        beside="cpu_us",
        app=APP,
        servers=(),
        variants=(MEMORY, WORKERS),
        quick={"count": 30_000},
    ),
    Row(
        "redis",
        "send to a group that is nowhere, 32 greenlets",
        SEND,
        {"greenlets": 32, "batch": 1, **TIMED},
        limits={"": 25},
        unit="us a send",
        beside="wall_us",
        generator="sends",
        app=APP,
        servers=(),
        variants=WAYS,
    ),
    Row(
        "redis",
        "send to a group that is nowhere, 1 in flight",
        SEND,
        {"greenlets": 1, "batch": 1, **TIMED},
        limits={"": 60},
        unit="us a send",
        beside="wall_us",
        generator="sends",
        app=APP,
        servers=(),
        variants=WAYS,
    ),
    Row(
        "redis",
        "10,000 sockets in 1,000 groups after a restart of Redis",
        "/spread/join",
        {"mode": "join", "connections": 10_000, "size": 64, "sources": 8},
        limits={"": 5},
        figure="seconds",
        unit="s until all is subscribed to",
        beside="cpu_us",
        generator="outage",
        app=APP,
        options=("--max-connections", "20000"),
        servers=(),
        variants=(WORKERS, over_redis(workers=4)),
    ),
]
