"""An exported page in a headless Chromium, with the real runtime: what nat-decode writes, byte by byte, and no request
to anyone but the server of the folder."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browser import Page, chromium
from builders import make_run
from translating import type_lines

from nat.cli.decode import main as nat_decode
from nat.cli.export import main as nat_export
from nat.composition import compose
from nat.data.corpus import embedded_directory
from nat.data.lines import read_lines
from nat.data.tokenizer import TokenizerConfig, Tokenizers
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
def export() -> Callable[[str | Path, Path], Path]:
    """A run as a page, in int8. NAT_WEB_RUNTIME: onnxruntime-web for machines without a network."""
    pytest.importorskip("onnxruntime")
    runtime = os.environ.get("NAT_WEB_RUNTIME")
    try:
        find_runtime(runtime)
    except UserError as error:
        pytest.skip(str(error))
    more = [] if runtime is None else [f"web.runtime={runtime}"]

    def exported(run: str | Path, output: Path) -> Path:
        assert call(nat_export, f"run_dir={run}", f"output={output}", "format=web", "max_sentences=0", *more) == 0
        return output

    return exported


@pytest.fixture(scope="module")
def folder(export: Callable[[str | Path, Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The student that comes with nat."""
    return export("embedded:en-de", tmp_path_factory.mktemp("export") / "page")


@contextmanager
def opened(folder: Path, profile: Path) -> Iterator[Page]:
    """Its page, which asks nobody but the server of the folder, and complains of nothing."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with chromium(profile) as page:
            page.open(f"http://127.0.0.1:{server.server_port}/")
            yield page
            assert {urlsplit(address).netloc for address in page.requests} == {f"127.0.0.1:{server.server_port}"}
            assert page.errors == []
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def page(folder: Path, tmp_path: Path) -> Iterator[Page]:
    with opened(folder, tmp_path / "profile") as page:
        yield page


def decoded(folder: Path, output: Path, *words: str) -> bytes:
    assert call(nat_decode, f"run_dir={folder}", f"output={output}", "speed=false", *words) == 0
    return output.read_bytes()


def test_every_test_sentence_is_translated_as_nat_decode_does(folder: Path, page: Page, tmp_path: Path) -> None:
    sources = [line.split("\t")[0] for line in read_lines(embedded_directory() / "lohelp" / "test.tsv.gz")]
    written = "".join(f"{line}\n" for line in type_lines(page, sources))
    assert len(sources) == 1088
    assert written.encode() == decoded(folder, tmp_path / "lines")


@pytest.mark.parametrize("name", ["vanilla", "fertility", "dag"])
def test_other_methods_are_computed_too(name: str, export: Callable[[str | Path, Path], Path], tmp_path: Path) -> None:
    """With random weights: what they write is nonsense, but of many kinds."""
    pairs = [line.split("\t") for line in read_lines(embedded_directory() / "lohelp" / "valid.tsv.gz")][:200]
    sources, targets = map(list, zip(*pairs, strict=True))
    (tmp_path / "text.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in pairs), encoding="utf-8")
    (tmp_path / "source").write_text("".join(f"{source}\n" for source in sources), encoding="utf-8")
    splits = [f"data.{split}={tmp_path}/text.tsv" for split in ("train", "valid", "test")]
    tokenizers = Tokenizers.train(TokenizerConfig(vocabulary_size=300), sources, targets)
    run = make_run(tmp_path / name, name, compose("train", ["run_dir=unused", *splits])["data"], tokenizers)
    folder = export(run, tmp_path / "page")
    with opened(folder, tmp_path / "profile") as page:
        lines = type_lines(page, sources)
    assert len(set(lines)) > 60
    assert "".join(f"{line}\n" for line in lines).encode() == decoded(
        folder, tmp_path / "lines", f"source={tmp_path / 'source'}"
    )


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
