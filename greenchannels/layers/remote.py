"""
Calls between the layers of several processes: ``add`` and ``discard`` of a socket
that lives elsewhere, by its channel name.

A call travels on the topic of the process that the name belongs to, and its answer on
the caller's. Who is called does the work in a greenlet, because joining blocks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import gevent
import msgspec
from gevent import Greenlet
from gevent.event import AsyncResult

from ..errors import ConnectionEnded, LayerUnavailable, TooManyGroups

#: First byte of a call or an answer; MessagePack, and so a message, never begins so.
MARK = b"\xc1"

#: Seconds that a call waits for its answer.
CALL_TIMEOUT = 2.0

#: Calls of others that are carried out at the same time; more are refused.
MAX_CALLS = 1000

#: What a caller is told by name.
ERRORS: dict[str, Callable[[str], Exception]] = {
    "TooManyGroups": TooManyGroups,
    "ConnectionEnded": lambda text: ConnectionEnded(reason=text),
    "LayerUnavailable": LayerUnavailable,
}

logger = logging.getLogger("greenchannels.layer")


class RemoteCalls:
    """
    Calls to other layers, and theirs to this one.

    Args:
        publish: Sends bytes on a topic; returns whether they were lost.
        perform: Carries out ``(operation, topic, channel name)`` for another process;
            may block.

    """

    def __init__(
        self,
        publish: Callable[[str, bytes], bool],
        perform: Callable[[str, str, str], None],
    ) -> None:
        self._publish = publish
        self._perform = perform
        self._origin = ""
        self._number = 0
        #: What waits for an answer, from which process, and for what.
        self._calls: dict[int, tuple[AsyncResult[str], str, str]] = {}
        self._running: set[Greenlet[..., Any]] = set()

    def start(self, origin: str) -> None:
        """Calls may be made, in the name of ``origin``."""
        self._origin = origin

    def close(self) -> None:
        """End the calls of others, and fail those that wait."""
        running, self._running = self._running, set()
        gevent.killall(list(running), block=False)
        for result, _, _ in self._calls.values():
            result.set("LayerUnavailable:the layer has been closed")

    def call(self, operation: str, topic: str, channel: str) -> None:
        """
        Have the process that ``channel`` belongs to do something with its socket.

        Blocks until it has answered, at most ``CALL_TIMEOUT`` seconds.

        Raises:
            LayerUnavailable: If it cannot be reached, or does not answer.
            TooManyGroups: If the socket is in as many groups as it may.
            ConnectionEnded: If there is no such socket any more.

        """
        process = channel.partition("!")[0]
        self._number += 1
        number = self._number
        result: AsyncResult[str] = AsyncResult()
        self._calls[number] = result, process, operation
        try:
            self._tell(process, (self._origin, number, operation, topic, channel))
            answer = result.get(timeout=CALL_TIMEOUT)
        except gevent.Timeout:
            raise LayerUnavailable(f"{process} does not answer") from None
        finally:
            del self._calls[number]
        if answer:
            name, _, text = answer.partition(":")
            raise ERRORS[name](text)

    def fail(self, process: str, *, lives: bool) -> bool:
        """
        Answer the calls to a process that does not hear; never blocks.

        Args:
            process: Who does not.
            lives: Whether it is only away, as far as is known.

        Returns:
            Whether there were some.

        """
        calls = [c for c in self._calls.values() if c[1] == process]
        for result, _, operation in calls:
            if lives:
                result.set(f"LayerUnavailable:{process} does not hear now")
            elif operation == "discard":
                result.set("")
            else:
                result.set(f"ConnectionEnded:{process} is no more")
        return bool(calls)

    def take(self, data: bytes) -> None:
        """
        Take a call or an answer. Hub only; never blocks.

        Raises:
            ValueError: If it is neither.

        """
        try:
            message = msgspec.msgpack.decode(data[len(MARK) :], type=list[Any])
        except msgspec.MsgspecError as error:
            raise ValueError(f"no call: {error}") from error
        match message:
            case [int(number), str(answer)]:
                if number in self._calls:
                    self._calls[number][0].set(answer)
            case [str(caller), int(number), str(what), str(topic), str(channel)]:
                self._begin(caller, number, what, topic, channel)
            case _:
                raise ValueError("no call")

    def _begin(self, caller: str, number: int, *call: str) -> None:
        if len(self._running) >= MAX_CALLS:
            self._answer(caller, number, "LayerUnavailable:it has too much to do")
            return
        greenlet = Greenlet(self._run, caller, number, *call)
        greenlet.name = f"greenchannels {call[0]} for {caller}"
        self._running.add(greenlet)
        greenlet.rawlink(self._running.discard)
        greenlet.start()

    def _run(self, caller: str, number: int, *call: str) -> None:
        answer = ""
        try:
            self._perform(*call)
        except ConnectionEnded as error:
            answer = f"ConnectionEnded:{error.reason}"
        except TooManyGroups as error:
            answer = f"TooManyGroups:{error}"
        except Exception as error:
            logger.exception("a call of %s failed", caller)
            answer = f"LayerUnavailable:it failed with {type(error).__name__}"
        self._answer(caller, number, answer)

    def _answer(self, caller: str, number: int, answer: str) -> None:
        try:
            self._tell(caller, (number, answer))
        except LayerUnavailable:
            logger.debug("%s does not hear the answer", caller)

    def _tell(self, process: str, message: tuple[Any, ...]) -> None:
        data = MARK + msgspec.msgpack.encode(message)
        if not self._publish("p:" + process, data):
            raise LayerUnavailable(f"{process} cannot be reached")
