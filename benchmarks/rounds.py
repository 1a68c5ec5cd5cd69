"""Interleaved rounds (A B C, A B C, ...), so that drift meets every server alike."""

import sys
from dataclasses import dataclass, field
from statistics import median

from . import loadgen, process
from .contestants import YARDSTICK


@dataclass(slots=True)
class Result:
    """What one server did in the rounds of one row."""

    row: object
    contestant: object
    #: The load generator's report of each round; ``None`` where it failed.
    reports: list = field(default_factory=list)
    #: Figure divided by the yardstick's of the same round.
    ratios: list = field(default_factory=list)

    def figures(self):
        """Return the row's figure in each round that succeeded."""
        return [report[self.row.figure] for report in self.reports if report]

    def median(self, name):
        """Return the median of a field of the reports, or ``None``."""
        values = [report[name] for report in self.reports if report]
        return median(values) if values else None

    @property
    def ratio(self):
        """Return the median of the rounds' ratios, or ``None``."""
        return median(self.ratios) if self.ratios else None

    @property
    def verdict(self):
        """Return ``ok`` or ``over`` for our own server, else an empty text."""
        value = self.median(self.row.figure) if self.row.absolute else self.ratio
        if value is None or not self.contestant.ours:
            return ""
        return "ok" if value <= self.row.limit else "over"


def measure(row, contestant):
    """Run one row on one new server process; tell of a failure, return ``None``."""
    try:
        with process.running(contestant) as (port, pid):
            report = loadgen.run(row, contestant, port, pid)
    except (process.ServerError, loadgen.LoadError) as error:
        print(f"\n{contestant.label}, {row.name}: {error}", file=sys.stderr)
        print("\n".join(error.__notes__), file=sys.stderr)
        return None
    warn(row, contestant, report)
    return report


def warn(row, contestant, report):
    """Tell of what makes a report doubtful."""
    where = f"{contestant.label}, {row.name}"
    if report["own_share"] > loadgen.BUSY:
        share = f"{report['own_share']:.0%}"
        print(f"\nwarning: {where}: the load generator used {share}", file=sys.stderr)
    if report["deflated"]:
        print(f"\nwarning: {where}: permessage-deflate was agreed", file=sys.stderr)


def add_ratios(results):
    """Compare the last round's figures with the yardstick's."""
    last = {one.contestant.label: one.reports[-1] for one in results}
    base = last.get(YARDSTICK)
    if not base:
        return
    for one in results:
        if one.reports[-1]:
            figure = one.row.figure
            one.ratios.append(one.reports[-1][figure] / base[figure])


def play(row, contestants, rounds):
    """
    Run the rounds of one row and return a result for each server.

    A server that has failed in a round is left out of the row's further rounds.
    """
    results = [Result(row, contestant) for contestant in contestants]
    for number in range(rounds):
        for one in results:
            progress(f"{row.name}: round {number + 1} of {rounds}: ", one)
            failed = one.reports and one.reports[-1] is None
            one.reports.append(None if failed else measure(row, one.contestant))
        add_ratios(results)
    progress("", None)
    return results


def progress(text, result):
    """Show on a terminal what is being done."""
    if sys.stderr.isatty():
        label = result.contestant.label if result else ""
        print(f"\r\033[K{text}{label}", end="", file=sys.stderr, flush=True)
