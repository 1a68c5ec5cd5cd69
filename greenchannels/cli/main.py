"""The ``greenchannels`` command and its subcommands."""

from __future__ import annotations

import click

from .. import __version__
from .run import run
from .send import send
from .tail import tail


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="greenchannels")
def main() -> None:
    """Real-time applications in plain blocking Python."""


for command in (run, send, tail):
    main.add_command(command)
