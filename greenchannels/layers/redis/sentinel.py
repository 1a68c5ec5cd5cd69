"""A server that sentinels watch over, and replace by one of its copies if it fails."""

from __future__ import annotations

import logging
from collections.abc import Callable

import gevent

from ...errors import ConfigurationError, LayerRefused
from .connection import RedisConnection, Refusal, connect_to
from .url import RedisAddress

#: Seconds that a sentinel has to answer.
ANSWER_TIMEOUT = 1.0

#: Seconds between two questions whether the server is still the same.
WATCH_INTERVAL = 2.0

logger = logging.getLogger("greenchannels.layer")


class WatchedServer:
    """
    A ``Place`` that sentinels know ("Guidelines for Redis clients with support for
    Redis Sentinel").

    Args:
        sentinels: At least one of them.
        service: What they call the server.
        server: How it is entered, wherever it is.

    """

    def __init__(
        self, sentinels: tuple[RedisAddress, ...], service: str, server: RedisAddress
    ) -> None:
        self._sentinels = list(sentinels)
        self._service = service
        self._server = server
        #: The one that the last connection led to.
        self._found: RedisAddress | None = None

    def __str__(self) -> str:
        return f"{self._service} ({', '.join(map(str, self._sentinels))})"

    def connect(self) -> RedisConnection:
        """See ``Place``: asks the sentinels first."""
        address = self._ask()
        connection = connect_to(address)
        try:
            self.check(connection)
        except BaseException:
            connection.end()
            raise
        self._found = address
        return connection

    def check(self, connection: RedisConnection) -> None:
        """See ``Place``: copies do not tell the others what is published there."""
        role = connection.role()
        if role not in (None, "master"):
            raise ConnectionError(f"it is a {role} by now, and no master")

    def refusal(self, error: Refusal) -> OSError | ConfigurationError:
        """See ``Place``: this program lacks a right."""
        return LayerRefused(f"Redis at {self._found or self}: {error}")

    def watch(self, moved: Callable[[], None]) -> None:
        """See ``Place``: an old master may not know that it is none any more."""
        while True:
            gevent.sleep(WATCH_INTERVAL)
            try:
                address = self._ask()
            except (OSError, ConfigurationError) as error:
                logger.debug("sentinels of %s: %s", self._service, error)
                continue
            if self._found is not None and address != self._found:
                self._found = None
                moved()

    def _ask(self) -> RedisAddress:
        """
        Return where the server is; blocks for each sentinel that does not answer.

        Raises:
            OSError: If no sentinel says where it is.
            LayerRefused: If they do not let this program in.

        """
        reasons: list[str] = []
        refusal: LayerRefused | None = None
        for sentinel in list(self._sentinels):
            try:
                with gevent.Timeout(ANSWER_TIMEOUT, TimeoutError("no answer")):
                    address = self._ask_one(sentinel)
            except OSError as error:
                reasons.append(f"{sentinel}: {error}")
            except LayerRefused as error:
                refusal = error
            else:
                # Who has answered is asked first from now on.
                self._sentinels.remove(sentinel)
                self._sentinels.insert(0, sentinel)
                return address
        if refusal is not None:
            raise refusal
        raise ConnectionError(f"no sentinel answers ({'; '.join(reasons)})")

    def _ask_one(self, sentinel: RedisAddress) -> RedisAddress:
        connection = connect_to(sentinel)
        try:
            reply = connection.ask(
                b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self._service.encode()
            )
        except Refusal as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.end()
        match reply:
            case [bytes(host), bytes(port)] if port.isdigit():
                return self._server.at(host.decode("ascii", "replace"), int(port))
            case None:
                raise ConnectionError(f"it does not know {self._service!r}")
            case _:
                raise ConnectionError("not the address of a server")
