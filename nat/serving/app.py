"""The HTTP server: LibreTranslate's API in front of a batcher for each pair of languages, and a page that speaks it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from nat.errors import UserError
from nat.serving.batching import Batcher, Full
from nat.serving.config import ServeConfig
from nat.serving.languages import language_name
from nat.serving.models import LineTranslator
from nat.serving.page import Answer, page_answers
from nat.serving.requests import Asked, Refused, asked, parameters, read_body

log = logging.getLogger("nat.serving")
REQUEST_ID = "x-request-id"
LONGEST_ID = 100  # characters of an id that a client gives
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # bounds of the histogram of sizes


class Metrics:
    """For Prometheus."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        given: Any = {"registry": self.registry}
        self.requests = Counter("nat_requests", "requests answered", ["path", "status"], **given)
        self.seconds = Histogram("nat_request_seconds", "time to answer /translate", **given)
        self.lines = Counter("nat_lines", "lines translated", ["model"], **given)
        self.batches = Histogram("nat_batch_lines", "lines translated together", ["model"], buckets=BATCHES, **given)
        self.waiting = Gauge("nat_waiting_lines", "lines that wait", ["model"], **given)


class Server:
    """translators: by source and target language."""

    def __init__(self, config: ServeConfig, translators: Mapping[tuple[str, str], LineTranslator]) -> None:
        self.config, self.metrics = config, Metrics()
        self.batchers = {
            pair: Batcher(
                translator,
                max_batch=config.max_batch,
                wait_seconds=config.wait_ms / 1000,
                max_waiting=config.max_waiting,
                observe=self.metrics.batches.labels("-".join(pair)).observe,
            )
            for pair, translator in translators.items()
        }
        for pair, batcher in self.batchers.items():
            self.metrics.waiting.labels("-".join(pair)).set_function(batcher.jobs.qsize)

    def app(self) -> Starlette:
        answers: dict[str, tuple[Answer, list[str]]] = {
            "/translate": (self.translate, ["POST"]),
            "/languages": (self.languages, ["GET"]),
            "/health": (self.health, ["GET"]),
            "/frontend/settings": (self.settings, ["GET"]),
            "/metrics": (self.show_metrics, ["GET"]),
            **{path: (answer, ["GET"]) for path, answer in page_answers().items()},
        }
        routes = [Route(path, self.counted(path, answer), methods=kinds) for path, (answer, kinds) in answers.items()]
        return Starlette(routes=routes, lifespan=self.working, exception_handlers={HTTPException: unknown_path})

    @contextlib.asynccontextmanager
    async def working(self, app: Starlette) -> AsyncIterator[None]:
        """The batchers work while requests are answered: those that were accepted before a stop, too."""
        tasks = [asyncio.create_task(batcher.run()) for batcher in self.batchers.values()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for batcher in self.batchers.values():
                batcher.worker.shutdown(cancel_futures=True)

    def counted(self, path: str, answer: Answer) -> Answer:
        """With the request's id, and a sentence for every fault."""

        async def answered(request: Request) -> Response:
            number = request.headers.get(REQUEST_ID, "")[:LONGEST_ID] or uuid.uuid4().hex
            try:
                response = await answer(request)
            except Refused as refusal:
                response = refused(refusal.status, refusal.reason)
            except ClientDisconnect:
                response = refused(400, "the client has gone")
            except Exception:
                log.exception("request %s", number)
                response = refused(500, f"this server failed; its log tells why (request {number})")
            response.headers[REQUEST_ID] = number
            self.metrics.requests.labels(path, str(response.status_code)).inc()
            return response

        return answered

    # --- what is answered ---------------------------------------------------------------------------

    async def translate(self, request: Request) -> Response:
        with self.metrics.seconds.time():
            began = time.perf_counter()
            body = await read_body(request, self.config)
            wanted = asked(parameters(body, request.headers.get("content-type", "")), self.config)
            pair = self.pair(wanted)
            translated = await self.translated(wanted, pair)
        answer: dict[str, Any] = {"translatedText": translated if wanted.is_list else translated[0]}
        milliseconds = 1000 * (time.perf_counter() - began)
        return JSONResponse(answer, headers={"server-timing": f"translate;dur={milliseconds:.1f}"})

    def pair(self, wanted: Asked) -> tuple[str, str]:
        """Raises Refused where no model has these languages; source=auto: where one language alone is read."""
        sources = [source for source, target in self.batchers if target == wanted.target]
        if wanted.source == "auto" and len(sources) == 1:
            return sources[0], wanted.target
        if (wanted.source, wanted.target) not in self.batchers:
            known = ", ".join("-".join(pair) for pair in self.batchers)
            raise Refused(400, f"{wanted.source:.20} to {wanted.target:.20} is not translated here, only {known}")
        return wanted.source, wanted.target

    async def translated(self, wanted: Asked, pair: tuple[str, str]) -> list[str]:
        """Each text line by line; blank lines stay."""
        batcher = self.batchers[pair]
        texts = [text.split("\n") for text in wanted.texts]
        lines = [line for text in texts for line in text]
        try:
            await asyncio.to_thread(batcher.translator.check, lines, wanted.options)
            results = iter(await batcher.translate(lines, wanted.options))
        except UserError as error:
            raise Refused(400, str(error)) from None
        except Full:
            raise Refused(503, f"{batcher.max_waiting} lines wait already; try again later") from None
        self.metrics.lines.labels("-".join(pair)).inc(len(lines))
        return ["\n".join(next(results) for _ in text) for text in texts]

    async def languages(self, request: Request) -> Response:
        sources = dict.fromkeys(source for source, _ in self.batchers)
        targets = {source: [to for start, to in self.batchers if start == source] for source in sources}
        return JSONResponse([named(source) | {"targets": targets[source]} for source in sources])

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def settings(self, request: Request) -> Response:
        source, target = next(iter(self.batchers))
        return JSONResponse(
            {
                "apiKeys": False,
                "charLimit": self.config.max_characters,
                "frontendTimeout": 500,
                "keyRequired": False,
                "language": {"source": named(source), "target": named(target)},
                "suggestions": False,
                "supportedFilesFormat": [],
            }
        )

    async def show_metrics(self, request: Request) -> Response:
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def named(code: str) -> dict[str, Any]:
    return {"code": code, "name": language_name(code)}


def refused(status: int, reason: str) -> JSONResponse:
    return JSONResponse({"error": reason}, status_code=status, headers={"retry-after": "1"} if status == 503 else None)


async def unknown_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = "no such method" if error.status_code == 405 else "no such path"
    return refused(error.status_code, f"{request.method} {request.url.path[:100]}: {what} here")
