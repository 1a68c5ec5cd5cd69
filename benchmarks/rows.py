"""The rows of the table: what the load generator does in each, and the limit."""

from dataclasses import replace

from . import class_rows, http_rows, ipc_rows, redis_rows
from .contestants import YARDSTICK, Variant
from .row import Row

TIMED = {"warmup": 0.5, "seconds": 3}
BROWSER = {"browser": True, "sources": 8}
DELIVERY = "us a delivery"
#: 200 KB a second: the kernels' buffers and the limit of 1 MiB are full after two
#: thirds of the window, and the close timeout of a second is over before its end.
#: ``--quick`` has no less: the slow policy needs its time.
STUCK = {"pace": 50, "size": 4096, "warmup": 0.5, "seconds": 9}
ROWS = [
    Row(
        "echo",
        "echo 64 B, 64 connections, 1 in flight",
        "/echo",
        {"connections": 64, "window": 1, "size": 64, **TIMED},
        limits={YARDSTICK: 0.90},
    ),
    Row(
        "echo",
        "echo 64 B, 64 connections, bursts of 16",
        "/echo",
        {"connections": 64, "window": 16, "size": 64, **TIMED},
        limits={YARDSTICK: 0.50},
    ),
    Row(
        "echo",
        "echo 64 KiB binary",
        "/echo",
        {"connections": 64, "window": 1, "size": 65536, "binary": True, **TIMED},
        limits={YARDSTICK: 1.05},
    ),
    Row(
        "broadcast",
        "broadcast to 1,000 members, 1 in flight",
        "/broadcast",
        {"connections": 1001, "window": 1, "size": 64, **TIMED},
        limits={YARDSTICK: 0.80},
        unit=DELIVERY,
    ),
    Row(
        "broadcast",
        "broadcast to 1,000 members, 8 in flight",
        "/broadcast",
        {"connections": 1001, "window": 8, "refill": 1, "size": 64, **TIMED},
        limits={YARDSTICK: 0.35},
        unit=DELIVERY,
    ),
    Row(
        "idle",
        "idle, 8,000 sockets",
        "/idle",
        {"connections": 8000, "warmup-count": 200, **BROWSER},
        limits={YARDSTICK: 12_000},
        figure="rss_bytes",
        unit="bytes a socket",
    ),
    Row(
        "connect",
        "connect, handshake, close",
        "/echo",
        {"connections": 16, "warmup-count": 500, "count": 5000, **BROWSER},
        limits={YARDSTICK: 0.80},
        unit="us a cycle",
    ),
    Row(
        "faults",
        "broadcast beside a member that never reads",
        "/broadcast",
        {"mode": "paced", "connections": 1000, "window": 32, **STUCK},
        limits={"all read": 1.10},
        figure="p99_us",
        unit="us to a delivery",
        options=("--close-timeout", "1"),
        variants=(
            Variant("all read"),
            Variant("one never reads", {"deaf": 1}, says="closed with 1013"),
        ),
        servers=(),
        quick=STUCK,
    ),
    Row(
        "faults",
        "gap for others while broadcasting to 50,000",
        "/crowd",
        {"mode": "gap", "window": 1, "size": 64, **TIMED},
        limits={"": 20_000},
        figure="max_us",
        unit="us to an echo",
        servers=(),
    ),
]

#: What ``--quick`` puts in the place of the same options.
QUICK = {"warmup": 0.2, "seconds": 0.5, "count": 1000, "mebibytes": 64}


def shortened(row):
    """Return a row that takes a fraction of the time and says less."""
    quick = {key: QUICK[key] for key in QUICK if key in row.load}
    return replace(row, load={**row.load, **quick, **row.quick})


def chosen(command, only, quick):
    """
    Return the rows of a command whose names contain ``only``.

    Those over TLS belong to what they measure, and to http.
    """
    rows = [*ROWS, *http_rows.ROWS, *class_rows.ROWS, *ipc_rows.ROWS]
    rows += redis_rows.ROWS
    commands = {
        row.name: ("all", row.command, "http" if row.tls else "") for row in rows
    }
    rows = [row for row in rows if command in commands[row.name] and only in row.name]
    return [shortened(row) for row in rows] if quick else rows
