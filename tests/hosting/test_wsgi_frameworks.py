"""Flask, Django, Bottle and Falcon over the real server, with real clients."""

import gzip
import io
import json
import logging
import shutil
import subprocess
import sys
import types

import bottle
import django
import falcon
import flask
import gevent
import pytest
import requests
from django.conf import settings
from django.core.signals import request_finished
from gevent.event import Event
from gevent.threadpool import ThreadPool
from werkzeug.middleware.proxy_fix import ProxyFix

from greenchannels import wsgi
from tests.hosting.hosts import noting, validated
from tests.servers.harness import MS, request, until

DATA = bytes(range(256)) * 1000


class Web:
    """A client of one server: ``requests``, in threads of its own."""

    def __init__(self, address):
        self.base = "http://{}:{}".format(*address)
        self._pool = ThreadPool(1)
        self._session = requests.Session()

    def __call__(self, method, path, **options):
        """Return the response to a request; waits for it."""
        return self._pool.apply(
            lambda: self._session.request(
                method, self.base + path, timeout=20, **options
            )
        )

    def get(self, path, **options):
        """Return the response to a GET."""
        return self("GET", path, **options)

    def post(self, path, **options):
        """Return the response to a POST."""
        return self("POST", path, **options)

    def close(self):
        """End its thread."""
        self._pool.apply(self._session.close)
        self._pool.kill()


@pytest.fixture
def browse(serve):
    """A function that serves an application below "/app" and returns a client."""
    clients = []

    def start(app, path="/app", host=wsgi, **options):
        clients.append(Web(serve([host(path, app)], **options).address))
        return clients[-1]

    yield start
    for client in clients:
        client.close()


def curl(*arguments):
    """Return what curl prints, while this hub goes on."""
    command = ["curl", "--silent", "--show-error", "--max-time", "20", *arguments]
    pool = ThreadPool(1)
    try:
        done = pool.apply(subprocess.run, (command,), {"capture_output": True})
    finally:
        pool.kill()
    assert done.returncode == 0, done.stderr
    return done.stdout


# Flask.


@pytest.fixture
def flask_app(tmp_path):
    """An application with what Flask applications usually do."""
    app = flask.Flask("flask_app")
    app.secret_key = "no secret"
    app.logger.setLevel(logging.CRITICAL)
    app.seen = []
    (tmp_path / "data.bin").write_bytes(DATA)

    @app.before_request
    def before():
        flask.g.begun = True

    @app.after_request
    def after(response):
        response.headers["X-After"] = str(flask.g.begun)
        return response

    @app.teardown_request
    def teardown(error):
        app.seen.append(("teardown", flask.request.path))

    @app.route("/")
    def index():
        return flask.url_for("form", x="ä b")

    @app.route("/form", methods=["GET", "POST"])
    def form():
        return flask.jsonify(flask.request.form.to_dict(flat=False))

    @app.route("/upload", methods=["POST"])
    def upload():
        file = flask.request.files["file"]
        return flask.jsonify([file.filename, len(file.read()), flask.request.form["a"]])

    @app.route("/json", methods=["PUT"])
    def as_json():
        return flask.request.get_json()

    @app.route("/stream")
    def stream():
        def pieces():
            yield f"{flask.request.args['q']} "
            app.goes_on.wait()
            yield flask.request.path

        return app.response_class(flask.stream_with_context(pieces()))

    @app.route("/endless")
    def endless():
        def pieces():
            with noting(app.seen, "left"):
                while True:
                    yield "piece"
                    gevent.sleep(MS)

        return app.response_class(pieces())

    @app.route("/file")
    def file():
        return flask.send_file(tmp_path / "data.bin", conditional=True)

    @app.route("/memory")
    def memory():
        return flask.send_file(io.BytesIO(DATA), mimetype="application/x-data")

    @app.route("/session")
    def session():
        flask.session["count"] = flask.session.get("count", 0) + 1
        return str(flask.session["count"])

    @app.route("/error")
    def error():
        raise KeyError("a secret")

    @app.route("/teapot")
    def teapot():
        flask.abort(418, "short and stout")

    @app.errorhandler(404)
    def missing(error):
        return "nothing here", 404

    @app.route("/redirect")
    def redirect():
        return flask.redirect(flask.url_for("session"))

    @app.route("/ä/<path:rest>")
    def unicode(rest):
        return rest

    @app.route("/where")
    def where():
        return flask.url_for("where", _external=True)

    app.goes_on = Event()
    return app


def test_flask_finds_its_way_under_a_prefix(browse, flask_app):
    """``url_for`` has the prefix in it, and leads back."""
    web = browse(flask_app, host=validated)
    answer = web.get("/app/")
    assert answer.text == "/app/form?x=%C3%A4+b"
    assert answer.headers["X-After"] == "True"
    assert web.get("/app/where").text == web.base + "/app/where"
    assert web.get("/app/%C3%A4/x/%E2%82%AC").text == "x/€"
    answer = web.get("/app/redirect")
    assert answer.url == web.base + "/app/session" and answer.text == "1"


def test_flask_reads_forms_files_and_json(browse, flask_app):
    """However large, and also in chunks."""
    web = browse(flask_app)
    form = {"a": ["1", "ä"], "b": ""}
    assert web.post("/app/form", data=form).json() == {"a": ["1", "ä"], "b": [""]}
    answer = web.post("/app/upload", data={"a": "x"}, files={"file": ("f", DATA * 10)})
    assert answer.json() == ["f", len(DATA) * 10, "x"]
    assert web("PUT", "/app/json", json={"a": [1]}).json() == {"a": [1]}
    assert web("PUT", "/app/json", data="{").status_code == 415
    chunked = iter([b'{"a"', b": 1}"])
    headers = {"Content-Type": "application/json"}
    answer = web("PUT", "/app/json", data=chunked, headers=headers)
    assert answer.json() == {"a": 1}


def test_flask_streams_with_its_context(serve, flask_app):
    """A piece at a time; the request is torn down."""
    client = serve([wsgi("/", flask_app)]).client()
    client.send(request("/stream?q=1"))
    client.read_until(b"\r\n1 ")
    flask_app.goes_on.set()
    client.read_until(b"/stream\r\n0\r\n\r\n")
    until(lambda: ("teardown", "/stream") in flask_app.seen)


def test_a_stream_of_flask_ends_when_its_client_has_left(serve, flask_app):
    """Its ``finally`` runs."""
    client = serve([wsgi("/", flask_app)]).client()
    client.send(request("/endless"))
    client.read_until(b"piece")
    client.reset()
    until(lambda: "left" in flask_app.seen)


def test_flask_sends_files(browse, flask_app):
    """Whole, in ranges, and not at all if they have not changed."""
    web = browse(flask_app)
    answer = web.get("/app/file")
    assert answer.content == DATA
    tag = answer.headers["ETag"]
    assert web.get("/app/file", headers={"If-None-Match": tag}).status_code == 304
    answer = web.get("/app/file", headers={"Range": "bytes=1000-1999"})
    assert answer.status_code == 206 and answer.content == DATA[1000:2000]
    assert web("HEAD", "/app/file").headers["Content-Length"] == str(len(DATA))
    answer = web.get("/app/memory")
    assert answer.content == DATA
    assert answer.headers["Content-Type"] == "application/x-data"


def test_flask_keeps_sessions(browse, flask_app):
    """In cookies."""
    web = browse(flask_app)
    assert [web.get("/app/session").text for _ in range(3)] == ["1", "2", "3"]


def test_flask_answers_errors(browse, flask_app):
    """Its own way."""
    web = browse(flask_app)
    answer = web.get("/app/error")
    assert answer.status_code == 500 and "secret" not in answer.text
    assert web.get("/app/teapot").status_code == 418
    assert web.get("/app/none").text == "nothing here"
    assert web.post("/app/session").status_code == 405
    assert web.get("/app/session").status_code == 200


def test_an_upload_to_flask_that_breaks_off_is_a_bad_request(serve, flask_app, caplog):
    """Werkzeug knows what an ``OSError`` of the body means."""
    errors = []
    flask.got_request_exception.connect(
        lambda sender, exception: errors.append(exception), flask_app, weak=False
    )
    running = serve([wsgi("/", flask_app)])
    client = running.client()
    kind = ("Content-Type", "multipart/form-data; boundary=x")
    client.send(request("/upload", "POST", [kind, ("Content-Length", "1000")]) + b"--x")
    until(lambda: running.server.consumers)
    client.half_close()
    assert client.response().status == 400
    assert errors == [] and not [r for r in caplog.records if r.exc_info]


def test_flask_is_told_of_proxies_by_its_own_middleware(browse, flask_app):
    """As under any other server."""
    flask_app.wsgi_app = ProxyFix(flask_app.wsgi_app, x_host=1, x_proto=1)
    web = browse(flask_app)
    headers = {"X-Forwarded-Host": "example.com", "X-Forwarded-Proto": "https"}
    answer = web.get("/app/where", headers=headers)
    assert answer.text == "https://example.com/app/where"


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_curl_speaks_with_flask(serve, flask_app, tmp_path):
    """Uploads that wait to be asked for, ranges, several requests a connection."""
    address = serve([wsgi("/", flask_app)]).address
    base = "http://{}:{}".format(*address)
    path = tmp_path / "upload"
    path.write_bytes(DATA * 20)
    upload = ("--form", f"file=@{path}", "--form", "a=x", f"{base}/upload")
    assert json.loads(curl(*upload)) == ["upload", len(DATA) * 20, "x"]
    waiting = ("--header", "Expect: 100-continue", "--expect100-timeout", "15")
    assert json.loads(curl(*waiting, *upload)) == ["upload", len(DATA) * 20, "x"]
    chunked = ("--header", "Transfer-Encoding: chunked")
    assert json.loads(curl(*chunked, *upload)) == ["upload", len(DATA) * 20, "x"]
    assert curl("--range", "5-9", f"{base}/file") == DATA[5:10]
    assert curl("--head", f"{base}/file").startswith(b"HTTP/1.1 200 OK\r\n")
    assert curl("--http1.0", f"{base}/") == b"/form?x=%C3%A4+b"
    found = curl("--write-out", "%{num_connects} ", *[f"{base}/"] * 3)
    assert found.count(b"1 ") == 1 and found.count(b"0 ") == 2


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("wrk"), reason="needs wrk")
def test_no_request_of_a_short_load_fails(serve, flask_app):
    """A hundred connections, and Flask behind them."""
    address = serve([wsgi("/", flask_app)]).address
    url = "http://{}:{}/".format(*address)
    pool = ThreadPool(1)
    command = ["wrk", "-t2", "-c100", "-d2s", url]
    try:
        done = pool.apply(subprocess.run, (command,), {"capture_output": True})
    finally:
        pool.kill()
    report = done.stdout.decode()
    assert done.returncode == 0 and "requests in" in report
    assert "Socket errors" not in report and "Non-2xx" not in report


# Django.


@pytest.fixture(scope="module")
def django_app(tmp_path_factory):
    """An application with what Django applications usually do."""
    from django.http import (
        FileResponse,
        HttpResponse,
        StreamingHttpResponse,
        UnreadablePostError,
    )
    from django.urls import path, reverse
    from django.views.decorators.csrf import csrf_exempt

    folder = tmp_path_factory.mktemp("django")
    (folder / "data.bin").write_bytes(DATA)
    urls = types.ModuleType("tests_django_urls")

    def where(request):
        return HttpResponse(f"{request.path} {request.path_info} {reverse('where')}")

    def form(request):
        from django.middleware.csrf import get_token

        if request.method == "POST":
            return HttpResponse(request.POST["text"])
        return HttpResponse(get_token(request))

    @csrf_exempt
    def upload(request):
        try:
            file = request.FILES["file"]
        except UnreadablePostError:
            urls.seen.append("unreadable")
            raise
        return HttpResponse(f"{file.name} {file.size}")

    def stream(request):
        def pieces():
            yield b"one "
            urls.goes_on.wait()
            yield b"two"

        return StreamingHttpResponse(pieces())

    def endless(request):
        def pieces():
            with noting(urls.seen, "left"):
                while True:
                    yield b"piece"
                    gevent.sleep(MS)

        return StreamingHttpResponse(pieces())

    def blocking(request):
        urls.seen.append("begun")
        urls.goes_on.wait()
        return HttpResponse("late")

    def file(request):
        urls.seen.append((folder / "data.bin").open("rb"))
        return FileResponse(urls.seen[-1])

    def packed(request):
        packed = io.BytesIO(gzip.compress(DATA))
        return FileResponse(gzip.open(packed), content_type="application/x-data")

    def error(request):
        raise KeyError("a secret")

    views = [where, form, upload, stream, endless, blocking, file, packed, error]
    urls.urlpatterns = [
        path(f"{view.__name__}/", view, name=view.__name__) for view in views
    ]
    sys.modules[urls.__name__] = urls
    settings.configure(
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="no secret",
        ROOT_URLCONF=urls.__name__,
        MIDDLEWARE=[
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
        ],
        LOGGING_CONFIG=None,
        USE_TZ=True,
    )
    django.setup()
    from django.core.wsgi import get_wsgi_application

    app = get_wsgi_application()
    app.urls = urls
    return app


@pytest.fixture
def finished(django_app):
    """How often Django's ``request_finished`` has been sent, as a list."""
    found = []
    django_app.urls.goes_on, django_app.urls.seen = Event(), []

    def receiver(**kwargs):
        found.append("finished")

    request_finished.connect(receiver)
    yield found
    request_finished.disconnect(receiver)


def test_django_finds_its_way_under_a_prefix(browse, django_app, finished):
    """``request.path`` has the prefix in it, ``path_info`` has not."""
    web = browse(django_app, host=validated)
    assert web.get("/app/where/").text == "/app/where/ /where/ /app/where/"
    assert web.get("/app/where").url == web.base + "/app/where/"
    assert web.get("/app/none/").status_code == 404


def test_django_takes_forms_that_have_their_token(browse, django_app, finished):
    """And no others."""
    web = browse(django_app)
    data = {"text": "ä", "csrfmiddlewaretoken": web.get("/app/form/").text}
    assert web.post("/app/form/", data=data).text == "ä"
    assert web.post("/app/form/", data={"text": "ä"}).status_code == 403


def test_django_takes_uploads(browse, django_app, finished):
    """Above its limit they go through a temporary file."""
    web = browse(django_app)
    answer = web.post("/app/upload/", files={"file": ("name", DATA * 20)})
    assert answer.text == f"name {len(DATA) * 20}"


def test_django_streams(serve, django_app, finished):
    """A piece at a time; ``request_finished`` comes behind the last."""
    client = serve([wsgi("/", django_app)]).client()
    client.send(request("/stream/"))
    client.read_until(b"one ")
    assert finished == []
    django_app.urls.goes_on.set()
    client.read_until(b"two\r\n0\r\n\r\n")
    until(lambda: finished == ["finished"])


def test_a_stream_of_django_ends_when_its_client_has_left(serve, django_app, finished):
    """And ``request_finished`` is sent, which returns connections to databases."""
    client = serve([wsgi("/", django_app)]).client()
    client.send(request("/endless/"))
    client.read_until(b"piece")
    client.reset()
    until(lambda: django_app.urls.seen == ["left"] and finished == ["finished"])


def test_django_finishes_a_request_whose_client_left_early(serve, django_app, finished):
    """Before there was a response: ``request_finished`` is sent all the same."""
    running = serve([wsgi("/", django_app)])
    client = running.client()
    client.send(request("/blocking/"))
    until(lambda: django_app.urls.seen == ["begun"])
    client.reset()
    until(lambda: not running.server.connections)
    django_app.urls.goes_on.set()
    until(lambda: finished == ["finished"])


def test_django_sends_files(browse, django_app, finished):
    """From the kernel if that is the same; they are closed."""
    web = browse(django_app)
    answer = web.get("/app/file/")
    assert answer.content == DATA
    assert answer.headers["Content-Length"] == str(len(DATA))
    until(lambda: django_app.urls.seen[0].closed)
    assert web.get("/app/packed/").content == DATA


def test_django_answers_errors(browse, django_app, finished):
    """Its own way; the request is finished."""
    answer = browse(django_app).get("/app/error/")
    assert answer.status_code == 500 and "secret" not in answer.text
    until(lambda: finished == ["finished"])


def test_an_upload_to_django_that_breaks_off_ends_its_request(
    serve, django_app, finished
):
    """What its reader gets is what Django takes for a broken body."""
    running = serve([wsgi("/", django_app)])
    client = running.client()
    kind = ("Content-Type", "multipart/form-data; boundary=x")
    head = request("/upload/", "POST", [kind, ("Content-Length", "1000")])
    client.send(head + b"--x\r\n")
    until(lambda: running.server.consumers)
    client.half_close()
    assert client.response().status == 500
    assert django_app.urls.seen == ["unreadable"]
    until(lambda: finished == ["finished"])


# Bottle.


@pytest.fixture
def bottle_app(tmp_path):
    """An application with what Bottle applications usually do."""
    app = bottle.Bottle()
    (tmp_path / "data.bin").write_bytes(DATA)

    @app.route("/hello/<name>")
    def hello(name):
        bottle.response.set_cookie("a", "1")
        bottle.response.add_header("Set-Cookie", "b=2")
        return f"hello {name}"

    @app.post("/form")
    def form():
        upload = bottle.request.files.get("file")
        return {"a": bottle.request.forms.a, "size": len(upload.file.read())}

    @app.route("/json", method="POST")
    def as_json():
        return bottle.request.json

    @app.route("/stream")
    def stream():
        yield "one "
        yield "two"

    @app.route("/file")
    def file():
        return bottle.static_file("data.bin", root=tmp_path)

    @app.route("/object")
    def an_object():
        return (tmp_path / "data.bin").open("rb")

    @app.route("/url")
    def url():
        return bottle.request.url

    @app.route("/error")
    def error():
        raise KeyError("a secret")

    return app


def test_bottle_runs(browse, bottle_app):
    """Routes, forms, JSON, cookies, generators, files and errors."""
    web = browse(bottle_app)
    answer = web.get("/app/hello/%C3%A4")
    assert answer.text == "hello ä" and dict(answer.cookies) == {"a": "1", "b": "2"}
    answer = web.post("/app/form", data={"a": "ä"}, files={"file": DATA * 10})
    assert answer.json() == {"a": "ä", "size": len(DATA) * 10}
    assert web.post("/app/json", json={"a": [1]}).json() == {"a": [1]}
    assert web.get("/app/stream").text == "one two"
    assert web.get("/app/file").content == web.get("/app/object").content == DATA
    answer = web.get("/app/file", headers={"Range": "bytes=100-199"})
    assert answer.status_code == 206 and answer.content == DATA[100:200]
    assert web.get("/app/url?q=1").text == web.base + "/app/url?q=1"
    assert web.get("/app/none").status_code == 404
    assert web.post("/app/url").status_code == 405


def test_an_error_of_bottle_is_answered_and_logged(browse, bottle_app, capsys):
    """On ``wsgi.errors``."""
    assert browse(bottle_app).get("/app/error").status_code == 500
    assert "a secret" in capsys.readouterr().err


# Falcon.


@pytest.fixture
def falcon_app(tmp_path):
    """An application with what Falcon applications usually do."""
    (tmp_path / "data.bin").write_bytes(DATA)

    class Thing:
        def on_get(self, req, resp, name):
            resp.media = {"name": name, "q": req.get_param("q"), "path": req.path}
            resp.append_header("X-A", req.prefix)

        def on_put(self, req, resp, name):
            resp.media = req.media

        def on_post(self, req, resp, name):
            size = 0
            while piece := req.bounded_stream.read(5000):
                size += len(piece)
            resp.text = str(size)

    class Files:
        def on_get(self, req, resp):
            file = (tmp_path / "data.bin").open("rb")
            resp.set_stream(file, len(DATA))

    class Pieces:
        def on_get(self, req, resp):
            resp.stream = iter([b"one ", b"two"])

    class Broken:
        def on_get(self, req, resp):
            raise falcon.HTTPConflict(title="no", description="not now")

    app = falcon.App()
    app.add_route("/things/{name}", Thing())
    app.add_route("/file", Files())
    app.add_route("/pieces", Pieces())
    app.add_route("/broken", Broken())
    return app


def test_falcon_runs(browse, falcon_app):
    """Resources, media, bodies, files by the wrapper, streams and errors."""
    web = browse(falcon_app)
    answer = web.get("/app/things/%C3%A4?q=1")
    assert answer.json() == {"name": "ä", "q": "1", "path": "/things/ä"}
    assert answer.headers["X-A"] == web.base + "/app"
    assert web("PUT", "/app/things/a", json=[1]).json() == [1]
    assert web.post("/app/things/a", data=DATA * 10).text == str(len(DATA) * 10)
    assert web.get("/app/file").content == DATA
    assert web.get("/app/pieces").text == "one two"
    answer = web.get("/app/broken")
    assert answer.status_code == 409 and answer.json()["title"] == "no"
    assert web.get("/app/none").status_code == 404
    assert web.post("/app/file").status_code == 405
