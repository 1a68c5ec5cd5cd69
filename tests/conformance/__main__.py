"""
The command: run Autobahn's cases against our server, or against another.

Exits with 0 if all passed, 1 if not, 2 if they could not be run.
"""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from .autobahn import (
    ALL,
    SHORT,
    our_server,
    run_cases,
    summary_of,
    table_of,
    versions_used,
)
from .python2 import NoPython2, find_python2


def parse(argv):
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--cases", nargs="+", default=ALL, help="such as '9.1.*'")
    which.add_argument(
        "--short",
        dest="cases",
        action="store_const",
        const=SHORT,
        help="all cases but most of sections 9, 12 and 13",
    )
    parser.add_argument("--exclude", nargs="+", default=(), help="such as '6.4.*'")
    parser.add_argument("--url", help="test this server, already started")
    parser.add_argument(
        "--path",
        default="/",
        help="of our server; /takeover keeps compression's context",
    )
    parser.add_argument("--python2", help="default: python2.7 on PATH or of pyenv")
    parser.add_argument(
        "--report",
        type=Path,
        default=Path("build/conformance"),
        help="folder of the reports; index.html is made to be read",
    )
    parser.add_argument("--summary", type=Path, help="write a page for docs here")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for all")
    options = parser.parse_args(argv)
    if options.url and options.summary:
        parser.error("--summary is about our server: it goes with no --url")
    return options


def main(argv=None):
    """Run the command and return its exit code."""
    options = parse(argv)
    options.report.mkdir(parents=True, exist_ok=True)
    log = options.report / "server.log"
    try:
        python2 = find_python2(options.python2)
        with ExitStack() as stack:
            url = options.url or stack.enter_context(our_server(log)) + options.path
            verdicts = run_cases(
                python2,
                url,
                options.report,
                cases=options.cases,
                exclude=options.exclude,
                timeout=options.timeout,
            )
    except (NoPython2, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    print(table_of(verdicts))
    if options.summary is not None:
        options.summary.write_text(summary_of(verdicts, versions_used()))
    print(f"reports: {options.report / 'index.html'}")
    return 0 if all(verdict.passed for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
