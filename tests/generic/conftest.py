"""Every test here fails on what it leaks."""

import pytest

from tests.generic.hosts import MODES, Host
from tests.servers.harness import no_leaks, serve

__all__ = ["host", "no_leaks", "serve"]


@pytest.fixture(params=MODES)
def host(request, serve):
    """Serve class-based consumers directly, and behind two kinds of middleware."""
    return Host(serve, request.param)
