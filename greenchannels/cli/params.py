"""
Command-line options made from the fields of ``options.py``.

Each limit and timeout has the option that is named after it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any

import click

from ..options import HTTPLimits, Limits, Timeouts

#: What each option's help says; a field without a line here has no option.
HELP = {
    "max_message": "Largest message of a WebSocket.",
    "max_inbox": "Messages that wait for a consumer before reading stops.",
    "max_inbox_bytes": "Bytes that wait for a consumer before reading stops.",
    "max_write_buffer": "Bytes that wait for a slow peer before it is cut.",
    "max_groups": "Groups that one socket may be in.",
    "stop_timeout": "For a consumer to end after its socket; then it is killed.",
    "max_request_line": "Longest request line (414 beyond).",
    "max_head": "Longest request head (431 beyond).",
    "max_headers": "Header fields of a request (431 beyond).",
    "max_body": "Largest request body (413 beyond).",
    "max_body_in_memory": "Body bytes kept in memory; the rest goes to disk.",
    "head_timeout": "For a request head to arrive.",
    "accept_timeout": "For a consumer to accept or reject a handshake.",
    "ping_interval": "Between two pings.",
    "ping_timeout": "For a sign of life after a ping.",
    "write_timeout": "For a peer to take one more byte of what waits for it.",
    "close_timeout": "For a peer to answer a close frame.",
    "body_timeout": "For a request body to arrive.",
    "keep_alive": "Between two requests of one connection.",
}

_SIZE = re.compile(r"(\d+)\s*([kmg]?)(?:i?b)?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


class Size(click.ParamType):  # type: ignore[type-arg]
    """A number of bytes (64k, 1m) or of things, or "none"."""

    name = "size"

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> int | None:
        """Return the number."""
        if value is None or isinstance(value, int):
            return value
        if str(value).lower() == "none":
            return None
        match = _SIZE.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is no size: write 65536, 64k, 1m or none", param, ctx)
        return int(match[1]) * _UNITS[match[2].lower()]


class Seconds(click.ParamType):  # type: ignore[type-arg]
    """A duration in seconds, or "none"."""

    name = "seconds"

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float | None:
        """Return the seconds."""
        if value is None or isinstance(value, float):
            return value
        if str(value).lower() == "none":
            return None
        try:
            seconds = float(value)
        except ValueError:
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        if not 0 <= seconds < 10**9:
            self.fail(f"{value!r} is no duration", param, ctx)
        return seconds


def option_fields() -> list[Field[Any]]:
    """Return the fields that have an option each."""
    groups = (Limits, HTTPLimits, Timeouts)
    return [f for group in groups for f in fields(group) if f.name in HELP]


def limit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one option for each limit and timeout."""
    for each in reversed(option_fields()):
        kind = Seconds() if "float" in str(each.type) else Size()
        command = click.option(
            "--" + each.name.replace("_", "-"),
            type=kind,
            default=_text(each.default),
            show_default=True,
            help=HELP[each.name],
        )(command)
    return command


def _text(default: Any) -> str:
    """Return a default as one would write it."""
    if isinstance(default, int) and default >= 1024 and default % 1024 == 0:
        for letter, unit in (("m", 1024**2), ("k", 1024)):
            if default % unit == 0:
                return f"{default // unit}{letter}"
    return f"{default:g}" if isinstance(default, float) else str(default).lower()


def pick(group: type[Any], values: dict[str, Any]) -> Any:
    """Return an options object of ``group`` from a command's values."""
    names = [f.name for f in fields(group) if f.name in values]
    return group(**{name: values[name] for name in names})
