"""Starlette's hello, for uvicorn."""

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route


async def respond(request):
    """Say hello."""
    return PlainTextResponse("hello")


hello = Starlette(routes=[Route("/", respond)])
