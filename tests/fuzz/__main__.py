"""
The long lane of the parser: ``python -m tests.fuzz --requests 200000``.

Generates wires, each of one to three requests, as tests/wire/test_smuggling.py does,
and checks them against h11 and llhttp until at least so many have been tried, in one
process a core. The first line names the seed; ``--seed`` repeats a run. The end says
how many reached a consumer: a run in which few do has shown little. Hypothesis
shrinks and prints what fails, and the exit status is 1.
"""

import argparse
import multiprocessing
import os
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from tests.fuzz.batches import run_batch

#: Wires a batch. Hypothesis remembers what it has tried, so batches are bounded.
BATCH = 2000


def main():
    """Run all batches; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--requests", type=int, default=200_000, metavar="N")
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().getrandbits(32)
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    start, tried, passed, batch = time.monotonic(), 0, 0, 0
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, mp_context=spawn) as pool:
        while tried < options.requests:
            left = options.requests - tried
            count = min(options.processes * 4, -(-left // BATCH))
            seeds = range(options.seed + batch, options.seed + batch + count)
            batch += count
            for more, reached in pool.map(run_batch, seeds, [min(BATCH, left)] * count):
                tried, passed = tried + more, passed + reached
            took = time.monotonic() - start
            print(f"{tried} wires, {passed} requests passed, {took:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
