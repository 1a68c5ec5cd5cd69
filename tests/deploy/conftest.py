"""A site for each test."""

import shutil

import pytest

from tests.deploy.site import Site


@pytest.fixture
def site(request):
    """A machine's folders and ports, with the application in place or "bare"."""
    missing = [name for name in ("bash", "curl", "pgrep") if not shutil.which(name)]
    if missing:
        pytest.skip(f"the pages need {', '.join(missing)}, not installed here")
    site = Site()
    try:
        if getattr(request, "param", None) != "bare":
            site.prepare()
        yield site
    finally:
        site.close()
