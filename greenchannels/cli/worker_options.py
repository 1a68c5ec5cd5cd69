"""The options of ``run`` for several processes."""

from __future__ import annotations

from typing import Any

import click

from .params import Seconds

_OPTIONS = [
    click.option(
        "--workers",
        type=click.IntRange(1, 1000),
        default=1,
        show_default=True,
        metavar="N",
        help="Processes that serve; groups reach across.",
    ),
    click.option(
        "--pid",
        "pid_file",
        metavar="FILE",
        help="Write the process id there; removed at the end.",
    ),
    click.option(
        "--max-requests",
        type=click.IntRange(0),
        default=0,
        metavar="N",
        help="Replace a worker after as many requests and handshakes.",
    ),
    click.option(
        "--max-requests-jitter",
        type=click.IntRange(0),
        default=0,
        metavar="N",
        help="And up to N more, by chance, so that not all are replaced at once.",
    ),
    click.option(
        "--worker-timeout",
        type=Seconds(),
        default="30",
        show_default=True,
        help="A worker whose code lets nothing else run for so long is replaced.",
    ),
    click.option(
        "--reload",
        is_flag=True,
        help="Start again when a source file changes; for development.",
    ),
]


def worker_options(command: Any) -> Any:
    """Give a command the options for several processes."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def wants_arbiter(values: dict[str, Any]) -> bool:
    """
    Whether a command's values ask for a process that looks after workers.

    Raises:
        click.UsageError: If they contradict each other.

    """
    if values["reload"] and (values["workers"] > 1 or values["max_requests"]):
        raise click.UsageError("--reload goes with one worker, without --max-requests")
    if values["max_requests_jitter"] and not values["max_requests"]:
        raise click.UsageError("--max-requests-jitter needs --max-requests")
    return bool(values["workers"] > 1 or values["max_requests"] or values["reload"])
