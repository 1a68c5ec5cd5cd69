"""
Run Autobahn's cases against a server and judge what it did.

A case passes when the suite calls both the behaviour and the way the connection
ended "OK" or "INFORMATIONAL". "NON-STRICT" fails: it means that a rule was
broken in a way that the suite's authors forgive.
"""

import json
import platform
import re
import socket
import subprocess
import sys
import time
import zlib
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import gevent

import greenchannels
from greenchannels.wire.frames import FrameDecoder, PureFrameDecoder
from tests.ports import free_port

from .python2 import RELEASE, run_wstest

ROOT = Path(__file__).parents[2]

#: What each section is about (there are no sections 8 and 11).
SECTIONS = {
    1: "messages of all sizes",
    2: "pings and pongs",
    3: "reserved bits",
    4: "reserved opcodes",
    5: "fragments",
    6: "UTF-8",
    7: "closing",
    9: "limits and performance",
    10: "fragments made by the sender",
    12: "compression: messages of all sizes and kinds",
    13: "compression: its parameters",
}

#: All that the suite has about RFC 6455 and RFC 7692.
ALL = tuple(f"{section}.*" for section in SECTIONS)

#: Sections of which the short form has some cases only: they are about size and
#: speed, or have 1,000 messages a case.
LONG = {
    "9.*": ("9.1.1", "9.2.1", "9.3.5", "9.4.5", "9.5.3", "9.6.3", "9.7.1", "9.8.1"),
    "12.*": ("12.1.1", "12.1.11", "12.2.3", "12.3.4", "12.4.5", "12.5.2"),
    "13.*": (
        *("13.1.2", "13.2.3", "13.3.4", "13.4.5"),
        *("13.5.11", "13.6.2", "13.7.4"),
    ),
}
SHORT = tuple(case for section in ALL for case in LONG.get(section, (section,)))

PASSED = {"OK", "INFORMATIONAL"}

#: Section 9 sends up to 16 MiB.
MAX_MESSAGE = 32 * 1024 * 1024

#: Name of the tested server in spec and report.
AGENT = "server"


@dataclass(frozen=True, slots=True, order=True)
class Verdict:
    """What the suite says of one case."""

    #: The case's number, as numbers, so that 1.10 comes after 1.9.
    number: tuple[int, ...]
    behaviour: str
    close: str
    #: The close code that the server sent, or ``None``.
    code: int | None
    #: The file that tells everything about it.
    report: Path

    @property
    def case(self):
        """The number as it is written."""
        return ".".join(str(part) for part in self.number)

    @property
    def section(self):
        """The first part of the number."""
        return self.number[0]

    @property
    def passed(self):
        """Whether the server did what RFC 6455 says, strictly."""
        return self.behaviour in PASSED and self.close in PASSED

    def __str__(self):
        said = f"{self.case}: {self.behaviour}, close {self.close}, code {self.code}"
        return said if self.passed else f"{said} ({self.report})"


def run_cases(python2, url, folder, *, cases=ALL, exclude=(), timeout=3600.0):
    """
    Run cases against a server and return the verdicts in order.

    Args:
        python2: The path of a Python 2.7.
        url: Where the server listens, ``ws://...``.
        folder: Where spec and reports go; made if missing.
        cases: Numbers or patterns such as ``"6.*"``.
        exclude: The same, left out.
        timeout: Seconds for all of them.

    Raises:
        RuntimeError: If the fuzzing client fails, or reports on other cases
            than it set out to run.

    """
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    spec = folder / "spec.json"
    spec.write_text(
        json.dumps(
            {
                "outdir": str(folder),
                "servers": [{"agent": AGENT, "url": url}],
                "cases": list(cases),
                "exclude-cases": list(exclude),
                "exclude-agent-cases": {},
            }
        )
    )
    (folder / "index.json").unlink(missing_ok=True)
    said = run_wstest(python2, spec, timeout=timeout)
    verdicts = read_verdicts(folder)
    announced = re.search(r"will run (\d+) test cases", said)
    if announced is None or int(announced[1]) != len(verdicts) or not verdicts:
        raise RuntimeError(f"{len(verdicts)} verdicts do not fit to:\n{said}")
    return verdicts


def read_verdicts(folder):
    """Return the verdicts in a report folder, in order."""
    found = json.loads((folder / "index.json").read_text()).get(AGENT, {})
    return sorted(
        Verdict(
            number=tuple(int(part) for part in case.split(".")),
            behaviour=result["behavior"],
            close=result["behaviorClose"],
            code=result["remoteCloseCode"],
            report=folder / result["reportfile"],
        )
        for case, result in found.items()
    )


def table_of(verdicts):
    """Return a table: a row a section, a column a behaviour, and the failures."""
    sections = sorted({verdict.section for verdict in verdicts})
    words = sorted({verdict.behaviour for verdict in verdicts})
    lines = [" ".join(["section", "cases", *words, "passed"])]
    for section in sections:
        of_section = [each for each in verdicts if each.section == section]
        count = Counter(each.behaviour for each in of_section)
        cells = [f"{section:7}", f"{len(of_section):5}"]
        cells += [f"{count[word]:{len(word)}}" for word in words]
        cells += [f"{sum(each.passed for each in of_section):6}"]
        lines.append(" ".join(cells))
    lines += [f"failed {verdict}" for verdict in verdicts if not verdict.passed]
    passed = sum(verdict.passed for verdict in verdicts)
    return "\n".join([*lines, f"{passed} of {len(verdicts)} cases passed"])


def summary_of(verdicts, versions):
    """
    Return a page for the documentation: a row a section, and what was used.

    Args:
        verdicts: What the suite says.
        versions: Names and versions of what took part.

    """
    passed = sum(verdict.passed for verdict in verdicts)
    lines = [
        "# Conformance",
        "",
        "What [Autobahn|Testsuite](https://github.com/crossbario/autobahn-testsuite)"
        " says of",
        "this server's WebSockets (RFC 6455) and their compression (RFC 7692):"
        f" **{passed} of {len(verdicts)}",
        "cases are OK or informational**, in what the server does and in how the"
        " connection",
        "ends. `python -m tests.conformance --summary docs/conformance.md` runs them"
        " and writes",
        "this page; it needs a Python 2.7.",
        "",
        "| section | cases | OK | informational | other |",
        "| --- | --: | --: | --: | --: |",
    ]
    for section in sorted({verdict.section for verdict in verdicts}):
        of_section = [each for each in verdicts if each.section == section]
        counts = count_rows(of_section)
        lines.append(f"| {section}: {SECTIONS[section]} | {counts} |")
    lines += [f"| all | {count_rows(verdicts)} |", ""]
    failed = [f"- {each}" for each in verdicts if not each.passed]
    lines += [*failed, ""] if failed else []
    lines += ["Informational are cases in which the RFC leaves a choice.", ""]
    lines += ["| used | version |", "| --- | --- |"]
    lines += [f"| {name} | {version} |" for name, version in versions.items()]
    return "\n".join([*lines, ""])


def count_rows(verdicts):
    """Return the cells of a row: all, OK, informational, and what did not pass."""
    count = Counter(each.behaviour if each.passed else "other" for each in verdicts)
    cells = [len(verdicts), count["OK"], count["INFORMATIONAL"], count["other"]]
    return " | ".join(map(str, cells))


def versions_used():
    """Return names and versions of what takes part in a run."""
    return {
        "Autobahn\\|Testsuite": RELEASE,
        "greenchannels": greenchannels.__version__,
        "gevent": gevent.__version__,
        "C extensions": "yes" if FrameDecoder is not PureFrameDecoder else "no",
        "Python": platform.python_version(),
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
    }


@contextmanager
def our_server(log, *options):
    """Serve :mod:`tests.conformance.app` in a process that logs to a file."""
    port = free_port()
    command = [sys.executable, "-m", "greenchannels", "run"]
    command += ["tests.conformance.app:routing", "--port", str(port)]
    command += ["--max-message", str(MAX_MESSAGE), "--access-log", "off", *options]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        if not listens(process, port):
            raise RuntimeError(f"the server did not start:\n{log.read_text()}")
        yield f"ws://127.0.0.1:{port}"
    finally:
        end_process(process)


def listens(process, port, timeout=20.0):
    """Wait until a process accepts connections; ``False`` if it never does."""
    deadline = time.monotonic() + timeout
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return True
    return False


def end_process(process):
    """Ask a process to end; kill it if it does not."""
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
