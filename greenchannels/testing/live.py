"""
A server on a free port, for browsers and clients that need an address.

In a patched process it runs on this hub, so that a client that blocks lets it
work; elsewhere it has a native thread and a hub of its own.
"""

from __future__ import annotations

from typing import Any

import gevent
from gevent import monkey
from gevent.event import Event

from ..net.binding import bind_tcp
from ..options import ServerOptions
from ..servers.server import Server

#: Seconds in which connections may end by themselves.
STOP_TIMEOUT = 1.0


class LiveServer:
    """
    Serve ``routing`` on a free port while the ``with`` block runs.

    Args:
        routing: What ``Server`` takes.
        options: What ``Server`` takes.
        host: The address to listen on.

    Attributes:
        url: Such as "http://127.0.0.1:40123".
        ws_url: The same for WebSockets.

    """

    url: str
    ws_url: str

    def __init__(
        self,
        routing: Any,
        *,
        options: ServerOptions | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self._server = Server(routing, options=options)
        self._host = host
        self._thread: ServerThread | None = None

    def __enter__(self) -> LiveServer:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        """Serve; blocks while lifespans start, and raises what they raised."""
        if monkey.is_module_patched("socket"):
            self._listen()
        else:
            thread = ServerThread(self._listen, self._stop)
            thread.start()
            self._thread = thread

    def stop(self) -> None:
        """Stop serving; blocks until all has ended."""
        if self._thread is None:
            self._stop()
        else:
            self._thread.stop()

    def _listen(self) -> None:
        sock = bind_tcp(self._host, 0)
        try:
            self._server.start()
        except BaseException:
            sock.close()
            raise
        port = self._server.listen(sock).address[1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.url = f"http://{host}:{port}"
        self.ws_url = f"ws://{host}:{port}"

    def _stop(self) -> None:
        self._server.stop(STOP_TIMEOUT)


class ServerThread:
    """
    A native thread with a hub of its own.

    Args:
        start: Called in it at its beginning.
        stop: Called in it at its end.

    """

    def __init__(self, start: Any, stop: Any) -> None:
        self._start = start
        self._stop = stop
        self._ready = monkey.get_original("threading", "Event")()
        thread = monkey.get_original("threading", "Thread")
        self._thread = thread(target=self._run, name="LiveServer", daemon=True)
        self._error: BaseException | None = None
        self._wake: Any = None

    def start(self) -> None:
        """
        Run it; blocks until it has started.

        Raises:
            BaseException: What its start raised.

        """
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            self._thread.join()
            raise self._error

    def stop(self) -> None:
        """End it, and wait for its end."""
        self._wake.send()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        hub = gevent.get_hub()
        try:
            self._serve(hub.loop)
        except BaseException as error:  # raised in the thread that waits
            self._error = error
        finally:
            self._ready.set()
            hub.destroy(destroy_loop=True)

    def _serve(self, loop: Any) -> None:
        stopped = Event()
        self._wake = loop.async_()
        self._wake.start(stopped.set)
        try:
            self._start()
            self._ready.set()
            stopped.wait()
            self._stop()
        finally:
            self._wake.close()
