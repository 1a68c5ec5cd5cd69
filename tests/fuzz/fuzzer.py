"""
One coverage-guided run: ``python -m tests.fuzz.fuzzer TARGET [libFuzzer's options]``.

A process of its own, because atheris changes each module as it is imported, and ends
the process when it is done. ``coverage_guided.py`` starts it.
"""

import shlex
import sys

import atheris


def main():
    """Fuzz; does not return."""
    # Before anything else imports them.
    with atheris.instrument_imports(include=["greenchannels.wire"]):
        from tests.fuzz.targets import TARGETS
    name = sys.argv[1]
    # With this libFuzzer starts itself anew, by the shell, in order to merge.
    command = f"{shlex.quote(sys.executable)} -m tests.fuzz.fuzzer {name}"
    atheris.Setup([command, *sys.argv[2:]], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
