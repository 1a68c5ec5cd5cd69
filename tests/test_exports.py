"""The public names: complete, documented, and cheap to import."""

import inspect
import subprocess
import sys
from importlib import metadata

import pytest

import greenchannels

#: Optional, or needed by edges only.
NOT_AT_IMPORT = (
    *("click", "django", "flask", "gunicorn", "pytest", "redis"),
    *("greenchannels.cli", "greenchannels.testing"),
)

PUBLIC = [(name, getattr(greenchannels, name, None)) for name in greenchannels.__all__]


def documented_parts():
    """Return all that needs a docstring: public callables, members of classes too."""
    for name, thing in PUBLIC:
        if callable(thing):
            yield pytest.param(thing, id=name)
        if inspect.isclass(thing):
            for member, value in public_members(thing):
                yield pytest.param(value, id=f"{name}.{member}")


def public_members(cls):
    """Return the methods and properties that a class has for its users."""
    for base in cls.__mro__:
        if base.__module__.startswith("greenchannels."):
            for name, value in vars(base).items():
                described = callable(value) or isinstance(
                    value, (classmethod, property, staticmethod)
                )
                if described and not name.startswith("_"):
                    yield name, value


def in_fresh_python(code):
    """Run code in a new interpreter, where warnings are errors; return its output."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_all_names_every_public_name_once_and_in_order():
    """Nothing is public by accident, and nothing is missing."""
    public = {
        name
        for name, thing in vars(greenchannels).items()
        if not name.startswith("_") and not inspect.ismodule(thing)
    }
    assert greenchannels.__all__ == sorted(public)


@pytest.mark.parametrize(("name", "thing"), PUBLIC, ids=greenchannels.__all__)
def test_a_public_name_holds_no_module(name, thing):
    """A module of the same name would have replaced it."""
    assert thing is not None
    assert not inspect.ismodule(thing)


@pytest.mark.parametrize("thing", list(documented_parts()))
def test_public_callables_are_documented(thing):
    """An own docstring, not an inherited one, and a sentence."""
    text = inspect.cleandoc(thing.__doc__ or "")
    assert text.partition("\n\n")[0].endswith((".", ":", "::", "``"))


def test_the_errors_are_one_tree():
    """Whoever catches the base catches all."""
    errors = [
        thing
        for _, thing in PUBLIC
        if inspect.isclass(thing) and issubclass(thing, BaseException)
    ]
    assert errors
    assert all(issubclass(each, greenchannels.GreenchannelsError) for each in errors)


def test_every_error_is_public():
    """What can be raised can be caught by a public name."""
    defined = {
        name
        for name, thing in vars(greenchannels.errors).items()
        if inspect.isclass(thing) and thing.__module__ == greenchannels.errors.__name__
    }
    assert defined <= set(greenchannels.__all__)


def test_importing_patches_nothing():
    """A library that is imported leaves the program as it is."""
    code = "import greenchannels; from gevent import monkey; print(*monkey.saved)"
    assert in_fresh_python(code) == []


def test_patching_comes_in_time_after_the_import():
    """The command imports the package before it patches; gevent must not warn."""
    in_fresh_python(
        "import greenchannels; from gevent import monkey; monkey.patch_all()"
    )


def test_importing_takes_no_edge_and_nothing_optional():
    """Who needs one socket pays neither for a command line nor for Redis."""
    loaded = in_fresh_python("import greenchannels, sys; print(*sys.modules)")
    assert [name for name in NOT_AT_IMPORT if name in loaded] == []


def test_the_version_is_that_of_the_distribution():
    """One number, wherever it is asked for."""
    try:
        installed = metadata.version("greenchannels")
    except metadata.PackageNotFoundError:
        pytest.skip("greenchannels is imported without being installed")
    assert greenchannels.__version__ == installed
