"""The rows over HTTP and TLS: requests, static files, sockets over TLS, uploads."""

from .contestants import GUNICORN, NGINX, STARLETTE, YARDSTICK
from .row import Row

TIMED = {"warmup": 0.5, "seconds": 3}
OVER_TLS = {"tls": True, "size": 64, "window": 1}
BROWSERS = {"tls": True, "browser": True, "sources": 8}
#: What ``wrk`` keeps in flight: a request on each of its connections.
KEPT_ALIVE = {"connections": 32, **TIMED}
REQUEST = "us a request"
#: A GiB in one request, which has neither limit nor deadline.
GIBIBYTE = {"mebibytes": 1024, "warmup-mebibytes": 16}
UNLIMITED = ("--max-body", "2g", "--body-timeout", "none")

ROWS = [
    Row(
        "http",
        "WSGI hello",
        "/",
        {"size": 5, **KEPT_ALIVE},
        limits={GUNICORN: 0.22, STARLETTE: 0.60},
        unit=REQUEST,
        generator="wrk",
        servers=(GUNICORN, STARLETTE),
        app="hello",
    ),
    Row(
        "http",
        "Flask hello",
        "/",
        {"size": 5, **KEPT_ALIVE},
        limits={GUNICORN: 0.75},
        unit=REQUEST,
        generator="wrk",
        servers=(GUNICORN,),
        app="flask",
    ),
    Row(
        "http",
        "hello of an http view",
        "/",
        {"size": 5, **KEPT_ALIVE},
        limits={},
        unit=REQUEST,
        generator="wrk",
        servers=(),
        app="view",
    ),
    Row(
        "http",
        "static file of 100 KB",
        "/100k.bin",
        {"size": 100_000, **KEPT_ALIVE},
        limits={NGINX: 0.80},
        figure="rate",
        unit="a second",
        beside="cpu_us",
        generator="wrk",
        servers=(NGINX,),
        app="files",
    ),
    Row(
        "http",
        "static file of 1 KB",
        "/1k.bin",
        {"size": 1_000, **KEPT_ALIVE},
        limits={NGINX: None},
        unit=REQUEST,
        generator="wrk",
        servers=(NGINX,),
        app="files",
    ),
    Row(
        "echo",
        "echo over TLS, 64 B, 64 connections, 1 in flight",
        "/echo",
        {"mode": "echo", "connections": 64, **OVER_TLS, **TIMED},
        limits={YARDSTICK: 1.30},
        servers=(YARDSTICK,),
        tls=True,
    ),
    Row(
        "idle",
        "idle over TLS, 8,000 sockets",
        "/idle",
        {"mode": "idle", "connections": 8000, "warmup-count": 200, **BROWSERS},
        limits={YARDSTICK: None},
        figure="rss_bytes",
        unit="bytes a socket",
        beside="cpu_us",
        servers=(YARDSTICK,),
        tls=True,
    ),
    Row(
        "http",
        "upload of 1 GiB to a WSGI application",
        "/",
        GIBIBYTE,
        limits={"": 32 * 2**20},
        figure="growth_bytes",
        unit="bytes",
        beside="cpu_us",
        generator="upload",
        servers=(),
        app="upload",
        options=UNLIMITED,
    ),
    Row(
        "http",
        "upload of 1 GiB to an http view",
        "/",
        GIBIBYTE,
        limits={"": 32 * 2**20},
        figure="growth_bytes",
        unit="bytes",
        beside="cpu_us",
        generator="upload",
        servers=(),
        app="view_upload",
        options=UNLIMITED,
    ),
]
