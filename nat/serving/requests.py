"""Requests of LibreTranslate's API, from bytes to what is asked, each fault with a sentence and a status of its own.

The API: https://docs.libretranslate.com/api/
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request

from nat.serving.config import ServeConfig
from nat.serving.models import Options

FORM = "application/x-www-form-urlencoded"


class Refused(Exception):
    """A request that cannot be answered: the HTTP status, and why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Asked:
    """texts: what is to be translated. is_list: several were asked for, and several are answered."""

    texts: list[str]
    is_list: bool
    source: str
    target: str
    options: Options


async def read_body(request: Request, config: ServeConfig) -> bytes:
    """Raises Refused where it is too large, or does not come in time."""
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > config.max_body:
        raise Refused(413, f"the request has {length} bytes, at most {config.max_body} are taken")
    body = bytearray()

    async def read() -> None:
        async for part in request.stream():
            body.extend(part)
            if len(body) > config.max_body:
                raise Refused(413, f"the request has more than {config.max_body} bytes")

    try:
        await asyncio.wait_for(read(), config.read_seconds)
    except TimeoutError:
        raise Refused(408, f"the request did not come within {config.read_seconds:g} seconds") from None
    return bytes(body)


def parameters(body: bytes, content_type: str) -> Mapping[str, Any]:
    """Of a JSON object, or of a form. Raises Refused."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(400, f"the request is not UTF-8 (byte {error.start})") from None
    if content_type.partition(";")[0].strip().lower() == FORM:
        try:
            fields = parse_qs(text, keep_blank_values=True, max_num_fields=10_000, errors="strict")
        except ValueError as error:
            raise Refused(400, f"the form cannot be read ({error})") from None
        return {name: values if len(values) > 1 else values[0] for name, values in fields.items()}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the request is no JSON ({error})") from None
    if not isinstance(found, dict):
        raise Refused(400, "the request must be a JSON object")
    return found


def asked(fields: Mapping[str, Any], config: ServeConfig) -> Asked:
    """Raises Refused for what is missing, of another type or too large."""
    for name in ("q", "source", "target"):
        if name not in fields:
            raise Refused(400, f"{name} is missing")
    q, is_list = fields["q"], isinstance(fields["q"], list)
    texts = q if is_list else [q]
    if not all(isinstance(text, str) for text in texts):
        raise Refused(400, "q must be a text, or a list of texts")
    if len(texts) > config.max_texts:
        raise Refused(413, f"q has {len(texts)} texts, at most {config.max_texts} are taken")
    for text in texts:
        if len(text) > config.max_characters:
            raise Refused(413, f"q has {len(text)} characters, at most {config.max_characters} are taken")
    for name in ("source", "target"):
        if not isinstance(fields[name], str):
            raise Refused(400, f"{name} must be the code of a language")
    if fields.get("format", "text") != "text":
        raise Refused(400, "format: only text is translated")
    return Asked(texts, is_list, fields["source"], fields["target"], options(fields))


def options(fields: Mapping[str, Any]) -> Options:
    """Those that LibreTranslate does not have: passes and terms."""
    passes, terms = fields.get("passes"), fields.get("terms", [])
    if isinstance(passes, str) and passes.isdecimal():
        passes = int(passes)
    if passes is not None and (not isinstance(passes, int) or isinstance(passes, bool) or passes < 1):
        raise Refused(400, "passes must be a whole number of at least 1")
    terms = [terms] if isinstance(terms, str) else terms
    if not isinstance(terms, list) or not all(isinstance(term, str) and term.strip() for term in terms):
        raise Refused(400, "terms must be a list of words or phrases")
    return Options(passes, tuple(terms))
