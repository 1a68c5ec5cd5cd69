"""Compare what a message and a socket cost greenchannels and other servers."""

import argparse
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from . import contestants, loadgen, machine, report, rounds, rows, wrk
from .cores import LOAD_CORE

COMMANDS = ["echo", "broadcast", "idle", "connect", "faults", "http"]
COMMANDS += ["classes", "storm", "ipc", "redis", "all"]


def parser():
    """Return the parser of the command line."""
    known = [*contestants.WITH_SOCKETS, *contestants.WITHOUT_SOCKETS]
    known += [contestants.CHANNELS_REDIS, contestants.OURS]
    parse = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    add = parse.add_argument
    add("command", choices=COMMANDS)
    add("--rounds", type=int, default=5, help="how often each server is run")
    add("--quick", action="store_true", help="one short round: does it work?")
    add("--only", default="", metavar="TEXT", help="rows whose names contain TEXT")
    add("--server", action="append", default=[], choices=known, help="only this one")
    add("--peers", action="store_true", help="websockets and picows, too")
    add(
        "--checkout",
        action="append",
        default=[],
        metavar="[LABEL=]PATH",
        help="another source tree of greenchannels, in the same rounds",
    )
    add(
        "--run-options",
        default="",
        metavar="OPTIONS",
        type=shlex.split,
        help="further options of `greenchannels run`",
    )
    add("--seconds", type=float, help="the length of a counted window")
    add("--connections", type=int, help="instead of each row's own number")
    add("--json", type=Path, metavar="FILE", help="write everything there")
    add("--markdown", action="store_true", help="tables for README.md")
    return parse


def chosen_rows(options):
    """Return the rows to run, with what the command line changes in them."""
    found = rows.chosen(options.command, options.only, options.quick)
    changes = {"seconds": options.seconds, "connections": options.connections}
    changes = {name: value for name, value in changes.items() if value is not None}
    return [replace(row, load={**row.load, **changes}) for row in found]


def runnable(rows, servers):
    """Return the rows that have anyone to run; tell of what wrk is missing for."""
    found = [row for row in rows if any(map(row.admits, servers))]
    missing = wrk.missing()
    if missing:
        for row in found:
            if row.generator == "wrk":
                print(f"{row.name}: skipped, {missing}", file=sys.stderr)
    return [row for row in found if not missing or row.generator != "wrk"]


def main():
    """Run the rounds and print a table after each row."""
    options = parser().parse_args()
    servers = contestants.chosen(
        options.server, options.checkout, options.peers, options.run_options
    )
    os.sched_setaffinity(0, {LOAD_CORE})
    show = report.markdown if options.markdown else report.plain
    table = runnable(chosen_rows(options), servers)
    entrants = [one for one in servers if any(row.admits(one) for row in table)]
    print(f"{', '.join(machine.description(entrants))}.\n")
    results = []
    for row in table:
        played = rounds.play(row, servers, 1 if options.quick else options.rounds)
        print(show(played), flush=True)
        results += played
    if options.json:
        options.json.write_text(report.as_json(machine.description(entrants), results))
    return 0 if all(one.figures() for one in results) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except loadgen.LoadError as error:
        sys.exit(f"benchmarks: {error}")
