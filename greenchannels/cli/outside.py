"""What ``send`` and ``tail`` have in common: how they are told the layer of servers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from ..errors import LayerRefused, LayerUnavailable
from ..layers.registry import VARIABLE
from .run import EXIT_START, EXIT_USAGE, layer_url, say

NO_LAYER = (
    "no layer: name the servers' by --layer ipc://NAME (they print it at their start),"
    f" by {VARIABLE}=ipc://NAME, or by --app MODULE:ROUTING in the app's folder"
)


def layer_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that name a layer."""
    command = click.option(
        "--app",
        metavar="MODULE:ROUTING",
        help="The layer that `run MODULE:ROUTING --workers N` has in this folder.",
    )(command)
    return click.option(
        "--layer",
        metavar="URL",
        envvar=VARIABLE,
        show_envvar=True,
        help="The layer of the servers: ipc://NAME or redis://HOST:PORT?prefix=NAME.",
    )(command)


def choose_layer(context: click.Context) -> str:
    """Return the URL that a command's options mean, or end with a message."""
    values = context.params
    named = context.get_parameter_source("layer") is ParameterSource.COMMANDLINE
    if named and values["app"]:
        fail("--layer and --app both name a layer: give one of them")
    if not (values["layer"] or values["app"]):
        fail(NO_LAYER)
    url = layer_url(values, values["app"] or "", several=True)
    if url == "memory://":
        fail(
            "memory:// lives inside one server: only ipc://NAME or redis:// reaches one"
        )
    return url


def fail(error: Exception | str) -> NoReturn:
    """End with one line: exit code 1 if the layer is away, 2 for what was asked."""
    say(f"Error: {error}")
    away = isinstance(error, LayerUnavailable | LayerRefused)
    sys.exit(EXIT_START if away else EXIT_USAGE)


def leave(code: int) -> NoReturn:
    """
    End the process at once.

    A thread may still wait for the standard input or output, for ever.
    """
    sys.stderr.flush()
    os._exit(code)
