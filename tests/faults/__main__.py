"""
The long lane of faults: ``python -m tests.faults --rounds 100``.

Runs the tests of this folder and those of the layers' processes with so many rounds
instead of CI's five, and with stops of up to 5 s. The first line names the seed, which
``--seed`` repeats; each test says what it did. A hundred rounds take half an hour.
Exits as pytest does.
"""

import argparse
import os
import random
import sys
import time
from pathlib import Path

import pytest

#: What is run.
TESTS = ["tests/faults", "tests/layers/test_ipc_processes.py"]

#: Seconds after which a test that hangs ends the run; rounds take a few each.
HANGS = 7200


class Figures:
    """Tells what each test did, when it has ended."""

    def pytest_runtest_logreport(self, report):
        """Print a line."""
        if report.when == "call" and (report.user_properties or report.failed):
            name = report.nodeid.rpartition("::")[2]
            told = "".join(f"\n    {k}: {v}" for k, v in report.user_properties)
            print(f"\n{name}: {report.outcome}, {report.duration:.0f} s{told}")
            print(report.longreprtext[-8000:])
            sys.stdout.flush()


def main(argv=None):
    """Run the tests; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--rounds", type=int, default=100, metavar="N")
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().getrandbits(32)
    )
    parser.add_argument("-k", default="", metavar="WORDS", help="only tests named so")
    options = parser.parse_args(argv)
    os.environ["GREENCHANNELS_FAULT_ROUNDS"] = str(options.rounds)
    os.environ["GREENCHANNELS_FAULT_SEED"] = str(options.seed)
    os.chdir(Path(__file__).parents[2])
    print(f"seed {options.seed}", flush=True)
    began = time.monotonic()
    hangs = f"faulthandler_timeout={HANGS}"
    arguments = ["-q", "-s", "-p", "no:cacheprovider", "-o", hangs, "-k", options.k]
    code = pytest.main([*arguments, *TESTS], plugins=[Figures()])
    print(f"{time.monotonic() - began:.0f} s")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
