"""Interleaved rounds (A B C, A B C, ...), so that drift meets every server alike."""

import sys
from dataclasses import dataclass, field
from statistics import median

from . import loadgen, outage, process, redis_server, sends, storm, upload, wrk
from .assets import AssetError

#: Who runs the load of a row.
GENERATORS = {
    "loadgen": loadgen.run,
    "wrk": wrk.run,
    "upload": upload.run,
    "storm": storm.run,
    "sends": sends.run,
    "outage": outage.run,
}
#: Below this share of its core, a server's rate is not what the core can do.
SATURATED = 0.9


@dataclass(slots=True)
class Result:
    """What one server did in the rounds of one row."""

    row: object
    contestant: object
    #: The load generator's report of each round; ``None`` where it failed.
    reports: list = field(default_factory=list)
    #: By yardstick: the figure to, or above, the yardstick's in the same round.
    ratios: dict = field(default_factory=dict)

    def figures(self):
        """Return the row's figure in each round that succeeded."""
        return [report[self.row.figure] for report in self.reports if report]

    def median(self, name):
        """Return the median of a field of the reports, or ``None``."""
        values = [report[name] for report in self.reports if report]
        return median(values) if values else None

    def ratio(self, yardstick):
        """Return the median of the rounds' ratios to a yardstick, or ``None``."""
        ratios = self.ratios.get(yardstick)
        return median(ratios) if ratios else None

    def limit(self, yardstick):
        """Return the limit that a yardstick sets for this server, or ``None``."""
        limited = self.contestant.limited_by(yardstick)
        return self.row.limits[yardstick] if limited else None

    def verdict(self, yardstick):
        """Say how the server is to a limit; an empty text where none holds."""
        absolute, limit = self.row.absolute, self.limit(yardstick)
        value = self.median(self.row.figure) if absolute else self.ratio(yardstick)
        if value is None or limit is None:
            return ""
        return self.row.judge(limit, value)


def measure(row, contestant):
    """Run one row on one new server process; tell of a failure, return ``None``."""
    try:
        with (
            redis_server.beside(contestant) as entrant,
            process.running(entrant) as (port, pids, log),
        ):
            report = GENERATORS[row.generator](row, entrant, port, pids)
            process.check_said(log, entrant.says)
    except (process.ServerError, loadgen.LoadError, AssetError) as error:
        print(f"\n{contestant.label}, {row.name}: {error}", file=sys.stderr)
        print("\n".join(getattr(error, "__notes__", [])), file=sys.stderr)
        return None
    warn(row, contestant, report)
    return report


def warn(row, contestant, report):
    """Tell of what makes a report doubtful."""
    where = f"{contestant.label}, {row.name}"
    if report["own_share"] > loadgen.BUSY:
        share = f"{report['own_share']:.0%}"
        print(f"\nwarning: {where}: the load generator used {share}", file=sys.stderr)
    if row.figure == "rate" and report["server_share"] < SATURATED:
        share = f"{report['server_share']:.0%}"
        print(f"\nwarning: {where}: used {share} of its core", file=sys.stderr)
    if report["deflated"] and not loadgen.options_of(row, contestant).get("deflate"):
        print(f"\nwarning: {where}: permessage-deflate was agreed", file=sys.stderr)


def add_ratios(results):
    """Compare the last round's figures with the yardsticks'."""
    last = {one.contestant.label: one.reports[-1] for one in results}
    for one in results:
        for yardstick in one.row.limits:
            labels = one.contestant.labels_of(yardstick)
            base = next((last[label] for label in labels if label in last), None)
            if base and one.reports[-1]:
                figure = one.row.figure
                ratio = one.row.compare(one.reports[-1][figure], base[figure])
                one.ratios.setdefault(yardstick, []).append(ratio)


def play(row, contestants, rounds):
    """
    Run the rounds of one row and return a result for each of its entrants.

    A server that has failed in a round is left out of the row's further rounds.
    """
    results = [Result(row, entrant) for entrant in row.entrants(contestants)]
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
