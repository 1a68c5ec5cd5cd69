"""
A Python 2.7 and, in a cache folder of its own, the test suite that needs it.

Autobahn|Testsuite runs under no Python 3. It is installed into a plain folder
and not into an environment, because that needs nothing but the pip that comes
with Python 2.7.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

RELEASE = "25.10.1"

#: Asked in this order when nobody names an interpreter: what stands on PATH, and
#: pyenv's last 2.7, whose ``python2.7`` answers only to those who ask by version.
ENVIRONMENTS = ({}, {"PYENV_VERSION": "2.7.18"})

#: Started with the folder and wstest's arguments. ``addsitedir`` and not
#: PYTHONPATH: zope is a namespace package, made by a .pth file.
WSTEST = (
    "import site, sys; site.addsitedir(sys.argv.pop(1));"
    "from autobahntestsuite.wstest import run; run()"
)


class NoPython2(Exception):
    """No Python 2.7 was found."""


def find_python2(named=None):
    """
    Return the path of a Python 2.7.

    Args:
        named: An interpreter to use and no other; ``None`` looks for one.

    Raises:
        NoPython2: If there is none, or ``named`` is none.

    """
    for environment in ENVIRONMENTS:
        found = executable_of(named or "python2.7", environment)
        if found is not None:
            return found
    raise NoPython2(f"no Python 2.7 starts by the name {named or 'python2.7'}")


def executable_of(command, environment):
    """Return the interpreter behind a command, or ``None`` if it is not a 2.7."""
    question = (
        "import sys; print('%d.%d %s' % (sys.version_info[:2] + (sys.executable,)))"
    )
    try:
        done = subprocess.run(
            [command, "-c", question],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    version, _, path = done.stdout.strip().partition(" ")
    return path if done.returncode == 0 and version == "2.7" else None


def cache_folder():
    """Return the folder of the installed suite, whether it exists or not."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "greenchannels" / f"autobahntestsuite-{RELEASE}"


def install_suite(python2):
    """
    Return the folder with the suite; install it there first if it is missing.

    Raises:
        RuntimeError: If pip cannot install it; its output is in the message.

    """
    folder = cache_folder()
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = tempfile.mkdtemp(prefix="installing-", dir=folder.parent)
    try:
        pip_install(python2, f"autobahntestsuite=={RELEASE}", fresh)
        move_into_place(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def pip_install(python2, requirement, folder):
    """Install a requirement and all it needs into a folder."""
    done = subprocess.run(
        [python2, "-m", "pip", "install", "--quiet", "--target", folder, requirement],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    if done.returncode:
        raise RuntimeError(f"pip could not install {requirement}:\n{done.stdout}")


def move_into_place(fresh, folder):
    """Give an installed folder its name; another run may have been faster."""
    try:
        os.rename(fresh, folder)
    except OSError:
        if not folder.is_dir():
            raise


def run_wstest(python2, spec, *, timeout):
    """
    Run the fuzzing client by a spec file and return what it printed.

    Args:
        python2: The interpreter's path.
        spec: The spec file's path.
        timeout: Seconds for all its cases.

    Raises:
        RuntimeError: If it fails as a program; its output is in the message.

    """
    arguments = [str(install_suite(python2)), "-m", "fuzzingclient", "-s", str(spec)]
    done = subprocess.run(
        [python2, "-c", WSTEST, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    if done.returncode:
        raise RuntimeError(f"wstest ended with {done.returncode}:\n{done.stdout}")
    return done.stdout
