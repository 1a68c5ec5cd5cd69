"""
Coverage-guided fuzzing of wire/: ``python -m tests.fuzz.coverage_guided --seconds 60``.

Runs the targets in ``targets/`` by atheris, one after the other, and begins with the
kept corpus. What it finds on its way is forgotten, unless ``--work FOLDER`` is there
to keep it, for the next run to go on from; ``--keep`` adds to the corpus what reaches
new code. Where a target fails, libFuzzer prints the input, which is also left in the
folder; the exit status is 1. It is 2 where there is no atheris.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: Inputs that reached new code in earlier runs, a folder a target.
CORPUS = Path(__file__).parent / "corpus"

#: Words that inputs are put together of, as libFuzzer reads them.
WORDS = Path(__file__).parent / "words.dict"

#: Seconds that a process takes to begin.
STARTING = 2.0

#: Longest input, in bytes: what longer ones reach, shorter ones do as well.
MAX_LENGTH = 1024

#: Seconds in which one input must have been tried, and memory, in MiB.
TIMEOUT, MEMORY = 20, 2048


def names():
    """Return the targets, in the order in which they run."""
    from tests.fuzz.targets import TARGETS

    return list(TARGETS)


def fuzzer(target, *arguments):
    """Run one process of the fuzzer; return its exit status and what it wrote."""
    command = [sys.executable, "-m", "tests.fuzz.fuzzer", target, *arguments]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout.decode("utf-8", "replace")


def run(target, seconds, work, seed):
    """Fuzz one target; return whether it held."""
    folder, kept = work / target, CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    status, output = fuzzer(
        target,
        f"-max_total_time={max(1, round(seconds - STARTING))}",
        f"-dict={WORDS}",
        f"-max_len={MAX_LENGTH}",
        f"-timeout={TIMEOUT}",
        f"-rss_limit_mb={MEMORY}",
        f"-seed={seed}",
        f"-artifact_prefix={work}/{target}-",
        "-print_final_stats=1",
        str(folder),
        *([str(kept)] if kept.is_dir() else []),
    )
    words = output.rpartition("stat::number_of_executed_units:")[2].split()
    tried = words[0] if status == 0 and words else "?"
    took = time.monotonic() - start
    print(f"{target}: {tried} inputs, {took:.0f} s", flush=True)
    if status != 0:
        print(cause(output), flush=True)
    return status == 0


def cause(output):
    """Return what a run says of its failure, without what it did before."""
    lines = output.splitlines()
    said = [line for line in lines if not line.startswith(("INFO:", "#"))]
    return "\n".join(said)


def keep(target, work):
    """Add to the kept corpus what reaches code that nothing in it reaches."""
    kept = CORPUS / target
    kept.mkdir(parents=True, exist_ok=True)
    status, output = fuzzer(
        target,
        "-merge=1",
        "-use_counters=0",  # how often a line is reached makes thousands of inputs
        f"-max_len={MAX_LENGTH}",
        str(kept),
        str(work / target),
    )
    if status != 0:
        print(cause(output), flush=True)
    return status == 0


def main(arguments=None):
    """Run the targets; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.coverage_guided")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets")
    parser.add_argument("--target", action="append", choices=names())
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="0 is another each time")
    parser.add_argument("--work", type=Path, help="where to keep what is found")
    parser.add_argument("--keep", action="store_true", help="add to the corpus")
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: pip install atheris (Linux on x86-64)")
        return 2
    targets = options.target or names()
    share = options.seconds / len(targets)
    with tempfile.TemporaryDirectory() as folder:
        work = (options.work or Path(folder)).absolute()
        with ThreadPoolExecutor(options.processes) as pool:
            held = list(
                pool.map(lambda name: run(name, share, work, options.seed), targets)
            )
            if options.keep:
                held += pool.map(lambda name: keep(name, work), targets)
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
