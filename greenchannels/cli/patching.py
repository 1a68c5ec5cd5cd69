"""
When the standard library is patched: at once, or in each worker after its fork.

The process that only looks after workers stays as it is: with a hub it could not
fork safely.
"""

from __future__ import annotations

from collections.abc import Iterable

from gevent import monkey

#: Options that may need several processes; whoever has none of them patches at once.
PROCESS_OPTIONS = ("--workers", "--reload", "--max-requests")


def may_fork(arguments: Iterable[str]) -> bool:
    """Whether a command line may ask for worker processes."""
    return any(each.startswith(PROCESS_OPTIONS) for each in arguments)


def patch() -> None:
    """Patch the standard library, unless it is patched."""
    if not monkey.is_module_patched("socket"):
        monkey.patch_all()
