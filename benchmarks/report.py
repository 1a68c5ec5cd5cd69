"""Results as a plain table, as Markdown, and as JSON."""

import json
from dataclasses import asdict

FIRST = ["server", "median", "min - max"]
LAST = ["per s", "p50 ms", "p99 ms", "cores"]
#: What is measured, by the field of the load generator's report.
MEASURED = {
    "cpu_us": "server CPU",
    "rss_bytes": "memory",
    "p99_us": "99th percentile",
    "max_us": "the longest",
    "rate": "requests",
    "growth_bytes": "growth of memory",
    "seconds": "time",
    "wall_us": "time",
}


def headings(row):
    """Return the headings of a row's columns."""
    compared, relation = [], "above" if row.differs else "to"
    for yardstick, limit in row.limits.items():
        compared += [f"{relation} {yardstick}"] if yardstick else []
        compared += ["limit", ""] if limit is not None else []
    beside = [f"{MEASURED[row.beside]} us"] if row.beside else []
    return FIRST + compared + beside + LAST


def number(value, digits=2):
    """Format a figure; thousands are whole and have commas."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.{digits}f}"


def cells(result):
    """Return the cells of one line, as texts, in the order of the headings."""
    figures, row = result.figures(), result.row
    if not figures:
        return [result.contestant.label, "failed"] + [""] * (len(headings(row)) - 2)
    return [
        result.contestant.label,
        number(result.median(row.figure)),
        f"{number(min(figures))} - {number(max(figures))}",
        *comparisons(result),
        *([number(result.median(row.beside))] if row.beside else []),
        number(result.median("rate"), 0),
        *latencies(result),
        f"{result.median('server_share'):.0%} / {result.median('own_share'):.0%}",
    ]


def comparisons(result):
    """Return the cells of each yardstick: the ratio, the limit, whether it is kept."""
    found = []
    for yardstick in result.row.limits:
        found += [number(result.ratio(yardstick))] if yardstick else []
        if result.row.limits[yardstick] is not None:
            limit = result.limit(yardstick)
            found += ["" if limit is None else number(limit)]
            found += [result.verdict(yardstick)]
    return found


def latencies(result):
    """Return the cells of the percentiles; idle sockets and uploads have none."""
    values = [result.median(name) for name in ("p50_us", "p99_us")]
    return [number(value / 1000) if value else "" for value in values]


def title(row):
    """Return a row's heading: its name and what the figures are."""
    return f"{row.name} ({MEASURED[row.figure]}: {row.unit})"


def plain(results):
    """Return the lines of a row as text with aligned columns."""
    lines = [headings(results[0].row), *(cells(one) for one in results)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [title(results[0].row)]
    for line in lines:
        first, *rest = (
            f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)
        )
        text.append("  " + "  ".join([first.strip().ljust(widths[0]), *rest]).rstrip())
    return "\n".join(text) + "\n"


def markdown(results):
    """Return the lines of a row as a Markdown table under its name."""
    lines = [f"**{title(results[0].row)}**", ""]
    columns = headings(results[0].row)
    lines.append(table_line(columns))
    lines.append(table_line(["---"] + ["---:"] * (len(columns) - 1)))
    lines += [table_line(cells(one)) for one in results]
    return "\n".join(lines) + "\n"


def table_line(cells):
    """Return one line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def as_json(machine, results):
    """Return everything that was measured as JSON."""
    rows = [
        {
            "row": asdict(one.row),
            "server": one.contestant.label,
            "rounds": one.reports,
            "ratios": one.ratios,
            "median": one.median(one.row.figure),
            "ratio": {label: one.ratio(label) for label in one.row.limits},
            "verdict": {label: one.verdict(label) for label in one.row.limits},
        }
        for one in results
    ]
    return json.dumps({"machine": machine, "results": rows}, indent=1)
