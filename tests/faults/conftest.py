"""Every test here fails on what it leaks."""

from tests.layers.ipc_harness import family, nursery
from tests.servers.harness import no_leaks

__all__ = ["family", "no_leaks", "nursery"]
