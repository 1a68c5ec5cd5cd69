"""The ``greenchannels`` command and its subcommands."""

from __future__ import annotations

import click

from .. import __version__
from .run import run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="greenchannels")
def main() -> None:
    """Real-time applications in plain blocking Python."""


main.add_command(run)
