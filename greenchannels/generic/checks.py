"""
What can be seen to be wrong with a consumer class before anybody connects.

Only what can never work is refused: an attribute that a method sets, or that is
computed for each object, may be anything.
"""

from __future__ import annotations

import dis
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from string import Formatter
from types import FunctionType
from typing import Any

from ..errors import ConfigurationError
from ..groups import Group


def check_methods(cls: type[Any]) -> None:
    """
    Check that no method that events or the engine call is a coroutine function.

    Raises:
        ConfigurationError: If one is.

    """
    for name in dir(cls):
        if name.startswith("_"):
            continue
        value = inspect.getattr_static(cls, name)
        function = getattr(value, "__func__", value)
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(
            function
        ):
            raise ConfigurationError(
                f"{cls.__name__}.{name} is async;"
                f" here handlers are plain functions that block"
            )


def check_arguments(cls: type[Any], arguments: dict[str, Any]) -> None:
    """
    Check that an object of the class can be made with these keyword arguments.

    Raises:
        ConfigurationError: If its constructor does not take them, or needs others.

    """
    try:
        signature = inspect.signature(cls)
    except (ValueError, TypeError):
        return  # it has none that could be known
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ConfigurationError(f"{cls.__name__} cannot be made: {error}") from None


def check_concurrency(cls: type[Any]) -> None:
    """
    Check ``max_concurrency``.

    Raises:
        ConfigurationError: If it is no whole number from 1 on.

    """
    most = cls.max_concurrency
    if is_fixed(cls, "max_concurrency") and (type(most) is not int or most < 1):
        raise ConfigurationError(
            f"{cls.__name__}.max_concurrency is a whole number from 1 on, not {most!r}"
        )


def check_groups(cls: type[Any]) -> None:
    """
    Check ``groups``, but for which fields the path has.

    Raises:
        ConfigurationError: If it can hold no names of groups.

    """
    if cls.groups is None or not is_fixed(cls, "groups"):
        return
    _check_kind(cls)
    for pattern in map(str, cls.groups):
        try:
            if not fields_of(pattern):
                Group(pattern.format())
        except ValueError as error:
            raise ConfigurationError(
                f"{cls.__name__}.groups has {pattern!r}: {error}"
            ) from None


def _check_kind(cls: type[Any]) -> None:
    """Check that ``groups`` can be gone through at each connection."""
    groups = cls.groups
    wrong = isinstance(groups, str | bytes | Iterator)
    if wrong or not isinstance(groups, Iterable):
        raise ConfigurationError(
            f"{cls.__name__}.groups is a list of names, not {groups!r}"
        )


def check_group_fields(cls: type[Any], fields: Iterable[str]) -> None:
    """
    Check that a path has the fields that ``groups`` names.

    Args:
        cls: The class, after ``check_groups``.
        fields: Those of the path.

    Raises:
        ConfigurationError: If it has not.

    """
    if cls.groups is None or not is_fixed(cls, "groups"):
        return
    for pattern in map(str, cls.groups):
        for name in sorted(fields_of(pattern) - set(fields)):
            raise ConfigurationError(
                f"{cls.__name__}.groups has {pattern!r}, but the path has no"
                f" field <{name}>"
            )


def fields_of(pattern: str) -> set[str]:
    """
    Return the names of the fields that ``pattern.format(**fields)`` asks for.

    Raises:
        ValueError: If it cannot be formatted, or a field has no name.

    """
    found: set[str] = set()
    for _, name, spec, _ in Formatter().parse(pattern):
        if name is None:
            continue
        first = re.split(r"[.\[]", name, maxsplit=1)[0]
        if not first or first.isdigit():
            raise ValueError("a field needs the name of one in the path")
        found |= {first} | fields_of(spec or "")
    return found


def is_fixed(cls: type[Any], name: str) -> bool:
    """Say whether objects have this attribute of the class as it stands there."""
    if hasattr(type(inspect.getattr_static(cls, name)), "__get__"):
        return False
    methods = (m for c in cls.__mro__ for m in vars(c).values())
    return not any(_sets(m, name) for m in methods if isinstance(m, FunctionType))


def _sets(method: Callable[..., Any], name: str) -> bool:
    """Say whether a method sets an attribute of this name."""
    code = method.__code__
    return name in code.co_names and any(
        each.opname == "STORE_ATTR" and each.argval == name
        for each in dis.get_instructions(code)
    )
