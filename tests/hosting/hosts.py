"""The ways in which a WSGI application is served."""

import contextlib
from wsgiref.validate import validator

import gevent

from greenchannels import include, wsgi
from tests.servers.harness import MS


def as_it_is(path, app):
    """Return a route that hands requests to the application directly."""
    return wsgi(path, app)


def validated(path, app):
    """Return a route with the checks of PEP 3333 around the application."""
    return wsgi(path, validator(app))


def behind_middleware(path, app):
    """Return a route whose application speaks GSGI's events."""

    def between(inner):
        return lambda scope, receive, send: inner(scope, receive, send)

    return include("", [wsgi(path, app)], middleware=[between])


PLAIN = [("Content-Type", "text/plain")]

HOSTS = [as_it_is, validated, behind_middleware]


@contextlib.contextmanager
def noting(calls, what):
    """Note that a block has been left."""
    try:
        yield
    finally:
        calls.append(what)


def stays(value, seconds=50 * MS):
    """Return whether a value stays the same for a while."""
    before = value()
    gevent.sleep(seconds)
    return value() == before


def hello(environ, start_response):
    """Answer."""
    start_response("200 OK", PLAIN)
    return [b"hello"]
