"""
Servers under test, one file each, with the same three paths.

``/echo`` returns each message, ``/broadcast`` sends each message to everybody who
is connected there, its sender too, and ``/idle`` waits. Each is written as its
library's documentation writes it, in the library's defaults but for compression
and access logs, which are off everywhere. ``python -m benchmarks.servers.NAME PORT``
starts one; the greenchannels one is started by ``python -m greenchannels run``.
"""
