"""One routing for each row over HTTP, run by greenchannels' own command line."""

import os

import wsgi_apps

from greenchannels import http, static, wsgi

#: Bytes that the view reads at a time.
PIECE = 64 * 1024


def say_hello(request):
    """Say hello."""
    return "hello"


def read(request):
    """Read the body to its end and say how long it was."""
    size = 0
    while piece := request.stream.read(PIECE):
        size += len(piece)
    return str(size)


hello = [wsgi("/", wsgi_apps.hello)]
flask = [wsgi("/", wsgi_apps.flask)]
files = [static("/", os.environ["BENCHMARK_FILES"])]
view = [http("/", say_hello)]
upload = [wsgi("/", wsgi_apps.upload)]
view_upload = [http("/", read, methods=("POST",))]
