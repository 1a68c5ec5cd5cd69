"""
How long it is: few rounds of each fault in CI, many in ``python -m tests.faults``.

The command sets variables of the environment for the run of pytest that it starts.
"""

import os
import random

#: How often a fault is made.
ROUNDS = int(os.environ.get("GREENCHANNELS_FAULT_ROUNDS", "5"))

#: What repeats a run.
SEED = int(os.environ.get("GREENCHANNELS_FAULT_SEED", "0"))

#: Whether this is the long lane.
LONG = ROUNDS > 5

#: Longest stop, in seconds.
LONGEST_STOP = 5.0 if LONG else 0.6


def chances(name):
    """Return the chances of one test."""
    return random.Random(f"{SEED} {name}")
