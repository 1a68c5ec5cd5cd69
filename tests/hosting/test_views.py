"""``http`` views: whatever a Flask view may return, over a real connection."""

import io

import pytest
from gevent.event import Event
from werkzeug.exceptions import NotFound
from werkzeug.utils import redirect
from werkzeug.wrappers import Response

from greenchannels import ConfigurationError, HTTPLimits, http
from tests.servers.harness import request, until


class Text(str):
    """A str of another type."""


class OwnResponse(Response):
    """A response of another type."""

    default_mimetype = "text/x-own"


def application(environ, start_response):
    """A WSGI application that sees the request's environ."""
    start_response("203 Own", [("Content-Type", "text/plain"), ("X-A", "1")])
    return [environ["REQUEST_METHOD"].encode(), environ["PATH_INFO"].encode()]


@pytest.mark.parametrize(
    "result, body, kind",
    [
        ("text ä", "text ä".encode(), "text/html; charset=utf-8"),
        ("", b"", "text/html; charset=utf-8"),
        (Text("lazy"), b"lazy", "text/html; charset=utf-8"),
        (b"bytes", b"bytes", "text/html; charset=utf-8"),
        (bytearray(b"array"), b"array", "text/html; charset=utf-8"),
        ({"a": [1, None]}, b'{"a":[1,null]}', "application/json"),
        ([1, "x"], b'[1,"x"]', "application/json"),
        ({}, b"{}", "application/json"),
        ({"a": Text("lazy")}, b'{"a":"lazy"}', "application/json"),
        (OwnResponse("r"), b"r", "text/x-own; charset=utf-8"),
        (Response("r", mimetype="text/plain"), b"r", "text/plain; charset=utf-8"),
        (iter(["a", b"b"]), b"ab", "text/html; charset=utf-8"),
    ],
    ids=repr,
)
def test_a_view_returns_what_a_flask_view_may(serve, result, body, kind):
    """Text, bytes, JSON, a response, an iterator."""
    answer = serve([http("/", lambda r: result)]).get()
    assert (answer.status, answer.body) == (200, body)
    assert answer["content-type"] == kind


@pytest.mark.parametrize(
    "result, status, headers",
    [
        (("x", 201), 201, {}),
        (("x", "202 Fine"), 202, {}),
        (("x", {"X-A": "1"}), 200, {"x-a": "1"}),
        (("x", [("X-A", "1")]), 200, {"x-a": "1"}),
        (("x", 203, {"X-A": "1"}), 203, {"x-a": "1"}),
        (({"a": 1}, 404), 404, {"content-type": "application/json"}),
        ((Response("x"), 418), 418, {}),
        (redirect("/there"), 302, {"location": "/there"}),
        (OwnResponse("x", headers={"X-A": "1"}), 200, {"x-a": "1"}),
        (NotFound("no such room"), 404, {}),
        (application, 203, {"content-type": "text/plain", "x-a": "1"}),
        ((application, 201, {"X-A": "2"}), 201, {"x-a": "2"}),
    ],
    ids=repr,
)
def test_a_tuple_adds_status_and_headers(serve, result, status, headers):
    """(body, status), (body, headers), or all three."""
    answer = serve([http("/", lambda r: result)]).get()
    assert answer.status == status
    for name, value in headers.items():
        assert answer[name] == value


@pytest.mark.parametrize(
    "result", [None, 5, object(), (), ("x",), ("x", 1, 2, 3), {1j: 2}]
)
def test_what_a_view_may_not_return_is_explained_in_the_log(serve, caplog, result):
    """500 for the browser."""
    answer = serve([http("/", lambda r: result)]).get()
    assert answer.status == 500
    assert b"Traceback" not in answer.body
    assert [r for r in caplog.records if r.exc_info]


def test_a_flask_response_is_sent_as_it_is(serve):
    """With its cookies: Flask's class is one of Werkzeug's."""
    flask = pytest.importorskip("flask")

    def view(request):
        response = flask.Response("text", mimetype="text/plain")
        response.set_cookie("a", "1")
        return response

    answer = serve([http("/", view)]).get()
    assert answer.body == b"text" and answer["set-cookie"].startswith("a=1")


def test_a_wsgi_application_sees_the_request(serve):
    """Its environ is that of the view's request."""
    running = serve([http("/<x>", lambda r, x: application, methods=["POST"])])
    assert running.get("/there", "POST").body == b"POST/there"


async def coroutine(request):
    """A view as other frameworks have them."""
    return "text"


async def generator(request):
    """The same, as a stream."""
    yield "text"


@pytest.mark.parametrize("view", [coroutine, generator])
def test_an_async_view_is_refused_when_the_routes_are_made(view):
    """It would never run."""
    with pytest.raises(ConfigurationError, match="leave out async and await"):
        http("/", view)


@pytest.mark.parametrize("view", [coroutine, generator])
def test_what_is_async_in_disguise_is_explained_in_the_log(serve, caplog, view):
    """As a lambda that calls such a function."""
    answer = serve([http("/", lambda r: view(r))]).get()
    assert answer.status == 500
    assert "leave out async and await" in caplog.text


def test_a_traceback_is_in_the_log_and_no_browser_sees_it(serve, caplog):
    """Unless the server runs with debug."""

    def view(request):
        raise ValueError("secret")

    answer = serve([http("/", view)]).get()
    assert answer.status == 500 and b"secret" not in answer.body
    assert "ValueError: secret" in caplog.text
    answer = serve([http("/", view)], debug=True).get()
    assert answer.status == 500 and b"ValueError: secret" in answer.body


def test_a_generator_that_fails_before_its_first_piece_is_answered_with_500(serve):
    """Nothing has been sent yet."""

    def view(request):
        raise ValueError
        yield

    assert serve([http("/", view)]).get().status == 500


@pytest.mark.parametrize("result", ["text", iter(["text"])], ids=["str", "iterator"])
def test_head_says_nothing_false_of_the_length(serve, result):
    """That of GET where it is known, else none."""
    answer = serve([http("/", lambda r: result)]).get(method="HEAD")
    assert answer.status == 200
    assert answer.get("content-length") == (["4"] if result == "text" else [])


def test_http_exceptions_are_responses(serve):
    """Raised or aborted, as in Flask."""

    def missing(request):
        raise NotFound("no such room")

    answer = serve([http("/", missing)]).get()
    assert answer.status == 404 and b"no such room" in answer.body


def test_a_view_sees_the_whole_request(serve):
    """Query, fields, form, cookies, and the body as a file."""

    def show(request):
        return {
            "args": request.args.getlist("a"),
            "form": request.form.get("f"),
            "header": request.headers["X-Thing"],
            "cookie": request.cookies["c"],
            "method": request.method,
            "path": request.path,
            "host": request.host,
        }

    headers = [
        ("X-Thing", "1"),
        ("X-Thing", "2"),
        ("Cookie", "c=3"),
        ("Content-Type", "application/x-www-form-urlencoded"),
    ]
    running = serve([http("/ä/<x>", lambda r, x: show(r), methods=["POST"])])
    answer = running.get("/%C3%A4/1?a=1&a=%202", "POST", headers, b"f=%C3%B6")
    assert answer.body.decode() == (
        '{"args":["1"," 2"],"form":"ö","header":"1,2","cookie":"3",'
        '"method":"POST","path":"/ä/1","host":"localhost"}'
    )


def test_an_upload_is_there_to_read(serve):
    """A multipart form with a file, which is closed when the view is done."""

    files = []

    def upload(request):
        files.append(request.files["f"].stream)
        return files[0].read()

    body = (
        b"--x\r\nContent-Disposition: form-data; name=f; filename=a\r\n\r\n"
        + b"data" * 50_000
        + b"\r\n--x--\r\n"
    )
    headers = [("Content-Type", "multipart/form-data; boundary=x")]
    running = serve([http("/", upload, methods=["POST"])])
    assert running.get("/", "POST", headers, body).body == b"data" * 50_000
    until(lambda: files[0].closed, seconds=1)


@pytest.mark.parametrize("limit, on_disk", [(100, True), (10_000, False)])
def test_a_body_above_the_limit_is_spooled_to_disk(serve, limit, on_disk):
    """And below it kept in memory, as the option says."""
    files = []

    def upload(request):
        files.append(request.environ["wsgi.input"]._rolled)
        return str(len(request.get_data()))

    running = serve(
        [http("/", upload, methods=["POST"])], http=HTTPLimits(max_body_in_memory=limit)
    )
    assert running.get("/", "POST", body=b"x" * 5000).body == b"5000"
    assert files == [on_disk]


def test_a_generator_is_closed_when_its_response_ends(serve):
    """Also when it failed."""
    closed = []

    def stream(request):
        try:
            yield "a"
            if request.args:
                raise ValueError
            yield "b"
        finally:
            closed.append(1)

    running = serve([http("/", stream)])
    assert running.get().body == b"ab"
    client = running.client()
    client.send(request("/?fail"))
    client.ended()
    assert closed == [1, 1]


def test_a_file_object_in_a_response_is_streamed(serve):
    """Werkzeug's own ways work."""

    def view(request):
        return Response(io.BytesIO(b"x" * 10_000), direct_passthrough=True)

    assert serve([http("/", view)]).get().body == b"x" * 10_000


def test_conditional_responses_have_no_body(serve):
    """304 and 204."""

    def view(request):
        response = Response("text")
        response.add_etag()
        return response.make_conditional(request)

    running = serve([http("/", view), http("/none", lambda r: ("", 204))])
    etag = running.get()["etag"]
    client = running.client()
    client.send(request(headers=[("If-None-Match", etag)]) + request("/none"))
    assert client.response().status == 304
    answer = client.response()
    assert answer.status == 204 and not answer.get("content-length")


def test_views_run_side_by_side(serve):
    """A greenlet each."""
    both = []
    met = Event()

    def view(request):
        both.append(1)
        if len(both) == 2:
            met.set()
        assert met.wait(2)
        return "met"

    running = serve([http("/", view)])
    clients = [running.client() for _ in range(2)]
    for client in clients:
        client.send(request())
    assert [client.response().body for client in clients] == [b"met"] * 2


def test_views_may_send_to_groups(serve):
    """They run in the context of their server."""
    from greenchannels import Group, websocket

    def consumer(socket):
        socket.join("g")
        socket.send("in")
        socket.wait()

    def view(request):
        Group("g").send("from a view")
        return "sent"

    routing = [http("/", view), websocket("/", consumer)]
    one, other = serve(routing), serve(routing)
    peers = [one.open(), other.open()]
    assert [peer.hear() for peer in peers] == ["in", "in"]
    assert one.get().body == b"sent"
    assert peers[0].hear() == "from a view"
    assert peers[1].silent()
