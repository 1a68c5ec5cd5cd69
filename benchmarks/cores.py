"""Which core the server has, and which the load generator."""

import os

#: The cores that this process may use, before it was bound to one.
AVAILABLE = sorted(os.sched_getaffinity(0))

#: The server's core, which nothing else of ours runs on.
SERVER_CORE = AVAILABLE[0]
#: The load generator's core, and ours; the server's when there is only one.
LOAD_CORE = AVAILABLE[1] if len(AVAILABLE) > 1 else AVAILABLE[0]
