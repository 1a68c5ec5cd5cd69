"""Build the optional C accelerator; everything else is in pyproject.toml."""

import os

from setuptools import Extension, setup

SPEEDUPS = Extension(
    "greenchannels.wire._speedups",
    sources=["greenchannels/wire/_speedups.c"],
    extra_compile_args=["-O3"],
    optional=True,  # without a compiler the pure Python code does the work
)

setup(ext_modules=[] if os.environ.get("GREENCHANNELS_PURE") else [SPEEDUPS])
