"""The WSGI applications, the same for every server that runs them."""

from flask import Flask

#: Bytes that ``upload`` reads at a time.
PIECE = 64 * 1024


def hello(environ, start_response):
    """Say hello."""
    headers = [("Content-Type", "text/plain"), ("Content-Length", "5")]
    start_response("200 OK", headers)
    return [b"hello"]


def upload(environ, start_response):
    """Read the body piece by piece and say how long it was."""
    size = 0
    while piece := environ["wsgi.input"].read(PIECE):
        size += len(piece)
    answer = str(size).encode()
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))]
    start_response("200 OK", headers)
    return [answer]


flask = Flask(__name__)


@flask.route("/")
def flask_hello():
    """Say hello."""
    return "hello"
