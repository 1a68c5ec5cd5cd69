"""A server that sentinels watch over, and replace by one of its copies if it fails."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator

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
        self._name = f"{service} ({', '.join(map(str, sentinels))})"
        #: Those that may still lead there.
        self._connections: weakref.WeakSet[RedisConnection] = weakref.WeakSet()

    def __str__(self) -> str:
        return self._name

    def connect(self) -> RedisConnection:
        """See ``Place``: where a sentinel says, or the next one that knows better."""
        reasons: list[str] = []
        tried = set()
        for sentinel, address in self._answers(reasons):
            if str(address) in tried:
                continue
            tried.add(str(address))
            try:
                connection = self._connect_to(address)
            except OSError as error:
                reasons.append(f"{address}: {error}")
                continue
            self._prefer(sentinel)
            self._connections.add(connection)
            return connection
        raise ConnectionError("; ".join(reasons))

    def check(self, connection: RedisConnection) -> None:
        """See ``Place``: copies do not tell the others what is published there."""
        role = connection.hello().get("role", "master")
        if role != "master":
            raise ConnectionError(f"it is a {role} by now, and no master")

    def refusal(self, error: Refusal) -> OSError | ConfigurationError:
        """See ``Place``: this program lacks a right."""
        return LayerRefused(f"Redis at {self}: {error}")

    def watch(self, moved: Callable[[], None]) -> None:
        """See ``Place``: an old master may not know that it is none any more."""
        while True:
            gevent.sleep(WATCH_INTERVAL)
            try:
                if self._is_elsewhere():
                    moved()
            except (OSError, ConfigurationError) as error:
                logger.debug("sentinels of %s: %s", self._service, error)
            except Exception:
                logger.exception("sentinels of %s", self._service)

    def _is_elsewhere(self) -> bool:
        """Say whether a connection leads to another server than it should."""
        for sentinel, address in self._answers([]):
            if all(each.leads_to(address) for each in tuple(self._connections)):
                return False
            try:
                self._connect_to(address).end()
            except OSError:
                continue  # who says so may be behind the others
            self._prefer(sentinel)
            return True
        return False

    def _connect_to(self, address: RedisAddress) -> RedisConnection:
        """Return a connection to what says itself that it is the master."""
        connection = connect_to(address)
        try:
            self.check(connection)
        except BaseException:
            connection.end()
            raise
        return connection

    # Sentinels.

    def _answers(
        self, reasons: list[str]
    ) -> Iterator[tuple[RedisAddress, RedisAddress]]:
        """
        Yield each sentinel with what it says; blocks for those that do not answer.

        Args:
            reasons: Where it is noted why others say nothing.

        Raises:
            LayerRefused: If none does, and one refuses to.

        """
        refusal: LayerRefused | None = None
        answered = False
        for sentinel in list(self._sentinels):
            try:
                with gevent.Timeout(ANSWER_TIMEOUT, TimeoutError("no answer")):
                    address = self._ask(sentinel)
            except OSError as error:
                reasons.append(f"sentinel {sentinel}: {error}")
            except LayerRefused as error:
                reasons.append(str(error))
                refusal = refusal or error
            else:
                answered = True
                yield sentinel, address
        if refusal is not None and not answered:
            raise refusal

    def _ask(self, sentinel: RedisAddress) -> RedisAddress:
        """
        Return where one says that the server is.

        Raises:
            OSError: If it does not answer.
            LayerRefused: If it does not know the server, or us, or is no sentinel.

        """
        connection = connect_to(sentinel)
        try:
            reply = connection.ask(
                b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self._service.encode()
            )
        except Refusal as error:
            if "unknown command" in str(error).lower():
                text = f"Redis at {sentinel} is no sentinel: use redis://"
                raise LayerRefused(text) from error
            raise LayerRefused(f"the sentinel at {sentinel}: {error}") from error
        finally:
            connection.end()
        match reply:
            case [bytes(host), bytes(port)] if port.isdigit():
                return self._server.at(host.decode("ascii", "replace"), int(port))
            case None:
                raise LayerRefused(
                    f"the sentinel at {sentinel} knows no server {self._service!r}"
                )
            case _:
                raise ConnectionError("not the address of a server")

    def _prefer(self, sentinel: RedisAddress) -> None:
        """Ask it first from now on."""
        self._sentinels.remove(sentinel)
        self._sentinels.insert(0, sentinel)
