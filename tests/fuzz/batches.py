"""What one process of the long lane does."""

import hypothesis
from hypothesis import HealthCheck, given, settings

from tests.fuzz.oracles import check
from tests.fuzz.wires import cuts, wires


def run_batch(seed, size):
    """Check a batch; return how many wires it had and how many requests passed."""
    tried = passed = 0

    @hypothesis.seed(seed)
    @settings(
        max_examples=size,
        deadline=None,
        database=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(wires(), cuts)
    def agree(wire, places):
        nonlocal tried, passed
        tried += 1
        passed += check(wire, places)

    agree()
    return tried, passed
