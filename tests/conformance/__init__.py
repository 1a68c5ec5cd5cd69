"""Autobahn's fuzzing client against our server: ``python -m tests.conformance``."""
