"""Build the optional C accelerators; everything else is in setup.cfg."""

import os

from setuptools import Extension, setup

#: Without a compiler the pure Python code beside each does the work.
SPEEDUPS = [
    Extension(
        f"greenchannels.{part}._speedups",
        sources=[f"greenchannels/{part}/_speedups.c"],
        extra_compile_args=["-O3"],
        optional=True,
    )
    for part in ("wire", "net")
]

setup(ext_modules=[] if os.environ.get("GREENCHANNELS_PURE") else SPEEDUPS)
