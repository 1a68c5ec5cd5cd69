"""Every test here fails on what it leaks."""

from tests.servers.harness import no_leaks, serve

__all__ = ["no_leaks", "serve"]
