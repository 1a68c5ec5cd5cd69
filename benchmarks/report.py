"""Results as a plain table, as Markdown, and as JSON."""

import json
from dataclasses import asdict

HEADINGS = [
    "server",
    "median",
    "min - max",
    "to aiohttp",
    "limit",
    "",
    "per s",
    "p50 ms",
    "p99 ms",
    "cores",
]


def number(value, digits=2):
    """Format a figure; thousands are whole and have commas."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.{digits}f}"


def cells(result):
    """Return the cells of one line, as texts, in the order of ``HEADINGS``."""
    figures, row = result.figures(), result.row
    if not figures:
        return [result.contestant.label, "failed"] + [""] * (len(HEADINGS) - 2)
    return [
        result.contestant.label,
        number(result.median(row.figure)),
        f"{number(min(figures))} - {number(max(figures))}",
        number(result.ratio),
        number(row.limit) if result.contestant.ours else "",
        result.verdict,
        number(result.median("rate"), 0),
        *latencies(result),
        f"{result.median('server_share'):.0%} / {result.median('own_share'):.0%}",
    ]


def latencies(result):
    """Return the cells of the percentiles; idle sockets have none."""
    if result.row.absolute:
        return ["", ""]
    return [number(result.median(name) / 1000) for name in ("p50_us", "p99_us")]


def title(row):
    """Return a row's heading: its name and what the figures are."""
    if row.absolute:
        return f"{row.name} (memory: {row.unit})"
    return f"{row.name} (server CPU: {row.unit})"


def plain(results):
    """Return the lines of a row as text with aligned columns."""
    lines = [HEADINGS, *(cells(one) for one in results)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADINGS))]
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
    lines.append(table_line(HEADINGS))
    lines.append(table_line(["---"] + ["---:"] * (len(HEADINGS) - 1)))
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
            "ratio": one.ratio,
            "verdict": one.verdict,
        }
        for one in results
    ]
    return json.dumps({"machine": machine, "results": rows}, indent=1)
