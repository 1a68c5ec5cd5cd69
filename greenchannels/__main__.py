"""
The command: ``greenchannels``, or ``python -m greenchannels``.

The standard library is patched in the first lines, before anything else is
imported: what is imported earlier keeps its blocking sockets and native locks.
With worker processes each of them patches, and this one, which forks them, does not.
"""

import sys

from .cli.patching import may_fork, patch

if not may_fork(sys.argv[1:]):
    patch()

from .cli.main import main

if __name__ == "__main__":
    main()
