"""
The architecture: which part of greenchannels may import which.

The table is the diagram. A part is a module or a package directly under
``greenchannels``; imports inside functions and for type checkers count too.
"""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

#: Found without importing it, so that no broken module hides what breaks it.
PACKAGE = Path(importlib.util.find_spec("greenchannels").origin).parent

#: They start programs: they may import anything and nobody imports them. Only
#: they read environment and argv, or monkey-patch.
EDGES = {"__main__", "cli", "contrib", "gunicorn", "testing.plugin"}

#: What each part may import beside itself.
MAY_IMPORT = {
    "errors": set(),
    "types": {"errors"},
    "close_codes": set(),
    "text": {"types"},
    "options": {"errors"},
    "wire": {"errors", "types", "options"},
    "net": {"errors", "types", "options", "wire"},
    "layers": {"errors", "types", "options", "wire", "net"},
    "groups": {"errors", "types", "layers"},
    "channels": {"errors", "types", "layers"},
    "security": {"errors", "types"},
    "children": {"errors", "close_codes", "text"},
    "request_fields": {"types"},
    "sockets": {
        *("errors", "types", "close_codes", "text"),
        *("layers", "groups", "children", "request_fields"),
    },
    "event_sockets": {"errors", "types", "close_codes", "text", "layers", "sockets"},
    "hosting": {"errors", "types", "options", "sockets", "groups", "hosting.streams"},
    "hosting.streams": {
        *("errors", "types", "options", "wire", "groups", "text"),
        *("hosting.events", "hosting.lines"),
    },
    "hosting.lines": {"errors", "types", "options", "wire", "layers", "hosting.events"},
    "hosting.events": {"wire", "layers", "groups"},
    "exceptions": {"errors"},
    "generic": {
        *("errors", "exceptions", "types", "close_codes", "text"),
        *("groups", "channels", "sockets", "event_sockets"),
    },
    "consumer": {"exceptions", "generic"},
    "routing": {
        *("errors", "types", "options"),
        *("sockets", "event_sockets", "hosting", "security"),
    },
}
MAY_IMPORT["servers"] = set(MAY_IMPORT) - {"generic", "consumer"}
MAY_IMPORT["gunicorn_settings"] = {"errors", "options", "layers"}
MAY_IMPORT["handover"] = {"close_codes", "wire", "net", "hosting", "servers"}
MAY_IMPORT["stock"] = {
    *("errors", "options", "layers", "hosting", "routing", "servers"),
    "gunicorn_settings",
}
MAY_IMPORT["applications"] = {
    *("errors", "types", "options", "routing", "hosting"),
    *("handover", "stock"),
}
MAY_IMPORT["testing"] = set(MAY_IMPORT)
#: The package itself, which holds the public names.
MAY_IMPORT["__init__"] = set(MAY_IMPORT) - {"testing"}

#: What wire/ does without: bytes know no I/O, no clock and no threads.
NOT_IN_WIRE = {
    *("gevent", "greenlet", "asyncio", "socket", "select", "selectors", "ssl"),
    *("time", "threading", "_thread"),
}

#: A module of such a name would replace the function on the package.
PUBLIC_FUNCTIONS = {
    *("websocket", "http", "static", "include", "gsgi", "lifespan", "wsgi", "asgi"),
    "application",
    *("channel", "every", "cron", "mqtt", "email", "sms"),
}

#: What only edges read.
PROCESS_STATE = {"os.environ", "os.environb", "os.getenv", "sys.argv"}

#: They say where the processes of a user meet and by which layer, also those that no
#: edge has started: a script, a Celery task.
READS_ENVIRONMENT = {
    "greenchannels.layers.ipc_folder",
    "greenchannels.layers.registry",
}


def modules():
    """Return every module of the package, as a test parameter named after it."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return [pytest.param(path, id=module_name(path)) for path in paths]


def module_name(path):
    """Return the dotted name of a module, ``...__init__`` for a package's own."""
    relative = path.relative_to(PACKAGE.parent).with_suffix("")
    return ".".join(relative.parts)


def part_of(module):
    """Return the part that a dotted name below greenchannels belongs to."""
    below = module.split(".")[1:] or ["__init__"]
    for length in (2, 1):
        part = ".".join(below[:length])
        if part in EDGES or part in MAY_IMPORT:
            return part
    return below[0]


def imported_names(source, module):
    """
    Return the dotted names that a module imports, relative ones resolved.

    ``from a import b`` gives ``a.b``: whether ``b`` is a module or a name in
    one makes no difference to the part it belongs to.

    Raises:
        ImportError: If a relative import climbs out of greenchannels.

    """
    package = module.rpartition(".")[0]
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            start = importlib.util.resolve_name(start, package)
            names |= {f"{start}.{alias.name}" for alias in node.names}
    return names


def imported_parts(source, module):
    """Return the parts of greenchannels that a module imports, its own left out."""
    parts = set()
    for name in imported_names(source, module):
        if name.split(".")[0] == "greenchannels":
            part = part_of(name)
            # What is no module comes from the package itself.
            parts.add(part if is_part(part) else "__init__")
    return parts - {part_of(module)}


def is_part(name):
    """Say whether a name below greenchannels is a module, not a name of its own."""
    path = PACKAGE.joinpath(*name.split("."))
    known = name in EDGES or name in MAY_IMPORT
    return known or path.exists() or path.with_suffix(".py").exists()


def used_names(source, module):
    """Return the dotted names that a module imports or reaches by attributes."""
    tree = ast.walk(ast.parse(source))
    attributes = {ast.unparse(node) for node in tree if isinstance(node, ast.Attribute)}
    return attributes | imported_names(source, module)


def process_state(source, module):
    """Return what a module reads of environment and argv."""
    return used_names(source, module) & PROCESS_STATE


def patching(source, module):
    """Return which of gevent's monkey-patching functions a module names."""
    names = used_names(source, module)
    return {name for name in names if re.search(r"\bmonkey\.patch_\w+$", name)}


@pytest.mark.parametrize("path", modules())
def test_imports_follow_the_architecture(path):
    """A part imports what the table says, and edges are imported by edges only."""
    module = module_name(path)
    part = part_of(module)
    imported = imported_parts(path.read_text(), module)
    if part not in EDGES:
        assert part in MAY_IMPORT, f"{part} is no part of the architecture yet"
        assert imported <= MAY_IMPORT[part]


@pytest.mark.parametrize("path", modules())
def test_only_edges_read_the_process_or_patch_it(path):
    """Environment and argv become options, and patching stays, at the edge."""
    module = module_name(path)
    if part_of(module) not in EDGES:
        source = path.read_text()
        found = process_state(source, module) | patching(source, module)
        assert found <= ({"os.environ"} if module in READS_ENVIRONMENT else set())


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "wire").glob("*.py")), ids=module_name
)
def test_wire_knows_no_io(path):
    """No hub, socket, clock or thread where bytes become events."""
    names = imported_names(path.read_text(), module_name(path))
    assert {name.split(".")[0] for name in names} & NOT_IN_WIRE == set()


def test_no_module_bears_the_name_of_a_public_function():
    """Importing it would replace the function on the package."""
    found = {path.stem for path in PACKAGE.iterdir()}
    assert found & PUBLIC_FUNCTIONS == set()


@pytest.mark.parametrize(
    ("source", "module", "parts"),
    [
        ("from ..wire import frames", "greenchannels.net.tls", {"wire"}),
        ("from .. import wire", "greenchannels.net.tls", {"wire"}),
        ("from .clock import Wheel", "greenchannels.net.tls", set()),
        ("from . import clock", "greenchannels.net.__init__", set()),
        ("from .layers import Layer", "greenchannels.groups", {"layers"}),
        ("import greenchannels.cli.run", "greenchannels.net.tls", {"cli"}),
        ("from greenchannels import Group", "greenchannels.net.tls", {"__init__"}),
        ("from greenchannels import errors", "greenchannels.net.tls", {"errors"}),
        ("def f():\n  from ..groups import Group", "greenchannels.net.a", {"groups"}),
        ("from .plugin import client", "greenchannels.testing.a", {"testing.plugin"}),
        ("from .groups import Group", "greenchannels.__init__", {"groups"}),
        ("import gevent", "greenchannels.net.tls", set()),
    ],
)
def test_the_scan_sees_every_form_of_import(source, module, parts):
    """Absolute, relative, nested: all name the same parts."""
    assert imported_parts(source, module) == parts


def test_the_scan_refuses_to_climb_out_of_the_package():
    """A relative import above greenchannels is an error of its own."""
    with pytest.raises(ImportError):
        imported_parts("from ... import tests", "greenchannels.net.tls")


@pytest.mark.parametrize(
    "source",
    [
        "from gevent import monkey; monkey.patch_all()",
        "import gevent.monkey; gevent.monkey.patch_socket()",
        "from gevent.monkey import patch_all",
    ],
)
def test_the_scan_sees_patching(source):
    """However the function is reached."""
    assert patching(source, "greenchannels.net.tls")


def test_the_scan_allows_asking_what_is_patched():
    """Only patching itself is an edge's affair."""
    source = "from gevent import monkey; monkey.is_module_patched('ssl')"
    assert not patching(source, "greenchannels.net.tls")


@pytest.mark.parametrize(
    "source",
    ["import os; os.environ['A']", "from os import getenv", "import sys; sys.argv[1:]"],
)
def test_the_scan_sees_process_state(source):
    """However it is read."""
    assert process_state(source, "greenchannels.net.tls")
