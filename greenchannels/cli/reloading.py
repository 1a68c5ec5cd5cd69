"""``run --reload``: which source files there are, and whether one has changed."""

from __future__ import annotations

import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator

import gevent

from ..routing import Router
from ..types import Receive, Scope, Send

#: Seconds between two looks at all files.
INTERVAL = 0.2

#: What nobody edits: the standard library and installed packages.
INSTALLED = tuple(
    sysconfig.get_path(name) + os.sep for name in ("stdlib", "purelib", "platlib")
)

#: What tells that a file is another: time and size; ``None`` if there is none.
Stamp = tuple[int, int] | None


class SourceFiles:
    """
    The files of the modules that have been imported, and some more.

    Args:
        more: Files that failed to be imported.

    """

    def __init__(self, more: Iterable[str] = ()) -> None:
        self._more = tuple(more)
        self._stamps: dict[str, Stamp] = {}
        self.changed()

    def changed(self) -> str | None:
        """Return a file that has changed since it was first looked at, if any."""
        for path in {*self._more, *_module_files()}:
            stamp = _stamp(path)
            if self._stamps.setdefault(path, stamp) != stamp:
                return path
        return None

    def watch(self, on_change: Callable[[str], object]) -> None:
        """Call ``on_change`` with the first file that changes; blocks until then."""
        while (path := self.changed()) is None:
            gevent.sleep(INTERVAL)
        on_change(path)


def _module_files() -> Iterator[str]:
    for module in tuple(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and not path.startswith(INSTALLED):
            yield path


def _stamp(path: str) -> Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def files_of(error: BaseException | None, module: str) -> list[str]:
    """Return the files whose change may mend a failed import of ``module``."""
    base = os.path.join(os.getcwd(), *module.split("."))
    found = [base + ".py", os.path.join(base, "__init__.py")]
    while error is not None:
        if isinstance(error, SyntaxError) and error.filename:
            found.append(os.path.abspath(error.filename))
        frames = traceback.walk_tb(error.__traceback__)
        found += (frame.f_code.co_filename for frame, _ in frames)
        error = error.__cause__ or error.__context__
    return found


def failure_page(text: str) -> Router:
    """Return a routing that answers all requests with what went wrong."""
    body = text.encode("utf-8", "replace") + b"\n"

    def fail(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"nothing serves {scope['type']!r}: {text}")
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        send({"type": "http.response.start", "status": 500, "headers": headers})
        send({"type": "http.response.body", "body": body})

    return Router(fail)
