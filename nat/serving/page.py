"""The page at `/`, which asks the server that it comes from, and nobody else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import PurePosixPath

from starlette.requests import Request
from starlette.responses import Response

from nat.web.files import SERVER, page_files

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "content-security-policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}
Answer = Callable[[Request], Awaitable[Response]]


def page_answers() -> dict[str, Answer]:
    """By their paths, the files that are read now."""
    return {address_of(name): answer_with(name, content) for name, content in page_files(SERVER).items()}


def address_of(name: str) -> str:
    return "/" if name == "index.html" else f"/{name}"


def answer_with(name: str, content: bytes) -> Answer:
    kind = TYPES[PurePosixPath(name).suffix]

    async def answer(request: Request) -> Response:
        return Response(content, media_type=kind, headers=HEADERS)

    return answer
