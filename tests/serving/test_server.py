"""nat-serve: LibreTranslate's API over a real connection, hostile requests, and lines that are translated together."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import uvicorn
from browser import chromium
from translating import type_lines

from nat.errors import ConfigError, DataError
from nat.serving.app import Server
from nat.serving.config import ServeConfig
from nat.serving.models import Options
from nat.serving.run import listen

BOUNDS = {"max_characters": 300, "max_texts": 5, "max_body": 5000, "max_waiting": 40, "read_seconds": 0.3}


class Shouting:
    """Upper case, with what was asked for behind it. `gate` holds it up; `sizes` are those of its batches."""

    def __init__(self) -> None:
        self.gate, self.sizes = threading.Event(), list[int]()
        self.gate.set()

    def check(self, lines: Sequence[str], options: Options) -> None:
        if len(longest := max(lines, key=len, default="")) > 200:
            raise DataError(f"{len(longest)} tokens, but this model takes at most 200")
        if options.terms == ("never",):
            raise ConfigError("terms: this model has no use for them")

    def translate(self, lines: Sequence[str], options: Sequence[Options]) -> list[str]:
        self.gate.wait(10)
        self.sizes.append(len(lines))
        if "fail" in lines:
            raise RuntimeError("broken")
        return [
            line.upper()
            + "".join(f" +{term}" for term in option.terms)
            + (f" x{option.passes}" if option.passes else "")
            for line, option in zip(lines, options, strict=True)
        ]


class Running:
    def __init__(self, **bounds: Any) -> None:
        config = ServeConfig(models=["en-de=unused"], port=0, **(BOUNDS | bounds))
        self.model, listening = Shouting(), listen(config)
        self.port = listening.getsockname()[1]
        app = Server(config, {("en", "de"): self.model}).app()
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="on"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listening]})
        self.thread.start()

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()

    def ask(
        self, path: str, body: bytes | None = None, *, method: str = "POST", **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        content, kind = response.read(), response.headers["content-type"]
        found = {name.lower(): value for name, value in response.headers.items()}
        connection.close()
        return response.status, json.loads(content) if "json" in kind else content.decode(), found

    def json(self, **fields: Any) -> tuple[int, Any]:
        body = json.dumps({"source": "en", "target": "de"} | fields).encode()
        return self.ask("/translate", body, content_type="application/json")[:2]


@pytest.fixture
def running() -> Iterator[Running]:
    server = Running()
    yield server
    server.model.gate.set()
    server.stop()


def test_texts_and_lists_of_them_are_translated_line_by_line(running: Running) -> None:
    assert running.json(q="one") == (200, {"translatedText": "ONE"})
    assert running.json(q=["one", "two\n\nthree"]) == (200, {"translatedText": ["ONE", "TWO\n\nTHREE"]})
    assert running.json(q=[]) == (200, {"translatedText": []})
    assert running.json(q="", source="auto") == (200, {"translatedText": ""})


def test_the_page_and_its_files_are_served_to_be_shown_and_nothing_else(running: Running) -> None:
    status, page, headers = running.ask("/", method="GET")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert (
        "default-src 'self'" in headers["content-security-policy"]
        and "unsafe" not in headers["content-security-policy"]
    )
    assert headers["x-content-type-options"] == "nosniff"
    for name in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert running.ask(f"/{name}", method="GET")[0] == 200, name
    backend, kind = running.ask("/page/backend.js", method="GET")[1:]
    assert 'fetch("translate"' in backend and kind["content-type"] == "text/javascript; charset=utf-8"
    for path in ("/page/local.js", "/page/", "/page/../app.py", "/page/%2e%2e/pieces.py"):
        assert running.ask(path, method="GET")[0] == 404, path
    assert running.ask("/", method="POST")[0] == 405


def test_the_page_translates_by_the_server_it_comes_from(running: Running, tmp_path: Path) -> None:
    with chromium(tmp_path) as page:
        page.open(f"http://127.0.0.1:{running.port}/")
        assert type_lines(page, ["one", "", "a" * 201, "two <b>"]) == [
            "ONE", "", "201 tokens, but this model takes at most 200", "TWO <B>",
        ]  # fmt: skip
        assert page.run("document.title") == "English to German"
        assert page.run("document.getElementById('inside').hidden")
        assert {urlsplit(address).netloc for address in page.requests} == {f"127.0.0.1:{running.port}"}
        assert [error for error in page.errors if "400" not in error] == []  # what was refused is told to the console


def test_forms_are_taken_as_clients_of_libretranslate_send_them(running: Running) -> None:
    body = urlencode({"q": "ein Öl & more", "source": "en", "target": "de", "api_key": ""}).encode()
    form = "application/x-www-form-urlencoded; charset=utf-8"
    assert running.ask("/translate", body, content_type=form)[:2] == (200, {"translatedText": "EIN ÖL & MORE"})


def test_a_client_library_of_libretranslate_translates(running: Running) -> None:
    libretranslatepy = pytest.importorskip("libretranslatepy")
    client = libretranslatepy.LibreTranslateAPI(f"http://127.0.0.1:{running.port}/")
    assert client.translate("Grüße", "en", "de") == "GRÜSSE"
    assert client.languages() == [{"code": "en", "name": "English", "targets": ["de"]}]


def test_what_is_asked_beside_a_translation(running: Running) -> None:
    assert running.json(q="a\nb", passes=3, terms=["x"]) == (200, {"translatedText": "A +x x3\nB +x x3"})
    assert running.json(q="a", terms="never") == (400, {"error": "terms: this model has no use for them"})


def test_what_else_is_told(running: Running) -> None:
    assert running.ask("/health", method="GET")[:2] == (200, {"status": "ok"})
    status, settings, _ = running.ask("/frontend/settings", method="GET")
    assert (status, settings["charLimit"], settings["language"]["target"]["name"]) == (200, 300, "German")
    running.json(q="a\nb")
    _, metrics, _ = running.ask("/metrics", method="GET")
    assert 'nat_requests_total{path="/translate",status="200"} 1.0' in metrics
    assert 'nat_lines_total{model="en-de"} 2.0' in metrics
    assert 'nat_batch_lines_count{model="en-de"}' in metrics


@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        ({}, 400, "q is missing"),
        ({"q": 5}, 400, "q must be a text, or a list of texts"),
        ({"q": ["a", None]}, 400, "q must be a text, or a list of texts"),
        ({"q": ["a"] * 6}, 413, "q has 6 texts, at most 5 are taken"),
        ({"q": "a" * 301}, 413, "q has 301 characters, at most 300 are taken"),
        ({"q": "a" * 201}, 400, "201 tokens, but this model takes at most 200"),
        ({"q": "a", "target": "../../etc/passwd"}, 400, "en to ../../etc/passwd is not translated here, only en-de"),
        ({"q": "a", "source": "xx"}, 400, "xx to de is not translated here, only en-de"),
        ({"q": "a", "source": ["en"]}, 400, "source must be the code of a language"),
        ({"q": "a", "format": "html"}, 400, "format: only text is translated"),
        ({"q": "a", "passes": 0}, 400, "passes must be a whole number of at least 1"),
        ({"q": "a", "passes": True}, 400, "passes must be a whole number of at least 1"),
        ({"q": "a", "terms": [""]}, 400, "terms must be a list of words or phrases"),
    ],
)
def test_what_cannot_be_answered_is_told_in_a_sentence(
    running: Running, fields: dict[str, Any], status: int, reason: str
) -> None:
    assert running.json(**fields) == (status, {"error": reason})
    assert running.json(q="one") == (200, {"translatedText": "ONE"})


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"{", 400, "the request is no JSON"),
        (b"[" * 4000, 400, "the request is no JSON"),
        (b"[1]", 400, "the request must be a JSON object"),
        (b'"\xff"', 400, "the request is not UTF-8 (byte 1)"),
        (b"", 400, "the request is no JSON"),
        (b"x" * 5001, 413, "the request has 5001 bytes, at most 5000 are taken"),
    ],
)
def test_bodies_that_are_no_request(running: Running, body: bytes, status: int, reason: str) -> None:
    found, answer, _ = running.ask("/translate", body, content_type="application/json")
    assert found == status
    assert answer["error"].startswith(reason)


def test_a_body_without_its_length_is_cut_where_it_is_too_long(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
        connection.sendall(b"POST /translate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"1000\r\n" + b"x" * 0x1000 + b"\r\n1000\r\n" + b"x" * 0x1000 + b"\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_slow_senders_are_not_waited_for(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
        connection.sendall(b"POST /translate HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        answer = connection.recv(1000)
    assert answer.startswith(b"HTTP/1.1 408")


def test_unknown_paths_and_methods(running: Running) -> None:
    assert running.ask("/../etc/passwd", method="GET")[:2] == (404, {"error": "GET /../etc/passwd: no such path here"})
    assert running.ask("/translate", method="GET")[:2] == (405, {"error": "GET /translate: no such method here"})


def test_a_request_keeps_its_id(running: Running) -> None:
    assert running.ask("/health", method="GET", X_Request_Id="seven")[2]["x-request-id"] == "seven"
    assert len(running.ask("/health", method="GET")[2]["x-request-id"]) == 32


def test_a_fault_of_the_model_is_told_and_leaves_the_server_working(running: Running) -> None:
    status, answer = running.json(q="fail")
    assert status == 500
    assert answer["error"].startswith("this server failed; its log tells why (request ")
    assert running.json(q="one") == (200, {"translatedText": "ONE"})


def at_once(running: Running, texts: Sequence[str]) -> tuple[list[threading.Thread], dict[str, tuple[int, Any]]]:
    answers: dict[str, tuple[int, Any]] = {}

    def ask(text: str) -> None:
        answers[text] = running.json(q=text)

    threads = [threading.Thread(target=ask, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    return threads, answers


def wait_for(running: Running, waiting: int) -> None:
    end = time.monotonic() + 10
    while f'nat_waiting_lines{{model="en-de"}} {waiting}.0' not in running.ask("/metrics", method="GET")[1]:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_waits_is_translated_together_and_no_more_waits_than_is_allowed(running: Running) -> None:
    running.model.gate.clear()
    first, _ = at_once(running, ["busy"])
    wait_for(running, 0)
    time.sleep(0.05)  # the model has the first line
    threads, answers = at_once(running, [f"text {number}" for number in range(40)])
    wait_for(running, 40)
    assert running.json(q="one more") == (503, {"error": "40 lines wait already; try again later"})
    running.model.gate.set()
    for thread in (*first, *threads):
        thread.join(20)
    assert answers == {text: (200, {"translatedText": text.upper()}) for text in answers}
    assert len(answers) == 40
    assert running.model.sizes == [1, 40]


def test_what_was_accepted_is_answered_before_the_end() -> None:
    running = Running()
    running.model.gate.clear()
    threads, answers = at_once(running, ["one", "two"])
    wait_for(running, 0)
    running.server.should_exit = True
    time.sleep(0.3)
    assert running.thread.is_alive()
    running.model.gate.set()
    for thread in threads:
        thread.join(20)
    running.stop()
    assert answers == {"one": (200, {"translatedText": "ONE"}), "two": (200, {"translatedText": "TWO"})}
    with pytest.raises(ConnectionRefusedError):
        running.json(q="three")
