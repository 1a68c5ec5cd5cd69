"""
I/O on gevent's hub: listeners, transports, and one clock.

Everything here moves bytes and time and knows no protocol. Hub callbacks
never block, never run user code and never let an exception out. A protocol
above gets ``data_received``, ``eof_received`` and ``connection_lost``.
"""
