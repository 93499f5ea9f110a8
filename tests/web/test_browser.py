"""An exported page in a headless Chromium, with the real runtime: what nat-decode writes, byte by byte, and no request
to anyone but the server of the folder."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browser import Page, chromium
from translating import type_lines

from nat.cli.decode import main as nat_decode
from nat.cli.export import main as nat_export
from nat.data.corpus import embedded_directory
from nat.data.lines import read_lines
from nat.errors import UserError
from nat.web.runtime import find_runtime

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *values: object) -> None:
        pass


def call(main: Callable[[list[str]], None], *words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The student that comes with nat, in int8. NAT_WEB_RUNTIME: onnxruntime-web for machines without a network."""
    pytest.importorskip("onnxruntime")
    runtime = os.environ.get("NAT_WEB_RUNTIME")
    try:
        find_runtime(runtime)
    except UserError as error:
        pytest.skip(str(error))
    output = tmp_path_factory.mktemp("export") / "page"
    more = [] if runtime is None else [f"web.runtime={runtime}"]
    assert call(nat_export, "run_dir=embedded:en-de", f"output={output}", "format=web", "max_sentences=0", *more) == 0
    return output


@pytest.fixture
def page(folder: Path, tmp_path: Path) -> Iterator[Page]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with chromium(tmp_path / "profile") as page:
            page.open(f"http://127.0.0.1:{server.server_port}/")
            yield page
            assert {urlsplit(address).netloc for address in page.requests} == {f"127.0.0.1:{server.server_port}"}
            assert page.errors == []
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_every_test_sentence_is_translated_as_nat_decode_does(folder: Path, page: Page, tmp_path: Path) -> None:
    sources = [line.split("\t")[0] for line in read_lines(embedded_directory() / "lohelp" / "test.tsv.gz")]
    output = tmp_path / "lines"
    assert call(nat_decode, f"run_dir={folder}", f"output={output}", "speed=false") == 0
    written = "".join(f"{line}\n" for line in type_lines(page, sources))
    assert len(sources) == 1088
    assert written.encode() == output.read_bytes()


def test_tokens_slots_and_limits_are_shown(page: Page) -> None:
    lines = ["Save your spreadsheet.", "", "x " * 600]
    first, empty, long = type_lines(page, lines)
    assert empty == "" and long == "600 tokens, but this model takes at most 512 in a sentence."
    assert first.startswith("Speichern Sie")
    assert page.run("document.querySelectorAll('#slots .slot').length") == 0  # the cursor is in the last line
    page.run("document.querySelector('#translation .token').focus()")
    assert page.run("document.getElementById('token').textContent").startswith("“Speichern”: ")
    page.press("ArrowRight")
    assert page.run("document.activeElement.textContent") == "Sie"
    assert page.run("document.querySelectorAll('.slot.pointed').length") >= 1
    slots = page.run("[...document.querySelectorAll('#slots .slot')].map((slot) => slot.className)")
    assert len(slots) % 2 == 0 and any("blank" in kind for kind in slots)
    assert "ms each" in page.run("document.getElementById('time').textContent")


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(width: int, page: Page) -> None:
    page.size(width, 800)
    type_lines(page, ["Save your spreadsheet. " * 20, "w" * 300])
    assert page.run("document.documentElement.scrollWidth") <= width


def test_half_of_an_emoji_and_odd_lines_do_no_harm(page: Page) -> None:
    assert len(type_lines(page, ["\ud83d", "😀 a\u0301 b", "\0", "<b>x</b>", "\u3000", "a" * 200])) == 6
