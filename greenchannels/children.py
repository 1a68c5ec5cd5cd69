"""
Child greenlets: what a consumer lets run beside itself, and who ends them.

A child never outlives its socket. It must not end it in silence either: what a
child raises closes the socket.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable
from typing import Any

import gevent
from gevent import Greenlet, GreenletExit, getcurrent

from .close_codes import INTERNAL_ERROR, NORMAL
from .errors import ConnectionEnded
from .text import printable

logger = logging.getLogger("greenchannels.socket")


class Child(Greenlet):  # type: ignore[type-arg]
    """A child greenlet; it is asked to end once, and may take its time to clean up."""

    #: Its name says where it comes from; walking the stack for each costs 1 us.
    spawning_stack_limit = 0

    asked_to_end = False

    def ask_to_end(self) -> None:
        """Raise GreenletExit in it, unless that has been done; never blocks."""
        if not self.asked_to_end:
            self.asked_to_end = True
            self.kill(GreenletExit, block=False)


class Parent:
    """
    A socket as the owner of child greenlets.

    It owns the set of them, made for the first. Of the socket it needs ``path``,
    ``close``, ``_check_alive`` and ``_source``.
    """

    __slots__ = ("_children",)

    _children: set[Child] | None

    def spawn(
        self, function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Greenlet[..., Any]:
        """
        Run ``function(*args, **kwargs)`` in a child greenlet; never blocks.

        The child runs in a copy of this greenlet's context, and is killed and
        joined when the consumer or the socket ends. An exception that leaves
        it closes the socket with 1011; its own kill and its socket's
        ``ConnectionEnded`` are no errors.

        Raises:
            ConnectionEnded: If the socket has ended.

        """
        self._check_alive()
        child = Child(self._run_child, function, args, kwargs)
        child.gr_context = contextvars.copy_context()
        child.name = f"child of {self.path}: {getattr(function, '__name__', function)}"
        if self._children is None:
            self._children = set()
        self._children.add(child)
        child.rawlink(self._forget_child)
        child.start()
        return child

    def _run_child(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        try:
            return function(*args, **kwargs)
        except ConnectionEnded as error:
            if error.source is not self._source():
                self._child_failed(function)
        except (Exception, gevent.Timeout, SystemExit):
            self._child_failed(function)
        return None

    def _forget_child(self, child: Child) -> None:
        """A child has ended, or was killed before it began."""
        if self._children is not None:
            self._children.discard(child)

    def _child_failed(self, function: Callable[..., Any]) -> None:
        logger.exception("%s: child %r failed", printable(self.path), function)
        self.close(INTERNAL_ERROR)

    def _kill_children(self) -> None:
        """Ask all children to end; never blocks."""
        for child in tuple(self._children or ()):
            child.ask_to_end()

    def join_children(self, timeout: float | None) -> None:
        """Kill the children and wait for them, at most ``timeout`` seconds."""
        if not self._children:
            return
        current = getcurrent()
        children = [child for child in self._children if child is not current]
        for child in children:
            child.ask_to_end()
        gevent.joinall(children, timeout=timeout)
        left = sum(not child.dead for child in children)
        if left:
            where = printable(self.path)
            logger.warning("%s: %d children did not end in time", where, left)

    # What the socket is.

    @property
    def path(self) -> str:
        """The path asked for."""
        raise NotImplementedError

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """End the socket."""
        raise NotImplementedError

    def _check_alive(self) -> None:
        """Raise what ended this socket, if something did."""
        raise NotImplementedError

    def _source(self) -> object:
        """Return what marks the ``ConnectionEnded`` of this socket."""
        raise NotImplementedError
