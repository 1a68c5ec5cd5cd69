"""Options: numbers of the wrong kind are refused before anything is served."""

import math
import sys
from dataclasses import fields

import pytest

from greenchannels import (
    ConfigurationError,
    HTTPLimits,
    Limits,
    Server,
    ServerOptions,
    Timeouts,
)
from greenchannels.options import LONGEST, check_options

#: Where each part of the options stands.
PARTS = {"limits": Limits, "http": HTTPLimits, "timeouts": Timeouts}


def options(part, name, value):
    """Return options with one number in one of their parts."""
    if part is None:
        return ServerOptions(**{name: value})
    return ServerOptions(**{part: PARTS[part](**{name: value})})


def numbers(kind):
    """Return where the options of one kind are, as parts and names."""
    found = [
        (part, each.name)
        for part, cls in PARTS.items()
        for each in fields(cls)
        if each.type == f"{kind} | None"
    ]
    if kind == "int":
        found += [(None, "max_connections"), (None, "max_total_buffer")]
    return found


COUNTS, DURATIONS = numbers("int"), [*numbers("float"), (None, "drain")]


def test_every_number_is_one_of_the_two_kinds():
    """What has another annotation is not looked at."""
    others = [
        (each.name, each.type)
        for cls in PARTS.values()
        for each in fields(cls)
        if each.type not in ("int | None", "float | None")
    ]
    assert others == [("rates", "tuple[Rate, ...]")]
    assert len(COUNTS) == 12
    assert len(DURATIONS) == 10


@pytest.mark.parametrize("value", [1e6, 1.5, math.nan, math.inf, "5", b"5", True, [1]])
@pytest.mark.parametrize(("part", "name"), COUNTS)
def test_a_size_or_count_is_a_whole_number(part, name, value):
    """No float, either: much of what counts takes none."""
    says = f"^{name} is a whole number or None, not "
    with pytest.raises(ConfigurationError, match=says):
        check_options(options(part, name, value))
    with pytest.raises(ConfigurationError, match=says):
        Server([], options=options(part, name, value))


@pytest.mark.parametrize(
    "value",
    [sys.maxsize + 1, 10**400, 10**5000, -(10**5000)],
    ids=["a bit", "no float", "no decimals", "negative"],
)
@pytest.mark.parametrize(("part", "name"), COUNTS)
def test_a_size_or_count_fits_a_machine_word(part, name, value):
    """C counts in those."""
    with pytest.raises(ConfigurationError, match=f"^{name} is {sys.maxsize} at most"):
        check_options(options(part, name, value))


@pytest.mark.parametrize("value", ["5", b"5", True, [1], 1j])
@pytest.mark.parametrize(("part", "name"), DURATIONS)
def test_a_duration_is_a_number_of_seconds(part, name, value):
    """Whole or not."""
    with pytest.raises(ConfigurationError, match=f"^{name} is a number of seconds, "):
        check_options(options(part, name, value))


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, 1e10, 10**5000],
    ids=["nan", "inf", "-inf", "too long", "no decimals"],
)
@pytest.mark.parametrize(("part", "name"), DURATIONS)
def test_a_duration_has_an_end(part, name, value):
    """None is for those that have none."""
    with pytest.raises(ConfigurationError, match=f"^{name} is a number of seconds up"):
        check_options(options(part, name, value))


@pytest.mark.parametrize(("part", "name"), [*COUNTS, *DURATIONS])
def test_no_number_is_negative(part, name):
    """And few are zero."""
    with pytest.raises(ConfigurationError, match=f"^{name} must .*, not -1$"):
        check_options(options(part, name, -1))
    if name in ("max_body", "max_body_in_memory", "max_groups", "drain"):
        check_options(options(part, name, 0))
    else:
        with pytest.raises(ConfigurationError, match=f"^{name} must be positive"):
            check_options(options(part, name, 0))


@pytest.mark.parametrize(
    ("where", "values"),
    [*((w, (1, sys.maxsize, None)) for w in COUNTS)]
    + [*((w, (1, 0.5, LONGEST, None)) for w in DURATIONS[:-1])]
    + [(DURATIONS[-1], (0, 0.5, LONGEST))],
)
def test_numbers_that_make_sense_are_taken(where, values):
    """None lifts a limit."""
    for value in values:
        found = options(*where, value)
        assert check_options(found) is found


def test_the_drain_has_an_end():
    """A process that never ends serves nobody."""
    with pytest.raises(ConfigurationError, match="drain is a number of seconds"):
        check_options(ServerOptions(drain=None))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("value", [5, None, {}, Limits, Server])
def test_a_part_of_the_options_is_an_object_of_its_class(part, value):
    """No dict, and not the class."""
    with pytest.raises(ConfigurationError, match=f"^{part} is a .* object, not"):
        check_options(ServerOptions(**{part: value}))
