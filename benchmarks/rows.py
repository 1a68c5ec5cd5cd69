"""The rows of the table: what the load generator does in each, and the limit."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a load, a figure, and how high the figure may be."""

    #: The command that runs it: echo, broadcast, idle or connect.
    command: str
    #: As it stands in the table.
    name: str
    #: The path that is asked for.
    path: str
    #: Options of the load generator, without the dashes; ``True`` is a flag.
    load: dict[str, str | int | float | bool]
    #: The most that greenchannels may cost: a ratio to aiohttp, or bytes when idle.
    limit: float
    #: The field of the load generator's report that is compared.
    figure: str = "cpu_us"
    #: What one message is, in the table's words.
    unit: str = "us a message"

    @property
    def absolute(self):
        """Say whether the limit is an amount of its own, not a ratio."""
        return self.figure == "rss_bytes"


TIMED = {"warmup": 0.5, "seconds": 3}
BROWSER = {"browser": True, "sources": 8}
DELIVERY = "us a delivery"

ROWS = [
    Row(
        "echo",
        "echo 64 B, 64 connections, 1 in flight",
        "/echo",
        {"connections": 64, "window": 1, "size": 64, **TIMED},
        limit=0.90,
    ),
    Row(
        "echo",
        "echo 64 B, 64 connections, bursts of 16",
        "/echo",
        {"connections": 64, "window": 16, "size": 64, **TIMED},
        limit=0.50,
    ),
    Row(
        "echo",
        "echo 64 KiB binary",
        "/echo",
        {"connections": 64, "window": 1, "size": 65536, "binary": True, **TIMED},
        limit=1.05,
    ),
    Row(
        "broadcast",
        "broadcast to 1,000 members, 1 in flight",
        "/broadcast",
        {"connections": 1001, "window": 1, "size": 64, **TIMED},
        limit=0.80,
        unit=DELIVERY,
    ),
    Row(
        "broadcast",
        "broadcast to 1,000 members, 8 in flight",
        "/broadcast",
        {"connections": 1001, "window": 8, "refill": 1, "size": 64, **TIMED},
        limit=0.35,
        unit=DELIVERY,
    ),
    Row(
        "idle",
        "idle, 8,000 sockets",
        "/idle",
        {"connections": 8000, "warmup-count": 200, **BROWSER},
        limit=12_000,
        figure="rss_bytes",
        unit="bytes a socket",
    ),
    Row(
        "connect",
        "connect, handshake, close",
        "/echo",
        {"connections": 16, "warmup-count": 500, "count": 5000, **BROWSER},
        limit=0.80,
        unit="us a cycle",
    ),
]

#: What ``--quick`` puts in the place of the same options.
QUICK = {"warmup": 0.2, "seconds": 0.5, "count": 1000}


def shortened(row):
    """Return a row that takes a fraction of the time and says less."""
    quick = {key: QUICK[key] for key in QUICK if key in row.load}
    return replace(row, load={**row.load, **quick})


def chosen(command, only, quick):
    """Return the rows of a command whose names contain ``only``."""
    rows = [row for row in ROWS if command in ("all", row.command) and only in row.name]
    return [shortened(row) for row in rows] if quick else rows
