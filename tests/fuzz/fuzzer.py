"""
One coverage-guided run: ``python -m tests.fuzz.fuzzer TARGET [libFuzzer's options]``.

A process of its own, because atheris changes each module as it is imported, and ends
the process when it is done. ``coverage_guided.py`` starts it.
"""

import sys

import atheris


def main():
    """Fuzz; does not return."""
    # Before anything else imports them.
    with atheris.instrument_imports(include=["greenchannels.wire"]):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
