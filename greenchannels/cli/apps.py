"""Find the routing that ``MODULE:NAME`` names."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import Any

from ..errors import ConfigurationError
from ..routing import Router


class AppError(Exception):
    """An app that cannot be loaded; the text says why, in one line."""


def full_spec(spec: str) -> str:
    """Return ``module:name`` for what may be the module alone."""
    module, _, name = spec.partition(":")
    return f"{module}:{name or 'routing'}"


def load_router(spec: str) -> Router:
    """
    Return the routing called ``spec``; the current directory is importable.

    An app that raises while it is imported has its traceback printed.

    Args:
        spec: ``module:name``, or ``module`` alone for ``module:routing``.

    Raises:
        AppError: If there is no such module or routing.

    """
    module_name, _, name = full_spec(spec).partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    found: Any = _import(module_name)
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise AppError(f"module {module_name!r} has no {name!r}") from None
    try:
        return found if isinstance(found, Router) else Router(found)
    except ConfigurationError as error:
        raise AppError(f"{spec} is not a routing: {error}") from None


def _import(name: str) -> Any:
    if not name or not all(part.isidentifier() for part in name.split(".")):
        raise AppError(f"{name!r} is not a module's name: write module:routing")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name + ".").startswith(error.name + "."):
            raise AppError(
                f"no module named {error.name!r} here ({os.getcwd()}) or on the path"
            ) from None
        _print_traceback()
        raise AppError(f"{name!r} could not be imported: {error}") from None
    except (Exception, SystemExit) as error:
        _print_traceback()
        text = f"{type(error).__name__}: {error}".rstrip(": ")
        raise AppError(f"{name!r} could not be imported: {text}") from None


def _print_traceback() -> None:
    """Print the current exception from the app's own first line on."""
    kind, error, trace = sys.exc_info()
    while trace is not None and "importlib" in trace.tb_frame.f_code.co_filename:
        trace = trace.tb_next
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    while trace is not None and "importlib" in trace.tb_frame.f_code.co_filename:
        trace = trace.tb_next
    traceback.print_exception(kind, error, trace)
