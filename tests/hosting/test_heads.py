"""The head of a request that another server has read, from its environ."""

import contextlib
import io
import socket
from types import SimpleNamespace

import gevent.socket
import pytest

from greenchannels.handover import find_handover
from greenchannels.hosting.heads import address_of, as_answered, head_of, scope_of
from greenchannels.options import HTTPLimits
from greenchannels.wire.http1 import RequestParser

ENVIRON = {
    "REQUEST_METHOD": "GET",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "PATH_INFO": "/chat/caf\u00c3\u00a9 1",
    "QUERY_STRING": "q=%20",
    "HTTP_HOST": "localhost",
    "HTTP_X_NAME": "value",
    "CONTENT_TYPE": "",
    "wsgi.url_scheme": "http",
}


def parsed(**changes):
    """Return the request that the head of a changed environ is."""
    parser = RequestParser(HTTPLimits())
    events = parser.receive_data(head_of({**ENVIRON, **changes}))
    assert parser.error is None, parser.error
    return events[0]


def test_a_head_is_one_that_a_client_could_have_sent():
    """Path and query, as far as they are known, and the fields."""
    found = parsed()
    assert (found.path, found.query_string) == ("/chat/café 1", b"q=%20")
    assert found.headers == [(b"host", b"localhost"), (b"x-name", b"value")]


@pytest.mark.parametrize("key", ["RAW_URI", "REQUEST_URI"])
def test_the_target_is_as_it_was_sent_if_the_server_says_so(key):
    """With what was encoded, and need not have been."""
    found = parsed(**{key: "/a%2Fb?x=%41"})
    assert (found.raw_path, found.query_string) == (b"/a%2Fb", b"x=%41")


def test_below_a_prefix_routes_see_what_is_below():
    """The scope has all of it."""
    changes = {"RAW_URI": "/up/chat", "SCRIPT_NAME": "/up", "PATH_INFO": "/chat"}
    assert parsed(**changes).path == "/chat"
    scope = {"root_path": "/up", "path": "/up/chat", "raw_path": b"/up/chat"}
    assert scope_of({**ENVIRON, **changes}) == scope
    assert parsed(SCRIPT_NAME="/up", PATH_INFO="").path == "/"
    assert scope_of(ENVIRON) is None
    assert scope_of({**ENVIRON, "wsgi.url_scheme": "https"}) == {"scheme": "wss"}


def test_no_value_begins_a_line():
    """Folded fields are one line; nothing can be smuggled."""
    found = parsed(HTTP_X_NAME="a\r\n b\r\nEvil: yes\nmore")
    assert found.headers[1] == (b"x-name", b"a   b  Evil: yes more")


def test_the_length_of_a_body_is_kept():
    """It comes behind the head, and is no frame."""
    assert parsed(CONTENT_LENGTH="5", CONTENT_TYPE="text/plain").content_length == 5


@pytest.mark.parametrize(
    "environ, address",
    [
        ({"REMOTE_ADDR": "10.0.0.1", "REMOTE_PORT": "80"}, ("10.0.0.1", 80)),
        ({"REMOTE_ADDR": "10.0.0.1", "REMOTE_PORT": 80}, ("10.0.0.1", 80)),
        ({"REMOTE_ADDR": "10.0.0.1"}, ("10.0.0.1", 0)),
        ({"REMOTE_ADDR": ""}, None),
        ({}, None),
    ],
)
def test_the_clients_address(environ, address):
    """Over a Unix socket there is none."""
    assert address_of(environ) == address


@pytest.mark.parametrize("subprotocol", [None, "chat"])
def test_what_was_answered_already_is_not_offered_again(subprotocol):
    """Extensions, and all subprotocols but the one that was named."""
    head = head_of(
        {
            **ENVIRON,
            "HTTP_SEC_WEBSOCKET_PROTOCOL": "other, chat",
            "HTTP_SEC_WEBSOCKET_EXTENSIONS": "permessage-deflate",
        }
    )
    found = RequestParser(HTTPLimits()).receive_data(as_answered(head, subprotocol))[0]
    expected = [] if subprotocol is None else [b"chat"]
    assert found.fields.get(b"sec-websocket-protocol", []) == expected
    assert b"sec-websocket-extensions" not in found.fields


@pytest.mark.parametrize(
    "module, changes",
    [
        (gevent.socket, {"SERVER_PROTOCOL": "HTTP/2"}),
        (gevent.socket, {"HTTP_VERSION": "2"}),
        (socket, {}),
    ],
)
def test_no_socket_is_taken_that_is_shared_or_blocks_all(module, changes):
    """HTTP/2's streams share one; one of the standard library blocks the hub."""
    with contextlib.closing(module.socket()) as sock:
        environ = {**ENVIRON, "gunicorn.socket": sock, **changes}
        assert find_handover(environ, print) is None


def test_a_socket_of_gevent_is_taken_with_what_was_read_ahead():
    """Whatever the server's input is."""
    with contextlib.closing(gevent.socket.socket()) as sock:
        environ = {**ENVIRON, "gunicorn.socket": sock, "wsgi.input": io.BytesIO()}
        found = find_handover(environ, print)
        assert (found.sock, found.received, found.answered) == (sock, b"", False)


def test_a_socket_of_our_own_server_is_not_taken_again():
    """An application that is mounted in another of ours."""
    upgraded = SimpleNamespace(handler=SimpleNamespace())
    assert find_handover({**ENVIRON, "wsgi.websocket": upgraded}, print) is None
